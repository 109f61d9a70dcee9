//! An update in the place of others, or over them: their redirections are handed to it. Where it takes their place they
//! leave at its switch.
//!
//! Of a function's calls only one redirection can decide. So the update that comes takes it over from the one that has
//! it, and until the switch sends calls where that one would. A switch that comes to nothing hands it back; so does the
//! revert of one that lies over others ([`crate::stacking`]).

use alloc::boxed::Box;
use alloc::vec::Vec;

use dynamos_abi::policy as place;
use dynamos_core::{Errno, HANDLER_LEN, Handler, Over, Place, UpdateId, choice};

use crate::ffi::errno::Errno as KernelErrno;
use crate::ffi::kernel_memory;
use crate::ffi::memory::TryVec;
use crate::ffi::update::ActiveFlag;
use crate::ffi::{log, wait};
use crate::layer::{INVALID, KernelLayer};
use crate::module::STATE;
use crate::policies::Rule;
use crate::refused::to_core;
use crate::work::Work;

/// What an update knows of those that it takes the place of or lies over, and of the one that has done so with it.
#[derive(Default)]
pub(crate) struct Replacing {
    /// Those whose place it takes, or that hang together with it, while it moves: nobody else can have them.
    pub(crate) others: Vec<(UpdateId, Box<Work>)>,
    /// They stay below it.
    pub(crate) stacks: bool,
    /// Their flags, while a switch is theirs too.
    flags: Vec<ActiveFlag>,
    /// For each function: where calls go until the switch, and whose that is. They go there afterwards too if it lies
    /// over that one and does not take them.
    pub(crate) taken: Vec<Option<Taken>>,
    /// For each function: another update has the redirection.
    handed: Vec<bool>,
    /// It is about to leave, at another update's switch.
    leaving: bool,
    /// Somebody may be in code of a slot that is in use no more.
    pub(crate) stale: bool,
    /// Somebody may be on the way here through the handler of the update that took the place, or lies above.
    pub(crate) awaited: bool,
}

/// Where calls of a function went before.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) entry: u64,
    pub(crate) other: UpdateId,
    pub(crate) function: u32,
}

impl Replacing {
    pub(crate) fn new(functions: usize) -> Result<Self, KernelErrno> {
        let (taken, handed) =
            (Vec::try_filled(None, functions)?, Vec::try_filled(false, functions)?);
        Ok(Self { taken, handed, ..Self::default() })
    }

    /// One of the others.
    pub(crate) fn other(&mut self, wanted: UpdateId) -> Option<&mut Work> {
        self.others.iter_mut().find(|(id, _)| *id == wanted).map(|(_, work)| &mut **work)
    }

    /// Whether it lies over others, or is about to.
    pub(crate) fn lies_over(&self) -> bool {
        self.stacks && self.taken.iter().any(Option::is_some)
    }

    /// It has no redirections, so it lies over nothing.
    pub(crate) fn lie_alone(&mut self) {
        self.taken.fill(None);
        self.stacks = false;
    }

    /// Where calls of a function go that this does not take, if not to edition 0.
    pub(crate) fn under(&self, function: u32) -> Option<u64> {
        self.taken.get(function as usize).copied().flatten().map(|taken| taken.entry)
    }

    /// The same where it lies over another and stays so. What takes others' place leads to edition 0 after its switch.
    pub(crate) fn below(&self, function: u32) -> Option<u64> {
        self.under(function).filter(|_| self.stacks)
    }

