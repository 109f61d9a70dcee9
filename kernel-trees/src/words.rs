//! Which files of a tree have a word.

use std::path::{Path, PathBuf};

use memchr::memmem::Finder;
use rayon::prelude::*;

use crate::error::{IoContext, Result};
use crate::kbuild::{is_read, is_relevant};
use crate::tree;

/// The files of the tree at `root` that code may come from and that have `word`, as a C identifier, with the number of
/// times. Sorted; comments and strings count too.
pub fn files_with_word(root: &Path, word: &str) -> Result<Vec<(PathBuf, usize)>> {
    let finder = Finder::new(word);
    let files = tree::files(root, is_relevant)?;
    let found: Vec<Option<(PathBuf, usize)>> = files
        .into_par_iter()
        .with_min_len(32)
        .map(|file| {
            if !file.to_str().is_some_and(is_read) {
                return Ok(None);
            }
            let path = root.join(&file);
            let text = match std::fs::read(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                other => other.at("read", &path)?,
            };
            let count =
                finder.find_iter(&text).filter(|at| is_word(&text, *at, word.len())).count();
            Ok((count > 0).then_some((file, count)))
        })
        .collect::<Result<_>>()?;
    let mut found: Vec<_> = found.into_iter().flatten().collect();
    found.sort();
    Ok(found)
}

fn is_word(text: &[u8], at: usize, length: usize) -> bool {
    let part = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let before = at.checked_sub(1).and_then(|at| text.get(at));
    !part(before) && !part(text.get(at.saturating_add(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_of_sources_count() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.c", "struct foo x; struct foo *y; int foobar, my_foo, foo_1;");
        write("b.h", "foo");
        write("c.h", "food");
        write("d.txt", "foo");
        let found = files_with_word(dir.path(), "foo").unwrap();
        assert_eq!(found, [("a.c".into(), 2), ("b.h".into(), 1)]);
    }
}
