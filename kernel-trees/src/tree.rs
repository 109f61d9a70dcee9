//! Whole directory trees: hashing, copying, hard-linking, removing; all in parallel,
//! for a kernel tree has 85,000 files.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, IoContext, Result};

/// Files every kernel tree that can be prepared has.
const KERNEL_TREE_FILES: [&str; 4] =
    ["Makefile", "Kconfig", "scripts/Kbuild.include", "arch/x86/Kconfig"];

/// Refuses a directory that is not a kernel source tree.
pub fn check_kernel_tree(path: &Path) -> Result<()> {
    for file in KERNEL_TREE_FILES {
        if !path.join(file).is_file() {
            return Err(Error::NotAKernelTree { path: path.to_owned(), missing: file });
        }
    }
    Ok(())
}

/// How a file gets into a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// A second name for the same file: instant, and only for trees this crate owns.
    Link,
    /// A copy with the same time stamp.
    Copy,
}

/// Says whether a path (relative to the tree) belongs to the tree.
pub(crate) type Filter = fn(relative: &Path, is_dir: bool) -> bool;

/// Everything belongs.
pub(crate) fn everything(_: &Path, _: bool) -> bool {
    true
}

/// What belongs to the *source*: not version control, not what a build left behind.
pub(crate) fn source_only(relative: &Path, is_dir: bool) -> bool {
    let name = relative.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    if is_dir {
        return name != ".git"
            && relative != Path::new("include/config")
            && relative != Path::new("include/generated")
            && !relative.ends_with("include/generated") // arch/*/include/generated
            && !name.starts_with(".tmp_");
    }
    if name == ".config" || name == ".config.old" || name == "Module.symvers" || name == ".git" {
        return false;
    }
    let hidden = name.starts_with('.');
    let built =
        [".o", ".a", ".ko", ".mod", ".mod.c", ".order", ".symvers", ".lto", ".dwo", ".rmeta"];
    let hidden_built = [".cmd", ".d", ".o", ".S"];
    !(built.iter().any(|end| name.ends_with(end))
        || hidden && hidden_built.iter().any(|end| name.ends_with(end))
        || name.starts_with(".tmp_")
        || relative == Path::new("vmlinux"))
}

/// Clones `from` to the new directory `to`. Directories are real, symlinks stay
/// symlinks, files are linked or copied.
pub(crate) fn clone(from: &Path, to: &Path, transfer: Transfer, filter: Filter) -> Result<()> {
    clone_dir(from, to, Path::new(""), transfer, filter)
}

fn clone_dir(from: &Path, to: &Path, rel: &Path, transfer: Transfer, filter: Filter) -> Result<()> {
    fs::create_dir(to).at("create", to)?;
    let mut dirs = Vec::new();
    for entry in fs::read_dir(from).at("list", from)? {
        let entry = entry.at("list", from)?;
        let kind = entry.file_type().at("examine", &entry.path())?;
        let rel = rel.join(entry.file_name());
        if !filter(&rel, kind.is_dir()) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if kind.is_dir() {
            dirs.push((source, target, rel));
        } else if kind.is_symlink() {
            let points_to = fs::read_link(&source).at("read", &source)?;
            symlink(points_to, &target).at("create", &target)?;
        } else if transfer == Transfer::Link {
            fs::hard_link(&source, &target).at("link", &target)?;
        } else if kind.is_file() {
            copy_file(&source, &target)?;
        }
    }
    dirs.par_iter()
        .try_for_each(|(source, target, rel)| clone_dir(source, target, rel, transfer, filter))
}

/// `fs::copy` and the time stamp: Kbuild must not find shipped files out of date.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).at("write", to)?;
    let modified = fs::metadata(from).and_then(|m| m.modified()).at("examine", from)?;
    let file = fs::File::options().write(true).open(to).or_else(|e| {
        // A read-only copy: its time stamp can be set through a read handle as well.
        if e.kind() == io::ErrorKind::PermissionDenied { fs::File::open(to) } else { Err(e) }
    });
    file.and_then(|f| f.set_modified(modified)).at("write", to)
}

/// Removes a tree; a tree that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return fs::remove_file(path).at("remove", path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("examine", path, e)),
    }
    let mut dirs = Vec::new();
    for entry in fs::read_dir(path).at("list", path)? {
        let entry = entry.at("list", path)?;
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            dirs.push(entry.path());
        } else {
            fs::remove_file(entry.path()).at("remove", &entry.path())?;
        }
    }
    dirs.par_iter().try_for_each(|dir| remove(dir))?;
    fs::remove_dir(path).at("remove", path)
}

/// All files (and symlinks) of a tree that the filter lets through, relative and sorted.
pub(crate) fn files(root: &Path, filter: Filter) -> Result<Vec<PathBuf>> {
    let mut found = list_dir(root, Path::new(""), filter)?;
    found.sort();
    Ok(found)
}