    /// Whether another update has the redirection.
    pub(crate) fn is_handed(&self, function: u32) -> bool {
        self.handed.get(function as usize).copied().unwrap_or(false)
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// At the switch: the others' calls go too. Each flag is read on its own, so only where CPUs are stopped is it one
    /// instant.
    pub(crate) fn clear_flags(&self) {
        for flag in &self.flags {
            flag.set(false);
        }
    }

    /// Waits until nobody is in slots that are in use no more: before one is written, or goes. Whether it had to.
    pub(crate) fn freshen(&mut self) -> bool {
        let stale = core::mem::take(&mut self.stale);
        if stale {
            synchronize();
        }
        stale
    }

    /// Waits until whoever has read the flag of the update that took the place, before its switch, has come here or
    /// gone elsewhere: before tasks are looked at.
    pub(crate) fn await_comers(&mut self) {
        if self.awaited {
            synchronize();
            self.awaited = false;
        }
    }
}

/// Whoever is in a handler has left it then, also who was preempted there.
fn synchronize() {
    wait::synchronize_rcu_tasks_rude();
    wait::synchronize_rcu_tasks();
}

impl KernelLayer {
    /// Takes the others in, and notes where calls go that are theirs.
    pub(crate) fn take_others(
        &mut self,
        others: Vec<(UpdateId, Box<Work>)>,
        over: Over,
    ) -> Result<(), KernelErrno> {
        self.replacing.others = others;
        self.replacing.stacks = over == Over::Stack;
        self.replacing.leaving = false;
        self.replacing.handed.fill(false);
        self.replacing.taken.fill(None);
        for (id, work) in &self.replacing.others {
            let layer = &work.layer;
            self.left_on_activation.also(layer.text(), Place::Other)?;
            for (index, _) in self.record.replaced() {
                let address = self.functions.get(index as usize);
                let mut theirs = layer.record.replaced().map(|(theirs, _)| theirs);
                let Some(function) = theirs.find(|theirs| {
                    layer.functions.get(*theirs as usize) == address
                        && layer.has_redirection(*theirs)
                }) else {
                    continue;
                };
                let rule = layer.policies.rule(function);
                let entry = layer
                    .handler(function, Handler::Steady, rule)
                    .map_err(|_| KernelErrno::EINVAL)?;
                if let Some(slot) = self.replacing.taken.get_mut(index as usize) {
                    *slot = Some(Taken { entry, other: *id, function });
                }
            }
        }
        Ok(())
    }

    /// Takes over the redirection of a function; `false` if there is none.
    pub(crate) fn take_redirection(&mut self, function: u32) -> Result<bool, Errno> {
        let taken = self.replacing.taken.get(function as usize).copied().flatten();
        let Some(taken) = taken else { return Ok(false) };
        self.write_choice(function)?;
        let to = self.handler(function, Handler::Transition, self.policies.rule(function))?;
        let theirs = &mut self.replacing.other(taken.other).ok_or(INVALID)?.layer;
        let before = theirs.redirects.get(taken.function as usize).and_then(Option::as_ref);
        let steady = before.is_some_and(|before| before.handler() == taken.entry);
        theirs.redirect(taken.function, to)?;
        let from = theirs.redirects.get_mut(taken.function as usize).ok_or(INVALID)?;
        let slot = self.redirects.get_mut(function as usize).ok_or(INVALID)?;
        *slot = from.take();
        if let Some(handed) = theirs.replacing.handed.get_mut(taken.function as usize) {
            *handed = true;
        }
        if !steady {
            // It still asked the flag, and may have led to an update that has gone since. After this grace period nobody
            // is on the way to the flag by what it led to, whoever changes it.
            self.replacing.stale = true;
            self.replacing.freshen();
        }
        Ok(true)
    }

    /// Hands the redirection of a function back; `false` if it is nobody's.
    pub(crate) fn hand_back(&mut self, function: u32) -> Result<bool, Errno> {
        let taken = self.replacing.taken.get(function as usize).copied().flatten();
        let Some(taken) = taken else { return Ok(false) };
        let theirs = &mut self.replacing.other(taken.other).ok_or(INVALID)?.layer;
        if theirs.has_redirection(taken.function) {
            return Err(INVALID);
        }
        self.redirect(function, taken.entry)?;
        self.replacing.stale = true;
        let slot = self.redirects.get_mut(function as usize).ok_or(INVALID)?;
        let theirs = &mut self.replacing.other(taken.other).ok_or(INVALID)?.layer;
        let back = theirs.redirects.get_mut(taken.function as usize).ok_or(INVALID)?;
        *back = slot.take();
        if let Some(handed) = theirs.replacing.handed.get_mut(taken.function as usize) {
            *handed = false;
        }
        Ok(true)
    }

