//! Builds `dynamos.ko`, a kernel module in Rust, for a kernel that knows nothing of Rust.
//!
//! What is needed is what any module needs, the kernel's headers (or its source tree after
//! `make modules_prepare`) and its C compiler, and a Rust compiler with the sources of `core`. See
//! [`build`].

mod cache;
mod config;
mod error;
mod kbuild;
mod run;
mod rust;
mod sources;
mod target;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cache::{Cache, Key};
use config::KernelConfig;
pub use error::Error;
use rust::Compiler;
use target::Target;
use toolchain::Toolchain;

/// Raised when the way the module is put together changes.
const MODULE_VERSION: u32 = 2;

/// Where a module's vermagic comes from. `kernel.release` says something else in Debian's 6.1.
const UTS_RELEASE: &str = "include/generated/utsrelease.h";

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The kernel's headers directory: where `make -C` goes.
    pub headers: &'a Path,
    /// The kernel's release, as `uname -r` says it; the headers must be of this one.
    pub release: &'a str,
    /// The root of the cache. Nothing is written elsewhere.
    pub cache: &'a Path,
    /// The directory with the sources, `abi`, `core` and `module`; see [`source_directory`].
    pub sources: &'a Path,
}

/// What was built, in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The module.
    pub ko: PathBuf,
    /// Its exported symbols, for `KBUILD_EXTRA_SYMBOLS` of update modules.
    pub symvers: PathBuf,
    /// The header that update modules are compiled against.
    pub header: PathBuf,
}

/// The sources in the tree this crate was compiled from.
#[must_use]
pub fn source_directory() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// Builds `dynamos.ko`, or finds it in the cache.
///
/// The same sources, compilers and headers give the same bytes, wherever the directories lie.
///
/// # Errors
/// See [`Error`]. A warning of objtool or modpost is an error too.
pub fn build(request: &Request<'_>) -> Result<Built, Error> {
    // Parallel tests ask for the same thing: the first one builds it.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);

    let headers = check_headers(request)?;
    let config = KernelConfig::read(&headers)?;
    config.check_supported(request.release)?;
    let toolchain = Toolchain::find()?;
    let target = Target::new(&config, toolchain.version);
    let compiler = Compiler { toolchain: &toolchain, target: &target };
    let (cc, cc_identity) = kbuild::c_compiler(&config, request.release)?;

    let mut key = Key::new("dynamos.ko", MODULE_VERSION);
    compiler.add_to_key(&mut key);
    key.add("cc", cc_identity.as_bytes());
    add_headers_to_key(&headers, &mut key)?;
    let kmod = request.sources;
    key.add_file(kmod, Path::new(sources::COMPILER_BUILTINS))?;
    let files = sources::collect(kmod, &mut key)?;

    let cache = Cache::open(request.cache, "module")?;
    let place = cache.entry(&key, |entry| {
        let library = compiler.library(request.cache, kmod)?;
        let work = cache.scratch()?;
        let module = work.path().join("module");
        sources::copy(kmod, &files, work.path())?;
        compiler.object(&library, work.path(), &module.join(kbuild::RUST_OBJECT))?;
        kbuild::link(&headers, &module, &cc, request.release)?;
        for file in ["dynamos.ko", "Module.symvers", "dynamos.h"] {
            let target = entry.join(file);
            fs::copy(module.join(file), &target).map_err(Error::io("copy to", &target))?;
        }
        normalise_symvers(&module, &entry.join("Module.symvers"))
    })?;
    Ok(Built {
        ko: place.join("dynamos.ko"),
        symvers: place.join("Module.symvers"),
        header: place.join("dynamos.h"),
    })
}

/// `Module.symvers` names the module by its path in the build directory; that is `dynamos` here.
fn normalise_symvers(module: &Path, symvers: &Path) -> Result<(), Error> {
    let text = fs::read_to_string(symvers).map_err(Error::io("read", symvers))?;
    let prefix = format!("{}/", module.display());
    fs::write(symvers, text.replace(&prefix, "")).map_err(Error::io("write", symvers))
}

fn check_headers(request: &Request<'_>) -> Result<PathBuf, Error> {
    let headers = request.headers;
    for missing in ["Makefile", "Module.symvers", "include/config/auto.conf", UTS_RELEASE] {
        if !headers.join(missing).is_file() {
            return Err(Error::NotHeaders { path: headers.to_owned(), missing });
        }
    }
    let path = headers.join(UTS_RELEASE);
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let found = text.split('"').nth(1).unwrap_or_default();
    if found != request.release {
        return Err(Error::WrongRelease {
            path: headers.to_owned(),
            found: found.to_owned(),
            wanted: request.release.to_owned(),
        });
    }
    headers.canonicalize().map_err(Error::io("resolve", headers))
}

/// The configuration, release and symbol versions pin the headers: a package has one set of headers
/// for each, and symbol versions are checksums of the types in them.
fn add_headers_to_key(headers: &Path, key: &mut Key) -> Result<(), Error> {
    for file in ["include/config/auto.conf", UTS_RELEASE, "Module.symvers"] {
        key.add_file(headers, Path::new(file))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like headers as far as the checks go.
    fn headers(config: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("Makefile", ""),
            ("Module.symvers", ""),
            ("include/config/auto.conf", config),
            (UTS_RELEASE, "#define UTS_RELEASE \"6.1.0-55-amd64\"\n"),
        ] {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        directory
    }

    fn refusal(headers: &Path, release: &str) -> String {
        let cache = tempfile::tempdir().unwrap();
        let sources = source_directory();
        let request = Request { headers, release, cache: cache.path(), sources: &sources };
        build(&request).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_without_headers_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        let error = refusal(empty.path(), "6.1.0-55-amd64");
        assert!(
            error.contains("is not a kernel headers directory: Makefile is missing"),
            "{error}"
        );
    }

    #[test]
    fn headers_of_another_release_are_refused() {
        let error = refusal(headers("").path(), "6.1.0-56-amd64");
        assert!(error.contains("are for kernel 6.1.0-55-amd64, not 6.1.0-56-amd64"), "{error}");
    }

    #[test]
    fn an_unfit_configuration_is_refused() {
        let error = refusal(headers("CONFIG_X86_64=y\n").path(), "6.1.0-55-amd64");
        assert!(error.contains("MODULES is off"), "{error}");
    }
}
