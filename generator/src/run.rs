//! The main job: one function, one line a phase.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use kernel_trees::{Cache, Kbuild, Prepared};

use crate::assemble::{Assembly, assemble};
use crate::background::Background;
use crate::candidates::{self, Candidates};
use crate::input::{self, Input, Spec};
use crate::output::Output;
use crate::package::{self, Sources};
use crate::plan::{Kernels, Outcome, Plan};
use crate::report::Reporter;
use crate::validate::{Expected, validate};
use crate::verdicts::{self, Judged};
use crate::{build, changes};

/// What to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// The kernel that runs.
    pub v1: Spec,
    /// The kernel that should.
    pub v2: Spec,
    /// Release of the kernel that will run the update, where it does not follow from V1.
    pub kernel: Option<String>,
    /// Name of the update.
    pub name: Option<String>,
    /// Directory to put it in.
    pub output: PathBuf,
    /// Compare only.
    pub report_only: bool,
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
        "--only is for built files; sources are always compared as a whole"
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
        },
        ..Plan::default()
    };

    begin(
        reporter,
        "map",
        &format!("finding the objects of {} changed files", input.changes.len()),
    )?;
    let kbuild = v1.kbuild()?;
    let found = candidates::find(&kbuild, &input, request.max_objects)?;
    plan.ignored.clone_from(&found.ignored);
    plan.refusals.clone_from(&found.refusals);
    let job = Comparison { v1: &v1, kbuild: &kbuild, input: &input, jobs: request.jobs };
    let (judged, removal) = job.judge(&found, reporter, &mut plan)?;

    let diff = changes::diff(&input)?;
    plan.name = update_name(request, &found)?;
    plan.settle();
    if plan.outcome == Outcome::Update {
        begin(reporter, "assemble", "assembling the clones")?;
        let exported = exported(&input)?;
        let assembly = assemble(&judged.units, &exported, &plan.name, &input.release)?;
        tell(&mut plan, &assembly);
        plan.settle();
        if plan.outcome == Outcome::Update
            && let Some(module) = module
        {
            begin(reporter, "module", "waiting for dynamos.ko")?;
            let module = module.wait().context("dynamos.ko was not built")??;
            link(&input, &plan, &assembly, &diff, exported, &module, &output, reporter)?;
        }
    }
    begin(reporter, "cleanup", "removing the view of V2")?;
    drop(removal);
    begin(reporter, "write", "writing the update")?;
    output.finish(&plan, &diff)?;
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
    jobs: Option<usize>,
}

impl Comparison<'_> {
    /// Builds and compares the candidates. The view of V2 goes away meanwhile.
    fn judge(
        &self,
        found: &Candidates,
        reporter: &Reporter,
        plan: &mut Plan,
    ) -> Result<(Judged, Option<Background<()>>)> {
        let objects: Vec<&str> = found.objects.keys().map(String::as_str).collect();
        if objects.is_empty() {
            return Ok((Judged::default(), None));
        }
        begin(reporter, "commands", "asking Kbuild how they are compiled")?;
        let commands = self.kbuild.compile_commands(&objects)?;
        begin(reporter, "view", "laying V2 over V1")?;
        let changed: Vec<_> = self.input.changes.clone().into_iter().collect();
        let view = self.v1.view(&changed)?;
        begin(reporter, "compile", &format!("compiling {} objects, both sides", objects.len()))?;
        let built = build::build(&commands, view.root(), self.jobs)?;
        let removal = Background::alone(move || drop(view));
        begin(reporter, "compare", "comparing them")?;
        Ok((verdicts::judge(found, &commands, &built, reporter, plan)?, Some(removal)))
    }
}

/// Starts the build of `dynamos.ko`.
fn build_module(cache: &Cache, input: &Input) -> Background<Result<kmod_build::Built>> {
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

/// Builds the update module and checks what came out.
#[allow(clippy::too_many_arguments)] // one phase, called once
fn link(
    input: &Input,
    plan: &Plan,
    assembly: &Assembly,
    diff: &str,
    mut exported: BTreeSet<String>,
    module: &kmod_build::Built,
    output: &Output,
    reporter: &Reporter,
) -> Result<()> {
    let symvers = std::fs::read_to_string(&module.symvers)
        .with_context(|| format!("cannot read {}", module.symvers.display()))?;

    begin(reporter, "link", "linking the update module")?;
    let sources = output.path().join("source");
    package::write_sources(
        &sources,
        &Sources {
            name: &plan.name,
            release: &input.release,
            clones: &assembly.clones,
            functions: assembly.functions.len(),
            record: &assembly.record,
            symvers: &symvers,
            diff,
        },
    )?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let ko = package::link(&sources, scratch.path(), &input.headers, &plan.name)?;
    let ko = std::fs::read(&ko).with_context(|| format!("cannot read {}", ko.display()))?;

    begin(reporter, "validate", "checking the update module")?;
    exported.extend(symbols_of(&symvers));
    let expected = Expected {
        name: &plan.name,
        release: &input.release,
        record: &assembly.record,
        exported: &exported,
    };
    validate(&ko, &expected)
        .context("the module that was made is not right; please report this")?;
    output.put("update.ko", &ko)?;
    let dynamos = std::fs::read(&module.ko)
        .with_context(|| format!("cannot read {}", module.ko.display()))?;
    output.put("dynamos.ko", &dynamos)
}

/// Adds to the plan what the assembly found out.
fn tell(plan: &mut Plan, assembly: &Assembly) {
    for function in &mut plan.functions {
        let key = (function.object.clone(), function.name.clone());
        function.matched_bytes = assembly.matched.get(&key).copied().unwrap_or(0);
    }
    plan.symbols.clone_from(&assembly.symbols);
    plan.escapes.clone_from(&assembly.escapes);
    plan.refusals.extend(assembly.refusals.iter().cloned());
}

/// Names exported to every module, from the headers' `Module.symvers`. Exports in a namespace are left out: the
/// loader gives them only to modules that import it.
fn exported(input: &Input) -> Result<BTreeSet<String>> {
    let path = input.headers.join("Module.symvers");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(symbols_of(&text).collect())
}

/// Columns of `Module.symvers`: CRC, symbol, module, type, namespace (Documentation/kbuild/modules.rst, 6.3).
fn symbols_of(symvers: &str) -> impl Iterator<Item = String> + '_ {
    symvers.lines().filter_map(|line| {
        let mut columns = line.split('\t').skip(1);
        let name = columns.next()?;
        columns.nth(2).is_none_or(str::is_empty).then(|| name.to_string())
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
    Ok(name)
}
