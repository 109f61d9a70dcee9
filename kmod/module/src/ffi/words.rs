//! Words of the kernel's tables of operations, written whatever their protection.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use super::errno::Errno;

/// A word, mapped a second time so that it can be written. Made and dropped where one may sleep.
pub struct OpenWord {
    alias: NonNull<AtomicU64>,
}

impl OpenWord {
    /// Maps the page of the word at `address`, a multiple of 8.
    ///
    /// # Errors
    /// [`Errno::EFAULT`] where there is no memory of the kernel or of a module, [`Errno::ENOMEM`].
    ///
    /// # Safety
    /// The memory stays where it is while this lives: the kernel's own, or of a module that stays.
    pub unsafe fn new(address: u64) -> Result<Self, Errno> {
        if !address.is_multiple_of(8) {
            return Err(Errno::EFAULT);
        }
        let mut alias = core::ptr::null_mut();
        // SAFETY: C checks that there is a page; promised by the caller that it stays.
        Errno::check(unsafe { dynamos_shim_word_open(address as *const c_void, &raw mut alias) })?;
        Ok(Self { alias: NonNull::new(alias.cast()).ok_or(Errno::ENOMEM)? })
    }

    /// What stands there.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.word().load(Ordering::Relaxed)
    }

    /// Writes it at once. It orders nothing: all other CPUs are stopped, or nobody reads the word yet.
    ///
    /// # Safety
    /// Who reads the word may find this there.
    pub unsafe fn set(&self, value: u64) {
        self.word().store(value, Ordering::Relaxed);
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: mapped for this alone, aligned, and within one page.
        unsafe { self.alias.as_ref() }
    }
}

impl Drop for OpenWord {
    fn drop(&mut self) {
        // SAFETY: what `dynamos_shim_word_open` gave, once.
        unsafe { dynamos_shim_word_close(self.alias.as_ptr().cast()) }
    }
}

unsafe extern "C" {
    fn dynamos_shim_word_open(word: *const c_void, alias: *mut *mut c_void) -> i32;
    fn dynamos_shim_word_close(alias: *mut c_void);
}
