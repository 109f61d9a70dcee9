//! Phase 9, on demand: both sides of a function or a type, row by row, for a person to read.

mod entries;
mod function;
mod members;
mod source;
mod text;

pub use function::{Code, Part, function};
pub use members::{MemberLine, TypeView, types, types_of_images};
pub(crate) use source::relative;
pub use source::{Source, Sources};
pub(crate) use text::{format, quoted};

/// How the two sides of a row stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// They mean the same.
    Same,
    /// They differ.
    Differs,
    /// Only v1 has it.
    Removed,
    /// Only v2 has it.
    Added,
}

impl Mark {
    /// The character that diff(1) puts between two columns.
    pub fn symbol(self) -> char {
        match self {
            Mark::Same => ' ',
            Mark::Differs => '|',
            Mark::Removed => '<',
            Mark::Added => '>',
        }
    }
}

/// What v1 has and what v2 has in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<T> {
    /// How they differ.
    pub mark: Mark,
    /// Of v1.
    pub old: Option<T>,
    /// Of v2.
    pub new: Option<T>,
}

/// Pairs of indexes: what corresponds in two lists, and what is on one side only, in order.
pub(crate) fn align(old: &[String], new: &[String]) -> Vec<(Option<usize>, Option<usize>)> {
    let mut pairs = Vec::new();
    for op in similar::capture_diff_slices(similar::Algorithm::Myers, old, new) {
        let (x, y) = (op.old_range(), op.new_range());
        for i in 0..x.len().max(y.len()) {
            pairs.push((x.clone().nth(i), y.clone().nth(i)));
        }
    }
    pairs
}
