//! `cargo xtask bench NAME`: measures, in a file of its own for each name. `docs/performance.md` has the results.

mod builds;
mod diff;
mod effect;
mod layouts;
mod redirect;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use dynamos_vm::{Image, kernel_modules};
use kernel_trees::{Cache, Kernel, Manifest};

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

/// A stock kernel, and an empty place for what is made for it.
struct Guest {
    cache: Cache,
    kernel: Kernel,
    image: Image,
    scratch: PathBuf,
}

impl Guest {
    /// The kernel `version`, for the bench `name`.
    fn new(version: &str, name: &str) -> Result<Guest> {
        let kernel = Manifest::builtin()?.find(version)?.clone();
        let progress = std::sync::Arc::new(kernel_trees::Stderr::default());
        let cache = Cache::open(None)?.with_progress(progress);
        let image = cache.image(&kernel)?;
        let image = Image::in_root(&image.dir, &image.release);
        let scratch = workspace().join("target/bench").join(name).join(&image.release);
        let _ = std::fs::remove_dir_all(&scratch);
        std::fs::create_dir_all(&scratch)?;
        Ok(Guest { cache, kernel, image, scratch })
    }

    /// Builds the modules in the bench's directory; where they are.
    fn modules(&self, name: &str) -> Result<PathBuf> {
        let modules = self.scratch.join("modules");
        let sources = workspace().join("xtask/bench").join(name);
        kernel_modules(&self.cache.headers(&self.kernel)?, &sources, &modules)?;
        Ok(modules)
    }

    /// An update in which `change` has been made to one file of its sources.
    fn update(&self, file: &str, change: impl Fn(&str) -> String) -> Result<PathBuf> {
        let (scratch, version) = (&self.scratch, &self.kernel.version);
        let old = std::fs::read_to_string(self.cache.source(&self.kernel)?.join(file))?;
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
