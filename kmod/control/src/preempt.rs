//! `--preemptible`: while a command works, tasks in the kernel give way to those of higher priority.
//!
//! ftrace goes through all of its records when a function is redirected, for milliseconds. With Debian's voluntary
//! preemption nobody else gets that CPU meanwhile, with `preempt=full` whoever is more urgent does
//! (`sched_dynamic_update()`, kernel/sched/core.c). The model is as before when the command has ended, however it ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::failure::Failure;
use crate::load::is_child_of;

const FULL: &str = "full";

/// How often the keeper looks whether the command is still there. It sleeps in nothing that an update is likely to
/// replace: a pipe's end would be waited for in `pipe_read`.
const LOOK: Duration = Duration::from_millis(20);

/// The kernel is preemptible until this is dropped.
pub(crate) struct Preemptible {
    file: PathBuf,
    /// The model before, and who sees to it that it comes back; none, if it was that one.
    was: Option<(String, Child)>,
}

impl Preemptible {
    /// Makes the kernel preemptible.
    pub(crate) fn new(sysfs: &Path) -> Result<Self, Failure> {
        let file = sysfs.join("kernel/debug/sched/preempt");
        let said = std::fs::read_to_string(&file).map_err(|error| {
            Failure::error(format!(
                "--preemptible: cannot read {}: {error}; mount debugfs there, boot with preempt=full, or leave the option \
                 out",
                file.display()
            ))
        })?;
        let now = model(&said).with_context(|| {
            format!(
                "--preemptible: {} does not say which model is in use: {said:?}",
                file.display()
            )
        })?;
        if now == FULL {
            return Ok(Preemptible { file, was: None });
        }
        let keeper = Command::new("/proc/self/exe")
            .args(["keep-preemption", &std::process::id().to_string(), now])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0) // Ctrl-C is not for it.
            .spawn()
            .context("cannot start another process of this program; is /proc mounted?")?;
        let preemptible = Preemptible { was: Some((now.to_owned(), keeper)), file };
        std::fs::write(&preemptible.file, FULL).with_context(|| {
            format!("--preemptible: cannot write to {}", preemptible.file.display())
        })?;
        Ok(preemptible)
    }
}

impl Drop for Preemptible {
    fn drop(&mut self) {
        let Some((model, keeper)) = &mut self.was else { return };
        if let Err(error) = std::fs::write(&self.file, model.as_bytes()) {
            eprintln!("dynamos: cannot write {model} to {}: {error}", self.file.display());
        }
        let _ = keeper.kill(); // What is gone needs no killing.
        let _ = keeper.wait();
    }
}

/// The model in brackets: `none voluntary (full)`.
fn model(said: &str) -> Option<&str> {
    let (model, _) = said.split_once('(')?.1.split_once(')')?;
    (!model.is_empty()).then_some(model)
}

/// Brings `model` back when the command, process `parent`, has ended without doing so.
pub(crate) fn keep(parent: u32, model: &str, file: &Path) -> ExitCode {
    // What is sent to all of this program's processes by name is for the others.
    if ctrlc::set_handler(|| ()).is_err() {
        return ExitCode::FAILURE;
    }
    while is_child_of(parent) {
        std::thread::sleep(LOOK);
    }
    match std::fs::write(file, model) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::model;

    #[test]
    fn the_model_is_in_brackets() {
        assert_eq!(model("none (voluntary) full\n"), Some("voluntary"));
        assert_eq!(model("none voluntary (full) lazy\n"), Some("full"));
        assert_eq!((model("none voluntary\n"), model("()\n"), model("")), (None, None, None));
    }
}
