//! What can go wrong, each with what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: what failed, where, and what would help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried ("read", "create" …).
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file system has no room. Nothing half-written is left behind.
    #[error(
        "no space left on the file system of {}; nothing was left half done: free some space \
         (kernel trees need about 5 GB each series) or name another cache with --cache or DYNAMOS_CACHE",
        path.display()
    )]
    DiskFull {
        /// A path on the full file system.
        path: PathBuf,
    },
    /// The manifest in the crate is not valid.
    #[error("the manifest of kernels is not valid: {0}")]
    Manifest(String),
    /// No kernel of the manifest matches.
    #[error("no kernel {spec:?} in the manifest; it knows {}", known.join(", "))]
    UnknownKernel {
        /// What was asked for.
        spec: String,
        /// All versions there are.
        known: Vec<String>,
    },
    /// A prefix matches several kernels.
    #[error("{spec:?} is ambiguous: it could be {}", matches.join(" or "))]
    AmbiguousKernel {
        /// What was asked for.
        spec: String,
        /// The versions it matches.
        matches: Vec<String>,
    },
    /// The manifest names no package for this part of the kernel.
    #[error("the manifest has no {part} package for kernel {version}")]
    NoSuchPart {
        /// The kernel's version.
        version: String,
        /// The part asked for.
        part: &'static str,
    },
    /// apt knows no packages at all.
    #[error(
        "apt has no package lists, so it cannot fetch {package}: run `apt-get update` as root first"
    )]
    NoPackageLists {
        /// The package wanted.
        package: String,
    },
    /// The archive does not have the version (any more).
    #[error(
        "by apt's package lists the archive does not have {package} version {version} (any more); it has {}. \
         Run `apt-get update` if they may be old; if you have the file, put it at {}",
        if available.is_empty() { "no version of it".to_owned() } else { available.join(", ") },
        place.display()
    )]
    NotInArchive {
        /// The package.
        package: String,
        /// The version the manifest names.
        version: String,
        /// What apt offers instead.
        available: Vec<String>,
        /// Where a copy of the file would be found.
        place: PathBuf,
    },
    /// A downloaded file is not the one the manifest describes.
    #[error("{} has sha256 {found}, the manifest says {expected}; it was not used", file.display())]
    WrongHash {
        /// The file.
        file: PathBuf,
        /// The manifest's sum.
        expected: String,
        /// The file's sum.
        found: String,
    },
    /// A command could not be started.
    #[error("cannot run {program}: {source}; install it with `apt-get install {package}`")]
    MissingTool {
        /// The program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A command failed.
    #[error("`{command}` failed ({status}) while working on {what}:\n{stderr}")]
    Tool {
        /// The command line, shortened.
        command: String,
        /// Its exit status.
        status: String,
        /// What it was run for.
        what: String,
        /// The end of its error output.
        stderr: String,
    },
    /// The directory is not a kernel source tree.
    #[error("{} is not a kernel source tree: {missing} is missing", path.display())]
    NotAKernelTree {
        /// The directory.
        path: PathBuf,
        /// The first file missed.
        missing: &'static str,
    },
    /// The compiler here is not the one that built the kernel.
    #[error(
        "the kernel was built with {wanted:?} (CONFIG_CC_VERSION_TEXT in {}), but here is {found:?}; \
         install exactly that compiler",
        config.display()
    )]
    Compiler {
        /// The configuration that names the compiler.
        config: PathBuf,
        /// The compiler it names.
        wanted: String,
        /// The compiler found.
        found: String,
    },
    /// The prepared configuration is not that of the image.
    #[error(
        "the configuration of the prepared tree differs from {}:\n{}\n{hint}",
        config.display(),
        differences.join("\n")
    )]
    Config {
        /// The image's configuration.
        config: PathBuf,
        /// Lines `CONFIG_X: wanted …, got …`.
        differences: Vec<String>,
        /// What may be the reason.
        hint: String,
    },
    /// The prepared tree came out with another release name.
    #[error("the prepared tree calls itself {found:?}, the kernel is {wanted:?}")]
    Release {
        /// The release wanted.
        wanted: String,
        /// The release found.
        found: String,
    },
    /// A path leads out of the tree it should be in.
    #[error("{} is not a path inside the tree", path.display())]
    OutsideTree {
        /// The path.
        path: PathBuf,
    },
    /// Kbuild said something this crate does not understand.
    #[error("cannot learn from Kbuild about {what}: {why}")]
    Kbuild {
        /// A directory or object.
        what: String,
        /// What was not understood.
        why: String,
    },
}

impl Error {
    /// Wraps an I/O error, telling a full disk from everything else.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_owned() }
            }
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }
}

/// `.at("read", path)?` on an I/O result.
pub(crate) trait IoContext<T> {
    /// Names the action and the file.
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(action, path, e))
    }
}
