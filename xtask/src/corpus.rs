//! `cargo xtask corpus deb:A deb:B`: every changed source of a release as a fix of its own. Makes the updates, loads
//! and reverts them on the stock kernel A, and says what came of each.

mod boot;
mod resume;
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use clap::Args;
use dynamos_generator::fixes::{Fix, Made, Series, make_all};
use dynamos_generator::{Outcome, Plan, Spec};
use dynamos_vm::Image;
use kernel_trees::{Cache, Manifest};
use serde::{Deserialize, Serialize};

use crate::{setup, workspace};

/// Options of the corpus.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The kernel that runs.
    v1: String,
    /// The one whose changes are taken.
    v2: String,
    /// How many of the changed sources to take; all if not given.
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// What they are chosen by: the same seed gives the same sample.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Take only sources whose path starts with this, and all of them (may be given more than once).
    #[arg(long, value_name = "PATH", conflicts_with = "sample")]
    only: Vec<String>,
    /// Updates to make at once.
    #[arg(short, long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Make the updates, but boot no machine.
    #[arg(long)]
    no_boot: bool,
    /// Take the rows of an earlier run with this `--json`: only what was neither built nor without a change is made anew.
    /// Updates that were built are loaded.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Write the rows to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the table into this file, in the place of an older one of the same pair.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// What became of one fix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The source.
    pub file: String,
    /// `loaded`, `built, target not loadable here`, `no change in code`, `needs state transfer`,
    /// `refused: REASON`, or `failed` if something went wrong.
    pub outcome: String,
    /// Why.
    pub reason: String,
    /// Seconds that making the update took, and loading it.
    pub seconds: f64,
    /// Functions replaced.
    pub functions: usize,
    /// Other changed sources that had to come along: they define what this one's change uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
}

/// The outcome of an update that still has to be loaded.
const BUILT: &str = "built";
/// The outcomes of the issue that are not a refusal.
pub const LOADED: &str = "loaded";
/// A target that does not load in the machine: its hardware is not there.
pub const NOT_LOADABLE: &str = "built, target not loadable here";
const NO_CHANGE: &str = "no change in code";
const STATE_TRANSFER: &str = "needs state transfer";
/// A crash, a warning, an error of the tool.
pub const FAILED: &str = "failed";

/// A built update that waits for a machine.
#[derive(Clone, Debug)]
pub struct Built {
    /// Index of its row.
    pub row: usize,
    /// Name of the update.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// The modules it patches, `vmlinux` left out.
    pub targets: Vec<String>,
    /// Whether it stays loaded until the machine restarts, because addresses of its code escape.
    pub pinned: bool,
}

/// Runs the corpus.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&setup::all())?;
    let cache =
        Cache::open(None)?.with_progress(std::sync::Arc::new(kernel_trees::Stderr::default()));
    let spec = |text: &str| Spec::parse(text, None);
    let mut series = Series::open(&cache, &spec(&arguments.v1)?, &spec(&arguments.v2)?)?;
    let all = series.fixes()?;
    let sample = sample(&all, arguments);
    eprintln!(
        "{} changed sources are built by this configuration; taking {}",
        all.len(),
        sample.len()
    );
    series.learn(&sample)?;
    let pair = format!("{} → {}", arguments.v1, arguments.v2);
    let work = workspace().join("target/corpus").join(pair.replace([' ', ':', '/'], "_"));
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;

    let mut places = places(&sample, &work);
    let (mut rows, mut built) = match &arguments.resume {
        Some(file) => resume::take(file, &mut places)?,
        None => Default::default(),
    };
    make(&series, &places, arguments.jobs, &mut rows, &mut built)?;
    if !arguments.no_boot {
        let version = arguments.v1.trim_start_matches("deb:");
        let image = cache.image(Manifest::builtin()?.find(version)?)?;
        boot::all(&Image::in_root(&image.dir, &image.release), &built, &mut rows)?;
    }
    for row in rows.iter_mut().filter(|row| row.outcome == BUILT) {
        row.reason = "no machine was booted".into();
    }
    rows.sort_by(|a, b| a.file.cmp(&b.file));
    println!("{}", table::summary(&rows));
    if let Some(file) = &arguments.markdown {
        table::put(file, &pair, &rows)?;
    }
    if let Some(file) = &arguments.json {
        let value = serde_json::json!({
            "v1": arguments.v1, "v2": arguments.v2, "sample": arguments.sample, "seed": arguments.seed,
            "changed_sources": all.len(), "rows": rows,
        });
        let text = serde_json::to_string_pretty(&value)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let failed = rows.iter().filter(|row| row.outcome == FAILED).count();
    ensure!(failed == 0, "{failed} fixes failed; their reasons are in the table");
    Ok(())
}

