//! The switch from one edition to the other and back: what is waited for, for how long, and what happens then.

use super::others::check_with_others;
use super::{
    Blockers, Errno, Handler, Layer, Limits, OnTimeout, Scope, State, Step, Switching, Update,
};
use crate::refusal::Refusal;
use dynamos_abi::HookKind;

/// Why an activation that is held cannot go on with tasks or objects one by one.
const HELD: &str = "the activation was begun with another scope: revert it first";

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// No task is in any edition 0; then the editions run.
    SwitchedOn,
    /// No task is in the update's code; then edition 0 runs.
    SwitchedOff,
    /// No task is in the update's code, which none enters any more.
    Drained,
    /// Each task, or object, takes the update's edition, or edition 0.
    Moved(bool),
    /// No task is in an edition, which none enters any more.
    Left(u32),
    /// The bridge has taken all calls for as long as it was to.
    Rested,
    /// No task is in an edition, which none enters any more, and a hook says that it may go on.
    Ready(u32, HookKind),
    /// A hook has carried the state over.
    Carried(HookKind),
}

impl Until {
    fn try_once(self, layer: &mut dyn Layer, blockers: &mut Blockers) -> Result<bool, Errno> {
        match self {
            Until::SwitchedOn => layer.check_and_flip(true, blockers),
            Until::SwitchedOff => layer.check_and_flip(false, blockers),
            Until::Drained => layer.drained(blockers),
            Until::Left(edition) | Until::Ready(edition, _) => layer.has_left(edition, blockers),
            Until::Moved(active) => layer.move_over(active, blockers),
            Until::Rested | Until::Carried(_) => Ok(true),
        }
    }

    fn wake(self, layer: &mut dyn Layer) {
        match self {
            Until::Left(edition) | Until::Ready(edition, _) => layer.wake_in(edition),
            Until::Moved(active) => layer.wake_moving(active),
            Until::Rested | Until::Carried(_) => {}
            _ => layer.wake_blockers(self == Until::SwitchedOn),
        }
    }
}

