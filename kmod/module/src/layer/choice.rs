//! Which edition the calls of a function take: where its redirection leads, and the policies.

use alloc::vec::Vec;

use dynamos_abi::function_flags;
use dynamos_abi::policy as place;
use dynamos_core::policy::{Program, Request};
use dynamos_core::{Errno, Handler};

use super::{INVALID, KernelLayer};
use crate::ffi::modules::Module;
use crate::ffi::redirect::Redirection;
use crate::ffi::{log, policy, wait};
use crate::names::{as_c_str, c_string};
use crate::policies::{self, Change, Policies, Rule};
use crate::refused::{Refused, to_core};

impl KernelLayer {
    /// Where the calls of a function go. What the update does not take goes to edition 0, or to the handler of the update
    /// that it lies over. While a switch is under way, that is all that a policy or the update's own
    /// adaptation handler is for: not all of them are to take the edition, and none may while it
    /// is being left.
    pub(crate) fn handler(&self, index: u32, handler: Handler, rule: Rule) -> Result<u64, Errno> {
        let (function, _) = self.function(index)?;
        let adapts = function.flags & function_flags::ADAPTS != 0;
        let address = |index: u32| self.addresses.get(index as usize).copied().ok_or(INVALID);
        let below = self.replacing.below(index);
        let (under, leaving) = (self.replacing.under(index), self.replacing.is_leaving());
        // Where it takes another's place, not even what does not become steady may lead there after the switch.
        let asks = !self.replacing.stacks || rule == Rule::Always && !adapts;
        match (handler, rule) {
            (Handler::Transition, _) if asks && under.is_some() && !leaving => {
                self.choice_place(index)
            }
            (Handler::Transition, _) if under.is_some() && !leaving => under.ok_or(INVALID),
            (Handler::Transition, _) if leaving && (adapts || rule != Rule::Always) => {
                self.choice_place(index)
            }
            (Handler::Transition, rule) if self.asks_task(index, rule) => self.choice_place(index),
            (_, rule) if self.counts(index, rule) => address(function.counting),
            (Handler::Transition, Rule::Always) if !adapts => address(function.transition),
            (Handler::Steady, Rule::Always) => address(function.steady),
            (Handler::Steady, Rule::Slot(slot)) => Ok(slot),
            (Handler::Steady, Rule::Never) if below.is_some() => below.ok_or(INVALID),
            (Handler::Transition, _) | (Handler::Steady, Rule::Never) => {
                Ok(address(function.policy)? + place::LEAVE)
            }
        }
    }

    /// Sends the calls of a function elsewhere.
    pub(crate) fn redirect(&mut self, function: u32, to: u64) -> Result<(), Errno> {
        let (entry, _) = self.function(function)?;
        let slot = self.redirects.get_mut(function as usize).and_then(Option::as_mut);
        let redirection = slot.ok_or(INVALID)?;
        if redirection.handler() == to {
            return Ok(());
        }
        if self.addresses.get(entry.counting as usize) != Some(&to) {
            self.objects.lose_count();
        }
        // SAFETY: as for the handler that was installed; the code of a policy is the function's own too.
        unsafe { redirection.replace(to) }.map_err(to_core)
    }

    /// Whether a function is sent where it is not while a switch is under way.
    fn strays(&self, function: u32) -> Option<u64> {
        let redirection = self.redirects.get(function as usize)?.as_ref()?;
        let wanted =
            self.handler(function, Handler::Transition, self.policies.rule(function)).ok()?;
        (redirection.handler() != wanted).then_some(wanted)
    }

