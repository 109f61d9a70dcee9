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

use dynamos_abi::edition::{BRIDGE, FINAL, ORIGINAL};

use super::switch::{Until, Waited};
use super::{Layer, OnTimeout, Scope, State, Step, Switching, Update};
use crate::refusal::Refusal;

/// What an update may have to say between two phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Boundary {
    /// Whether V2's editions may begin: not 0. Asked again until they may.
    Advance,
    /// Carries state over, once no call is in edition 0: not 0 if it refuses, and has changed nothing.
    Transfer,
    /// Whether edition 0 may come back: not 0.
    AdvanceBack,
    /// Carries state back, once no call is in V2's editions: not 0 if it refuses.
    TransferBack,
}

impl Boundary {
    /// What the function is called in the source of the bridge.
    pub const fn name(self) -> &'static str {
        match self {
            Boundary::Advance => "dynamos_advance",
            Boundary::Transfer => "dynamos_transfer",
            Boundary::AdvanceBack => "dynamos_advance_back",
            Boundary::TransferBack => "dynamos_transfer_back",
        }
    }
}

/// Where an update with phases is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// The edition that new calls take ([`dynamos_abi::edition`]); also the number of the phase on the way there.
    pub edition: u32,
    /// What says that it may not go on yet.
    pub not_yet: Option<Boundary>,
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
                BRIDGE => Until::Ready(ORIGINAL, Boundary::Advance),
                _ => Until::Left(BRIDGE),
            };
            match self.wait(layer, until, &how) {
                Waited::Quiet if self.phase.edition == BRIDGE => {
                    self.transfer(layer, Boundary::Transfer)?;
                    self.transferred = true;
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
        if let Err(refusal @ Refusal::SaysNo { .. }) = result {
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
        match self.backward(layer, State::Reverting, how) {
            Ok(true) => match self.remove_redirections(layer) {
                Ok(()) => {
                    self.enter(layer, State::Registered);
                    refusal
                }
                Err(left) => {
                    layer.log(format_args!("{}: activation failed: {refusal}", self.name));
                    left
                }
            },
            Ok(false) => refusal.left(),
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
        if let Err(refusal) = self.unsettle(layer) {
            self.be_active(layer);
            return Err(refusal);
        }
        let before = self.phase.edition;
        loop {
            let refusal = match self.phase.edition {
                FINAL => match self.take(layer, BRIDGE) {
                    Ok(()) => continue,
                    Err(refusal) => refusal,
                },
                BRIDGE if self.transferred => {
                    let until = Until::Ready(FINAL, Boundary::AdvanceBack);
                    let waited = match self.wait(layer, until, &how) {
                        Waited::Quiet => self.transfer(layer, Boundary::TransferBack),
                        Waited::TimedOut(_) if how.on_timeout == OnTimeout::Hold => {
                            return Ok(false);
                        }
                        Waited::TimedOut(refusal) | Waited::Failed(refusal) => Err(refusal),
                    };
                    match waited {
                        Ok(()) => {
                            self.transferred = false;
                            continue;
                        }
                        Err(refusal) => refusal,
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
        match from {
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
        }
        self.told = false;
        self.be_in(layer, Phase { edition, not_yet: None });
        Ok(())
    }

    fn transfer(&mut self, layer: &mut dyn Layer, which: Boundary) -> Result<(), Refusal<'a>> {
        match layer.ask(which) {
            Ok(None | Some(0)) => Ok(()),
            Ok(Some(value)) => Err(Refusal::SaysNo { function: which.name(), value }),
            Err(errno) => {
                Err(Refusal::SaysNo { function: which.name(), value: errno.0.saturating_neg() })
            }
        }
    }

    /// Whether the update says that it may go on; an update that says nothing may.
    pub(super) fn may_go_on(
        &mut self,
        layer: &mut dyn Layer,
        which: Boundary,
    ) -> Result<bool, Refusal<'a>> {
        let may = match layer.ask(which) {
            Ok(answer) => answer != Some(0),
            Err(errno) => {
                let value = errno.0.saturating_neg();
                return Err(Refusal::SaysNo { function: which.name(), value });
            }
        };
        let not_yet = (!may).then_some(which);
        if self.phase.not_yet != not_yet {
            self.be_in(layer, Phase { not_yet, ..self.phase });
        }
        Ok(may)
    }

    fn be_in(&mut self, layer: &mut dyn Layer, phase: Phase) {
        self.phase = phase;
        layer.show_phase(phase);
    }
}
