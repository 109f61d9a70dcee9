//! What the command says while it works and when it is done.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::plan::{FunctionPlan, Outcome, Plan};

/// Phase lines on stderr, with a spinner where stderr is a terminal; and the time each phase took.
#[derive(Debug)]
pub struct Reporter {
    quiet: bool,
    verbose: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<(String, Instant)>,
    done: Vec<(String, f64)>,
    bar: Option<ProgressBar>,
    /// How much of the current phase has been told of.
    twentieths: usize,
}

impl Reporter {
    /// A reporter that says nothing (`quiet`) or more (`verbose`).
    pub fn new(quiet: bool, verbose: bool) -> Self {
        Reporter { quiet, verbose, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Ends the current phase and begins the one called `key`, described by `text`.
    pub fn phase(&self, key: &str, text: &str) {
        self.end();
        let mut state = self.state();
        state.current = Some((key.into(), Instant::now()));
        state.twentieths = 0;
        if self.quiet {
            return;
        }
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{spinner} {prefix}{msg} ({elapsed})")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::new_spinner().with_style(style).with_message(text.to_owned());
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
            state.bar = Some(bar);
        } else {
            eprintln!("{text}");
        }
    }

    /// Says something of interest only with `--verbose`.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            match &self.state().bar {
                Some(bar) => bar.println(format!("  {text}")),
                None => eprintln!("  {text}"),
            }
        }
    }

    /// Says something that must not be missed.
    pub fn warn(&self, text: &str) {
        if !self.quiet {
            match &self.state().bar {
                Some(bar) => bar.println(text),
                None => eprintln!("{text}"),
            }
        }
    }

    /// Tells how far the current phase is: on a terminal always, else every twentieth of the way.
    pub fn progress(&self, done: usize, total: usize) {
        if self.quiet || total < 20 {
            return;
        }
        let mut state = self.state();
        let twentieths = done.saturating_mul(20) / total;
        match &state.bar {
            Some(bar) => bar.set_prefix(format!("{done}/{total} ")),
            None if twentieths > state.twentieths => {
                state.twentieths = twentieths;
                eprintln!("  {done} of {total} objects");
            }
            None => {}
        }
    }

    /// Ends the current phase.
    pub fn end(&self) {
        let mut state = self.state();
        if let Some(bar) = state.bar.take() {
            let text = bar.message();
            bar.finish_and_clear();
            eprintln!("{text}");
        }
        if let Some((key, since)) = state.current.take() {
            let seconds = since.elapsed().as_secs_f64();
            state.done.push((key, seconds));
        }
    }

    /// Writes `{"phases": {KEY: SECONDS, …}, "peak_memory_bytes": N}`; the memory is this process's own.
    pub fn write_timings(&self, file: &Path) -> Result<()> {
        self.end();
        let mut phases = serde_json::Map::new();
        for (key, seconds) in &self.state().done {
            let sum = phases.get(key).and_then(serde_json::Value::as_f64).unwrap_or(0.0) + seconds;
            phases.insert(key.clone(), sum.into());
        }
        let timings =
            serde_json::json!({ "phases": phases, "peak_memory_bytes": peak_memory_bytes()? });
        let text = serde_json::to_string_pretty(&timings)?;
        std::fs::write(file, text + "\n")
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

/// The most memory this process ever had (`VmHWM`, proc(5)).
fn peak_memory_bytes() -> Result<u64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    Ok(kib.context("/proc/self/status has no VmHWM")? * 1024)
}

impl kernel_trees::Progress for Reporter {
    fn phase(&self, text: &str) {
        // What the cache does is part of the phase that needs it.
        let current = self.state().current.as_ref().map(|(key, _)| key.clone());
        Reporter::phase(self, current.as_deref().unwrap_or("provide"), text);
    }
}

/// The exit code that tells what came of it.
pub fn exit_code(plan: &Plan) -> u8 {
    match plan.outcome {
        Outcome::Update | Outcome::Differs => 0,
        Outcome::NoChange => 1,
        Outcome::Refused => 3,
    }
}

/// What the user reads in the end, on stdout.
pub fn summary(plan: &Plan, output: &Path, report_only: bool) {
    let output = output.display();
    match plan.outcome {
        Outcome::Update if report_only => {
            println!("An update can be made; {output}/review.md tells what it would do.");
        }
        Outcome::Update => {
            println!("Update {} for {} is in {output}.", plan.name, plan.kernels.release);
            println!("Read {output}/review.md, then: dynamos load {output}");
        }
        Outcome::Differs => {
            let changed = |verdict: &&str, list: &[(&str, usize)]| -> usize {
                list.iter().filter(|(v, _)| v == verdict).map(|(_, n)| n).sum()
            };
            let functions: Vec<_> =
                plan.functions.iter().map(|f| (f.verdict.as_str(), 1)).collect();
            let layouts: Vec<_> = plan.layouts.iter().map(|l| (l.verdict.as_str(), 1)).collect();
            for (what, list) in [("functions", functions), ("types", layouts)] {
                let counts: Vec<_> = ["changed", "added", "new", "removed", "renamed"]
                    .iter()
                    .map(|verdict| (changed(verdict, &list), verdict))
                    .filter(|(count, _)| *count > 0)
                    .map(|(count, verdict)| format!("{count} {verdict}"))
                    .collect();
                let counts =
                    if counts.is_empty() { "none differ".into() } else { counts.join(", ") };
                println!("{what}: {counts}");
            }
            println!(
                "{output}/review.md and plan.json have the list. No update is made of built files."
            );
        }
        Outcome::NoChange if plan.functions.is_empty() => {
            println!("Nothing to do: no code of this kernel differs.");
        }
        Outcome::NoChange => {
            println!("Nothing to do: what differs is not run, or not run any more:");
            for function in plan.functions.iter().take(20) {
                let FunctionPlan { name, object, verdict, reason, .. } = function;
                println!("  {name} ({object}): {verdict}, {reason}");
            }
        }
        Outcome::Refused => {
            println!("No update can be made:");
            for refusal in plan.refusals.iter().take(12) {
                println!("  {}: {}", refusal.name, refusal.reason);
                println!("    {}", refusal.remedy);
            }
            if plan.refusals.len() > 12 {
                println!("  … and {} more in {output}/plan.json", plan.refusals.len() - 12);
            }
        }
    }
    for function in plan.functions.iter().filter(|function| function.verdict == "changed").take(20)
    {
        println!("  {} ({}): {}", function.name, function.object, function.reason);
    }
}
