//! The module's one lock.

use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::ops::{Deref, DerefMut};

use super::errno::Errno;

/// A value that is reached with the module's mutex held.
///
/// There is one mutex, for there is one state. Two `Locked` would exclude each other, and locking one
/// while holding the other would never end.
pub struct Locked<T>(UnsafeCell<T>);

// SAFETY: the value is reached only with the mutex held.
unsafe impl<T: Send> Sync for Locked<T> {}

impl<T> Locked<T> {
    /// Puts `value` behind the lock.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        // SAFETY: given back by the guard.
        unsafe { dynamos_shim_lock() };
        Guard(self)
    }

    /// Waits for the lock, unless the caller is killed meanwhile.
    ///
    /// # Errors
    /// [`Errno::EINTR`].
    pub fn lock_killable(&self) -> Result<Guard<'_, T>, Errno> {
        // SAFETY: given back by the guard.
        Errno::check(unsafe { dynamos_shim_lock_killable() })?;
        Ok(Guard(self))
    }
}

/// The lock held.
pub struct Guard<'a, T>(&'a Locked<T>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mutex is held.
        unsafe { &*self.0.0.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the mutex is held.
        unsafe { &mut *self.0.0.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: held since the guard was made.
        unsafe { dynamos_shim_unlock() }
    }
}

unsafe extern "C" {
    fn dynamos_shim_lock();
    fn dynamos_shim_lock_killable() -> c_int;
    fn dynamos_shim_unlock();
}
