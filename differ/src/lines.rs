//! Phase 4: the DWARF of one object, and source lines for its instructions.
//!
//! In a relocatable object every section starts at 0. Addresses are made unique by pretending
//! that section `n` is at `n << 32`; the DWARF sections are copied and relocated once with it.

use std::borrow::Cow;

use gimli::{EndianSlice, LittleEndian};
use object::elf;

use crate::error::{Error, Result};
use crate::load::{Definition, Elf, SectionId};

pub(crate) type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// The relocated DWARF sections of an object.
#[derive(Debug)]
pub struct Debug<'e> {
    sections: Vec<(gimli::SectionId, Cow<'e, [u8]>)>,
}

const SECTIONS: &[gimli::SectionId] = &[
    gimli::SectionId::DebugAbbrev,
    gimli::SectionId::DebugAddr,
    gimli::SectionId::DebugAranges,
    gimli::SectionId::DebugInfo,
    gimli::SectionId::DebugLine,
    gimli::SectionId::DebugLineStr,
    gimli::SectionId::DebugLoc,
    gimli::SectionId::DebugLocLists,
    gimli::SectionId::DebugRanges,
    gimli::SectionId::DebugRngLists,
    gimli::SectionId::DebugStr,
    gimli::SectionId::DebugStrOffsets,
    gimli::SectionId::DebugTypes,
];

/// The address that stands for an offset in a section.
pub(crate) fn address(section: SectionId, offset: u64) -> u64 {
    (u64::from(section.0) << 32).wrapping_add(offset)
}

impl<'e> Debug<'e> {
    /// Copies and relocates the DWARF sections of `elf`.
    pub fn load(elf: &'e Elf<'_>) -> Result<Self> {
        let mut sections = Vec::new();
        for id in SECTIONS {
            let Some((_, section)) = elf.section_by_name(id.name()) else { continue };
            let mut data = Cow::Borrowed(section.data.as_ref());
            if !section.relocations.is_empty() {
                relocate(elf, section, data.to_mut())?;
            }
            sections.push((*id, data));
        }
        Ok(Self { sections })
    }

    /// The DWARF sections of a linked image, which need no relocation.
    pub(crate) fn of<'d: 'e>(
        all: impl Iterator<Item = &'e crate::load::Section<'d>> + Clone,
    ) -> Self {
        let find = |id: &gimli::SectionId| {
            let section = all.clone().find(|s| s.name == id.name())?;
            Some((*id, Cow::Borrowed(section.data.as_ref())))
        };
        Self { sections: SECTIONS.iter().filter_map(find).collect() }
    }

    /// The DWARF reader over these sections.
    pub fn dwarf(&self) -> gimli::Dwarf<Reader<'_>> {
        let load = |id: gimli::SectionId| -> std::result::Result<Reader<'_>, ()> {
            let data = self.sections.iter().find(|(s, _)| *s == id).map(|(_, d)| d.as_ref());
            Ok(EndianSlice::new(data.unwrap_or(&[]), LittleEndian))
        };
        gimli::Dwarf::load(load).unwrap_or_else(|()| gimli::Dwarf::default_empty())
    }

    /// Reads some units, by their number in the file; `name` is the file's, for messages.
    pub(crate) fn read_units(
        &self,
        name: &str,
        wanted: &dyn Fn(usize) -> bool,
        mut read: impl FnMut(&gimli::Dwarf<Reader<'_>>, &gimli::Unit<Reader<'_>>) -> gimli::Result<()>,
    ) -> Result<()> {
        let dwarf = self.dwarf();
        let bad = |e: gimli::Error| Error::new(name, format_args!("DWARF: {e}"));
        let (mut units, mut numbers) = (dwarf.units(), 0..);
        while let Some(header) = units.next().map_err(bad)? {
            if numbers.next().is_some_and(wanted) {
                let unit = dwarf.unit(header).map_err(bad)?;
                read(&dwarf, &unit).map_err(bad)?;
            }
        }
        Ok(())
    }

    /// A section as relocated, by its name; empty if it is not there.
    pub fn section(&self, name: &str) -> &[u8] {
        self.sections.iter().find(|(id, _)| id.name() == name).map_or(&[], |(_, data)| data)
    }

    /// Whether the object has any DWARF at all.
    pub fn is_empty(&self) -> bool {
        !self.sections.iter().any(|(id, _)| *id == gimli::SectionId::DebugInfo)
    }
}

