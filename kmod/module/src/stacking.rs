//! An update over others: what it does not take goes to them, and they get their redirections back when it is reverted.
//!
//! While it lies over another, code of it leads to the other's handlers: where its policies send what they do not take,
//! and where its flag sends calls until the switch and after the revert. So what lies below keeps its handlers and its
//! code until the one above has handed the redirection back, or leads elsewhere.

use dynamos_abi::function_flags;
use dynamos_core::policy::Request;
use dynamos_core::{Handler, Leaving, Over, Refusal, State, Switching, UpdateId};

use crate::ffi::policy;
use crate::ffi::redirect::Redirection;
use crate::layer::KernelLayer;
use crate::module::STATE;
use crate::policies::{self, Rule, Target};
use crate::refused::Refused;
use crate::work::Work;

impl KernelLayer {
    /// Whether calls of some function may go to what is below.
    pub(crate) fn leaves_calls(&self) -> bool {
        self.record.replaced().any(|(index, _)| !self.takes_all(index))
    }

    /// Whether all calls of a function take its edition.
    fn takes_all(&self, index: u32) -> bool {
        let function = self.record.functions().get(index);
        let adapts = function.is_none_or(|it| it.flags & function_flags::ADAPTS != 0);
        !adapts && self.policies.rule(index) == Rule::Always
    }

    /// Refuses functions whose own adaptation handler would go past what is below, to edition 0.
    pub(crate) fn check_adaptation(&self) -> Result<(), Refused> {
        if !self.replacing.stacks {
            return Ok(());
        }
        for (index, function) in self.record.replaced() {
            let adapts = function.flags & function_flags::ADAPTS != 0;
            if adapts && self.replacing.under(index).is_some() {
                let name = policies::names(&self.record, &function).unwrap_or_default().1;
                return Err(Refused::Adapts(name));
            }
        }
        Ok(())
    }

    /// Has the code of policies send what it does not take to where that goes now. Nobody calls it.
    pub(crate) fn lead_to(&mut self) -> Result<(), Refused> {
        let Some(module) = &self.own else { return Ok(()) };
        if !self.policies.have_code() {
            return Ok(());
        }
        self.replacing.freshen();
        let (record, addresses, facts) = (&self.record, self.addresses(), policy::facts()?);
        let target = Target { record, addresses, module, facts };
        let replacing = &self.replacing;
        self.policies.lead_to(&target, |function| replacing.below(function))
    }

    /// Whether nothing of it leads to what is below a function: its calls go straight to the edition, or would, if this
    /// had the redirection.
    fn is_straight(&self, index: u32) -> bool {
        let redirection = self.redirects.get(index as usize).and_then(Option::as_ref);
        let steady = self.handler(index, Handler::Steady, Rule::Always);
        self.takes_all(index)
            && match redirection.map(Redirection::handler) {
                Some(handler) => steady == Ok(handler),
                None => self.replacing.is_handed(index),
            }
    }
}

impl Work {
    /// Takes those that hang together with it, and notes that it is being reverted.
    pub(crate) fn begin_revert(&mut self, id: UpdateId) -> Result<Leaving, Refused> {
        let leaving = {
            // In one hold of the lock: what may happen is said of those that are taken.
            let registry = &mut STATE.lock().registry;
            let leaving = registry.manager.may_revert(id)?;
            let others = registry.take_with(id, Over::Stack)?;
            self.layer.replacing.others = others;
            registry.manager.advance(id, State::Reverting)?;
            leaving
        };
        if leaving == Leaving::Covered
            && let Err(refusal) = self.check_above(id)
        {
            STATE.lock().registry.manager.advance(id, State::Active)?;
            return Err(refusal.into());
        }
        Ok(leaving)
    }

    /// Whether each that lies directly over it leads past it.
    fn check_above(&self, id: UpdateId) -> Result<(), Refusal<'static>> {
        for (_, above) in &self.layer.replacing.others {
            let layer = &above.layer;
            let over = |index: u32| {
                let taken = layer.replacing.taken.get(index as usize).copied().flatten();
                taken.is_some_and(|taken| taken.other == id)
            };
            if layer.record.replaced().any(|(index, _)| over(index) && !layer.is_straight(index)) {
                let (update, by) = (self.update.name(), above.update.name());
                return Err(Refusal::LetsThrough { update, by });
            }
        }
        Ok(())
    }

    /// Leaves from below others that take all calls: whoever is in its code ends there.
    pub(crate) fn leave_from_below(
        &mut self,
        id: UpdateId,
        how: Switching,
    ) -> Result<(), Refusal<'static>> {
        // Who has read the flag of one above before its switch may still be on the way here.
        self.layer.replacing.awaited = true;
        let result = self.update.leave_from_below(&mut self.layer, how);
        if self.update.state() != State::Active {
            self.be_passed(id);
            STATE.lock().registry.manager.leave(id);
        }
        result
    }

    /// What lay over it lies over what is below it.
    fn be_passed(&mut self, id: UpdateId) {
        let replacing = &mut self.layer.replacing;
        let below = core::mem::take(&mut replacing.taken);
        for (_, above) in &mut replacing.others {
            for taken in above.layer.replacing.taken.iter_mut().filter(|taken| taken.is_some()) {
                if let Some(this) = taken.filter(|taken| taken.other == id) {
                    *taken = below.get(this.function as usize).copied().flatten();
                }
            }
        }
        replacing.taken = below;
        replacing.lie_alone();
    }

    /// Whether policies may be set now: nothing that lies above may lead to a handler that would change.
    pub(crate) fn check_policy(&self, id: UpdateId, request: &Request<'_>) -> Result<(), Refused> {
        let manager = &STATE.lock().registry.manager;
        manager.may_change(id)?;
        let record = self.update.record();
        for (index, function) in record.replaced() {
            let (object, name) = policies::names(record, &function).unwrap_or_default();
            let address = self.layer.functions.get(index as usize).copied().unwrap_or_default();
            if request.selects(object, name)
                && let Some(by) = manager.over(id, address)
            {
                return Err(Refused::Below { function: name, by });
            }
        }
        Ok(())
    }
}
