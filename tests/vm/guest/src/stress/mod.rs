//! `stress` and `faults`: many rounds of an update's life under load, and a failure at every point of one.

mod faults;
mod inject;
mod kernel;
mod late;
mod loads;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::errno::Errno;

use kernel::{At, Subject};
use loads::Loads;

pub use faults::{Stage, faults};
pub use late::{Stage as LateStage, faults as late_faults};

/// What is loaded.
#[derive(Debug, Args)]
pub struct What {
    /// The update's directory, with dynamos.ko in it.
    pub update: PathBuf,
    /// The name of its module.
    #[arg(long)]
    pub name: String,
    /// How many functions it replaces.
    #[arg(long)]
    pub functions: usize,
    /// The scope that it is loaded and enabled with, if not what its plan proposes.
    #[arg(long)]
    pub scope: Option<String>,
}

impl What {
    fn subject(&self) -> Result<Subject> {
        Subject::open(&self.update, &self.name, self.functions, self.scope.as_deref())
    }
}

/// How many rounds pass between two lines on the console.
const SHOWN: u32 = 10;

/// The scopes of the rounds, one after the other: first what the plan proposes.
const SCOPES: [Option<&str>; 3] = [None, Some("function"), Some("task")];

/// How often a switch that found a task in the way is tried again.
const TRIES: u32 = 20;

/// Runs `rounds` rounds with all loads going, and prints a JSON object.
pub fn stress(what: &What, rounds: u32, dir: &Path) -> Result<()> {
    let mut subject = what.subject()?;
    let loads = Loads::start(dir)?;
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut done = Ok(());
    let mut completed = 0;
    for (number, scope) in (1..=rounds).zip(SCOPES.iter().cycle()) {
        subject.set_scope(scope.or(what.scope.as_deref()));
        done = round(&subject, number, &mut tally).with_context(|| format!("round {number}"));
        if done.is_err() {
            break;
        }
        completed = number;
        if number % SHOWN == 0 {
            eprintln!("{number} rounds, {} s", start.elapsed().as_secs());
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let tallies = loads.stop()?;
    done?;
    let each: Vec<String> = tallies
        .iter()
        .map(|tally| {
            let loads::Tally { name, operations, bytes, lost } = tally;
            format!(
                r#"{{"name":"{name}","operations":{operations},"bytes":{bytes},"lost":{lost}}}"#
            )
        })
        .collect();
    let Tally { held_up, steps } = tally;
    let steps: Vec<String> =
        steps.iter().map(|(name, took)| format!(r#""{name}":{:.1}"#, took.as_secs_f64())).collect();
    let steps = steps.join(",");
    let lost: u64 = tallies.iter().map(|tally| tally.lost).sum();
    let each = each.join(",");
    println!(
        r#"{{"rounds":{completed},"seconds":{seconds:.1},"held_up":{held_up},"step_seconds":{{{steps}}},"bytes_lost":{lost},"loads":[{each}]}}"#
    );
    Ok(())
}

/// What all rounds together took.
#[derive(Default)]
struct Tally {
    /// How often a switch found a task in its way.
    held_up: u32,
    /// Where the time goes: all of it that a step took.
    steps: Vec<(&'static str, Duration)>,
}

impl Tally {
    /// Does a step.
    fn step<T, E>(
        &mut self,
        name: &'static str,
        act: impl FnOnce(&mut u32) -> Result<T, E>,
    ) -> Result<T>
    where
        Result<T, E>: Context<T, E>,
    {
        let start = Instant::now();
        let result = act(&mut self.held_up).context(name);
        let took = start.elapsed();
        match self.steps.iter_mut().find(|(step, _)| *step == name) {
            Some((_, all)) => *all += took,
            None => self.steps.push((name, took)),
        }
        result
    }
}

/// One life of dynamos.ko and of the update.
fn round(subject: &Subject, number: u32, tally: &mut Tally) -> Result<()> {
    let is = |wanted: At, after: &str| -> Result<()> {
        let at = subject.at().with_context(|| format!("after {after}"))?;
        ensure!(at == wanted, "{at:?} instead of {wanted:?} after {after}");
        Ok(())
    };
    tally.step("dynamos.ko", |_| subject.insert_dynamos())?;
    tally.step("load", |held_up| patiently(held_up, || subject.insert()))?;
    is(At::Active, "load")?;
    tally.step("policies", |_| policies(subject, number))?;
    tally.step("revert", |held_up| patiently(held_up, || subject.enable(false)))?;
    is(At::Reverted, "revert")?;
    tally.step("enable", |held_up| patiently(held_up, || subject.enable(true)))?;
    is(At::Active, "enable")?;
    tally.step("second revert", |held_up| patiently(held_up, || subject.enable(false)))?;
    tally.step("unload", |_| subject.remove())?;
    is(At::Absent, "unload")?;
    tally.step("unload of dynamos.ko", |_| subject.remove_dynamos())
}

/// Sets two policies, one after the other, while the loads run: the next of four, and the one that leaves the update as it
/// was. Each must hold for the next call.
fn policies(subject: &Subject, round: u32) -> Result<()> {
    let own = std::process::id();
    let mut all = [
        (format!("tgid == {own}"), true),
        (format!("tgid != {own} and percent(50)"), false),
        ("false".to_owned(), false),
        ("percent(30) or cpu < 64".to_owned(), true),
    ];
    all.rotate_left(round as usize % 4);
    let [next, ..] = all;
    for (text, takes) in [next, ("true".to_owned(), true)] {
        subject.set_policy(&text)?;
        let took = kernel::behaves_as_updated()?;
        ensure!(took == takes, "a call takes edition {} under `{text}`", u8::from(took));
    }
    Ok(())
}

/// A switch may find a task in its way until its time is up; nothing has happened then.
fn patiently(held_up: &mut u32, change: impl Fn() -> nix::Result<()>) -> nix::Result<()> {
    for _ in 0..TRIES {
        match change() {
            Err(Errno::EBUSY | Errno::ETIMEDOUT | Errno::EAGAIN) => *held_up += 1,
            other => return other,
        }
    }
    change()
}

/// Looks for leaks now; the ones of before are forgotten by `clear`. Prints how many there are; what they are
/// goes to the console.
pub fn leaks() -> Result<()> {
    const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
    let scan = || std::fs::write(KMEMLEAK, "scan").context("cannot scan for leaks");
    // What was allocated within the last 5 s is not reported (MSECS_MIN_AGE).
    std::thread::sleep(Duration::from_secs(6));
    scan()?;
    std::thread::sleep(Duration::from_secs(2));
    scan()?;
    let found = std::fs::read_to_string(KMEMLEAK).context("cannot read the leaks")?;
    eprint!("{found}");
    println!("{}", found.lines().filter(|line| line.starts_with("unreferenced object")).count());
    Ok(())
}
