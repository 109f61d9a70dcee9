//! What an address of an image is called, so that it can be found again in another image.
//!
//! A global symbol is known by its name. A local one is known by its name and its source file.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use object::elf;

use super::begins::begins;
use super::code::KERNEL;
use super::load::{Image, Symbol};
use super::special::Entries;
use crate::error::Result;
use crate::files::{self, Files};
use crate::names;
use crate::units::Units;

/// The name of a symbol on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Hash of name and file.
    pub hash: u64,
    /// Whether the compiler numbered it, so that several symbols may have this identity.
    pub numbered: bool,
}

/// The symbols of an image, by address.
#[derive(Debug)]
pub(super) struct Names<'i, 'd> {
    pub image: &'i Image<'d>,
    /// The sources of all.
    pub units: &'i Units,
    /// What its tables say of its functions.
    pub entries: Entries,
    /// Of each symbol of the image.
    pub identities: Vec<Identity>,
    /// Symbols by address; of those at one address the best first.
    sorted: Vec<u32>,
    /// Sections that occupy memory, by address.
    sections: Vec<(u64, u64, u32)>,
    /// Addresses of constants that something refers to, in order.
    begins: Vec<u64>,
    /// Where this CPU has its variables (`this_cpu_off`, read through `%gs:`).
    pub this_cpu: Range<u64>,
    /// Where each CPU has its (`__per_cpu_offset`).
    pub each_cpu: Range<u64>,
}

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// In or at a symbol.
    Symbol(u32, u64),
    /// In a section, where no symbol says what it is.
    Anonymous(u32),
    /// Not in the image.
    Number,
}

impl<'i, 'd> Names<'i, 'd> {
    /// Names all symbols; `files` numbers the source files so that both sides agree.
    pub(super) fn build(image: &'i Image<'d>, files: &[u64], units: &'i Units) -> Result<Self> {
        let identities = image
            .symbols
            .iter()
            .map(|symbol| identity(symbol, files.get(symbol.file as usize).copied().unwrap_or(0)))
            .collect();
        // Labels of the assembler say nothing: what is there does.
        let is_name = |i: &u32| {
            image.symbols.get(*i as usize).is_some_and(|symbol| !symbol.name.starts_with(".L"))
        };
        let mut sorted: Vec<u32> = (0..image.symbols.len() as u32).filter(is_name).collect();
        let rank = |i: &u32| {
            image
                .symbols
                .get(*i as usize)
                .map(|s| (s.address, s.size == 0, !s.global, s.name, s.section))
        };
        sorted.sort_by(|a, b| rank(a).cmp(&rank(b)));
        let mut sections: Vec<(u64, u64, u32)> = image
            .sections
            .iter()
            .enumerate()
            .filter(|(_, s)| s.section.is_alloc() && s.section.size > 0)
            .map(|(i, s)| (s.address, s.address.saturating_add(s.section.size), i as u32))
            .collect();
        sections.sort_unstable();
        let entries = Entries::build(image)?;
        let variable = |name: &str| {
            let found = image.symbols.iter().find(|symbol| symbol.name == name);
            found.map_or(0..0, |s| s.address..s.address.saturating_add(s.size))
        };
        let (this_cpu, each_cpu) = (variable("this_cpu_off"), variable("__per_cpu_offset"));
        let is_constant = |section| !writable(image, section);
        let begins = begins(image, is_constant, entries.leads());
        Ok(Self { image, units, entries, identities, sorted, sections, begins, this_cpu, each_cpu })
    }

    /// What a symbol is called on both sides, and the symbol.
    pub(super) fn known(&self, id: u32) -> Option<(&Identity, &Symbol<'d>)> {
        Some((self.identities.get(id as usize)?, self.image.symbols.get(id as usize)?))
    }

    /// The source that a symbol is from, as well as it is known.
    pub(super) fn source(&self, symbol: &Symbol<'_>) -> &str {
        let noted = || self.image.files.get(symbol.file as usize).copied().unwrap_or("");
        self.units.at(symbol.address).unwrap_or_else(noted)
    }

