//! The main job: one function, one line a phase.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use kernel_trees::{Cache, CompileCommand, Kbuild, Prepared, View};
use rayon::prelude::*;

use crate::background::Background;
use crate::candidates::{self, Candidates};
use crate::explain::{Explained, Side};
use crate::input::{self, Input, Spec};
use crate::link::Target;
use crate::output::Output;
use crate::plan::{Kernels, Outcome, Plan};
use crate::release::users::{self, Readers};
use crate::release::{self, Journal, Reach, Shipped};
use crate::report::Reporter;
use crate::verdicts::{self, Judged};
use crate::{build, changes, counting, definitions, layouts, phases, slots};

/// What to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// The kernel that runs.
    pub v1: Spec,
    /// The kernel that should.
    pub v2: Spec,
    /// A patch of V1 that gives bridge editions of what V2 replaces.
    pub bridge: Option<PathBuf>,
    /// Which parameter is the object that a function's calls work on, by V1's name of the function.
    pub objects: crate::counting::Asked,
    /// Release of the kernel that will run the update, where it does not follow from V1, or the directory it
    /// was built in.
    pub kernel: Option<String>,
    /// Name of the update.
    pub name: Option<String>,
    /// Directory to put it in.
    pub output: PathBuf,
    /// Compare only.
    pub report_only: bool,
    /// Compile both sides of a whole release, too.
    pub compile: bool,
    /// Look for the users of types in a whole release, too.
    pub users: bool,
    /// The parts of the kernel (`vmlinux`, modules) to compare; all if there are none.
    pub parts: Vec<String>,
    /// What to compare of built files, if not all.
    pub only: Option<crate::binaries::Only>,
    /// The most objects to compare because of a changed header.
    pub max_objects: usize,
    /// Compilers to run at once, if not as many as the machine has use for.
    pub jobs: Option<usize>,
    /// Root of the cache.
    pub cache: Option<PathBuf>,
}

/// Compares both sides and makes the update. The plan tells what came of it; it is in the output as well.
pub fn run(request: &Request, reporter: &Arc<Reporter>) -> Result<Plan> {
    if request.v1.is_built() || request.v2.is_built() {
        return crate::binaries::run(request, reporter);
    }
    anyhow::ensure!(
        request.only.is_none(),
        "--only is for built files; of sources, --part names what to compare"
    );
    // Opening the cache may take a while: it removes what killed runs left.
    reporter.phase("provide", "providing both kernels");
    let output = Output::begin(&request.output)?;
    let cache = Cache::open(request.cache.as_deref())?.with_progress(reporter.clone());

    let input = input::resolve(&cache, &request.v1, &request.v2, request.kernel.as_deref())?;
    // It takes as long as all the rest when it is not in the cache, and it is needed only for linking.
    let wanted = !request.report_only && !input.changes.is_empty();
    let module = wanted.then(|| build_module(&cache, &input));
    begin(reporter, "prepare", "preparing V1 for building objects")?;
    let v1 = input.prepare(&cache)?;
    let mut plan = Plan {
        kernels: Kernels {
            v1: request.v1.label(),
            v2: request.v2.label(),
            release: input.release.clone(),
            compiler: v1.compiler().into(),
            bridge: None,
        },
        ..Plan::default()
    };

    begin(
        reporter,
        "map",
        &format!("finding the objects of {} changed files", input.changes.len()),
    )?;
    let kbuild = v1.kbuild()?;
    let mut found = candidates::find(&kbuild, &input, request.max_objects)?;
    let all = found.objects.len();
    found.only_of(&request.parts)?;
    if !request.parts.is_empty() {
        let parts = request.parts.join(", ");
        plan.notes
            .push(format!("only {parts} was compared, and nothing else that the changes reach"));
    }
    plan.ignored.clone_from(&found.ignored);
    plan.refusals.clone_from(&found.refusals);
    let job = Comparison { v1: &v1, kbuild: &kbuild, input: &input, request };
    let diff = changes::diff(&input.v1_root, &input.changes)?;
    let (mut judged, removal) = if request.report_only {
        (Judged::default(), job.report(&found, all, &cache, &diff, reporter, &mut plan)?)
    } else {
        job.judge(&found, reporter, &mut plan)?
    };
    let bridge_diff = match &request.bridge {
        Some(file) => {
            begin(reporter, "bridge", "building the bridge")?;
            Some(job.bridge(file, &cache, reporter, &mut judged, &mut plan)?)
        }
        None => {
            phases::refuse(&judged, &mut plan);
            None
        }
    };
    if !request.report_only {
        counting::settle(&judged, &request.objects, request.bridge.is_some(), &mut plan);
    }
    let diffs = (diff.as_str(), bridge_diff.as_deref());
    plan.name = update_name(request, &found)?;
    plan.settle();
    if plan.outcome == Outcome::Update && !request.report_only {
        begin(reporter, "assemble", "assembling the clones")?;
        let target = Target::of(&input)?;
        let assembly = target.assemble(&judged, &mut plan)?;
        if plan.outcome == Outcome::Update
            && let Some(module) = module
        {
            begin(reporter, "module", "waiting for dynamos.ko")?;
            let module = module.wait().context("dynamos.ko was not built")??;
            begin(reporter, "link", "linking the update module")?;
            let ko = target.link(&plan, &assembly, diffs, &module, &output)?;
            begin(reporter, "validate", "checking the update module")?;
            target.deliver(&plan.name, &ko, &assembly, &module, &output)?;
        }
    }
    begin(reporter, "cleanup", "removing the view of V2")?;
    drop(removal);
    begin(reporter, "write", "writing the update")?;
    output.finish(&plan, diffs)?;
    reporter.end();
    Ok(plan)
}

