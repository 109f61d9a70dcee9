//! `cargo xtask bench NAME`: measures, in a file of its own for each name. `docs/performance.md` has the results.

mod diff;

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

/// Options of the benchmarks.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    name: Name,
}

#[derive(Debug, Subcommand)]
enum Name {
    /// Time and memory of dynamos-diff for the ext4 case, with prepared trees and with nothing prepared.
    Diff(diff::Arguments),
}

/// Runs the benchmark of that name.
pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.name {
        Name::Diff(arguments) => diff::run(arguments),
    }
}

/// How busy the machine is (`/proc/loadavg`, the last minute): figures of a busy one are worth little.
fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    let first = text.split_whitespace().next().context("/proc/loadavg is empty")?;
    first.parse().context("/proc/loadavg is not a number")
}

/// Writes results for other programs.
fn write_json(file: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
