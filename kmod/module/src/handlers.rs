//! Handlers in the kernel's tables of operations: written at the switch, and back.

use alloc::vec::Vec;

use dynamos_core::{Range, Word};

use crate::ffi::errno::Errno;
use crate::ffi::memory::TryVec;
use crate::ffi::symbols::{self, Query, VMLINUX};
use crate::ffi::words::OpenWord;

/// Words that are ready to be written.
pub(crate) struct Opened(Vec<(OpenWord, Word)>);

impl Opened {
    /// Maps `words`.
    ///
    /// # Safety
    /// They are the kernel's own or of modules that stay as long as this lives.
    pub(crate) unsafe fn new(words: &[Word]) -> Result<Self, Errno> {
        let mut all = Vec::new();
        for word in words {
            // SAFETY: promised by the caller.
            all.try_push((unsafe { OpenWord::new(word.address) }?, *word))?;
        }
        Ok(Self(all))
    }

    /// Writes all of them, if each holds what it should; else none. Called with all CPUs stopped, and no task in a
    /// function that reads one; or where nobody can read them yet.
    ///
    /// # Safety
    /// What is written is fit to be called: V1's own, or proven by [`dynamos_core::words`] to be the update's or the
    /// kernel's, which stay as long as it stands there.
    pub(crate) unsafe fn write(&self, active: bool) -> bool {
        let sides = |word: &Word| match active {
            true => (word.before, word.after),
            false => (word.after, word.before),
        };
        if self.0.iter().any(|(open, word)| open.get() != sides(word).0) {
            return false;
        }
        for (open, word) in &self.0 {
            // SAFETY: promised by the caller.
            unsafe { open.set(sides(word).1) };
        }
        true
    }

    /// Takes back what is still the update's: in a module that has ended, whose memory is about to go.
    ///
    /// # Safety
    /// As for [`Opened::write`].
    pub(crate) unsafe fn take_back(&self) {
        for (open, word) in self.0.iter().filter(|(open, word)| open.get() == word.after) {
            // SAFETY: promised by the caller.
            unsafe { open.set(word.before) };
        }
    }
}

/// Code that a handler's reader may be in when it has left its own: the thunks by which an indirect jump goes
/// (arch/x86/lib/retpoline.S: 16 registers, 32 bytes each, or 64 against ITS). Where a CPU's are elsewhere, the unwinder
/// does not know them and says so.
pub(crate) fn thunks() -> Result<Vec<Range>, Errno> {
    const THUNKS: [(&core::ffi::CStr, u64); 4] = [
        (c"__x86_indirect_thunk_array", 16 * 32),
        (c"__x86_indirect_call_thunk_array", 16 * 32),
        (c"__x86_indirect_jump_thunk_array", 16 * 32),
        (c"__x86_indirect_its_thunk_array", 16 * 64),
    ];
    let queries = THUNKS.map(|(name, _)| Query { object: VMLINUX, name });
    let mut ranges = Vec::new();
    for found in symbols::find_all(&queries)? {
        let Some((_, size)) = THUNKS.get(found.query) else { continue };
        ranges
            .try_push(Range { start: found.address, end: found.address.saturating_add(*size) })?;
    }
    Ok(ranges)
}
