//! An update's hooks: functions of its own that are called at its switches, and may refuse them.
//!
//! They come in pairs, and the first of a pair that lets things go on is followed by its second, whatever happens:
//!
//! ```text
//! before_on ─► switch ─► after_on ─► … ─► before_off ─► switch ─► after_off
//!     │                     └───────────────┘                        │
//!     └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! So an activation that is given up after `before_on` ends with `after_off`, and a revert that is given up after
//! `before_off` with `after_on`.
//!
//! A hook runs in a thread of its own. One that is not back in time goes on running, and nothing is taken away from
//! under it: the update says so, and is settled when it returns.

use dynamos_abi::HookKind;

use super::{Layer, Limits, OnTimeout, State, Step, Switching, Update};
use crate::refusal::Refusal;

/// What came of waiting for a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// It has returned this.
    With(i32),
    /// It is still running.
    NotYet,
    /// It is still running, and somebody interrupted the wait.
    Interrupted,
}

impl<'a> Update<'a> {
    /// The hook that has not returned yet.
    pub fn running(&self) -> Option<HookKind> {
        self.running
    }

    /// Whether any code of it has ever run, or may have: its editions, or a hook.
    pub fn has_run(&self) -> bool {
        self.has_run
    }

    /// Has the update begin: what is noted here is undone by `after_off`.
    pub(super) fn begin(
        &mut self,
        layer: &mut dyn Layer,
        limits: &Limits,
    ) -> Result<(), Refusal<'a>> {
        self.try_step(Step::Hook(HookKind::BeforeOn), || Ok(()))?;
        let result = self.call(layer, HookKind::BeforeOn, limits, false);
        if matches!(result, Err(Refusal::Failed { .. })) {
            self.ended(HookKind::BeforeOn, false);
        }
        result
    }

    /// The editions take all calls; `again`, where a revert is given up, which may be because somebody interrupted it. If `after_on` does not let it be so, the update is reverted as far as can be, and
    /// the rest goes on by itself.
    pub(super) fn be_on(
        &mut self,
        layer: &mut dyn Layer,
        how: Switching,
        again: bool,
    ) -> Result<(), Refusal<'a>> {
        let Err(refusal) = self.call(layer, HookKind::AfterOn, &how.limits, again) else {
            return Ok(());
        };
        layer.log(format_args!("{}: {refusal}; it is reverted", self.name));
        self.must = true;
        self.enter(layer, State::Reverting);
        // Who is still in its way would be so if it were waited for. Handlers can only be taken from all calls.
        let forced =
            self.record.slots().is_empty() && !self.has_phases() && !self.record.is_reshaped();
        let on_timeout = if forced { OnTimeout::ForceNewCalls } else { OnTimeout::Hold };
        let mut limits = how.limits;
        if self.running.is_some() {
            limits.wait_ms = 0; // It has been waited for.
        }
        let how = Switching { on_timeout, limits, ..how };
        if let Err(left) = self.go_off(layer, State::Reverting, how) {
            layer.log(format_args!("{}: {left}", self.name));
        }
        Err(refusal)
    }

    /// Asks whether the update may be reverted; `false` if a hook holds that up.
    pub(super) fn may_go_off(
        &mut self,
        layer: &mut dyn Layer,
        how: &Switching,
    ) -> Result<bool, Refusal<'a>> {
        let late = self.running;
        let mut result = self.settle_hook(layer, how.limits.wait_ms, false);
        // What all others say decides nothing any more.
        if let (Err(refusal @ Refusal::HookRefused { .. }), true) =
            (&result, late != Some(HookKind::BeforeOff))
        {
            layer.log(format_args!("{}: {refusal}", self.name));
            result = Ok(());
        }
        if result.is_ok() && self.on {
            result = self.call(layer, HookKind::BeforeOff, &how.limits, false);
        }
        match result {
            Ok(()) => Ok(true),
            Err(refusal @ Refusal::HookRefused { .. }) if self.must => {
                layer.log(format_args!("{}: {refusal}; it must go all the same", self.name));
                self.on = false;
                Ok(true)
            }
            Err(refusal) if is_held(&refusal, how) => {
                if self.state == State::Active {
                    self.enter(layer, State::Reverting);
                }
                Ok(false)
            }
            Err(refusal) => {
                if self.state == State::Reverting && self.running.is_none() && !self.must {
                    self.be_active(layer);
                }
                Err(refusal)
            }
        }
    }

    /// A revert was given up while its `before_off` ran: whether that has returned, and what follows from it.
    pub(super) fn stay_on(
        &mut self,
        layer: &mut dyn Layer,
        how: Switching,
    ) -> Result<(), Refusal<'a>> {
        match self.settle_hook(layer, how.limits.wait_ms, false) {
            Err(refusal) if is_held(&refusal, &how) => return Ok(()),
            Err(refusal @ Refusal::HookRuns { .. }) => return Err(refusal),
            Ok(()) | Err(_) => {}
        }
        if self.on { Ok(()) } else { self.be_on(layer, how, true) }
    }

    /// Tells the update that edition 0 is current again; what it answers is only told.
    pub(super) fn be_off(
        &mut self,
        layer: &mut dyn Layer,
        limits: &Limits,
    ) -> Result<(), Refusal<'a>> {
        match self.call(layer, HookKind::AfterOff, limits, true) {
            Err(refusal @ Refusal::HookRefused { .. }) => {
                layer.log(format_args!("{}: {refusal}; it is off all the same", self.name));
                Ok(())
            }
            other => other.map_err(Refusal::left),
        }
    }

    /// Nothing may be taken away while a hook runs.
    pub(super) fn no_hook_runs(&self) -> Result<(), Refusal<'a>> {
        match self.running {
            None => Ok(()),
            Some(hook) => Err(Refusal::HookRuns { hook, waited_ms: 0, interrupted: false }),
        }
    }

    /// Runs a hook, if the update has it. None is running. `patient`: it takes something back.
    fn call(
        &mut self,
        layer: &mut dyn Layer,
        hook: HookKind,
        limits: &Limits,
        patient: bool,
    ) -> Result<(), Refusal<'a>> {
        self.no_hook_runs()?;
        if self.record.hook(hook).is_none() {
            self.ended(hook, true);
            return Ok(());
        }
        self.begin_hook(layer, hook)?;
        self.settle_hook(layer, limits.hook_ms, patient)
    }

    /// Runs a hook that the update has. It may hand out what the update must keep from then on.
    pub(super) fn begin_hook(
        &mut self,
        layer: &mut dyn Layer,
        hook: HookKind,
    ) -> Result<(), Refusal<'a>> {
        layer.begin_hook(hook).map_err(|errno| self.failed(Step::Hook(hook), errno))?;
        self.running = Some(hook);
        self.has_run = true;
        Ok(())
    }

    /// Waits for the hook that runs, if one does, and takes note of what it returns.
    pub(super) fn settle_hook(
        &mut self,
        layer: &mut dyn Layer,
        ms: u32,
        patient: bool,
    ) -> Result<(), Refusal<'a>> {
        let Some(hook) = self.running else { return Ok(()) };
        let interrupted = match layer.hook_returned(ms, patient) {
            Returned::With(result) => {
                self.running = None;
                self.ended(hook, result == 0);
                return if result == 0 || hook.is_predicate() {
                    Ok(())
                } else {
                    Err(Refusal::HookRefused { hook, result })
                };
            }
            Returned::NotYet => false,
            Returned::Interrupted => true,
        };
        Err(Refusal::HookRuns { hook, waited_ms: ms, interrupted })
    }

    /// What is to follow, now that a hook has returned.
    pub(super) fn ended(&mut self, hook: HookKind, well: bool) {
        match (hook, well) {
            (HookKind::BeforeOn, false) | (HookKind::AfterOff, _) => {
                self.steps.done.retain(|step| !matches!(step, Step::Hook(_)));
            }
            (HookKind::AfterOn, true) => self.on = true,
            (HookKind::BeforeOff, true) => self.on = false,
            (HookKind::Transfer, true) => self.transferred = true,
            (HookKind::TransferBack, true) => self.transferred = false,
            (HookKind::Transfer | HookKind::TransferBack, false) => {}
            (HookKind::Advance | HookKind::AdvanceBack, _) => {}
            (HookKind::BeforeOn, true) | (HookKind::AfterOn | HookKind::BeforeOff, false) => {}
        }
    }
}

/// Whether an operation that fails for this ends well, and goes on by itself.
pub(super) fn is_held(refusal: &Refusal<'_>, how: &Switching) -> bool {
    matches!(refusal, Refusal::HookRuns { interrupted: false, .. })
        && how.on_timeout != OnTimeout::RollBack
}
