//! V2 as a patch: applied by libgit2 to the files of V1 it names, strictly (no fuzz), as `git apply` does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use git2::{ApplyOptions, Delta, Diff, ObjectType, Repository};

use crate::changes::Changes;

/// Applies the patch file `patch` to the tree `v1`.
///
/// The new contents are written below `target`.
pub fn apply(v1: &Path, patch: &Path, target: &Path) -> Result<Changes> {
    let text =
        std::fs::read(patch).with_context(|| format!("cannot read patch {}", patch.display()))?;
    let text = with_git_headers(&text);
    let diff = Diff::from_buffer(&text)
        .with_context(|| format!("{} is not a patch in unified diff format", patch.display()))?;
    if diff.deltas().len() == 0 {
        bail!(
            "{} holds no change; give a unified diff made with `diff -u` or git",
            patch.display()
        );
    }
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let repo = Repository::init_bare(scratch.path())?;
    let tree = before(&repo, v1, &diff, patch)?;
    let mut index = repo
        .apply_to_tree(&repo.find_tree(tree)?, &diff, Some(&mut ApplyOptions::new()))
        .map_err(|error| {
            anyhow!("{} does not apply to {}: {}", patch.display(), v1.display(), error.message())
        })?;
    let after = index.write_tree_to(&repo)?;
    let after = repo.find_tree(after)?;
    let mut changed = Changes::new();
    for delta in diff.deltas() {
        for path in [delta.old_file().path(), delta.new_file().path()].into_iter().flatten() {
            let content = match after.get_path(path) {
                Ok(entry) => Some(put(target, path, repo.find_blob(entry.id())?.content())?),
                Err(_) => None,
            };
            changed.insert(path.to_path_buf(), content);
        }
    }
    Ok(changed)
}

/// libgit2 reads only what starts with `diff --git`; plain `diff -u` has just the two file lines. A header is put
/// before those that lack one, and their time stamps are dropped.
fn with_git_headers(text: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let mut out = Vec::with_capacity(text.len());
    let mut in_git_header = false;
    let mut lines = lines.into_iter().peekable();
    while let Some(line) = lines.next() {
        in_git_header |= line.starts_with(b"diff --git ");
        let next = lines.peek().copied().unwrap_or_default();
        let (Some(old), Some(new)) = (file_name(line, b"--- "), file_name(next, b"+++ ")) else {
            out.extend_from_slice(line);
            continue;
        };
        lines.next();
        if !in_git_header {
            // The name without its first directory, which is `a/` or the like (patch -p1).
            let named = if new == b"/dev/null" { old } else { new };
            let path = named
                .iter()
                .position(|byte| *byte == b'/')
                .map_or(named, |at| named.split_at(at + 1).1);
            let mode: &[u8] = match (old, new) {
                (b"/dev/null", _) => b"new file mode 100644\n",
                (_, b"/dev/null") => b"deleted file mode 100644\n",
                _ => b"",
            };
            for part in [b"diff --git a/", path, b" b/", path, b"\n", mode] {
                out.extend_from_slice(part);
            }
            let side = |out: &mut Vec<u8>, mark: &[u8], prefix: &[u8], name: &[u8]| {
                out.extend_from_slice(mark);
                if name == b"/dev/null" {
                    out.extend_from_slice(name);
                } else {
                    out.extend_from_slice(prefix);
                    out.extend_from_slice(path);
                }
                out.push(b'\n');
            };
            side(&mut out, b"--- ", b"a/", old);
            side(&mut out, b"+++ ", b"b/", new);
        } else {
            out.extend_from_slice(line);
            out.extend_from_slice(next);
        }
        in_git_header = false;
    }
    out
}

/// The file name of a `--- ` or `+++ ` line, without a time stamp.
fn file_name<'a>(line: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(mark)?;
    let end = rest.iter().position(|byte| matches!(byte, b'\t' | b'\n' | b'\r'));
    Some(rest.split_at(end.unwrap_or(rest.len())).0)
}