    fn section_at(&self, address: u64) -> Option<u32> {
        let after = self.sections.partition_point(|s| s.0 <= address);
        let (_, end, id) = self.sections.get(after.checked_sub(1)?)?;
        (address < *end).then_some(*id)
    }

    fn symbol(&self, position: usize) -> Option<(u32, &Symbol<'d>)> {
        let id = *self.sorted.get(position)?;
        Some((id, self.image.symbols.get(id as usize)?))
    }

    /// What is at an address.
    pub(super) fn at(&self, address: u64) -> Target {
        // The end of a section may have a name, too.
        let section = self.section_at(address);
        if section.is_none() && address < KERNEL {
            return Target::Number;
        }
        let first = self.sorted.partition_point(|i| {
            self.image.symbols.get(*i as usize).is_some_and(|s| s.address < address)
        });
        if let Some((id, symbol)) = self.symbol(first)
            && symbol.address == address
        {
            return Target::Symbol(id, 0);
        }
        let Some(section) = section else { return Target::Number };
        // Symbols may lie inside of others; eight steps back are more than they nest.
        for back in 1..=8 {
            let Some((_, symbol)) = first.checked_sub(back).and_then(|at| self.symbol(at)) else {
                break;
            };
            let end = symbol.address.saturating_add(symbol.size);
            if address < end && symbol.section == section {
                // The best name of that place.
                let start = self.sorted.partition_point(|i| {
                    self.image.symbols.get(*i as usize).is_some_and(|s| s.address < symbol.address)
                });
                let Some((id, best)) = self.symbol(start) else { break };
                return Target::Symbol(id, address - best.address);
            }
        }
        Target::Anonymous(section)
    }

