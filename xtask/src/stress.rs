//! `cargo xtask stress`: the module and an update on a kernel that watches them (KASAN, lockdep, PROVE_RCU,
//! kmemleak) and can make every allocation fail.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use dynamos_vm::{Error, Image, Outcome, Vm, stress};
use kernel_trees::{Cache, Manifest, Stderr};
use serde_json::{Map, Value, json};

use crate::{setup, workspace};

/// The source of the debug kernel.
const VERSION: &str = "6.12.107";

/// Rounds, if nothing is said.
const ROUNDS: u32 = 1000;

/// Options of the stress test.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often to load, switch, revert and unload; 1000 if nothing else is asked for.
    #[arg(long)]
    rounds: Option<u32>,
    /// Make every allocation, registration and wait of every operation fail in turn.
    #[arg(long)]
    faults: bool,
    /// Only this operation: dynamos-load, load, revert, enable, policy, wait, drain, unload, dynamos-unload. May be repeated.
    #[arg(long, value_name = "OPERATION", requires = "faults")]
    stage: Vec<String>,
    /// Only the points below a function of dynamos.ko, not those of the kernel's module loader around it.
    #[arg(long, requires = "faults")]
    own: bool,
    /// Use Debian's own kernel of the same source: nothing to build, but it finds only what crashes or
    /// loses data.
    #[arg(long, conflicts_with = "faults")]
    stock: bool,
    /// Write the results to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs what is asked for; it fails if the kernel reports anything, a byte is lost or memory is.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&setup::all())?;
    let out = workspace().join("target/stress");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let cache = Cache::open(None)?.with_progress(Arc::new(Stderr::default()));
    let (image, build) = kernel(&cache, arguments.stock)?;
    let update = out.join("update");
    let functions = make_update(build.as_deref(), &update)?;
    println!("{}: an update of {functions} functions", image.release);

    let mut results = Map::new();
    let rounds = arguments.rounds.or((!arguments.faults).then_some(ROUNDS));
    if let Some(rounds) = rounds {
        let vm = stress::rounds(&image, &update, functions, rounds)?;
        collect(&mut results, "stress", vm, &out)?;
    }
    if arguments.faults {
        let mut options = String::from(if arguments.own { "--own" } else { "" });
        for stage in &arguments.stage {
            let plain = stage.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            ensure!(plain, "there is no operation {stage:?}");
            write!(options, " --stage {stage}")?;
        }
        let vm = stress::faults(&image, &update, functions, &options)?;
        collect(&mut results, "faults", vm, &out)?;
    }
    let text = serde_json::to_string_pretty(&results)? + "\n";
    print!("{text}");
    for file in [Some(&out.join("result.json")), arguments.json.as_ref()].into_iter().flatten() {
        std::fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    for zero in ["reports", "bytes_lost", "leaks", "fault_failures"] {
        let bad = results.get(zero).is_some_and(|value| *value != 0);
        ensure!(!bad, "{zero} is not 0; the consoles are in {}", out.display());
    }
    ensure!(arguments.stock || results.contains_key("leaks"), "nobody has looked for leaks");
    let done = results.get("rounds").and_then(Value::as_u64);
    ensure!(rounds.is_none() || done == rounds.map(u64::from), "{done:?} rounds of {rounds:?}");
    Ok(())
}

/// The kernel to boot, and the directory it was built in, unless it is Debian's.
fn kernel(cache: &Cache, stock: bool) -> Result<(Image, Option<PathBuf>)> {
    let manifest = Manifest::builtin()?;
    let version = manifest.find(VERSION)?;
    if stock {
        let image = cache.image(version)?;
        return Ok((Image::in_root(&image.dir, &image.release), None));
    }
    let built = cache.debug_kernel(version)?;
    let (vmlinuz, modules_dir) = (built.vmlinuz(), built.modules());
    let image = Image { vmlinuz, modules_dir, release: built.release().to_owned() };
    Ok((image, Some(built.build_dir())))
}

/// Makes the update with the tool itself; gives the number of functions it replaces.
fn make_update(build: Option<&Path>, update: &Path) -> Result<usize> {
    let mut tool = crate::cargo(&["run", "--quiet", "--bin", "dynamos-diff", "--", "--quiet"]);
    tool.arg(format!("deb:{VERSION}")).arg(stress::patch());
    tool.args(["--name", stress::UPDATE, "-o"]).arg(update);
    tool.args(build.map(|build| [Path::new("--kernel"), build]).into_iter().flatten());
    let status = tool.status().context("cannot start cargo")?;
    ensure!(status.success(), "dynamos-diff failed ({status}); its own message is above");
    let plan = std::fs::read(update.join("plan.json")).context("no plan")?;
    let plan: Value = serde_json::from_slice(&plan).context("a plan that is no JSON")?;
    let functions = plan.get("functions").and_then(Value::as_array);
    let changed = |function: &&Value| function.get("verdict").is_some_and(|v| *v == "changed");
    let count = functions.into_iter().flatten().filter(changed).count();
    ensure!(count > 0, "the update changes no function");
    Ok(count)
}

/// Runs the machine, and adds its figures to those of others.
fn collect(results: &mut Map<String, Value>, what: &str, vm: Vm, out: &Path) -> Result<()> {
    let console = out.join(format!("{what}.console"));
    println!("{what}: the console will be in {}", console.display());
    let start = Instant::now();
    let outcome = match vm.console_copy(&console).run() {
        Ok(outcome) => outcome,
        // Reports are a figure as well.
        Err(Error::Reported { reports, outcome }) => {
            for report in &reports {
                eprintln!("the kernel reports: {}", report.title);
            }
            *outcome
        }
        Err(error) => return Err(error).context("the machine failed"),
    };
    let Outcome { results: told, reports, .. } = &outcome;
    let Some(figures) = told.get(what) else {
        anyhow::bail!("the machine did not come to its end; see {}", console.display());
    };
    let figures: Value =
        serde_json::from_str(figures).with_context(|| format!("{what} told {figures:?}"))?;
    results.extend(figures.as_object().cloned().unwrap_or_default());
    let mut add = |name: &str, more: u64| {
        let before = results.get(name).and_then(Value::as_u64).unwrap_or(0);
        results.insert(name.to_owned(), json!(before.saturating_add(more)));
    };
    add("reports", reports.len() as u64);
    if let Some(leaks) = told.get("leaks") {
        add("leaks", leaks.trim().parse().context("the number of leaks")?);
    }
    results.insert(format!("{what}_vm_seconds"), json!(start.elapsed().as_secs()));
    Ok(())
}
