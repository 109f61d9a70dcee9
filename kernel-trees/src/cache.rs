//! The cache: directories that appear whole or not at all.
//!
//! An entry is made in `KIND/KEY.PID.partial` under a lock on `KIND/KEY.lock` and renamed
//! to `KIND/KEY` when it is complete. A run that was killed leaves a `.partial` directory
//! whose lock is free; whoever opens the cache next removes it. The process id is in the
//! name because children of a killed run (tar, make) may go on writing for a while.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, IoContext, Result};
use crate::progress::{Progress, Quiet};
use crate::tree;

/// The kinds of entries that are made as directories.
const KINDS: [&str; 9] =
    ["download", "source", "index", "image", "headers", "debug", "prepared", "view", "built"];

/// The cache of kernels. Cheap to clone; several processes may use one at the same time.
#[derive(Clone)]
pub struct Cache {
    root: PathBuf,
    progress: Arc<dyn Progress>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Cache {
    /// Opens (and makes) the cache: `root`, else `$DYNAMOS_CACHE`, else
    /// `$XDG_CACHE_HOME/dynamos`, else `~/.cache/dynamos`. Removes what interrupted
    /// runs left.
    pub fn open(root: Option<&Path>) -> Result<Self> {
        let root = match root {
            Some(root) => root.to_owned(),
            None => default_root().ok_or_else(|| {
                let source = std::io::Error::other("neither DYNAMOS_CACHE nor HOME is set");
                Error::io("find", Path::new("the cache"), source)
            })?,
        };
        fs::create_dir_all(&root).at("create", &root)?;
        // Absolute, and without symlinks: it goes into makefiles and lock names.
        let root = root.canonicalize().at("resolve", &root)?;
        for kind in KINDS {
            let dir = root.join(kind);
            fs::create_dir_all(&dir).at("create", &dir)?;
        }
        let cache = Self { root, progress: Arc::new(Quiet) };
        cache.remove_stale()?;
        Ok(cache)
    }

    /// Reports the progress of long steps to `progress`.
    #[must_use]
    pub fn with_progress(self, progress: Arc<dyn Progress>) -> Self {
        Self { progress, ..self }
    }

    /// Where the cache is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn progress(&self) -> &dyn Progress {
        self.progress.as_ref()
    }

    /// Gives the directory `KIND/KEY`, and makes it with `make` if it is not there.
    /// `make` gets the temporary directory's path, which does not exist yet, and must
    /// create it.
    pub(crate) fn entry(
        &self,
        kind: &str,
        key: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let finished = self.root.join(kind).join(key);
        if finished.is_dir() {
            return Ok(finished);
        }
        let _lock = self.lock(kind, key)?;
        if finished.is_dir() {
            return Ok(finished); // another process was faster
        }
        let partial = self.partial(kind, key);
        tree::remove(&partial)?;
        let made =
            make(&partial).and_then(|()| fs::rename(&partial, &finished).at("rename", &partial));
        self.progress.finish();
        if let Err(error) = made {
            // The first error is the one to tell.
            let _ = tree::remove(&partial);
            return Err(error);
        }
        Ok(finished)
    }

    /// Where this process makes an entry.
    pub(crate) fn partial(&self, kind: &str, key: &str) -> PathBuf {
        self.root.join(kind).join(format!("{key}.{}.partial", std::process::id()))
    }

    /// Takes the exclusive lock on an entry; waits for other processes and threads.
    pub(crate) fn lock(&self, kind: &str, key: &str) -> Result<Lock> {
        let path = self.root.join(kind).join(format!("{key}.lock"));
        if let Some(lock) = Lock::try_on(&path)? {
            return Ok(lock);
        }
        self.progress.phase(&format!("waiting for whoever makes {kind}/{key}"));
        Lock::on(&path)
    }

    /// Removes partial entries and views whose process is gone.
    fn remove_stale(&self) -> Result<()> {
        for kind in KINDS {
            let dir = self.root.join(kind);
            for entry in fs::read_dir(&dir).at("list", &dir)? {
                let path = entry.at("list", &dir)?.path();
                let is_partial = path.extension().is_some_and(|e| e == "partial");
                let is_view = kind == "view" && path.extension().is_none();
                if is_partial || is_view {
                    remove_if_orphan(&path, is_view)?;
                }
            }
        }
        Ok(())
    }
}

