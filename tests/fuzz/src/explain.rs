//! What `--explain` shows.

use dynamos_differ::layout::LayoutChange;
use dynamos_differ::show::{self, Sources};
use dynamos_differ::verdict::Verdict;
use dynamos_differ::{Comparison, Object};

/// A person asks for one thing at a time.
const MOST: usize = 8;

/// Functions and types that differ, side by side.
pub(crate) fn differences(v1: &Object<'_>, v2: &Object<'_>, comparison: &Comparison) {
    let (of_v1, of_v2) = (Sources::load(&v1.elf).ok(), Sources::load(&v2.elf).ok());
    let sides = ((v1, of_v1.as_ref()), (v2, of_v2.as_ref()));
    let changed = comparison.functions.iter().filter(|f| f.verdict != Verdict::Unchanged);
    for verdict in changed.take(MOST).chain(comparison.functions.first()) {
        let _ = show::function(sides.0, sides.1, comparison, verdict);
    }
    for LayoutChange { name, .. } in comparison.layouts.iter().take(2) {
        types(v1, v2, name);
    }
}

/// The types of that name.
pub(crate) fn types(v1: &Object<'_>, v2: &Object<'_>, name: &str) {
    let _ = show::types(v1, v2, name);
}
