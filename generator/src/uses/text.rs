//! The preprocessed text behind clang's entities: what it does not tell by itself, it has at their places.

use clang::Entity;
use clang::source::SourceLocation;

/// The text of a unit.
#[derive(Clone, Copy)]
pub(super) struct Text<'a>(pub(super) &'a str);

impl<'a> Text<'a> {
    /// The first byte of an entity and the one after its last.
    pub(super) fn extent(self, e: &Entity<'_>) -> Option<(usize, usize)> {
        let range = e.get_range()?;
        let offset = |at: SourceLocation<'_>| at.get_file_location().offset as usize;
        Some((offset(range.get_start()), offset(range.get_end())))
    }

    /// What is written there.
    pub(super) fn of(self, e: &Entity<'_>) -> &'a str {
        self.extent(e).and_then(|(start, end)| self.0.get(start..end)).unwrap_or_default()
    }

    /// The operator between two operands, where line markers may be too.
    pub(super) fn operator(self, left: &Entity<'_>, right: &Entity<'_>) -> String {
        let between = match (self.extent(left), self.extent(right)) {
            (Some((_, end)), Some((start, _))) => self.0.get(end..start).unwrap_or_default(),
            _ => "",
        };
        between.lines().filter(|line| !line.starts_with('#')).map(str::trim).collect()
    }

    /// Whether an entity is the null pointer, as `NULL` and `0` are after preprocessing.
    pub(super) fn is_null(self, e: &Entity<'_>) -> bool {
        let written = self.of(e).chars();
        let bare: String =
            written.filter(|c| !c.is_whitespace() && !matches!(c, '(' | ')')).collect();
        matches!(bare.as_str(), "0" | "void*0")
    }
}
