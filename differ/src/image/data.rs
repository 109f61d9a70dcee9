//! Variables and constants of two linked images: sizes, and initial values by what their words point at.

use std::collections::BTreeMap;

use object::elf;
use rayon::prelude::*;
use serde::Serialize;

use super::code::{KERNEL, Pairs};
use super::content::{same_but_for, without};
use super::load::Symbol;
use super::names::{Names, Target};
use super::pairing::{Id, Known, Paired, name, pair};
use crate::compare::{Mask, lines_in};
use crate::load::Section;
use crate::names::{BTF_ID, base};
use crate::verdict::DataChange;

/// The verdict on one variable or constant of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ImageData {
    /// Its name in v2, or in v1 if it was removed.
    pub name: String,
    /// The source file it is compiled from, like that of a function.
    pub file: String,
    /// Its section; in a table that the linker marks (`__start_NAME` to `__stop_NAME`), that.
    pub section: String,
    /// Whether the kernel may write to it.
    pub writable: bool,
    /// What became of it.
    pub change: DataChange,
    /// Why, in words.
    pub reason: String,
}

/// Compares all variables and constants that have a name of their own. What the compiler numbered is left out where it
/// is constant: the functions that use it are compared by its content.
pub(super) fn data(a: &Names<'_, '_>, b: &Names<'_, '_>, known: &Known) -> Vec<ImageData> {
    let side = |names| Side { names, tables: tables(names) };
    let (side_a, side_b) = (&side(a), &side(b));
    let is_compilers = |names: &Names<'_, '_>, id: Id| {
        let numbered = names.identities.get(id as usize).is_some_and(|i| i.numbered);
        let symbol = names.image.symbols.get(id as usize);
        numbered && symbol.is_none_or(|symbol| !names.writable(symbol.section))
    };
    // Two states of one name and equal value are not the same for that, but two entries that say where they stand are.
    let alike = |x: Id, y: Id| {
        let tells = |symbol| tells_its_place(side_a, symbol);
        !is_compilers(a, x)
            && a.image.symbols.get(x as usize).is_some_and(tells)
            && compare((side_a, x), (side_b, y), known).is_none()
    };
    let Paired { pairs, removed, new } = pair(a, b, is_data, &alike);
    let mut all: Vec<ImageData> = pairs
        .par_iter()
        .filter(|(x, y)| !is_compilers(a, *x) || !is_compilers(b, *y))
        .filter_map(|(x, y)| {
            let (change, reason) = compare((side_a, *x), (side_b, *y), known)?;
            Some(verdict(side_b, *y, change, reason))
        })
        .collect();
    let alone = |side: &Side<'_, '_, '_>, ids: &[Id], change, reason: &str| {
        let ids = ids.iter().filter(|id| !is_compilers(side.names, **id));
        ids.map(|id| verdict(side, *id, change, reason.to_owned())).collect::<Vec<_>>()
    };
    all.extend(alone(side_a, &removed, DataChange::Removed, "not in v2"));
    all.extend(alone(side_b, &new, DataChange::New, "not in v1"));
    all.sort();
    all
}

fn is_data(symbol: &Symbol<'_>, section: &Section<'_>) -> bool {
    let object = symbol.kind == elf::STT_OBJECT && section.is_alloc() && !section.is_exec();
    object && !symbol.name.starts_with(BTF_ID)
}

/// Start, end and name.
type Table<'d> = (u64, u64, &'d str);

/// The tables that the linker marks. In an image they lie within larger sections (`__dyndbg` in `.data`).
fn tables<'d>(names: &Names<'_, 'd>) -> Vec<Table<'d>> {
    let named = |prefix: &'static str| {
        names
            .image
            .symbols
            .iter()
            .filter_map(move |s| Some((s.name.strip_prefix(prefix)?, s.address)))
    };
    let ends: BTreeMap<&str, u64> = named("__stop_").collect();
    named("__start_").filter_map(|(name, start)| Some((start, *ends.get(name)?, name))).collect()
}

/// An image and its tables.
struct Side<'n, 'i, 'd> {
    names: &'n Names<'i, 'd>,
    tables: Vec<Table<'d>>,
}

