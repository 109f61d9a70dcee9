//! Directories in `/sys/kernel` whose files are read and written by Rust.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::NonNull;

use super::errno::Errno;
use super::memory::{TryVec, try_box};
use super::text::SliceWriter;

/// A file of a directory.
pub struct Attribute {
    /// Its name.
    pub name: &'static CStr,
    /// Its access mode, as 0o444.
    pub mode: u16,
}

/// What stands behind a directory. Calls may come from several tasks at once.
pub trait Directory: Send + Sync + 'static {
    /// The files.
    const ATTRIBUTES: &'static [Attribute];

    /// Writes the content of the file at this index, up to a page.
    ///
    /// # Errors
    /// What `read` returns to the caller.
    fn show(&self, attribute: usize, out: &mut SliceWriter<'_>) -> Result<(), Errno>;

    /// Takes what was written to the file at this index.
    ///
    /// It must not remove its own directory, which waits for it.
    ///
    /// # Errors
    /// What `write` returns to the caller.
    fn store(&self, attribute: usize, input: &[u8]) -> Result<(), Errno>;
}

/// A directory, removed when dropped. Dropping waits until no file of it is being read or written.
pub struct Dir<T: Directory> {
    raw: NonNull<RawDir>,
    content: Box<T>,
}

/// A directory that others can be made in, without a hold on it: making one may wait for readers, so it is
/// not done with a lock held that guards the [`Dir`].
#[derive(Clone, Copy)]
pub struct Parent(NonNull<RawDir>);

// SAFETY: the directory is not bound to a task, and its content is Send and Sync.
unsafe impl<T: Directory> Send for Dir<T> {}
// SAFETY: as above.
unsafe impl<T: Directory> Sync for Dir<T> {}

impl<T: Directory> Dir<T> {
    /// Makes `/sys/kernel/NAME`.
    ///
    /// # Errors
    /// [`Errno::EEXIST`], [`Errno::ENOMEM`].
    pub fn in_kernel(name: &CStr, content: T) -> Result<Self, Errno> {
        Self::create(core::ptr::null_mut(), name, content)
    }

    /// Makes a directory in `parent`, whose directory must be dropped later than this.
    ///
    /// # Errors
    /// [`Errno::EEXIST`], [`Errno::ENOMEM`].
    pub fn inside(parent: Parent, name: &CStr, content: T) -> Result<Self, Errno> {
        Self::create(parent.0.as_ptr(), name, content)
    }

    /// This directory as a place for others.
    #[must_use]
    pub fn as_parent(&self) -> Parent {
        Parent(self.raw)
    }

    /// What stands behind it.
    pub fn content(&self) -> &T {
        &self.content
    }

    fn create(parent: *mut RawDir, name: &CStr, content: T) -> Result<Self, Errno> {
        let content = try_box(content)?;
        let mut attributes = Vec::new();
        for Attribute { name, mode } in T::ATTRIBUTES {
            attributes.try_push(RawAttribute { name: name.as_ptr(), mode: u64::from(*mode) })?;
        }
        let ops = RawOps { show: show::<T>, store: store::<T> };
        let mut error = 0;
        // SAFETY: C copies the name, attributes and functions; attribute names are static; the
        // context is on the heap and freed only after the directory has been removed.
        let raw = unsafe {
            dynamos_shim_dir_create(
                parent,
                name.as_ptr(),
                attributes.as_ptr(),
                attributes.len() as u32,
                &raw const ops,
                (&raw const *content).cast_mut().cast(),
                &raw mut error,
            )
        };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw, content }),
            None => Err(Errno::check(error).err().unwrap_or(Errno::ENOMEM)),
        }
    }
}

impl<T: Directory> Drop for Dir<T> {
    fn drop(&mut self) {
        // SAFETY: made by `create`, removed once. The content is dropped after this.
        unsafe { dynamos_shim_dir_remove(self.raw.as_ptr()) }
    }
}

extern "C" fn show<T: Directory>(
    context: *mut c_void,
    attribute: u32,
    page: *mut u8,
    size: usize,
) -> isize {
    // SAFETY: the context is the directory's content, which outlives it; the page is the reader's.
    let (content, page) =
        unsafe { (&*context.cast::<T>(), core::slice::from_raw_parts_mut(page, size)) };
    let mut out = SliceWriter::new(page);
    match content.show(attribute as usize, &mut out) {
        Ok(()) => out.len().cast_signed(),
        Err(error) => error.negative() as isize,
    }
}

extern "C" fn store<T: Directory>(
    context: *mut c_void,
    attribute: u32,
    input: *const u8,
    length: usize,
) -> isize {
    // SAFETY: the context is the directory's content, which outlives it; the input is the writer's.
    let (content, input) =
        unsafe { (&*context.cast::<T>(), core::slice::from_raw_parts(input, length)) };
    match content.store(attribute as usize, input) {
        Ok(()) => length.cast_signed(),
        Err(error) => error.negative() as isize,
    }
}

/// The shim's `struct dynamos_dir`, only ever handled by pointer.
#[repr(C)]
struct RawDir {
    _opaque: [u8; 0],
}

/// `struct dynamos_attribute`.
#[repr(C)]
struct RawAttribute {
    name: *const c_char,
    mode: u64,
}

/// `struct dynamos_dir_ops`.
#[repr(C)]
struct RawOps {
    show: extern "C" fn(*mut c_void, u32, *mut u8, usize) -> isize,
    store: extern "C" fn(*mut c_void, u32, *const u8, usize) -> isize,
}

unsafe extern "C" {
    fn dynamos_shim_dir_create(
        parent: *mut RawDir,
        name: *const c_char,
        attributes: *const RawAttribute,
        count: u32,
        ops: *const RawOps,
        context: *mut c_void,
        error: *mut c_int,
    ) -> *mut RawDir;
    fn dynamos_shim_dir_remove(dir: *mut RawDir);
}
