//! Functions with several names: pairs that the first of their names does not tell.

use std::collections::BTreeMap;

use object::elf;

use super::{Correlation, Side};
use crate::load::SymbolId;
use crate::model::FunctionId;
use crate::names::base;

/// Name and source of a symbol.
type Key<'o> = (&'o str, u64);

/// A function under one of its names.
struct Named {
    function: FunctionId,
    /// Others than this object's code may know it by that name: a local label at the start of assembly is no such name.
    counts: bool,
}

impl Correlation {
    /// Pairs what is in no pair and has a name in common.
    pub(super) fn functions_by_alias(&mut self, named: &[Common<'_>]) {
        for (_, x, y) in named {
            self.pair_functions(*x, *y);
        }
    }

    /// Notes what has a name in common and is in no pair with each other, but perhaps with others: names of one
    /// function that are those of several on the other side.
    pub(super) fn note_aliases(&mut self, named: &[Common<'_>]) {
        for (name, x, y) in named {
            if self.functions.get(x) != Some(y) {
                self.aliases.entry((*x, *y)).or_insert_with(|| (*name).to_owned());
            }
        }
    }
}

/// A name that one function of each side has.
pub(super) type Common<'o> = (&'o str, FunctionId, FunctionId);

/// All names that one function of each side has.
pub(super) fn in_common<'o>(a: &'o Side<'_, '_>, b: &'o Side<'_, '_>) -> Vec<Common<'o>> {
    let (of_a, mut of_b) = (names(a), names(b));
    let common = of_a.into_iter().filter_map(|(key, x)| {
        let (x, y) = (x?, of_b.remove(&key)??);
        (x.counts || y.counts).then_some((key.0, x.function, y.function))
    });
    common.collect()
}

/// All functions by each of their names; nothing where several have it. What the compiler calls its clones says
/// nothing.
fn names<'o>(side: &'o Side<'_, '_>) -> BTreeMap<Key<'o>, Option<Named>> {
    let mut found: BTreeMap<Key<'o>, Option<Named>> = BTreeMap::new();
    for (id, f) in side.object.model.functions() {
        let all = std::iter::once(f.symbol).chain(f.aliases.iter().copied());
        for symbol in all {
            let Ok(entry) = side.object.elf.symbol(symbol) else { continue };
            if !base(entry.name).clone.is_empty() {
                continue;
            }
            let counts =
                symbol == f.symbol || entry.kind != elf::STT_NOTYPE || is_seen(side, symbol);
            let named = Named { function: id, counts };
            found
                .entry((entry.name, side.home(symbol)))
                .and_modify(|known| {
                    if known.as_ref().is_some_and(|known| known.function != id) {
                        *known = None;
                    }
                })
                .or_insert(Some(named));
        }
    }
    found
}

fn is_seen(side: &Side<'_, '_>, symbol: SymbolId) -> bool {
    side.object.elf.symbol(symbol).is_ok_and(|symbol| symbol.is_global())
}
