//! The decisions of `dynamos.ko`, without one kernel call.
//!
//! What the kernel must supply (bytes of memory, names, redirections, the moment of the switch) comes through
//! the traits [`Memory`], [`Names`] and [`Layer`], so everything here is tested on the host.
//!
//! Built for the kernel: no panic on any record, no infallible allocation, arithmetic that says what it does
//! on overflow.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate alloc;

mod budget;
mod candidates;
pub mod counters;
mod handler;
pub mod insn;
mod manager;
mod matching;
pub mod policy;
mod refusal;
mod relocate;
mod resolve;
mod slots;
mod sort;
mod stack;
pub mod tasks;
#[cfg(test)]
mod testing;
mod update;

pub use budget::Budget;
pub use candidates::{Candidates, Names};
pub use handler::{HANDLER_LEN, adaptation_of, choice, is_handler, is_leave, is_phase_handler};
pub use manager::{Leaving, Manager, UpdateId};
pub use matching::{Matched, Memory, Mismatch, What, match_function};
pub use refusal::{Name, Refusal};
pub use relocate::{Patch, Range, relocate};
pub use resolve::{Resolved, resolve};
pub use slots::{Word, words};
pub use sort::{sort, sort_by_key};
pub use stack::{Touch, activations, first_touch, normalise};
pub use update::{
    Blocked, Blockers, Errno, Handler, Layer, Limits, OnTimeout, Options, OptionsError, Over,
    Phase, Place, Returned, Scope, State, Step, Steps, Switching, Update,
};
