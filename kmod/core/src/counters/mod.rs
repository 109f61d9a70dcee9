//! Which edition each object has that calls work on, so that objects can move from one to the other one by one (scope `object`).
//!
//! A call that comes by a [counting handler](counting_handler) adds itself to its object's counter, takes the edition that it
//! finds there, and leaves the counter when it returns, in whatever edition. The edition of a counter changes only when no
//! call is in it, by the last to leave or by [`Counters::move_idle`]: one atomic operation on one word, so a call finds
//! either the old edition with itself counted in, or the new one. What the last call of the old edition did to the object is
//! seen by the first of the new one: both have the word by a locked instruction, which orders all around it.
//!
//! **Which calls are not counted.** Those that began before there were counting handlers, or by others. They must have
//! ended before an object may change edition; stacks tell ([`uncounted`]).
//!
//! **Which calls never end.** A task may die in its call, and leaves its count behind. A counter tells how many calls have begun,
//! so one that is as it was before a look at all tasks, which found none in a call of that edition or on its way there or
//! back, counts only such calls ([`Counters::note`], [`Counters::move_left`]).
//!
//! **The goal.** Who leaves last reads which edition its object is to have, and gives it that; it may be late with it. So before
//! the goal changes, and before all are said to have moved, each task is seen outside of the handlers' code once.

mod code;
mod moving;
mod stacks;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU64, Ordering};

use dynamos_abi::counters::UNDER_WAY;

pub use code::{COUNTING_LEN, Counting, Leads, counting_handler, to_original};
pub use moving::{Look, Moving};
pub use stacks::{Label, calls_of, uncounted};

/// The edition's bit.
const EDITION: u64 = 1;

/// An update's use counters: the goal, then one word for the objects of each place.
#[derive(Clone, Copy, Debug)]
pub struct Counters<'a> {
    goal: &'a AtomicU64,
    words: &'a [AtomicU64],
}

impl<'a> Counters<'a> {
    /// Those in `all`, as [`dynamos_abi::counters`] has them.
    pub fn new(all: &'a [AtomicU64]) -> Option<Self> {
        let (goal, words) = all.split_first()?;
        Some(Self { goal, words })
    }

    /// The edition that objects are to have.
    pub fn goal(&self) -> bool {
        self.goal.load(Ordering::SeqCst) != 0
    }

    /// Has objects move to an edition, each when the last call on it ends.
    pub fn set_goal(&self, edition: bool) {
        self.goal.store(u64::from(edition), Ordering::SeqCst);
    }

    /// Forgets all calls, and has all objects begin with edition 0. None is under way: a task that died in one may have left
    /// its count behind.
    pub fn clear(&self) {
        self.set_goal(false);
        for word in self.words {
            word.store(0, Ordering::SeqCst);
        }
    }

    /// Has all objects begin with an edition, which is the goal too; `false` if calls of the other are still under way. No
    /// handler counts yet.
    pub fn begin(&self, edition: bool) -> bool {
        self.set_goal(edition);
        self.move_idle(edition)
    }

    /// Gives an edition to each object that no call works on; whether all have it.
    pub fn move_idle(&self, edition: bool) -> bool {
        let mut all = true;
        for word in self.words {
            let seen = word.load(Ordering::SeqCst);
            if seen & UNDER_WAY <= EDITION {
                give(word, seen, edition);
            }
            all &= has(word, edition);
        }
        all
    }

    /// Notes what each counter is: before a look at all tasks.
    pub fn note(&self, noted: &mut [u64]) {
        for (word, noted) in self.words.iter().zip(noted) {
            *noted = word.load(Ordering::SeqCst);
        }
    }

    /// Gives an edition to each object whose counter is as it was noted; whether all have it. Since then every task was
    /// seen, and none in a counted call of the other edition or in a handler.
    pub fn move_left(&self, noted: &[u64], edition: bool) -> bool {
        let mut all = true;
        for (word, noted) in self.words.iter().zip(noted) {
            give(word, *noted, edition);
            all &= has(word, edition);
        }
        all
    }
}

/// Gives the other edition, and no call under way, to a counter that is still as it was seen.
fn give(word: &AtomicU64, seen: u64, edition: bool) {
    let to = seen & !UNDER_WAY | u64::from(edition);
    if seen & EDITION != u64::from(edition) {
        let _ = word.compare_exchange(seen, to, Ordering::SeqCst, Ordering::SeqCst);
    }
}

fn has(word: &AtomicU64, edition: bool) -> bool {
    word.load(Ordering::SeqCst) & EDITION == u64::from(edition)
}
