//! Turns two kernels into an update that `dynamos.ko` can load.
//!
//! One file per phase: [`input`](crate::Spec) provides both sides, `changes` finds the files that differ, `build`
//! compiles the objects in question, the differ gives verdicts, `closure` and `record` make the clones and the
//! record of what must be in memory, `package` links the module, `validate` re-reads it, `review` tells a person.

mod adaptation;
mod assemble;
mod background;
mod binaries;
mod build;
mod candidates;
mod changes;
mod clones;
mod closure;
pub mod counting;
mod definitions;
mod describe;
pub mod explain;
mod exports;
pub mod fixes;
mod handlers;
mod hooks;
mod input;
mod layouts;
mod link;
mod mentions;
mod needed;
mod output;
mod package;
mod patch;
mod phases;
mod plan;
mod reach;
mod readers;
mod record;
mod release;
pub mod report;
mod review;
mod run;
mod running;
mod scope;
mod sites;
mod slots;
mod special;
mod unit;
mod uses;
mod validate;
mod verdicts;

pub use binaries::Only;
pub use input::Spec;
pub use plan::{FunctionPlan, Outcome, Plan, Refusal};
use std::sync::atomic::{AtomicBool, Ordering};
pub use unit::Unit;

pub use run::{Request, explain, run};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes note of Ctrl-C, so that what is under way ends in an error and cleans up after itself.
pub fn watch_interrupts() -> anyhow::Result<()> {
    Ok(ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))?)
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
