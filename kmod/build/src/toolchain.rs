//! A Rust compiler together with the sources of its own library.
//!
//! `core` uses unstable features of exactly its own compiler, so both must be of one version.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// `major.minor` of the compiler, for flags that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// Is it this version or a later one?
    pub(crate) fn at_least(self, major: u32, minor: u32) -> bool {
        self >= Self { major, minor }
    }

    fn parse(release: &str) -> Option<Self> {
        let mut parts = release.split(['.', '-']);
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }
}

/// A compiler and the `library` directory that belongs to it.
pub(crate) struct Toolchain {
    /// The compiler's path.
    pub(crate) rustc: PathBuf,
    /// The sources of `core` and `alloc`.
    pub(crate) library: PathBuf,
    /// The compiler's version.
    pub(crate) version: Version,
    /// All that `rustc -vV` says: the compiler's identity for the cache.
    pub(crate) identity: String,
}

impl fmt::Debug for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.rustc.display(), self.library.display())
    }
}

impl Toolchain {
    /// The first compiler that has its library's sources: rustup's choice, else the distribution's.
    pub(crate) fn find() -> Result<Self, Error> {
        let mut tried = Vec::new();
        for rustc in ["rustc", "/usr/bin/rustc"] {
            match Self::probe(Path::new(rustc)) {
                Ok(toolchain) => return Ok(toolchain),
                Err(reason) => tried.push(format!("{rustc}: {reason}")),
            }
        }
        Err(Error::NoToolchain { tried: tried.join("; ") })
    }

    fn probe(rustc: &Path) -> Result<Self, String> {
        let identity = ask(rustc, &["-vV"])?;
        let release = identity
            .lines()
            .find_map(|line| line.strip_prefix("release: "))
            .ok_or("`rustc -vV` names no release")?;
        let version = Version::parse(release).ok_or_else(|| format!("odd release {release}"))?;
        // What the workspace needs too; the `core` of 1.85 is of an older edition than it is compiled with here.
        if !version.at_least(1, 89) {
            return Err(format!("{release} is older than 1.89"));
        }
        let sysroot = PathBuf::from(ask(rustc, &["--print", "sysroot"])?.trim());
        let library = sysroot.join("lib/rustlib/src/rust/library");
        let library = library
            .canonicalize()
            .map_err(|_| format!("{release} has no sources in {}", library.display()))?;
        check_same_version(&sysroot, &library, release)?;
        Ok(Self { rustc: rustc.to_owned(), library, version, identity: identity.clone() })
    }
}

/// rustup keeps both in one toolchain directory; Debian names the directory by its version.
fn check_same_version(sysroot: &Path, library: &Path, release: &str) -> Result<(), String> {
    let source_of = library.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let proven = match source_of.and_then(|name| name.strip_prefix("rustc-")) {
        Some(version) => version == release,
        None => sysroot.canonicalize().is_ok_and(|sysroot| library.starts_with(sysroot)),
    };
    if proven {
        Ok(())
    } else {
        Err(format!(
            "the compiler is {release}, but the sources are those of {}",
            library.display()
        ))
    }
}

fn ask(rustc: &Path, arguments: &[&str]) -> Result<String, String> {
    // Not from the caller's directory: a rust-toolchain file there must not choose the compiler.
    let output = Command::new(rustc)
        .args(arguments)
        .current_dir("/")
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let version = Version::parse("1.100.0-nightly").unwrap();
        assert!(version.at_least(1, 98));
        assert!(!Version::parse("1.85.1").unwrap().at_least(1, 86));
    }

    #[test]
    fn sources_of_another_version_are_refused() {
        let root = Path::new("/usr");
        let sources = Path::new("/usr/src/rustc-1.96.0/library");
        assert!(check_same_version(root, sources, "1.96.0").is_ok());
        assert!(check_same_version(root, sources, "1.95.0").is_err());
    }
}
