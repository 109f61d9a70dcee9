//! What kernel this is, and what its administrator asked of the module.

use core::ffi::{CStr, c_char};

/// The kernel's release, as `uname -r` says it in the first namespace.
#[must_use]
pub fn release() -> &'static CStr {
    // SAFETY: a C string of the kernel that never changes.
    unsafe { CStr::from_ptr(dynamos_shim_release()) }
}

/// The module's parameter `wait_ms`: how long a switch may wait for tasks to leave the code.
#[must_use]
pub fn wait_ms() -> u32 {
    // SAFETY: reads a variable.
    unsafe { dynamos_shim_wait_ms() }
}

unsafe extern "C" {
    fn dynamos_shim_release() -> *const c_char;
    fn dynamos_shim_wait_ms() -> u32;
}