    /// The bytes from an address to the end of its section.
    pub(super) fn bytes(&self, address: u64) -> &'i [u8] {
        let found = self.section_at(address).and_then(|id| self.image.sections.get(id as usize));
        let Some(found) = found else { return &[] };
        let offset = usize::try_from(address - found.address).unwrap_or(usize::MAX);
        found.section.data.get(offset..).unwrap_or(&[])
    }

    /// How many bytes there are from an address to the next symbol or to what something refers to, if that is so far away as
    /// `least`; or to the end of the section.
    pub(super) fn unnamed(&self, address: u64, least: usize) -> usize {
        let from = address.saturating_add(least.max(1) as u64);
        let begun = self.begins.partition_point(|begin| *begin < from);
        let next = self.begins.get(begun).copied().into_iter().chain(self.next_symbol(from)).min();
        let rest = self.bytes(address).len();
        let distance = next.and_then(|next| usize::try_from(next.checked_sub(address)?).ok());
        distance.map_or(rest, |distance| distance.min(rest))
    }

    /// The first address with a symbol, from one on.
    fn next_symbol(&self, from: u64) -> Option<u64> {
        let next = self.sorted.partition_point(|i| {
            self.image.symbols.get(*i as usize).is_some_and(|s| s.address < from)
        });
        self.symbol(next).map(|(_, symbol)| symbol.address)
    }

    /// What an address is behind at which there is nothing: the last symbol before it, and how far from that it is. Between that
    /// symbol's end and the next symbol lie only zeros, no more of them than it takes to align it.
    pub(super) fn behind(&self, address: u64) -> Option<(u32, u64)> {
        const ALIGNED: u64 = 64;
        let before = |address: u64, first: bool| {
            self.sorted.partition_point(|i| {
                let symbol = self.image.symbols.get(*i as usize);
                symbol.is_some_and(|s| s.address < address || !first && s.address == address)
            })
        };
        let section = self.section_at(address)?;
        let (_, last) = self.symbol(before(address, false).checked_sub(1)?)?;
        let (id, symbol) = self.symbol(before(last.address, true))?;
        let placed = self.image.sections.get(section as usize)?;
        let end = symbol.address.saturating_add(symbol.size);
        let rest = placed.address.saturating_add(placed.section.size);
        let next = self.next_symbol(address).map_or(rest, |next| next.min(rest));
        let gap = next.checked_sub(end)?;
        // Of `.bss` the file has no bytes.
        let bytes = self.bytes(end);
        let filling = bytes.get(..usize::try_from(gap).ok()?).unwrap_or(bytes);
        let nothing = gap < ALIGNED && filling.iter().all(|byte| *byte == 0);
        (nothing && symbol.section == section && end <= address)
            .then_some((id, address.wrapping_sub(symbol.address)))
    }

    /// Whether an address is in what fills the space between functions.
    pub(super) fn is_filling(&self, address: u64) -> bool {
        const INT3: u8 = 0xcc;
        matches!(self.at(address), Target::Anonymous(id) if self.executable(id))
            && self.bytes(address).first() == Some(&INT3)
    }

    /// What else something refers to: so many places before an address, and as many behind `len` bytes of it, with the end of
    /// the last. Nothing if there are not so many without a symbol between them.
    pub(super) fn neighbours(&self, at: u64, len: usize, many: usize) -> Option<(&[u64], &[u64])> {
        let here = self.begins.partition_point(|begin| *begin < at);
        let end = at.checked_add(len as u64)?;
        let behind = self.begins.partition_point(|begin| *begin < end);
        let before = self.begins.get(here.checked_sub(many)?..here)?;
        let after = self.begins.get(behind..)?.get(..=many)?;
        let (first, last) = (*before.first()?, *after.last()?);
        let within = self.bytes(first).len() as u64 > last.checked_sub(first)?;
        let named = self.next_symbol(first).is_some_and(|symbol| symbol <= last);
        (within && !named).then_some((before, after))
    }

    /// Whether there is anything at an address.
    pub(super) fn occupied(&self, address: u64) -> bool {
        self.section_at(address).is_some()
    }

    /// Whether the kernel may write there.
    pub(super) fn writable(&self, section: u32) -> bool {
        writable(self.image, section)
    }

    /// Whether a section holds code, which is no text, whatever its bytes look like.
    pub(super) fn executable(&self, section: u32) -> bool {
        self.image.sections.get(section as usize).is_some_and(|s| s.section.is_exec())
    }

    /// How a person would call an address.
    pub(super) fn describe(&self, address: u64) -> String {
        let target = match self.at(address) {
            Target::Anonymous(id) if self.writable(id) => self
                .behind(address)
                .map_or(Target::Anonymous(id), |(id, offset)| Target::Symbol(id, offset)),
            target => target,
        };
        match target {
            Target::Symbol(id, offset) => {
                let name = self.image.symbols.get(id as usize).map_or("?", |s| s.name);
                if offset == 0 { name.to_owned() } else { format!("{name}+{offset:#x}") }
            }
            Target::Anonymous(id) => match super::content::string_at(self, address) {
                Some(text) if !self.executable(id) => {
                    format!("{:?}", String::from_utf8_lossy(text))
                }
                _ => {
                    let name = self.image.sections.get(id as usize).map_or("?", |s| s.section.name);
                    format!("unnamed content of {name}")
                }
            },
            Target::Number => format!("{address:#x}"),
        }
    }
}

/// Whether the kernel may write to a section. The linker marks `.rodata` as writable, but it is not.
fn writable(image: &Image<'_>, section: u32) -> bool {
    let placed = image.sections.get(section as usize);
    placed.is_none_or(|s| s.section.is_write() && !s.section.name.starts_with(".rodata"))
}

fn identity(symbol: &Symbol<'_>, file: u64) -> Identity {
    let base = names::base(symbol.name);
    // The number of a type is known by the type.
    let numbered = base.text != symbol.name
        && !symbol.name.starts_with(names::BTF_ID)
        && (base.clone.is_empty() || symbol.name.bytes().any(|b| b.is_ascii_digit()));
    let mut hasher = DefaultHasher::new();
    let function = symbol.kind == elf::STT_FUNC;
    (base.text, base.clone, file, symbol.global, function).hash(&mut hasher);
    Identity { hash: hasher.finish(), numbered }
}

/// Numbers the source files of both images, so that one file has one number.
pub(super) fn number_files(a: &Image<'_>, b: &Image<'_>) -> (Vec<u64>, Vec<u64>) {
    files::number(&files_of(a), &files_of(b))
}

fn files_of<'d>(image: &Image<'d>) -> Files<'d> {
    Files::new(&image.files, image.symbols.iter().map(|symbol| (symbol.file, symbol.name)))
}
