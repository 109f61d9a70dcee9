//! What is known already of a comparison that takes long, so that a run that was broken off goes on where it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use crate::plan::Plan;
use crate::report::Reporter;

/// Where the findings of one comparison are kept.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// The journal of a comparison: of what this tool finds, in the way called `how`, between V1, prepared at `v1`, and
    /// the change `diff`.
    pub fn open(cache: &Path, v1: &Path, diff: &str, how: &str) -> Result<Journal> {
        let tool = std::env::current_exe().context("cannot find this program's own file")?;
        let mut key = blake3::Hasher::new();
        fs::File::open(&tool)
            .and_then(|file| key.update_reader(file).map(drop))
            .with_context(|| format!("cannot read {}", tool.display()))?;
        key.update(v1.as_os_str().as_encoded_bytes());
        key.update(diff.as_bytes());
        key.update(how.as_bytes());
        let name = key.finalize().to_hex();
        let directory = cache.join("report").join(name.get(..32).unwrap_or(&name));
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Journal { directory })
    }

    fn path(&self, object: &str) -> PathBuf {
        self.directory.join(object.replace('/', "%") + ".json")
    }

    /// What there is to say of each item, by name: `jobs` at a time, and what is known already is not found out again.
    pub fn each<'i, T: Sync>(
        &self,
        jobs: Option<usize>,
        reporter: &Reporter,
        items: &'i [T],
        name: impl Fn(&'i T) -> &'i str + Sync,
        find: impl Fn(&'i T) -> Result<Plan> + Sync,
    ) -> Result<BTreeMap<&'i str, Plan>> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs.unwrap_or(cpus)).build()?;
        let done = AtomicUsize::new(0);
        pool.install(|| {
            let found = items.par_iter().with_max_len(1).map(|item| {
                ensure!(!crate::interrupted(), "interrupted; the next run goes on from here");
                let part = self.known_or(name(item), || find(item))?;
                reporter.progress(done.fetch_add(1, Ordering::Relaxed) + 1, items.len());
                Ok((name(item), part))
            });
            found.collect()
        })
    }

    /// What is known of an object or a part of the kernel; else it is found out, and noted.
    fn known_or(&self, name: &str, find: impl FnOnce() -> Result<Plan>) -> Result<Plan> {
        match self.recall(name) {
            Some(part) => Ok(part),
            None => {
                let part = find()?;
                self.note(name, &part)?;
                Ok(part)
            }
        }
    }

    /// A file that cannot be read is as good as none.
    fn recall(&self, name: &str) -> Option<Plan> {
        serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()
    }

    fn note(&self, name: &str, part: &Plan) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)
            .with_context(|| format!("cannot write into {}", self.directory.display()))?;
        serde_json::to_writer(&mut file, part).context("cannot encode what was found")?;
        file.persist(self.path(name)).context("cannot write into the journal")?;
        Ok(())
    }
}
