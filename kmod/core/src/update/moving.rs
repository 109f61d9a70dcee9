//! Scopes `task` and `object`: each task changes edition by itself, when nothing of what it leaves is on its stack; or each
//! object, when no call works on it.
//!
//! ```text
//!                 turn              each in its time
//! edition 0 ─────────────► both ─────────────────────────► the update's
//!     ▲                    │  ▲                               │
//!     └────────────────────┘  └───────────────────────────────┘
//!      each in its time                    turn back
//! ```
//!
//! A turn says where all go. It changes the edition of nothing that a call works for or on, so it can be made at any time, in
//! either direction: that is how what was begun is given up. When all have moved, all calls take one edition again.
//!
//! Of tasks, the edition of every one that there is gets noted at a turn, and those that begin from then on take the one that
//! is gone to: their stacks are empty. Calls on objects are counted from the first turn on, in both editions, by code of the
//! update; so when all objects have edition 0 again, tasks may still be in that code, on their way through edition 0, and the
//! update drains.

use super::switch::{Until, Waited};
use super::{Layer, Limits, OnTimeout, Scope, State, Step, Switching, Update};
use crate::refusal::Refusal;

impl<'a> Update<'a> {
    /// Whether tasks or objects are moving one by one, so that some calls may be in the update's code and others in edition 0.
    pub(super) fn moves_singly(&self) -> bool {
        self.toward.is_some()
    }

    /// Whether it is switched task by task, or object by object, as far as that goes.
    pub(super) fn goes_singly(&self) -> bool {
        self.moves_singly() || self.scope.is_single()
    }

    /// Whether it has left the beginning of an activation, so that giving it up takes a revert.
    pub fn is_under_way(&self) -> bool {
        self.is_in_a_phase() || self.moves_singly()
    }

    /// Has them move to the update's edition (`active`), or to edition 0.
    fn turn(&mut self, layer: &mut dyn Layer, active: bool) -> Result<(), Refusal<'a>> {
        if self.toward == Some(active) {
            return Ok(());
        }
        let first = self.steps.last() != Some(Step::Flipped);
        // Asked before: that some may be in the update's code must be noted.
        if first && !self.steps.has_room() {
            return Err(Refusal::OutOfMemory);
        }
        layer.turn(active).map_err(|errno| self.failed(Step::Flipped, errno))?;
        if first {
            self.steps.note(Step::Flipped);
            self.has_run = true;
        }
        self.toward = Some(active);
        Ok(())
    }

    /// Moves them to the update's editions. Held, or refused, some have moved.
    pub(super) fn move_on(
        &mut self,
        layer: &mut dyn Layer,
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        // Others may be asked for while it is held.
        if how.scope != self.scope && how.scope != Scope::Function {
            return Err(Refusal::Moving { scope: self.scope });
        }
        self.turn(layer, true)?;
        let waited = match how.scope {
            Scope::Function => None,
            _ => Some(self.wait(layer, Until::Moved(true), &how)),
        };
        match (waited, how.on_timeout) {
            (Some(Waited::Quiet), _) => {}
            (None, _) | (Some(Waited::TimedOut(_)), OnTimeout::ForceNewCalls) => {
                layer.flip_now(true).map_err(|errno| self.failed(Step::Flipped, errno))?;
                self.scope = Scope::Function;
            }
            (Some(Waited::TimedOut(_)), OnTimeout::Hold) => return Ok(()),
            (Some(Waited::TimedOut(refusal) | Waited::Failed(refusal)), _) => return Err(refusal),
        }
        self.toward = None;
        self.be_active(layer);
        Ok(())
    }

    /// Moves them back to edition 0, and waits until nobody is in the update's code: `true`. `false` if that is held.
    ///
    /// Given up, they turn back to where they came from in the state `from`; as far as they have not yet, that is held.
    pub(super) fn move_back(
        &mut self,
        layer: &mut dyn Layer,
        from: State,
        how: Switching,
    ) -> Result<bool, Refusal<'a>> {
        let waited = match self.turn(layer, false) {
            Ok(()) => self.wait(layer, Until::Moved(false), &how),
            Err(refusal) => Waited::Failed(refusal),
        };
        let refusal = match (waited, how.on_timeout) {
            (Waited::Quiet, _) if self.scope == Scope::Object => {
                self.toward = None;
                // All objects have moved: that is not given up any more.
                self.enter(layer, State::Draining);
                let how = Switching { on_timeout: OnTimeout::Hold, ..how };
                return self.drain(layer, State::Draining, how).map_err(Refusal::left);
            }
            (Waited::Quiet, _) => {
                self.toward = None;
                self.steps.pop();
                return Ok(true);
            }
            (Waited::TimedOut(_), OnTimeout::Hold) => return Ok(false),
            (Waited::TimedOut(_), OnTimeout::ForceNewCalls) => match layer.flip_now(false) {
                Ok(()) => {
                    self.toward = None;
                    self.scope = Scope::Function;
                    self.enter(layer, State::Draining);
                    return self.drain(layer, from, how);
                }
                Err(errno) => self.failed(Step::Flipped, errno),
            },
            (Waited::TimedOut(refusal) | Waited::Failed(refusal), _) => refusal,
        };
        match from {
            State::Reverting | State::Draining => Err(refusal),
            _ => Err(self.turn_round(layer, from, refusal, how)),
        }
    }

    /// After a revert that is given up: what it is refused for.
    fn turn_round(
        &mut self,
        layer: &mut dyn Layer,
        from: State,
        refusal: Refusal<'a>,
        how: Switching,
    ) -> Refusal<'a> {
        if self.toward.is_none() {
            self.be_active(layer); // Nobody was to move yet.
            return refusal;
        }
        if let Err(left) = self.turn(layer, true) {
            layer.log(format_args!("{}: {left}", self.name));
            return refusal.left();
        }
        self.enter(layer, State::Transitioning);
        if from == State::Active && self.has_all_moved(layer, how) {
            self.toward = None;
            self.be_active(layer);
        }
        refusal
    }

    /// A look, without waiting, at those that are to move to the update's editions.
    fn has_all_moved(&mut self, layer: &mut dyn Layer, how: Switching) -> bool {
        let limits = Limits { wait_ms: 0, ..how.limits };
        let look = Switching { limits, signal: false, ..how };
        matches!(self.wait(layer, Until::Moved(true), &look), Waited::Quiet)
    }

    /// Gives up a revert that is held: they move to the update's editions again. If that is refused, it is as before.
    pub(super) fn move_on_again(
        &mut self,
        layer: &mut dyn Layer,
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        self.turn(layer, true)?;
        self.enter(layer, State::Transitioning);
        let result = self.move_on(layer, how);
        if result.is_err() {
            if let Err(left) = self.turn(layer, false) {
                layer.log(format_args!("{}: {left}", self.name));
                return result.map_err(Refusal::left);
            }
            self.enter(layer, State::Reverting);
        }
        result
    }
}
