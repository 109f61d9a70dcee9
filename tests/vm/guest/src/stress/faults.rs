//! A failure at every point of an operation, one at a time.
//!
//! `/proc/self/task/TID/fail-nth` makes the N-th thing of this task fail that fault injection knows: every
//! allocation, and every call of a function of dynamos.ko that is marked `ALLOW_ERROR_INJECTION` (registrations
//! and waits). N goes up until nothing failed any more.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use nix::errno::Errno;

use super::What;
use super::inject::{self, Nth, mark, only_below_dynamos, prepare};
use super::kernel::{self, At, Running, Subject};

/// How many points pass between two lines on the console.
const SHOWN: u32 = 20;

/// The operation that is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Loading dynamos.ko.
    DynamosLoad,
    /// Loading the update, and switching to it.
    Load,
    /// Going back to edition 0.
    Revert,
    /// Switching to it again.
    Enable,
    /// Having another policy decide on each call.
    Policy,
    /// Switching to it while a task sleeps in edition 0: it waits, and goes on without.
    Wait,
    /// Going back to edition 0 while a task sleeps in the update's code: it waits, and drains.
    Drain,
    /// Having another update take its place.
    Replace,
    /// Having another update come over it.
    Stack,
    /// Having the one that lies over it leave.
    Unstack,
    /// Unloading the update.
    Unload,
    /// Unloading dynamos.ko.
    DynamosUnload,
}

impl Stage {
    /// Which of two updates run before the operation, and which after it, if it is about two.
    pub fn of_two(self) -> Option<(Running, Running)> {
        match self {
            Stage::Replace => Some((Running::First, Running::Second)),
            Stage::Stack => Some((Running::First, Running::Both)),
            Stage::Unstack => Some((Running::Both, Running::First)),
            _ => None,
        }
    }
}

/// What came of a stage.
#[derive(Debug, Default)]
pub struct Outcome {
    pub points: u32,
    /// How often the operation failed, and all was as before.
    pub refused: u32,
    /// How often it did its work all the same.
    pub done: u32,
    /// How often the kernel did not let go of a redirection, and the next try put it right.
    pub kept: u32,
    pub failures: Vec<String>,
}

/// Goes through the stages and prints a JSON object. With `own` only the points below a function of dynamos.ko
/// count, not those of the kernel's module loader around it.
pub fn faults(what: &What, other: Option<&What>, stages: &[Stage], own: bool) -> Result<()> {
    let subject = what.subject()?;
    let other = other.map(What::subject).transpose()?;
    prepare()?;
    let mut figures = Figures::default();
    for stage in stages {
        let outcome = go_through(&subject, other.as_ref(), *stage, own)?;
        figures.add(&format!("{stage:?}"), &outcome);
    }
    figures.print();
    Ok(())
}

/// What came of all stages.
#[derive(Default)]
pub struct Figures {
    points: u32,
    failures: usize,
    stages: Vec<String>,
}

impl Figures {
    /// Adds a stage, and tells of it on the console.
    pub fn add(&mut self, stage: &str, outcome: &Outcome) {
        let Outcome { points, refused, done, kept, failures } = outcome;
        for failure in failures {
            eprintln!("{stage}: {failure}");
        }
        eprintln!("{stage}: {points} points, {refused} refused, {done} done, {kept} kept");
        self.points += points;
        self.failures += failures.len();
        self.stages.push(format!(
            r#"{{"stage":"{stage}","points":{points},"refused":{refused},"done":{done},"kept":{kept},"failures":{}}}"#,
            failures.len()
        ));
    }

