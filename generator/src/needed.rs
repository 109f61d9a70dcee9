//! Which header changes a fix needs: those that the compiler's errors ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kernel_trees::Kbuild;
use rayon::prelude::*;

use crate::changes::Changes;

/// The changed headers and what their changes speak of.
#[derive(Debug)]
pub struct Headers {
    changes: Changes,
    /// Word → headers that have it in an added line.
    added: Words,
    /// Word → headers that have it near a change: a declaration may begin above the line that differs.
    near: Words,
}

type Words = BTreeMap<String, BTreeSet<PathBuf>>;

impl Headers {
    /// Reads both sides of the changed headers.
    pub fn read(v1_root: &Path, changes: Changes) -> Result<Headers> {
        let read = |path: &Path| match fs::read(path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let diffs: Vec<(&PathBuf, String)> = changes
            .par_iter()
            .map(|(path, content)| {
                let old = read(&v1_root.join(path))?;
                let new = content.as_deref().map_or_else(|| Ok(String::new()), read)?;
                let lines = similar::TextDiff::from_lines(&old, &new);
                Ok((path, lines.unified_diff().context_radius(3).to_string()))
            })
            .collect::<Result<_>>()?;
        let (mut added, mut near) = (Words::new(), Words::new());
        for (path, diff) in &diffs {
            for line in diff.lines() {
                for word in words(line) {
                    let new = line.starts_with('+');
                    let index = if new { &mut added } else { &mut near };
                    index.entry(word.into()).or_default().insert((*path).clone());
                }
            }
        }
        Ok(Headers { changes, added, near })
    }

    /// Headers to take along after the compiler's `log`, beyond those in `laid`: at first those whose changes add
    /// what an error names, then those that have it near a change, then all that the sources may include.
    pub fn for_errors(
        &self,
        log: &str,
        sources: &[&Path],
        laid: &Changes,
        kbuild: &Kbuild,
    ) -> Result<Vec<PathBuf>> {
        let asking = Asking { sources, laid, fresh: includes(laid)?, kbuild };
        let missing: Vec<&str> = log.lines().filter_map(missing_file).collect();
        let is_missing = |path: &&PathBuf| missing.iter().any(|file| path.ends_with(file));
        let fresh: Vec<PathBuf> = self
            .changes
            .keys()
            .filter(|path| !laid.contains_key(*path))
            .filter(is_missing)
            .cloned()
            .collect();
        if !fresh.is_empty() {
            return Ok(fresh);
        }
        for index in [&self.added, &self.near] {
            let mut found = BTreeSet::new();
            for line in log.lines().filter(|line| line.contains("error: ")) {
                found.extend(self.asked_for(line, index, &asking)?);
            }
            if !found.is_empty() {
                return Ok(found.into_iter().collect());
            }
        }
        asking.reachable(self.changes.keys())
    }

    /// The headers that an error asks for: of the words it quotes, the one that fewest headers have tells most.
    fn asked_for(&self, error: &str, index: &Words, asking: &Asking<'_>) -> Result<Vec<PathBuf>> {
        let mut best: Vec<PathBuf> = Vec::new();
        for word in error.split('\'').skip(1).step_by(2).flat_map(words) {
            let Some(headers) = index.get(word) else { continue };
            let found = asking.reachable(headers)?;
            if !found.is_empty() && (best.is_empty() || found.len() < best.len()) {
                best = found;
            }
        }
        Ok(best)
    }
}

/// Whose errors are to be mended.
struct Asking<'a> {
    sources: &'a [&'a Path],
    /// What is in place already.
    laid: &'a Changes,
    /// The headers that those files include.
    fresh: BTreeSet<String>,
    kbuild: &'a Kbuild,
}

impl Asking<'_> {
    /// Those of `headers` that the sources may include and that are not laid yet.
    fn reachable<'h>(
        &self,
        headers: impl IntoIterator<Item = &'h PathBuf>,
    ) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for header in headers {
            if self.laid.contains_key(header) {
                continue;
            }
            // First what costs nothing: the other asks for all sources that include the header.
            if self.fresh.iter().any(|name| header.ends_with(name))
                || self
                    .kbuild
                    .includers(std::slice::from_ref(header))?
                    .iter()
                    .any(|path| self.sources.contains(&path.as_path()))
            {
                found.push(header.clone());
            }
        }
        Ok(found)
    }
}

/// What the laid files include: V2's may include what V1's do not, and the includers of a header are V1's.
fn includes(laid: &Changes) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in laid.values().flatten() {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        names.extend(String::from_utf8_lossy(&bytes).lines().filter_map(included));
    }
    Ok(names)
}

/// The header of `#include <linux/fs.h>`.
fn included(line: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
    let name = rest.trim().strip_prefix(['<', '"'])?.split(['>', '"']).next()?;
    Some(name.trim_start_matches(['.', '/']).to_string())
}

/// Identifiers of a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
}

/// The header of `fatal error: linux/new.h: No such file or directory`.
fn missing_file(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("fatal error: ")?;
    let (file, _) = rest.split_once(": No such file")?;
    Some(file.trim_start_matches(['.', '/']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_change() {
        let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(v1.path().join("a.h"), "struct s;\nint f(int a,\n\tint b);\n").unwrap();
        fs::write(v2.path().join("a.h"), "struct s;\nint f(int a,\n\tlong fresh);\n").unwrap();
        let changes = Changes::from([("a.h".into(), Some(v2.path().join("a.h")))]);
        let headers = Headers::read(v1.path(), changes).unwrap();
        assert!(headers.added.contains_key("fresh") && !headers.added.contains_key("f"));
        assert!(headers.near.contains_key("f"));
    }

    #[test]
    fn includes_of_laid_files_count() {
        let v2 = tempfile::tempdir().unwrap();
        let text = "#include <asm/insn-eval.h>\n # include \"../a.h\"\n#define x\nint include;\n";
        fs::write(v2.path().join("a.c"), text).unwrap();
        let laid = Changes::from([("a.c".into(), Some(v2.path().join("a.c")))]);
        let expected = ["a.h".to_string(), "asm/insn-eval.h".to_string()];
        assert_eq!(includes(&laid).unwrap(), BTreeSet::from(expected));
    }

    #[test]
    fn a_missing_header_is_named() {
        let line = "a.c:3:10: fatal error: linux/brand_new.h: No such file or directory";
        assert_eq!(missing_file(line), Some("linux/brand_new.h"));
    }
}
