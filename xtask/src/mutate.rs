//! `cargo xtask mutate`: changes single functions of real kernel files, compiles, and checks that
//! the differ says exactly what the compiler's assembly says.

mod draw;
mod files;
mod kinds;
mod oracle;
mod scan;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use clap::Args;
use kernel_trees::Cache;
use serde::Serialize;

use crate::setup;
use files::{Tree, Workplace};

/// Options of the mutation test.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How many changes to make.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// What the changes are chosen by: the same seed gives the same changes.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// How many compilers to run at once.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Write the results to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What became of one change.
#[derive(Debug, Clone, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The kernel and the file.
    pub file: String,
    /// The function or variable that was changed, or that the check is about.
    pub function: String,
    /// How it was changed.
    pub kind: String,
    /// `right`, `no effect`, `missed`, `spurious`.
    pub verdict: String,
    /// What was missed or is spurious, and the changed source if there is such a thing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Runs the test; an error if a verdict was false.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::KERNEL_BUILD)?;
    let cache =
        Cache::open(None)?.with_progress(std::sync::Arc::new(kernel_trees::Stderr::default()));
    let trees = Tree::all(&cache)?;
    let tasks: Vec<(usize, usize)> = (0..files::PER_TREE)
        .flat_map(|file| (0..trees.len()).map(move |tree| (tree, file)))
        .collect();
    let count = usize::try_from(arguments.count)?;
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        let workplaces: Vec<Workplace<'_>> =
            trees.iter().map(Tree::workplace).collect::<Result<_>>()?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((tree, file)) = tasks.get(number).filter(|_| number < count) else {
                return Ok(());
            };
            let workplace = workplaces.get(*tree).context("no such tree")?;
            let mutations: Vec<usize> = (number..count).step_by(tasks.len()).collect();
            let done = workplace.test(*file, &mutations, arguments.seed)?;
            for row in &done {
                eprintln!(
                    "{} {} {}: {} {}",
                    row.file, row.function, row.kind, row.verdict, row.detail
                );
            }
            rows.lock().map_err(|_| anyhow::anyhow!("a worker panicked"))?.extend(done);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.jobs).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })?;
    let mut rows = rows.into_inner().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
    rows.sort();
    report(arguments, &rows)
}

fn report(arguments: &Arguments, rows: &[Row]) -> Result<()> {
    let (checks, mutations): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|r| files::CHECKS.contains(&&*r.kind));
    let number = |verdict: &str| mutations.iter().filter(|r| r.verdict == verdict).count();
    let wrong = |verdict: &str| rows.iter().filter(|r| r.verdict == verdict).count();
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    for row in rows {
        *kinds.entry(&row.kind).or_default() += 1;
    }
    for (kind, count) in &kinds {
        println!("{count:>5} {kind}");
    }
    let (missed, spurious) = (wrong("missed"), wrong("spurious"));
    println!(
        "{} mutations: {} right, {} without effect; {} checks that nothing changes; {missed} missed, {spurious} spurious",
        mutations.len(),
        number("right"),
        number("no effect"),
        checks.len()
    );
    if let Some(file) = &arguments.json {
        let value = serde_json::json!({
            "mutations": mutations.len(), "missed": missed, "spurious": spurious, "no_effect": number("no effect"),
            "checks": checks.len(), "seed": arguments.seed, "rows": rows,
        });
        let text = serde_json::to_string_pretty(&value)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    ensure!(missed + spurious == 0, "the differ gave {} false verdicts", missed + spurious);
    Ok(())
}
