//! Why a command did not do what it was asked.

use std::fmt;

/// The two ways to fail, which the exit code tells apart.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something is missing or does not work.
    Error(anyhow::Error),
    /// The kernel, dynamos.ko or the update's own state says no.
    Refused(String),
}

impl Failure {
    /// An error with this text.
    pub(crate) fn error(text: impl fmt::Display) -> Failure {
        Failure::Error(anyhow::anyhow!("{text}"))
    }

    /// A refusal with this text.
    pub(crate) fn refused(text: impl fmt::Display) -> Failure {
        Failure::Refused(text.to_string())
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Error(_) => 2,
            Failure::Refused(_) => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => write!(f, "{error:#}"),
            Failure::Refused(text) => f.write_str(text),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Error(error)
    }
}
