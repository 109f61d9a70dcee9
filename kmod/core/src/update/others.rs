//! Updates of the same functions: what happens to one when another takes its place.
//!
//! The other one's switch is theirs too: both flags change at the same instant. Until then the update that leaves is
//! active as before, and afterwards it drains like any that is reverted.

use super::{Layer, Scope, State, Step, Switching, Update};
use crate::refusal::Refusal;

/// Why in an update in the place of others, or over them, nothing moves one by one.
const NOT_WITH_OTHERS: &str =
    "other updates of the same functions take part in the switch; use --scope system";

/// Whether a switch that others take part in may be made like that.
pub(super) fn check_with_others(
    layer: &dyn Layer,
    how: &Switching,
) -> Result<(), Refusal<'static>> {
    if how.scope.is_single() && layer.replaces_others() {
        return Err(Refusal::NoScope { scope: how.scope, why: NOT_WITH_OTHERS });
    }
    match layer.reshaped_other() {
        // Callers of its own that are under way would call what comes after it.
        Some(update) if !how.is_whole() => Err(Refusal::ReshapedLeaves { update }),
        _ => Ok(()),
    }
}

impl<'a> Update<'a> {
    /// Whether it may come together with `others`, if there are any: over them, where it `stacks`, or in their place.
    pub fn check_company<'u>(
        &'u self,
        others: impl Iterator<Item = &'u Update<'a>> + Clone,
        stacks: bool,
    ) -> Result<(), Refusal<'static>>
    where
        'a: 'u,
    {
        if others.clone().next().is_none() {
            return Ok(());
        }
        let all = others.clone().chain([self]);
        let writes = |update: &&Self| !update.record.slots().is_empty();
        // Where it takes their place, its own handlers are written at the switch as if it came alone.
        let writer = if stacks { all.clone().find(writes) } else { others.clone().find(writes) };
        if let Some(update) = writer {
            return Err(Refusal::HasHandlers { update: update.name });
        }
        // Clones call by the entries of functions, where the topmost update decides.
        if let Some(update) = all.clone().find(|update| stacks && update.record.is_reshaped()) {
            return Err(Refusal::Reshaped { update: update.name });
        }
        if let Some(update) = all.clone().find(|update| update.has_phases()) {
            return Err(Refusal::HasPhases { update: update.name });
        }
        match all.clone().find(|update| !update.record.hooks().is_empty()) {
            Some(update) => Err(Refusal::HasHooks { update: update.name }),
            None => Ok(()),
        }
    }

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
        self.keep(&how);
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