fn list_dir(root: &Path, rel: &Path, filter: Filter) -> Result<Vec<PathBuf>> {
    let dir = root.join(rel);
    let (mut files, mut dirs) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(&dir).at("list", &dir)? {
        let entry = entry.at("list", &dir)?;
        let is_dir = entry.file_type().at("examine", &entry.path())?.is_dir();
        let rel = rel.join(entry.file_name());
        if filter(&rel, is_dir) {
            if is_dir { dirs.push(rel) } else { files.push(rel) }
        }
    }
    let inner: Vec<_> =
        dirs.par_iter().map(|d| list_dir(root, d, filter)).collect::<Result<_>>()?;
    files.extend(inner.into_iter().flatten());
    Ok(files)
}

/// The hash of the names, modes (executable or not) and contents of a source tree.
pub fn hash_source(root: &Path) -> Result<String> {
    hash(root, source_only)
}

pub(crate) fn hash(root: &Path, filter: Filter) -> Result<String> {
    let files = files(root, filter)?;
    let hashes: Vec<_> = files
        .par_iter()
        .with_min_len(64)
        .map(|rel| hash_file(&root.join(rel)))
        .collect::<Result<_>>()?;
    let mut all = blake3::Hasher::new();
    for (rel, (kind, _, hash)) in files.iter().zip(&hashes) {
        all.update(rel.as_os_str().as_encoded_bytes());
        all.update(&[0, *kind]);
        all.update(hash.as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

/// What kind of file it is (`l`, `x`, `f`), and its content's size and hash; a symlink's
/// content is where it points to.
pub(crate) fn hash_file(path: &Path) -> Result<(u8, u64, blake3::Hash)> {
    use std::os::unix::fs::PermissionsExt;
    let meta = fs::symlink_metadata(path).at("examine", path)?;
    if meta.is_symlink() {
        let target = fs::read_link(path).at("read", path)?;
        let target = target.as_os_str().as_encoded_bytes();
        return Ok((b'l', target.len() as u64, blake3::hash(target)));
    }
    let kind = if meta.permissions().mode() & 0o100 == 0 { b'f' } else { b'x' };
    let content = fs::read(path).at("read", path)?;
    Ok((kind, content.len() as u64, blake3::hash(&content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small_tree(dir: &Path) {
        for (file, text) in [
            ("a/b/one.c", "1"),
            ("a/two.h", "2"),
            ("a/two.o", "junk"),
            (".config", "CONFIG_X=y"),
            ("include/config/auto.conf", "x"),
            ("include/generated/y.h", "x"),
            ("arch/x86/include/generated/z.h", "x"),
            (".git/HEAD", "x"),
            ("a/.two.o.cmd", "x"),
            ("a/genheaders.mod.c", "x"),
        ] {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        symlink("../a/two.h", dir.join("a/link.h")).unwrap();
    }

    #[test]
    fn what_a_build_left_is_not_source() {
        let dir = tempfile::tempdir().unwrap();
        small_tree(dir.path());
        let names: Vec<_> = files(dir.path(), source_only).unwrap();
        let names: Vec<_> = names.iter().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(names, ["a/b/one.c", "a/link.h", "a/two.h"]);
        let before = hash_source(dir.path()).unwrap();
        fs::write(dir.path().join("a/two.o"), "other junk").unwrap();
        assert_eq!(before, hash_source(dir.path()).unwrap());
        fs::write(dir.path().join("a/two.h"), "22").unwrap();
        assert_ne!(before, hash_source(dir.path()).unwrap());
    }

    #[test]
    fn clones_are_equal_and_removed_whole() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let (from, copy, link) = (dir.path().join("t"), dir.path().join("c"), dir.path().join("l"));
        fs::create_dir(&from).unwrap();
        small_tree(&from);
        clone(&from, &copy, Transfer::Copy, everything).unwrap();
        clone(&from, &link, Transfer::Link, everything).unwrap();
        let hashes: Vec<_> = [&from, &copy, &link].map(|t| hash(t, everything).unwrap()).into();
        assert!(hashes.windows(2).all(|w| w[0] == w[1]));
        let meta = |tree: &Path| fs::metadata(tree.join("a/two.h")).unwrap();
        assert_eq!(meta(&from).ino(), meta(&link).ino());
        assert_ne!(meta(&from).ino(), meta(&copy).ino());
        assert_eq!(meta(&from).modified().unwrap(), meta(&copy).modified().unwrap());
        remove(&link).unwrap();
        remove(&link).unwrap();
        assert!(!link.exists() && from.join("a/two.h").exists());
    }

    #[test]
    fn a_directory_that_is_no_kernel_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = check_kernel_tree(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not a kernel source tree") && error.contains("Makefile"));
    }
}
