//! `cargo xtask bench NAME`: measures, in a file of its own for each name. `docs/performance.md` has the results.

mod builds;
mod diff;
mod layouts;
mod redirect;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use crate::{cargo, workspace};

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
    /// Types and functions of two images with debug information, beside pahole.
    Layouts(layouts::Arguments),
    /// Two build directories of three sizes, beside reading them.
    Builds(builds::Arguments),
}

/// Runs the benchmark of that name.
pub fn run(arguments: &Arguments) -> Result<()> {
    let results = match &arguments.name {
        Name::Diff(arguments) => diff::run(arguments)?,
        Name::Redirect => redirect::run()?,
        Name::Layouts(arguments) => layouts::run(arguments)?,
        Name::Builds(arguments) => builds::run(arguments)?,
    };
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&results)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Builds the tool as users have it.
fn build_tool() -> Result<PathBuf> {
    let mut build = cargo(&["build", "--release", "--quiet", "--bin", "dynamos-diff"]);
    ensure!(build.status().context("cannot start cargo")?.success(), "dynamos-diff does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |target| workspace().join(target));
    Ok(target.join("release/dynamos-diff"))
}

/// The median of some measurements.
fn middle(mut values: Vec<f64>) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("nothing was measured")
}

/// How busy the machine is (`/proc/loadavg`, the last minute): figures of a busy one are worth little.
fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    let first = text.split_whitespace().next().context("/proc/loadavg is empty")?;
    first.parse().context("/proc/loadavg is not a number")
}
