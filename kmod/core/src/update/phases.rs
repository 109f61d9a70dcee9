//! An update with phases: by way of the bridge editions to V2's, and back the same way.
//!
//! ```text
//!            phase 1                       phase 2
//! edition 0 ────────► bridge, edition 0 ──────────► V2's, bridge ──► V2's
//!                     until nobody is in            until nobody is in
//!                     edition 0, and it may         the bridge
//!                     advance; then transfer
//! ```
//!
//! V2's edition may leave state that edition 0 does not understand, and the bridge understands both. So edition 0 and
//! V2's never run at a time: whoever was in the one is waited for before new calls take the other. All new calls take
//! the same edition, which is a byte that their handlers read; those under way end where they are.

use dynamos_abi::HookKind;
use dynamos_abi::edition::{BRIDGE, FINAL, ORIGINAL};

use super::switch::{Until, Waited};
use super::{Layer, OnTimeout, Returned, Scope, State, Step, Switching, Update};
use crate::refusal::Refusal;

/// How long a hook is waited for at a time.
const A_MOMENT_MS: u32 = 100;

/// Where an update with phases is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// The edition that new calls take ([`dynamos_abi::edition`]); also the number of the phase on the way there.
    pub edition: u32,
    /// The hook that says that it may not go on yet, or that has not returned.
    pub not_yet: Option<HookKind>,
    /// It does not go on before this time ([`Layer::now_ms`]), though nobody is in its way.
    pub until_ms: Option<u64>,
}

impl<'a> Update<'a> {
    /// The phase that it is in; all 0 where it has none, or edition 0 runs.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether calls go by way of bridge editions.
    pub fn has_phases(&self) -> bool {
        self.record.has_phases()
    }

    /// Whether it has left the beginning of an activation, so that it must come back phase by phase.
    pub fn is_in_a_phase(&self) -> bool {
        self.phase.edition != ORIGINAL
    }

    /// Goes on to V2's editions, from whatever phase it is in. Held, or refused, it stays in the phase it has reached.
    pub(super) fn forward(
        &mut self,
        layer: &mut dyn Layer,
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        self.scope = Scope::Function;
        loop {
            let until = match self.phase.edition {
                ORIGINAL => {
                    self.take(layer, BRIDGE)?;
                    continue;
                }
                BRIDGE if self.transferred => {
                    self.take(layer, FINAL)?;
                    continue;
                }
                // Nobody comes to edition 0 any more; a transfer that began goes on.
                BRIDGE if self.running == Some(HookKind::Transfer) => {
                    Until::Carried(HookKind::Transfer)
                }
                BRIDGE => Until::Ready(ORIGINAL, HookKind::Advance),
                _ => Until::Left(BRIDGE),
            };
            match self.wait_in_phase(layer, until, &how) {
                Waited::Quiet if self.phase.edition == BRIDGE => {
                    let carried = Until::Carried(HookKind::Transfer);
                    if until == carried {
                        continue;
                    }
                    match self.wait(layer, carried, &how) {
                        Waited::Quiet => {}
                        Waited::TimedOut(_) if how.on_timeout == OnTimeout::Hold => return Ok(()),
                        Waited::TimedOut(refusal) | Waited::Failed(refusal) => return Err(refusal),
                    }
                }
                Waited::Quiet => {
                    self.be_active(layer);
                    return Ok(());
                }
                Waited::TimedOut(_) if how.on_timeout == OnTimeout::Hold => return Ok(()),
                Waited::TimedOut(refusal) | Waited::Failed(refusal) => return Err(refusal),
            }
        }
    }

    /// Goes on with an activation that is held. If the update itself refuses it, it goes back.
    pub(super) fn forward_again(
        &mut self,
        layer: &mut dyn Layer,
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        let result = self.forward(layer, how);
        if let Err(refusal @ Refusal::HookRefused { .. }) = result {
            let hold = Switching { on_timeout: OnTimeout::Hold, ..how };
            if let Err(left) = self.revert(layer, hold) {
                layer.log(format_args!("{}: {left}", self.name));
            }
            return Err(refusal);
        }
        result
    }

