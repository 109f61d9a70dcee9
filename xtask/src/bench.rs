//! `cargo xtask bench NAME`: measures, in a file of its own for each name. `docs/performance.md` has the results.

mod builds;
mod diff;
mod effect;
mod layouts;
mod redirect;

use std::path::{Path, PathBuf};
use std::process::Command;

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
    /// When an update of a function in which 1,000 tasks sleep takes effect, beside kernel livepatch.
    Effect,
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
        Name::Effect => effect::run()?,
        Name::Layouts(arguments) => layouts::run(arguments)?,
        Name::Builds(arguments) => builds::run(arguments)?,
    };
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&results)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The kernels that guests run.
const VERSIONS: [&str; 2] = ["6.1.192-1", "6.12.107"];

/// An update in which `change` has been made to one file of the sources of a version.
fn update(
    source: &Path,
    version: &str,
    file: &str,
    change: impl Fn(&str) -> String,
    scratch: &Path,
) -> Result<PathBuf> {
    let old = std::fs::read_to_string(source.join(file))?;
    let new = change(&old);
    ensure!(old != new, "{file} of {version} does not have what is to be changed");
    let diff = similar::TextDiff::from_lines(&old, &new);
    let patch = scratch.join("change.patch");
    let names = (format!("a/{file}"), format!("b/{file}"));
    std::fs::write(&patch, diff.unified_diff().header(&names.0, &names.1).to_string())?;
    let update = scratch.join("update");
    let status = Command::new(build_tool()?)
        .arg(format!("deb:{version}"))
        .arg(&patch)
        .args(["--quiet", "-o"])
        .arg(&update)
        .status()
        .context("cannot start dynamos-diff")?;
    ensure!(status.success(), "dynamos-diff failed ({status})");
    Ok(update)
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
