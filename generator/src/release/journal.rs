//! What is known already of a comparison that takes long, so that a run that was broken off goes on where it was.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use crate::plan::Plan;
use crate::report::Reporter;
use crate::uses::Reader;

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
        let mut key = Digest::default();
        fs::File::open(&tool)
            .and_then(|file| key.0.update_reader(file).map(drop))
            .with_context(|| format!("cannot read {}", tool.display()))?;
        // What libclang says of sources, or that there is none.
        (v1, diff, how, Reader::version()).hash(&mut key);
        let directory = cache.join("report").join(key.name());
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Journal { directory })
    }

    /// What there is to say of each item, by name: `jobs` at a time, and what is known already is not found out again.
    /// `of`: all that `find` goes by, beside what this journal is about; a part is known only for that.
    pub fn each<'i, T: Sync, O: Hash>(
        &self,
        jobs: Option<usize>,
        reporter: &Reporter,
        items: &'i [T],
        name: impl Fn(&'i T) -> &'i str + Sync,
        of: impl Fn(&'i T) -> Result<O> + Sync,
        find: impl Fn(&'i T) -> Result<Plan> + Sync,
    ) -> Result<BTreeMap<&'i str, Plan>> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs.unwrap_or(cpus)).build()?;
        let done = AtomicUsize::new(0);
        pool.install(|| {
            let found = items.par_iter().with_max_len(1).map(|item| {
                ensure!(!crate::interrupted(), "interrupted; the next run goes on from here");
                let entry = self.entry(name(item), &of(item)?);
                let part = match recall(&entry) {
                    Some(part) => part,
                    None => {
                        let part = find(item)?;
                        self.note(&entry, &part)?;
                        part
                    }
                };
                reporter.progress(done.fetch_add(1, Ordering::Relaxed) + 1, items.len());
                Ok((name(item), part))
            });
            found.collect()
        })
    }

    /// The file for an item that is called so, and all that goes into what is said of it.
    fn entry(&self, name: &str, of: &impl Hash) -> PathBuf {
        let mut key = Digest::default();
        (name, of).hash(&mut key);
        self.directory.join(key.name())
    }

    fn note(&self, entry: &Path, part: &Plan) -> Result<()> {
        let text = serde_json::to_vec(part).context("cannot encode what was found")?;
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)
            .with_context(|| format!("cannot write into {}", self.directory.display()))?;
        file.write_all(blake3::hash(&text).as_bytes())
            .and_then(|()| file.write_all(&text))
            .with_context(|| format!("cannot write into {}", self.directory.display()))?;
        file.persist(entry).context("cannot write into the journal")?;
        Ok(())
    }
}

/// What a file says, if it says what was written into it: a file that is damaged is as good as none.
fn recall(entry: &Path) -> Option<Plan> {
    let bytes = fs::read(entry).ok()?;
    let (sum, text) = bytes.split_first_chunk::<{ blake3::OUT_LEN }>()?;
    if blake3::hash(text) != *sum {
        return None;
    }
    serde_json::from_slice(text).ok()
}

/// Of anything that can be hashed.
#[derive(Default)]
struct Digest(blake3::Hasher);

impl Digest {
    /// As the name of a file.
    fn name(&self) -> String {
        self.0.finalize().to_hex().chars().take(32).collect()
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Nobody asks for so few bits.
    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests;