/// Begins a phase, unless Ctrl-C was pressed: what is under way then is dropped and cleans up after itself.
fn begin(reporter: &Reporter, key: &str, text: &str) -> Result<()> {
    anyhow::ensure!(!crate::interrupted(), "interrupted");
    reporter.phase(key, text);
    Ok(())
}

/// What it takes to build the candidates on both sides.
struct Comparison<'a> {
    v1: &'a Prepared,
    kbuild: &'a Kbuild,
    input: &'a Input,
    request: &'a Request,
}

impl Comparison<'_> {
    /// Builds and compares the candidates. The view of V2 goes away meanwhile.
    fn judge(
        &self,
        found: &Candidates,
        reporter: &Reporter,
        plan: &mut Plan,
    ) -> Result<(Judged, Option<Background<()>>)> {
        let Some(Objects { commands, built, view }) = self.build(found, reporter, plan)? else {
            return Ok((Judged::default(), None));
        };
        begin(reporter, "compare", "comparing them")?;
        let mut judged = verdicts::judge(
            found,
            &commands,
            &built,
            view.root(),
            reporter,
            &self.request.objects,
            plan,
        )?;
        definitions::check(&judged.definitions, &self.input.running, plan)?;
        if slots::matter(&judged, plan) {
            begin(reporter, "readers", "finding the readers of changed handlers")?;
            slots::judge(self.kbuild, &self.v1.root(), &mut judged, plan)?;
        }
        Ok((judged, Some(Background::alone(move || drop(view)))))
    }

    /// Makes the bridge editions of what V2 replaces, from a patch of V1 or a source; gives what is changed for it.
    fn bridge(
        &self,
        file: &Path,
        cache: &Cache,
        reporter: &Reporter,
        judged: &mut Judged,
        plan: &mut Plan,
    ) -> Result<String> {
        let request = self.request;
        let spec = match file.extension() {
            Some(extension) if extension == "c" => phases::source(file, &self.input.changes)?,
            _ => Spec::Patch(file.into()),
        };
        plan.kernels.bridge = Some(spec.label());
        let input = input::resolve(cache, &request.v1, &spec, request.kernel.as_deref())?;
        let diff = changes::diff(&input.v1_root, &input.changes)?;
        let found = candidates::find(self.kbuild, &input, request.max_objects)?;
        let mut bridge = Plan { refusals: found.refusals.clone(), ..Plan::default() };
        let job = Comparison { input: &input, ..*self };
        let (editions, removal) = job.judge(&found, reporter, &mut bridge)?;
        phases::join(judged, editions, plan, bridge);
        drop(removal);
        Ok(diff)
    }

    /// Judges every candidate, however many there are, without keeping what an update would need of them. `all`: how
    /// many the changes reach, in whatever part of the kernel.
    fn report(
        &self,
        found: &Candidates,
        all: usize,
        cache: &Cache,
        diff: &str,
        reporter: &Reporter,
        plan: &mut Plan,
    ) -> Result<Option<Background<()>>> {
        let journal = |how| Journal::open(cache.root(), &self.v1.root(), diff, how);
        let mut compiled: BTreeSet<String> = found.objects.keys().cloned().collect();
        let mut readers = Readers::new();
        let Request { v1, v2, cache: root, compile, .. } = self.request;
        let shipped = match compile {
            true => None,
            false => Shipped::open([v1, v2], all, root.as_deref(), reporter)?,
        };
        if let Some(shipped) = shipped {
            let rest =
                shipped.judge(found, &journal("shipped")?, self.request.jobs, reporter, plan)?;
            if self.request.users {
                readers = users::readers(found, &rest.seen, self.input, plan)?;
            }
            compiled = rest.missing;
        }
        let objects: BTreeSet<&str> =
            compiled.iter().chain(readers.keys()).map(String::as_str).collect();
        let objects: Vec<&str> = objects.into_iter().collect();
        let Some((commands, view)) = self.lay(&objects, reporter)? else {
            layouts::settle(plan, &[], &self.v1.root(), reporter)?;
            return Ok(None);
        };
        let of = |command: &&CompileCommand| readers.contains_key(&command.object);
        let reading: Vec<&CompileCommand> = commands.iter().filter(of).collect();
        if !reading.is_empty() {
            let text = format!("finding the users of changed types in {} sources", reading.len());
            begin(reporter, "users", &text)?;
            let (journal, jobs) = (journal("shipped")?, self.request.jobs);
            users::find(&readers, &reading, view.root(), &journal, jobs, reporter, plan)?;
        }
        let wanted = |command: &CompileCommand| compiled.contains(&command.object);
        let commands: Vec<CompileCommand> = commands.into_iter().filter(wanted).collect();
        let journal = journal("compiled")?;
        begin(reporter, "compare", &format!("comparing {} objects", commands.len()))?;
        release::judge(found, &commands, view.root(), &journal, self.request.jobs, reporter, plan)?;
        layouts::settle(plan, &commands, view.root(), reporter)?;
        Ok(Some(Background::alone(move || drop(view))))
    }

    /// Asks for the commands of objects, if there are any, and lays V2 over V1.
    fn lay(
        &self,
        objects: &[&str],
        reporter: &Reporter,
    ) -> Result<Option<(Vec<CompileCommand>, View)>> {
        if objects.is_empty() {
            return Ok(None);
        }
        begin(reporter, "commands", "asking Kbuild how they are compiled")?;
        let commands = self.commands(objects, reporter)?;
        begin(reporter, "view", "laying V2 over V1")?;
        let changed: Vec<_> = self.input.changes.clone().into_iter().collect();
        Ok(Some((commands, self.v1.view(&changed)?)))
    }

    /// Asks for some at a time: Kbuild looks for each of them in each directory on the way to any.
    fn commands(&self, objects: &[&str], reporter: &Reporter) -> Result<Vec<CompileCommand>> {
        const AT_A_TIME: usize = 64;
        let done = AtomicUsize::new(0);
        let parts: Vec<Vec<CompileCommand>> = objects
            .par_chunks(AT_A_TIME)
            .map(|some| {
                anyhow::ensure!(!crate::interrupted(), "interrupted");
                let commands = self.kbuild.compile_commands(some)?;
                let done = done.fetch_add(some.len(), Ordering::Relaxed) + some.len();
                reporter.progress(done, objects.len());
                Ok(commands)
            })
            .collect::<Result<_>>()?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Builds the candidates that the change reaches, if there are any.
    fn build(
        &self,
        found: &Candidates,
        reporter: &Reporter,
        plan: &mut Plan,
    ) -> Result<Option<Objects>> {
        let objects: Vec<&str> = found.objects.keys().map(String::as_str).collect();
        let Some((mut commands, view)) = self.lay(&objects, reporter)? else { return Ok(None) };
        begin(reporter, "reach", "finding out which of them the changes reach")?;
        let reaches: Vec<Reach> = commands
            .par_iter()
            .map(|command| {
                let candidate = found.objects.get(&command.object).context("an unknown object")?;
                release::not_reached(command, candidate, view.root())
            })
            .collect::<Result<_>>()?;
        let mut reaches = reaches.into_iter();
        commands.retain(|command| {
            let reached = !matches!(reaches.next(), Some(Reach::Nothing));
            if let (false, Some(candidate)) = (reached, found.objects.get(&command.object)) {
                plan.objects.push(release::unreached(command, candidate));
            }
            reached
        });
        begin(reporter, "compile", &format!("compiling {} objects, both sides", commands.len()))?;
        let built = build::build(&commands, view.root(), self.request.jobs)?;
        Ok(Some(Objects { commands, built, view }))
    }
}

