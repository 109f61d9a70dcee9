//! What is wrong with an expression, where, and what would be right.

use alloc::format;
use alloc::string::String;
use core::fmt;

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanguageError {
    /// Offset in the text, in bytes.
    pub position: usize,
    /// What is there.
    pub problem: String,
    /// What may be there.
    pub expected: String,
}

impl LanguageError {
    pub(super) fn new(
        position: usize,
        problem: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self { position, problem: problem.into(), expected: expected.into() }
    }

    /// Two lines: `text`, and a caret below the place.
    pub fn mark(&self, text: &str) -> String {
        let before = text.get(..self.position).unwrap_or(text);
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("{line}\n{:1$}^", "", before.chars().count())
    }
}

impl fmt::Display for LanguageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}; expected {}", self.position + 1, self.problem, self.expected)
    }
}

impl core::error::Error for LanguageError {}
