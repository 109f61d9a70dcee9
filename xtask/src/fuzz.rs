//! `cargo xtask fuzz`: runs the targets in `fuzz/`, one after the other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::workspace;

const TARGETS: [&str; 6] = ["differ", "image", "dwarf", "unit", "record", "matcher"];

/// What to run, and for how long.
#[derive(clap::Args)]
pub struct Arguments {
    /// One target: differ, image, dwarf, unit, record or matcher. All, if none is named.
    target: Option<String>,
    /// How long each runs.
    #[arg(long, default_value_t = 3600, value_name = "N")]
    seconds: u64,
    /// Write what came out to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What came of one target.
#[derive(Serialize)]
struct Outcome {
    target: &'static str,
    /// How long it was to run.
    seconds: u64,
    /// Inputs tried.
    runs: u64,
    /// Most memory it had.
    peak_rss_mb: u64,
    /// Whether it ran to the end without a crash, a hang (30 s) or too much memory (4 GB).
    passed: bool,
    /// Inputs that were trouble.
    artifacts: Vec<String>,
}

/// Runs them; fails if any found something.
pub fn run(arguments: &Arguments) -> Result<()> {
    let targets: Vec<&'static str> = match &arguments.target {
        None => TARGETS.to_vec(),
        Some(name) => {
            let found = TARGETS.iter().find(|target| *target == name);
            vec![*found.with_context(|| format!("no target {name}; there are {TARGETS:?}"))?]
        }
    };
    cargo_fuzz(&["build"])?;
    let mut outcomes = Vec::new();
    for target in targets {
        eprintln!("{target}: {} s", arguments.seconds);
        let outcome = fuzz(target, arguments.seconds)?;
        let Outcome { runs, peak_rss_mb, passed, .. } = outcome;
        let word = if passed { "nothing found" } else { "FAILED" };
        println!("{target}: {word}, {runs} inputs, at most {peak_rss_mb} MB");
        outcome.artifacts.iter().for_each(|file| println!("  {file}"));
        outcomes.push(outcome);
        if let Some(file) = &arguments.json {
            let text = serde_json::to_string_pretty(&outcomes)?;
            fs::write(file, text + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    ensure!(outcomes.iter().all(|outcome| outcome.passed), "something was found");
    Ok(())
}

/// The code is safe Rust: what a sanitizer would find, the compiler excludes. `RUSTC_BOOTSTRAP`
/// gives the stable compiler the coverage flags.
fn cargo_fuzz(arguments: &[&str]) -> Result<()> {
    let status = Command::new("cargo")
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(workspace())
        .arg("fuzz")
        .args(arguments)
        .args(["--fuzz-dir", "fuzz", "--sanitizer", "none", "--target-dir"])
        .arg(target_dir())
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!(
            "the targets were not built ({status}); if cargo-fuzz is missing: cargo install cargo-fuzz"
        );
    }
    Ok(())
}

fn target_dir() -> PathBuf {
    let all =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), Into::into);
    all.join("fuzz")
}

fn fuzz(target: &'static str, seconds: u64) -> Result<Outcome> {
    let root = workspace().join("fuzz");
    // New inputs go to the first directory; the corpus in the tree stays as it is.
    let (fresh, artifacts) = (root.join("work").join(target), root.join("artifacts").join(target));
    for directory in [&fresh, &artifacts] {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let before = files(&artifacts)?;
    let log_path = root.join("work").join(format!("{target}.log"));
    let log =
        File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let known = ["corpus", "regressions"].map(|kind| root.join(kind).join(target));
    let program = target_dir().join("x86_64-unknown-linux-gnu/release").join(target);
    let status = Command::new("nice")
        .args(["-n".as_ref(), "15".as_ref(), program.as_os_str(), fresh.as_os_str()])
        .args(known.iter().filter(|directory| directory.is_dir()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-rss_limit_mb=4096", "-timeout=30", "-max_len=65536", "-print_final_stats=1"])
        .stdout(Stdio::null())
        .stderr(log)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let log = fs::read(&log_path).with_context(|| format!("cannot read {}", log_path.display()))?;
    let log = String::from_utf8_lossy(&log);
    let number = |key: &str| {
        log.lines().filter_map(|line| line.strip_prefix(key)?.trim().parse().ok()).next_back()
    };
    Ok(Outcome {
        target,
        seconds,
        runs: number("stat::number_of_executed_units:").unwrap_or(0),
        peak_rss_mb: number("stat::peak_rss_mb:").unwrap_or(0),
        passed: status.success(),
        artifacts: files(&artifacts)?.into_iter().filter(|file| !before.contains(file)).collect(),
    })
}

fn files(directory: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
        .collect();
    names.sort();
    Ok(names)
}
