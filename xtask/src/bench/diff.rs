//! `cargo xtask bench diff`: `dynamos-diff deb:6.1.192-1 deb:6.1.192-2`, beside what Kbuild itself takes for the
//! object on both sides.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use kernel_trees::{Cache, Manifest, Prepared, SourceId};
use serde_json::{Value, json};

use super::{build_tool, load_average};
use crate::setup;

const V1: &str = "6.1.192-1";
const V2: &str = "6.1.192-2";
const OBJECT: &str = "fs/ext4/mballoc.o";

/// The phases that wait for make, gcc and rustc. The others are the tool's own work.
const NOT_OWN: [&str; 4] = ["prepare", "compile", "module", "link"];

/// What may not be prepared: the kinds of cache entries that are only downloaded and unpacked.
const UNPACKED: [&str; 5] = ["download", "source", "index", "image", "headers"];

/// Rust's `core` library for kernels: it belongs to the compiler and is built once for it, not for each kernel.
const LIBRARY: &str = "kmod/rust-library";

/// Options of the benchmark.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often to measure each case; the run of median length is shown.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// One run of the tool.
#[derive(Debug, Clone)]
struct Run {
    seconds: f64,
    phases: BTreeMap<String, f64>,
    peak_memory_bytes: u64,
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Value> {
    setup::ensure(&setup::all())?;
    let tool = build_tool()?;
    let cache =
        Cache::open(None)?.with_progress(std::sync::Arc::new(kernel_trees::Stderr::default()));
    let scratch = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(cache.root())
        .context("cannot make a directory in the cache")?;
    let bench = Bench { tool, cache, scratch: scratch.path().to_path_buf() };

    eprintln!("getting everything that is measured into the cache and into memory");
    bench.diff(bench.cache.root())?;
    let kbuild_tree = bench.kbuild_tree()?;
    let load = load_average()?;
    let (mut prepared, mut unprepared, mut first) = (Vec::new(), Vec::new(), Vec::new());
    let mut kbuild = Vec::new();
    for number in 1..=arguments.runs {
        eprintln!("run {number} of {}", arguments.runs);
        prepared.push(bench.diff(bench.cache.root())?);
        kbuild.push(kbuild_tree.compile()? + kbuild_tree.compile()?);
        unprepared.push(bench.diff(&bench.unprepared_cache(&[LIBRARY])?)?);
        first.push(bench.diff(&bench.unprepared_cache(&[])?)?);
    }
    let cases = [
        ("prepared", median(&prepared)?),
        ("unprepared", median(&unprepared)?),
        ("first", median(&first)?),
    ];
    kbuild.sort_by(f64::total_cmp);
    let kbuild = *kbuild.get(kbuild.len() / 2).context("nothing was measured")?;
    show(&cases, kbuild, load);
    Ok(results(&cases, kbuild, load, arguments.runs))
}

struct Bench {
    tool: PathBuf,
    cache: Cache,
    scratch: PathBuf,
}

impl Bench {
    /// Runs the tool with the cache at `root`.
    fn diff(&self, root: &Path) -> Result<Run> {
        let timings = self.scratch.join("timings.json");
        let mut command = Command::new(&self.tool);
        command.args([&format!("deb:{V1}"), &format!("deb:{V2}")]);
        command.arg("-o").arg(self.scratch.join("update"));
        command.arg("--timings").arg(&timings).arg("--cache").arg(root).arg("--quiet");
        let since = Instant::now();
        let status = command.status().context("cannot start dynamos-diff")?;
        let seconds = since.elapsed().as_secs_f64();
        ensure!(status.success(), "dynamos-diff failed ({status}); its own message is above");
        let text = std::fs::read_to_string(&timings).context("dynamos-diff wrote no timings")?;
        let value: Value = serde_json::from_str(&text)?;
        let phases =
            value.get("phases").and_then(Value::as_object).context("the timings have no phases")?;
        Ok(Run {
            seconds,
            phases: phases.iter().map(|(k, v)| (k.clone(), v.as_f64().unwrap_or(0.0))).collect(),
            peak_memory_bytes: value
                .get("peak_memory_bytes")
                .and_then(Value::as_u64)
                .context("the timings have no peak memory")?,
        })
    }

    /// A cache with unpacked packages, what is named in `more`, and nothing else; in the place of the last one.
    fn unprepared_cache(&self, more: &[&str]) -> Result<PathBuf> {
        let root = self.scratch.join("cache");
        if root.exists() {
            std::fs::remove_dir_all(&root).context("cannot remove the last run's cache")?;
        }
        std::fs::create_dir(&root).context("cannot make a cache")?;
        for kind in UNPACKED.iter().chain(more) {
            if let Some(parent) = root.join(kind).parent() {
                std::fs::create_dir_all(parent).context("cannot make a cache")?;
            }
            symlink(self.cache.root().join(kind), root.join(kind)).context("cannot link")?;
        }
        Ok(root)
    }

