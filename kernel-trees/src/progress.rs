//! How long steps report themselves; the library never prints by itself.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};

/// Receives the progress of long steps. May be called from several threads.
pub trait Progress: Send + Sync {
    /// A new step begins ("unpacking linux-source-6.1").
    fn phase(&self, text: &str);
    /// The current step has done this much, in bytes.
    fn amount(&self, done: u64, total: u64) {
        let _ = (done, total);
    }
    /// The current step is over.
    fn finish(&self) {}
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn phase(&self, _text: &str) {}
}

/// Lines on stderr; with a bar where stderr is a terminal.
#[derive(Debug, Default)]
pub struct Stderr {
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress for Stderr {
    fn phase(&self, text: &str) {
        self.finish();
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner().with_message(text.to_owned());
            bar.enable_steady_tick(std::time::Duration::from_millis(120));
            *self.bar() = Some(bar);
        } else {
            eprintln!("{text}");
        }
    }

    fn amount(&self, done: u64, total: u64) {
        if let Some(bar) = self.bar().as_ref() {
            if bar.length().is_none()
                && let Ok(style) =
                    ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {eta}")
            {
                bar.set_style(style);
            }
            bar.set_length(total);
            bar.set_position(done.min(total));
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.bar().take() {
            let text = bar.message();
            bar.finish_and_clear();
            eprintln!("{text}");
        }
    }
}

impl Stderr {
    fn bar(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
