//! The kernel's allocator as Rust's, and containers whose growth can fail.

use alloc::alloc::alloc;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_void;

use super::errno::Errno;

/// `kvmalloc(GFP_KERNEL)` and `kvfree`.
struct Kernel;

/// What kmalloc guarantees for every size.
const MINIMUM_ALIGNMENT: usize = 8;

// SAFETY: kvmalloc returns null or memory of at least the size asked for that no one else uses until
// kvfree. Sizes that are a power of two are aligned to themselves, as mm/slab documents.
unsafe impl GlobalAlloc for Kernel {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = if layout.align() <= MINIMUM_ALIGNMENT {
            layout.size()
        } else {
            layout.size().max(layout.align()).next_power_of_two()
        };
        // SAFETY: any size is allowed; a failure is null.
        unsafe { dynamos_shim_alloc(size).cast() }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, _layout: Layout) {
        // SAFETY: the caller gives what `alloc` gave it, once.
        unsafe { dynamos_shim_free(pointer.cast()) }
    }
}

#[global_allocator]
static KERNEL: Kernel = Kernel;

/// Puts `value` on the heap.
///
/// # Errors
/// [`Errno::ENOMEM`].
pub fn try_box<T>(value: T) -> Result<Box<T>, Errno> {
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        // SAFETY: a box of nothing is any aligned pointer that is not null.
        return Ok(unsafe { Box::from_raw(core::ptr::NonNull::dangling().as_ptr()) });
    }
    // SAFETY: the layout's size is not zero.
    let place = unsafe { alloc(layout) }.cast::<T>();
    if place.is_null() {
        return Err(Errno::ENOMEM);
    }
    // SAFETY: freshly allocated for one T, which is written before it is a box.
    unsafe {
        place.write(value);
        Ok(Box::from_raw(place))
    }
}

/// A copy of `text`.
///
/// # Errors
/// [`Errno::ENOMEM`].
pub fn try_string(text: &str) -> Result<String, Errno> {
    let bytes = Vec::try_filled_from(text.as_bytes())?;
    String::from_utf8(bytes).map_err(|_| Errno::EINVAL)
}

/// Growth of a vector that reports failure.
pub trait TryVec<T>: Sized {
    /// Appends `value`.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`]; `value` is dropped.
    fn try_push(&mut self, value: T) -> Result<(), Errno>;

    /// Appends copies of all of `values`.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`]; nothing is appended.
    fn try_extend(&mut self, values: &[T]) -> Result<(), Errno>
    where
        T: Clone;

    /// A vector of `length` times `value`.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`].
    fn try_filled(value: T, length: usize) -> Result<Self, Errno>
    where
        T: Clone;

    /// A copy of `values`.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`].
    fn try_filled_from(values: &[T]) -> Result<Self, Errno>
    where
        T: Clone;
}

#[allow(clippy::disallowed_methods, reason = "after try_reserve there is room")]
impl<T> TryVec<T> for Vec<T> {
    fn try_push(&mut self, value: T) -> Result<(), Errno> {
        self.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.push(value);
        Ok(())
    }

    fn try_extend(&mut self, values: &[T]) -> Result<(), Errno>
    where
        T: Clone,
    {
        self.try_reserve(values.len()).map_err(|_| Errno::ENOMEM)?;
        self.extend_from_slice(values);
        Ok(())
    }

    fn try_filled(value: T, length: usize) -> Result<Self, Errno>
    where
        T: Clone,
    {
        let mut vector = Self::new();
        vector.try_reserve_exact(length).map_err(|_| Errno::ENOMEM)?;
        vector.resize(length, value);
        Ok(vector)
    }

    fn try_filled_from(values: &[T]) -> Result<Self, Errno>
    where
        T: Clone,
    {
        let mut vector = Self::new();
        vector.try_extend(values)?;
        Ok(vector)
    }
}

unsafe extern "C" {
    fn dynamos_shim_alloc(size: usize) -> *mut c_void;
    fn dynamos_shim_free(pointer: *const c_void);
}
