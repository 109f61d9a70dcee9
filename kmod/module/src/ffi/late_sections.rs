//! The update's jump entries and static call sites, given to the kernel after its references have
//! been resolved.

use core::ffi::{c_int, c_void};
use core::ops::Range;

use super::errno::Errno;
use super::modules::{Module, RangeKind, RawModule};

/// `sizeof(struct jump_entry)` with relative references.
const JUMP_ENTRY: u64 = 16;
/// `sizeof(struct static_call_site)`.
const STATIC_CALL_SITE: u64 = 8;

/// Jump entries and static call sites that are in the kernel's care.
///
/// They come back with [`LateSections::remove`] or drop, at the latest before the module's references
/// are undone or the modules that own the keys may be unloaded. A key that the update owns must be in its
/// initial state until `install`: the kernel takes the code to be so (`jump_label_add_module`).
#[must_use]
pub struct LateSections {
    module: *mut RawModule,
    jumps: bool,
    calls: bool,
}

// SAFETY: the module pointer is not bound to a task.
unsafe impl Send for LateSections {}

impl LateSections {
    /// Hands over both sections of `module`; either may be empty. The kernel patches every branch and
    /// call of the module to the present state of its key. On failure nothing is handed over.
    ///
    /// # Errors
    /// [`Errno::EINVAL`]: not whole entries in the module's data. [`Errno::EEXIST`]: the loader has
    /// given the module entries of its own. Else the kernel's, as [`Errno::ENOMEM`].
    ///
    /// # Safety
    /// The entries are well formed and resolved, none of the code they name is being executed, and
    /// `module` and the modules that own the keys stay until `remove`.
    pub unsafe fn install(
        module: &Module,
        jump_entries: Range<u64>,
        static_call_sites: Range<u64>,
    ) -> Result<Self, Errno> {
        check(module, &jump_entries, JUMP_ENTRY)?;
        check(module, &static_call_sites, STATIC_CALL_SITE)?;
        let mut sections = Self { module: module.as_ptr(), jumps: false, calls: false };
        // The loader's order: static_call is notified before jump_label, being registered earlier.
        if !static_call_sites.is_empty() {
            // SAFETY: whole entries in writable memory of the module; the rest is promised.
            Errno::check(unsafe {
                dynamos_shim_static_calls_coming(
                    sections.module,
                    static_call_sites.start as *mut c_void,
                    static_call_sites.end as *mut c_void,
                )
            })?;
            sections.calls = true;
        }
        if !jump_entries.is_empty() {
            // SAFETY: as above.
            Errno::check(unsafe {
                dynamos_shim_jump_labels_coming(
                    sections.module,
                    jump_entries.start as *mut c_void,
                    jump_entries.end as *mut c_void,
                )
            })?; // On failure the drop takes back the calls.
            sections.jumps = true;
        }
        Ok(sections)
    }

    /// Takes the entries back: keys and calls that change later no longer reach the module.
    pub fn remove(self) {
        drop(self);
    }
}

impl Drop for LateSections {
    fn drop(&mut self) {
        // SAFETY: handed over before, and the module is still there.
        unsafe {
            if self.jumps {
                dynamos_shim_jump_labels_going(self.module);
            }
            if self.calls {
                dynamos_shim_static_calls_going(self.module);
            }
        }
    }
}

/// The kernel sorts the entries and sets flags in them, so they must be in writable memory.
fn check(module: &Module, section: &Range<u64>, entry: u64) -> Result<(), Errno> {
    let length = section.end.checked_sub(section.start).ok_or(Errno::EINVAL)?;
    let placed = module.ranges().kind_of(section.start, length) == Some(RangeKind::Data);
    let whole = length.is_multiple_of(entry) && section.start.is_multiple_of(4);
    if length == 0 || placed && whole { Ok(()) } else { Err(Errno::EINVAL) }
}

unsafe extern "C" {
    fn dynamos_shim_jump_labels_coming(
        module: *mut RawModule,
        start: *mut c_void,
        end: *mut c_void,
    ) -> c_int;
    fn dynamos_shim_jump_labels_going(module: *mut RawModule);
    fn dynamos_shim_static_calls_coming(
        module: *mut RawModule,
        start: *mut c_void,
        end: *mut c_void,
    ) -> c_int;
    fn dynamos_shim_static_calls_going(module: *mut RawModule);
}
