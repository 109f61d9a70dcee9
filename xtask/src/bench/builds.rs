//! `cargo xtask bench builds`: two build directories of which one file in a hundred differs, beside reading them.
//!
//! The objects are real: modules of Debian's debug packages, each file with a content of its own; those that
//! differ are the same module of the next version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::layouts::{packages, time};
use super::{build_tool, load_average};
use crate::setup;

/// Objects on each side.
const SIZES: [usize; 3] = [750, 1500, 3000];

/// Larger objects than this are rare in a build.
const LARGEST: u64 = 1 << 20;

/// Options of the benchmark.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often to measure; medians are shown.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Value> {
    setup::ensure(&setup::all())?;
    let tool = build_tool()?;
    let [old, new] = packages()?;
    let modules = modules(&old, &new)?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let load = load_average()?;
    let mut rows = Vec::new();
    println!("{:>8} {:>8} {:>9} {:>9} {:>7}", "objects", "MB", "cat, s", "tool, s", "ratio");
    for size in SIZES {
        let sides = ["v1", "v2"].map(|side| scratch.path().join(format!("{size}-{side}")));
        let bytes = fill(&sides, modules.get(..size).context("too few modules")?)?;
        let (mut cat, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..arguments.runs {
            cat.push(read(&sides)?);
            let mut command = Command::new(&tool);
            command.args(&sides).arg("-o").arg(scratch.path().join("report")).arg("--quiet");
            ours.push(time(&mut command)?);
        }
        let (cat, ours) = (super::middle(cat)?, super::middle(ours)?);
        println!(
            "{size:>8} {:>8.0} {cat:>9.2} {ours:>9.2} {:>7.2}",
            bytes as f64 / 1e6,
            ours / cat
        );
        rows.push(json!({
            "objects": size, "changed": size / 100, "bytes": bytes, "cat_seconds": cat,
            "seconds": ours, "ratio": ours / cat,
        }));
        for side in &sides {
            fs::remove_dir_all(side).context("cannot remove the copies")?;
        }
    }
    println!("load average at the start {load:.2}, medians of {} runs", arguments.runs);
    Ok(json!({ "sizes": rows, "load_average": load, "runs": arguments.runs }))
}

/// Modules that both packages have, as path in each.
fn modules(old: &Path, new: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let top = |root: &Path| -> Result<PathBuf> {
        let mut releases = fs::read_dir(root.join("lib/modules"))?;
        Ok(releases.next().context("the package has no modules")??.path().join("kernel"))
    };
    let (old, new) = (top(old)?, top(new)?);
    let mut found = Vec::new();
    let mut queue = vec![old.clone()];
    while let Some(directory) = queue.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                queue.push(entry.path());
            } else if entry.metadata()?.len() <= LARGEST {
                let other = new.join(entry.path().strip_prefix(&old)?);
                if other.is_file() {
                    found.push((entry.path(), other));
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies the modules as objects; every hundredth is the next version's on the second side.
fn fill(sides: &[PathBuf; 2], modules: &[(PathBuf, PathBuf)]) -> Result<u64> {
    let mut bytes = 0;
    let [first, second] = sides;
    for side in sides {
        fs::create_dir(side)?;
    }
    for (number, (old, new)) in modules.iter().enumerate() {
        let name = format!("{number}.o");
        bytes += fs::copy(old, first.join(&name))?;
        let other = if number % 100 == 50 { new } else { old };
        bytes += fs::copy(other, second.join(&name))?;
    }
    Ok(bytes)
}

/// The seconds it takes to read all files.
fn read(sides: &[PathBuf; 2]) -> Result<f64> {
    let mut seconds = 0.0;
    for side in sides {
        let mut files = Vec::new();
        for entry in fs::read_dir(side)? {
            files.push(entry?.path());
        }
        ensure!(!files.is_empty(), "there are no files to read");
        seconds += time(Command::new("cat").args(files).stdout(Stdio::null()))?;
    }
    Ok(seconds)
}
