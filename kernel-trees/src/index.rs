//! Indexes of pristine sources: every file's path, size and hash, kept in the cache, so that
//! two kernels are compared without reading their 160,000 files.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rayon::prelude::*;

use crate::cache::Cache;
use crate::error::{Error, IoContext, Result};
use crate::manifest::{Kernel, Part};
use crate::{tree, unpack};

/// The first line; raise the number when the format changes.
const HEADER: &[u8] = b"dynamos source index 1\n";

/// The file of an index in its cache entry.
const FILE: &str = "files";

/// Digits of a BLAKE3 hash.
const DIGITS: usize = 2 * blake3::OUT_LEN;

/// Every file (and symlink) of a source tree, ordered by the bytes of its path.
///
/// The stored form is `HEADER`, a record `KIND SIZE HASH PATH` and a NUL for each file, and
/// the hash of all that: an index that lost records would hide changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceIndex {
    bytes: Vec<u8>,
}

/// One file of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry<'a> {
    /// Its path in the tree.
    pub path: &'a Path,
    /// `l` for a symlink (whose content is where it points to), `x` for an executable
    /// file, `f` for any other.
    pub kind: u8,
    /// Bytes of its content.
    pub size: u64,
    /// BLAKE3 of its content, as hexadecimal digits.
    pub hash: &'a [u8],
}

impl IndexEntry<'_> {
    /// Whether both are symlinks, or both files, of the same content.
    pub fn same_content(&self, other: &IndexEntry<'_>) -> bool {
        let link = |entry: &IndexEntry<'_>| entry.kind == b'l';
        link(self) == link(other) && self.size == other.size && self.hash == other.hash
    }
}

impl Cache {
    /// The index of a kernel's pristine source. It is made when the source is unpacked, or
    /// now if an older version of this program unpacked it.
    pub fn source_index(&self, kernel: &Kernel) -> Result<SourceIndex> {
        let source = self.source(kernel)?;
        let key = unpack::key(kernel, Part::Source)?;
        let dir = self.make_index(&key, &source)?;
        if let Some(index) = SourceIndex::load(&dir.join(FILE))? {
            return Ok(index);
        }
        // Damaged: the machine lost power before it was on the disk, perhaps.
        tree::remove(&dir)?;
        let file = self.make_index(&key, &source)?.join(FILE);
        let damaged = || std::io::Error::other("the index is damaged as soon as it is written");
        SourceIndex::load(&file)?.ok_or_else(|| Error::io("read", &file, damaged()))
    }

    /// Gives the cache entry with the index of `source`, and makes it if needed.
    pub(crate) fn make_index(&self, key: &str, source: &Path) -> Result<std::path::PathBuf> {
        self.entry("index", key, |partial| {
            self.progress().phase(&format!("indexing the source of {key}"));
            fs::create_dir(partial).at("create", partial)?;
            let file = partial.join(FILE);
            fs::write(&file, SourceIndex::of(source)?.bytes).at("write", &file)
        })
    }
}

impl SourceIndex {
    /// Reads and hashes every file of a tree.
    pub fn of(root: &Path) -> Result<Self> {
        let mut files = tree::files(root, tree::everything)?;
        files.sort_unstable_by(|a, b| bytes_of(a).cmp(bytes_of(b)));
        let records: Vec<Vec<u8>> = files
            .par_iter()
            .with_min_len(64)
            .map(|path| {
                let (kind, size, hash) = tree::hash_file(&root.join(path))?;
                let mut record =
                    format!("{} {size} {} ", char::from(kind), hash.to_hex()).into_bytes();
                record.extend_from_slice(bytes_of(path));
                record.push(0);
                Ok(record)
            })
            .collect::<Result<_>>()?;
        let mut bytes = HEADER.to_vec();
        bytes.extend(records.into_iter().flatten());
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(sum.to_hex().as_bytes());
        Ok(Self { bytes })
    }

