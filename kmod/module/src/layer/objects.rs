//! Scope `object`: each object that calls work on takes one edition, and moves to the other when no call works on it.

use alloc::vec::Vec;

use dynamos_abi::policy as place;
use dynamos_core::counters::{
    COUNTING_LEN, Counters, Label, Leads, calls_of, counting_handler, to_original, uncounted,
};
use dynamos_core::{Blocked, Blockers, Errno, Place, Range, sort_by_key};

use super::{INVALID, KernelLayer, look_at_all};
use crate::ffi::counters::CounterWords;
use crate::ffi::errno::Errno as KernelErrno;
use crate::ffi::memory::TryVec;
use crate::ffi::stacks::{self, Task, Then};
use crate::ffi::{kernel_memory, log};
use crate::policies::Rule;
use crate::refused::to_core;
use crate::watched::Watched;

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
    /// Where objects are moving to.
    toward: Option<bool>,
    /// Whether one may have moved since calls are counted.
    began: bool,
}

/// Bytes of `call __fentry__`.
const FENTRY: u64 = 5;

impl ByObject {
    /// Whether transition handlers count.
    pub(super) fn count(&self) -> bool {
        self.counts
    }

    /// All calls take one edition again, and are not counted; those that are under way go on as they began.
    pub(super) fn end(&mut self) {
        self.toward = None;
    }

    fn counters(&self) -> Result<Counters<'_>, Errno> {
        self.words.as_ref().and_then(CounterWords::get).ok_or(INVALID)
    }

    /// Whether a task is in a call of the edition `from` that is not counted, or in a handler.
    fn strays(&self, task: &Task<'_>, watched: &Watched) -> Option<Blocked> {
        let handlers = self.handlers?;
        watched.finds(task, |trace, ranges| {
            let frame = uncounted(trace, ranges, handlers, &self.labels)?;
            Some((watched.place_of(*trace.get(frame)?), 1))
        })
    }

    /// Whether a task is in a handler.
    fn decides(&self, task: &Task<'_>, watched: &Watched) -> Option<Blocked> {
        let handlers = self.handlers?;
        watched.finds(task, |trace, _| {
            uncounted(trace, &[], handlers, &self.labels).map(|_| (Place::Handler, 1))
        })
    }

    /// Whether a task is in a counted call of an edition.
    fn is_in(&self, edition: bool, task: &Task<'_>, watched: &Watched) -> Option<Blocked> {
        watched.finds(task, |trace, _| {
            let (calls, function) = calls_of(edition, trace, &self.labels);
            function.map(|function| (Place::Function(function), calls))
        })
    }
}

impl KernelLayer {
    /// Whether transition handlers are to count, from now on. Nobody is in one.
    pub(super) fn count_objects(&mut self, counts: bool) -> Result<(), KernelErrno> {
        self.objects = ByObject::default();
        if !counts {
            return Ok(());
        }
        let address = |index: u32| self.addresses.get(index as usize).copied();
        let at = self.record.counters().and_then(address).ok_or(KernelErrno::EOPNOTSUPP)?;
        let words = CounterWords::find(at, &self.ranges).ok_or(KernelErrno::EINVAL)?;
        let mut labels = Vec::new();
        let mut handlers: Option<Range> = None;
        for (index, function) in self.record.replaced() {
            let get = |index: u32| address(index).ok_or(KernelErrno::EINVAL);
            let counting = get(function.counting)?;
            let leads = Leads {
                clone: get(function.clone)?,
                original: get(function.original)?,
                active: self.active.address(),
                counters: at,
            };
            let mut code = [0; COUNTING_LEN];
            kernel_memory::read(counting, &mut code)?;
            let found = counting_handler(&code, counting, &leads).ok_or(KernelErrno::EINVAL)?;
            for (address, edition) in found.returns.into_iter().zip([false, true]) {
                labels.try_push(Label { address, function: index, edition })?;
            }
            for (start, len) in [
                (get(function.transition)?, 1),
                (get(function.steady)?, 1),
                (get(function.policy)?, place::SIZE),
                (leads.original, 1),
                (counting, COUNTING_LEN as u64),
            ] {
                let end = start.checked_add(len).ok_or(KernelErrno::EINVAL)?;
                let whole = handlers.unwrap_or(Range { start, end });
                handlers = Some(Range { start: whole.start.min(start), end: whole.end.max(end) });
            }
        }
        sort_by_key(&mut labels, |label| label.address);
        self.objects =
            ByObject { counts, words: Some(words), handlers, labels, ..ByObject::default() };
        Ok(())
    }