    /// As a JSON object.
    pub fn print(&self) {
        let Figures { points, failures, stages } = self;
        let stages = stages.join(",");
        println!(r#"{{"fault_points":{points},"fault_failures":{failures},"stages":[{stages}]}}"#);
    }
}

/// Makes one point after the other of an operation fail: `before` brings the kernel to where it begins, and `judge` looks
/// at what it has led to.
pub fn each_point(
    stage: &str,
    before: impl Fn() -> Result<()>,
    operate: impl Fn() -> nix::Result<()>,
    mut judge: impl FnMut(nix::Result<()>, &mut Outcome) -> Result<()>,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let start = Instant::now();
    for number in 1.. {
        before().with_context(|| format!("{stage}: before point {number}"))?;
        let nth = Nth::arm(number)?;
        let result = operate();
        if !nth.disarm()? {
            ensure!(result.is_ok(), "{stage} fails without a fault: {result:?}");
            break;
        }
        outcome.points += 1;
        if outcome.points.is_multiple_of(SHOWN) {
            eprintln!("{stage}: {} points, {} s", outcome.points, start.elapsed().as_secs());
        }
        if let Err(error) = judge(result, &mut outcome) {
            outcome.failures.push(format!("point {number}: {result:?}, {error:#}"));
        }
    }
    Ok(outcome)
}

fn go_through(
    subject: &Subject,
    other: Option<&Subject>,
    stage: Stage,
    own: bool,
) -> Result<Outcome> {
    let other = match stage.of_two() {
        Some(ends) => Some((other.context("which is the other update?")?, ends)),
        None => None,
    };
    let about_dynamos = matches!(stage, Stage::DynamosLoad | Stage::DynamosUnload);
    if !about_dynamos {
        reach(subject, None)?;
        subject.insert_dynamos().context("dynamos.ko")?;
        mark()?;
    }
    let policies = Policies::new()?;
    if stage == Stage::Policy {
        reach(subject, Some(At::Active))?;
        subject.write_policy(&policies.ours).context("the policy to begin with")?;
    }
    if let Some((other, _)) = other {
        other.insert().and_then(|()| other.enable(false)).context("the other update")?;
        reach(subject, Some(At::Active))?;
    }
    let sleeper = match stage {
        Stage::Wait | Stage::Drain => {
            before(subject, stage)?;
            Some(Sleeper::start()?)
        }
        _ => None,
    };
    only_below_dynamos(own && !about_dynamos)?;
    let was = RefCell::new(String::new());
    let outcome = each_point(
        &format!("{stage:?}"),
        || {
            match other {
                None => before(subject, stage),
                Some((other, (begin, _))) => bring(subject, other, begin),
            }?;
            if stage == Stage::Policy {
                was.replace(subject.policy()?);
            }
            Ok(())
        },
        || match other {
            None => operate(subject, stage, &policies),
            Some((other, _)) if stage == Stage::Unstack => other.enable(false),
            Some((other, _)) if stage == Stage::Stack => other.switch(OVER),
            Some((other, _)) => other.switch(INSTEAD),
        },
        |result, outcome| match other {
            _ if stage == Stage::Policy => {
                judge_policy(subject, &policies, &was.borrow(), result, outcome)
            }
            Some((other, ends)) => judge_two(subject, other, ends, result, outcome),
            None => judge(subject, stage, result, outcome),
        },
    )?;
    only_below_dynamos(false)?;
    inject::unmark()?;
    if let Some(sleeper) = sleeper {
        sleeper.end()?;
        // What has drained goes on by itself.
        let drained = stage != Stage::Drain || subject.becomes("reverted")?;
        ensure!(drained, "it does not go on when the sleeper has left");
    }
    if stage == Stage::Policy {
        subject.write_policy(&policies.ours).context("the policy at the end")?;
    }
    if let Some((other, _)) = other {
        bring(subject, other, Running::First).context("at the end")?;
        other.remove().context("the other update")?;
    }
    reach(subject, None)?;
    Ok(outcome)
}

/// Brings the kernel to where the stage begins.
fn before(subject: &Subject, stage: Stage) -> Result<()> {
    reach(
        subject,
        match stage {
            Stage::DynamosLoad => None,
            Stage::Load | Stage::DynamosUnload => Some(At::Absent),
            Stage::Revert | Stage::Policy | Stage::Drain => Some(At::Active),
            Stage::Replace | Stage::Stack | Stage::Unstack => Some(At::Active),
            Stage::Enable | Stage::Unload | Stage::Wait => Some(At::Reverted),
        },
    )
}

/// Goes to a state without faults; `None` is without dynamos.ko.
fn reach(subject: &Subject, wanted: Option<At>) -> Result<()> {
    for _ in 0..6 {
        let at = subject.at()?;
        match (subject.has_dynamos(), &wanted) {
            (false, None) => return Ok(()),
            (true, Some(wanted)) if at == *wanted => return Ok(()),
            (false, Some(_)) => subject.insert_dynamos().context("dynamos.ko")?,
            (true, None) if at == At::Absent => subject.remove_dynamos().context("dynamos.ko")?,
            (true, wanted) => match (at, wanted) {
                (At::Absent, _) => subject.insert().context("load")?,
                (At::Reverted, Some(At::Active)) => subject.enable(true).context("enable")?,
                (At::Reverted, _) => subject.remove().context("unload")?,
                (At::Draining, Some(At::Active)) => subject.enable(true).context("resume")?,
                (At::Active | At::Reverting | At::Draining, _) => {
                    subject.enable(false).context("revert")?
                }
            },
        }
    }
    bail!("{wanted:?} is not reached; the update is {:?}", subject.at()?)
}

fn operate(subject: &Subject, stage: Stage, policies: &Policies) -> nix::Result<()> {
    match stage {
        Stage::DynamosLoad => subject.insert_dynamos(),
        Stage::Load => subject.insert(),
        Stage::Revert => subject.enable(false),
        Stage::Enable => subject.enable(true),
        Stage::Replace | Stage::Stack | Stage::Unstack => Err(Errno::EINVAL),
        Stage::Policy => subject.write_policy(&policies.others),
        Stage::Wait => subject.force(),
        Stage::Drain => subject.switch("0 wait_ms=40,on_timeout=force-new-calls"),
        Stage::Unload => subject.remove(),
        Stage::DynamosUnload => subject.remove_dynamos(),
    }
}

/// Where the kernel must be, by the operation's own answer.
fn judge(
    subject: &Subject,
    stage: Stage,
    result: nix::Result<()>,
    outcome: &mut Outcome,
) -> Result<()> {
    let at = subject.at()?;
    let dynamos = subject.has_dynamos();
    let (old, new) = match stage {
        Stage::DynamosLoad => ((At::Absent, false), (At::Absent, true)),
        Stage::Load => ((At::Absent, true), (At::Active, true)),
        Stage::Revert => ((At::Active, true), (At::Reverted, true)),
        Stage::Enable | Stage::Wait => ((At::Reverted, true), (At::Active, true)),
        Stage::Drain => ((At::Active, true), (At::Draining, true)),
        Stage::Policy | Stage::Replace | Stage::Stack | Stage::Unstack => {
            ((At::Active, true), (At::Active, true))
        }
        Stage::Unload => ((At::Reverted, true), (At::Absent, true)),
        Stage::DynamosUnload => ((At::Absent, true), (At::Absent, false)),
    };
    if at == At::Reverting || at == At::Draining && stage != Stage::Drain {
        // Edition 0 runs, and the update says that it could not let go: the next try must.
        subject.enable(false).context("it is kept, and the next revert fails too")?;
        ensure!(subject.at()? == At::Reverted, "it is kept after the next revert too");
        outcome.kept += 1;
        return Ok(());
    }
    let (wanted, counted) = match result {
        Ok(()) => (new, &mut outcome.done),
        Err(_) => (old, &mut outcome.refused),
    };
    ensure!(
        (at.clone(), dynamos) == wanted,
        "the update is {at:?}, dynamos.ko is there: {dynamos}"
    );
    *counted += 1;
    Ok(())
}

/// How another update comes over the one that runs, or takes its place.
const OVER: &str = "1 scope=function,stack";
const INSTEAD: &str = "1 scope=function,replace";

/// Brings two updates to where the operation begins, without faults.
fn bring(subject: &Subject, other: &Subject, wanted: Running) -> Result<()> {
    for _ in 0..3 {
        match (kernel::settled(|| subject.running(other))?, wanted) {
            (running, wanted) if running == wanted => return Ok(()),
            (Running::Second, _) => subject.switch(INSTEAD).context("taking the place back")?,
            (Running::Both, _) => other.enable(false).context("reverting the one above")?,
            (Running::First, Running::Both) => other.switch(OVER).context("coming over it")?,
            (Running::First, _) => other.switch(INSTEAD).context("taking the place")?,
        }
    }
    bail!("{wanted:?} is not reached")
}

/// Which of two updates must run, by what the operation answered.
fn judge_two(
    subject: &Subject,
    other: &Subject,
    (begin, end): (Running, Running),
    result: nix::Result<()>,
    outcome: &mut Outcome,
) -> Result<()> {
    let leaves = end == Running::First;
    let kept = leaves && other.state().is_some_and(|state| state.starts_with("reverting"));
    if kept {
        // The one below runs, and the one above says that it could not let go: the next try must.
        other.enable(false).context("it is kept, and the next revert fails too")?;
    }
    // The one that has left may still have something to let go of, which it does by itself.
    let running = kernel::settled(|| subject.running(other))?;
    let (wanted, counted) = match result {
        _ if kept => (end, &mut outcome.kept),
        Ok(()) => (end, &mut outcome.done),
        Err(_) => (begin, &mut outcome.refused),
    };
    ensure!(running == wanted, "{running:?} of the two run");
    *counted += 1;
    Ok(())
}

/// Requests that are made before anything fails.
struct Policies {
    /// The calls of this process take the edition.
    ours: Vec<u8>,
    /// Those of all others do.
    others: Vec<u8>,
}

impl Policies {
    fn new() -> Result<Policies> {
        let own = std::process::id();
        let ours = kernel::policy(&format!("tgid == {own}"))?;
        Ok(Policies { ours, others: kernel::policy(&format!("tgid != {own}"))? })
    }
}

/// Which policy decides, and which one is shown; then the first one decides again.
fn judge_policy(
    subject: &Subject,
    policies: &Policies,
    was: &str,
    result: nix::Result<()>,
    outcome: &mut Outcome,
) -> Result<()> {
    let (shown, takes) = (subject.policy()?, kernel::behaves_as_updated()?);
    subject.write_policy(&policies.ours).context("the policy cannot be set back")?;
    let unchanged = result.is_err();
    ensure!(
        takes == unchanged && (shown == was) == unchanged,
        "a call takes edition {}, and the policy is {shown:?}",
        u8::from(takes)
    );
    *(if unchanged { &mut outcome.refused } else { &mut outcome.done }) += 1;
    Ok(())
}

/// A task asleep in `pipe_read`, in the edition that was there when it began.
struct Sleeper {
    writer: std::io::PipeWriter,
    thread: JoinHandle<std::io::Result<usize>>,
}

impl Sleeper {
    fn start() -> Result<Sleeper> {
        let (mut reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let _ = tell.send(nix::unistd::gettid());
            reader.read(&mut [0])
        });
        let thread_id = told.recv().context("no sleeper")?;
        let stack = format!("/proc/self/task/{thread_id}/stack");
        for _ in 0..1000 {
            if std::fs::read_to_string(&stack).is_ok_and(|stack| stack.contains("pipe_read")) {
                return Ok(Sleeper { writer, thread });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("nobody sleeps in pipe_read")
    }

    fn end(mut self) -> Result<()> {
        self.writer.write_all(b"x").context("cannot wake the sleeper")?;
        let read = self.thread.join().map_err(|_| anyhow::anyhow!("the sleeper panicked"))?;
        ensure!(read.context("the sleeper cannot read")? == 1, "the sleeper read nothing");
        Ok(())
    }
}
