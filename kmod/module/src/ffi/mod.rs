//! The boundary to the kernel: all unsafe code is below here, with safe functions around it.
//!
//! The C side is `shim.c`; `shim.h` has the same declarations as the `extern` blocks of these files.
//! Unless a function says otherwise it may sleep and must not be called with CPUs stopped.

pub mod counters;
mod entry;
pub mod errno;
pub mod hook;
pub mod kernel;
pub mod kernel_memory;
pub mod late_sections;
pub mod lock;
pub mod log;
pub mod memory;
pub mod modules;
mod panic;
pub mod policy;
pub mod redirect;
pub mod stacks;
pub mod symbols;
pub mod sysfs;
pub mod tasks;
pub mod text;
pub mod update;
pub mod wait;
pub mod words;