    /// Whether the transition handler of a function counts.
    pub(crate) fn counts(&self, index: u32, rule: Rule) -> bool {
        self.objects.counts
            && rule == Rule::Always
            && self.replacing.under(index).is_none()
            && !self.replacing.is_leaving()
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

    /// Has objects move to the update's edition, or back.
    pub(super) fn turn_objects(&mut self, active: bool) -> Result<(), Errno> {
        if self.objects.toward.is_none() {
            let current = self.active.get();
            if !self.objects.counters()?.begin(current) {
                log::error(format_args!(
                    "{}: calls are still counted that began when objects moved before",
                    self.record.name()
                ));
                return Err(to_core(KernelErrno::EAGAIN));
            }
            self.objects.began = false;
        }
        // After the counters, which whoever finds this uses.
        self.active.singly(active);
        self.objects.toward = Some(active);
        Ok(())
    }

    /// Moves objects; whether all have.
    pub(super) fn move_objects(
        &mut self,
        active: bool,
        blockers: &mut Blockers,
    ) -> Result<bool, Errno> {
        let goal = self.objects.counters()?.goal();
        if self.objects.toward != Some(active) {
            return Err(INVALID);
        }
        if goal != active {
            self.look(active, blockers, ByObject::strays);
            if blockers.count() > 0 {
                return Ok(false);
            }
            self.objects.began = true;
            self.objects.counters()?.set_goal(active);
        } else if !self.objects.began {
            self.be_all(active);
            return Ok(true);
        }
        if !self.objects.counters()?.move_idle(active) {
            self.look(active, blockers, |objects, task, watched| {
                objects.is_in(!active, task, watched)
            });
            return Ok(false);
        }
        // Nobody who has read the goal before it was set is to be late.
        self.look(active, blockers, ByObject::decides);
        if blockers.count() > 0 || !self.objects.counters()?.move_idle(active) {
            return Ok(false);
        }
        self.be_all(active);
        Ok(true)
    }

    /// All calls take one edition.
    fn be_all(&mut self, active: bool) {
        self.active.set(active);
        self.objects.end();
    }

    /// Looks at one task after the other, and adds those that `finds` is asked for.
    fn look(
        &mut self,
        active: bool,
        blockers: &mut Blockers,
        finds: impl Fn(&ByObject, &Task<'_>, &Watched) -> Option<Blocked>,
    ) {
        let watched = if active { &self.left_on_activation } else { &self.left_on_revert };
        let objects = &self.objects;
        self.switch.tasks =
            look_at_all(&mut self.stack, blockers, |task| finds(objects, task, watched)).tasks;
    }

    /// Wakes those that sleep in the way.
    pub(super) fn wake_objects(&mut self, active: bool) {
        let counted = self.objects.counters().is_ok_and(|counters| counters.goal() == active);
        let watched = if active { &self.left_on_activation } else { &self.left_on_revert };
        let objects = &self.objects;
        stacks::each_live_task(&mut self.stack, true, |task| {
            let blocks = match counted {
                true => objects.is_in(!active, task, watched),
                false => objects.strays(task, watched),
            };
            if blocks.is_some() { Then::Wake } else { Then::GoOn }
        });
    }
}
