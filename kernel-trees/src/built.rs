//! Built kernels: a whole kernel of ours, for what no distribution's kernel can do.
//!
//! There is one: the debug kernel, with the checkers and the fault injection that
//! `debug.config` turns on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cache::Cache;
use crate::error::{Error, IoContext, Result};
use crate::manifest::{Kernel, Part};
use crate::prepare::{Make, option_off, parse_config};
use crate::tree::{self, Transfer};
use crate::{run, unpack};

/// Goes into the key: raise it when built kernels come out different.
const FORMAT: &str = "2";

/// Where they are in the cache.
const KIND: &str = "built";

/// What the debug kernel's configuration has on top of `make defconfig`.
const DEBUG_CONFIG: &str = include_str!("../debug.config");

/// The compiler of the distribution whose sources these are.
const COMPILER: &str = "gcc-12";

/// How many steps of the build pass between two reports of progress.
const STEPS_SHOWN: usize = 250;

/// Parts of the tree that nobody needs once the kernel is linked, by their endings.
const WASTE: [&str; 2] = [".o", ".a"];

/// A kernel that was built here.
#[derive(Debug, Clone)]
pub struct BuiltKernel {
    dir: PathBuf,
    release: String,
}

impl BuiltKernel {
    /// Where it was built: for `make -C DIR M=…`, with `.config` and `Module.symvers`.
    pub fn build_dir(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// The bootable kernel.
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// As `lib/modules/RELEASE`; nearly all is built in.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules")
    }

    /// What `uname -r` says in it.
    pub fn release(&self) -> &str {
        &self.release
    }
}

impl Cache {
    /// Gives the debug kernel of a version's source, and builds it if needed: about a
    /// quarter of an hour on two cores.
    pub fn debug_kernel(&self, kernel: &Kernel) -> Result<BuiltKernel> {
        let key = debug_key(kernel)?;
        let dir = self.entry(KIND, &key, |partial| {
            let pristine = self.source(kernel)?;
            fs::create_dir(partial).at("create", partial)?;
            tree::clone(&pristine, &partial.join("tree"), Transfer::Link, tree::everything)?;
            self.build(partial, &kernel.version)
        })?;
        opened(dir)
    }

    /// The debug kernel of a version's source, if it has been built.
    pub fn debug_kernel_if_built(&self, kernel: &Kernel) -> Result<Option<BuiltKernel>> {
        let dir = self.root().join(KIND).join(debug_key(kernel)?);
        dir.is_dir().then(|| opened(dir)).transpose()
    }

    fn build(&self, partial: &Path, version: &str) -> Result<()> {
        let root = partial.join("tree");
        let make = Make { compiler: COMPILER, release: None };
        self.progress().phase(&format!("configuring the debug kernel of {version}"));
        configure(&make, &root)?;

        let what = format!("building the debug kernel of {version} (about 15 minutes)");
        self.progress().phase(&what);
        let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut command = make.command(&root);
        // DWARF in all of it doubles the time and the disk space, and does not change code.
        command.arg("debug-flags-y=").arg(format!("-j{jobs}"));
        command.args(["bzImage", "modules"]);
        watched(&mut command, "the debug kernel", &root, |steps| {
            if steps % STEPS_SHOWN == 0 {
                self.progress().phase(&format!("{what}: {steps} steps done"));
            }
        })?;
        collect(partial, &root)
    }
}

/// What the debug kernel of a version is kept under.
fn debug_key(kernel: &Kernel) -> Result<String> {
    let version = Command::new(COMPILER).arg("--version").env("LC_ALL", "C").output();
    let version = version.map_err(|source| Error::MissingTool {
        program: COMPILER.to_owned(),
        package: COMPILER,
        source,
    })?;
    let source_key = unpack::key(kernel, Part::Source)?;
    let mut hasher = blake3::Hasher::new();
    for part in [FORMAT.as_bytes(), source_key.as_bytes(), DEBUG_CONFIG.as_bytes()] {
        hasher.update(part);
        hasher.update(&[0]);
    }
    hasher.update(&version.stdout);
    let hash = hasher.finalize().to_hex();
    Ok(format!("{}-debug-{}", kernel.version, hash.get(..12).unwrap_or_default()))
}

/// The kernel in a finished directory.
fn opened(dir: PathBuf) -> Result<BuiltKernel> {
    let file = dir.join("release");
    let release = fs::read_to_string(&file).at("read", &file)?.trim().to_owned();
    Ok(BuiltKernel { dir, release })
}

