//! Which files differ between the two sides, and what each may do to the running kernel.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kernel_trees::SourceIndex;
use rayon::prelude::*;

/// Files that differ, by path in the tree: the file with V2's content, or `None` if V2 does not have it.
pub type Changes = BTreeMap<PathBuf, Option<PathBuf>>;

/// What a changed file can do to a running x86-64 kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Compiled on its own, or included by what is.
    Source,
    /// Included by sources.
    Header,
    /// Changes the configuration, perhaps.
    Kconfig,
    /// Changes how or what is built.
    BuildRule,
    /// Code is generated from it at build time.
    Generated,
    /// Part of the kernel if that is built with Rust.
    Rust,
    /// Nothing; why.
    Irrelevant(&'static str),
}

/// Classifies the file at `path` (relative to the tree).
pub fn role(path: &Path) -> Role {
    use Role::*;
    let parts: Vec<&str> = path.iter().filter_map(OsStr::to_str).collect();
    let name = parts.last().copied().unwrap_or_default();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match parts.as_slice() {
        ["Documentation" | "LICENSES" | "samples" | "debian", ..] => {
            return Irrelevant("no part of the running kernel");
        }
        ["tools", ..] => return Irrelevant("user-space tools"),
        ["rust", ..] => return Rust,
        ["arch", arch, ..] if !matches!(*arch, "x86" | "Kconfig") => {
            return Irrelevant("another architecture");
        }
        ["arch", "x86", "um" | "boot", ..] => {
            return Irrelevant("runs before the kernel, or not in it");
        }
        ["arch", _, "configs", ..] => return Irrelevant("a default configuration"),
        ["arch", "x86", "tools", ..] | ["scripts", ..] => {
            return if name.starts_with("Makefile") { BuildRule } else { Generated };
        }
        [_] if !matches!(name, "Makefile" | "Kbuild" | "Kconfig") => {
            return Irrelevant("no part of the running kernel");
        }
        _ => {}
    }
    match (name, extension) {
        (_, "c" | "S") if name.ends_with(".lds.S") => Generated,
        ("bounds.c" | "asm-offsets.c" | "asm-offsets_64.c", _) => Generated,
        (_, "c" | "S") => Source,
        (_, "h" | "inc" | "c_shipped" | "h_shipped") => Header,
        _ if name.starts_with("Kconfig") => Kconfig,
        _ if name.starts_with("Makefile") || name.starts_with("Kbuild") => BuildRule,
        (_, "rs") => Rust,
        // Elsewhere code may be made of it, as the decoder is of arch/x86/lib/x86-opcode-map.txt.
        (_, "txt") if parts.first() == Some(&"drivers") => {
            Irrelevant("no part of the running kernel")
        }
        (_, "rst" | "yaml" | "md" | "dts" | "dtsi") => Irrelevant("no part of the running kernel"),
        (".gitignore" | ".kunitconfig" | "MAINTAINERS", _) => {
            Irrelevant("no part of the running kernel")
        }
        _ => Generated,
    }
}

/// Files of V2 that differ from V1, by path in the tree; from the trees themselves.
pub fn between(v1: &Path, v2: &Path) -> Result<Changes> {
    let (old, new) = rayon::join(|| walk(v1), || walk(v2));
    let (old, new) = (old?, new?);
    let mut changed: Changes = old
        .keys()
        .filter(|path| !new.contains_key(*path))
        .map(|path| (path.clone(), None))
        .collect();
    let differing: Vec<PathBuf> = new
        .par_iter()
        .map(|(path, content)| {
            let differs = match (old.get(path), content) {
                (Some(Content::Link(was)), Content::Link(is)) => was != is,
                (Some(Content::File(was)), Content::File(is)) if was.size == is.size => {
                    // Hard links to one file have no second content.
                    let one = (was.device, was.inode) == (is.device, is.inode);
                    !one && !same_bytes(&v1.join(path), &v2.join(path))?
                }
                _ => true,
            };
            Ok(differs.then(|| path.clone()))
        })
        .filter_map(Result::transpose)
        .collect::<Result<_>>()?;
    changed.extend(differing.into_iter().map(|path| {
        let content = Some(v2.join(&path));
        (path, content)
    }));
    Ok(changed)
}

/// The same, from the indexes of both trees; V2's is at `root`.
pub fn between_indexed(v1: &SourceIndex, v2: &SourceIndex, root: &Path) -> Changes {
    v1.differences(v2)
        .into_iter()
        .filter_map(|(old, new)| Some((old.or(new)?.path, new.is_some())))
        .filter(|(path, _)| !path.ancestors().any(is_product))
        .map(|(path, stays)| (path.to_path_buf(), stays.then(|| root.join(path))))
        .collect()
}

/// The change as a unified diff of the files that have a part in the kernel, as `patch -p1` takes it.
pub fn diff(v1_root: &Path, changes: &Changes) -> Result<String> {
    let mut text = String::new();
    for (path, content) in changes {
        if matches!(role(path), Role::Irrelevant(_)) {
            continue;
        }
        let read = |file: &Path| match fs::read(file) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let old = read(&v1_root.join(path))?;
        let new = content.as_deref().map_or_else(|| Ok(String::new()), read)?;
        let (before, after) = (format!("a/{}", path.display()), format!("b/{}", path.display()));
        let lines = similar::TextDiff::from_lines(&old, &new);
        text += &lines.unified_diff().header(&before, &after).to_string();
    }
    Ok(text)
}

/// What tells whether two files may differ, without reading them.
#[derive(Debug)]
enum Content {
    File(Identity),
    /// A symlink; where it points to.
    Link(PathBuf),
}

#[derive(Debug)]
struct Identity {
    size: u64,
    device: u64,
    inode: u64,
}

