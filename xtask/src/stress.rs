//! `cargo xtask stress`: the module and an update on a kernel that watches them (KASAN, lockdep, PROVE_RCU,
//! kmemleak) and can make every allocation fail.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
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
    /// How many machines share the rounds, all at the same time: each waits more than it computes.
    #[arg(long, default_value_t = 1, conflicts_with = "faults", value_parser = clap::value_parser!(u32).range(1..=16))]
    machines: u32,
    /// Make every allocation, registration and wait of every operation fail in turn.
    #[arg(long)]
    faults: bool,
    /// Only this operation: dynamos-load, load, revert, enable, policy, wait, drain, replace, stack, unstack, unload,
    /// dynamos-unload. May be repeated.
    #[arg(long, value_name = "OPERATION", requires = "faults")]
    stage: Vec<String>,
    /// The update has hooks, or phases, or says which object each call works on; then only load, revert, enable and unload
    /// are made to fail if no stage is named. Or it is of a module, which comes and goes: load, coming, going, revert,
    /// enable, unload.
    #[arg(
        long,
        value_name = "hooks|phases|objects|module",
        requires = "faults",
        conflicts_with = "rounds"
    )]
    with: Option<Kind>,
    /// The scope that it is loaded and enabled with; without it what its plan proposes.
    #[arg(long, value_name = "SCOPE", requires = "faults", value_parser = ["function", "task", "object", "system"])]
    scope: Option<String>,
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

/// An update that is not a plain one.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Hooks,
    Phases,
    Objects,
    Module,
}

/// Runs what is asked for; it fails if the kernel reports anything, a byte is lost or memory is.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&setup::all())?;
    let out = workspace().join("target/stress");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let cache = Cache::open(None)?.with_progress(Arc::new(Stderr::default()));
    let (image, build) = kernel(&cache, arguments.stock)?;
    let update = out.join("update");
    let (mut v2, mut bridge) = (stress::patch(), None);
    match arguments.with {
        None | Some(Kind::Objects) => {}
        Some(Kind::Module) => v2 = stress::module_patch(),
        Some(Kind::Hooks) => {
            v2 = out.join("hooks.patch");
            stress::hooks(&v2)?;
        }
        Some(Kind::Phases) => {
            let file = bridge.insert(out.join("bridge.patch"));
            stress::bridge(file)?;
        }
    }
    let objects = matches!(arguments.with, Some(Kind::Objects));
    let what = What { name: stress::UPDATE, patch: &v2, bridge: bridge.as_deref(), objects };
    let functions = make_update(build.as_deref(), &what, &update)?;
    println!("{}: an update of {functions} functions", image.release);

    let mut results = Map::new();
    let rounds = arguments.rounds.or((!arguments.faults).then_some(ROUNDS));
    if let Some(rounds) = rounds {
        let all = arguments.machines.min(rounds.max(1));
        let share = |number| rounds / all + u32::from(number < rounds % all);
        let machines =
            (0..all).map(|number| stress::rounds(&image, &update, functions, share(number)));
        collect(&mut results, "stress", machines.collect::<Result<_, _>>()?, &out)?;
    }
    if arguments.faults {
        let mut options = String::from(if arguments.own { "--own" } else { "" });
        let mut stages = arguments.stage.clone();
        let late = matches!(arguments.with, Some(Kind::Module));
        if stages.is_empty() && arguments.with.is_some() && !late {
            stages = ["load", "revert", "enable", "unload"].map(str::to_owned).to_vec();
        }
        if let Some(scope) = &arguments.scope {
            write!(options, " --scope {scope}")?;
        }
        for stage in &stages {
            let plain = stage.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            ensure!(plain, "there is no operation {stage:?}");
            write!(options, " --stage {stage}")?;
        }
        let of_two = |stage: &String| ["replace", "stack", "unstack"].contains(&stage.as_str());
        let two = arguments.with.is_none() && (stages.is_empty() || stages.iter().any(of_two));
        let other = two.then(|| out.join("other"));
        if let Some(other) = &other {
            let patch = out.join("other.patch");
            stress::other(&patch)?;
            let what = What { name: stress::OTHER, patch: &patch, bridge: None, objects: false };
            let count = make_update(build.as_deref(), &what, other)?;
            ensure!(count == functions, "the other update has {count} functions");
        }
        let vm = if late {
            stress::late_faults(&image, &update, functions, &options)?
        } else {
            stress::faults(&image, &update, other.as_deref(), functions, &options)?
        };
        collect(&mut results, "faults", vec![vm], &out)?;
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

/// An update that is made.
struct What<'a> {
    name: &'a str,
    patch: &'a Path,
    bridge: Option<&'a Path>,
    /// Whether it says which object each call works on.
    objects: bool,
}

