//! A hook of an update, in a thread of its own.

use core::ffi::c_int;
use core::ptr::NonNull;
use core::time::Duration;

use super::errno::Errno;

/// A hook that has begun. Dropping it waits until it has returned.
pub struct Hook(NonNull<RawHook>);

// SAFETY: nothing of it is bound to the task that began it.
unsafe impl Send for Hook {}

impl Hook {
    /// Begins the hook at `function`.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`], and whatever else a new thread fails with.
    ///
    /// # Safety
    /// `function` is the address of an `int (*)(void)` that may be called, and that stays until this is dropped.
    pub unsafe fn begin(function: u64) -> Result<Self, Errno> {
        let mut hook = core::ptr::null_mut();
        // SAFETY: the function is fit by the caller's promise.
        Errno::check(unsafe { dynamos_shim_hook_begin(function, &raw mut hook) })?;
        NonNull::new(hook).map(Self).ok_or(Errno::ENOMEM)
    }

    /// Waits so long until it has returned. Only `patient` a wait goes on when whoever waits is being killed.
    ///
    /// # Errors
    /// [`Errno::EINTR`] if that is so.
    pub fn wait(&self, time: Duration, patient: bool) -> Result<bool, Errno> {
        let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        // SAFETY: made by `begin`, not ended.
        let result = unsafe { dynamos_shim_hook_wait(self.0.as_ptr(), milliseconds, patient) };
        Errno::check(result).map(|returned| returned != 0)
    }

    /// What it returned, when its thread has gone.
    #[must_use]
    pub fn end(self) -> i32 {
        let hook = self.0;
        core::mem::forget(self);
        // SAFETY: made by `begin`, ended once.
        unsafe { dynamos_shim_hook_end(hook.as_ptr()) }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // SAFETY: as above. The answer is nobody's any more.
        let _ = unsafe { dynamos_shim_hook_end(self.0.as_ptr()) };
    }
}

/// The shim's `struct dynamos_hook`, only ever handled by pointer.
#[repr(C)]
struct RawHook {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn dynamos_shim_hook_begin(function: u64, hook: *mut *mut RawHook) -> c_int;
    fn dynamos_shim_hook_wait(hook: *mut RawHook, milliseconds: u32, patient: bool) -> c_int;
    fn dynamos_shim_hook_end(hook: *mut RawHook) -> c_int;
}
