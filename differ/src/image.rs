//! Linked images (`vmlinux`): no relocations are left, so code is compared by what its operands point at.

mod begins;
mod code;
mod content;
mod data;
mod functions;
mod load;
mod names;
mod pairing;
mod per_cpu;
mod show;
mod special;

pub use data::ImageData;
pub use functions::FunctionVerdict;
pub use load::{Image, Placed, Symbol, is_linked};
pub use show::{FunctionView, show};

use crate::error::Result;
use crate::layout::{self, LayoutChange, Place};
use crate::units::Units;
use names::{Names, number_files};
use pairing::Known;

/// What is in two images, and differs or not.
#[derive(Debug)]
pub struct Contents {
    /// All functions.
    pub functions: Vec<FunctionVerdict>,
    /// The variables and constants that differ.
    pub data: Vec<ImageData>,
}

/// Compares the code and data of two images.
pub fn contents(v1: &Image<'_>, v2: &Image<'_>) -> Result<Contents> {
    named(v1, v2, |a, b| {
        let paired = functions::paired(a, b);
        let known = Known::of(a, b, &paired.pairs);
        let (functions, data) = rayon::join(
            || functions::functions(a, b, paired, known.clone()),
            || data::data(a, b, &known),
        );
        let functions = functions?.0.into_iter().map(|row| row.verdict).collect();
        Ok(Contents { functions, data })
    })
}

/// Names what is in both images, for something to be done with it.
fn named<T>(
    v1: &Image<'_>,
    v2: &Image<'_>,
    then: impl FnOnce(&Names<'_, '_>, &Names<'_, '_>) -> Result<T>,
) -> Result<T> {
    let (units_a, units_b) = rayon::join(|| Units::of_image(v1), || Units::of_image(v2));
    let (units_a, units_b) = (units_a?, units_b?);
    let (files_a, files_b) = number_files(v1, v2);
    let (a, b) = rayon::join(
        || Names::build(v1, &files_a, &units_a),
        || Names::build(v2, &files_b, &units_b),
    );
    then(&a?, &b?)
}

/// Compares the types of two images. Second: why they are not known, if they are not.
pub fn layouts(v1: &Image<'_>, v2: &Image<'_>) -> Result<(Vec<LayoutChange>, Option<String>)> {
    for (image, side) in [(v1, "v1"), (v2, "v2")] {
        if image.section(".debug_info").is_none() {
            return Ok((Vec::new(), Some(format!("{side} has no DWARF (.debug_info)"))));
        }
    }
    let of_cpu = |placed: &&Placed<'_>| placed.section.name.contains("percpu");
    let of_cpu: Vec<_> = v1.sections.iter().filter(of_cpu).collect();
    let place = |address: u64| {
        let is_in = |placed: &&&Placed<'_>| {
            address.checked_sub(placed.address).is_some_and(|at| at < placed.section.size)
        };
        if of_cpu.iter().any(|placed| is_in(&placed)) { Place::PerCpu } else { Place::Static }
    };
    let (old, new) = ((v1.name.as_str(), &v1.debug()), (v2.name.as_str(), &v2.debug()));
    let types = layout::compare_images(old, new, &place)?;
    Ok((types, None))
}