/// The files of a tree that can matter, by path in the tree.
fn walk(root: &Path) -> Result<BTreeMap<PathBuf, Content>> {
    Ok(visit(root, Path::new(""))?.into_iter().collect())
}

fn visit(root: &Path, below: &Path) -> Result<Vec<(PathBuf, Content)>> {
    let directory = root.join(below);
    let mut files = Vec::new();
    let mut directories = Vec::new();
    let entries =
        fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        let path = below.join(entry.file_name());
        if is_product(&path) {
            continue;
        }
        let unreadable = || format!("cannot read {}", entry.path().display());
        let kind = entry.file_type().with_context(unreadable)?;
        if kind.is_dir() {
            directories.push(path);
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).with_context(unreadable)?;
            files.push((path, Content::Link(target)));
        } else if kind.is_file() {
            let meta = entry.metadata().with_context(unreadable)?;
            let identity = Identity { size: meta.len(), device: meta.dev(), inode: meta.ino() };
            files.push((path, Content::File(identity)));
        }
    }
    let deeper: Vec<_> =
        directories.par_iter().map(|path| visit(root, path)).collect::<Result<_>>()?;
    files.extend(deeper.into_iter().flatten());
    Ok(files)
}

/// Whether a build leaves the file or directory, so that a built tree compares like a clean one.
/// Names that start with a dot are none of the kernel's code (the top `.gitignore` says so too).
fn is_product(path: &Path) -> bool {
    const EXTENSIONS: [&str; 12] =
        ["o", "ko", "a", "so", "dbg", "mod", "order", "symvers", "builtin", "cmd", "map", "lds"];
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    name.starts_with('.')
        || name.ends_with(".mod.c")
        || EXTENSIONS.contains(&extension)
        || matches!(
            name,
            "vmlinux" | "Module.symvers" | "modules.order" | "debian" | "Documentation"
        )
        || path.ends_with("include/generated")
        || path == Path::new("include/config")
}

fn same_bytes(a: &Path, b: &Path) -> Result<bool> {
    const CHUNK: usize = 1 << 16;
    let open = |path: &Path| {
        fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (mut a, mut b) = (open(a)?, open(b)?);
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let got = a.read(&mut left)?;
        let (Some(left), Some(right)) = (left.get(..got), right.get_mut(..got)) else {
            return Ok(false);
        };
        if got == 0 {
            return Ok(b.read(&mut [0])? == 0);
        }
        if b.read_exact(right).is_err() || left != right {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn roles() {
        let role = |path: &str| role(Path::new(path));
        assert_eq!(role("fs/ext4/mballoc.c"), Role::Source);
        assert_eq!(role("arch/x86/entry/entry_64.S"), Role::Source);
        assert_eq!(role("include/linux/fs.h"), Role::Header);
        assert_eq!(role("fs/ext4/Kconfig"), Role::Kconfig);
        assert_eq!(role("fs/ext4/Makefile"), Role::BuildRule);
        assert_eq!(role("Makefile"), Role::BuildRule);
        assert_eq!(role("arch/x86/kernel/vmlinux.lds.S"), Role::Generated);
        assert_eq!(role("arch/x86/entry/syscalls/syscall_64.tbl"), Role::Generated);
        assert_eq!(role("arch/x86/lib/x86-opcode-map.txt"), Role::Generated);
        assert_eq!(role("certs/system_keyring.c"), Role::Source);
        assert_eq!(role("certs/signing.genkey"), Role::Generated);
        assert_eq!(role("rust/kernel/sync.rs"), Role::Rust);
        assert_eq!(role("drivers/gpu/nova/gpu.rs"), Role::Rust);
        for path in [
            "Documentation/x.rst",
            "tools/perf/a.c",
            "arch/arm64/kernel/a.c",
            "MAINTAINERS",
            "drivers/gpu/drm/i915/TODO.txt",
        ] {
            assert!(matches!(role(path), Role::Irrelevant(_)), "{path}");
        }
    }

    #[test]
    fn compares_by_content() {
        let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |root: &Path, path: &str, text: &str| {
            let file = root.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        for root in [v1.path(), v2.path()] {
            write(root, "fs/same.c", "same");
            write(root, ".git/x", &root.display().to_string());
        }
        write(v1.path(), "fs/edited.c", "old");
        write(v2.path(), "fs/edited.c", "new");
        write(v1.path(), "fs/gone.c", "gone");
        write(v2.path(), "fs/fresh.c", "fresh");
        write(v2.path(), "fs/built.o", "built");
        write(v2.path(), "debian/rules", "x");
        write(v2.path(), "fs/Documentation/deep/x.c", "x");
        fs::write(v1.path().join("one"), "x").unwrap();
        fs::hard_link(v1.path().join("one"), v2.path().join("one")).unwrap();
        symlink("same.c", v1.path().join("fs/link.c")).unwrap();
        symlink("fresh.c", v2.path().join("fs/link.c")).unwrap();
        symlink("same.c", v1.path().join("fs/was-link.c")).unwrap();
        write(v2.path(), "fs/was-link.c", "same");
        let changed = between(v1.path(), v2.path()).unwrap();
        let paths: Vec<_> = changed.keys().map(|path| path.to_str().unwrap()).collect();
        let expected = ["fs/edited.c", "fs/fresh.c", "fs/gone.c", "fs/link.c", "fs/was-link.c"];
        assert_eq!(paths, expected);
        assert_eq!(changed[Path::new("fs/gone.c")], None);

        let index = |root: &Path| SourceIndex::of(root).unwrap();
        let indexed = between_indexed(&index(v1.path()), &index(v2.path()), v2.path());
        assert_eq!(indexed, changed);
    }
}
