//! Content: initialisers, strings, constants, out-of-line code.

use std::borrow::Cow;

use super::{Cause, Comparer, Difference, Key, MAX_DEPTH, Same};
use crate::decode;
use crate::load::{Section, SectionId, text_len};
use crate::model::{DataId, Place};
use crate::names::base;
use crate::object_file::Object;

pub(super) type Extent = (SectionId, u64, u64);

/// Bits that do not count, by offset from the start: line numbers in data.
#[derive(Debug, Default, Clone)]
pub(crate) struct Mask {
    bits: Vec<(u64, u8)>,
    /// A pointer that is compared elsewhere.
    skip: Option<u64>,
}

impl Mask {
    pub(crate) fn bytes(offset: u64, len: u64) -> Self {
        Self { bits: (offset..offset + len).map(|o| (o, 0xff)).collect(), skip: None }
    }

    /// `_ddebug.lineno`, an 18-bit field (include/linux/dynamic_debug.h).
    fn ddebug() -> Self {
        Self { bits: vec![(32, 0xff), (33, 0xff), (34, 0x03)], skip: None }
    }

    /// All but the pointer at that offset.
    pub(crate) fn skipping(offset: u64) -> Self {
        Self { bits: Vec::new(), skip: Some(offset) }
    }

    pub(crate) fn at(&self, offset: u64) -> u8 {
        self.bits.iter().find(|(o, _)| *o == offset).map_or(0, |(_, bits)| *bits)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    fn covers(&self, difference: impl Iterator<Item = (u64, u8)>) -> Option<u64> {
        difference.filter(|(o, bits)| bits & !self.at(*o) != 0).map(|(o, _)| o).next()
    }
}

/// The bits of a data object that hold a source line.
pub(crate) fn line_mask(object: &Object<'_>, id: DataId) -> Mask {
    let Some(data) = object.model.data_object(id) else { return Mask::default() };
    let size = data.end - data.start;
    // struct pi_entry (include/linux/printk.h), reached through .printk_index
    if base(&data.name).text == "_entry" && size == 44 && indexed(object, id) {
        return Mask::bytes(24, 4);
    }
    lines_in(object.section_name(data.section), size)
}

/// The bits that hold a source line in an entry of that size of a table, by the table's section or by what marks it in an image.
pub(crate) fn lines_in(table: &str, size: u64) -> Mask {
    match table {
        "__dyndbg" if size >= 40 => Mask::ddebug(),
        // struct ftrace_branch_data, struct codetag
        "_ftrace_branch" | "branch_profile" => Mask::bytes(16, 4),
        "_ftrace_annotated_branch" | "annotated_branch_profile" => Mask::bytes(16, 4),
        "alloc_tags" => Mask::bytes(4, 4),
        _ => Mask::default(),
    }
}

fn indexed(object: &Object<'_>, id: DataId) -> bool {
    object.referrers().data_of_data.get(&id).is_some_and(|from| {
        from.iter().any(|d| {
            object
                .model
                .data_object(*d)
                .is_some_and(|d| object.section_name(d.section) == ".printk_index")
        })
    })
}

impl Comparer<'_, '_> {
    /// Compares the initialisers of two data objects: their own bytes and what they point to
    /// by name, but not what is behind those names.
    pub fn data(&self, x: DataId, y: DataId) -> Same {
        let (Some(dx), Some(dy)) = (self.a.model.data_object(x), self.b.model.data_object(y))
        else {
            return Err(Difference::new(Cause::Unclear, "data is not in its object"));
        };
        let mask = line_mask(self.a, x);
        self.raw((dx.section, dx.start, dx.end), (dy.section, dy.start, dy.end), &mask, false)
    }

    /// Compares two whole sections.
    pub(crate) fn whole_sections(
        &self,
        (x, size_x): (SectionId, u64),
        (y, size_y): (SectionId, u64),
    ) -> Same {
        self.content((x, 0, size_x), (y, 0, size_y), false)
    }

    /// Compares two pieces of code between functions.
    pub(crate) fn unnamed_code(&self, x: Extent, y: Extent) -> Same {
        self.content(x, y, false)
    }