/// How a wait ended.
pub(super) enum Waited<'a> {
    /// As it should.
    Quiet,
    /// At the time limit.
    TimedOut(Refusal<'a>),
    /// Somebody interrupted it, or the kernel failed.
    Failed(Refusal<'a>),
}

impl<'a> Update<'a> {
    /// Whether it waits for tasks to leave, or for a hook to return: [`Update::go_on`] looks whether they have.
    pub fn is_held(&self) -> bool {
        match self.state {
            State::Transitioning | State::Draining => true,
            // `after_off` may not have begun, for want of memory.
            State::Reverting => {
                self.running.is_some()
                    || self.is_flipped()
                    || matches!(self.steps.last(), Some(Step::Hook(_)))
            }
            State::Active => self.running.is_some(),
            _ => false,
        }
    }

    /// How to look at what is held, as was asked for last. A hook that is begun then has `hook_ms`.
    pub fn as_held(&self, hook_ms: u32, must: bool) -> Switching {
        Switching {
            scope: self.scope,
            limits: Limits { wait_ms: 0, hook_ms, ..Limits::default() },
            on_timeout: OnTimeout::Hold,
            signal: self.signal,
            phase_ms: self.phase_ms,
            fresh: false,
            must,
        }
    }

    /// Takes note of what was asked for, once it is known not to be refused: or every look would be.
    pub(super) fn keep(&mut self, how: &Switching) {
        (self.signal, self.phase_ms) = (how.signal, how.phase_ms);
    }

    /// Goes on with what is held. What fails, or must be given up, stays held.
    pub fn go_on(&mut self, layer: &mut dyn Layer, how: Switching) -> Result<(), Refusal<'a>> {
        match self.state {
            State::Transitioning => {
                self.check(&how)?;
                check_with_others(layer, &how)?;
                self.keep(&how);
                if self.has_phases() {
                    self.forward_again(layer, how)?;
                } else {
                    self.switch_on(layer, how)?;
                }
                if self.state == State::Active { self.be_on(layer, how, false) } else { Ok(()) }
            }
            State::Active if self.running.is_some() => self.stay_on(layer, how),
            State::Reverting | State::Draining => self.revert(layer, how),
            _ => Err(self.wrong_state(State::Active)),
        }
    }

    /// Whether the editions run, or tasks may still be in them.
    pub(super) fn is_flipped(&self) -> bool {
        self.steps.done().contains(&Step::Flipped)
    }

    /// Gives up a revert that is held: the editions take all calls again. Where a hook was the reason for the revert it
    /// cannot be given up.
    pub fn resume(&mut self, layer: &mut dyn Layer, how: Switching) -> Result<(), Refusal<'a>> {
        // Where all objects have moved, calls that are not counted any more are under way; where parameters differ, callers
        // that would give V1's.
        let one_way = self.scope == Scope::Object || self.record.is_reshaped();
        if self.must || one_way && self.state == State::Draining {
            return Err(self.wrong_state(State::Active));
        }
        self.check_time(&how)?;
        if self.moves_singly() {
            self.check_switch(&how)?;
            self.keep(&how);
            self.move_on_again(layer, how)?;
            if self.state != State::Active {
                return Ok(()); // Held.
            }
        } else {
            self.keep(&how);
            self.take_calls(layer)?;
        }
        if self.on || self.running.is_some() { Ok(()) } else { self.be_on(layer, how, true) }
    }

    /// The editions take all calls again.
    fn take_calls(&mut self, layer: &mut dyn Layer) -> Result<(), Refusal<'a>> {
        if self.has_phases() {
            return self.forward_at_once(layer);
        }
        let redirected = |step: &Step| matches!(step, Step::Redirected(_));
        // One that only writes handlers has no redirections.
        if self.record.replaced().next().is_some() && !self.steps.done().iter().any(redirected) {
            return Err(self.wrong_state(State::Active)); // It is an activation that failed.
        }
        match self.state {
            State::Draining => {
                layer.flip_now(true).map_err(|errno| self.failed(Step::Flipped, errno))?;
            }
            State::Reverting if self.is_flipped() => {}
            _ => return Err(self.wrong_state(State::Active)),
        }
        self.be_active(layer);
        Ok(())
    }

    /// Makes the editions run, which everything is ready for. Held, the state stays what it was.
    pub(super) fn switch_on(
        &mut self,
        layer: &mut dyn Layer,
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        if !how.fresh && self.goes_singly() {
            return self.move_on(layer, how);
        }
        // Asked before: what has been switched must be noted.
        if !self.steps.has_room() {
            return Err(Refusal::OutOfMemory);
        }
        let quiet = match how.scope {
            _ if how.fresh => {
                layer.flip_now(true).map_err(|errno| self.failed(Step::Flipped, errno))?;
                true
            }
            Scope::Function => false,
            // Its handlers ask for neither.
            scope @ (Scope::Task | Scope::Object) => {
                return Err(Refusal::NoScope { scope, why: HELD });
            }
            Scope::System => match self.wait(layer, Until::SwitchedOn, &how) {
                Waited::Quiet => true,
                Waited::Failed(refusal) => return Err(refusal),
                Waited::TimedOut(refusal) => match how.on_timeout {
                    OnTimeout::RollBack => return Err(refusal),
                    OnTimeout::Hold => return Ok(()),
                    OnTimeout::ForceNewCalls => false,
                },
            },
        };
        if !quiet {
            layer.flip_now(true).map_err(|errno| self.failed(Step::Flipped, errno))?;
            self.scope = Scope::Function;
        }
        let others = self.steps.last() == Some(Step::OthersReady);
        if others {
            self.steps.pop(); // The switch was theirs too, and is not undone.
        }
        self.steps.note(Step::Flipped);
        self.be_active(layer);
        if others {
            // Once this one's calls are steady: nothing refers to the others then.
            layer.others_leave();
        }
        Ok(())
    }

    /// Redirects one function straight to its edition, before whatever the kernel waits for until it says that it has.
    ///
    /// If it fails after calls may have come by, they are waited for. With those that do not leave in time the update
    /// stays `Draining`, or `Reverting` if they could not be sent to edition 0.
    pub(super) fn redirect_switched(
        &mut self,
        layer: &mut dyn Layer,
        function: u32,
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        layer.flip_now(true).map_err(|errno| self.failed(Step::Flipped, errno))?;
        let step = Step::Redirected(function);
        let Err(refusal) = self.try_step(step, || layer.register_redirect(function)) else {
            return Ok(());
        };
        let came_by = matches!(refusal, Refusal::Failed { errno: Errno::AGAIN, .. });
        self.has_run |= came_by;
        let left = match layer.flip_now(false) {
            Ok(())
                if !came_by || matches!(self.wait(layer, Until::Drained, &how), Waited::Quiet) =>
            {
                return Err(refusal);
            }
            Ok(()) => State::Draining,
            Err(_) => State::Reverting,
        };
        self.scope = Scope::Function;
        self.steps.note(Step::Flipped);
        self.enter(layer, left);
        Err(refusal.left())
    }

    /// Takes note that the only function is redirected to its edition.
    pub(super) fn be_switched(&mut self, layer: &mut dyn Layer) {
        self.scope = Scope::Function;
        self.steps.note(Step::Flipped);
        self.be_active(layer);
    }

    /// Makes edition 0 run, and waits until nobody is in the update's code: `true`. `false` if that is held.
    ///
    /// Where it must be given up, all is as it was in the state `from`.
    pub(super) fn switch_off(
        &mut self,
        layer: &mut dyn Layer,
        from: State,
        how: Switching,
    ) -> Result<bool, Refusal<'a>> {
        self.begin_leaving(layer)?;
        if self.steps.last() != Some(Step::Flipped) {
            return Ok(true); // An earlier call came so far.
        }
        if self.state == State::Reverting && self.goes_singly() {
            return self.move_back(layer, from, how);
        }
        if self.state == State::Reverting && self.scope == Scope::System {
            match self.wait(layer, Until::SwitchedOff, &how) {
                Waited::Quiet => {
                    self.steps.pop();
                    return Ok(true);
                }
                Waited::TimedOut(_) if how.on_timeout == OnTimeout::Hold => return Ok(false),
                Waited::TimedOut(_) if how.on_timeout == OnTimeout::ForceNewCalls => {
                    self.scope = Scope::Function;
                }
                Waited::TimedOut(refusal) | Waited::Failed(refusal) => {
                    if from == State::Active {
                        self.be_active(layer);
                    }
                    return Err(refusal);
                }
            }
        }
        self.drain(layer, from, how)
    }

    /// Sends new calls to edition 0, and waits until those that are in the update's code have ended.
    pub(super) fn drain(
        &mut self,
        layer: &mut dyn Layer,
        from: State,
        how: Switching,
    ) -> Result<bool, Refusal<'a>> {
        if self.state == State::Reverting {
            if let Err(errno) = layer.flip_now(false) {
                let refusal = self.failed(Step::Flipped, errno);
                if from == State::Active {
                    self.be_active(layer);
                }
                return Err(refusal);
            }
            self.enter(layer, State::Draining);
        }
        match self.wait(layer, Until::Drained, &how) {
            Waited::Quiet => {
                self.steps.pop();
                self.enter(layer, State::Reverting);
                Ok(true)
            }
            Waited::TimedOut(_) if how.on_timeout != OnTimeout::RollBack => Ok(false),
            Waited::TimedOut(refusal) | Waited::Failed(refusal) => {
                if from == State::Active {
                    self.take_calls(layer)?;
                }
                Err(refusal)
            }
        }
    }

    /// Tries until it succeeds or the time is over.
    pub(super) fn wait(
        &mut self,
        layer: &mut dyn Layer,
        until: Until,
        how: &Switching,
    ) -> Waited<'a> {
        let Limits { wait_ms, first_pause_ms, longest_pause_ms, .. } = how.limits;
        // The time limit is for those who are in the way.
        let rests = until == Until::Rested && how.on_timeout != OnTimeout::Hold;
        let wait_ms = if rests { u32::MAX } else { wait_ms };
        let (mut waited, mut pause) = (0u32, first_pause_ms);
        loop {
            let mut blockers = Blockers::default();
            let result = until.try_once(layer, &mut blockers);
            if let Ok(true) = result {
                blockers = Blockers::default();
            }
            self.blockers = blockers;
            let result = match (result, until) {
                (Ok(true), Until::Rested) => Ok(self.has_rested(layer, how)),
                (Ok(true), Until::Ready(_, hook) | Until::Carried(hook)) => {
                    match self.agrees(layer, hook) {
                        Ok(agrees) => Ok(agrees),
                        Err(refusal) => return Waited::Failed(refusal),
                    }
                }
                (result, _) => result,
            };
            match result {
                Ok(true) => return Waited::Quiet,
                Ok(false) => layer.progress(self.state, &self.blockers),
                Err(errno) => return Waited::Failed(self.failed(Step::Flipped, errno)),
            }
            if how.signal {
                until.wake(layer);
            }
            if waited >= wait_ms {
                return Waited::TimedOut(self.blocked(layer, waited, false));
            }
            let next = pause.min(longest_pause_ms).min(wait_ms - waited).max(1);
            if !layer.wait(next) {
                return Waited::Failed(self.blocked(layer, waited, true));
            }
            waited = waited.saturating_add(next);
            pause = pause.saturating_mul(2);
        }
    }

    /// What a wait that ended in vain is refused for. One that never began is not told: it is a look.
    fn blocked(&self, layer: &mut dyn Layer, waited_ms: u32, interrupted: bool) -> Refusal<'a> {
        if waited_ms > 0 && self.blockers.count() > 0 {
            layer.log(format_args!(
                "{}: in the code to be switched: {}",
                self.name,
                self.blockers.named(&self.record)
            ));
        }
        let Some(&task) = self.blockers.first().next() else {
            if self.phase.until_ms.is_some() {
                return Refusal::Resting { waited_ms };
            }
            if let Some(hook) = self.phase.not_yet.or(self.running) {
                return Refusal::NotYet { waited_ms, interrupted, hook };
            }
            return Refusal::Busy { waited_ms, interrupted };
        };
        let function = task.function(&self.record);
        let count = self.blockers.count();
        Refusal::Blocked { waited_ms, interrupted, count, task, function }
    }

    pub(super) fn be_active(&mut self, layer: &mut dyn Layer) {
        self.blockers = Blockers::default();
        self.has_run = true;
        self.enter(layer, State::Active);
        self.settle(layer);
    }

    /// Gives functions their steady handler. One that stays in transition is slower and nothing else, so a
    /// failure is only logged.
    fn settle(&mut self, layer: &mut dyn Layer) {
        for (index, _) in self.record.replaced() {
            let step = Step::Steady(index);
            if self.steps.done().contains(&step) {
                continue;
            }
            let steady = || layer.modify_redirect(index, Handler::Steady);
            if let Err(refusal) = self.try_step(step, steady) {
                layer.log(format_args!("{}: {refusal}; calls take longer", self.name));
            }
        }
    }

    /// Makes all functions ready to be left. Where that fails the update is active as before, unless it must go.
    pub(super) fn begin_leaving(&mut self, layer: &mut dyn Layer) -> Result<(), Refusal<'a>> {
        let ready = self.unsettle(layer);
        if ready.is_err() && !self.must {
            self.be_active(layer);
        }
        ready
    }

    /// Gives functions their transition handler again: all of them, or what was done by halves means nothing to
    /// callers (a transition handler calls the active edition too).
    pub(super) fn unsettle(&mut self, layer: &mut dyn Layer) -> Result<(), Refusal<'a>> {
        while let Some(Step::Steady(index)) = self.steps.last() {
            layer
                .modify_redirect(index, Handler::Transition)
                .map_err(|errno| self.failed(Step::Steady(index), errno))?;
            self.steps.pop();
        }
        Ok(())
    }
}
