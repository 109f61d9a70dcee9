//! The checksums of an update's directory: `b3sums`, as b3sum(1) writes it (`hash  path`).

use std::path::{Component, Path};

use anyhow::Context;

use crate::failure::Failure;

/// Verifies every file that `dir/b3sums` lists, among which must be `needed`.
pub(crate) fn verify(dir: &Path, needed: &str) -> Result<(), Failure> {
    let list = dir.join("b3sums");
    let text = std::fs::read_to_string(&list).map_err(|e| {
        let (list, dir) = (list.display(), dir.display());
        Failure::error(format!("cannot read {list}: {e}; is {dir} an update's directory?"))
    })?;
    let mut found = false;
    for line in text.lines() {
        let (hash, name) = entry(line).with_context(|| {
            format!("{} has a line that is no checksum: {line:?}", list.display())
        })?;
        let path = dir.join(name);
        let content = std::fs::read(&path).with_context(|| {
            format!("cannot read {}, which {} lists", path.display(), list.display())
        })?;
        if blake3::hash(&content) != hash {
            return Err(Failure::refused(format!(
                "{} is not the file {} was written for: it is damaged or was changed; \
                 make the update again, or copy it again",
                path.display(),
                list.display()
            )));
        }
        found |= name == needed;
    }
    if !found {
        return Err(Failure::refused(format!(
            "{} does not list {needed}; make the update again",
            list.display()
        )));
    }
    Ok(())
}

/// The checksum and the path, which must not lead out of the directory.
fn entry(line: &str) -> Option<(blake3::Hash, &str)> {
    let (hash, name) = line.split_once("  ")?;
    let inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    (inside && !name.is_empty()).then_some((blake3::Hash::from_hex(hash).ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(sums: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("source")).unwrap();
        std::fs::write(dir.path().join("update.ko"), "module").unwrap();
        std::fs::write(dir.path().join("source/a.c"), "source").unwrap();
        std::fs::write(dir.path().join("b3sums"), sums).unwrap();
        dir
    }

    fn good() -> String {
        format!("{}  update.ko\n{}  source/a.c\n", blake3::hash(b"module"), blake3::hash(b"source"))
    }

    #[test]
    fn an_untouched_update_is_accepted() {
        let dir = update(&good());
        verify(dir.path(), "update.ko").unwrap();
    }

    #[test]
    fn a_changed_file_is_refused_by_name() {
        let dir = update(&good());
        std::fs::write(dir.path().join("source/a.c"), "other").unwrap();
        let failure = verify(dir.path(), "update.ko").unwrap_err();
        assert_eq!(failure.code(), 3);
        assert!(failure.to_string().contains("source/a.c is not the file"), "{failure}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = update(&good());
        std::fs::remove_file(dir.path().join("source/a.c")).unwrap();
        let failure = verify(dir.path(), "update.ko").unwrap_err();
        assert!(failure.to_string().contains("source/a.c, which"), "{failure}");

        let failure = verify(update("").path(), "update.ko").unwrap_err();
        assert!(failure.to_string().contains("does not list update.ko"), "{failure}");
    }

    #[test]
    fn only_checksums_of_files_inside_are_read() {
        for line in ["x  update.ko", "no separator", &format!("{}  ../etc", blake3::hash(b""))] {
            let failure = verify(update(line).path(), "update.ko").unwrap_err();
            assert!(failure.to_string().contains("no checksum"), "{failure}");
        }
    }
}
