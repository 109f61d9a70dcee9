//! Boots a kernel in QEMU, runs a script in it, and says what happened.
//!
//! ```no_run
//! use dynamos_vm::{Image, Vm};
//!
//! # fn main() -> Result<(), dynamos_vm::Error> {
//! let image = Image::in_root("/path/to/unpacked/linux-image".as_ref(), "6.1.0-55-amd64");
//! let outcome = Vm::new(&image)
//!     .module("ext4")
//!     .disk(64 << 20)
//!     .script("mount -t ext4 /dev/vda /mnt; result release \"$(uname -r)\"")
//!     .run()?;
//! assert_eq!(outcome.results["release"], "6.1.0-55-amd64");
//! # Ok(())
//! # }
//! ```
//!
//! The guest is an initramfs made for the run: Debian's static busybox, the modules that were
//! asked for with their dependencies, the caller's files and the script. The script runs under
//! `sh -eu`; `result NAME VALUE` hands a value to the caller, on a serial port of its own, so
//! that it never mixes with kernel messages. Any kernel report (oops, `BUG`, `WARNING`, lockdep,
//! stall, hung task, KASAN) that the caller did not announce fails the run.

mod cpio;
mod error;
mod image;
mod initramfs;
mod interrupt;
mod modules;
mod qemu;
mod report;
mod results;
pub mod stress;
mod tools;
mod vm;

pub use error::Error;
pub use image::Image;
pub use interrupt::stop_all;
pub use report::Report;
pub use tools::{kernel_modules, static_binary, static_c};
pub use vm::{Outcome, Vm};
