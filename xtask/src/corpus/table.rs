//! The table of a corpus: on the terminal and in `docs/coverage.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::{LOADED, NO_CHANGE, NOT_LOADABLE, Row, STATE_TRANSFER};

/// Counts by outcome, the shares that matter, and the reasons by frequency.
pub fn summary(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *outcomes.entry(kind(row)).or_default() += 1;
    }
    for (outcome, count) in &outcomes {
        let _ = writeln!(text, "{count:>5} {outcome}");
    }
    let of = |outcome: &str| outcomes.get(outcome).copied().unwrap_or(0);
    let code = rows.len() - of(NO_CHANGE);
    let updates = of(LOADED) + of(NOT_LOADABLE);
    let share = |part: usize| 100.0 * part as f64 / code.max(1) as f64;
    let _ = writeln!(
        text,
        "of {code} with changed code: {updates} ({:.0} %) become an update, {} ({:.0} %) with those that need state transfer",
        share(updates),
        updates + of(STATE_TRANSFER),
        share(updates + of(STATE_TRANSFER))
    );
    text
}

/// The outcome without its reason.
fn kind(row: &Row) -> &str {
    row.outcome.split_once(':').map_or(&row.outcome, |(kind, _)| kind)
}

/// Reasons without the names in them, so that like ones count together.
fn reasons(rows: &[Row]) -> Vec<(usize, String)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.reason.is_empty()) {
        let reason = row.reason.split_once(": ").map_or(&*row.reason, |(_, reason)| reason);
        let reason: String = reason.chars().take(90).collect();
        *counts.entry(format!("{}: {reason}", kind(row))).or_default() += 1;
    }
    let mut list: Vec<_> = counts.into_iter().map(|(reason, count)| (count, reason)).collect();
    list.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    list
}

/// Replaces the section of this pair in `file`, or appends it.
pub fn put(file: &Path, pair: &str, rows: &[Row]) -> Result<()> {
    let old = std::fs::read_to_string(file).unwrap_or_default();
    let heading = format!("## {pair}\n");
    let (before, after) = match old.split_once(&heading) {
        None => (old.as_str(), ""),
        Some((before, rest)) => {
            (before, rest.find("\n## ").map_or("", |at| rest.get(at + 1..).unwrap_or("")))
        }
    };
    let section = section(rows);
    let text = format!("{}\n\n{heading}\n{section}\n{after}", before.trim_end());
    std::fs::write(file, text.trim_end().to_owned() + "\n")
        .with_context(|| format!("cannot write {}", file.display()))
}

fn section(rows: &[Row]) -> String {
    let mut text = format!(
        "```\n{}```\n\nReasons by frequency:\n\n| number | reason |\n|---:|---|\n",
        summary(rows)
    );
    for (count, reason) in reasons(rows) {
        let _ = writeln!(text, "| {count} | {} |", cell(&reason));
    }
    text.push_str("\n| file | functions | outcome | reason |\n|---|---:|---|---|\n");
    for row in rows {
        let reason: String = row.reason.chars().take(160).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            files(row),
            row.functions,
            kind(row),
            cell(&reason)
        );
    }
    text
}

/// The source, and those that came along.
fn files(row: &Row) -> String {
    match row.with.as_slice() {
        [] => row.file.clone(),
        with => format!("{} with {}", row.file, with.join(", ")),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(file: &str, outcome: &str, reason: &str) -> Row {
        Row {
            file: file.into(),
            outcome: outcome.into(),
            reason: reason.into(),
            seconds: 1.0,
            functions: 1,
            with: Vec::new(),
        }
    }

    #[test]
    fn shares_are_of_the_files_with_changed_code() {
        let rows = [
            row("a.c", "loaded", ""),
            row("b.c", "no change in code", ""),
            row("c.c", "refused: f: has no ftrace site", "f: has no ftrace site"),
        ];
        let text = summary(&rows);
        assert!(text.contains("of 2 with changed code: 1 (50 %)"), "{text}");
        assert!(text.contains("1 refused"), "{text}");
    }

    #[test]
    fn a_section_is_replaced_in_its_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# Coverage\n").unwrap();
        let put =
            |pair: &str, name: &str| put(file.path(), pair, &[row(name, "loaded", "")]).unwrap();
        put("one", "first.c");
        put("two", "second.c");
        put("one", "third.c");
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains("first.c") && text.contains("second.c") && text.contains("third.c"));
        assert!(text.starts_with("# Coverage\n\n## one\n"), "{text}");
    }
}
