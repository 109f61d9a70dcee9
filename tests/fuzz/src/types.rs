//! The reader of types that every comparison uses goes by hashes of the bytes, and an exact one reads only what differs. If
//! both can read two objects, both must say the same.

use dynamos_differ::Object;
use dynamos_differ::layout::{self, LayoutChange};
use dynamos_differ::lines::Debug;

/// Panics if they do not.
pub(crate) fn readers_agree(v1: &Object<'_>, v2: &Object<'_>) {
    let (Ok(old), Ok(new)) = (Debug::load(&v1.elf), Debug::load(&v2.elf)) else { return };
    let fast = layout::compare_debug(("v1", &old), ("v2", &new));
    let (old, new) = (layout::types(&v1.elf), layout::types(&v2.elf));
    if let (Ok(fast), Ok(old), Ok(new)) = (fast, old, new) {
        let fast: Vec<_> = fast.into_iter().map(LayoutChange::by_itself).collect();
        assert_eq!(fast, layout::compare_types(&old, &new));
    }
}