/// Makes an update with the tool itself; gives the number of functions it replaces.
fn make_update(build: Option<&Path>, what: &What<'_>, update: &Path) -> Result<usize> {
    let What { name, patch, bridge, objects } = what;
    let mut tool = crate::cargo(&["run", "--quiet", "--bin", "dynamos-diff", "--", "--quiet"]);
    tool.arg(format!("deb:{VERSION}")).arg(patch);
    tool.args(["--name", name, "-o"]).arg(update);
    tool.args(bridge.map(|bridge| [Path::new("--bridge"), bridge]).into_iter().flatten());
    for object in stress::OBJECTS.iter().filter(|_| *objects) {
        tool.args(["--object", object]);
    }
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

/// Runs machines, all at the same time, and adds up their figures.
fn collect(
    results: &mut Map<String, Value>,
    what: &str,
    machines: Vec<Vm>,
    out: &Path,
) -> Result<()> {
    let start = Instant::now();
    let several = machines.len() > 1;
    let ended = std::thread::scope(|scope| {
        let started = machines.into_iter().enumerate().map(|(number, vm)| {
            let number = if several { format!("{number}") } else { String::new() };
            let console = out.join(format!("{what}{number}.console"));
            println!("{what}: the console will be in {}", console.display());
            scope.spawn(move || figures(what, vm, &console))
        });
        let started: Vec<_> = started.collect();
        started.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let mut all = Value::Object(std::mem::take(results));
    for figures in ended {
        let figures = figures.map_err(|_| anyhow::anyhow!("whoever ran a machine panicked"))??;
        add(&mut all, figures);
    }
    add(&mut all, json!({ format!("{what}_vm_seconds"): start.elapsed().as_secs() }));
    if let Value::Object(all) = all {
        *results = all;
    }
    Ok(())
}

/// Adds up what machines told: numbers are sums, and lists follow each other.
fn add(all: &mut Value, more: Value) {
    match (all, more) {
        (Value::Object(all), Value::Object(more)) => {
            for (name, value) in more {
                match all.get_mut(&name) {
                    Some(before) => add(before, value),
                    None => drop(all.insert(name, value)),
                }
            }
        }
        (Value::Array(all), Value::Array(more)) => all.extend(more),
        (all, more) => match (all.as_u64(), more.as_u64(), all.as_f64(), more.as_f64()) {
            (Some(a), Some(b), ..) => *all = json!(a.saturating_add(b)),
            (.., Some(a), Some(b)) => *all = json!(a + b),
            _ => *all = more,
        },
    }
}

/// Runs a machine; gives what it told, with the numbers of reports and leaks.
fn figures(what: &str, vm: Vm, console: &Path) -> Result<Value> {
    let outcome = match vm.console_copy(console).run() {
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
    let mut figures: Value =
        serde_json::from_str(figures).with_context(|| format!("{what} told {figures:?}"))?;
    let mut counted = json!({ "reports": reports.len() });
    if let Some(leaks) = told.get("leaks") {
        let leaks: u64 = leaks.trim().parse().context("the number of leaks")?;
        add(&mut counted, json!({ "leaks": leaks }));
    }
    add(&mut figures, counted);
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_machines_told_is_added_up() {
        let mut all = json!({});
        add(&mut all, json!({ "rounds": 3, "s": { "load": 1.5 }, "loads": [1] }));
        add(&mut all, json!({ "rounds": 4, "s": { "load": 2.0 }, "loads": [2], "leaks": 1 }));
        let sum = json!({ "rounds": 7, "s": { "load": 3.5 }, "loads": [1, 2], "leaks": 1 });
        assert_eq!(all, sum);
    }
}