/// Chooses by the hash of seed and path, so that a sample does not depend on what else changed.
fn sample(all: &[Fix], arguments: &Arguments) -> Vec<Fix> {
    if !arguments.only.is_empty() {
        let wanted = |fix: &&Fix| {
            let path = fix.source.to_string_lossy();
            arguments.only.iter().any(|only| path.starts_with(only.as_str()))
        };
        return all.iter().filter(wanted).cloned().collect();
    }
    let mut keyed: Vec<_> = all
        .iter()
        .map(|fix| {
            let text = format!("{}:{}", arguments.seed, fix.source.display());
            (*blake3::hash(text.as_bytes()).as_bytes(), fix)
        })
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.truncate(arguments.sample.unwrap_or(usize::MAX));
    keyed.into_iter().map(|(_, fix)| fix.clone()).collect()
}

/// A fix, the name of its update, and the directory that this goes to.
type Place = (Fix, String, PathBuf);

fn places(sample: &[Fix], work: &Path) -> Vec<Place> {
    let place = |(index, fix): (usize, &Fix)| {
        let directory = fix.source.display().to_string().replace('/', "_");
        (fix.clone(), format!("fix_{index}"), work.join(directory))
    };
    sample.iter().enumerate().map(place).collect()
}

impl Built {
    /// What loading the update of this plan takes.
    fn of(plan: &Plan, row: usize, directory: &Path) -> Built {
        let mut targets: BTreeSet<String> = plan.objects.iter().map(|o| o.owner.clone()).collect();
        targets.remove("vmlinux");
        Built {
            row,
            name: plan.name.clone(),
            directory: directory.into(),
            targets: targets.into_iter().collect(),
            pinned: !plan.escapes.is_empty(),
        }
    }
}

/// Makes the updates, `jobs` at a time.
fn make(
    series: &Series,
    fixes: &[Place],
    jobs: usize,
    rows: &mut Vec<Row>,
    built: &mut Vec<Built>,
) -> Result<()> {
    let total = rows.len() + fixes.len();
    let done = Mutex::new((rows, built));
    make_all(series, fixes, jobs, &|index, made, seconds| {
        let Some((fix, _, directory)) = fixes.get(index) else { return };
        let Ok(mut done) = done.lock() else { return };
        let (rows, built) = &mut *done;
        if let Ok(Made { plan, .. }) = &made
            && plan.outcome == Outcome::Update
        {
            built.push(Built::of(plan, rows.len(), directory));
        }
        let row = row(fix, made, seconds);
        eprintln!("[{}/{total}] {}: {} {}", rows.len() + 1, row.file, row.outcome, row.reason);
        rows.push(row);
    })
}

fn row(fix: &Fix, made: Result<Made>, seconds: f64) -> Row {
    let file = fix.source.display().to_string();
    let (outcome, reason, functions, with) = match made {
        Err(error) => (FAILED.into(), format!("{error:#}"), 0, Vec::new()),
        Ok(Made { plan, with }) => {
            let with = with.iter().map(|path| path.display().to_string()).collect();
            let functions = plan.functions.iter().filter(|f| f.verdict == "changed").count();
            let (outcome, reason) = judge(&plan);
            (outcome, reason, functions, with)
        }
    };
    Row { file, outcome, reason, seconds, functions, with }
}

fn judge(plan: &Plan) -> (String, String) {
    let tell =
        |refusal: &dynamos_generator::Refusal| format!("{}: {}", refusal.name, refusal.reason);
    let hard = plan.refusals.iter().find(|refusal| !refusal.state_transfer);
    match (plan.outcome, hard, plan.refusals.first()) {
        (Outcome::Update, ..) => (BUILT.into(), String::new()),
        (Outcome::NoChange | Outcome::Differs, ..) => (NO_CHANGE.into(), String::new()),
        (Outcome::Refused, Some(refusal), _) => {
            (format!("refused: {}", tell(refusal)), tell(refusal))
        }
        (Outcome::Refused, None, Some(refusal)) => (STATE_TRANSFER.into(), tell(refusal)),
        (Outcome::Refused, None, None) => (FAILED.into(), "refused without a reason".into()),
    }
}
