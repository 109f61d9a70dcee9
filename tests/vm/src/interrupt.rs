//! Leaves nothing behind when the process is told to end.
//!
//! `Drop` does not run on a signal, so every run is also known here. (When even this process is
//! killed outright, the kernel kills QEMU: see `qemu.rs`.)

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use crate::error::Error;

/// What must go when the run goes.
#[derive(Debug)]
struct Running {
    dir: PathBuf,
    child: Option<Child>,
}

impl Running {
    /// Ends the guest and removes its files. Nothing could be done about a failure: it is the
    /// end of the run, or of the process.
    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

static RUNNING: Mutex<Vec<Arc<Mutex<Running>>>> = Mutex::new(Vec::new());
static STOPPED: AtomicBool = AtomicBool::new(false);
static HANDLER: Once = Once::new();

/// Kills every guest of this process and removes their files; runs under way end with
/// [`crate::Error::Interrupted`], and no new one starts. For programs that handle signals
/// themselves; where there is no handler, this crate installs one that calls this and exits.
pub fn stop_all() {
    STOPPED.store(true, Ordering::SeqCst);
    for running in lock(&RUNNING).iter() {
        lock(running).end();
    }
}

fn check_stopped() -> Result<(), Error> {
    if STOPPED.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
}

/// A run's directory and, once started, its guest. Dropped, both are gone.
#[derive(Debug)]
pub(crate) struct Run {
    running: Arc<Mutex<Running>>,
    dir: PathBuf,
}

impl Run {
    /// Creates the directory.
    pub(crate) fn begin() -> Result<Run, Error> {
        HANDLER.call_once(|| {
            // Fails where the program has a handler of its own, which then calls `stop_all`. Not `try_set_handler`: that
            // gives up where SIGINT is ignored, as in a background job, and then SIGTERM would clean up nothing.
            let _ = ctrlc::set_handler(|| {
                stop_all();
                std::process::exit(130);
            });
        });
        // Locked, so that `stop_all` comes before the directory is there or sees it.
        let mut runs = lock(&RUNNING);
        check_stopped()?;
        let dir = tempfile::Builder::new()
            .prefix("dynamos-vm-")
            .tempdir()
            .map_err(Error::file("create a directory in", std::env::temp_dir()))?
            .keep();
        let running = Arc::new(Mutex::new(Running { dir: dir.clone(), child: None }));
        runs.push(Arc::clone(&running));
        Ok(Run { running, dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the guest.
    pub(crate) fn start(&self, command: &mut Command) -> Result<(), Error> {
        let mut running = lock(&self.running);
        check_stopped()?;
        let child = command.spawn().map_err(|e| Error::Tool {
            program: command.get_program().to_string_lossy().into_owned(),
            reason: e.to_string(),
        })?;
        running.child = Some(child);
        Ok(())
    }

    /// How the guest ended, if it has.
    pub(crate) fn ended(&self) -> Result<Option<ExitStatus>, Error> {
        check_stopped()?;
        match &mut lock(&self.running).child {
            Some(child) => child.try_wait().map_err(Error::file("wait for QEMU in", &self.dir)),
            None => Err(Error::Interrupted),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Known until it has ended: else the process could exit in the middle of that (`stop_all`).
        let mut runs = lock(&RUNNING);
        lock(&self.running).end();
        runs.retain(|r| !Arc::ptr_eq(r, &self.running));
    }
}

/// A panic elsewhere leaves nothing half done in what these locks hold.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
