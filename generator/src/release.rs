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
        |command| Ok((command, candidate(found, command)?)),
        |command| one(command, candidate(found, command)?, v2),
    )?;
    parts.into_values().for_each(|part| plan.absorb(part));
    Ok(())
}

fn candidate<'f>(found: &'f Candidates, command: &CompileCommand) -> Result<&'f Candidate> {
    found.objects.get(&command.object).context("an unknown object")
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn what_is_compiled_has_rows_for_the_candidates_of_this_run() {
        let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = tempfile::tempdir().unwrap();
        let put = |root: &Path, name: &str, text: &str| {
            std::fs::write(root.join(name), text).unwrap();
        };
        let used = "#include \"h.h\"\nint used(int a) { return a + MORE; }\n";
        for (root, more) in [(v1.path(), 1), (v2.path(), 2)] {
            put(root, "h.h", &format!("#define MORE {more}\n"));
            put(root, "used.c", used);
            put(root, "unused.c", "#include \"h.h\"\nint unused(int a) { return a; }\n");
            put(root, "own.c", &format!("int own(int a) {{ return a + {more}; }}\n"));
        }
        put(v1.path(), "broken.c", "int broken;\n");
        put(v2.path(), "broken.c", "int broken\n");
        let flags = "-O2 -g -fno-pie -mcmodel=kernel -pg -mrecord-mcount -mfentry -fcf-protection=none \
                     -fno-asynchronous-unwind-tables -w";
        let names = ["broken", "own", "unused", "used"];
        let commands = names.map(|name| CompileCommand {
            object: format!("{name}.o"),
            source: format!("{name}.c"),
            compiler: "gcc".into(),
            args: flags.split_whitespace().map(Into::into).collect(),
            cwd: v1.path().into(),
        });
        let found = |because: &dyn Fn(&str) -> Vec<String>| {
            let mut found = Candidates::default();
            for name in names {
                let because = because(name).into_iter().collect();
                let candidate = Candidate { owner: "vmlinux".into(), because };
                found.objects.insert(format!("{name}.o"), candidate);
            }
            found
        };
        let judged = |journal: &str, found: &Candidates, jobs| {
            let journal =
                Journal::open(&cache.path().join(journal), v1.path(), "diff", "compiled").unwrap();
            let (mut plan, quiet) = (Plan::default(), Reporter::new(true, false));
            judge(found, &commands, v2.path(), &journal, Some(jobs), &quiet, &mut plan).unwrap();
            plan.settle();
            plan
        };
        let bytes = |plan: &Plan| serde_json::to_string_pretty(plan).unwrap();
        let own = found(&|name| vec![format!("{name}.c")]);
        let by_header = found(&|name| match name {
            "own" | "broken" => vec![format!("{name}.c")],
            _ => vec!["h.h".into()],
        });
        let plan = judged("1", &by_header, 1);
        let rows: Vec<_> = plan
            .objects
            .iter()
            .map(|row| (&*row.object, row.functions, row.changed, row.reached.is_some()))
            .collect();
        assert_eq!(
            rows,
            [("own.o", 1, 1, false), ("unused.o", 0, 0, false), ("used.o", 1, 1, true),]
        );
        let refused: Vec<_> = plan.refusals.iter().map(|refusal| &*refusal.name).collect();
        assert_eq!(refused, ["broken.o"]);
        assert_eq!(bytes(&judged("8", &by_header, 8)), bytes(&plan));
        // By the journal of the first, what was asked for otherwise is found out about.
        let expected = bytes(&judged("own", &own, 8));
        assert_ne!(expected, bytes(&plan));
        assert_eq!(bytes(&judged("1", &own, 8)), expected);
        assert_eq!(bytes(&judged("1", &by_header, 8)), bytes(&plan));
    }
}
