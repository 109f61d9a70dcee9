//! From Rust sources to one relocatable object.
//!
//! Plain rustc calls: `core`, `compiler_builtins` and `alloc` once per compiler and kernel flags (the
//! slow part, cached), then our crates. The last one is compiled as a static library with link-time
//! optimisation over all of them, which leaves one object with only the code that is used.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, Key};
use crate::run::{run, text};
use crate::target::{FILE as TARGET_FILE, Target};
use crate::toolchain::Toolchain;
use crate::{Error, sources};

/// Raised when the way the library is compiled changes.
const LIBRARY_VERSION: u32 = 1;

/// Compiles for one kernel configuration with one compiler.
pub(crate) struct Compiler<'a> {
    /// The compiler and its library's sources.
    pub(crate) toolchain: &'a Toolchain,
    /// What is compiled for.
    pub(crate) target: &'a Target,
}

impl Compiler<'_> {
    /// The directory with `core`, `compiler_builtins` and `alloc` for the target, compiled if need be.
    pub(crate) fn library(&self, cache: &Path, kmod: &Path) -> Result<PathBuf, Error> {
        let builtins = kmod.join(sources::COMPILER_BUILTINS);
        let builtins_source = fs::read(&builtins).map_err(Error::io("read", &builtins))?;
        let mut key = Key::new("rust-library", LIBRARY_VERSION);
        self.add_to_key(&mut key);
        key.add("compiler_builtins", &builtins_source);
        Cache::open(cache, "rust-library")?.entry(&key, |directory| {
            self.write_target(directory)?;
            let library = &self.toolchain.library;
            let quiet = ["--cap-lints=allow"];
            self.compile_rlib(
                directory,
                directory,
                "core",
                &library.join("core/src/lib.rs"),
                &quiet,
            )?;
            let source = directory.join("compiler_builtins.rs");
            fs::write(&source, &builtins_source).map_err(Error::io("write", &source))?;
            self.compile_rlib(
                directory,
                directory,
                "compiler_builtins",
                Path::new("compiler_builtins.rs"),
                &[],
            )?;
            self.compile_rlib(
                directory,
                directory,
                "alloc",
                &library.join("alloc/src/lib.rs"),
                &quiet,
            )
        })
    }

    /// Compiles our crates, whose sources lie in `work`, and writes the object to `object`.
    pub(crate) fn object(&self, library: &Path, work: &Path, object: &Path) -> Result<(), Error> {
        self.write_target(work)?;
        for crate_ in sources::CRATES {
            self.compile_rlib(work, library, crate_.name, Path::new(crate_.root), crate_.flags)?;
        }
        let archive = "libdynamos.a";
        let mut command = self.command(work, library);
        command
            .args(["--crate-name=dynamos", "--crate-type=staticlib", "-Clto=fat", "-Dwarnings"])
            .arg(format!("--emit=link={archive}"))
            .args(sources::MODULE_FLAGS)
            .arg(sources::MODULE_ROOT);
        run("compiling kmod/module", &mut command)?;
        extract(work, archive, object)
    }

    /// Adds what decides about the code generated.
    pub(crate) fn add_to_key(&self, key: &mut Key) {
        key.add("rustc", self.toolchain.identity.as_bytes());
        key.add("target", self.target.spec.as_bytes());
        key.add("flags", self.target.flags.join(" ").as_bytes());
    }

    fn write_target(&self, directory: &Path) -> Result<(), Error> {
        let path = directory.join(TARGET_FILE);
        fs::write(&path, &self.target.spec).map_err(Error::io("write", &path))
    }

    fn compile_rlib(
        &self,
        work: &Path,
        library: &Path,
        name: &str,
        root: &Path,
        flags: &[&str],
    ) -> Result<(), Error> {
        let mut command = self.command(work, library);
        command
            .arg(format!("--crate-name={name}"))
            .args(["--crate-type=rlib", "--emit=link", "--out-dir=."])
            .args(flags)
            .arg(root);
        run(&format!("compiling {name} for the kernel"), &mut command).map(drop)
    }

    /// rustc run in `work` with the flags that are common to all crates. Paths are kept out of the
    /// output: panic messages name `library/…` and paths below `work` only.
    fn command(&self, work: &Path, library: &Path) -> Command {
        let remap = |from: &Path, to: &str| {
            let mut argument = OsStr::new("--remap-path-prefix=").to_owned();
            argument.push(from);
            argument.push("=");
            argument.push(to);
            argument
        };
        let mut command = Command::new(&self.toolchain.rustc);
        command
            .current_dir(work)
            // Custom targets and `core` itself need unstable features of a stable compiler, as in
            // the kernel's own build.
            .env("RUSTC_BOOTSTRAP", "1")
            .arg(format!("--target={TARGET_FILE}"))
            .args(["--edition=2024", "--sysroot=/dev/null", "-Cembed-bitcode=yes"])
            .args(&self.target.flags)
            .arg(remap(&self.toolchain.library, "library"))
            .arg(remap(work, "."))
            .arg("-L")
            .arg(library)
            .args(["-L", "."]);
        command
    }
}

/// Takes the one object with our code out of the static library.
fn extract(work: &Path, archive: &str, object: &Path) -> Result<(), Error> {
    let ar = |arguments: &[&str]| {
        run("reading the static library", Command::new("ar").current_dir(work).args(arguments))
    };
    let listing = text(&ar(&["t", archive])?);
    // compiler_builtins takes no part in link-time optimisation. Were its code needed, modpost would
    // find the symbol undefined.
    let (builtins, ours): (Vec<&str>, Vec<&str>) =
        listing.lines().partition(|member| member.starts_with("compiler_builtins."));
    let [member] = ours.as_slice() else {
        let found = format!("{} objects beside {}", ours.len(), builtins.len());
        return Err(Error::Archive { archive: archive.to_owned(), found });
    };
    let content = ar(&["p", archive, member])?.stdout;
    fs::write(object, content).map_err(Error::io("write", object))
}
