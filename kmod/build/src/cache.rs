//! The cache: directories named by the hash of everything that went into them.
//!
//! An entry is built in a directory of its own beside its place and renamed into it when complete,
//! so an interrupted or concurrent build never leaves half an entry.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Error;

/// A key that grows by labelled parts.
pub(crate) struct Key(blake3::Hasher);

impl Key {
    /// A key for one kind of entry; `version` changes when the way of building changes.
    pub(crate) fn new(kind: &str, version: u32) -> Self {
        let mut key = Self(blake3::Hasher::new());
        key.add(kind, &version.to_le_bytes());
        key
    }

    /// Adds one part. Lengths are hashed too, so that parts cannot run into each other.
    pub(crate) fn add(&mut self, label: &str, content: &[u8]) {
        for part in [label.as_bytes(), content] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// Adds the content of a file under its path below `root`.
    pub(crate) fn add_file(&mut self, root: &Path, relative: &Path) -> Result<(), Error> {
        let path = root.join(relative);
        let content = fs::read(&path).map_err(Error::io("read", &path))?;
        self.add(&relative.to_string_lossy(), &content);
        Ok(())
    }

    /// The entry's directory name.
    pub(crate) fn finish(&self) -> String {
        self.0.finalize().to_hex().chars().take(32).collect()
    }
}

/// One kind of entry under the cache root.
pub(crate) struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Opens `ROOT/kmod/KIND`, creating it.
    pub(crate) fn open(root: &Path, kind: &str) -> Result<Self, Error> {
        let directory = root.join("kmod").join(kind);
        fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
        let directory = directory.canonicalize().map_err(Error::io("resolve", &directory))?;
        Ok(Self { directory })
    }

    /// The entry for `key`, made by `build` in an empty directory if it is not there yet.
    pub(crate) fn entry(
        &self,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let place = self.directory.join(key.finish());
        if place.is_dir() {
            return Ok(place);
        }
        let workshop = self.scratch()?;
        build(workshop.path())?;
        match fs::rename(workshop.path(), &place) {
            Ok(()) => {
                // Gone from its old name: nothing left for TempDir to remove.
                let _moved = workshop.keep();
                Ok(place)
            }
            // Another process was faster; its entry has the same content.
            Err(_) if place.is_dir() => Ok(place),
            Err(source) => Err(Error::io("publish", &place)(source)),
        }
    }

    /// A directory that is removed after use, on the same file system as the entries.
    pub(crate) fn scratch(&self) -> Result<TempDir, Error> {
        tempfile::Builder::new()
            .prefix(".work-")
            .tempdir_in(&self.directory)
            .map_err(Error::io("create a directory in", &self.directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let mut left = Key::new("x", 1);
        left.add("ab", b"c");
        let mut right = Key::new("x", 1);
        right.add("a", b"bc");
        assert_ne!(left.finish(), right.finish());
    }

    #[test]
    fn an_entry_is_built_once_and_a_failed_one_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path(), "test").unwrap();
        let key = Key::new("x", 1);
        let failing = cache.entry(&key, |_| {
            Err(Error::Tool { step: "nothing".to_owned(), output: String::new() })
        });
        assert!(failing.is_err());
        assert_eq!(fs::read_dir(root.path().join("kmod/test")).unwrap().count(), 0);
        let write = |directory: &Path| {
            fs::write(directory.join("file"), "content").map_err(Error::io("write", directory))
        };
        let place = cache.entry(&key, write).unwrap();
        let again = cache.entry(&key, |_| panic!("built twice")).unwrap();
        assert_eq!(place, again);
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "content");
    }
}
