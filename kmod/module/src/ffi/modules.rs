//! Loaded modules.

use core::ffi::{CStr, c_char, c_int};
use core::ops::Range;
use core::ptr::NonNull;

use super::errno::Errno;

/// The kernel's `struct module`, only ever handled by pointer.
#[repr(C)]
pub struct RawModule {
    _opaque: [u8; 0],
}

/// A loaded module that cannot be unloaded while this exists.
pub struct Module(NonNull<RawModule>);

// SAFETY: the reference that is held is not bound to a task, and what is read does not change.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// What a part of a module may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Code.
    Text,
    /// Constants.
    Rodata,
    /// Written only while the module is being loaded.
    RoAfterInit,
    /// Data.
    Data,
}

/// The parts of a module that stay after its initialisation.
#[derive(Clone, Debug)]
pub struct Ranges([(RangeKind, Range<u64>); 4]);

impl Ranges {
    /// All parts; one may be empty.
    pub fn iter(&self) -> impl Iterator<Item = &(RangeKind, Range<u64>)> {
        self.0.iter()
    }

    /// The module's code.
    #[must_use]
    pub fn text(&self) -> Range<u64> {
        let text = self.0.iter().find(|(kind, _)| *kind == RangeKind::Text);
        text.map(|(_, range)| range.clone()).unwrap_or_default()
    }

    /// The part in which all of `length` bytes from `address` lie.
    #[must_use]
    pub fn kind_of(&self, address: u64, length: u64) -> Option<RangeKind> {
        let end = address.checked_add(length)?;
        let holds = |range: &Range<u64>| range.start <= address && end <= range.end;
        self.0.iter().find(|(_, range)| holds(range)).map(|(kind, _)| *kind)
    }
}

impl Module {
    /// Finds a loaded module and takes a reference to it.
    ///
    /// # Errors
    /// [`Errno::ENOENT`]: not loaded; [`Errno::EBUSY`]: being loaded or unloaded.
    pub fn find(name: &CStr) -> Result<Self, Errno> {
        let mut module = core::ptr::null_mut();
        // SAFETY: the name is a C string and the result has room.
        Errno::check(unsafe { dynamos_shim_module_find(name.as_ptr(), &raw mut module) })?;
        NonNull::new(module).map(Self).ok_or(Errno::ENOENT)
    }

    /// Takes a reference to a module that is known by pointer.
    ///
    /// # Errors
    /// [`Errno::EBUSY`]: it is being unloaded.
    ///
    /// # Safety
    /// It is a module, and stays one during the call.
    pub unsafe fn get(module: NonNull<RawModule>) -> Result<Self, Errno> {
        // SAFETY: promised by the caller.
        if unsafe { dynamos_shim_module_get(module.as_ptr()) } {
            Ok(Self(module))
        } else {
            Err(Errno::EBUSY)
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &CStr {
        // SAFETY: the reference keeps the module and with it its name, a C string.
        unsafe { CStr::from_ptr(dynamos_shim_module_name(self.as_ptr())) }
    }

    /// Its parts.
    #[must_use]
    pub fn ranges(&self) -> Ranges {
        let mut raw = [RawRange { kind: 0, start: 0, size: 0 }; 4];
        // SAFETY: the reference keeps the module, and the array has the length that C fills.
        unsafe { dynamos_shim_module_ranges(self.as_ptr(), raw.as_mut_ptr()) };
        Ranges(raw.map(|range| {
            let kind = match range.kind {
                0 => RangeKind::Text,
                1 => RangeKind::Rodata,
                2 => RangeKind::RoAfterInit,
                _ => RangeKind::Data,
            };
            (kind, range.start..range.start.saturating_add(range.size))
        }))
    }

    pub(super) fn as_ptr(&self) -> *mut RawModule {
        self.0.as_ptr()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: gives back the one reference that this value stands for.
        unsafe { dynamos_shim_module_put(self.as_ptr()) }
    }
}

/// Has modules that come and go told to [`crate::following`].
///
/// # Errors
/// The kernel's.
pub fn follow() -> Result<(), Errno> {
    // SAFETY: the function that is called stays until `follow_no_more`.
    Errno::check(unsafe { dynamos_shim_follow_modules() }).map(drop)
}

/// Ends that, and waits until nobody is told any more.
pub fn follow_no_more() {
    // SAFETY: called once, after `follow`.
    unsafe { dynamos_shim_follow_no_modules() }
}

/// `struct dynamos_range`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawRange {
    kind: u64,
    start: u64,
    size: u64,
}

unsafe extern "C" {
    fn dynamos_shim_follow_modules() -> c_int;
    fn dynamos_shim_follow_no_modules();
    fn dynamos_shim_module_find(name: *const c_char, module: *mut *mut RawModule) -> c_int;
    fn dynamos_shim_module_get(module: *mut RawModule) -> bool;
    fn dynamos_shim_module_put(module: *mut RawModule);
    fn dynamos_shim_module_name(module: *const RawModule) -> *const c_char;
    fn dynamos_shim_module_ranges(module: *const RawModule, ranges: *mut RawRange);
}
