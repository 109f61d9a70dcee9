//! One update from load to unload: the states it goes through, and the steps that take it there.
//!
//! ```text
//! Loading ──► Registered ──► Transitioning ──► Active ──► Reverting ──► Reverted ──► Gone
//!                  ▲           │ held           ▲ ▲         │  │ held      ▲
//!                  └───────────┘                │ └─────────┘  ▼           │ nobody is in the code
//!                  given up, undone             └────────── Draining ──────┘
//!                                       given up              held
//! ```
//!
//! `Loading` and `Registered` lead to `Gone` if refused; `Transitioning` to `Reverting` or `Draining` if it cannot be undone at
//! once, and a `revert` goes on with that. [`State::may_become`] has every arrow.
//!
//! `Loading` leads to `Waiting` where a module is not loaded yet; when it is, everything begins anew with `Loading`.
//! Edition 0 runs in all of them but `Active` and, until the switch, `Reverting`. Where a hook has not returned in time
//! an update is `Reverting` with nothing left to switch, or `Active`, until it has ([`hooks`]). An update with
//! [phases](phases) is `Transitioning` in both of them, and `Reverting` on its way back; so is one whose tasks or
//! objects [move](moving) one by one, and both editions run then.

mod drive;
mod hooks;
#[cfg(test)]
mod hooks_tests;
mod layer;
mod moving;
#[cfg(test)]
mod moving_tests;
#[cfg(test)]
mod objects_sim;
#[cfg(test)]
mod objects_tests;
mod options;
mod others;
mod phases;
#[cfg(test)]
mod phases_sim;
#[cfg(test)]
mod phases_tests;
#[cfg(test)]
mod sim;
mod switch;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod waiting_tests;

use core::fmt;

pub use drive::Update;
pub use hooks::Returned;
pub use layer::{Blocked, Blockers, Errno, Handler, Layer, Place};
pub use options::{Limits, OnTimeout, Options, OptionsError, Over, Scope, Switching};
pub use phases::Phase;

use crate::refusal::Refusal;
use alloc::vec::Vec;
use dynamos_abi::HookKind;

/// Where an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its record is being checked and matched.
    Loading,
    /// A module that it is for is not loaded.
    Waiting,
    /// It is proven to fit; nothing in the kernel has been touched.
    Registered,
    /// It is being activated; edition 0 runs.
    Transitioning,
    /// Its editions run.
    Active,
    /// It is being reverted.
    Reverting,
    /// New calls run edition 0; tasks are still in the update's code.
    Draining,
    /// Edition 0 runs and nothing leads to the update's code.
    Reverted,
    /// It has been forgotten.
    Gone,
}

impl State {
    /// Whether an update may go from `self` to `to`.
    pub fn may_become(self, to: State) -> bool {
        use State::*;
        matches!(
            (self, to),
            (Loading, Waiting | Registered | Gone)
                | (Waiting, Registered | Gone)
                | (Registered, Transitioning | Gone)
                | (Transitioning, Active | Registered | Reverting | Draining)
                | (Active, Reverting)
                | (Reverting, Active | Transitioning | Draining | Reverted)
                | (Draining, Active | Reverting | Reverted)
                | (Reverted, Gone)
        )
    }

    /// What to do to leave this state, for a refusal.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            State::Active => ": revert it first",
            State::Transitioning | State::Reverting | State::Draining => {
                ": wait until that is over, or try again"
            }
            State::Reverted => ": enable it again, or unload it",
            State::Waiting => ": load the module that it is for, or revert it",
            State::Loading | State::Registered | State::Gone => "",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Loading => "loading",
            State::Waiting => "waiting",
            State::Registered => "registered",
            State::Transitioning => "transitioning",
            State::Active => "active",
            State::Reverting => "reverting",
            State::Draining => "draining",
            State::Reverted => "reverted",
            State::Gone => "gone",
        })
    }
}

/// Something done to the kernel that must be undone, in reverse order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An object (by index) cannot be unloaded. Undone by letting it go.
    TargetPinned(u32),
    /// The update's references are written. Only the update's own sections changed, so nothing is undone.
    SectionsRelocated,
    /// The kernel knows the update's static keys and static calls. Undone by making it forget them.
    LateSections,
    /// The update has been asked whether it may begin (`BeforeOn`). Undone by telling it that it is off.
    Hook(HookKind),
    /// Function (by index) has its `transition` handler. Undone by removing it.
    Redirected(u32),
    /// The updates that this one takes the place of are ready to leave at the switch. Undone by having them stay;
    /// after the switch there is nothing to undo.
    OthersReady,
    /// The update's editions run, or, while it is `Draining`, tasks may still be in them. Undone by a check of all
    /// stacks.
    Flipped,
    /// Function (by index) has its `steady` handler. Undone by `transition`.
    Steady(u32),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::TargetPinned(_) => "pinning a target module",
            Step::SectionsRelocated => "writing the update's references",
            Step::LateSections => "registering the update's static keys and static calls",
            Step::Hook(hook) => return write!(f, "the thread for hook `{}`", hook.name()),
            Step::Redirected(_) => "the redirection",
            Step::OthersReady => "making the replaced updates ready to leave",
            Step::Flipped => "the switch",
            Step::Steady(_) => "the change to the steady redirection",
        })
    }
}

/// What has been done, in order. Room for all of it is taken beforehand, so that noting a step cannot fail.
#[derive(Debug, Default)]
pub struct Steps {
    done: Vec<Step>,
}

impl Steps {
    /// Room for the steps of an update of `functions` functions in `objects` objects.
    pub fn with_room<'a>(functions: u32, objects: u32) -> Result<Self, Refusal<'a>> {
        let mut done = Vec::new();
        let room = (functions as usize)
            .checked_mul(2)
            .and_then(|room| room.checked_add(objects as usize))
            .and_then(|room| room.checked_add(5))
            .ok_or(Refusal::OutOfMemory)?;
        done.try_reserve_exact(room).map_err(|_| Refusal::OutOfMemory)?;
        Ok(Steps { done })
    }

    /// The steps done and not undone, oldest first.
    pub fn done(&self) -> &[Step] {
        &self.done
    }

    /// Notes that `step` is done. There must be room (see [`Steps::has_room`]).
    fn note(&mut self, step: Step) {
        if self.has_room() {
            self.done.push(step);
        }
    }

    /// Whether one more step can be noted: asked before it is done.
    fn has_room(&self) -> bool {
        self.done.len() < self.done.capacity()
    }

    fn last(&self) -> Option<Step> {
        self.done.last().copied()
    }

    fn pop(&mut self) {
        self.done.pop();
    }
}
