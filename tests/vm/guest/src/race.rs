//! Administrators who load, revert, enable and unload one update, set its policy and see which edition calls take, all at
//! once. Whether that is what one after the other can have done, [`model`] says.

mod model;
#[cfg(test)]
mod model_tests;
mod random;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use nix::time::{ClockId, clock_gettime};

use crate::pipe;
use model::{Operation, What};
use random::Random;

/// Who they are.
#[derive(Debug, Args)]
pub struct Race {
    /// The update's directory; it is not loaded.
    update: PathBuf,
    /// The name of its module.
    #[arg(long)]
    name: String,
    /// How many administrators.
    #[arg(long, default_value_t = 6)]
    workers: u32,
    /// How many operations each of them does.
    #[arg(long, default_value_t = 10)]
    operations: u32,
    /// Decides which.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For how many milliseconds each rests between two, at most: what is refused is soon over, and what is done is not.
    #[arg(long, default_value_t = 200)]
    rest: u64,
}

/// Done when all have ended, by one who is alone: so what is left is what the last of them did.
const LAST: [What; 12] = [
    What::Edition,
    What::Load { takes: false },
    What::Edition,
    What::Enable,
    What::Policy { takes: true, code: false },
    What::Edition,
    What::Revert,
    What::Edition,
    What::Enable,
    What::Edition,
    What::Unload { revert: true },
    What::Edition,
];

impl Race {
    /// Races, and tells.
    pub fn run(&self) -> Result<String> {
        let start = Barrier::new(self.workers as usize);
        let parts = std::thread::scope(|scope| {
            let work = |who| {
                let start = &start;
                scope.spawn(move || self.work(who, start))
            };
            let threads: Vec<_> = (1..=self.workers).map(work).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        let mut history = Vec::new();
        for part in parts {
            history.extend(part.ok().context("a thread died")??);
        }
        let mut text = tally(&history);
        for what in LAST {
            history.push(self.once(0, what)?);
        }
        let verdict = match model::check(&history) {
            Ok(()) => format!("linearizable: {} operations", history.len()),
            Err(why) => why,
        };
        text.insert_str(0, &format!("{verdict}\n"));
        Ok(text)
    }

    fn work(&self, who: u32, start: &Barrier) -> Result<Vec<Operation>> {
        let mut random = Random::new(self.seed, who);
        start.wait();
        let each = |_| {
            std::thread::sleep(Duration::from_millis(random.below(self.rest + 1)));
            self.once(who, random.what())
        };
        (0..self.operations).map(each).collect()
    }

    fn once(&self, who: u32, what: What) -> Result<Operation> {
        let mut command = Command::new("dynamos");
        command.args(self.arguments(what));
        let begin = now()?;
        let ended = |code, said, end| Operation { who, begin, end, what, code, said };
        if what == What::Edition {
            let edition = pipe::edition(None, None, 1);
            let end = now()?;
            let code = edition.is_ok().then_some(0);
            return Ok(ended(code, edition.unwrap_or_else(|error| error.to_string()), end));
        }
        let output = command.output().context("cannot run dynamos")?;
        let end = now()?;
        let said = if output.status.success() { output.stdout } else { output.stderr };
        let said = String::from_utf8_lossy(&said);
        // Whoever was killed has no code.
        Ok(ended(output.status.code(), said.lines().next().unwrap_or_default().to_owned(), end))
    }

    fn arguments(&self, what: What) -> Vec<String> {
        let default = |takes| format!("--default={}", u8::from(takes));
        let mut arguments = vec![what.name().to_owned(), self.name.clone()];
        match what {
            What::Load { takes } => {
                arguments.truncate(1);
                arguments.extend([self.update.display().to_string(), default(takes)]);
            }
            What::Unload { revert: true } => arguments.push("--revert".into()),
            What::Policy { takes, code: false } => arguments.push(default(takes)),
            // All calls here are root's.
            What::Policy { takes, code: true } => {
                arguments.push(format!("--when=uid == {}", if takes { 0 } else { 7 }));
            }
            _ => {}
        }
        arguments
    }
}

/// `KIND DONE of ALL` a line.
fn tally(history: &[Operation]) -> String {
    let mut kinds = BTreeMap::<_, (u32, u32)>::new();
    for operation in history {
        let (done, all) = kinds.entry(operation.what.name()).or_default();
        *done += u32::from(operation.code == Some(0));
        *all += 1;
    }
    kinds.iter().map(|(kind, (done, all))| format!("{kind} {done} of {all}\n")).collect()
}

/// The time of `CLOCK_MONOTONIC`, in nanoseconds.
fn now() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    u64::try_from(Duration::from(time).as_nanos()).context("the clock is past its end")
}
