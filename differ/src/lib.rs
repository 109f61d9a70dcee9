//! Relocatable objects in, facts out: which functions and data changed between two builds of
//! one source file, and why.
//!
//! One file per phase, each borrowing the results of the one before: [`load`] the ELF file,
//! [`model`] its functions and data, [`special`] sections, [`decode`] the code, [`lines`];
//! then, for a pair of objects, [`correlate`], [`compare`] and [`verdict`], and [`layout`] for
//! types.

pub mod compare;
mod compressed;
pub mod correlate;
pub mod decode;
mod error;
mod files;
pub mod image;
mod inlined;
pub mod layout;
pub mod lines;
pub mod load;
pub mod map;
pub mod model;
mod names;
mod object_file;
pub mod parameters;
mod queues;
pub mod show;
pub mod special;
pub mod units;
pub mod verdict;

pub use error::{Error, Result};
pub use object_file::{Object, Referrers};
pub use verdict::{Comparison, Pair};
