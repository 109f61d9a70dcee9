//! Leaves nothing behind when the process is told to end.
//!
//! `Drop` does not run on a signal, so every run is also known here. (When even this process is
//! killed outright, the kernel kills QEMU: see `qemu.rs`.)

use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

/// What must go when the run goes.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) dir: PathBuf,
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
        let mut running = lock(running);
        // Nothing is left to do about a failure here: the process is about to end.
        let _ = running.child.kill();
        let _ = std::fs::remove_dir_all(&running.dir);
    }
}

/// Whether [`stop_all`] was called.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Makes `running` known until the returned guard is dropped.
pub(crate) fn register(running: Running) -> Guard {
    HANDLER.call_once(|| {
        // Fails where the program has a handler of its own, which then calls `stop_all`.
        let _ = ctrlc::try_set_handler(|| {
            stop_all();
            std::process::exit(130);
        });
    });
    let running = Arc::new(Mutex::new(running));
    lock(&RUNNING).push(Arc::clone(&running));
    Guard(running)
}

/// A guest that is running; dropped, it is dead.
pub(crate) struct Guard(Arc<Mutex<Running>>);

impl Guard {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Running> {
        lock(&self.0)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&RUNNING).retain(|r| !Arc::ptr_eq(r, &self.0));
        let mut running = self.lock();
        let _ = running.child.kill();
        let _ = running.child.wait();
    }
}

/// A panic elsewhere leaves nothing half done in what these locks hold.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
