//! A failure at every point of what happens when the module that an update is for comes and goes.

use std::ffi::CString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::What;
use super::faults::{Figures, Outcome, each_point};
use super::inject;
use super::kernel::{self, Subject};

/// One disk is enough to tell which edition made it.
const PARAMETERS: &str = "max_loop=1";

/// What `losetup` says is free while that one disk is: the update's edition names the next.
const FREE: [&str; 2] = ["/dev/loop0", "/dev/loop1"];

/// The operation that is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Loading the update, whose module is not there.
    Load,
    /// Loading the module, with the update waiting for it.
    Coming,
    /// Unloading the module, with the update active.
    Going,
    /// Going back to edition 0, with the module there.
    Revert,
    /// Switching to it again, with the module there.
    Enable,
    /// Unloading the update.
    Unload,
}

/// Where the update is, and its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Neither is there.
    Nothing,
    /// The update waits for the module.
    Waiting,
    /// The module is there as it always was: the update has not come with it, and waits for the next.
    Passed,
    /// Both are there, and calls take the update.
    Active,
    /// Both are there, and calls take edition 0.
    Reverted,
    /// The update is there, and does not wait for the module.
    Alone,
    /// Kept, because the kernel did not let go of a redirection; edition 0 runs.
    Reverting,
}

/// The update, and the module it is for.
struct Pair {
    subject: Subject,
    /// The module's name.
    name: String,
    file: File,
}

/// Goes through the stages and prints a JSON object.
pub fn faults(what: &What, module: &Path, stages: &[Stage], own: bool) -> Result<()> {
    let name = module.file_stem().and_then(|name| name.to_str()).context("which module?")?;
    let file = File::open(module).with_context(|| format!("cannot open {}", module.display()))?;
    let pair = Pair { subject: what.subject()?, name: name.to_owned(), file };
    inject::prepare()?;
    pair.subject.insert_dynamos().context("dynamos.ko")?;
    inject::mark()?;
    let mut figures = Figures::default();
    for stage in stages {
        pair.reach(stage.ends().0)?;
        inject::only_below_dynamos(own)?;
        let outcome = each_point(
            &format!("{stage:?}"),
            || pair.reach(stage.ends().0),
            || pair.operate(*stage),
            |result, outcome| pair.judge(*stage, result, outcome),
        )?;
        inject::only_below_dynamos(false)?;
        figures.add(&format!("{stage:?}"), &outcome);
    }
    inject::unmark()?;
    pair.reach(At::Nothing).context("at the end")?;
    pair.subject.remove_dynamos().context("dynamos.ko at the end")?;
    figures.print();
    Ok(())
}

impl Stage {
    /// Where it begins, and where it leads.
    fn ends(self) -> (At, At) {
        match self {
            Stage::Load => (At::Nothing, At::Waiting),
            Stage::Coming => (At::Waiting, At::Active),
            Stage::Going => (At::Active, At::Waiting),
            Stage::Revert => (At::Active, At::Reverted),
            Stage::Enable => (At::Reverted, At::Active),
            Stage::Unload => (At::Alone, At::Nothing),
        }
    }
}

impl Pair {
    fn insert_module(&self) -> nix::Result<()> {
        let parameters = CString::new(PARAMETERS).map_err(|_| Errno::EINVAL)?;
        finit_module(&self.file, &parameters, ModuleInitFlags::empty())
    }

    fn operate(&self, stage: Stage) -> nix::Result<()> {
        match stage {
            Stage::Load => self.subject.insert(),
            Stage::Coming => self.insert_module(),
            Stage::Going => kernel::remove(&self.name),
            Stage::Revert => self.subject.enable(false),
            Stage::Enable => self.subject.enable(true),
            Stage::Unload => self.subject.remove(),
        }
    }

    /// Removes the module. If the update became active after the module began, as it does once it has passed it, it holds
    /// it until it is reverted.
    fn remove_module(&self, at: At) -> Result<nix::Result<()>> {
        let path = Path::new("/sys/module").join(&self.name).join("refcnt");
        let held = std::fs::read_to_string(path).context("who holds the module?")?.trim() != "0";
        Ok(match (at, held) {
            (At::Active, true) => self.subject.enable(false),
            // On its way to become active.
            (_, true) => Ok(()),
            (_, false) => match kernel::remove(&self.name) {
                Err(Errno::EAGAIN) => Ok(()),
                other => other,
            },
        })
    }

