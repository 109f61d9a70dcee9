//! Running tools, with what they said in the error when they fail.

use std::process::{Command, Output, Stdio};

use crate::Error;

/// How much of a failed tool's output an error carries.
const TAIL_LINES: usize = 60;

/// Runs `command` to its end; anything but success is an error that names `step`.
pub(crate) fn run(step: &str, command: &mut Command) -> Result<Output, Error> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|source| Error::Spawn { tool, source })?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::Tool { step: step.to_owned(), output: tail(&output) })
}

/// Standard output and error as text.
pub(crate) fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

fn tail(output: &Output) -> String {
    let text = text(output);
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(TAIL_LINES);
    let mut kept = lines.into_iter().skip(skipped).collect::<Vec<_>>().join("\n");
    if kept.is_empty() {
        kept = output.status.to_string();
    }
    kept
}