impl<'d> Side<'_, '_, 'd> {
    /// The table that a variable is in, or its section.
    fn section(&self, symbol: &Symbol<'_>) -> &'d str {
        let placed = self.names.image.sections.get(symbol.section as usize);
        let within = |table: &&Table<'_>| (table.0..table.1).contains(&symbol.address);
        let table = self.tables.iter().find(within).map(|table| table.2);
        table.or(placed.map(|placed| placed.section.name)).unwrap_or_default()
    }
}

fn verdict(side: &Side<'_, '_, '_>, id: Id, change: DataChange, reason: String) -> ImageData {
    let (name, file) = name(side.names, id);
    let symbol = side.names.image.symbols.get(id as usize);
    ImageData {
        name,
        file,
        section: symbol.map_or("", |symbol| side.section(symbol)).to_owned(),
        writable: side.names.writable(symbol.map_or(u32::MAX, |symbol| symbol.section)),
        change,
        reason,
    }
}

/// Whether a variable says of which place in the source it is: of its file and function, beside the line.
fn tells_its_place(side: &Side<'_, '_, '_>, symbol: &Symbol<'_>) -> bool {
    let lines = lines_in(side.section(symbol), symbol.size);
    !lines.is_empty() || printk_entry(side, symbol).is_some()
}

/// What differs; nothing if both are the same.
fn compare(
    (side_a, x): (&Side<'_, '_, '_>, Id),
    (side_b, y): (&Side<'_, '_, '_>, Id),
    known: &Known,
) -> Option<(DataChange, String)> {
    let (a, b) = (side_a.names, side_b.names);
    let (s, t) = (a.image.symbols.get(x as usize)?, b.image.symbols.get(y as usize)?);
    if s.size != t.size {
        let reason = format!("{} bytes instead of {}", t.size, s.size);
        return Some((DataChange::Resized, reason));
    }
    let nobits = |names: &Names<'_, '_>, symbol: &Symbol<'_>| {
        let placed = names.image.sections.get(symbol.section as usize);
        placed.is_some_and(|placed| placed.section.is_nobits())
    };
    let same_at = |mask: &Mask, p: u64, q: u64, size| {
        let mut pairs = Pairs::new();
        same_but_for(mask, (a, p), (b, q), size, 0, &mut pairs) && known.agrees(a, b, &pairs)
    };
    let same_but = |mask: &Mask| same_at(mask, s.address, t.address, s.size);
    let same_entries = |(p, q): (u64, u64)| {
        BESIDE_LINE.iter().all(|(at, size)| {
            same_at(&Mask::default(), p.saturating_add(*at), q.saturating_add(*at), *size)
        })
    };
    let mut lines = Mask::default();
    let same = match (nobits(a, s), nobits(b, t)) {
        (true, true) => true,
        (false, false) if same_but(&lines) => true,
        (false, false) => {
            let (table, other) = (side_a.section(s), side_b.section(t));
            if table == other {
                lines = lines_in(table, s.size);
            }
            let entries = printk_entry(side_a, s).zip(printk_entry(side_b, t));
            !lines.is_empty() && same_but(&lines) || entries.is_some_and(same_entries)
        }
        _ => false,
    };
    (!same).then(|| {
        (DataChange::Changed, format!("another initial value{}", place((a, s), (b, t), &lines)))
    })
}

/// What there is in `struct pi_entry` (include/linux/printk.h, packed) before and behind the line: offsets and sizes.
const BESIDE_LINE: [(u64, u64); 2] = [(0, 24), (28, 16)];

/// Where the entry is that a pointer in printk's index leads to.
fn printk_entry(side: &Side<'_, '_, '_>, pointer: &Symbol<'_>) -> Option<u64> {
    let table = side.section(pointer);
    if !matches!(table, "printk_index" | ".printk_index") || pointer.size != 8 {
        return None;
    }
    let (word, _) = side.names.bytes(pointer.address).split_first_chunk()?;
    let Target::Symbol(id, 0) = side.names.at(u64::from_le_bytes(*word)) else { return None };
    let (_, entry) = side.names.known(id)?;
    let constant = !side.names.writable(entry.section);
    let is_entry = constant && base(entry.name).text == "_entry" && entry.size == 44;
    is_entry.then_some(entry.address)
}

/// Where the first difference is that can be seen in the bytes.
fn place(
    (a, s): (&Names<'_, '_>, &Symbol<'_>),
    (b, t): (&Names<'_, '_>, &Symbol<'_>),
    lines: &Mask,
) -> String {
    let size = usize::try_from(s.size).unwrap_or(usize::MAX);
    let (Some(x), Some(y)) = (a.bytes(s.address).get(..size), b.bytes(t.address).get(..size))
    else {
        return String::new();
    };
    let mut words = x.chunks(8).zip(y.chunks(8)).enumerate();
    let differs = words.find_map(|(index, (x, y))| {
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some(without(lines, index, u64::from_le_bytes(word)))
        };
        let (old, new) = (word(x)?, word(y)?);
        // Small numbers are seldom offsets of per-CPU variables in an initial value.
        let tell = |names: &Names<'_, '_>, word: u64| match word < KERNEL {
            true => format!("{word:#x}"),
            false => names.describe(word),
        };
        let (old, new) = (tell(a, old), tell(b, new));
        (old != new).then(|| format!(" at +{:#x}: {old} became {new}", index * 8))
    });
    differs.unwrap_or_default()
}
