//! A release as a series of fixes: each changed source is a fix of its own, with the header changes it needs.
//!
//! For measuring how much of a release can be updated (`cargo xtask corpus`). A header change that comes with a fix
//! may concern other objects too; those are not compared here, and the plan says so.

mod definers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kernel_trees::{Cache, CompileCommand, Kbuild, ObjectOwner, Owner, Prepared, View};
use rayon::prelude::*;

use crate::build::{self, Built};
use crate::candidates::{Candidate, Candidates, owner};
use crate::changes::{self, Changes, Role, role};
use crate::input::{self, Input, Spec};
use crate::link::Target;
use crate::needed::Headers;
use crate::output::Output;
use crate::plan::{IgnoredFile, Kernels, Outcome, Plan, Refusal};
use crate::report::Reporter;
use crate::{counting, definitions, run, slots, verdicts};

/// All fixes between two kernels.
#[derive(Debug)]
pub struct Series {
    input: Input,
    kernels: Kernels,
    v1: Prepared,
    kbuild: Kbuild,
    target: Target,
    module: kmod_build::Built,
    headers: Headers,
    commands: BTreeMap<String, CompileCommand>,
}

/// One changed source that the configuration builds.
#[derive(Clone, Debug)]
pub struct Fix {
    /// Its path in the tree.
    pub source: PathBuf,
    /// Other changed sources that have what this one's change uses.
    with: Vec<PathBuf>,
    /// The objects made of all of them.
    objects: Vec<ObjectOwner>,
}

/// More sources than this do not make one fix.
const MOST_SOURCES: usize = 5;

impl Fix {
    /// `vmlinux`, or the modules that it is part of.
    pub fn owners(&self) -> BTreeSet<String> {
        self.objects.iter().map(|object| owner(&object.link)).collect()
    }

    /// All its sources.
    fn sources(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.source).chain(&self.with)
    }

    /// Takes another source along.
    fn add(&mut self, other: Fix) {
        self.with.push(other.source);
        self.objects.extend(other.objects);
        self.objects.sort();
        self.objects.dedup();
    }
}

/// What became of a fix.
#[derive(Debug)]
pub struct Made {
    /// Its plan.
    pub plan: Plan,
    /// Other changed sources that came along, because they define what this one's change uses.
    pub with: Vec<PathBuf>,
}

impl Series {
    /// Provides both kernels and `dynamos.ko`.
    pub fn open(cache: &Cache, v1: &Spec, v2: &Spec) -> Result<Series> {
        let input = input::resolve(cache, v1, v2, None)?;
        let module = run::build_module(cache, &input);
        let prepared = input.prepare(cache)?;
        let kbuild = prepared.kbuild()?;
        let kernels = Kernels {
            bridge: None,
            v1: v1.label(),
            v2: v2.label(),
            release: input.release.clone(),
            compiler: prepared.compiler().into(),
        };
        let included = |path: &Path| match role(path) {
            Role::Header => Ok(true),
            Role::Source => Ok(matches!(kbuild.owner_of(path)?, Owner::NotAnObjectSource)),
            _ => anyhow::Ok(false),
        };
        let mut headers = Changes::new();
        for (path, content) in &input.changes {
            if included(path)? {
                headers.insert(path.clone(), content.clone());
            }
        }
        Ok(Series {
            target: Target::of(&input)?,
            headers: Headers::read(&input.v1_root, headers)?,
            module: module.wait().context("dynamos.ko was not built")??,
            v1: prepared,
            commands: BTreeMap::new(),
            kernels,
            kbuild,
            input,
        })
    }

    /// Every changed source that the configuration builds, by path.
    pub fn fixes(&self) -> Result<Vec<Fix>> {
        let mut fixes = Vec::new();
        for (path, content) in &self.input.changes {
            let is_c = path.extension().is_some_and(|extension| extension == "c");
            let stays = content.is_some() && self.input.v1_root.join(path).is_file();
            if !is_c || !stays || role(path) != Role::Source {
                continue;
            }
            if let Owner::Objects { objects, .. } = self.kbuild.owner_of(path)? {
                fixes.push(Fix { source: path.clone(), with: Vec::new(), objects });
            }
        }
        Ok(fixes)
    }

    /// Asks Kbuild how the objects of `fixes` are compiled, all at once.
    pub fn learn(&mut self, fixes: &[Fix]) -> Result<()> {
        let objects: BTreeSet<&str> =
            fixes.iter().flat_map(|fix| &fix.objects).map(|o| o.object.as_str()).collect();
        let objects: Vec<&str> = objects.into_iter().collect();
        for some in objects.chunks(64) {
            for command in self.kbuild.compile_commands(some)? {
                self.commands.insert(command.object.clone(), command);
            }
        }
        Ok(())
    }

