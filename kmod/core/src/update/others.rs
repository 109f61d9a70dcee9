//! Updates of the same functions: what happens to one when another takes its place.
//!
//! The other one's switch is theirs too: both flags change at the same instant. Until then the update that leaves is
//! active as before, and afterwards it drains like any that is reverted.

use super::{Layer, Scope, State, Step, Switching, Update};
use crate::refusal::Refusal;

impl<'a> Update<'a> {
    /// Has every call come by a handler that asks the flag. If that fails, all is as before.
    pub fn make_ready(&mut self, layer: &mut dyn Layer) -> Result<(), Refusal<'a>> {
        if self.state != State::Active {
            return Err(self.wrong_state(State::Reverting));
        }
        self.unsettle(layer).inspect_err(|_| self.be_active(layer))
    }

    /// Undoes [`Update::make_ready`].
    pub fn stay(&mut self, layer: &mut dyn Layer) {
        if self.state == State::Active {
            self.be_active(layer);
        }
    }

    /// The flag was cleared by another update's switch: what is left is to drain ([`Update::go_on`]).
    pub fn leave(&mut self, layer: &mut dyn Layer) -> Result<(), Refusal<'a>> {
        if self.state != State::Active || self.steps.last() != Some(Step::Flipped) {
            return Err(self.wrong_state(State::Draining));
        }
        self.enter(layer, State::Reverting);
        self.let_end();
        self.enter(layer, State::Draining);
        Ok(())
    }

    /// Reverts it from below another update, whose editions take all its calls: there is nothing to switch, so only
    /// those under way must end. Where they do not in time and `how` says to roll back, all is as before.
    pub fn leave_from_below(
        &mut self,
        layer: &mut dyn Layer,
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        self.check_time(&how)?;
        let scope = self.scope;
        self.let_end();
        let result = self.go_back(layer, how);
        if self.state == State::Active {
            self.scope = scope;
        }
        result
    }

    /// No call comes here any more, or none is to: each that is under way ends where it is, whatever scope the
    /// activation had.
    pub fn let_end(&mut self) {
        self.scope = Scope::Function;
    }
}
