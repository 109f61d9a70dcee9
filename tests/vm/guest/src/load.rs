//! A workload whose every byte can be checked afterwards.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// Files each thread keeps. Older ones are removed, so that blocks are freed as well as
/// allocated and the disk never fills.
const KEPT: usize = 24;

/// What to write, and until when.
pub struct Load {
    pub dir: PathBuf,
    pub threads: u32,
    pub seconds: Option<Duration>,
    pub stop_file: Option<PathBuf>,
    pub ready_file: Option<PathBuf>,
    /// Each thread rests for this many times what its last file took.
    pub rest: u32,
}

/// What was written.
#[derive(Default)]
pub struct Written {
    pub files: u64,
    pub bytes: u64,
    /// Name and checksum of each file that is still there.
    pub kept: Vec<(String, blake3::Hash)>,
}

impl Load {
    /// Writes until the end is reached or a write fails.
    pub fn run(&self) -> anyhow::Result<Written> {
        std::fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot create {}", self.dir.display()))?;
        let start = Instant::now();
        let failed = AtomicBool::new(false);
        let ready = AtomicU32::new(0);
        let over = || {
            failed.load(Ordering::Relaxed)
                || self.seconds.is_some_and(|s| start.elapsed() >= s)
                || self.stop_file.as_ref().is_some_and(|f| f.exists())
        };
        let parts = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|number| {
                    let (failed, ready, over) = (&failed, &ready, &over);
                    scope.spawn(move || {
                        self.write(number, ready, over)
                            .inspect_err(|_| failed.store(true, Ordering::Relaxed))
                    })
                })
                .collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        let mut total = Written::default();
        for part in parts {
            let Ok(part) = part else { bail!("a writing thread died") };
            let part = part?;
            total.files += part.files;
            total.bytes += part.bytes;
            total.kept.extend(part.kept);
        }
        Ok(total)
    }

    fn write(
        &self,
        thread: u32,
        ready: &AtomicU32,
        over: &impl Fn() -> bool,
    ) -> anyhow::Result<Written> {
        let mut kept = VecDeque::new();
        let mut written = Written::default();
        while written.files == 0 || !over() {
            let name = format!("load-{thread}-{}", written.files);
            let content = content(&name);
            let path = self.dir.join(&name);
            let start = Instant::now();
            write_file(&path, &content).with_context(|| format!("cannot write {name}"))?;
            written.files += 1;
            written.bytes += content.len() as u64;
            kept.push_back((name, blake3::hash(&content)));
            if kept.len() > KEPT
                && let Some((old, _)) = kept.pop_front()
            {
                std::fs::remove_file(self.dir.join(&old))
                    .with_context(|| format!("cannot remove {old}"))?;
            }
            let first = written.files == 1;
            if first
                && ready.fetch_add(1, Ordering::Relaxed) + 1 == self.threads
                && let Some(file) = &self.ready_file
            {
                File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
            }
            std::thread::sleep(start.elapsed() * self.rest);
        }
        written.kept = kept.into();
        Ok(written)
    }
}

/// 1 byte to 64 KiB that follow from the name, so no two files are alike.
fn content(name: &str) -> Vec<u8> {
    let mut stream = blake3::Hasher::new().update(name.as_bytes()).finalize_xof();
    let mut size = [0; 2];
    stream.fill(&mut size);
    let mut content = vec![0; usize::from(u16::from_le_bytes(size)) + 1];
    stream.fill(&mut content);
    content
}

/// In two parts, so that a file grows after its first blocks have reached the disk.
fn write_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let (first, second) = content.split_at(content.len() / 3);
    let mut file = File::create(path)?;
    for part in [first, second] {
        file.write_all(part)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Remembers the checksums: `hash  name` a line.
pub fn save(kept: &[(String, blake3::Hash)], sums: &Path) -> anyhow::Result<()> {
    let text: String = kept.iter().map(|(name, hash)| format!("{hash}  {name}\n")).collect();
    std::fs::write(sums, text).with_context(|| format!("cannot write {}", sums.display()))
}

/// Compares every remembered file; gives how many there are.
pub fn verify(dir: &Path, sums: &Path) -> anyhow::Result<usize> {
    let text = std::fs::read_to_string(sums)
        .with_context(|| format!("cannot read {}; did write-load end well?", sums.display()))?;
    let mut bad = Vec::new();
    for line in text.lines() {
        let (hash, name) = line.split_once("  ").context("a line without a checksum")?;
        match std::fs::read(dir.join(name)) {
            Ok(content) if blake3::hash(&content).to_hex().as_str() == hash => {}
            Ok(_) => bad.push(format!("{name} differs")),
            Err(e) => bad.push(format!("{name}: {e}")),
        }
    }
    ensure!(
        bad.is_empty(),
        "{} of {} files are bad:\n{}",
        bad.len(),
        text.lines().count(),
        bad.join("\n")
    );
    ensure!(!text.is_empty(), "{} is empty: nothing to verify", sums.display());
    Ok(text.lines().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let (dir, sums) = (temp.path().join("files"), temp.path().join("sums"));
        let load = Load {
            dir: dir.clone(),
            threads: 2,
            seconds: Some(Duration::ZERO),
            stop_file: None,
            ready_file: Some(temp.path().join("ready")),
            rest: 0,
        };
        let written = load.run().unwrap();
        assert_eq!((written.files, written.kept.len()), (2, 2));
        save(&written.kept, &sums).unwrap();
        assert!(temp.path().join("ready").exists());
        (temp, dir, sums)
    }

    #[test]
    fn what_was_written_is_verified() {
        let (_temp, dir, sums) = loaded();
        assert_eq!(verify(&dir, &sums).unwrap(), 2);
    }

    #[test]
    fn a_changed_or_missing_file_is_named() {
        let (_temp, dir, sums) = loaded();
        std::fs::write(dir.join("load-0-0"), "other").unwrap();
        std::fs::remove_file(dir.join("load-1-0")).unwrap();
        let error = verify(&dir, &sums).unwrap_err().to_string();
        assert!(
            error.contains("load-0-0 differs") && error.contains("load-1-0: No such"),
            "{error}"
        );
    }

    #[test]
    fn nothing_to_verify_is_no_success() {
        let (_temp, dir, sums) = loaded();
        std::fs::write(&sums, "").unwrap();
        assert!(verify(&dir, &sums).unwrap_err().to_string().contains("nothing to verify"));
    }
}
