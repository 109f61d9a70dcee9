//! Views: a prepared tree with some files changed, for as long as somebody needs it.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::{Lock, lock_of};
use crate::error::{Error, IoContext, Result};
use crate::prepare::Prepared;
use crate::tree::{self, Transfer};

/// A hard-linked clone of a prepared tree, less what no object is compiled from, with
/// changed files put over it. Removed when
/// dropped; if the process dies, the next [`Cache::open`](crate::Cache::open) removes it.
#[derive(Debug)]
pub struct View {
    root: PathBuf,
    /// Held as long as the view lives: tells others that it is in use.
    _lock: Lock,
}

impl Prepared {
    /// Makes a view. Each change is a path in the tree and the file that has its new
    /// content, or `None` to delete it.
    pub fn view(&self, changed: &[(PathBuf, Option<PathBuf>)]) -> Result<View> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let stamp = started.map_or(0, |d| d.as_nanos());
        let name = format!("{}-{stamp:x}-{number}", std::process::id());
        let root = self.cache().root().join("view").join(name);
        let lock = Lock::on(&lock_of(&root))?;
        // From here on dropping the view cleans up, also after an error.
        let view = View { root, _lock: lock };
        tree::clone(&self.root(), &view.root, Transfer::Link, takes_part)?;
        for (path, content) in changed {
            view.replace(path, content.as_deref())?;
        }
        Ok(view)
    }
}

/// Leaves out a third of the files: the documentation and the other architectures. And `.tmp_PID`, where a make that
/// is asked something right now tries the compiler's options; it goes at any moment (scripts/Makefile.compiler).
fn takes_part(relative: &Path, is_dir: bool) -> bool {
    if relative.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".tmp_")) {
        return false;
    }
    let other_architecture = relative.parent() == Some(Path::new("arch"))
        && relative.file_name().is_some_and(|name| name != "x86");
    !(is_dir && (other_architecture || relative == Path::new("Documentation")))
}

impl View {
    /// The root of the tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Puts another file in the place of `path`, or deletes it. Never writes through
    /// the old file: it belongs to the prepared tree as well.
    pub fn replace(&self, path: &Path, content: Option<&Path>) -> Result<()> {
        let inside = path.components().all(|c| matches!(c, Component::Normal(_)));
        if !inside || path.as_os_str().is_empty() {
            return Err(Error::OutsideTree { path: path.to_owned() });
        }
        let target = self.root.join(path);
        if let Some(parent) = target.parent() {
            // A symlinked directory would lead into the prepared tree.
            fs::create_dir_all(parent).at("create", parent)?;
            if parent.canonicalize().at("resolve", parent)? != *parent {
                return Err(Error::OutsideTree { path: path.to_owned() });
            }
        }
        match fs::remove_file(&target) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &target, e));
            }
            _ => {}
        }
        if let Some(content) = content {
            fs::copy(content, &target).at("write", &target)?;
        }
        Ok(())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the cache is opened next.
        if tree::remove(&self.root).is_ok() {
            let _ = fs::remove_file(lock_of(&self.root));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_takes_no_part() {
        for (path, takes) in
            [(".tmp_123", false), ("fs/.tmp_x.o", false), ("arch/arm", false), ("arch/x86", true)]
        {
            assert_eq!(takes_part(Path::new(path), true), takes, "{path}");
        }
        assert!(takes_part(Path::new("fs/pipe.c"), false));
    }
}