    /// Reads a stored index; `None` if it is not there as a whole.
    fn load(file: &Path) -> Result<Option<Self>> {
        match fs::read(file) {
            Ok(bytes) => Ok(Self::checked(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", file, e)),
        }
    }

    fn checked(bytes: Vec<u8>) -> Option<Self> {
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(DIGITS)?)?;
        let whole = body.starts_with(HEADER) && blake3::hash(body).to_hex().as_bytes() == sum;
        whole.then_some(Self { bytes })
    }

    /// All files, by path.
    pub fn entries(&self) -> impl Iterator<Item = IndexEntry<'_>> {
        let end = self.bytes.len().saturating_sub(DIGITS);
        let records = self.bytes.get(HEADER.len()..end).unwrap_or_default();
        records.split(|byte| *byte == 0).filter_map(entry)
    }

    /// The paths whose content is not the same in both trees: what the old tree has there,
    /// and what the new one has.
    pub fn differences<'a>(&'a self, new: &'a Self) -> Vec<Difference<'a>> {
        let (mut olds, mut news) = (self.entries().peekable(), new.entries().peekable());
        let mut found = Vec::new();
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return found,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => bytes_of(old.path).cmp(bytes_of(new.path)),
            };
            let old = if order.is_le() { olds.next() } else { None };
            let new = if order.is_ge() { news.next() } else { None };
            if !matches!((&old, &new), (Some(old), Some(new)) if old.same_content(new)) {
                found.push((old, new));
            }
        }
    }
}

/// The two entries of one path, of which one may be missing.
pub type Difference<'a> = (Option<IndexEntry<'a>>, Option<IndexEntry<'a>>);

fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn entry(record: &[u8]) -> Option<IndexEntry<'_>> {
    let mut fields = record.splitn(4, |byte| *byte == b' ');
    let [kind] = fields.next()? else { return None };
    let size = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let hash = fields.next()?;
    let path = Path::new(OsStr::from_bytes(fields.next()?));
    Some(IndexEntry { path, kind: *kind, size, hash })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(root: &Path, path: &str, text: &str) {
        let file = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn differences_are_found_and_nothing_else() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [old.path(), new.path()] {
            write(root, "fs/a b.c", "same");
            // '-' sorts before '/', so paths and their bytes are ordered differently.
            write(root, "fs/x/deep.c", "same");
            write(root, "fs/x-y.c", "same");
        }
        write(old.path(), "fs/x/edited.c", "old");
        write(new.path(), "fs/x/edited.c", "new");
        write(old.path(), "gone.c", "");
        write(new.path(), "fs/line\nbreak.c", "");
        symlink("a", old.path().join("link")).unwrap();
        symlink("b", new.path().join("link")).unwrap();
        write(old.path(), "was-link", "a");
        symlink("a", new.path().join("was-link")).unwrap();
        let (old, new) =
            (SourceIndex::of(old.path()).unwrap(), SourceIndex::of(new.path()).unwrap());
        let found: Vec<_> = old
            .differences(&new)
            .into_iter()
            .map(|(old, new)| {
                (old.or(new).unwrap().path.to_str().unwrap(), old.is_some(), new.is_some())
            })
            .collect();
        assert_eq!(
            found,
            [
                ("fs/line\nbreak.c", false, true),
                ("fs/x/edited.c", true, true),
                ("gone.c", true, false),
                ("link", true, true),
                ("was-link", true, true),
            ]
        );
        assert!(old.differences(&old).is_empty());
        assert_eq!(old.entries().count(), 7);
    }

    #[test]
    fn an_index_is_made_once_and_a_damaged_one_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "tree/a.c", "a");
        let cache = Cache::open(Some(&dir.path().join("cache"))).unwrap();
        let tree = dir.path().join("tree");
        let file = cache.make_index("k", &tree).unwrap().join(FILE);
        let made = SourceIndex::load(&file).unwrap().unwrap();
        assert_eq!(made, SourceIndex::of(&tree).unwrap());
        write(&tree, "a.c", "b");
        cache.make_index("k", &tree).unwrap();
        assert_eq!(SourceIndex::load(&file).unwrap().unwrap(), made);
        let mut bytes = fs::read(&file).unwrap();
        for damage in [0, 30, bytes.len() - 1] {
            bytes[damage] ^= 1;
            fs::write(&file, &bytes).unwrap();
            assert_eq!(SourceIndex::load(&file).unwrap(), None);
            bytes[damage] ^= 1;
        }
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(SourceIndex::load(&file).unwrap(), None);
        fs::write(&file, "").unwrap();
        assert_eq!(SourceIndex::load(&file).unwrap(), None);
    }
}
