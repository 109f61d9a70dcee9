//! Work that goes on beside the phases: building `dynamos.ko`, removing a view.

use std::panic::resume_unwind;
use std::thread::{JoinHandle, spawn};

/// A thread that is waited for at the latest when this is dropped: a run that fails leaves no
/// half-done work behind.
#[derive(Debug)]
pub struct Background<T>(Option<JoinHandle<T>>);

impl<T: Send + 'static> Background<T> {
    /// Starts `work`.
    pub fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        Background(Some(spawn(work)))
    }

    /// Starts `work` with no other thread to help it, so that it keeps out of the phases' way: their
    /// parallel loops would otherwise wait for its.
    pub fn alone(work: impl FnOnce() -> T + Send + 'static) -> Self {
        Background::start(move || match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
            Ok(pool) => pool.install(work),
            Err(_) => work(),
        })
    }
}

impl<T> Background<T> {
    /// Waits for the result; `None` only if it was taken before.
    pub fn wait(mut self) -> Option<T> {
        let thread = self.0.take()?;
        Some(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // Its panic has been printed, and this run fails already.
            let _ = thread.join();
        }
    }
}
