//! What an image's tables say of places in its functions: exceptions, alternatives, static branches, bugs.
//!
//! An image has no relocations, so an entry is known by where its first field leads. Entries have the sizes of
//! Linux 5.x to 6.x; a table that fits none of them, or more than one, is an error: what an entry says is unknown then.

use std::cmp::Ordering;

use super::code::{Pairs, Side, same_aside, same_code};
use super::load::{Image, Placed};
use super::names::Names;
use crate::error::{Error, Result};
use crate::special::Class;

/// A kind of table: its name, and the sizes that its entries have had.
const TABLES: [(Class, &str, &[usize]); 4] = [
    (Class::ExceptionTable, "__ex_table", &[12]),
    // With padlen until 5.10, with flags since 6.3.
    (Class::Alternatives, ".altinstructions", &[12, 13, 14]),
    (Class::JumpTable, "__jump_table", &[16]),
    // Without CONFIG_DEBUG_BUGVERBOSE 8, with it 12.
    (Class::BugTable, "__bug_table", &[8, 12]),
];

/// An entry, and what it says, by what that points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// The instruction it is of.
    pub site: u64,
    pub class: Class,
    /// What must be equal as it is.
    pub number: u64,
    /// Where it leads: the fixup, the target of a branch, the file of a bug.
    pub leads: Option<u64>,
    /// The key of a branch.
    pub key: Option<u64>,
    /// The code that may be put there, and its length.
    pub replacement: Option<(u64, usize)>,
}

/// The entries of all tables of an image.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// By the instruction.
    sorted: Vec<Entry>,
}

impl Entries {
    /// Reads an image's tables.
    pub(super) fn build(image: &Image<'_>) -> Result<Self> {
        let code = Code::of(image);
        let mut sorted = Vec::new();
        for (class, name, sizes) in TABLES {
            let Some((address, bytes)) = table(image, name) else { continue };
            sorted.extend(read(class, sizes, address, bytes, &code).ok_or_else(|| {
                let what = "its entries are not understood, so that functions cannot be compared";
                Error::new(&image.name, what).section(name)
            })?);
        }
        sorted.sort_unstable();
        Ok(Self { sorted })
    }

    /// Where all lead.
    pub(super) fn leads(&self) -> impl Iterator<Item = u64> {
        self.sorted.iter().filter_map(|entry| entry.leads)
    }

    /// Those of the instructions from one address to another.
    pub(super) fn within(&self, start: u64, len: usize) -> &[Entry] {
        let end = start.saturating_add(len as u64);
        let from = self.sorted.partition_point(|entry| entry.site < start);
        let to = self.sorted.partition_point(|entry| entry.site < end);
        self.sorted.get(from..to).unwrap_or_default()
    }
}

/// Where a table is and what it holds: a section, or a part of one that the linker has marked.
fn table<'i>(image: &'i Image<'_>, name: &str) -> Option<(u64, &'i [u8])> {
    if let Some(placed) = image.section(name) {
        return Some((placed.address, &placed.section.data));
    }
    let mark = |prefix: &str| {
        let is_mark = |s: &&str| s.strip_prefix(prefix).is_some_and(|rest| rest == name);
        image.symbols.iter().find(|symbol| is_mark(&symbol.name)).copied()
    };
    let (start, stop) = (mark("__start_")?, mark("__stop_")?);
    let placed = image.sections.get(start.section as usize)?;
    let at = |address: u64| usize::try_from(address.checked_sub(placed.address)?).ok();
    Some((start.address, placed.section.data.get(at(start.address)?..at(stop.address)?)?))
}

/// The places of an image that hold code.
struct Code(Vec<(u64, u64)>);

impl Code {
    fn of(image: &Image<'_>) -> Self {
        let holds = |placed: &&Placed<'_>| placed.section.is_exec();
        let extent = |placed: &Placed<'_>| {
            (placed.address, placed.address.saturating_add(placed.section.size))
        };
        Self(image.sections.iter().filter(holds).map(extent).collect())
    }

    fn has(&self, address: u64) -> bool {
        self.0.iter().any(|(start, end)| (*start..*end).contains(&address))
    }
}