    /// A place to make fixes in, one after the other. Fixes must be learned before.
    pub fn workplace(&self) -> Result<Workplace<'_>> {
        Ok(Workplace { series: self, view: self.v1.view(&[])? })
    }
}

/// A view of V1 that becomes V2 of one fix after the other.
#[derive(Debug)]
pub struct Workplace<'a> {
    series: &'a Series,
    view: View,
}

impl Workplace<'_> {
    /// Makes the update called `name` of one fix, in `output`. Where its code uses what only V2 has, the sources that
    /// define that become part of it.
    pub fn make(&self, fix: &Fix, name: &str, output: &Path) -> Result<Made> {
        run::check_name(name)?;
        let output = Output::begin(output)?;
        let mut fix = fix.clone();
        let mut laid = Laid { place: self, changes: Changes::new() };
        loop {
            for source in fix.sources() {
                laid.lay(source)?;
            }
            let mut plan =
                Plan { name: name.into(), kernels: self.series.kernels.clone(), ..Plan::default() };
            let mut missing = BTreeSet::new();
            match laid.compile(&fix)? {
                Ok(built) => {
                    missing = self.judge(&fix, &laid.changes, &built, &mut plan, &output)?
                }
                Err(error) => plan.refusals.push(Refusal::new(
                    fix.source.display().to_string(),
                    format!("does not compile without other changes of V2: {error}"),
                    "make the update of all that belongs to the fix",
                )),
            }
            plan.settle();
            if !missing.is_empty() && self.extend(&mut fix, &missing, &mut plan)? {
                continue;
            }
            let diff = changes::diff(&self.series.input.v1_root, &laid.changes)?;
            output.finish(&plan, (&diff, None))?;
            return Ok(Made { plan, with: fix.with });
        }
    }

    /// Takes the sources along that define the `missing` names; if that cannot be, the plan says why.
    fn extend(
        &self,
        fix: &mut Fix,
        missing: &BTreeSet<(String, String)>,
        plan: &mut Plan,
    ) -> Result<bool> {
        let found = match self.series.definers(fix, missing)? {
            Ok(found) => found,
            Err(name) => {
                plan.notes.push(format!("no single changed source that is built defines {name}"));
                return Ok(false);
            }
        };
        if fix.sources().count() + found.len() > MOST_SOURCES {
            let all: Vec<String> = fix
                .sources()
                .chain(found.iter().map(|other| &other.source))
                .map(|path| path.display().to_string())
                .collect();
            plan.refusals.insert(
                0,
                Refusal::new(
                    fix.source.display().to_string(),
                    format!("needs too many other changes of V2: {}", all.join(", ")),
                    "make the update of all that belongs to the fix",
                ),
            );
            return Ok(false);
        }
        found.into_iter().for_each(|other| fix.add(other));
        Ok(true)
    }

    fn judge(
        &self,
        fix: &Fix,
        laid: &Changes,
        built: &[Built],
        plan: &mut Plan,
        output: &Output,
    ) -> Result<BTreeSet<(String, String)>> {
        let series = self.series;
        let because: BTreeSet<String> =
            laid.keys().map(|path| path.display().to_string()).collect();
        let mut found = Candidates::default();
        for object in &fix.objects {
            let candidate = Candidate { owner: owner(&object.link), because: because.clone() };
            found.objects.insert(object.object.clone(), candidate);
        }
        plan.ignored = because
            .iter()
            .filter(|path| fix.sources().all(|source| Path::new(path) != source))
            .map(|path| IgnoredFile {
                path: path.clone(),
                reason: format!(
                    "taken along for {}; other objects that include it are not compared",
                    fix.source.display()
                ),
            })
            .collect();
        let quiet = Reporter::new(true, false);
        let mut judged = verdicts::judge(
            &found,
            &self.commands(fix)?,
            built,
            self.view.root(),
            &quiet,
            &BTreeMap::new(),
            plan,
        )?;
        definitions::check(&judged.definitions, &series.input.running, plan)?;
        if slots::matter(&judged, plan) {
            slots::judge(&series.kbuild, &series.input.v1_root, &mut judged, plan)?;
        }
        counting::settle(&judged, &BTreeMap::new(), false, plan);
        plan.settle();
        if plan.outcome != Outcome::Update {
            return Ok(BTreeSet::new());
        }
        let assembly = series.target.assemble(&judged, plan)?;
        if plan.outcome == Outcome::Update {
            let diff = changes::diff(&series.input.v1_root, laid)?;
            let ko = series.target.link(plan, &assembly, (&diff, None), &series.module, output)?;
            series.target.deliver(&plan.name, &ko, &assembly, &series.module, output)?;
        }
        Ok(assembly.missing)
    }

    fn commands(&self, fix: &Fix) -> Result<Vec<CompileCommand>> {
        let of = |object: &ObjectOwner| match self.series.commands.get(&object.object) {
            Some(command) => Ok(command.clone()),
            None => {
                let asked = self.series.kbuild.compile_commands(&[object.object.as_str()])?;
                asked.into_iter().next().with_context(|| format!("{} is not built", object.object))
            }
        };
        fix.objects.iter().map(of).collect()
    }
}

