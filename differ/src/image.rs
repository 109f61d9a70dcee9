//! Linked images (`vmlinux`): no relocations are left, so code is compared by what its operands point at.

mod functions;
mod load;
mod names;

pub use functions::{FunctionVerdict, functions};
pub use load::{Image, Placed, Symbol, is_linked};

use crate::error::Result;
use crate::layout::{self, LayoutChange};
use crate::lines::Debug;

/// Compares the types of two images. Second: why they are not known, if they are not.
pub fn layouts(v1: &Image<'_>, v2: &Image<'_>) -> Result<(Vec<LayoutChange>, Option<String>)> {
    for (image, side) in [(v1, "v1"), (v2, "v2")] {
        if image.section(".debug_info").is_none() {
            return Ok((Vec::new(), Some(format!("{side} has no DWARF (.debug_info)"))));
        }
    }
    let old = Debug::of(v1.sections.iter().map(|s| &s.section));
    let new = Debug::of(v2.sections.iter().map(|s| &s.section));
    Ok((layout::compare_debug((&v1.name, &old), (&v2.name, &new))?, None))
}