/// The candidates of both sides.
struct Objects {
    /// How they are compiled.
    commands: Vec<CompileCommand>,
    /// What came out.
    built: Vec<build::Built>,
    /// V2's tree.
    view: View,
}

/// Shows functions and types of that name, both sides, instead of making an update.
pub fn explain(
    request: &Request,
    names: &[String],
    reporter: &Arc<Reporter>,
) -> Result<Vec<Explained>> {
    if request.v1.is_built() || request.v2.is_built() {
        return crate::binaries::explain(request, names, reporter);
    }
    reporter.phase("provide", "providing both kernels");
    let cache = Cache::open(request.cache.as_deref())?.with_progress(reporter.clone());
    let input = input::resolve(&cache, &request.v1, &request.v2, request.kernel.as_deref())?;
    begin(reporter, "prepare", "preparing V1 for building objects")?;
    let v1 = input.prepare(&cache)?;
    begin(
        reporter,
        "map",
        &format!("finding the objects of {} changed files", input.changes.len()),
    )?;
    let kbuild = v1.kbuild()?;
    let found = candidates::find(&kbuild, &input, request.max_objects)?;
    for refusal in &found.refusals {
        reporter.warn(&format!("not looked at: {}: {}", refusal.name, refusal.reason));
    }
    let job = Comparison { v1: &v1, kbuild: &kbuild, input: &input, request };
    let Some(Objects { commands, built, view }) =
        job.build(&found, reporter, &mut Plan::default())?
    else {
        return Ok(names.iter().map(|name| Explained::nothing(name)).collect());
    };
    begin(reporter, "compare", "comparing them")?;
    let root = v1.root();
    let explained = crate::explain::explain(&commands, &built, names, &|side, file| {
        let path = match (side, input.changes.get(file)) {
            (Side::V2, Some(changed)) => changed.clone()?,
            _ => root.join(file),
        };
        std::fs::read_to_string(path).ok()
    })?;
    begin(reporter, "cleanup", "removing the view of V2")?;
    drop(view);
    reporter.end();
    Ok(explained)
}

