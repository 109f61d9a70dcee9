//! Scope `object`: each object that calls work on takes one edition, and moves to the other when no call works on it.

use alloc::vec::Vec;
use core::mem::take;

use dynamos_abi::counters::COUNT;
use dynamos_core::counters::{Counters, Label, Look, Moving, calls_of, to_original, uncounted};
use dynamos_core::{Blocked, Blockers, Errno, Place, Range, sort_by_key};

use super::operations::look_at_all;
use super::{INVALID, KernelLayer};
use crate::checks::counting_of;
use crate::ffi::counters::CounterWords;
use crate::ffi::errno::Errno as KernelErrno;
use crate::ffi::memory::TryVec;
use crate::ffi::stacks::{self, Task, Then};
use crate::ffi::{kernel_memory, log, wait};
use crate::policies::Rule;
use crate::refused::to_core;
use crate::watched::{self, Watched};

/// How handlers know which edition an object has.
#[derive(Default)]
pub(super) struct ByObject {
    /// Whether transition handlers count.
    counts: bool,
    words: Option<CounterWords>,
    /// Where the handlers are.
    handlers: Option<Range>,
    /// Where counted calls return to, by address.
    labels: Vec<Label>,
    moving: Moving,
    /// Room for what counters were before a look.
    noted: Vec<u64>,
}

/// Bytes of `call __fentry__`.
const FENTRY: u64 = 5;

impl ByObject {
    /// A handler that does not count takes calls.
    pub(super) fn lose_count(&mut self) {
        self.moving.lose_count();
    }

    /// Whether transition handlers count.
    pub(super) fn count(&self) -> bool {
        self.counts
    }

    /// All calls take one edition again, and are not counted; those that are under way go on as they began.
    pub(super) fn end(&mut self) {
        self.moving.end();
    }

    /// Whether a look finds a task on the way to an edition; `watched` is what is left there.
    fn finds(
        &self,
        look: Look,
        active: bool,
        task: &Task<'_>,
        watched: &Watched,
    ) -> Option<Blocked> {
        let handlers = self.handlers?;
        let decides = |trace: &[u64]| {
            uncounted(trace, &[], handlers, &self.labels).map(|_| (Place::Handler, 1))
        };
        watched.finds(task, |trace, ranges| match look {
            Look::Uncounted => {
                let frame = uncounted(trace, ranges, handlers, &self.labels)?;
                Some((watched.place_of(*trace.get(frame)?), 1))
            }
            Look::Deciding => decides(trace),
            Look::Counted => match calls_of(!active, trace, &self.labels) {
                (calls, Some(function)) => Some((Place::Function(function), calls)),
                (_, None) => decides(trace),
            },
        })
    }
}

/// The counters, once calls are counted.
fn counters_in(words: &Option<CounterWords>) -> Result<Counters<'_>, Errno> {
    words.as_ref().and_then(CounterWords::get).ok_or(INVALID)
}

impl KernelLayer {
    /// Whether transition handlers are to count, from now on. Nobody is in one.
    pub(super) fn count_objects(&mut self, counts: bool) -> Result<(), KernelErrno> {
        self.objects = ByObject::default();
        if !counts {
            return Ok(());
        }
        let address = |index: u32| self.addresses.get(index as usize).copied();
        let at = self.record.counters().and_then(address);
        let words = at.and_then(|at| CounterWords::find(at, &self.ranges));
        let words = words.ok_or(KernelErrno::EINVAL)?;
        words.get().ok_or(KernelErrno::EINVAL)?.clear();
        let mut labels = Vec::new();
        for (index, function) in self.record.replaced() {
            let (record, addresses) = (&self.record, self.addresses);
            let found = counting_of(&function, record, addresses, &self.ranges, self.active);
            let returns = found.ok_or(KernelErrno::EINVAL)?.returns;
            for (address, edition) in returns.into_iter().zip([false, true]) {
                labels.try_push(Label { address, function: index, edition })?;
            }
        }
        sort_by_key(&mut labels, |label| label.address);
        let noted = Vec::try_filled(0, COUNT as usize)?;
        let handlers = Some(watched::handlers(&self.record, self.addresses)?);
        self.objects =
            ByObject { counts, words: Some(words), handlers, labels, noted, ..ByObject::default() };
        Ok(())
    }

