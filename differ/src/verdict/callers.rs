//! Changed functions whose calls cannot be redirected, because ftrace has no site in them: inline functions that the
//! compiler did not inline are such (`inline` includes `notrace`, include/linux/compiler_types.h). Where every caller is
//! known and can be replaced, a copy of the function goes along with theirs.

use std::collections::{BTreeMap, BTreeSet};

use super::{FunctionVerdict, Lifetime, NO_SITE, Verdict, not_copyable, not_redirectable};
use crate::compare::{Cause, Comparer};
use crate::model::FunctionId;
use crate::object_file::Object;

/// Lets the functions that `verdicts` refuse for want of an ftrace site go along with their callers, where they can.
pub(super) fn let_go_along(comparer: &Comparer<'_, '_>, verdicts: &mut [FunctionVerdict]) {
    let at: BTreeMap<FunctionId, usize> =
        verdicts.iter().enumerate().filter_map(|(index, v)| Some((v.v2?, index))).collect();
    let wanted: Vec<FunctionId> = verdicts
        .iter()
        .filter(|v| v.verdict == Verdict::Refused)
        .filter(|v| v.v1.is_some_and(|x| is_without_site(comparer.a, x)))
        .filter_map(|v| v.v2)
        .collect();
    for id in wanted {
        let mut found = Found::default();
        if !found.take(comparer, verdicts, &at, id) {
            continue;
        }
        let name = comparer.b.function(id).map_or(String::new(), |f| f.name.clone());
        let why = format!("calls {name}, which changed and has no ftrace site");
        let along = found.along.into_iter().map(|id| (id, true));
        for (id, along) in along.chain(found.callers.into_iter().map(|id| (id, false))) {
            let Some(verdict) = at.get(&id).and_then(|index| verdicts.get_mut(*index)) else {
                continue;
            };
            if matches!(verdict.verdict, Verdict::Unchanged | Verdict::Renamed) {
                verdict.reason.clone_from(&why);
                verdict.cause = Some(Cause::Callee);
            }
            verdict.verdict = Verdict::Changed;
            verdict.along |= along;
        }
    }
}

/// Marks the functions that are replaced and that nobody calls but functions that are replaced with them.
pub(super) fn find_inner(comparer: &Comparer<'_, '_>, verdicts: &mut [FunctionVerdict]) {
    let (a, b) = (comparer.a, comparer.b);
    let moves = |v: &&FunctionVerdict| matches!(v.verdict, Verdict::Changed | Verdict::New);
    let old: BTreeSet<FunctionId> = verdicts.iter().filter(moves).filter_map(|v| v.v1).collect();
    let new: BTreeSet<FunctionId> = verdicts.iter().filter(moves).filter_map(|v| v.v2).collect();
    for verdict in verdicts.iter_mut().filter(|v| v.verdict == Verdict::Changed && !v.along) {
        let (Some(x), Some(y)) = (verdict.v1, verdict.v2) else { continue };
        verdict.inner = is_called_only(a, x)
            && is_called_only(b, y)
            && callers(a, x).all(|caller| old.contains(&caller))
            && callers(b, y).all(|caller| new.contains(&caller))
            // Not of itself alone, or of nobody that is seen.
            && callers(a, x).any(|caller| caller != x);
    }
}

/// What must be replaced with a function, in V2.
#[derive(Default)]
struct Found {
    /// Functions that go along: it, and callers that have no site either.
    along: BTreeSet<FunctionId>,
    /// Callers that are redirected.
    callers: BTreeSet<FunctionId>,
}

impl Found {
    /// Takes in a function without a site and all who call it; false if one of them cannot be replaced.
    fn take(
        &mut self,
        comparer: &Comparer<'_, '_>,
        verdicts: &[FunctionVerdict],
        at: &BTreeMap<FunctionId, usize>,
        id: FunctionId,
    ) -> bool {
        if !self.along.insert(id) {
            return true;
        }
        let (a, b) = (comparer.a, comparer.b);
        let old = comparer.correlation.functions_back.get(&id).copied();
        let own = is_called_only(b, id)
            && old.is_none_or(|old| is_called_only(a, old))
            && not_copyable(b, id).is_none();
        // A caller that V1 alone has is gone or changed; what it becomes counts.
        let of_v1 = old.into_iter().flat_map(|old| callers(a, old));
        let of_v1 = of_v1.filter_map(|x| comparer.correlation.functions.get(&x).copied());
        let all: BTreeSet<FunctionId> = callers(b, id).chain(of_v1).collect();
        own && all.into_iter().all(|caller| {
            let Some(verdict) = at.get(&caller).and_then(|index| verdicts.get(*index)) else {
                return false;
            };
            match (verdict.lifetime, verdict.v1) {
                // It has run, or runs when the update is gone.
                (Lifetime::Start | Lifetime::End, _) => true,
                (Lifetime::Always, None) => verdict.verdict == Verdict::New,
                (Lifetime::Always, Some(x)) if is_without_site(a, x) => {
                    self.take(comparer, verdicts, at, caller)
                }
                (Lifetime::Always, Some(x)) => {
                    self.callers.insert(caller);
                    not_redirectable(a, x).is_none() && not_copyable(b, caller).is_none()
                }
            }
        })
    }
}

/// Whether a missing ftrace site is what keeps calls of a function of V1 from being redirected.
fn is_without_site(a: &Object<'_>, id: FunctionId) -> bool {
    not_redirectable(a, id).as_deref() == Some(NO_SITE)
}

/// Whether a function has no users but those of its object that call it.
fn is_called_only(object: &Object<'_>, id: FunctionId) -> bool {
    object.function(id).is_some_and(|function| {
        let global = |symbol| object.elf.symbol(symbol).is_ok_and(|symbol| symbol.is_global());
        !global(function.symbol) && function.aliases.is_empty()
    }) && !object.is_address_taken(id)
}

fn callers<'o>(object: &'o Object<'_>, id: FunctionId) -> impl Iterator<Item = FunctionId> + 'o {
    object.referrers().callers.get(&id).into_iter().flatten().copied()
}
