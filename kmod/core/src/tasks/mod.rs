//! Which edition each task takes, while tasks move from one to the other one by one (scope `task`).
//!
//! A table of fixed size that [handlers](write_handler) read as it is, without a lock and without a call: open
//! addressing, by the address of the task. Whoever is noted takes the edition noted; whoever is not has begun after all
//! were, and takes the table's [default](TaskTable::set_default). A noted task must not be freed: another at its address
//! would be taken for it.
//!
//! **Who writes.** Tasks are noted by one at a time. A noted task's edition is changed by that task itself, or while it
//! does not run, or in an interrupt on the CPU where it runs; so it cannot be between two instructions of its own
//! lookup, and its CPU has the change before it runs on: the scheduler's locks order that, or the CPU's own order does.
//!
//! **Who reads.** A handler, only ever its own task's entry, and on the way there others' keys, of which it need only know
//! that they are not its own. An entry is written before its key (release; x86 loads in order), and a key only where there
//! was none; so a lookup that goes past an entry that is being noted goes on where it would have gone anyway.

mod code;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub use code::{Asks, write_handler};

/// Words before the entries: the mask of an index, and the default.
const HEAD: usize = 2;
/// Words of an entry: the task, and its edition.
const ENTRY: usize = 2;
/// Spreads addresses, which are far from random (2^64 / golden ratio, odd).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// A key that is nobody's: an entry that was let go.
const NOBODY: u64 = 1;

/// There is no room for another task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The editions of tasks: 0 is `false`, the update's `true`.
#[derive(Debug, Default)]
pub struct TaskTable {
    /// The mask; the default; then entries.
    words: Vec<AtomicU64>,
    /// Entries with a key, [`NOBODY`] too: at most half, so that every lookup comes to an end.
    used: AtomicUsize,
}

impl TaskTable {
    /// A table for so many tasks, of which those not noted take `default`. `None` if there is no memory for it.
    pub fn with_room(tasks: usize, default: bool) -> Option<Self> {
        let entries = tasks.max(8).checked_mul(2)?.checked_next_power_of_two()?;
        let len = entries.checked_mul(ENTRY)?.checked_add(HEAD)?;
        let mut words = Vec::new();
        words.try_reserve_exact(len).ok()?;
        words.resize_with(len, AtomicU64::default); // There is room.
        let table = Self { words, used: AtomicUsize::new(0) };
        // Even, as an entry has two words.
        table
            .word(0)?
            .store((entries.checked_sub(1)?.checked_mul(ENTRY)?) as u64, Ordering::Relaxed);
        table.set_default(default);
        Some(table)
    }

    /// Where it is, for handlers.
    pub fn address(&self) -> u64 {
        self.words.as_ptr().addr() as u64
    }

    /// What tasks take that are not noted.
    pub fn default_edition(&self) -> bool {
        self.word(1).is_some_and(|word| word.load(Ordering::SeqCst) != 0)
    }

    /// Has tasks that are not noted take an edition. None runs that is not noted and has a call under way.
    pub fn set_default(&self, edition: bool) {
        if let Some(word) = self.word(1) {
            word.store(u64::from(edition), Ordering::SeqCst);
        }
    }

    /// Notes the edition of a task; `false` if it is noted already, and nothing has changed. By one at a time.
    pub fn note(&self, task: u64, edition: bool) -> Result<bool, Full> {
        let mut free = None;
        for at in self.probe(task) {
            let (Some(key), Some(state)) = (self.word(at), self.word(at.saturating_add(1))) else {
                break;
            };
            match key.load(Ordering::Relaxed) {
                found if found == task => return Ok(false),
                NOBODY => free = free.or(Some((key, state))),
                0 => {
                    let fresh = free.is_none();
                    if fresh && !self.has_room() {
                        return Err(Full);
                    }
                    let (key, state) = free.unwrap_or((key, state));
                    state.store(u64::from(edition), Ordering::Relaxed);
                    key.store(task, Ordering::Release);
                    self.used.fetch_add(usize::from(fresh), Ordering::Relaxed);
                    return Ok(true);
                }
                _ => {}
            }
        }
        Err(Full)
    }

    fn has_room(&self) -> bool {
        let entries = self.words.len().saturating_sub(HEAD) / ENTRY;
        self.used.load(Ordering::Relaxed) < entries / 2
    }

    /// The edition that a task takes, as its handlers find it.
    pub fn edition(&self, task: u64) -> bool {
        self.noted(task).unwrap_or_else(|| self.default_edition())
    }

    /// The edition noted for a task.
    pub fn noted(&self, task: u64) -> Option<bool> {
        let at = self.find(task)?;
        self.word(at.saturating_add(1)).map(|state| state.load(Ordering::Relaxed) != 0)
    }

    /// Moves a noted task, which is outside of what it leaves; see above for by whom.
    pub fn set(&self, task: u64, edition: bool) {
        if let Some(state) = self.find(task).and_then(|at| self.word(at.saturating_add(1))) {
            state.store(u64::from(edition), Ordering::Release);
        }
    }

    /// Lets go of a task that never runs again; whether it was noted. By who notes.
    pub fn forget(&self, task: u64) -> bool {
        let key = self.find(task).and_then(|at| self.word(at));
        if let Some(key) = key {
            key.store(NOBODY, Ordering::Release);
        }
        key.is_some()
    }

    /// All that are noted, with their editions.
    pub fn tasks(&self) -> impl Iterator<Item = (u64, bool)> {
        self.words.get(HEAD..).unwrap_or_default().chunks_exact(ENTRY).filter_map(|entry| {
            let [key, state] = entry else { return None };
            let key = key.load(Ordering::Acquire);
            (key > NOBODY).then(|| (key, state.load(Ordering::Relaxed) != 0))
        })
    }

    fn find(&self, task: u64) -> Option<usize> {
        for at in self.probe(task) {
            match self.word(at)?.load(Ordering::Acquire) {
                found if found == task => return Some(at),
                0 => return None,
                _ => {}
            }
        }
        None
    }

    /// Where a task may be noted, in order; each place once. What [`write_handler`] does.
    fn probe(&self, task: u64) -> impl Iterator<Item = usize> + use<> {
        let mask = self.word(0).map_or(0, |word| word.load(Ordering::Relaxed));
        let first = task.wrapping_mul(SPREAD) >> 32;
        let entries = mask / ENTRY as u64;
        (0..=entries).map(move |step| {
            let index = first.wrapping_add(step.wrapping_mul(ENTRY as u64)) & mask;
            (index as usize).saturating_add(HEAD)
        })
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.words.get(index)
    }
}
