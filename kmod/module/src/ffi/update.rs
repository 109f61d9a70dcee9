//! What an update module gives to `dynamos_register`.

use core::ffi::c_void;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

use dynamos_core::Scope;

use super::errno::Errno;
use super::modules::{Module, RawModule};

/// `DYNAMOS_DESC_ABI`.
const DESC_ABI: u32 = 3;

/// `struct dynamos_update_desc`.
#[repr(C)]
pub(super) struct RawDescriptor {
    abi: u32,
    size: u32,
    module: *mut RawModule,
    record: *const u8,
    record_len: u64,
    addrs: *const u64,
    addrs_count: u64,
    active: *mut u8,
    jump_table: *mut c_void,
    jump_table_end: *mut c_void,
    static_calls: *mut c_void,
    static_calls_end: *mut c_void,
    default_edition: u64,
    proposed_scope: u64,
    options: *const u8,
    options_size: u64,
}

/// Which registration this is: the same at `dynamos_register` and `dynamos_unregister`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(usize);

/// A descriptor that has been checked: everything it points to lies within the update module.
///
/// The module holds no reference to itself through this: it calls `dynamos_unregister` before it goes.
pub struct Descriptor<'a> {
    raw: &'a RawDescriptor,
}

/// Added to the flag while handlers ask for the task or the object: neither 0 nor 1.
const SINGLY: u8 = 0x80;

/// The flag that the transition handlers read.
#[derive(Clone, Copy)]
pub struct ActiveFlag(NonNull<AtomicU8>);

// SAFETY: an atomic that lives as long as the update's registration.
unsafe impl Send for ActiveFlag {}

impl ActiveFlag {
    /// Sends calls to the new edition, or to edition 0.
    pub fn set(self, active: bool) {
        // SAFETY: in the update module's data, by the check of the descriptor; used only while it is
        // registered.
        unsafe { self.0.as_ref() }.store(u8::from(active), Ordering::SeqCst);
    }

    /// Sends calls to an edition of an update with phases.
    pub fn take(self, edition: u8) {
        // SAFETY: as above.
        unsafe { self.0.as_ref() }.store(edition, Ordering::SeqCst);
    }

    /// Has handlers ask for the task, or for the object, which move to the new edition or to edition 0.
    pub fn singly(self, active: bool) {
        self.take(SINGLY | u8::from(active));
    }

    /// Which edition calls take; while handlers ask for more, where tasks or objects move.
    #[must_use]
    pub fn edition(self) -> u8 {
        // SAFETY: as above.
        unsafe { self.0.as_ref() }.load(Ordering::SeqCst) & !SINGLY
    }

    /// Where it is, as the handlers refer to it.
    #[must_use]
    pub fn address(self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// Where calls go.
    #[must_use]
    pub fn get(self) -> bool {
        self.edition() != 0
    }
}

impl<'a> Descriptor<'a> {
    /// # Safety
    /// `raw` is what an update module gave to `dynamos_register`, and the module stays loaded for `'a`.
    pub(super) unsafe fn check(raw: *const RawDescriptor) -> Result<Self, (Errno, &'static str)> {
        // SAFETY: the first two fields are the same in every version; promised by the caller.
        let (abi, size) = match unsafe { raw.as_ref() } {
            Some(raw) => (raw.abi, raw.size),
            None => return Err((Errno::EINVAL, "no descriptor")),
        };
        if abi != DESC_ABI || size as usize != size_of::<RawDescriptor>() {
            return Err((Errno::EPROTO, "made for another dynamos.ko: build the update again"));
        }
        // SAFETY: this version and size.
        let raw = unsafe { &*raw };
        let descriptor = Self { raw };
        descriptor.check_ranges().map(|()| descriptor)
    }

