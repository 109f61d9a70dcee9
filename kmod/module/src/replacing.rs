//! An update in the place of others: their redirections are handed to it, and they leave at its switch.
//!
//! Of a function's calls only one redirection can decide. So the update that comes takes it over from the one that has
//! it, and until the switch sends calls where that one would. A switch that comes to nothing hands it back.

use alloc::boxed::Box;
use alloc::vec::Vec;

use dynamos_abi::policy as place;
use dynamos_core::{Errno, HANDLER_LEN, Handler, Place, UpdateId, choice};

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

/// What an update knows of those that it takes the place of, and of the one that takes its own.
#[derive(Default)]
pub(crate) struct Replacing {
    /// Those whose place it takes, from the registration on until all is settled: nobody else can have them.
    pub(crate) others: Vec<(UpdateId, Box<Work>)>,
    /// Their flags, while a switch is theirs too.
    flags: Vec<ActiveFlag>,
    /// For each function: where calls go until the switch, and whose that is.
    taken: Vec<Option<Taken>>,
    /// For each function: another update has the redirection.
    handed: Vec<bool>,
    /// It is about to leave, at another update's switch.
    leaving: bool,
    /// Somebody may be in code of a slot that is in use no more.
    stale: bool,
    /// Somebody may be on the way here through the handler of the update that took the place.
    awaited: bool,
}

/// Where calls of a function went before.
#[derive(Clone, Copy)]
struct Taken {
    entry: u64,
    other: usize,
    function: u32,
}

impl Replacing {
    pub(crate) fn new(functions: usize) -> Result<Self, KernelErrno> {
        let (taken, handed) =
            (Vec::try_filled(None, functions)?, Vec::try_filled(false, functions)?);
        Ok(Self { taken, handed, ..Self::default() })
    }

    /// Where calls of a function go until the switch, if not to edition 0.
    pub(crate) fn under(&self, function: u32) -> Option<u64> {
        self.taken.get(function as usize).copied().flatten().map(|taken| taken.entry)
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

    /// Waits until nobody is in slots that are in use no more: before one is written.
    pub(crate) fn freshen(&mut self) {
        if self.stale {
            synchronize();
            self.stale = false;
        }
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
    ) -> Result<(), KernelErrno> {
        self.replacing.others = others;
        self.replacing.leaving = false;
        self.replacing.handed.fill(false);
        self.replacing.taken.fill(None);
        for (at, (_, work)) in self.replacing.others.iter().enumerate() {
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
                    *slot = Some(Taken { entry, other: at, function });
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
        let (_, work) = self.replacing.others.get_mut(taken.other).ok_or(INVALID)?;
        let theirs = &mut work.layer;
        theirs.redirect(taken.function, to)?;
        let from = theirs.redirects.get_mut(taken.function as usize).ok_or(INVALID)?;
        let slot = self.redirects.get_mut(function as usize).ok_or(INVALID)?;
        *slot = from.take();
        if let Some(handed) = theirs.replacing.handed.get_mut(taken.function as usize) {
            *handed = true;
        }
        Ok(true)
    }

    /// Hands the redirection of a function back; `false` if it is nobody's.
    pub(crate) fn hand_back(&mut self, function: u32) -> Result<bool, Errno> {
        let taken = self.replacing.taken.get(function as usize).copied().flatten();
        let Some(taken) = taken else { return Ok(false) };
        self.redirect(function, taken.entry)?;
        self.replacing.stale = true;
        let slot = self.redirects.get_mut(function as usize).ok_or(INVALID)?;
        let (_, work) = self.replacing.others.get_mut(taken.other).ok_or(INVALID)?;
        let theirs = &mut work.layer;
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
        let (entry, _) = self.function(function)?;
        let base = self.addresses().get(entry.policy as usize).copied().ok_or(INVALID)?;
        let on = self.handler(function, Handler::Steady, rule)?;
        let off = self.replacing.under(function).unwrap_or(base + place::LEAVE);
        let mut code = [0; HANDLER_LEN];
        let past = place::PAST_ENDBR;
        choice(at, self.active.address(), on + past, off + past, &mut code).ok_or(INVALID)?;
        self.replacing.freshen();
        // SAFETY: a slot for code of this kind, to which no call goes and in which nobody is left.
        unsafe { kernel_memory::write(self.own()?, at, &code) }.map_err(to_core)
    }

    /// Has the others ask their flags. All of them or none.
    pub(crate) fn make_others_ready(&mut self) -> Result<(), Errno> {
        for at in 0..self.replacing.others.len() {
            let Some((_, work)) = self.replacing.others.get_mut(at) else { continue };
            let flag = work.layer.active;
            work.layer.replacing.leaving = true;
            let ready = work.update.make_ready(&mut work.layer).is_ok();
            if !ready || self.replacing.flags.try_push(flag).is_err() {
                self.have_others_stay();
                return Err(to_core(KernelErrno::EBUSY));
            }
        }
        Ok(())
    }

    pub(crate) fn have_others_stay(&mut self) {
        self.replacing.flags.clear();
        for (_, work) in &mut self.replacing.others {
            work.layer.replacing.leaving = false;
            work.layer.replacing.stale = true;
            work.update.stay(&mut work.layer);
        }
    }

    pub(crate) fn have_others_leave(&mut self) {
        self.replacing.flags.clear();
        self.replacing.taken.fill(None);
        self.replacing.stale = true;
        if let Err(refusal) = STATE.lock().registry.manager.switched(self.id) {
            log::error(format_args!("{}: {refusal}", self.record.name()));
        }
        for (_, work) in &mut self.replacing.others {
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
