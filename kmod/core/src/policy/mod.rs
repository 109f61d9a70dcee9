//! Adaptation policies: which edition a call takes.
//!
//! ```text
//!  "cgroup == \"/web\" and percent(10)"            control command, on the host
//!     │ parse (names, types and paths resolved)
//!     ▼
//!   Expr ── compile ──► bytes ─────────────────►  Program::parse, in the kernel
//!                                                   │                │
//!                                        native::generate      Program::decide
//!                                        (the fast way)        (what it must equal)
//! ```
//!
//! A [`Program`] is a decision diagram: up to 64 tests, each with two targets that are a *later* test or the
//! answer. So it ends after at most as many steps as it has tests, whatever the bytes were; there is nothing
//! in it that could loop, divide or reach memory.
//!
//! `docs/policies.md` has the language's grammar and the use of it.

#[cfg(any(test, feature = "compile"))]
pub mod compile;
mod decide;
#[cfg(any(test, feature = "compile"))]
pub mod language;
pub mod native;
mod parameters;
mod program;
mod request;
#[cfg(test)]
pub(crate) mod tests;

pub use decide::{Context, share};
pub use parameters::{Parameter, Parameters};
pub use program::{
    Compare, Field, IntegerType, MAX_BYTES, MAX_SOURCE, MAX_STEPS, Program, ProgramError, Step,
    Target, Test,
};
pub use request::{Request, RequestError};