    /// A copy of the prepared tree in which Kbuild has made all that its objects depend on.
    fn kbuild_tree(&self) -> Result<KbuildTree> {
        let manifest = Manifest::builtin()?;
        let kernel = manifest.find(V1)?;
        let image = self.cache.image(kernel)?;
        let prepared =
            self.cache.prepared(&SourceId::Deb(kernel), &image.config, &image.release)?;
        let root = self.scratch.join("kbuild");
        let copied = Command::new("cp").arg("-a").arg(prepared.root()).arg(&root).status();
        ensure!(copied.context("cannot start cp")?.success(), "cannot copy the prepared tree");
        let tree = KbuildTree { root, prepared };
        tree.compile()?;
        Ok(tree)
    }
}

struct KbuildTree {
    root: PathBuf,
    prepared: Prepared,
}

impl KbuildTree {
    /// Compiles the object as a person would; the seconds it takes.
    fn compile(&self) -> Result<f64> {
        let object = self.root.join(OBJECT);
        if object.exists() {
            std::fs::remove_file(&object).context("cannot remove the object")?;
        }
        let (compiler, release) = (self.prepared.compiler(), self.prepared.release());
        let mut make = Command::new("make");
        make.arg("-C").arg(&self.root).arg(format!("CC={compiler}"));
        make.arg(format!("HOSTCC={compiler}")).arg(format!("KERNELRELEASE={release}"));
        make.arg(format!("filechk_kernel.release=echo {release}")).arg(OBJECT);
        make.env_remove("MAKEFLAGS").stdout(Stdio::null());
        let since = Instant::now();
        let status = make.status().context("cannot start make")?;
        let seconds = since.elapsed().as_secs_f64();
        ensure!(status.success() && object.is_file(), "make {OBJECT} failed ({status})");
        Ok(seconds)
    }
}

impl Run {
    fn own_seconds(&self) -> f64 {
        let own = |(key, _): &(&String, &f64)| !NOT_OWN.contains(&key.as_str());
        self.phases.iter().filter(own).map(|(_, seconds)| seconds).sum()
    }
}

/// The run of median length, the longer one of two.
fn median(runs: &[Run]) -> Result<Run> {
    let mut runs = runs.to_vec();
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    runs.get(runs.len() / 2).cloned().context("nothing was measured")
}

fn show(cases: &[(&str, Run)], kbuild: f64, load: f64) {
    /// In the order in which they happen.
    const PHASES: [&str; 12] = [
        "provide", "prepare", "map", "commands", "view", "compile", "compare", "assemble",
        "module", "link", "validate", "cleanup",
    ];
    let row = |name: &str, unit: &str, value: &dyn Fn(&Run) -> f64| {
        let values: String =
            cases.iter().map(|(_, run)| format!(" {:>10.2}", value(run))).collect();
        println!("{name:<28}{values} {unit}");
    };
    let names: String = cases.iter().map(|(name, _)| format!(" {name:>10}")).collect();
    println!("{:<28}{names}", "");
    for phase in PHASES {
        let own = if NOT_OWN.contains(&phase) { "" } else { " (own)" };
        row(&format!("{phase}{own}"), "s", &|run| run.phases.get(phase).copied().unwrap_or(0.0));
    }
    row("in all", "s", &|run| run.seconds);
    row("own work", "s", &Run::own_seconds);
    row("peak memory", "MB", &|run| run.peak_memory_bytes as f64 / 1e6);
    println!("{:<28} {kbuild:>10.2} s", format!("2 × make {OBJECT}"));
    row("… in that unit", "×", &|run| run.seconds / kbuild);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{cpus} CPUs, load average at the start {load:.2}");
}

fn results(cases: &[(&str, Run)], kbuild: f64, load: f64, runs: u32) -> Value {
    let case = |run: &Run| {
        json!({
            "seconds": run.seconds,
            "own_seconds": run.own_seconds(),
            "peak_memory_bytes": run.peak_memory_bytes,
            "phases": run.phases,
            "times_two_kbuild_compilations": run.seconds / kbuild,
        })
    };
    let cases: serde_json::Map<String, Value> =
        cases.iter().map(|(name, run)| ((*name).to_owned(), case(run))).collect();
    json!({
        "cases": cases,
        "two_kbuild_compilations_seconds": kbuild,
        "runs": runs,
        "load_average": load,
        "cpus": std::thread::available_parallelism().map_or(1, usize::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: f64) -> Run {
        let phases = [("provide", 0.25), ("compile", 5.0), ("view", 0.5)];
        Run {
            seconds,
            phases: phases.map(|(key, seconds)| (key.to_owned(), seconds)).into(),
            peak_memory_bytes: 1000,
        }
    }

    #[test]
    fn the_median_run_is_taken_and_its_own_work_summed() {
        let middle = median(&[run(3.0), run(1.0), run(2.0)]).unwrap();
        assert_eq!((middle.seconds, middle.own_seconds()), (2.0, 0.75));
        assert!(median(&[]).is_err());
    }

    #[test]
    fn results_have_the_keys_that_others_read() {
        let results = results(&[("prepared", run(8.0)), ("unprepared", run(20.0))], 4.0, 0.0, 3);
        let case = &results["cases"]["unprepared"];
        assert_eq!(case["seconds"], 20.0);
        assert_eq!(case["own_seconds"], 0.75);
        assert_eq!(case["peak_memory_bytes"], 1000);
        assert_eq!(case["phases"]["compile"], 5.0);
        assert_eq!(results["two_kbuild_compilations_seconds"], 4.0);
    }
}
