//! Redirection of a function by an ftrace direct call.

use core::ffi::{c_int, c_ulong};
use core::ptr::NonNull;

use super::errno::Errno;
use super::log;

/// The `__fentry__` site of the function at `address`, or `None` if it has none.
#[must_use]
pub fn site_of(address: u64) -> Option<u64> {
    // SAFETY: any address may be asked for.
    match unsafe { dynamos_shim_ftrace_location(address) } {
        0 => None,
        site => Some(site),
    }
}

/// A function whose calls go to a handler, until [`Redirection::remove`] or drop.
///
/// Not for use from several threads at once: the caller holds its lock.
#[must_use]
pub struct Redirection {
    /// `None` once it has been removed.
    ops: Option<NonNull<FtraceOps>>,
    handler: u64,
}

// SAFETY: the kernel's ftrace_ops is not bound to a task.
unsafe impl Send for Redirection {}

impl Redirection {
    /// Sends the calls of `function` to `handler`, a redirection handler.
    ///
    /// # Errors
    /// [`Errno::EINVAL`]: no `__fentry__` site. [`Errno::EBUSY`]: someone else, such as livepatch or a
    /// kprobe that changes the instruction pointer, has redirected it already. [`Errno::ENODEV`]:
    /// ftrace is switched off by `kernel.ftrace_enabled`. [`Errno::EAGAIN`]: it was, just then, and calls may have gone
    /// to the handler before.
    ///
    /// # Safety
    /// `handler` is code made for this function: it is entered with the return address of the site
    /// on the stack, above that of the function's caller. It stays until after `remove`.
    pub unsafe fn install(function: u64, handler: u64) -> Result<Self, Errno> {
        // SAFETY: allocates, no more.
        let ops = NonNull::new(unsafe { dynamos_shim_redirect_new() }).ok_or(Errno::ENOMEM)?;
        // SAFETY: the ops are fresh, and the handler is fit by the caller's promise.
        let result = unsafe { dynamos_shim_redirect_register(ops.as_ptr(), function, handler) };
        if let Err(error) = Errno::check(result) {
            // SAFETY: not registered.
            unsafe { dynamos_shim_redirect_free(ops.as_ptr()) };
            return Err(error);
        }
        let redirection = Self { ops: Some(ops), handler };
        // Checked after registration, which pins it: before, it could change in between.
        // SAFETY: reads a variable.
        if unsafe { dynamos_shim_ftrace_enabled() } != 0 {
            return Ok(redirection);
        }
        match redirection.remove() {
            Ok(()) => Err(Errno::EAGAIN),
            // The kernel has given ftrace up, and calls go there for good.
            Err((redirection, _)) => Ok(redirection),
        }
    }

    /// Sends the calls to another handler. For a moment calls may go through the tracer's slow path,
    /// but each goes to one of the two handlers. A task may still be in the old one afterwards.
    ///
    /// # Errors
    /// The kernel's; the old handler is still in place.
    ///
    /// # Safety
    /// As for [`Redirection::install`].
    pub unsafe fn replace(&mut self, handler: u64) -> Result<(), Errno> {
        let ops = self.ops.ok_or(Errno::EINVAL)?;
        // SAFETY: registered, and the handler is fit by the caller's promise.
        Errno::check(unsafe { dynamos_shim_redirect_modify(ops.as_ptr(), handler) })?;
        self.handler = handler;
        Ok(())
    }

    /// Where the calls go.
    #[must_use]
    pub fn handler(&self) -> u64 {
        self.handler
    }

    /// Sends the calls to the function itself again. A task may still be in the handler afterwards.
    ///
    /// # Errors
    /// The kernel's, with the redirection: it is still in place, so the handler must stay, and this may be
    /// tried again.
    pub fn remove(mut self) -> Result<(), (Self, Errno)> {
        match self.take_back() {
            Ok(()) => Ok(()),
            Err(error) => Err((self, error)),
        }
    }

    fn take_back(&mut self) -> Result<(), Errno> {
        let Some(ops) = self.ops else { return Ok(()) };
        // SAFETY: registered with this handler.
        let result = unsafe { dynamos_shim_redirect_unregister(ops.as_ptr(), self.handler) };
        Errno::check(result)?;
        self.ops = None;
        // SAFETY: unregistered, and the kernel has waited for its own last use.
        unsafe { dynamos_shim_redirect_free(ops.as_ptr()) };
        Ok(())
    }
}

impl Drop for Redirection {
    fn drop(&mut self) {
        // Leaked then, for it is still in place. Who needs to know calls `remove`.
        if let Err(error) = self.take_back() {
            log::error(format_args!("a redirection could not be removed: {error}"));
        }
    }
}

/// The kernel's `struct ftrace_ops`, only ever handled by pointer.
#[repr(C)]
struct FtraceOps {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn dynamos_shim_ftrace_location(function: c_ulong) -> c_ulong;
    fn dynamos_shim_ftrace_enabled() -> c_int;
    fn dynamos_shim_redirect_new() -> *mut FtraceOps;
    fn dynamos_shim_redirect_free(ops: *mut FtraceOps);
    fn dynamos_shim_redirect_register(
        ops: *mut FtraceOps,
        function: c_ulong,
        handler: c_ulong,
    ) -> c_int;
    fn dynamos_shim_redirect_modify(ops: *mut FtraceOps, handler: c_ulong) -> c_int;
    fn dynamos_shim_redirect_unregister(ops: *mut FtraceOps, handler: c_ulong) -> c_int;
}
