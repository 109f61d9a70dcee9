//! Takes an update through its states. What a step did to the kernel is noted, and undone in reverse order.

use dynamos_abi::{Record, function_flags};

use super::{Blockers, Errno, Handler, Layer, State, Step, Steps};
use crate::budget::Budget;
use crate::candidates::Names;
use crate::refusal::{Name, Refusal};
use crate::relocate::{Range, relocate};
use crate::resolve::{Resolved, function_name, names_of, resolve};

/// How long a switch may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Give up after waiting so long.
    pub wait_ms: u32,
    /// First pause between two tries; each is twice as long as the one before.
    pub first_pause_ms: u32,
    /// Longest pause.
    pub longest_pause_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { wait_ms: 30_000, first_pause_ms: 10, longest_pause_ms: 500 }
    }
}

/// An update on its way. Whoever drives it must be the only one to do so.
#[derive(Debug)]
pub struct Update<'a> {
    record: Record<'a>,
    name: Name,
    state: State,
    steps: Steps,
    resolved: Option<Resolved>,
    blockers: Blockers,
}

impl<'a> Update<'a> {
    /// An update that has done nothing yet.
    pub fn new(record: &Record<'a>) -> Result<Self, Refusal<'a>> {
        let name = record.name();
        Ok(Update {
            name: Name::new(name).ok_or(Refusal::BadName { name })?,
            steps: Steps::with_room(record.functions().len(), record.objects().len())?,
            record: *record,
            state: State::Loading,
            resolved: None,
            blockers: Blockers::default(),
        })
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its name.
    pub fn name(&self) -> Name {
        self.name
    }

    /// Its record.
    pub fn record(&self) -> &Record<'a> {
        &self.record
    }

    /// What has been done to the kernel and not undone.
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// What was found and proven, once registered.
    pub fn resolved(&self) -> Option<&Resolved> {
        self.resolved.as_ref()
    }

    /// The tasks that held up the last try to switch.
    pub fn blockers(&self) -> &Blockers {
        &self.blockers
    }

    /// Keeps the target modules loaded: before their symbols are collected.
    pub fn pin(&mut self, layer: &mut dyn Layer) -> Result<(), Refusal<'a>> {
        self.expect(State::Loading, State::Registered)?;
        for object in 0..self.record.objects().len() {
            let step = Step::TargetPinned(object);
            if let Err(refusal) = self.try_step(step, || layer.pin_target(object)) {
                self.discard(layer)?;
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Proves that the running code is what the update was made for. The kernel is only read.
    pub fn prepare(
        &mut self,
        layer: &mut dyn Layer,
        names: &dyn Names,
        budget: &mut Budget,
    ) -> Result<(), Refusal<'a>> {
        self.expect(State::Loading, State::Registered)?;
        match resolve(&self.record, names, layer, budget) {
            Ok(resolved) => {
                self.resolved = Some(resolved);
                self.enter(layer, State::Registered);
                Ok(())
            }
            Err(refusal) => {
                self.discard(layer)?;
                Err(refusal)
            }
        }
    }

    /// Makes the update's editions run. If that fails, everything is as before, but for what a refusal with
    /// `undone: false` says.
    pub fn activate(
        &mut self,
        layer: &mut dyn Layer,
        addresses: &[u64],
        writable: &[Range],
        limits: Limits,
    ) -> Result<(), Refusal<'a>> {
        self.expect(State::Registered, State::Transitioning)?;
        self.enter(layer, State::Transitioning);
        let before = self.steps.done().len();
        if let Err(refusal) = self.redirect_and_flip(layer, addresses, writable, limits) {
            return Err(match self.remove(layer, before) {
                Ok(()) => {
                    self.enter(layer, State::Registered);
                    refusal
                }
                Err(left) => {
                    layer.log(format_args!("{}: activation failed: {refusal}", self.name));
                    self.enter(layer, State::Reverting);
                    left
                }
            });
        }
        self.enter(layer, State::Active);
        self.settle(layer);
        Ok(())
    }

    /// Makes edition 0 run again and takes everything away. If a task will not leave the update's code, the
    /// update stays active. A refusal with `undone: false` leaves it `Reverting`: edition 0 runs, and another
    /// call goes on.
    pub fn revert(&mut self, layer: &mut dyn Layer, limits: Limits) -> Result<(), Refusal<'a>> {
        if self.state != State::Reverting {
            self.expect(State::Active, State::Reverting)?;
            self.enter(layer, State::Reverting);
        }
        if let Err(refusal) = self.flip_back(layer, limits) {
            self.enter(layer, State::Active);
            self.settle(layer);
            return Err(refusal);
        }
        self.remove(layer, 0)?;
        self.enter(layer, State::Reverted);
        Ok(())
    }

