//! The one error type: what is wrong with which object, and where in it.

use std::fmt;

/// A file that cannot be trusted or understood. Every part that is known is named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// The name under which the caller gave the object.
    pub object: String,
    /// The section concerned.
    pub section: Option<String>,
    /// The symbol concerned.
    pub symbol: Option<String>,
    /// The offset inside the section (or the file, if no section is named).
    pub offset: Option<u64>,
    /// What is wrong, and what to do about it where that is known.
    pub what: String,
}

/// `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(object: &str, what: impl fmt::Display) -> Self {
        Self {
            object: object.to_owned(),
            section: None,
            symbol: None,
            offset: None,
            what: what.to_string(),
        }
    }

    pub(crate) fn section(mut self, name: &str) -> Self {
        self.section = Some(name.to_owned());
        self
    }

    pub(crate) fn symbol(mut self, name: &str) -> Self {
        self.symbol = Some(name.to_owned());
        self
    }

    pub(crate) fn offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if let Some(section) = &self.section {
            write!(f, "section {section}: ")?;
        }
        if let Some(symbol) = &self.symbol {
            write!(f, "symbol {symbol}: ")?;
        }
        if let Some(offset) = self.offset {
            write!(f, "offset {offset:#x}: ")?;
        }
        f.write_str(&self.what)
    }
}