    /// Compares content that no symbol names.
    pub(super) fn anonymous(
        &self,
        (sx, ox, from_x): (SectionId, i64, i64),
        (sy, oy, from_y): (SectionId, i64, i64),
        deep: bool,
    ) -> Same {
        let writable = |o: &Object<'_>, s| !super::is_read_only(o, s);
        let both = writable(self.a, sx) && writable(self.b, sy);
        if both && self.between((sx, ox), (sy, oy)) {
            return Ok(());
        }
        let (x, y) = (extent(self.a, sx, from_x), extent(self.b, sy, from_y));
        let (Some(x), Some(y)) = (x, y) else {
            if self.between((sx, ox), (sy, oy)) {
                return Ok(());
            }
            return Err(Difference::new(
                Cause::Unclear,
                format!(
                    "refers to {}, outside of any object",
                    self.b.describe(Place::Anonymous { section: sy, offset: oy, from: from_y })
                ),
            ));
        };
        let (into_x, into_y) = (ox.wrapping_sub(from_x), oy.wrapping_sub(from_y));
        if into_x != into_y {
            let section = self.b.section_name(sy);
            let text =
                format!("refers to {into_y:#x} instead of {into_x:#x} in content of {section}");
            return Err(Difference::new(Cause::Constant, text));
        }
        if let (Some(p), Some(q)) = (string(self.a, x), string(self.b, y)) {
            return if p == q {
                Ok(())
            } else {
                Err(Difference::new(Cause::String, format!("string {q:?} instead of {p:?}")))
            };
        }
        if writable(self.a, sx) || writable(self.b, sy) {
            // State without a name cannot be told from other state.
            return Err(Difference::new(
                Cause::Unclear,
                format!("refers to unnamed writable data in {}", self.b.section_name(sy)),
            ));
        }
        let section = self.b.section_name(sy);
        self.content(x, y, deep).map_err(|d| match d.cause {
            Cause::String | Cause::Constant => d,
            _ => Difference {
                cause: Cause::Constant,
                text: format!("unnamed content of {section} changed: {}", d.text),
                ..d
            },
        })
    }

    /// Whether two places that belong to no object lie between the same two, as far from both: the end of an array, or
    /// what an index that does not start at 0 is added to. In a linked module it can be of either.
    fn between(&self, (sx, ox): (SectionId, i64), (sy, oy): (SectionId, i64)) -> bool {
        let same = |x: Option<(DataId, i64)>, y: Option<(DataId, i64)>| match (x, y) {
            (Some((x, p)), Some((y, q))) => p == q && self.correlation.data.get(&x) == Some(&y),
            (None, None) => true,
            _ => false,
        };
        let ((x, after_x), (y, after_y)) = (beside(self.a, sx, ox), beside(self.b, sy, oy));
        x.is_some() && same(x, y) && same(after_x, after_y)
    }

    /// `table[i - 1]`, where an index is added to a place that lies before what is meant: in another object, or in none. Whether
    /// the constants that begin closely behind it are the same as well.
    pub(super) fn behind(&self, x: Place, y: Place) -> Same {
        match (closely_behind(self.a, x), closely_behind(self.b, y)) {
            (None, None) => Ok(()),
            (Some((x, p)), Some((y, q))) if p == q => self.place(x, y, true),
            _ => Err(Difference::new(Cause::Unclear, "what an index is added to lies elsewhere")),
        }
    }

    /// Compares two pieces of content, following what they point to. A piece that is being
    /// compared further up counts as equal there: cycles are equal if nothing in them differs.
    pub(super) fn content(&self, x: Extent, y: Extent, deep: bool) -> Same {
        let key: Key = (x.0, x.1, x.2, y.0, y.1, y.2, deep);
        if self.equal.borrow().contains(&key) || !self.visited.borrow_mut().insert(key) {
            return Ok(());
        }
        let depth = self.depth.get();
        if depth > MAX_DEPTH {
            return Err(Difference::new(Cause::Unclear, "data nests too deep to be followed"));
        }
        self.depth.set(depth + 1);
        let same = self.content_uncached(x, y, deep);
        self.depth.set(depth);
        // A difference anywhere makes the outermost question fail, so what was assumed on the
        // way is believed only when that one succeeds.
        if depth == 0 {
            let assumed = std::mem::take(&mut *self.visited.borrow_mut());
            if same.is_ok() {
                self.equal.borrow_mut().extend(assumed);
            }
        }
        same
    }

    fn content_uncached(&self, x: Extent, y: Extent, deep: bool) -> Same {
        let exec = |o: &Object<'_>, e: Extent| {
            o.elf.sections.get(e.0.0 as usize).is_some_and(|s| s.is_exec())
        };
        match (exec(self.a, x), exec(self.b, y)) {
            (true, true) => {
                let none = |_| false;
                let p = decode::decode(&self.a.elf, &self.a.model, x.0, (x.1, x.2), &none);
                let q = decode::decode(&self.b.elf, &self.b.model, y.0, (y.1, y.2), &none);
                self.code((&p, x), (&q, y))
            }
            (false, false) => self.raw(x, y, &Mask::default(), deep),
            _ => Err(Difference::new(Cause::Reference, "code instead of data")),
        }
    }