    /// Lets go of everything: before the update's module is unloaded.
    pub fn discard(&mut self, layer: &mut dyn Layer) -> Result<(), Refusal<'a>> {
        if !self.state.may_become(State::Gone) {
            return Err(self.wrong_state(State::Gone));
        }
        self.remove(layer, 0)?;
        self.resolved = None;
        self.enter(layer, State::Gone);
        Ok(())
    }

    /// All steps of an activation up to the switch.
    fn redirect_and_flip(
        &mut self,
        layer: &mut dyn Layer,
        addresses: &[u64],
        writable: &[Range],
        limits: Limits,
    ) -> Result<(), Refusal<'a>> {
        self.write_relocations(layer, addresses, writable)?;
        self.try_step(Step::LateSections, || layer.late_sections())?;
        for (index, function) in (0u32..).zip(self.record.functions().iter()) {
            if function.flags & function_flags::REPLACE != 0 {
                self.try_step(Step::Redirected(index), || layer.register_redirect(index))?;
            }
        }
        self.flip(layer, true, limits)?;
        self.steps.note(Step::Flipped);
        Ok(())
    }

    fn write_relocations(
        &mut self,
        layer: &mut dyn Layer,
        addresses: &[u64],
        writable: &[Range],
    ) -> Result<(), Refusal<'a>> {
        let resolved = self.resolved.as_ref().ok_or(Refusal::Record("not resolved"))?;
        if addresses.len() != self.record.addr_count() as usize {
            return Err(Refusal::Record("number of addresses"));
        }
        for relocation in self.record.relocations().iter() {
            let patch =
                relocate(&self.record, &relocation, &resolved.symbols, addresses, writable)?;
            let mut found = [0; 8];
            let found = found.get_mut(..patch.before().len()).unwrap_or_default();
            if !layer.read(patch.address, found) || found != patch.before() {
                let symbol = names_of(&self.record, relocation.symbol).0;
                return Err(Refusal::NoReference { symbol });
            }
            layer
                .write_text(patch.address, patch.bytes())
                .map_err(|errno| self.failed(Step::SectionsRelocated, errno))?;
        }
        self.steps.note(Step::SectionsRelocated);
        Ok(())
    }

    /// Switches, once no task is in the code to be left; tries again until the time limit.
    fn flip(
        &mut self,
        layer: &mut dyn Layer,
        active: bool,
        limits: Limits,
    ) -> Result<(), Refusal<'a>> {
        if active && !self.steps.has_room() {
            return Err(Refusal::OutOfMemory);
        }
        let (mut waited, mut pause) = (0u32, limits.first_pause_ms);
        loop {
            let mut blockers = Blockers::default();
            let flipped = layer.check_and_flip(active, &mut blockers);
            if let Ok(true) = flipped {
                blockers = Blockers::default();
            }
            self.blockers = blockers;
            match flipped {
                Ok(true) => return Ok(()),
                Ok(false) => layer.progress(self.state, &self.blockers),
                Err(errno) => return Err(self.failed(Step::Flipped, errno)),
            }
            if waited >= limits.wait_ms {
                return Err(self.blocked(layer, waited, false));
            }
            let next = pause.min(limits.longest_pause_ms).min(limits.wait_ms - waited).max(1);
            if !layer.wait(next) {
                return Err(self.blocked(layer, waited, true));
            }
            waited = waited.saturating_add(next);
            pause = pause.saturating_mul(2);
        }
    }

    /// Undoes `Steady` and `Flipped`: all of it, or what was done by halves means nothing to callers (a
    /// transition handler calls the active edition too).
    fn flip_back(&mut self, layer: &mut dyn Layer, limits: Limits) -> Result<(), Refusal<'a>> {
        while let Some(Step::Steady(index)) = self.steps.last() {
            layer
                .modify_redirect(index, Handler::Transition)
                .map_err(|errno| self.failed(Step::Steady(index), errno))?;
            self.steps.pop();
        }
        if self.steps.last() == Some(Step::Flipped) {
            self.flip(layer, false, limits)?;
            self.steps.pop();
        }
        Ok(())
    }

    /// Gives functions their steady handler. One that stays in transition is slower and nothing else, so a
    /// failure is only logged.
    fn settle(&mut self, layer: &mut dyn Layer) {
        for (index, function) in (0u32..).zip(self.record.functions().iter()) {
            let step = Step::Steady(index);
            let replaced = function.flags & function_flags::REPLACE != 0;
            if !replaced || self.steps.done().contains(&step) {
                continue;
            }
            let steady = || layer.modify_redirect(index, Handler::Steady);
            if let Err(refusal) = self.try_step(step, steady) {
                layer.log(format_args!("{}: {refusal}; calls take longer", self.name));
            }
        }
    }

    /// Undoes what was done before the switch, until `keep` steps are left.
    ///
    /// A redirection that cannot be removed stays noted, and with it all that it needs.
    fn remove(&mut self, layer: &mut dyn Layer, keep: usize) -> Result<(), Refusal<'a>> {
        let mut failed = None;
        let mut removed = false;
        for at in (keep..self.steps.done.len()).rev() {
            let Some(&Step::Redirected(index)) = self.steps.done.get(at) else { continue };
            match layer.unregister_redirect(index) {
                Ok(()) => {
                    self.steps.done.remove(at);
                    removed = true;
                }
                Err(errno) => failed = Some((index, errno)),
            }
        }
        if removed {
            layer.synchronize();
        }
        if let Some((index, errno)) = failed {
            let function = function_name(&self.record, index);
            let step = Step::Redirected(index);
            return Err(Refusal::Failed { step, function, errno, undone: false });
        }
        while self.steps.done.len() > keep {
            match self.steps.last() {
                Some(Step::LateSections) => layer.undo_late_sections(),
                Some(Step::TargetPinned(object)) => layer.unpin_target(object),
                _ => {}
            }
            self.steps.pop();
        }
        Ok(())
    }

    /// Does a step and notes it.
    fn try_step(
        &mut self,
        step: Step,
        act: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Refusal<'a>> {
        if !self.steps.has_room() {
            return Err(Refusal::OutOfMemory);
        }
        act().map_err(|errno| self.failed(step, errno))?;
        self.steps.note(step);
        Ok(())
    }

    fn failed(&self, step: Step, errno: Errno) -> Refusal<'a> {
        let function = match step {
            Step::Redirected(index) | Step::Steady(index) => function_name(&self.record, index),
            Step::TargetPinned(index) => {
                self.record.objects().get(index).map_or("", |object| self.record.str(object.name))
            }
            _ => "",
        };
        Refusal::Failed { step, function, errno, undone: true }
    }

    fn blocked(&self, layer: &mut dyn Layer, waited_ms: u32, interrupted: bool) -> Refusal<'a> {
        layer.log(format_args!(
            "{}: in the code to be switched: {}",
            self.name,
            self.blockers.named(&self.record)
        ));
        let Some(&task) = self.blockers.first().next() else {
            return Refusal::Busy { waited_ms, interrupted };
        };
        let function = task.function(&self.record);
        let count = self.blockers.count();
        Refusal::Blocked { waited_ms, interrupted, count, task, function }
    }

    fn enter(&mut self, layer: &mut dyn Layer, state: State) {
        self.state = state;
        layer.progress(state, &self.blockers);
    }

    fn expect(&self, state: State, wanted: State) -> Result<(), Refusal<'a>> {
        if self.state == state { Ok(()) } else { Err(self.wrong_state(wanted)) }
    }

    fn wrong_state(&self, wanted: State) -> Refusal<'a> {
        Refusal::WrongState { update: self.name, state: self.state, wanted }
    }
}
