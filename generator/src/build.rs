//! Compiles the objects in question, all builds in one context (`docs/architecture.md` has the table).

use std::path::Path;

use std::thread::available_parallelism;

use anyhow::{Context, Result, bail};
use kernel_trees::CompileCommand;
use rayon::prelude::*;

/// One object, built from both sides.
#[derive(Debug)]
pub struct Built {
    /// V1 with the distribution's own flags: what must run.
    pub pre: Vec<u8>,
    /// V1, a section for each function and variable.
    pub v1: Vec<u8>,
    /// V2 likewise.
    pub v2: Vec<u8>,
}

/// What makes the compiler give each function and variable a section of its own, and the assembler tell where constants
/// without a name begin.
const SPLIT: [&str; 3] = ["-ffunction-sections", "-fdata-sections", "-Wa,--keep-locals"];

/// Runs each command three times: twice where it is, once in the tree `v2`; `at_once` compilers run at a time.
pub fn build(commands: &[CompileCommand], v2: &Path, at_once: Option<usize>) -> Result<Vec<Built>> {
    // One more than there are CPUs: for a single object there are three runs of equal length, and two CPUs
    // would do two of them and then one.
    let cpus = available_parallelism().map_or(1, usize::from);
    let compilers = rayon::ThreadPoolBuilder::new()
        .num_threads(at_once.unwrap_or(cpus + 1))
        .build()
        .context("cannot start the threads that run the compiler")?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let jobs: Vec<(String, CompileCommand, &[&str])> = commands
        .iter()
        .enumerate()
        .flat_map(|(index, command)| {
            [
                (format!("{index}-pre.o"), command.clone(), [].as_slice()),
                (format!("{index}-v1.o"), command.clone(), SPLIT.as_slice()),
                (format!("{index}-v2.o"), command.in_tree(v2), SPLIT.as_slice()),
            ]
        })
        .collect();
    let outputs: Vec<Vec<u8>> = compilers.install(|| {
        jobs.par_iter()
            .map(|(name, command, flags)| compile(command, &scratch.path().join(name), flags))
            .collect::<Result<_>>()
    })?;
    let mut outputs = outputs.into_iter();
    commands
        .iter()
        .map(|_| {
            let mut next = || outputs.next().context("a build is missing");
            Ok(Built { pre: next()?, v1: next()?, v2: next()? })
        })
        .collect()
}

/// V1 and V2 of one object, each function and variable in a section of its own.
pub fn both(command: &CompileCommand, v2: &Path) -> Result<(Vec<u8>, Vec<u8>)> {
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (old, new) = (scratch.path().join("v1.o"), scratch.path().join("v2.o"));
    Ok((compile(command, &old, &SPLIT)?, compile(&command.in_tree(v2), &new, &SPLIT)?))
}

/// V1 of one object, as the distribution builds it.
pub fn v1(command: &CompileCommand) -> Result<Vec<u8>> {
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    compile(command, &scratch.path().join("v1.o"), &[])
}

/// What the compiler sees of the source after preprocessing, without line markers.
pub fn preprocessed(command: &CompileCommand) -> Result<String> {
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let text = compile(command, &scratch.path().join("source.i"), &["-E", "-P"])?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn compile(command: &CompileCommand, output: &Path, flags: &[&str]) -> Result<Vec<u8>> {
    if crate::interrupted() {
        bail!("interrupted");
    }
    let result = command
        .compile_to(output, flags)
        .output()
        .with_context(|| format!("cannot run {}", command.compiler))?;
    if !result.status.success() {
        let log = String::from_utf8_lossy(&result.stderr);
        let shown: Vec<&str> = log.lines().take(20).collect();
        bail!("{} does not compile:\n{}", command.source, shown.join("\n"));
    }
    std::fs::read(output).with_context(|| format!("cannot read {}", output.display()))
}

/// Whether every command's source compiles in the tree `root`, without making objects; the inner error is what
/// the compiler says.
pub fn syntax(commands: &[CompileCommand], root: &Path) -> Result<Result<(), String>> {
    for command in commands {
        let output = command
            .in_tree(root)
            .compile_to(Path::new("/dev/null"), &["-fsyntax-only"])
            .output()
            .with_context(|| format!("cannot run {}", command.compiler))?;
        if !output.status.success() {
            return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
    }
    Ok(Ok(()))
}
