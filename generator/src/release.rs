//! The report on a whole release: every object that the configuration builds and that a change may reach. What the
//! distribution built is compared as it is ([`Shipped`]); the rest is compiled, one object after the other, so that
//! memory does not grow with their number. What was found out is kept in the cache, and a run that was broken off goes
//! on where it was.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use kernel_trees::CompileCommand;

use crate::build;
use crate::candidates::{Candidate, Candidates};
use crate::plan::{ObjectPlan, Plan, Refusal};
use crate::reach::reached;
use crate::report::Reporter;
use crate::verdicts;

mod journal;
mod shipped;
pub mod users;

pub use journal::Journal;
pub use shipped::Shipped;

/// Judges every candidate, `jobs` at a time, and adds what it finds to the plan.
pub fn judge(
    found: &Candidates,
    commands: &[CompileCommand],
    v2: &Path,
    journal: &Journal,
    jobs: Option<usize>,
    reporter: &Reporter,
    plan: &mut Plan,
) -> Result<()> {
    let parts = journal.each(
        jobs,
        reporter,
        commands,
        |command| &command.object,
        |command| {
            let candidate = found.objects.get(&command.object).context("an unknown object")?;
            one(command, candidate, v2)
        },
    )?;
    parts.into_values().for_each(|part| plan.absorb(part));
    Ok(())
}

/// What there is to say of one object.
fn one(command: &CompileCommand, candidate: &Candidate, v2: &Path) -> Result<Plan> {
    let mut part = Plan::default();
    let refuse = |part: &mut Plan, error: anyhow::Error| {
        let remedy = "compare without the change that breaks it";
        part.refusals.push(Refusal::new(&command.object, format!("{error:#}"), remedy));
    };
    let why = match not_reached(command, candidate, v2) {
        Ok(Reach::Source) => None,
        Ok(Reach::By(what)) => Some(what),
        Ok(Reach::Nothing) => {
            part.objects.push(unreached(command, candidate));
            return Ok(part);
        }
        Err(error) => {
            refuse(&mut part, error);
            return Ok(part);
        }
    };
    match build::both(command, v2) {
        Ok((old, new)) => {
            let comparison = verdicts::compare(command, [&old, &new], v2)?;
            let names = (command.object.as_str(), command.source.as_str());
            let alone = verdicts::replace_nothing([&comparison]);
            verdicts::rows(names, candidate, &comparison, alone, &mut part);
            part.objects.iter_mut().for_each(|object| object.reached.clone_from(&why));
        }
        Err(error) => refuse(&mut part, error),
    }
    Ok(part)
}

/// Whether a change reaches an object.
#[derive(Debug)]
pub enum Reach {
    /// Its own source differs.
    Source,
    /// What of it does.
    By(String),
    /// Nothing does.
    Nothing,
}

/// Asks the preprocessor, if only headers of the object differ.
pub fn not_reached(command: &CompileCommand, candidate: &Candidate, v2: &Path) -> Result<Reach> {
    if candidate.because.contains(&command.source) {
        return Ok(Reach::Source);
    }
    ensure!(!crate::interrupted(), "interrupted");
    let (old, new) = (build::preprocessed(command)?, build::preprocessed(&command.in_tree(v2))?);
    Ok(reached(&old, &new).map_or(Reach::Nothing, Reach::By))
}

/// The row of an object that nothing reaches.
pub fn unreached(command: &CompileCommand, candidate: &Candidate) -> ObjectPlan {
    ObjectPlan {
        object: command.object.clone(),
        source: command.source.clone(),
        owner: candidate.owner.clone(),
        because: candidate.because.iter().cloned().collect(),
        functions: 0,
        changed: 0,
        reached: None,
    }
}
