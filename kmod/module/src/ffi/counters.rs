//! An update's use counters of objects.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use dynamos_abi::counters::{COUNT, SIZE};
use dynamos_core::counters::Counters;

use super::modules::{RangeKind, Ranges};

/// Where they are.
#[derive(Clone, Copy)]
pub struct CounterWords(NonNull<AtomicU64>);

// SAFETY: atomics that live as long as the update's registration.
unsafe impl Send for CounterWords {}

impl CounterWords {
    /// Those at `address`, if that is in the update's data.
    #[must_use]
    pub fn find(address: u64, ranges: &Ranges) -> Option<Self> {
        let inside = ranges.kind_of(address, SIZE) == Some(RangeKind::Data);
        let fits = inside && address.is_multiple_of(8);
        fits.then(|| NonNull::new(address as *mut AtomicU64).map(Self)).flatten()
    }

    /// The same, to look at and to change.
    #[must_use]
    pub fn get(&self) -> Option<Counters<'_>> {
        // SAFETY: aligned, and that many words are in the update's data, by `find`; handlers and this change them by
        // atomic operations only. Used only while the update is registered.
        Counters::new(unsafe { core::slice::from_raw_parts(self.0.as_ptr(), 1 + COUNT as usize) })
    }
}