    /// Compares bytes and relocations.
    pub(super) fn raw(&self, x: Extent, y: Extent, mask: &Mask, deep: bool) -> Same {
        let sections =
            (self.a.elf.sections.get(x.0.0 as usize), self.b.elf.sections.get(y.0.0 as usize));
        let (Some(section_a), Some(section_b)) = sections else {
            return Err(Difference::new(Cause::Unclear, "no such section"));
        };
        let (len_a, len_b) = (x.2.saturating_sub(x.1), y.2.saturating_sub(y.1));
        if len_a != len_b {
            return Err(Difference::new(
                Cause::Initialiser,
                format!("{len_b} bytes instead of {len_a}"),
            ));
        }
        let (refs_a, refs_b) =
            (section_a.relocations_in(x.1, x.2), section_b.relocations_in(y.1, y.2));
        let covered = |at: u64| {
            refs_a.iter().any(|r| (r.offset - x.1..r.offset - x.1 + r.width()).contains(&at))
        };
        if section_a.is_nobits() && section_b.is_nobits() {
            return Ok(());
        }
        let Some((bytes_a, bytes_b)) = contents((section_a, x), (section_b, y)) else {
            return Err(Difference::new(Cause::Unclear, "outside of its section"));
        };
        if refs_a.len() != refs_b.len() {
            return Err(Difference::new(
                Cause::Initialiser,
                format!("{} pointers instead of {}", refs_b.len(), refs_a.len()),
            ));
        }
        for (p, q) in refs_a.iter().zip(refs_b) {
            let at = p.offset - x.1;
            if at != q.offset - y.1 || p.kind() != q.kind() {
                return Err(Difference::new(
                    Cause::Initialiser,
                    format!("another kind of pointer at offset {at:#x}"),
                ));
            }
            if mask.skip == Some(at) {
                continue;
            }
            let to_a = self.a.model.resolve(&self.a.elf, p.symbol, p.addend);
            let to_b = self.b.model.resolve(&self.b.elf, q.symbol, q.addend);
            self.place(to_a, to_b, deep)
                .map_err(|d| Difference { text: format!("at {at:#x}: {}", d.text), ..d })?;
        }
        let differing = bytes_a
            .iter()
            .zip(&*bytes_b)
            .enumerate()
            .map(|(i, (p, q))| (i as u64, p ^ q))
            .filter(|(i, bits)| *bits != 0 && !covered(*i));
        match mask.covers(differing) {
            None => Ok(()),
            Some(at) => {
                let byte = |bytes: &[u8]| bytes.get(at as usize).copied().unwrap_or(0);
                Err(Difference::new(
                    Cause::Initialiser,
                    format!(
                        "byte {at:#x} is {:#04x} instead of {:#04x}",
                        byte(&bytes_b),
                        byte(&bytes_a)
                    ),
                ))
            }
        }
    }
}

type Bytes<'s> = Cow<'s, [u8]>;

/// The bytes of both. What has no contents is zeros, as far as the other reaches: where neither has any, nothing is left to
/// compare, and the size that a header claims for it need not fit into memory.
pub(super) fn contents<'s>(
    (a, x): (&'s Section<'_>, Extent),
    (b, y): (&'s Section<'_>, Extent),
) -> Option<(Bytes<'s>, Bytes<'s>)> {
    let len = |extent: Extent| extent.2.checked_sub(extent.1);
    let zeros = |extent: Extent, other: &[u8]| {
        let len = usize::try_from(len(extent)?).unwrap_or(usize::MAX);
        Some(Cow::Owned(vec![0; len.min(other.len())]))
    };
    Some(match (a.is_nobits(), b.is_nobits()) {
        (true, true) => (Cow::default(), Cow::default()),
        (true, false) => {
            let bytes = b.bytes(y.1, len(y)?)?;
            (zeros(x, bytes)?, bytes.into())
        }
        (false, true) => {
            let bytes = a.bytes(x.1, len(x)?)?;
            (bytes.into(), zeros(y, bytes)?)
        }
        (false, false) => (a.bytes(x.1, len(x)?)?.into(), b.bytes(y.1, len(y)?)?.into()),
    })
}

/// How far before a table its index may begin: some elements.
const NEAR: i64 = 64;