/// Starts the build of `dynamos.ko`.
pub(crate) fn build_module(cache: &Cache, input: &Input) -> Background<Result<kmod_build::Built>> {
    let (headers, release) = (input.headers.clone(), input.release.clone());
    let cache = cache.root().to_path_buf();
    Background::start(move || {
        let request = kmod_build::Request {
            headers: &headers,
            release: &release,
            cache: &cache,
            sources: &kmod_build::source_directory(),
        };
        kmod_build::build(&request).context("building dynamos.ko")
    })
}

/// The update's name: as asked for, or made of the first object.
fn update_name(request: &Request, found: &Candidates) -> Result<String> {
    let name = match &request.name {
        Some(name) => name.clone(),
        None => {
            let object = found.objects.keys().next().map_or("update", String::as_str);
            let stem = object.rsplit('/').next().unwrap_or(object).trim_end_matches(".o");
            format!("dynamos_{stem}").replace(|c: char| !c.is_ascii_alphanumeric(), "_")
        }
    };
    check_name(&name)?;
    Ok(name)
}

/// Whether an update may be called `name`.
pub(crate) fn check_name(name: &str) -> Result<()> {
    // MODULE_NAME_LEN is 64 - sizeof(long) (include/linux/moduleparam.h).
    let valid = name.len() < 56
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && name != "dynamos";
    anyhow::ensure!(
        valid,
        "--name {name}: a kernel module's name has lower-case letters, digits and underscores, starts with a letter \
         and has at most 55 of them"
    );
    Ok(())
}
