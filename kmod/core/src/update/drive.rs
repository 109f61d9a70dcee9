//! Takes an update through its states. What a step did to the kernel is noted, and undone in reverse order.

use dynamos_abi::{HookKind, Record};

use super::hooks::is_held;
use super::others::check_with_others;
use super::{
    Blockers, Errno, Layer, Limits, OnTimeout, Phase, Scope, State, Step, Steps, Switching,
};
use crate::budget::Budget;
use crate::candidates::Names;
use crate::refusal::{Name, Refusal};
use crate::relocate::{Range, relocate};
use crate::resolve::{Resolved, function_name, names_of, resolve};

/// Why this kernel has no scope `task`.
const NO_TRACEPOINTS: &str = "this kernel lacks the tracepoints that tell of tasks that end and of system calls; use --scope system";

/// An update on its way. Whoever drives it must be the only one to do so.
#[derive(Debug)]
pub struct Update<'a> {
    pub(super) record: Record<'a>,
    pub(super) name: Name,
    pub(super) state: State,
    pub(super) scope: Scope,
    pub(super) steps: Steps,
    pub(super) phase: Phase,
    /// Where tasks, or objects, are moving to, one by one.
    pub(super) toward: Option<bool>,
    /// What was asked for last, and not refused, counts for what is held: whether whoever holds it up is woken, and a
    /// phase's least time.
    pub(super) signal: bool,
    pub(super) phase_ms: u32,
    /// When new calls began to take the edition of this phase ([`Layer::now_ms`]).
    pub(super) since_ms: u64,
    /// State was, or may have been, carried over to V2's meaning, and V2's editions may have run since.
    pub(super) transferred: bool,
    /// The log says why it does not come back.
    pub(super) told: bool,
    resolved: Option<Resolved>,
    pub(super) blockers: Blockers,
    /// The hook that has not returned yet.
    pub(super) running: Option<HookKind>,
    /// `after_on` has let it be on: `before_off` is to follow.
    pub(super) on: bool,
    /// It is decided that it goes, whatever a hook says.
    pub(super) must: bool,
    pub(super) has_run: bool,
}

