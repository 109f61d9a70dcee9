//! `cargo xtask bench layouts`: types and functions of Debian's two `-dbg` images of 6.12, beside `pahole` on both.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use kernel_trees::{Cache, Manifest};
use serde_json::{Value, json};

use super::{build_tool, load_average};
use crate::setup;

/// The versions whose images are compared.
pub const VERSIONS: [&str; 2] = ["6.12.107", "6.12.111"];

/// Options of the benchmark.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often to measure; medians are shown.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// The directories of both debug packages.
pub fn packages() -> Result<[PathBuf; 2]> {
    let cache =
        Cache::open(None)?.with_progress(std::sync::Arc::new(kernel_trees::Stderr::default()));
    let manifest = Manifest::builtin()?;
    let [old, new] = VERSIONS.map(|version| -> Result<PathBuf> {
        Ok(cache.debug(manifest.find(version)?)?.join("usr/lib/debug"))
    });
    Ok([old?, new?])
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Value> {
    setup::ensure(&setup::all())?;
    let tool = build_tool()?;
    let manifest = Manifest::builtin()?;
    let mut images = Vec::new();
    for (root, version) in packages()?.iter().zip(VERSIONS) {
        let release = &manifest.find(version)?.release;
        images.push(root.join("boot").join(format!("vmlinux-{release}")));
    }
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (mut pahole, mut layouts, mut functions, mut memory) = (vec![], vec![], vec![], 0);
    let load = load_average()?;
    for image in &images {
        // Into memory, for all.
        std::io::copy(&mut std::fs::File::open(image)?, &mut std::io::sink())?;
    }
    for number in 1..=arguments.runs {
        eprintln!("run {number} of {}", arguments.runs);
        let ours = compare(&tool, &images, "layouts", scratch.path())?;
        layouts.push(ours.0);
        memory = memory.max(ours.1);
        let mut seconds = 0.0;
        for image in &images {
            let mut command = Command::new("pahole");
            command.arg("-F").arg("dwarf").arg(image).stdout(Stdio::null());
            seconds += time(&mut command)?;
        }
        pahole.push(seconds);
        functions.push(compare(&tool, &images, "functions", scratch.path())?.0);
    }
    let [pahole, layouts, functions] = [pahole, layouts, functions].map(super::middle);
    let (pahole, layouts, functions) = (pahole?, layouts?, functions?);
    println!("pahole on both              {pahole:>8.2} s");
    println!("layouts of both             {layouts:>8.2} s   {:.1} times faster", pahole / layouts);
    println!("  peak memory               {:>8.0} MB", memory as f64 / 1e6);
    println!("functions of both           {functions:>8.2} s");
    println!("load average at the start {load:.2}, medians of {} runs", arguments.runs);
    Ok(json!({
        "pahole_seconds": pahole,
        "layouts_seconds": layouts,
        "times_faster": pahole / layouts,
        "peak_memory_bytes": memory,
        "functions_seconds": functions,
        "load_average": load,
        "runs": arguments.runs,
    }))
}

/// The seconds that the tool takes for two built inputs, and its peak memory.
fn compare(tool: &Path, images: &[PathBuf], only: &str, scratch: &Path) -> Result<(f64, u64)> {
    let timings = scratch.join("timings.json");
    let mut command = Command::new(tool);
    command.args(images).arg("-o").arg(scratch.join("report")).args(["--only", only, "--quiet"]);
    command.arg("--timings").arg(&timings);
    let seconds = time(&mut command)?;
    let text = std::fs::read_to_string(&timings).context("dynamos-diff wrote no timings")?;
    let value: Value = serde_json::from_str(&text)?;
    let memory = value.get("peak_memory_bytes").and_then(Value::as_u64);
    Ok((seconds, memory.context("the timings have no peak memory")?))
}

/// The seconds that a command takes; it must succeed.
pub fn time(command: &mut Command) -> Result<f64> {
    let name = command.get_program().to_string_lossy().into_owned();
    let since = Instant::now();
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    let seconds = since.elapsed().as_secs_f64();
    ensure!(status.success(), "{name} failed ({status})");
    Ok(seconds)
}