/// Removes `path` if nobody holds its lock. A view's lock goes with the view.
fn remove_if_orphan(path: &Path, and_lock: bool) -> Result<()> {
    // KEY.PID.partial belongs to KEY.lock.
    let lock_path =
        if and_lock { lock_of(path) } else { lock_of(&path.with_extension("").with_extension("")) };
    if let Some(_lock) = Lock::try_on(&lock_path)? {
        // Somebody may still be writing into it; then it goes the next time.
        if tree::remove(path).is_ok() && and_lock {
            let _ = fs::remove_file(&lock_path);
        }
    }
    Ok(())
}

/// An exclusive lock on a file, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Waits for it.
    pub(crate) fn on(path: &Path) -> Result<Self> {
        let file = open_lock(path)?;
        file.lock().at("lock", path)?;
        Ok(Self(file))
    }

    /// `None` if somebody else holds it.
    fn try_on(path: &Path) -> Result<Option<Self>> {
        let file = open_lock(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread has just forked shares the open file until it calls
        // exec, and would hold the lock on (flock(2)).
        let _ = self.0.unlock();
    }
}

/// The lock file beside a finished directory (its name may contain dots).
pub(crate) fn lock_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn open_lock(path: &Path) -> Result<File> {
    File::options().create(true).truncate(false).write(true).open(path).at("create", path)
}

fn default_root() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("DYNAMOS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("dynamos")))
        .or_else(|| set("HOME").map(|d| d.join(".cache/dynamos")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| !n.ends_with(".lock"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_entry_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path())).unwrap();
        let make = |partial: &Path| {
            fs::create_dir(partial).unwrap();
            fs::write(partial.join("f"), "1").at("write", partial)
        };
        let path = cache.entry("source", "6.1.192-1", make).unwrap();
        assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "1");
        let again = cache.entry("source", "6.1.192-1", |_| panic!("made twice")).unwrap();
        assert_eq!(path, again);
    }

    #[test]
    fn a_failure_leaves_nothing_and_a_retry_works() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path())).unwrap();
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = cache
            .entry("source", "k", |partial| {
                fs::create_dir_all(partial.join("deep/er")).unwrap();
                fs::write(partial.join("deep/er/file"), "half").unwrap();
                Err(Error::io("write", partial, full))
            })
            .unwrap_err();
        assert!(matches!(&error, Error::DiskFull { .. }) && error.to_string().contains("no space"));
        assert!(names(&dir.path().join("source")).is_empty());
        cache
            .entry("source", "k", |partial| fs::create_dir(partial).at("create", partial))
            .unwrap();
        assert_eq!(names(&dir.path().join("source")), ["k"]);
    }

    #[test]
    fn what_a_killed_run_left_is_removed_unless_its_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path())).unwrap();
        for path in
            ["source/6.1.1-1.77.partial/x", "prepared/b.77.partial/x", "view/dead/x", "view/live/x"]
        {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let held = cache.lock("prepared", "b").unwrap();
        let view = Lock::on(&lock_of(&dir.path().join("view/live"))).unwrap();
        Cache::open(Some(dir.path())).unwrap();
        assert!(names(&dir.path().join("source")).is_empty());
        assert_eq!(names(&dir.path().join("prepared")), ["b.77.partial"]);
        assert_eq!(names(&dir.path().join("view")), ["live"]);
        drop((held, view));
        Cache::open(Some(dir.path())).unwrap();
        assert!(names(&dir.path().join("prepared")).is_empty());
        assert!(names(&dir.path().join("view")).is_empty());
    }

    #[test]
    fn parallel_makers_do_not_collide() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let cache = Cache::open(Some(dir.path())).unwrap();
                    let path = cache.entry("image", "k", |partial| {
                        made.fetch_add(1, Ordering::SeqCst);
                        fs::create_dir(partial).at("create", partial)
                    });
                    assert!(path.unwrap().is_dir());
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }
}