impl<'a> Update<'a> {
    /// An update that has done nothing yet.
    pub fn new(record: &Record<'a>) -> Result<Self, Refusal<'a>> {
        let name = record.name();
        let name = Name::new(name).ok_or(Refusal::BadName { name })?;
        let steps = Steps::with_room(record.functions().len(), record.objects().len())?;
        Ok(Self::with(name, record, steps))
    }

    /// Is as [`Update::new`] makes it, and needs no memory for that. All steps must have been undone.
    pub fn begin_anew(&mut self) {
        let mut steps = core::mem::take(&mut self.steps);
        debug_assert!(steps.done.is_empty(), "{:?} are done", steps.done);
        steps.done.clear();
        *self = Self::with(self.name, &self.record, steps);
    }

    fn with(name: Name, record: &Record<'a>, steps: Steps) -> Self {
        Update {
            name,
            steps,
            record: *record,
            state: State::Loading,
            scope: Scope::System,
            phase: Phase::default(),
            toward: None,
            signal: false,
            phase_ms: 0,
            since_ms: 0,
            transferred: false,
            told: false,
            resolved: None,
            blockers: Blockers::default(),
            running: None,
            on: false,
            must: false,
            has_run: false,
        }
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

    /// What was, or is, waited for: [`Scope::Function`] also where that was given up.
    pub fn scope(&self) -> Scope {
        self.scope
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

    /// Takes note that a module it is for is not loaded. When it is, a new [`Update`] begins.
    pub fn await_target(&mut self, layer: &mut dyn Layer) -> Result<(), Refusal<'a>> {
        self.expect(State::Loading, State::Waiting)?;
        self.enter(layer, State::Waiting);
        Ok(())
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
    /// `undone: false` says. If it is held, the update stays `Transitioning`: [`Update::go_on`], [`Update::give_up`].
    pub fn activate(
        &mut self,
        layer: &mut dyn Layer,
        addresses: &[u64],
        writable: &[Range],
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        self.expect(State::Registered, State::Transitioning)?;
        self.check(&how)?;
        check_with_others(layer, &how)?;
        self.keep(&how);
        self.scope = how.scope;
        self.enter(layer, State::Transitioning);
        let result = self.redirect(layer, addresses, writable, how);
        let result = result.and_then(|switched| {
            if self.has_phases() {
                return self.forward(layer, how);
            }
            if !switched {
                return self.switch_on(layer, how);
            }
            self.be_switched(layer);
            Ok(())
        });
        match result {
            Ok(()) if self.state == State::Active => self.be_on(layer, how, false),
            Ok(()) => Ok(()),
            Err(refusal) if self.is_under_way() => Err(self.fall_back(layer, how, refusal)),
            // Tasks may be in the update's code, which cannot be given up.
            Err(refusal) if self.state != State::Transitioning => Err(refusal),
            Err(refusal) => match self.give_up(layer, &how.limits) {
                Ok(()) => Err(refusal),
                // The same hook, which has been waited for.
                Err(Refusal::HookRuns { .. }) if self.running == Some(HookKind::BeforeOn) => {
                    Err(refusal)
                }
                Err(left) => {
                    layer.log(format_args!("{}: activation failed: {refusal}", self.name));
                    Err(left)
                }
            },
        }
    }

    /// Whether what comes next may be done like that at all: the switch, as long as one is to be made. Where calls have
    /// only to end, none is.
    pub fn check(&self, how: &Switching) -> Result<(), Refusal<'a>> {
        self.check_time(how)?;
        match self.state {
            State::Draining => Ok(()),
            State::Reverting if !self.is_flipped() => Ok(()),
            _ => self.check_switch(how),
        }
    }

    /// Whether there is a phase for its least time.
    pub(super) fn check_time(&self, how: &Switching) -> Result<(), Refusal<'a>> {
        if how.phase_ms > 0 && !self.has_phases() { Err(Refusal::NoPhases) } else { Ok(()) }
    }

    /// Whether it may be switched like that at all.
    pub(super) fn check_switch(&self, how: &Switching) -> Result<(), Refusal<'a>> {
        if let Some(function) = self.record.parks_cpus() {
            return Err(Refusal::ParksCpus { function });
        }
        if let Some(function) = self.record.leaves_unseen()
            && how.scope != Scope::Function
        {
            return Err(Refusal::LeavesUnseen { function, scope: how.scope });
        }
        if self.has_phases() {
            let fits = how.scope == Scope::Function && how.on_timeout != OnTimeout::ForceNewCalls;
            return if fits { Ok(()) } else { Err(Refusal::PhasesNeedFunction) };
        }
        if self.record.is_reshaped()
            && (how.scope == Scope::Function || how.on_timeout == OnTimeout::ForceNewCalls)
        {
            return Err(Refusal::ReshapedNeedsWhole);
        }
        if self.record.slots().is_empty() || how.is_whole() {
            return Ok(());
        }
        Err(Refusal::HandlersNeedSystem)
    }