    fn check_ranges(&self) -> Result<(), (Errno, &'static str)> {
        let raw = self.raw;
        let module = self.module().map_err(|error| (error, "its module is being unloaded"))?;
        let ranges = module.ranges();
        let inside = |start: u64, length: u64| ranges.kind_of(start, length).is_some();
        let spans = [
            (raw as *const RawDescriptor as u64, size_of::<RawDescriptor>() as u64),
            (raw.record as u64, raw.record_len),
            (raw.addrs as u64, raw.addrs_count.saturating_mul(size_of::<u64>() as u64)),
            (raw.active as u64, 1),
            (raw.options as u64, raw.options_size),
        ];
        if !raw.addrs.is_aligned() {
            return Err((Errno::EINVAL, "its table of addresses is not aligned"));
        }
        if raw.default_edition > 1 {
            return Err((Errno::EINVAL, "the default edition is 0 or 1"));
        }
        if raw.proposed_scope > 3 {
            return Err((Errno::EINVAL, "it proposes a scope that there is not"));
        }
        if spans.into_iter().all(|(start, length)| length == 0 || inside(start, length)) {
            Ok(())
        } else {
            Err((Errno::EINVAL, "its descriptor points outside of its module"))
        }
    }

    /// Which registration this is.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::of(self.raw)
    }

    /// The update module, with a reference of its own: for the time of an operation only, for while it
    /// is held the module cannot be unloaded.
    ///
    /// # Errors
    /// [`Errno::EBUSY`]: it is being unloaded.
    pub fn module(&self) -> Result<Module, Errno> {
        let module = NonNull::new(self.raw.module).ok_or(Errno::EINVAL)?;
        // SAFETY: the descriptor names its own module, which stays during this.
        unsafe { Module::get(module) }
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &'a [u8] {
        // SAFETY: within the module, by `check_ranges`.
        unsafe { slice(self.raw.record, self.raw.record_len) }
    }

    /// The addresses that the record refers to by index.
    #[must_use]
    pub fn addresses(&self) -> &'a [u64] {
        // SAFETY: within the module and aligned, by `check_ranges`.
        unsafe { slice(self.raw.addrs, self.raw.addrs_count) }
    }

    /// The flag that the transition handlers read.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] without one.
    pub fn active(&self) -> Result<ActiveFlag, Errno> {
        NonNull::new(self.raw.active).map(|flag| ActiveFlag(flag.cast())).ok_or(Errno::EINVAL)
    }

    /// Whether calls take the edition as long as there is no policy.
    #[must_use]
    pub fn takes_by_default(&self) -> bool {
        self.raw.default_edition != 0
    }

    /// The weakest scope that the plan calls safe.
    #[must_use]
    pub fn proposed_scope(&self) -> Scope {
        match self.raw.proposed_scope {
            1 => Scope::Function,
            2 => Scope::Task,
            3 => Scope::Object,
            _ => Scope::System,
        }
    }

    /// How to switch, as [`dynamos_core::Options`] reads it.
    #[must_use]
    pub fn options(&self) -> &'a [u8] {
        // SAFETY: within the module, by `check_ranges`; the loader wrote it before the module's init function ran.
        let options = unsafe { slice(self.raw.options, self.raw.options_size) };
        options.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The jump entries withheld from the loader.
    #[must_use]
    pub fn jump_entries(&self) -> Range<u64> {
        self.raw.jump_table as u64..self.raw.jump_table_end as u64
    }

    /// The static call sites withheld from the loader.
    #[must_use]
    pub fn static_call_sites(&self) -> Range<u64> {
        self.raw.static_calls as u64..self.raw.static_calls_end as u64
    }
}

impl Handle {
    pub(super) fn of(raw: *const RawDescriptor) -> Self {
        Self(raw as usize)
    }
}

/// # Safety
/// Where `length` is not zero, that many values are at `start` for `'a`.
unsafe fn slice<'a, T>(start: *const T, length: u64) -> &'a [T] {
    if length == 0 {
        return &[];
    }
    // SAFETY: promised by the caller.
    unsafe { core::slice::from_raw_parts(start, length as usize) }
}