/// Writes the tree of the files that the patch starts from.
fn before(repo: &Repository, v1: &Path, diff: &Diff<'_>, patch: &Path) -> Result<git2::Oid> {
    let mut index = git2::Index::new()?;
    repo.set_index(&mut index)?;
    for delta in diff.deltas() {
        let Some(path) = delta.old_file().path() else { continue };
        if delta.status() == Delta::Added {
            continue;
        }
        if path.is_absolute() || path.components().any(|part| part.as_os_str() == "..") {
            bail!("{} names a file outside the tree: {}", patch.display(), path.display());
        }
        let file = v1.join(path);
        let content = std::fs::read(&file).with_context(|| {
            format!("{} changes {}, which V1 does not have", patch.display(), path.display())
        })?;
        let id = repo.odb()?.write(ObjectType::Blob, &content)?;
        index.add(&entry(path, id, content.len()))?;
    }
    Ok(index.write_tree_to(repo)?)
}

fn put(target: &Path, path: &Path, content: &[u8]) -> Result<PathBuf> {
    let file = target.join(path);
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    std::fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn entry(path: &Path, id: git2::Oid, len: usize) -> git2::IndexEntry {
    let zero = git2::IndexTime::new(0, 0);
    git2::IndexEntry {
        ctime: zero,
        mtime: zero,
        dev: 0,
        ino: 0,
        mode: 0o100644,
        uid: 0,
        gid: 0,
        file_size: len as u32,
        id,
        flags: 0,
        flags_extended: 0,
        path: path.as_os_str().as_encoded_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const OLD: &str = "one\ntwo\nthree\n";

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("fs")).unwrap();
        fs::write(tree.path().join("fs/a.c"), OLD).unwrap();
        tree
    }

    fn applied(patch: &str) -> Result<Vec<(String, Option<String>)>> {
        let (tree, target) = (tree(), tempfile::tempdir().unwrap());
        let file = target.path().join("x.patch");
        fs::write(&file, patch).unwrap();
        let changes = apply(tree.path(), &file, target.path())?;
        let text = |path: PathBuf| fs::read_to_string(path).unwrap();
        Ok(changes.into_iter().map(|(p, c)| (p.display().to_string(), c.map(text))).collect())
    }

    #[test]
    fn plain_and_git_patches() {
        let hunk = "@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";
        let plain = format!("--- x/fs/a.c\t2026-01-01\n+++ y/fs/a.c\t2026-01-02\n{hunk}");
        let git = format!(
            "From: me\n\ndiff --git a/fs/a.c b/fs/a.c\nindex 0123456..789abcd 100644\n--- a/fs/a.c\n+++ b/fs/a.c\n{hunk}"
        );
        for patch in [plain, git] {
            let changes = applied(&patch).unwrap();
            assert_eq!(changes, [("fs/a.c".into(), Some("one\n2\nthree\n".into()))]);
        }
    }

    #[test]
    fn new_and_deleted_files() {
        let new = "--- /dev/null\n+++ b/fs/b.c\n@@ -0,0 +1 @@\n+new\n";
        assert_eq!(applied(new).unwrap(), [("fs/b.c".into(), Some("new\n".into()))]);
        let gone = "--- a/fs/a.c\n+++ /dev/null\n@@ -1,3 +0,0 @@\n-one\n-two\n-three\n";
        assert_eq!(applied(gone).unwrap(), [("fs/a.c".into(), None)]);
    }

    #[test]
    fn what_does_not_apply_is_an_error() {
        for bad in [
            "no patch at all\n",
            "--- a/fs/a.c\n+++ b/fs/a.c\n@@ -1,3 +1,3 @@\n one\n-2\n+two\n three\n",
            "--- a/fs/none.c\n+++ b/fs/none.c\n@@ -1 +1 @@\n-a\n+b\n",
            "--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n",
        ] {
            assert!(applied(bad).is_err(), "{bad}");
        }
    }
}