    /// Gives up an activation that is held: edition 0 runs, as it did all the time. A refusal with `undone: false`
    /// leaves the update `Reverting`.
    pub fn give_up(&mut self, layer: &mut dyn Layer, limits: &Limits) -> Result<(), Refusal<'a>> {
        self.expect(State::Transitioning, State::Registered)?;
        if self.is_under_way() {
            return Err(self.wrong_state(State::Registered)); // That takes a revert.
        }
        let pins = self.steps.done.iter().filter(|step| matches!(step, Step::TargetPinned(_)));
        let pins = pins.count();
        match self.remove(layer, pins, limits) {
            Ok(()) => {
                self.enter(layer, State::Registered);
                Ok(())
            }
            Err(left) => {
                self.enter(layer, State::Reverting);
                Err(left)
            }
        }
    }

    /// Makes edition 0 run again and takes everything away. If a task will not leave the update's code, `how` says
    /// what happens: the update stays active, or it is held in `Reverting` (its editions run) or `Draining` (edition 0
    /// does). A refusal with `undone: false` leaves it `Reverting` with edition 0. In all of these another call goes on.
    pub fn revert(&mut self, layer: &mut dyn Layer, how: Switching) -> Result<(), Refusal<'a>> {
        // As the activation was made, whatever is proposed for the next one.
        let how = Switching { scope: self.scope, ..how };
        self.check(&how)?;
        self.keep(&how);
        self.go_back(layer, how)
    }

    /// The same, of what may be reverted like that.
    pub(super) fn go_back(
        &mut self,
        layer: &mut dyn Layer,
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        let from = self.state;
        let under_way = from == State::Transitioning && self.is_under_way();
        if !under_way && !matches!(from, State::Active | State::Reverting | State::Draining) {
            return Err(self.wrong_state(State::Reverting));
        }
        self.must |= how.must;
        if !self.may_go_off(layer, &how)? {
            return Ok(());
        }
        if from == State::Active || under_way {
            self.enter(layer, State::Reverting);
        }
        self.go_off(layer, from, how)
    }

    /// The same, when no hook has anything against it.
    pub(super) fn go_off(
        &mut self,
        layer: &mut dyn Layer,
        from: State,
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        let off = if self.has_phases() {
            self.backward(layer, from, how)
        } else {
            self.switch_off(layer, from, how)
        };
        match off {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(refusal) if self.state == State::Active && !self.on => {
                self.be_on(layer, how, true)?;
                return Err(refusal);
            }
            Err(refusal) => return Err(refusal),
        }
        match self.remove(layer, 0, &how.limits) {
            Ok(()) => {
                self.enter(layer, State::Reverted);
                Ok(())
            }
            Err(refusal) if is_held(&refusal, &how) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    /// Lets go of everything: before the update's module is unloaded.
    pub fn discard(&mut self, layer: &mut dyn Layer) -> Result<(), Refusal<'a>> {
        if !self.state.may_become(State::Gone) {
            return Err(self.wrong_state(State::Gone));
        }
        self.remove(layer, 0, &Limits::default())?;
        self.resolved = None;
        self.enter(layer, State::Gone);
        Ok(())
    }

    /// All steps of an activation up to the switch; `true`: with it.
    fn redirect(
        &mut self,
        layer: &mut dyn Layer,
        addresses: &[u64],
        writable: &[Range],
        how: Switching,
    ) -> Result<bool, Refusal<'a>> {
        self.write_relocations(layer, addresses, writable)?;
        self.try_step(Step::LateSections, || layer.late_sections())?;
        // Its code is whole, and nothing of the kernel has been touched.
        self.begin(layer, &how.limits)?;
        layer.choose_by(how.scope).map_err(|errno| match errno {
            Errno::NOT_SUPPORTED => Refusal::NoScope { scope: how.scope, why: NO_TRACEPOINTS },
            _ => self.failed(Step::SectionsRelocated, errno),
        })?;
        if let Some(index) = self.only_function()
            && !self.has_phases()
            && how.scope == Scope::Function
            && !layer.replaces_others()
        {
            self.redirect_switched(layer, index, how)?;
            return Ok(true);
        }
        for (index, _) in self.record.replaced() {
            self.try_step(Step::Redirected(index), || layer.register_redirect(index))?;
        }
        if layer.replaces_others() {
            self.try_step(Step::OthersReady, || layer.ready_others())?;
        }
        Ok(false)
    }

    /// The function that is replaced, if it is the only one.
    fn only_function(&self) -> Option<u32> {
        let mut replaced = self.record.replaced();
        let (index, _) = replaced.next()?;
        replaced.next().is_none().then_some(index)
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

    /// Undoes what was done before the switch, until `keep` steps are left.
    ///
    /// A redirection that cannot be removed stays noted, and with it all that it needs. So does what a hook needs that
    /// has not returned.
    fn remove(
        &mut self,
        layer: &mut dyn Layer,
        keep: usize,
        limits: &Limits,
    ) -> Result<(), Refusal<'a>> {
        self.no_hook_runs()?;
        // First, for they are to be as before whatever becomes of the redirections.
        if self.steps.last() == Some(Step::OthersReady) {
            layer.others_stay();
            self.steps.pop();
        }
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
                Some(Step::Hook(_)) => {
                    self.be_off(layer, limits)?;
                    continue; // It has taken that step away.
                }
                Some(Step::LateSections) => layer.undo_late_sections(),
                Some(Step::TargetPinned(object)) => layer.unpin_target(object),
                _ => {}
            }
            self.steps.pop();
        }
        Ok(())
    }

    /// Does a step and notes it.
    pub(super) fn try_step(
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

    pub(super) fn failed(&self, step: Step, errno: Errno) -> Refusal<'a> {
        let function = match step {
            Step::Redirected(index) | Step::Steady(index) => function_name(&self.record, index),
            Step::TargetPinned(index) => {
                self.record.objects().get(index).map_or("", |object| self.record.str(object.name))
            }
            _ => "",
        };
        Refusal::Failed { step, function, errno, undone: true }
    }

    pub(super) fn enter(&mut self, layer: &mut dyn Layer, state: State) {
        self.state = state;
        layer.progress(state, &self.blockers);
    }

    fn expect(&self, state: State, wanted: State) -> Result<(), Refusal<'a>> {
        if self.state == state { Ok(()) } else { Err(self.wrong_state(wanted)) }
    }

    pub(super) fn wrong_state(&self, wanted: State) -> Refusal<'a> {
        Refusal::WrongState { update: self.name, state: self.state, wanted }
    }
}