/// All entries of a table, if exactly one size makes sense of all of them.
fn read(
    class: Class,
    sizes: &[usize],
    address: u64,
    bytes: &[u8],
    code: &Code,
) -> Option<Vec<Entry>> {
    let mut fitting =
        sizes.iter().filter(|size| bytes.len().is_multiple_of(**size)).filter_map(|size| {
            let entries = bytes.chunks_exact(*size).enumerate();
            entries
                .map(|(index, raw)| {
                    let at = address.checked_add(index.checked_mul(*size)? as u64)?;
                    entry(class, Raw { at, bytes: raw }).filter(|entry| entry.makes_sense(code))
                })
                .collect::<Option<Vec<Entry>>>()
        });
    let first = fitting.next()?;
    (first.is_empty() || fitting.next().is_none()).then_some(first)
}

/// The bytes of an entry and where they are.
struct Raw<'d> {
    at: u64,
    bytes: &'d [u8],
}

impl Raw<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }

    fn u32(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u32::from_le_bytes).map(u64::from)
    }

    fn u8(&self, at: usize) -> Option<u64> {
        self.bytes::<1>(at).map(|[byte]| byte.into())
    }

    /// Where a distance from its own field leads.
    fn near(&self, at: usize) -> Option<u64> {
        let distance = i64::from(i32::from_le_bytes(self.bytes(at)?));
        Some(self.at.wrapping_add(at as u64).wrapping_add_signed(distance))
    }
}

fn entry(class: Class, raw: Raw<'_>) -> Option<Entry> {
    let site = raw.near(0)?;
    let plain = Entry { site, class, number: 0, leads: None, key: None, replacement: None };
    let end = raw.bytes.len();
    Some(match class {
        Class::ExceptionTable => Entry { number: raw.u32(8)?, leads: Some(raw.near(4)?), ..plain },
        Class::Alternatives => {
            // cpuid and flags are between the distances and the lengths.
            let lengths = if end == 13 { [end - 3, end - 2] } else { [end - 2, end - 1] };
            let ([len, replaced_by], flags) = (lengths, raw.bytes.get(8..lengths[0])?);
            let flags = flags.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
            let length = usize::try_from(raw.u8(replaced_by)?).ok()?;
            Entry {
                number: flags << 8 | raw.u8(len)?,
                replacement: Some((raw.near(4)?, length)),
                ..plain
            }
        }
        Class::JumpTable => {
            let distance = i64::from_le_bytes(raw.bytes(8)?);
            let key = raw.at.wrapping_add(8).wrapping_add_signed(distance);
            // Bit 0 says which way is likely (jump_entry_is_branch).
            Entry { number: key & 1, leads: Some(raw.near(4)?), key: Some(key & !3), ..plain }
        }
        // The line is not compared.
        Class::BugTable if end == 12 => {
            let flags = u16::from_le_bytes(raw.bytes(10)?);
            Entry { number: flags.into(), leads: Some(raw.near(4)?), ..plain }
        }
        Class::BugTable => Entry { number: u16::from_le_bytes(raw.bytes(4)?).into(), ..plain },
        _ => return None, // Not one of `TABLES`.
    })
}

impl Entry {
    /// The name of its table.
    pub(super) fn table(&self) -> &'static str {
        TABLES.iter().find(|table| table.0 == self.class).map_or("", |table| table.1)
    }

    fn makes_sense(&self, code: &Code) -> bool {
        let replacement = self
            .replacement
            .is_none_or(|(at, len)| len == 0 || code.has(at) && len as u64 <= self.number & 0xff);
        let leads = match self.class {
            Class::ExceptionTable | Class::JumpTable => self.leads.is_some_and(|to| code.has(to)),
            _ => true,
        };
        code.has(self.site) && replacement && leads
    }
}

