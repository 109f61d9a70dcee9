//! Installs what is missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// A Debian package, and what shows that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    name: &'static str,
    sign: Sign,
}

/// Looked for instead of asking dpkg, so that what came another way counts as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// A program in the path.
    Program(&'static str),
    /// A file or directory.
    File(&'static str),
    /// A file or directory, and that Debian's Rust compiler is one that can build this workspace.
    Rust(&'static str),
}

const fn program(name: &'static str, program: &'static str) -> Package {
    Package { name, sign: Sign::Program(program) }
}

const fn file(name: &'static str, file: &'static str) -> Package {
    Package { name, sign: Sign::File(file) }
}

/// To fetch and prepare kernels, and to build their objects and modules.
pub const KERNEL_BUILD: &[Package] = &[
    // The compiler of Debian 12's kernels: another gives other code than the image has.
    program("gcc-12", "gcc-12"),
    program("gcc", "gcc"),
    program("binutils", "objcopy"),
    program("make", "make"),
    program("bc", "bc"),
    program("flex", "flex"),
    program("bison", "bison"),
    program("kmod", "depmod"),
    program("pkg-config", "pkg-config"),
    program("perl", "perl"),
    program("patch", "patch"),
    program("xz-utils", "xz"),
    program("zstd", "zstd"),
    file("libc6-dev", "/usr/include/stdio.h"),
    file("libelf-dev", "/usr/include/libelf.h"),
    file("libssl-dev", "/usr/include/openssl/ssl.h"),
    // To name the users of types whose layout changed; without it they are reported as unknown.
    file("libclang1-14", "/usr/lib/x86_64-linux-gnu/libclang-14.so.1"),
];

/// To boot them.
pub const VM: &[Package] = &[
    program("qemu-system-x86", "qemu-system-x86_64"),
    program("e2fsprogs", "mkfs.ext4"),
    program("util-linux", "setpriv"),
    // Not the program: the package `busybox` has one of that name that is not static.
    file("busybox-static", "/usr/share/doc/busybox-static"),
];

/// Only tests use these.
pub const TESTS: &[Package] =
    &[program("cpio", "cpio"), program("git", "git"), program("pahole", "pahole")];

/// A compiler that has the sources of its own library, for where rustup's has not.
const RUST_WITH_SOURCES: &[Package] = &[
    Package { name: "rustc-web", sign: Sign::Rust("/usr/share/doc/rustc-web") },
    Package { name: "rust-web-src", sign: Sign::Rust("/usr/share/doc/rust-web-src") },
];

/// Debian's compiler comes in several versions, and an old one is replaced by installing it again.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// What dynamos.ko needs beyond [`KERNEL_BUILD`].
pub fn rust_sources() -> &'static [Package] {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let has_sources = sysroot.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir()
    });
    if has_sources { &[] } else { RUST_WITH_SOURCES }
}

/// Everything.
pub fn all() -> Vec<Package> {
    [KERNEL_BUILD, VM, TESTS, rust_sources()].concat()
}

/// Installs those of `packages` that are missing, and says so.
pub fn ensure(packages: &[Package]) -> anyhow::Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !in_path("apt-get") {
        bail!("missing, and there is no apt-get to install it with: {list}");
    }
    eprintln!("missing Debian packages: {list}");
    apt_get(&["update", "--quiet=2"])?;
    let mut install = vec!["install", "--quiet=2", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    apt_get(&install)?;

    let left: Vec<_> = packages.iter().filter(|p| !p.is_there()).map(|p| p.name).collect();
    ensure!(
        left.is_empty(),
        "apt-get installed {list}, but what they should bring is still not there: {}",
        left.join(" ")
    );
    Ok(())
}

fn missing(packages: &[Package]) -> Vec<&'static str> {
    let mut names: Vec<_> = packages.iter().filter(|p| !p.is_there()).map(|p| p.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl Package {
    fn is_there(&self) -> bool {
        match self.sign {
            Sign::Program(name) => in_path(name),
            Sign::File(path) => Path::new(path).exists(),
            Sign::Rust(path) => Path::new(path).exists() && is_recent(DEBIAN_RUSTC),
        }
    }
}

/// Whether a Rust compiler is at least of the version that the workspace says it needs.
fn is_recent(rustc: &str) -> bool {
    let said = Command::new(rustc).arg("--version").output();
    said.is_ok_and(|said| recent(&String::from_utf8_lossy(&said.stdout)))
}

/// Whether this is what a compiler says that is recent enough: `rustc 1.96.0 (ac68faa20 2026-05-25)`.
fn recent(said: &str) -> bool {
    let numbers = |version: &str| {
        let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
        Some((parts.next()?, parts.next()?))
    };
    let version = said.split_whitespace().nth(1).and_then(numbers);
    version.is_some() && version >= numbers(env!("CARGO_PKG_RUST_VERSION"))
}

/// Whether a program is in the path, or where root's programs are, which not everybody's has.
fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// Runs apt-get as root.
fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let mut line = vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
    if !rustix::process::geteuid().is_root() {
        ensure!(
            in_path("sudo"),
            "not root, and there is no sudo; run `apt-get {}` as root",
            arguments.join(" ")
        );
        line.insert(0, "sudo");
    }
    line.extend(arguments);
    eprintln!("$ {}", line.join(" "));
    let (program, rest) = line.split_first().context("an empty command")?;
    let status = Command::new(program)
        .args(rest)
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "apt-get failed ({status}); its own message is above");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_named_and_once() {
        let packages = [
            program("shell", "sh"),
            program("z", "no-such-program-here"),
            file("a", "/no/such/file"),
            file("a", "/no/such/other"),
            file("root", "/"),
        ];
        assert_eq!(missing(&packages), ["a", "z"]);
    }

    #[test]
    fn an_old_compiler_counts_as_missing() {
        assert!(recent("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"));
        assert!(recent("rustc 1.100.0-nightly"));
        assert!(!recent("rustc 1.85.0 (4d91de4e4 2025-02-17)"));
        assert!(!recent(""));
        assert!(!is_recent("/no/such/compiler"));
    }
}
