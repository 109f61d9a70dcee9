//! `dynamos-diff V1 V2 -o UPDATE`: compares two kernels and makes an update.

mod print;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use dynamos_generator::{Only, Request, Spec, report};

/// Makes a live update of a running kernel from the difference of two kernels.
///
/// V1 is the kernel that runs, V2 the one that should. Each is deb:VERSION (Debian's source package; a prefix
/// that names one is enough), a kernel source tree, or a git revision of --repo. V2 may also be a patch file,
/// which is applied to V1.
///
/// Both may be built files instead, which are compared and reported: an object, module or vmlinux, a build directory,
/// a directory of modules and images, deb-dbg:VERSION (Debian's package with debug information) or
/// deb-dbg:VERSION/FILE (one file of it, e.g. vmlinux or ext4.ko).
///
/// Exit codes: 0 an update was made, or built files differ, 1 nothing to do, 2 error, 3 refused (plan.json and
/// review.md say why). With --explain: 0 something shown differs, 1 nothing does, 2 error, also if nothing has that name.
#[derive(Debug, Parser)]
#[command(name = "dynamos-diff", version, max_term_width = 100)]
struct Cli {
    /// The kernel that runs.
    v1: String,
    /// The kernel that should, or a patch of V1.
    v2: String,
    /// Gives each replaced function a bridge edition, which works with the state of V1 and of V2: the update then goes by way of
    /// it, in phases (docs/phases.md). A patch of V1, or the source (`.c`) that takes the place of the one V2 changes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["explain", "report_only", "only"])]
    bridge: Option<PathBuf>,
    /// The object that calls of a replaced function work on is this argument: for scope `object` (docs/scopes.md), in which
    /// each object has one edition. For each function, unless V2 has a `dynamos_object_FUNCTION`.
    #[arg(long, value_name = "FUNCTION=PARAMETER", conflicts_with_all = ["explain", "report_only", "only", "bridge"])]
    object: Vec<String>,
    /// Directory to put the update in; made, or replaced if it holds an update.
    #[arg(short, long, value_name = "UPDATE", required_unless_present = "explain")]
    output: Option<PathBuf>,
    /// Show the function or type NAME of both sides, side by side, and make no update.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["output", "report_only", "name"])]
    explain: Vec<String>,
    /// Git repository that revisions are looked up in.
    #[arg(long, value_name = "DIR")]
    repo: Option<PathBuf>,
    /// The kernel that will run the update, where it does not follow from V1: its release (`uname -r`), or, for
    /// one of your own, the directory it was built in (with a slash in it).
    #[arg(long, value_name = "RELEASE|DIR")]
    kernel: Option<String>,
    /// Name of the kernel module, by default made of what changed.
    #[arg(long)]
    name: Option<String>,
    /// Compare and report, but do not build a module.
    #[arg(long)]
    report_only: bool,
    /// Compile both sides of every object for the report on a whole release too (hours), where it would compare what the
    /// distribution built.
    #[arg(long, requires = "report_only")]
    compile: bool,
    /// In the report on a whole release say who uses the types that differ, too (an hour or more).
    #[arg(long, requires = "report_only")]
    users: bool,
    /// Compare only what is in this part of the kernel: `vmlinux`, or a module. May be given several times.
    #[arg(long, value_name = "NAME", conflicts_with = "explain")]
    part: Vec<String>,
    /// Of built files compare only this.
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Option<Only>,
    /// The most objects to compare because a header changed; with more, the header is refused [default: 64, with
    /// --report-only any number].
    #[arg(long, value_name = "N")]
    max_objects: Option<usize>,
    /// Compilers and comparisons to run at once, by default about the number of CPUs.
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Say nothing but errors.
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say what is done to each object.
    #[arg(short, long)]
    verbose: bool,
    /// Directory for downloads and prepared trees, by default $DYNAMOS_CACHE or ~/.cache/dynamos.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Write the time each phase took, in seconds, and the peak memory to this file as JSON.
    #[arg(long, value_name = "FILE")]
    timings: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            if dynamos_generator::interrupted() {
                eprintln!("dynamos-diff: interrupted; nothing was left behind");
                return ExitCode::from(130);
            }
            eprintln!("dynamos-diff: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// What `--object` says, each function once.
fn objects(asked: &[String]) -> Result<BTreeMap<String, String>> {
    let mut objects = BTreeMap::new();
    for text in asked {
        let (function, parameter) = dynamos_generator::counting::parse(text)?;
        if objects.insert(function, parameter).is_some() {
            anyhow::bail!("--object {text}: that function was named before");
        }
    }
    Ok(objects)
}

fn run(cli: Cli) -> Result<ExitCode> {
    dynamos_generator::watch_interrupts().context("cannot watch for Ctrl-C")?;
    if let Some(jobs) = cli.jobs {
        rayon::ThreadPoolBuilder::new()
            .num_threads(jobs)
            .build_global()
            .context("cannot start the worker threads")?;
    }
    let request = Request {
        v1: Spec::parse(&cli.v1, cli.repo.as_deref()).context("V1")?,
        v2: Spec::parse(&cli.v2, cli.repo.as_deref()).context("V2")?,
        bridge: cli.bridge,
        objects: objects(&cli.object)?,
        kernel: cli.kernel,
        name: cli.name,
        output: cli.output.unwrap_or_default(),
        report_only: cli.report_only,
        compile: cli.compile,
        users: cli.users,
        parts: cli.part,
        only: cli.only,
        max_objects: cli.max_objects.unwrap_or(if cli.report_only { usize::MAX } else { 64 }),
        jobs: cli.jobs,
        cache: cli.cache,
    };
    let reporter = Arc::new(report::Reporter::new(cli.quiet, cli.verbose));
    if !cli.explain.is_empty() {
        let explained = dynamos_generator::explain(&request, &cli.explain, &reporter);
        if let Some(file) = &cli.timings {
            reporter.write_timings(file)?;
        }
        return print::explained(&explained?);
    }
    let result = dynamos_generator::run(&request, &reporter);
    if let Some(file) = &cli.timings {
        reporter.write_timings(file)?;
    }
    let plan = result?;
    if !cli.quiet {
        report::summary(&plan, &request.output, request.report_only);
    }
    Ok(ExitCode::from(report::exit_code(&plan)))
}