/// `defconfig` with the fragment on top; each line of the fragment must be there afterwards.
fn configure(make: &Make<'_>, root: &Path) -> Result<()> {
    run::output(make.command(root).arg("defconfig"), "the configuration", root)?;
    let path = root.join(".config");
    let mut text = fs::read_to_string(&path).at("read", &path)?;
    text.push_str(DEBUG_CONFIG);
    fs::write(&path, &text).at("write", &path)?;
    run::output(make.command(root).arg("olddefconfig"), "the configuration", root)?;
    let got = fs::read_to_string(&path).at("read", &path)?;
    let differences = differences(DEBUG_CONFIG, &got);
    if differences.is_empty() {
        return Ok(());
    }
    let hint = "kernel-trees/debug.config does not fit this source".to_owned();
    Err(Error::Config { config: path, differences, hint })
}

/// The options of the fragment that `got` has otherwise.
fn differences(fragment: &str, got: &str) -> Vec<String> {
    let (wanted, got) = (parse_config(fragment), parse_config(got));
    let off = fragment.lines().filter_map(option_off);
    let value = |name: &str| got.get(name).cloned();
    let on = wanted.iter().filter(|(name, wanted)| value(name).as_ref() != Some(wanted));
    on.map(|(name, wanted)| (name.as_str(), wanted.as_str()))
        .chain(off.filter(|name| got.contains_key(*name)).map(|name| (name, "not set")))
        .map(|(name, wanted)| {
            format!("  {name}: wanted {wanted}, got {}", value(name).unwrap_or("not set".into()))
        })
        .collect()
}

/// Runs a long command, and calls `step` with the number of lines it has printed.
fn watched(
    command: &mut Command,
    what: &str,
    place: &Path,
    mut step: impl FnMut(usize),
) -> Result<()> {
    let line = "make bzImage modules".to_owned();
    let missing = |source| Error::MissingTool { program: "make".into(), package: "make", source };
    let log = place.with_extension("log");
    let errors = fs::File::create(&log).at("create", &log)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let mut child = command.spawn().map_err(missing)?;
    if let Some(stdout) = child.stdout.take() {
        for (number, _) in BufReader::new(stdout).split(b'\n').enumerate() {
            step(number.saturating_add(1));
        }
    }
    let status = child.wait().map_err(missing)?;
    let stderr = fs::read(&log).at("read", &log)?;
    fs::remove_file(&log).at("remove", &log)?;
    run::check(&line, status, &stderr, what, place)
}

/// Puts what is asked for beside the tree, and takes out what the link has used up.
fn collect(partial: &Path, root: &Path) -> Result<()> {
    let copy = |from: &str, to: PathBuf| {
        let from = root.join(from);
        fs::copy(&from, &to).at("write", &to).map(drop)
    };
    copy("arch/x86/boot/bzImage", partial.join("vmlinuz"))?;
    copy("include/config/kernel.release", partial.join("release"))?;
    let modules = partial.join("modules");
    fs::create_dir(&modules).at("create", &modules)?;
    copy("modules.builtin", modules.join("modules.builtin"))?;
    copy("System.map", partial.join("System.map"))?;
    let tools = [Path::new("scripts"), Path::new("tools")];
    for file in tree::files(root, tree::everything)? {
        let name = file.to_string_lossy();
        if name.ends_with(".ko") {
            let to = modules.join("kernel").join(&file);
            if let Some(dir) = to.parent() {
                fs::create_dir_all(dir).at("create", dir)?;
            }
            copy(&name, to)?;
        }
        let used_up = WASTE.iter().any(|end| name.ends_with(end)) || name == "vmlinux";
        if used_up && !tools.iter().any(|dir| file.starts_with(dir)) {
            let path = root.join(&file);
            fs::remove_file(&path).at("remove", &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_came_out_otherwise_is_named() {
        let fragment = "# text\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n";
        assert!(differences(fragment, "CONFIG_A=y\nCONFIG_C=\"x\"\nCONFIG_D=m\n").is_empty());
        let found = differences(fragment, "CONFIG_B=m\nCONFIG_C=\"y\"\n");
        assert_eq!(
            found,
            [
                "  CONFIG_A: wanted y, got not set",
                "  CONFIG_C: wanted \"x\", got \"y\"",
                "  CONFIG_B: wanted not set, got m"
            ]
        );
    }

    #[test]
    fn the_fragment_says_each_thing_once() {
        let mut names: Vec<String> = parse_config(DEBUG_CONFIG).into_keys().collect();
        names.extend(DEBUG_CONFIG.lines().filter_map(option_off).map(str::to_owned));
        let lines = DEBUG_CONFIG.lines().filter(|line| line.contains("CONFIG_")).count();
        assert_eq!(names.len(), lines);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), lines);
    }
}