/// What lies over V1 in a workplace; taken off when dropped.
struct Laid<'a> {
    place: &'a Workplace<'a>,
    changes: Changes,
}

impl Laid<'_> {
    /// Lays V2's file over V1's.
    fn lay(&mut self, path: &Path) -> Result<()> {
        let content = self.place.series.input.changes.get(path).context("an unchanged file")?;
        self.changes.insert(path.into(), content.clone());
        self.place.view.replace(path, content.as_deref())?;
        Ok(())
    }

    /// Compiles the fix, with ever more of the changed headers, until the compiler is content. The inner error
    /// is the compiler's.
    fn compile(&mut self, fix: &Fix) -> Result<Result<Vec<Built>, String>> {
        let commands = self.place.commands(fix)?;
        let view = self.place.view.root();
        let mut complaint = String::new();
        loop {
            match build::syntax(&commands, view)? {
                Ok(()) => {
                    self.take_off_what_is_not_needed(fix, &commands)?;
                    return Ok(Ok(build::build(&commands, view, Some(1))?));
                }
                Err(log) => {
                    if complaint.is_empty() {
                        complaint = first_error(&log);
                    }
                    let series = self.place.series;
                    let sources: Vec<&Path> = fix.sources().map(PathBuf::as_path).collect();
                    let more =
                        series.headers.for_errors(&log, &sources, &self.changes, &series.kbuild)?;
                    if more.is_empty() {
                        return Ok(Err(complaint));
                    }
                    for header in more {
                        self.lay(&header)?;
                    }
                }
            }
        }
    }
}

impl Laid<'_> {
    /// Headers that came along only because the errors did not say which one is missing.
    fn take_off_what_is_not_needed(
        &mut self,
        fix: &Fix,
        commands: &[CompileCommand],
    ) -> Result<()> {
        let headers: Vec<PathBuf> =
            self.changes.keys().filter(|path| fix.sources().all(|s| s != *path)).cloned().collect();
        if headers.len() < 2 {
            return Ok(());
        }
        for header in headers {
            self.take_off(&header)?;
            if build::syntax(commands, self.place.view.root())?.is_err() {
                self.lay(&header)?;
            }
        }
        Ok(())
    }

    /// V1's file again.
    fn take_off(&mut self, path: &Path) -> Result<()> {
        let old = self.place.series.input.v1_root.join(path);
        self.place.view.replace(path, old.is_file().then_some(old.as_path()))?;
        self.changes.remove(path);
        Ok(())
    }
}

impl Drop for Laid<'_> {
    fn drop(&mut self) {
        for path in self.changes.keys().cloned().collect::<Vec<_>>() {
            // A view that cannot be restored would taint the next fix; its file is gone then, so that fails.
            if self.take_off(&path).is_err() {
                let _ = std::fs::remove_file(self.place.view.root().join(path));
            }
        }
    }
}

/// The first error in the compiler's log, without the place, which may name the machine's directories.
fn first_error(log: &str) -> String {
    let error = log.lines().find_map(|line| line.split_once("error: ").map(|(_, text)| text));
    error.unwrap_or("the compiler failed").to_string()
}

/// Several fixes at once, each with a name and an output directory: results as they come, by `done`.
pub fn make_all(
    series: &Series,
    fixes: &[(Fix, String, PathBuf)],
    jobs: usize,
    done: &(dyn Fn(usize, Result<Made>, f64) + Sync),
) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs.max(1)).build()?;
    let next = std::sync::atomic::AtomicUsize::new(0);
    pool.install(|| {
        (0..jobs.max(1)).into_par_iter().try_for_each(|_| {
            let place = series.workplace()?;
            loop {
                anyhow::ensure!(!crate::interrupted(), "interrupted");
                let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some((fix, name, output)) = fixes.get(index) else { return Ok(()) };
                let since = std::time::Instant::now();
                let made = place.make(fix, name, output);
                done(index, made, since.elapsed().as_secs_f64());
            }
        })
    })
}