/// The constant that begins closely behind a place at which none begins, and how far.
fn closely_behind(object: &Object<'_>, place: Place) -> Option<(Place, i64)> {
    let (section, offset) = match place {
        Place::Data { data, offset } if offset != 0 => {
            let data = object.model.data_object(data)?;
            (data.section, offset.checked_add(i64::try_from(data.start).ok()?)?)
        }
        Place::Anonymous { section, offset, .. } => (section, offset),
        _ => return None,
    };
    let whole = object.elf.sections.get(section.0 as usize)?;
    if !super::is_read_only(object, section) || whole.is_merge() {
        return None;
    }
    let (_, named) = beside(object, section, offset);
    let named = named.map(|(data, far)| (Place::Data { data, offset: 0 }, far.wrapping_neg()));
    let labels = object.model.labels_in(section);
    let begins = |label: &u64| i64::try_from(*label).ok();
    let label =
        labels.get(labels.partition_point(|label| begins(label).is_some_and(|at| at < offset)));
    let label = label.and_then(begins).and_then(|at| {
        Some((Place::Anonymous { section, offset: at, from: at }, at.checked_sub(offset)?))
    });
    let next = [named, label].into_iter().flatten().min_by_key(|(_, far)| *far);
    next.filter(|(_, far)| (1..=NEAR).contains(far))
}

/// A neighbour in a section, and how far it is from there.
type Neighbour = Option<(DataId, i64)>;

/// The objects before and behind a place in a section.
fn beside(object: &Object<'_>, section: SectionId, offset: i64) -> (Neighbour, Neighbour) {
    let ids = object.model.data_in(section);
    let start = |id: &DataId| {
        let data = object.model.data_object(*id)?;
        i64::try_from(data.start).ok()
    };
    let behind = ids.partition_point(|id| start(id).is_some_and(|at| at <= offset));
    let at = |index: Option<usize>| {
        let id = ids.get(index?)?;
        Some((*id, offset.checked_sub(start(id)?)?))
    };
    (at(behind.checked_sub(1)), at(Some(behind)))
}

/// The unnamed content that begins at a place. It ends at its NUL (which is as wide as its characters are: `L"…"`), at the end
/// of its merge entry, or at the next label; where the object has no labels, where the next thing begins that
/// anything refers to.
pub(super) fn extent(object: &Object<'_>, id: SectionId, offset: i64) -> Option<Extent> {
    let section = object.elf.sections.get(id.0 as usize)?;
    let start = u64::try_from(offset).ok()?;
    if start >= section.size {
        return None;
    }
    if section.is_strings() {
        let width = section.entsize.max(1);
        let rest = section.bytes(start, section.size - start)?;
        if start % width != 0 {
            return None;
        }
        return Some((id, start, start + text_len(rest, width)?));
    }
    if section.is_merge() && section.entsize > 0 {
        let end = (start - start % section.entsize).saturating_add(section.entsize);
        return Some((id, start, end.min(section.size)));
    }
    let after = |sorted: &[u64]| sorted.get(first_after(sorted, start)).copied();
    let boundary = match object.model.labels_in(id) {
        [] => object
            .referrers()
            .boundaries
            .get(&id)
            .and_then(|sorted| end_of_text(section, start, sorted)),
        labels => after(labels),
    };
    let named = object.model.data_in(id);
    let first = |d: &DataId| object.model.data_object(*d).map(|d| d.start);
    let behind = named.partition_point(|d| first(d).is_some_and(|at| at <= start));
    let named = named.get(behind).and_then(first);
    Some((id, start, section.size.min(boundary.unwrap_or(u64::MAX)).min(named.unwrap_or(u64::MAX))))
}

/// The first of the places behind `start` that something refers to, but for those within texts: somebody may have the second
/// of several texts in one constant, and who has the first goes on to it.
fn end_of_text(section: &Section<'_>, start: u64, sorted: &[u64]) -> Option<u64> {
    let is_text = |from: u64, to: u64| {
        let bytes = section.bytes(from, to.saturating_sub(from)).unwrap_or(&[]);
        let text = |byte: &u8| *byte == 0 || byte.is_ascii_graphic() || byte.is_ascii_whitespace();
        bytes.last() == Some(&0) && bytes.iter().any(|byte| *byte != 0) && bytes.iter().all(text)
    };
    let mut from = start;
    for (index, end) in sorted.iter().enumerate().skip(first_after(sorted, start)) {
        let next = sorted.get(index + 1).copied().unwrap_or(section.size);
        if !is_text(from, *end) || !is_text(*end, next) {
            return Some(*end);
        }
        from = *end;
    }
    None
}

fn first_after(sorted: &[u64], start: u64) -> usize {
    sorted.partition_point(|at| *at <= start)
}

/// The text of a piece of a string section, if its characters are bytes.
pub(super) fn string(object: &Object<'_>, (id, start, end): Extent) -> Option<String> {
    let section = object.elf.sections.get(id.0 as usize)?;
    if !section.is_strings()
        || section.entsize > 1
        || !section.relocations_in(start, end).is_empty()
    {
        return None;
    }
    let bytes = section.bytes(start, end - start)?;
    Some(String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned())
}
