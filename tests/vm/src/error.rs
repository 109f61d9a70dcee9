//! Everything that can go wrong with a run, each with what to do about it.

use std::path::PathBuf;
use std::time::Duration;

use crate::report::Report;
use crate::vm::Outcome;

/// Why a run gave no usable outcome.
#[derive(thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A program could not be started or failed.
    #[error("{program} failed: {reason}; `cargo xtask setup` installs what is missing")]
    Tool {
        /// The program.
        program: String,
        /// What it said.
        reason: String,
    },
    /// A kernel module that was asked for is not in the image.
    #[error(
        "no module {name} for kernel {release} in {dir}: neither a file nor built in; \
         check the name, or unpack the kernel's image package again"
    )]
    NoModule {
        /// The module, or the dependency, that is missing.
        name: String,
        /// The kernel.
        release: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A kernel module cannot be read as one.
    #[error("{path} is not a kernel module: {reason}")]
    BadModule {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The builder was given something it cannot do.
    #[error("{0}")]
    Invalid(String),
    /// The guest could not be set up: a module did not load, a mount failed.
    #[error("the guest's set-up failed: {reason}\n{tail}")]
    Setup {
        /// What the guest said.
        reason: String,
        /// The last console lines.
        tail: String,
    },
    /// Nothing more was heard in the time given.
    #[error(
        "the guest did not finish in {limit:?} (raise it with `timeout`); last console lines:\n{tail}"
    )]
    Timeout {
        /// The limit.
        limit: Duration,
        /// The last console lines.
        tail: String,
        /// What was seen until then.
        outcome: Box<Outcome>,
    },
    /// The kernel panicked.
    #[error("the guest's kernel panicked: {title}; last console lines:\n{tail}")]
    Panicked {
        /// The line that says so.
        title: String,
        /// The last console lines.
        tail: String,
        /// What was seen until then.
        outcome: Box<Outcome>,
    },
    /// The machine went away without a word of the script's end.
    #[error(
        "the guest rebooted or powered off before its script ended ({how}); last console lines:\n{tail}"
    )]
    Vanished {
        /// How QEMU ended, with what it wrote.
        how: String,
        /// The last console lines.
        tail: String,
        /// What was seen until then.
        outcome: Box<Outcome>,
    },
    /// The kernel reported a fault nobody announced.
    #[error(
        "the kernel reported {}:\n{}\n(`allow` or `expect_oops` accept a report)", list(.reports), texts(.reports)
    )]
    Reported {
        /// The reports.
        reports: Vec<Report>,
        /// What was seen.
        outcome: Box<Outcome>,
    },
    /// The kernel did not report the fault that was announced.
    #[error(
        "no kernel report contains {pattern:?}, but the test expects one; last console lines:\n{tail}"
    )]
    NoReport {
        /// The pattern.
        pattern: String,
        /// The last console lines.
        tail: String,
        /// What was seen.
        outcome: Box<Outcome>,
    },
    /// The script ended with another status than the one expected.
    #[error(
        "the guest's script ended with status {status}, not {expected}; last console lines:\n{tail}"
    )]
    Status {
        /// What it gave.
        status: i32,
        /// What the caller wanted.
        expected: i32,
        /// The last console lines.
        tail: String,
        /// What was seen.
        outcome: Box<Outcome>,
    },
    /// Stopped by a signal, or by [`crate::stop_all`].
    #[error("interrupted")]
    Interrupted,
}

/// As [`std::fmt::Display`] has it: `unwrap` in a test prints this, and a whole console would bury the reason.
impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Error {
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { action, path, source }
    }

    /// What was seen before the run failed, where the guest got as far as starting.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match self {
            Error::Timeout { outcome, .. }
            | Error::Panicked { outcome, .. }
            | Error::Vanished { outcome, .. }
            | Error::Reported { outcome, .. }
            | Error::NoReport { outcome, .. }
            | Error::Status { outcome, .. } => Some(outcome),
            _ => None,
        }
    }
}

fn list(reports: &[Report]) -> String {
    reports.iter().map(|r| r.title.as_str()).collect::<Vec<_>>().join("; ")
}

fn texts(reports: &[Report]) -> String {
    reports.iter().map(|r| r.text.as_str()).collect::<Vec<_>>().join("\n")
}