trait DefaultEmpty {
    fn default_empty() -> Self;
}

impl DefaultEmpty for gimli::Dwarf<Reader<'_>> {
    fn default_empty() -> Self {
        gimli::Dwarf::default()
    }
}

fn relocate(elf: &Elf<'_>, section: &crate::load::Section<'_>, data: &mut [u8]) -> Result<()> {
    for r in &section.relocations {
        let symbol = elf.symbol(r.symbol)?;
        let base = match symbol.definition {
            // Debug sections refer to each other by offset.
            Definition::Section(id) if elf.section(id)?.is_alloc() => address(id, symbol.value),
            _ => symbol.value,
        };
        let value = (base as i64).wrapping_add(r.addend);
        let error = |what: &str| Error::new(&elf.name, what).section(section.name).offset(r.offset);
        let at = usize::try_from(r.offset).map_err(|_| error("offset too large"))?;
        match r.r_type {
            elf::R_X86_64_64 => data
                .get_mut(at..at.saturating_add(8))
                .ok_or_else(|| error("truncated"))?
                .copy_from_slice(&value.to_le_bytes()),
            elf::R_X86_64_32 | elf::R_X86_64_32S => data
                .get_mut(at..at.saturating_add(4))
                .ok_or_else(|| error("truncated"))?
                .copy_from_slice(&(value as u32).to_le_bytes()),
            other => return Err(error(&format!("relocation type {other} in a debug section"))),
        }
    }
    Ok(())
}

/// One row of the line table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    address: u64,
    /// 0 ends a sequence.
    line: u64,
}

/// Which source lines an instruction stands for.
#[derive(Debug, Default)]
pub struct Lines {
    rows: Vec<Row>,
}

impl Lines {
    /// Reads all line tables.
    pub fn load(elf: &Elf<'_>) -> Result<Self> {
        Self::of(&elf.name, &Debug::load(elf)?, &|_| true)
    }

    /// Reads the line tables of some units, by their number in the file.
    pub(crate) fn of(
        name: &str,
        debug: &Debug<'_>,
        wanted: &dyn Fn(usize) -> bool,
    ) -> Result<Self> {
        let mut rows = Vec::new();
        debug.read_units(name, wanted, |_, unit| {
            let Some(program) = unit.line_program.clone() else { return Ok(()) };
            let mut state = program.rows();
            while let Some((_, row)) = state.next_row()? {
                let line = if row.end_sequence() { 0 } else { row.line().map_or(0, |l| l.get()) };
                rows.push(Row { address: row.address(), line });
            }
            Ok(())
        })?;
        // Stable, and an end of sequence goes before what starts at the same address.
        rows.sort_by_key(|r| (r.address, r.line != 0));
        Ok(Self { rows })
    }

    /// The lines that the table gives for the instruction at that place: those of the last
    /// rows at or before it.
    pub fn at(&self, section: SectionId, offset: u64) -> impl Iterator<Item = u64> + '_ {
        let first = address(section, 0);
        self.at_address(address(section, offset))
            .filter(move |(at, _)| *at >= first)
            .map(|row| row.1)
    }

    /// The lines of the instruction at an address, each with the address from which it holds.
    pub(crate) fn at_address(&self, address: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let end = self.rows.partition_point(|r| r.address <= address);
        let rows = self.rows.get(..end).unwrap_or(&[]);
        let last = rows.last().map(|r| r.address);
        rows.iter()
            .rev()
            .take_while(move |r| Some(r.address) == last)
            .map(|r| (r.address, r.line))
            .filter(|(_, line)| *line != 0)
    }

    /// The line to show to a person.
    pub fn first(&self, section: SectionId, offset: u64) -> Option<u64> {
        self.at(section, offset).next()
    }
}

/// A readable string of a DWARF attribute.
pub(crate) fn text(reader: Reader<'_>) -> String {
    reader.to_string_lossy().into_owned()
}
