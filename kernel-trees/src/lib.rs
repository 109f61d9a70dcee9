//! Kernels for DynAMOS: fetched from Debian's archive, unpacked, prepared for building
//! single objects, and cached; and what Kbuild knows about a prepared tree.
//!
//! ```no_run
//! use kernel_trees::{Cache, Manifest, SourceId};
//! let manifest = Manifest::builtin()?;
//! let kernel = manifest.find("6.1.192-1")?;
//! let cache = Cache::open(None)?;
//! let image = cache.image(kernel)?;
//! let prepared = cache.prepared(&SourceId::Deb(kernel), &image.config, &image.release)?;
//! # Ok::<(), kernel_trees::Error>(())
//! ```

mod built;
mod cache;
mod error;
mod fetch;
mod index;
mod kbuild;
mod manifest;
mod prepare;
mod progress;
mod run;
mod tree;
mod unpack;
mod view;
mod words;

pub use built::BuiltKernel;
pub use cache::Cache;
pub use error::{Error, Result};
pub use index::{Difference, IndexEntry, SourceIndex};
pub use kbuild::{CompileCommand, Kbuild, Link, ObjectOwner, Owner};
pub use manifest::{Kernel, Manifest, Package, Part};
pub use prepare::{Prepared, SourceId};
pub use progress::{Progress, Quiet, Stderr};
pub use tree::{check_kernel_tree, hash_source};
pub use unpack::Image;
pub use view::View;
pub use words::files_with_word;