    /// The slot that is not the policy's.
    pub(crate) fn choice_place(&self, function: u32) -> Result<u64, Errno> {
        let (entry, _) = self.function(function)?;
        let base = self.addresses().get(entry.policy as usize).copied().ok_or(INVALID)?;
        let first = base + place::SLOTS;
        let used = self.policies.rule(function) == Rule::Slot(first);
        Ok(if used { first + place::SLOT } else { first })
    }

    /// Writes the handler that asks the flag, where the update's own does not lead to the right places.
    pub(crate) fn write_choice(&mut self, function: u32) -> Result<(), Errno> {
        let rule = self.policies.rule(function);
        let at = self.choice_place(function)?;
        if self.handler(function, Handler::Transition, rule)? != at {
            return Ok(());
        }
        if self.asks_task(function, rule) {
            self.replacing.freshen();
            return self.write_asking(function, at);
        }
        let (entry, _) = self.function(function)?;
        let base = self.addresses().get(entry.policy as usize).copied().ok_or(INVALID)?;
        let on = self.handler(function, Handler::Steady, rule)?;
        // Where this leaves, those below leave at the same switch.
        let under = self.replacing.under(function).filter(|_| !self.replacing.leaving);
        let off = under.unwrap_or(base + place::LEAVE);
        let mut code = [0; HANDLER_LEN];
        let past = place::PAST_ENDBR;
        choice(at, self.active.address(), on + past, off + past, &mut code).ok_or(INVALID)?;
        self.replacing.freshen();
        // SAFETY: a slot for code of this kind, to which no call goes and in which nobody is left.
        unsafe { kernel_memory::write(self.own()?, at, &code) }.map_err(to_core)
    }

    /// Has the others ask their flags. All of them or none. Those that stay need not.
    pub(crate) fn make_others_ready(&mut self) -> Result<(), Errno> {
        if self.replacing.stacks {
            return Ok(());
        }
        for at in 0..self.replacing.others.len() {
            let Some((_, work)) = self.replacing.others.get_mut(at) else { continue };
            let flag = work.layer.active;
            let settled = work.layer.settle_rest().is_ok();
            work.layer.replacing.leaving = true;
            // What had no steady handler was not sent anywhere: it may lead to another one that leaves.
            let ready = settled
                && work.update.make_ready(&mut work.layer).is_ok()
                && work.layer.gather_strays().is_ok();
            if !ready || self.replacing.flags.try_push(flag).is_err() {
                self.have_others_stay();
                return Err(to_core(KernelErrno::EBUSY));
            }
        }
        Ok(())
    }

    pub(crate) fn have_others_stay(&mut self) {
        if self.replacing.stacks {
            return;
        }
        self.replacing.flags.clear();
        for (_, work) in &mut self.replacing.others {
            work.layer.replacing.leaving = false;
            work.layer.replacing.stale = true;
            work.update.stay(&mut work.layer);
        }
    }

    pub(crate) fn have_others_leave(&mut self) {
        self.replacing.flags.clear();
        self.replacing.stale = true;
        if !self.replacing.stacks {
            self.replacing.taken.fill(None);
        }
        if let Err(refusal) = STATE.lock().registry.manager.switched(self.id) {
            log::error(format_args!("{}: {refusal}", self.record.name()));
        }
        if self.replacing.stacks {
            for (id, work) in &self.replacing.others {
                let mut taken = self.replacing.taken.iter().flatten();
                if taken.any(|taken| taken.other == *id) {
                    let (name, below) = (self.record.name(), work.update.name());
                    log::info(format_args!("{name}: lies over {below}"));
                }
            }
            return;
        }
        for (_, work) in &mut self.replacing.others {
            work.layer.replacing.lie_alone();
            work.layer.replacing.awaited = true;
            work.layer.replacing.stale = true;
            if let Err(refusal) = work.update.leave(&mut work.layer) {
                log::error(format_args!("{}: {refusal}", work.update.name()));
            }
            log::info(format_args!(
                "{}: {} takes its place",
                work.update.name(),
                self.record.name()
            ));
        }
    }
}