    /// After an activation that failed in a phase: goes back as far as tasks let it, and then on by itself. What the
    /// activation is refused for.
    pub(super) fn fall_back(
        &mut self,
        layer: &mut dyn Layer,
        how: Switching,
        refusal: Refusal<'a>,
    ) -> Refusal<'a> {
        let how = Switching { on_timeout: OnTimeout::Hold, ..how };
        self.enter(layer, State::Reverting);
        if let Err(Refusal::HookRuns { .. }) = self.settle_hook(layer, 0, true) {
            return refusal.left(); // What it does to the state is not known yet.
        }
        // What it once ran is not unloaded without being asked for ([`State::Reverted`]).
        match self.go_off(layer, State::Reverting, how) {
            Ok(()) if self.state == State::Reverted => refusal,
            Ok(()) => refusal.left(),
            Err(left) => {
                layer.log(format_args!("{}: {left}", self.name));
                refusal.left()
            }
        }
    }

    /// Goes back to edition 0, and waits until nobody is in the update's code: `true`. `false` if that is held.
    ///
    /// Until the transfer back is made it can be given up, and then all is as it was in the state `from`. After that
    /// edition 0 runs, and there is nothing to wait for but that calls of the bridge end.
    pub(super) fn backward(
        &mut self,
        layer: &mut dyn Layer,
        from: State,
        how: Switching,
    ) -> Result<bool, Refusal<'a>> {
        self.begin_leaving(layer)?;
        let before = self.phase.edition;
        loop {
            let refusal = match self.phase.edition {
                FINAL => match self.take(layer, BRIDGE) {
                    Ok(()) => continue,
                    Err(refusal) => refusal,
                },
                BRIDGE if self.transferred => {
                    let ready = Until::Ready(FINAL, HookKind::AdvanceBack);
                    let waited = match self.wait_in_phase(layer, ready, &how) {
                        Waited::Quiet => {
                            self.wait(layer, Until::Carried(HookKind::TransferBack), &how)
                        }
                        other => other,
                    };
                    match waited {
                        Waited::Quiet => continue,
                        Waited::TimedOut(_) if how.on_timeout == OnTimeout::Hold => {
                            return Ok(false);
                        }
                        Waited::TimedOut(refusal) | Waited::Failed(refusal) => refusal,
                    }
                }
                BRIDGE => match self.take(layer, ORIGINAL) {
                    Ok(()) => {
                        self.enter(layer, State::Draining);
                        continue;
                    }
                    // The bridge runs, and the state is edition 0's.
                    Err(refusal) => return Err(refusal.left()),
                },
                _ if self.steps.last() != Some(Step::Flipped) => return Ok(true), // An earlier call came so far.
                _ => match self.wait(layer, Until::Drained, &how) {
                    Waited::Quiet => {
                        self.steps.pop();
                        self.enter(layer, State::Reverting);
                        return Ok(true);
                    }
                    Waited::TimedOut(_) | Waited::Failed(_) => return Ok(false),
                },
            };
            return self.come_back(layer, from, before, how, refusal);
        }
    }

    /// Gives up a way back.
    fn come_back(
        &mut self,
        layer: &mut dyn Layer,
        from: State,
        before: u32,
        how: Switching,
        refusal: Refusal<'a>,
    ) -> Result<bool, Refusal<'a>> {
        let hold = how.on_timeout == OnTimeout::Hold;
        // What a hook does to the state is not known before it has returned.
        let runs = self.running.is_some();
        match from {
            _ if self.must || runs => return if hold { Ok(false) } else { Err(refusal.left()) },
            // It is looked at again and again, and is told when it begins.
            State::Reverting | State::Draining if hold => {
                if !core::mem::replace(&mut self.told, true) {
                    layer.log(format_args!("{}: {refusal}", self.name));
                }
                return Ok(false);
            }
            State::Reverting | State::Draining => return Err(refusal),
            _ => {}
        }
        if self.phase.edition != before
            && let Err(left) = self.take(layer, before)
        {
            layer.log(format_args!("{}: {left}", self.name));
            return Err(refusal.left());
        }
        if from == State::Active {
            self.be_active(layer);
        } else {
            self.enter(layer, from);
        }
        Err(refusal)
    }

    /// Gives up a way back that is held, if its transfer is not made: V2's editions take all calls again.
    pub(super) fn forward_at_once(&mut self, layer: &mut dyn Layer) -> Result<(), Refusal<'a>> {
        if self.state != State::Reverting || !self.is_held() || !self.transferred {
            return Err(self.wrong_state(State::Active));
        }
        if self.phase.edition != FINAL {
            self.take(layer, FINAL)?;
        }
        self.be_active(layer);
        Ok(())
    }

    /// Sends new calls to an edition.
    fn take(&mut self, layer: &mut dyn Layer, edition: u32) -> Result<(), Refusal<'a>> {
        // Asked before: that some may be in the update's code must be noted.
        if !self.steps.has_room() {
            return Err(Refusal::OutOfMemory);
        }
        layer.take(edition).map_err(|errno| self.failed(Step::Flipped, errno))?;
        if !self.is_in_a_phase() {
            self.steps.note(Step::Flipped);
            self.has_run = true;
        }
        self.told = false;
        self.since_ms = layer.now_ms();
        let takes = match edition {
            ORIGINAL => "edition 0",
            BRIDGE => "the bridge",
            _ => "V2's edition",
        };
        layer.log(format_args!("{}: new calls take {takes}", self.name));
        self.be_in(layer, Phase { edition, ..Phase::default() });
        Ok(())
    }

    /// Waits; where the state is to be carried over after that, the bridge first takes all calls for its least time.
    fn wait_in_phase(
        &mut self,
        layer: &mut dyn Layer,
        until: Until,
        how: &Switching,
    ) -> Waited<'a> {
        if let Until::Ready(edition, _) = until
            && !self.has_rested(layer, how)
        {
            // Who is in the way is told at once, not when the time is over.
            for first in [Until::Left(edition), Until::Rested] {
                match self.wait(layer, first, how) {
                    Waited::Quiet => {}
                    other => return other,
                }
            }
        }
        self.wait(layer, until, how)
    }

    /// Whether the bridge has taken all calls for its least time. Where a module comes nobody has called, and what must go
    /// does not wait for a time.
    pub(super) fn has_rested(&mut self, layer: &mut dyn Layer, how: &Switching) -> bool {
        let until = self.since_ms.saturating_add(u64::from(how.phase_ms));
        let rests = how.phase_ms > 0 && !how.fresh && !how.must && layer.now_ms() < until;
        let until_ms = rests.then_some(until);
        if self.phase.until_ms != until_ms {
            self.be_in(layer, Phase { until_ms, ..self.phase });
        }
        !rests
    }

    /// Whether a hook lets the update go on; one that it does not have does. `false`: not yet.
    pub(super) fn agrees(
        &mut self,
        layer: &mut dyn Layer,
        hook: HookKind,
    ) -> Result<bool, Refusal<'a>> {
        let answer = self.answer(layer, hook)?;
        let agrees = match answer {
            Some(answer) if hook.is_predicate() => answer != 0,
            Some(0) => true,
            Some(result) => {
                self.be_in(layer, Phase { not_yet: None, ..self.phase });
                return Err(Refusal::HookRefused { hook, result });
            }
            None => false,
        };
        // One that has not returned says nothing.
        let said = self.phase.not_yet.filter(|said| *said == hook);
        let not_yet = if answer.is_none() { said } else { (!agrees).then_some(hook) };
        if self.phase.not_yet != not_yet {
            self.be_in(layer, Phase { not_yet, ..self.phase });
        }
        Ok(agrees)
    }

    /// What a hook answers; `None` as long as it has not returned.
    fn answer(
        &mut self,
        layer: &mut dyn Layer,
        hook: HookKind,
    ) -> Result<Option<i32>, Refusal<'a>> {
        // One that was given up, and goes on.
        if self.running.is_some_and(|running| running != hook)
            && let Err(Refusal::HookRuns { .. }) = self.settle_hook(layer, A_MOMENT_MS, true)
        {
            return Ok(None);
        }
        if self.record.hook(hook).is_none() {
            self.ended(hook, true);
            return Ok(Some(i32::from(hook.is_predicate())));
        }
        if self.running.is_none() {
            self.begin_hook(layer, hook)?;
        }
        let Returned::With(result) = layer.hook_returned(A_MOMENT_MS, true) else {
            return Ok(None);
        };
        self.running = None;
        self.ended(hook, result == 0);
        Ok(Some(result))
    }

    fn be_in(&mut self, layer: &mut dyn Layer, phase: Phase) {
        self.phase = phase;
        layer.show_phase(phase);
    }
}
