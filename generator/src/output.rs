//! The update directory: put together beside its place and moved there as a whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::plan::Plan;

/// File with the checksums of all others, in the format of `b3sum`.
pub const CHECKSUMS: &str = "b3sums";

/// A directory that becomes the output when everything is in it. Dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct Output {
    target: PathBuf,
    scratch: tempfile::TempDir,
}

impl Output {
    /// Checks that `target` may be made or replaced, before any work is done.
    pub fn begin(target: &Path) -> Result<Output> {
        let occupied = fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some());
        if target.is_file() || occupied && !target.join("plan.json").is_file() {
            bail!(
                "{} exists and holds no update; name another directory with -o",
                target.display()
            );
        }
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let scratch = tempfile::Builder::new()
            .prefix(".dynamos-diff-")
            .tempdir_in(&parent)
            .with_context(|| format!("cannot write into {}", parent.display()))?;
        Ok(Output { target: target.into(), scratch })
    }

    /// Where to put the files.
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes one file.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path().join(name);
        fs::write(&path, content)
            .with_context(|| format!("cannot write {} of the update", path.display()))
    }

    /// Writes plan, review page and checksums, and moves all into place.
    /// `diffs`: the source change, and that of the bridge.
    pub fn finish(self, plan: &Plan, diffs: (&str, Option<&str>)) -> Result<()> {
        let mut text = serde_json::to_string_pretty(plan).context("cannot encode the plan")?;
        text.push('\n');
        self.put("plan.json", text.as_bytes())?;
        self.put("review.md", crate::review::review(plan, diffs).as_bytes())?;
        self.put(CHECKSUMS, checksums(self.path())?.as_bytes())?;
        let old = self.path().with_extension("old");
        if self.target.exists() {
            fs::rename(&self.target, &old)
                .with_context(|| format!("cannot replace {}", self.target.display()))?;
        }
        let new = self.scratch.keep();
        // tempfile makes directories that only their owner can read.
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .and_then(|()| fs::rename(&new, &self.target))
            .with_context(|| format!("cannot move the update to {}", self.target.display()))?;
        if old.exists() {
            fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        Ok(())
    }
}

/// `HASH  PATH` for every file, sorted by path.
fn checksums(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    let mut queue = vec![PathBuf::new()];
    while let Some(below) = queue.pop() {
        let directory = root.join(&below);
        for entry in fs::read_dir(&directory)
            .with_context(|| format!("cannot list {}", directory.display()))?
        {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                queue.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut text = String::new();
    for file in files {
        let path = root.join(&file);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        text += &format!("{}  {}\n", blake3::hash(&bytes).to_hex(), file.display());
    }
    Ok(text)
}
