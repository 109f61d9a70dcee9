//! Names of one function that are several functions in the other version.
//!
//! The running kernel enters all names of a function at one place, and an edition stands for one original. So where
//! such functions are not all alike, none of them can be redirected for itself.

use std::collections::BTreeMap;

use super::{FunctionVerdict, Verdict, pair_verdict};
use crate::compare::Comparer;
use crate::correlate::Correlation;
use crate::load::SymbolId;
use crate::model::FunctionId;
use crate::object_file::Object;

/// The verdict on a function of one version that is in no pair of its own, but bears a name of one of the other.
pub(super) fn verdict(
    comparer: &Comparer<'_, '_>,
    x: Option<FunctionId>,
    y: Option<FunctionId>,
) -> Option<FunctionVerdict> {
    let is_it = |pair: &(FunctionId, FunctionId)| x == Some(pair.0) || y == Some(pair.1);
    let ((x, y), name) = comparer.correlation.aliases.iter().find(|(pair, _)| is_it(pair))?;
    let mut verdict = pair_verdict(comparer, *x, *y);
    verdict.name.clone_from(name);
    verdict.old_name = None;
    Some(verdict)
}

/// Whether two functions have a name in common.
pub(super) fn share_a_name(a: &Object<'_>, x: FunctionId, b: &Object<'_>, y: FunctionId) -> bool {
    let of_b = names(b, y);
    names(a, x).iter().any(|name| of_b.contains(name))
}

/// Refuses those that are not alike. Comes last, when it is known what else is replaced.
pub(super) fn refuse(comparer: &Comparer<'_, '_>, verdicts: &mut [FunctionVerdict]) {
    for (x, y) in comparer.correlation.aliases.keys() {
        let one_of = |v: &FunctionVerdict| v.v1 == Some(*x) || v.v2 == Some(*y);
        let alike =
            |v: &FunctionVerdict| matches!(v.verdict, Verdict::Unchanged | Verdict::Renamed);
        let all_alike =
            verdicts.iter().filter(|v| one_of(v)).all(alike) && comparer.functions(*x, *y).is_ok();
        if all_alike {
            continue;
        }
        let why = why(comparer, *x, *y);
        for verdict in verdicts.iter_mut().filter(|v| one_of(v)) {
            if verdict.reason.starts_with(&why) {
                continue;
            }
            verdict.reason = match verdict.reason.as_str() {
                "" => why.clone(),
                own => format!("{why}; {own}"),
            };
            verdict.verdict = Verdict::Refused;
            (verdict.along, verdict.inner) = (false, false);
        }
    }
}

fn why(comparer: &Comparer<'_, '_>, x: FunctionId, y: FunctionId) -> String {
    // It is in a pair with another.
    if comparer.correlation.functions.contains_key(&x) {
        let names = names(comparer.a, x).join(" and ");
        return format!(
            "{names} are one function in V1 and several in V2, not all alike: the running kernel enters all names at \
             one place, so none can be redirected alone; keep them aliases in V2 to lift this"
        );
    }
    let names = names(comparer.b, y).join(" and ");
    format!(
        "{names} are several functions in V1 and one in V2, not all alike: an edition stands for one of the running \
         kernel's functions; keep them apart in V2 to lift this"
    )
}

/// What the other names of V2's functions are in V1: there each is a symbol of its own.
pub(super) fn symbols(
    a: &Object<'_>,
    b: &Object<'_>,
    correlation: &Correlation,
) -> Vec<(SymbolId, SymbolId)> {
    let mut found = Vec::new();
    for (x, y) in
        correlation.functions.iter().chain(correlation.aliases.keys().map(|(x, y)| (x, y)))
    {
        let old: BTreeMap<&str, SymbolId> = symbols_of(a, *x).collect();
        for (name, symbol) in symbols_of(b, *y) {
            let first = b.function(*y).is_some_and(|f| f.symbol == symbol);
            let paired = first && correlation.functions.get(x) == Some(y);
            if !paired && let Some(of_v1) = old.get(name) {
                found.push((symbol, *of_v1));
            }
        }
    }
    found
}

/// All names of a function, in order.
fn names<'o>(object: &'o Object<'_>, id: FunctionId) -> Vec<&'o str> {
    let mut names: Vec<&str> = symbols_of(object, id).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn symbols_of<'o>(
    object: &'o Object<'_>,
    id: FunctionId,
) -> impl Iterator<Item = (&'o str, SymbolId)> {
    let all = object.function(id).into_iter();
    let all = all.flat_map(|f| std::iter::once(f.symbol).chain(f.aliases.iter().copied()));
    all.filter_map(|symbol| Some((object.elf.symbol(symbol).ok()?.name, symbol)))
}
