//! Loads and reverts the updates on the stock kernel, many in one machine.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use dynamos_vm::{Error, Image, Outcome, Vm, static_binary};

use super::{Built, FAILED, LOADED, NOT_LOADABLE, Row};

/// Updates in one machine.
const BATCH: usize = 16;

/// Boots machines until each update had its turn, and writes the outcomes into the rows.
pub fn all(image: &Image, built: &[Built], rows: &mut [Row]) -> Result<()> {
    for (number, batch) in built.chunks(BATCH).enumerate() {
        eprintln!(
            "machine {} of {}: {} updates",
            number + 1,
            built.len().div_ceil(BATCH),
            batch.len()
        );
        let since = std::time::Instant::now();
        match machine(image, batch)?.run() {
            Ok(outcome) => {
                let seconds = since.elapsed().as_secs_f64() / batch.len() as f64;
                for (index, update) in batch.iter().enumerate() {
                    tell(rows, update, answer(&outcome, index), seconds);
                }
            }
            // Something happened to one of them: each alone tells which.
            Err(error) => {
                eprintln!("  {}", first_line(&error));
                for update in batch {
                    alone(image, update, rows)?;
                }
            }
        }
    }
    Ok(())
}

fn alone(image: &Image, update: &Built, rows: &mut [Row]) -> Result<()> {
    let since = std::time::Instant::now();
    let result = match machine(image, std::slice::from_ref(update))?.run() {
        Ok(outcome) => answer(&outcome, 0),
        Err(error) => {
            let console = console(&error);
            // A report before the update was loaded is the stock module's own.
            if console.contains("corpus: target of 0") && !console.contains("corpus: update 0") {
                (
                    NOT_LOADABLE.into(),
                    format!("the target module does not load well: {}", first_line(&error)),
                )
            } else if let Error::Reported { reports, outcome } = &error
                && let own = without(image, update)?
                && reports.iter().all(|report| own.contains(place(&report.title)))
            {
                let (result, log) = answer(outcome, 0);
                let told = first_line(&error);
                (result, format!("{log}(without the update as well: {told})"))
            } else {
                (FAILED.into(), first_line(&error))
            }
        }
    };
    tell(rows, update, result, since.elapsed().as_secs_f64());
    Ok(())
}

/// Where the kernel reports something when the targets of an update are loaded, and nothing else: a module may start
/// what goes on by itself, such as the self-tests of ciphers.
fn without(image: &Image, update: &Built) -> Result<BTreeSet<String>> {
    let targets = update.targets.join(" ");
    let mut vm = Vm::new(image)
        .memory(2048)
        .append("no_timer_check")
        .script(format!("for target in {targets}; do load-module $target; done; sleep 5"));
    for target in &update.targets {
        vm = vm.offer(target);
    }
    match vm.run() {
        Err(Error::Reported { reports, .. }) => {
            Ok(reports.iter().map(|report| place(&report.title).to_owned()).collect())
        }
        _ => Ok(BTreeSet::new()),
    }
}

/// The place in a report's title, which otherwise names a CPU and a task.
fn place(title: &str) -> &str {
    title.split_once(" at ").map_or(title, |(_, place)| place)
}

fn tell(rows: &mut [Row], update: &Built, (outcome, reason): (String, String), seconds: f64) {
    if let Some(row) = rows.get_mut(update.row) {
        row.outcome = outcome;
        row.reason = reason;
        row.seconds += seconds;
        if row.outcome != LOADED {
            eprintln!("  {}: {} {}", row.file, row.outcome, row.reason);
        }
    }
}

fn machine(image: &Image, batch: &[Built]) -> Result<Vm> {
    let mut script = String::new();
    for (index, update) in batch.iter().enumerate() {
        let targets = update.targets.join(" ");
        let name = &update.name;
        let unload = if update.pinned { "true" } else { "dynamos unload" };
        let _ = writeln!(
            script,
            "try() {{
                echo 'corpus: target of {index}' >/dev/kmsg
                for target in {targets}; do
                    load-module $target 2>/tmp/log || {{ echo not-loadable; return; }}
                done
                echo 'corpus: update {index}' >/dev/kmsg
                dynamos load /update/{index} >/tmp/log 2>&1 || {{ echo load; return; }}
                dynamos revert {name} >/tmp/log 2>&1 || {{ echo revert; return; }}
                {unload} {name} >/tmp/log 2>&1 || {{ echo unload; return; }}
                echo loaded
            }}
            try | result {index}
            tail -n 3 /tmp/log 2>/dev/null | result {index}-log"
        );
    }
    let mut vm = Vm::new(image)
        .file(static_binary("dynamos", "dynamos")?, "/bin/dynamos")
        .memory(2048)
        // On a busy host the emulated timer may come too late for the kernel's check of it.
        .append("no_timer_check")
        .timeout(Duration::from_secs(120 + 60 * batch.len() as u64))
        .script(script);
    for (index, update) in batch.iter().enumerate() {
        vm = vm.file(&update.directory, &format!("/update/{index}"));
        for target in &update.targets {
            vm = vm.offer(target);
        }
    }
    Ok(vm)
}

/// Outcome and reason of the update with this number.
fn answer(outcome: &Outcome, index: usize) -> (String, String) {
    let result = |name: String| outcome.results.get(&name).map_or("", String::as_str).trim();
    let log = result(format!("{index}-log")).replace('\n', " ");
    match result(index.to_string()) {
        "loaded" => (LOADED.into(), String::new()),
        "not-loadable" => (NOT_LOADABLE.into(), log),
        "load" => (format!("refused: when loaded: {log}"), format!("when loaded: {log}")),
        step => (FAILED.into(), format!("{step}: {log}")),
    }
}

fn console(error: &Error) -> &str {
    match error {
        Error::Reported { outcome, .. }
        | Error::Panicked { outcome, .. }
        | Error::Timeout { outcome, .. }
        | Error::Vanished { outcome, .. } => &outcome.console,
        _ => "",
    }
}

fn first_line(error: &Error) -> String {
    error.to_string().lines().take(2).collect::<Vec<_>>().join(" ")
}