    /// Goes to a state without faults.
    fn reach(&self, wanted: At) -> Result<()> {
        for _ in 0..12 {
            let at = self.at()?;
            let step = match (at, wanted) {
                _ if at == wanted => return Ok(()),
                (At::Nothing, _) => self.subject.insert(),
                (At::Waiting, At::Active | At::Reverted) => self.insert_module(),
                (At::Passed, _) | (At::Active, At::Waiting) | (At::Reverted, At::Alone) => {
                    self.remove_module(at)?
                }
                (At::Waiting | At::Active | At::Reverting, _) => self.subject.enable(false),
                (At::Reverted, At::Active) | (At::Alone, At::Waiting) => self.subject.enable(true),
                (At::Reverted, _) => kernel::remove(&self.name),
                (At::Alone, At::Nothing) => self.subject.remove(),
                (At::Alone, _) => self.subject.enable(true),
            };
            step.with_context(|| format!("the step from {at:?} to {wanted:?}"))?;
        }
        bail!("{wanted:?} is not reached; it is {:?}", self.at()?)
    }

    /// Where the kernel must be, by the operation's own answer.
    fn judge(&self, stage: Stage, result: nix::Result<()>, outcome: &mut Outcome) -> Result<()> {
        let at = self.at()?;
        let (old, new) = stage.ends();
        if at == At::Reverting {
            self.subject.enable(false).context("it is kept, and the next revert fails too")?;
            ensure!(self.at()? == At::Reverted, "it is kept after the next revert too");
            outcome.kept += 1;
            return Ok(());
        }
        let wanted = if result.is_err() { old } else { new };
        // The module comes all the same where the update cannot: its init ran in edition 0. The update may have tried again
        // since.
        let mut passed = false;
        if stage == Stage::Coming && result.is_ok() {
            let is = |disk: &str| PathBuf::from("/sys/block").join(disk).exists();
            passed = is("loop0");
            ensure!(passed != is("late0"), "its init ran in both editions, or in none");
        }
        ensure!(at == wanted || passed && at == At::Passed, "it is {at:?}");
        let done = result.is_ok() && !passed;
        *(if done { &mut outcome.done } else { &mut outcome.refused }) += 1;
        Ok(())
    }

    /// Where it is, once it has settled: an update that has passed a module tries again by itself.
    fn at(&self) -> Result<At> {
        kernel::settled(|| self.look())
    }

    /// Finds out, by what the kernel shows and by what it does; everything must agree.
    fn look(&self) -> Result<At> {
        let there = self.subject.is_there();
        let redirected = self.subject.redirections()?;
        let state = self.subject.state();
        let new = self.answers_as_updated()?;
        let all = self.subject.functions();
        let shown = (there, state.as_deref(), redirected, new);
        let waiting = format!("waiting for module {}", self.name);
        match shown {
            (false, None, 0, None) => Ok(At::Nothing),
            (true, Some(state), 0, None) if state == waiting => Ok(At::Waiting),
            (true, Some(state), 0, Some(false)) if state.starts_with(&waiting) => Ok(At::Passed),
            (true, Some("active"), ours, Some(true)) if ours == all => Ok(At::Active),
            (true, Some("reverted"), 0, Some(false)) => Ok(At::Reverted),
            (true, Some("reverted"), 0, None) => Ok(At::Alone),
            (true, Some("reverting" | "reverting (held)"), _, Some(false)) => Ok(At::Reverting),
            _ => bail!("it should not be so: (update, state, redirected, new) = {shown:?}"),
        }
    }

    /// Which edition a call takes, if the module is there.
    fn answers_as_updated(&self) -> Result<Option<bool>> {
        if !Path::new("/sys/module").join(&self.name).join("initstate").exists() {
            return Ok(None);
        }
        let asked = Command::new("losetup").arg("-f").output().context("cannot run losetup")?;
        let said = String::from_utf8_lossy(&asked.stdout);
        let edition = FREE.iter().position(|free| said.trim() == *free);
        Ok(Some(edition.with_context(|| format!("losetup says {asked:?}"))? == 1))
    }
}
