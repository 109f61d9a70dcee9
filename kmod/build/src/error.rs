//! What can go wrong while `dynamos.ko` is built, and what to do about it.

use std::path::{Path, PathBuf};

/// Why `dynamos.ko` was not built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The headers directory is not one that modules can be built against.
    #[error(
        "{} is not a kernel headers directory: {missing} is missing; \
         install linux-headers for the kernel, or run `make modules_prepare` in its source tree",
        path.display()
    )]
    NotHeaders {
        /// The directory given.
        path: PathBuf,
        /// The file that every headers directory has and this one does not.
        missing: &'static str,
    },
    /// The headers belong to another kernel than the one asked for.
    #[error(
        "the headers in {} are for kernel {found}, not {wanted}; give those of {wanted}",
        path.display()
    )]
    WrongRelease {
        /// The directory given.
        path: PathBuf,
        /// What its `utsrelease.h` says.
        found: String,
        /// The release that was asked for.
        wanted: String,
    },
    /// The kernel's configuration lacks something `dynamos.ko` stands on.
    #[error("kernel {release} cannot run dynamos.ko: {option} {problem}")]
    Unsupported {
        /// The kernel.
        release: String,
        /// The configuration option.
        option: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No Rust compiler that comes with the sources of its own library.
    #[error(
        "no Rust compiler with the matching sources of `core`: {tried}; \
         run `rustup component add rust-src`, or `apt-get update` and `apt-get install rustc-web rust-web-src`"
    )]
    NoToolchain {
        /// The compilers that were looked at and what each lacks.
        tried: String,
    },
    /// The C compiler the kernel was built with is not installed.
    #[error(
        "kernel {release} was built with {compiler}, which is not installed; install {package}"
    )]
    NoCCompiler {
        /// The kernel.
        release: String,
        /// The command, as the kernel's configuration names it.
        compiler: String,
        /// The Debian package that has it.
        package: String,
    },
    /// A tool could not be started.
    #[error("cannot run {tool}: {source}; is it installed?")]
    Spawn {
        /// The program.
        tool: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A tool ran and failed.
    #[error("{step} failed:\n{output}")]
    Tool {
        /// What was being done.
        step: String,
        /// The end of what the tool said.
        output: String,
    },
    /// The build went through, but a checker complained.
    #[error(
        "Kbuild, objtool or modpost complained about dynamos.ko for {release}, so it is not used; \
         if a line is known to be harmless, list it with its reason in kmod/build/src/kbuild.rs:\n{lines}"
    )]
    Warnings {
        /// The kernel.
        release: String,
        /// The complaints.
        lines: String,
    },
    /// The compiler left something other than the one object that is linked.
    #[error("{archive} should hold exactly one object with code of `dynamos`: {found}")]
    Archive {
        /// The archive rustc wrote.
        archive: String,
        /// What was found instead.
        found: String,
    },
}

impl Error {
    /// Attaches the action and path to an I/O error.
    pub(crate) fn io(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