    /// Whether the handler of a function counts, also when all objects have moved.
    pub(crate) fn counts(&self, index: u32, rule: Rule) -> bool {
        // Also while it is to leave at another's switch: the handler asks the flag first, and if it then stays, calls have been
        // counted all along.
        self.objects.counts && rule == Rule::Always && self.replacing.under(index).is_none()
    }

    /// Writes the way on in edition 0 of a function, to which no call goes and on which nobody is.
    pub(super) fn write_original(&mut self, index: u32) -> Result<(), Errno> {
        let (function, address) = self.function(index)?;
        let at = *self.addresses.get(function.original as usize).ok_or(INVALID)?;
        let to = address
            .checked_add(u64::from(function.fentry))
            .and_then(|site| site.checked_add(FENTRY))
            .ok_or(INVALID)?;
        let jump = to_original(at, to).ok_or(INVALID)?;
        // SAFETY: room for a jump, in code of the update that is made for this; it leads into the function behind its call
        // of ftrace, where its entry goes on too.
        unsafe { kernel_memory::write(self.own()?, at, &jump) }.map_err(to_core)
    }

    /// All objects have the update's edition, and all calls are counted: nobody has called the functions yet.
    pub(super) fn count_from_the_beginning(&mut self) -> Result<(), Errno> {
        let counters = counters_in(&self.objects.words)?;
        self.objects.moving.begin_anew(&counters, true);
        // After the counters, which whoever finds this uses.
        self.active.singly(true);
        Ok(())
    }

    /// Has objects move to the update's edition, or back.
    pub(super) fn turn_objects(&mut self, active: bool) -> Result<(), Errno> {
        let counters = counters_in(&self.objects.words)?;
        let begins = !self.objects.moving.is_under_way();
        if !self.objects.moving.turn(&counters, self.active.get(), active) {
            log::error(format_args!(
                "{}: calls are still counted that began when objects moved before",
                self.record.name()
            ));
            return Err(to_core(KernelErrno::EAGAIN));
        }
        // After the counters, which whoever finds this uses.
        self.active.singly(active);
        // Tasks that had left the list of tasks by now, and so are not looked at, are past what they were in.
        if begins {
            wait::synchronize_rcu_tasks();
        }
        Ok(())
    }

    /// Moves objects; whether all have.
    pub(super) fn move_objects(
        &mut self,
        active: bool,
        blockers: &mut Blockers,
    ) -> Result<bool, Errno> {
        let watched = if active { &self.left_on_activation } else { &self.left_on_revert };
        let counters = counters_in(&self.objects.words)?;
        let (mut moving, mut noted) = (self.objects.moving, take(&mut self.objects.noted));
        let (objects, stack) = (&self.objects, &mut self.stack);
        let all = moving.advance(&counters, active, &mut noted, blockers, |look, blockers| {
            look_at_all(stack, blockers, |task| objects.finds(look, active, task, watched));
        });
        (self.objects.moving, self.objects.noted) = (moving, noted);
        let all = all.ok_or(INVALID)?;
        if all && active {
            self.objects.moving.arrive();
        } else if all {
            self.active.set(false);
            self.objects.end();
        }
        Ok(all)
    }

    /// Wakes those that sleep in the way.
    pub(super) fn wake_objects(&mut self, active: bool) {
        let watched = if active { &self.left_on_activation } else { &self.left_on_revert };
        let objects = &self.objects;
        let Ok(counters) = counters_in(&objects.words) else { return };
        let look = objects.moving.awaits(&counters, active);
        stacks::each_live_task(&mut self.stack, true, |task| {
            let blocks = objects.finds(look, active, task, watched);
            if blocks.is_some() { Then::Wake } else { Then::GoOn }
        });
    }
}
