//! The kernel log.

use core::ffi::{c_char, c_int};
use core::fmt;

use super::text::FixedText;

/// The longest line; the kernel's own limit is about a thousand bytes.
const LINE: usize = 480;

/// Logs an informative line: `info(format_args!("…"))`.
pub fn info(arguments: fmt::Arguments<'_>) {
    write(0, arguments);
}

/// Logs an error.
pub fn error(arguments: fmt::Arguments<'_>) {
    write(1, arguments);
}

fn write(error: c_int, arguments: fmt::Arguments<'_>) {
    let mut line = FixedText::<LINE>::new(arguments);
    if line.is_cut() {
        line.mark_cut();
    }
    let bytes = line.as_bytes();
    // SAFETY: the pointer and length are those of one slice.
    unsafe { dynamos_shim_log(error, bytes.as_ptr().cast(), bytes.len()) }
}

unsafe extern "C" {
    fn dynamos_shim_log(error: c_int, text: *const c_char, length: usize);
}
