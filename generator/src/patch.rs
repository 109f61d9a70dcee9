//! V2 as a patch: applied by libgit2 to the files of V1 it names, strictly (no fuzz), as `git apply` does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use git2::{ApplyOptions, Delta, Diff, ObjectType, Repository};

use crate::changes::Changes;

/// Applies the patch file `patch` to the tree `v1`.
///
/// The new contents are written below `target`.
pub fn apply(v1: &Path, patch: &Path, target: &Path) -> Result<Changes> {
    let text = std::fs::read(patch).with_context(|| format!("cannot read patch {}", patch.display()))?;
    let diff = Diff::from_buffer(&text)
        .with_context(|| format!("{} is not a patch in unified diff format", patch.display()))?;
    if diff.deltas().len() == 0 {
        bail!("{} holds no change; give a unified diff made with `diff -u` or git", patch.display());
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