/// What differs between what the tables say of two functions whose instructions are the same.
pub(super) fn compare(
    a: &Side<'_, '_, '_>,
    b: &Side<'_, '_, '_>,
    pairs: &mut Pairs,
) -> std::result::Result<(), String> {
    let old = a.names.entries.within(a.start, a.bytes.len());
    let new = b.names.entries.within(b.start, b.bytes.len());
    let wrong = |side: &Side<'_, '_, '_>, entry: &Entry, what: &str| {
        let at = entry.site.wrapping_sub(side.start);
        Err(format!("at +{at:#x}: {what} (entry of {})", entry.table()))
    };
    let known = |side: &Side<'_, '_, '_>, e: &Entry| (e.site.wrapping_sub(side.start), e.class);
    for (entry, other) in old.iter().zip(new) {
        match known(a, entry).cmp(&known(b, other)) {
            Ordering::Less => return wrong(a, entry, "is gone"),
            Ordering::Greater => return wrong(b, other, "is new"),
            Ordering::Equal => {}
        }
        if let Some(what) = difference(a, entry, b, other, pairs) {
            return wrong(a, entry, &what);
        }
    }
    match (old.get(new.len()), new.get(old.len())) {
        (Some(entry), _) => wrong(a, entry, "is gone"),
        (_, Some(other)) => wrong(b, other, "is new"),
        (None, None) => Ok(()),
    }
}

/// Whether the tables have entries of the same kinds for the same places of both, with the same flags. Where they lead is
/// not looked at: that may be back here.
pub(super) fn alike(a: &Side<'_, '_, '_>, b: &Side<'_, '_, '_>) -> bool {
    let told = |side: &Side<'_, '_, '_>| -> Vec<(u64, Class, u64)> {
        let entries = side.names.entries.within(side.start, side.bytes.len()).iter();
        entries.map(|e| (e.site.wrapping_sub(side.start), e.class, e.number)).collect()
    };
    told(a) == told(b)
}

fn difference(
    a: &Side<'_, '_, '_>,
    x: &Entry,
    b: &Side<'_, '_, '_>,
    y: &Entry,
    pairs: &mut Pairs,
) -> Option<String> {
    if x.number != y.number {
        return Some(format!("flags {:#x} became {:#x}", x.number, y.number));
    }
    for (p, q) in [(x.leads, y.leads), (x.key, y.key)] {
        if !leads_alike(a, p, b, q, pairs) {
            let tell = |names: &Names<'_, '_>, address: Option<u64>| {
                address.map_or("nothing".to_owned(), |address| names.describe(address))
            };
            return Some(format!("{} became {}", tell(a.names, p), tell(b.names, q)));
        }
    }
    let same = puts_the_same(a, x, b, y, pairs);
    (!same).then(|| "other code may be put there".to_owned())
}

/// Whether two addresses that entries have, if they have one, are of the same place.
pub(super) fn leads_alike(
    a: &Side<'_, '_, '_>,
    p: Option<u64>,
    b: &Side<'_, '_, '_>,
    q: Option<u64>,
    pairs: &mut Pairs,
) -> bool {
    match (p, q) {
        (Some(p), Some(q)) => a.same_place(p, b, q, pairs) || same_aside(a, p, b, q, pairs),
        (p, q) => p == q,
    }
}

/// Whether the code that two entries may put there is the same, if they put any.
pub(super) fn puts_the_same(
    a: &Side<'_, '_, '_>,
    x: &Entry,
    b: &Side<'_, '_, '_>,
    y: &Entry,
    pairs: &mut Pairs,
) -> bool {
    match (x.replacement, y.replacement) {
        (Some((p, len)), Some((q, other))) => {
            len == other && same_code(&a.aside(p, len), &b.aside(q, other), pairs).is_ok()
        }
        _ => true,
    }
}

/// Where ftrace has its sites, in order; nothing if the image does not say.
pub(super) fn sites(image: &Image<'_>) -> Option<Vec<u64>> {
    let (_, bytes) = table(image, "mcount_loc")?;
    let mut sites: Vec<u64> =
        bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    sites.sort_unstable();
    Some(sites)
}

/// Whether a function that has code can be called through ftrace.
pub(super) fn has_site(sites: &[u64], start: u64, size: u64) -> bool {
    let from = sites.partition_point(|site| *site < start);
    sites.get(from).is_some_and(|site| site.wrapping_sub(start) < size)
}
