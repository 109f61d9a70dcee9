//! `cargo xtask bench NAME`: measures, in a file of its own for each name. `docs/performance.md` has the results.

mod diff;
mod redirect;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

/// Options of the benchmarks.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    name: Name,
    /// Write the results to this file too.
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Name {
    /// Time and memory of dynamos-diff for the ext4 case, with prepared trees and with nothing prepared.
    Diff(diff::Arguments),
    /// Instructions that a redirected call takes, beside kernel livepatch.
    Redirect,
}

/// Runs the benchmark of that name.
pub fn run(arguments: &Arguments) -> Result<()> {
    let results = match &arguments.name {
        Name::Diff(arguments) => diff::run(arguments)?,
        Name::Redirect => redirect::run()?,
    };
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&results)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// How busy the machine is (`/proc/loadavg`, the last minute): figures of a busy one are worth little.
fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    let first = text.split_whitespace().next().context("/proc/loadavg is empty")?;
    first.parse().context("/proc/loadavg is not a number")
}