    /// Sends those back that [`KernelLayer::strays`] finds: a policy was set while they had no steady handler, or they did
    /// not get one when this took another's place.
    ///
    /// Before the flag changes: what they were sent to may ask it, and lead to an update that has gone since.
    pub(crate) fn gather_strays(&mut self) -> Result<(), Errno> {
        let mut found = false;
        let mut result = Ok(());
        for function in 0..self.record.functions().len() {
            let Some(wanted) = self.strays(function) else { continue };
            found = true;
            result = self.gather(function, wanted);
            if result.is_err() {
                break;
            }
        }
        if found {
            // Also where not all are gathered: the next time these are no strays. The grace period comes after the
            // redirection, so nobody is on the way to the flag by what they led to when it changes.
            self.replacing.stale = true;
            self.replacing.freshen();
        }
        result
    }

    /// Has what did not get its steady handler at the switch get it after all: what asks the flag instead may lead to an
    /// update that has gone since.
    pub(crate) fn settle_rest(&mut self) -> Result<(), Errno> {
        for (function, _) in self.record.replaced() {
            if self.has_redirection(function) {
                let steady =
                    self.handler(function, Handler::Steady, self.policies.rule(function))?;
                self.replacing.stale = true;
                self.redirect(function, steady)?;
            }
        }
        Ok(())
    }

    fn gather(&mut self, function: u32, wanted: u64) -> Result<(), Errno> {
        // Whoever is in a slot leaves it before it is written.
        self.replacing.stale = true;
        self.write_choice(function)?;
        self.redirect(function, wanted)
    }

    /// Whether both editions of every function may run at a time, because policies decide on each call.
    pub(crate) fn lets_editions_mix(&self) -> bool {
        self.policies.let_editions_mix(&self.record)
    }

    /// Sets policies. `live`: the editions run, so that it takes effect now. On failure nothing has changed.
    pub(crate) fn set_policy(
        &mut self,
        request: &Request<'_>,
        program: &Program,
        live: bool,
    ) -> Result<(), Refused> {
        self.replacing.freshen();
        // While reverted, the update has no hold of its own.
        let name = c_string(self.record.name())?;
        let found;
        let module = match &self.own {
            Some(own) => own,
            None => {
                found = Module::find(as_c_str(&name)?)?;
                &found
            }
        };
        let in_use = |function: u32| {
            let goes_to = self.redirects.get(function as usize).and_then(Option::as_ref);
            let ruled = match self.policies.rule(function) {
                Rule::Slot(slot) => slot,
                Rule::Always | Rule::Never => 0,
            };
            [goes_to.map_or(0, Redirection::handler), ruled]
        };
        let facts = policy::facts()?;
        let under = |function| self.replacing.below(function);
        let target =
            policies::Target { record: &self.record, addresses: self.addresses, module, facts };
        let changes = policies::prepare(&target, request, program, in_use, under)?;
        let sources = Policies::sources(&changes, program, request.program)?;
        if live {
            let result = self.put_in_force(&changes);
            // Whoever is in a slot leaves it before it is written again.
            wait::synchronize_rcu_tasks_rude();
            wait::synchronize_rcu_tasks();
            result.map_err(|error| {
                Refused::policy(format_args!("a function cannot be redirected ({error})"))
            })?;
        }
        self.policies.adopt(&changes, sources);
        Ok(())
    }

    /// Redirects the functions, all of them or none.
    fn put_in_force(&mut self, changes: &[Change]) -> Result<(), Errno> {
        for (done, change) in changes.iter().enumerate() {
            let to = self.handler(change.function, Handler::Steady, change.rule)?;
            let Err(error) = self.redirect(change.function, to) else { continue };
            for change in changes.iter().take(done) {
                let rule = self.policies.rule(change.function);
                let back = self.handler(change.function, Handler::Steady, rule)?;
                if let Err(error) = self.redirect(change.function, back) {
                    log::error(format_args!(
                        "{}: a function keeps a policy that was refused: {error}",
                        self.record.name()
                    ));
                }
            }
            return Err(error);
        }
        Ok(())
    }

    /// Writes the policies in force to `text`, which is [`Policies::room`].
    pub(crate) fn write_policies(&self, text: &mut Vec<u8>) {
        self.policies.write(&self.record, text);
    }
}
