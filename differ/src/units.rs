//! Which source file each function and variable of a linked file comes from, as DWARF tells.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::layout::static_address;
use crate::lines::{Debug, Reader, address, text};
use crate::load::{Elf, SectionId};

/// The units of one file, by what they define.
#[derive(Debug, Default)]
pub struct Units {
    /// The sources, as the compiler was given them.
    names: Vec<String>,
    /// Start, end and unit of code, by start.
    code: Vec<(u64, u64, usize)>,
    /// Units of variables, by address.
    variables: BTreeMap<u64, usize>,
}

impl Units {
    /// Reads those of a relocatable file (a module).
    pub fn of_object(elf: &Elf<'_>) -> Result<Self> {
        Self::read(&elf.name, &Debug::load(elf)?, Variables::All)
    }

    /// Reads those of a linked image; of the variables only those of files, for an image is large. Others are static, and
    /// the linker notes their file.
    pub fn of_image(image: &Image<'_>) -> Result<Self> {
        let debug = Debug::of(image.sections.iter().map(|s| &s.section));
        Self::read(&image.name, &debug, Variables::OfFiles)
    }

    fn read(name: &str, debug: &Debug<'_>, variables: Variables) -> Result<Self> {
        let dwarf = debug.dwarf();
        let bad = |e: gimli::Error| Error::new(name, format_args!("DWARF: {e}"));
        let mut headers = Vec::new();
        let mut units = dwarf.units();
        while let Some(header) = units.next().map_err(bad)? {
            headers.push(header);
        }
        let read: Vec<(String, Vec<u64>)> = headers
            .par_iter()
            .map(|header| read_unit(&dwarf.unit(*header)?, variables))
            .collect::<gimli::Result<_>>()
            .map_err(bad)?;
        let numbers: HashMap<_, usize> = headers
            .iter()
            .enumerate()
            .filter_map(|(n, h)| Some((h.offset().as_debug_info_offset()?, n)))
            .collect();
        let mut all = Self::default();
        for (number, (source, variables)) in read.into_iter().enumerate() {
            all.names.push(source);
            all.variables.extend(variables.into_iter().map(|at| (at, number)));
        }
        let mut ranges = dwarf.debug_aranges.headers();
        while let Some(header) = ranges.next().map_err(bad)? {
            let Some(number) = numbers.get(&header.debug_info_offset()) else { continue };
            let mut entries = header.entries();
            while let Some(entry) = entries.next().map_err(bad)? {
                let range = entry.range();
                all.code.push((range.begin, range.end, *number));
            }
        }
        all.code.sort_unstable();
        Ok(all)
    }

    /// The source of what is at an address of an image.
    pub fn at(&self, address: u64) -> Option<&str> {
        let number = self.variables.get(&address).copied().or_else(|| self.of_code(address))?;
        self.names.get(number).map(String::as_str)
    }

    /// The source of a unit.
    pub(crate) fn source(&self, number: usize) -> Option<&str> {
        self.names.get(number).map(String::as_str)
    }

    /// The number of the unit that the code at an address is from.
    pub(crate) fn of_code(&self, address: u64) -> Option<usize> {
        let after = self.code.partition_point(|range| range.0 <= address);
        let (_, end, number) = self.code.get(after.checked_sub(1)?)?;
        (address < *end).then_some(*number)
    }

    /// The source of what is at an offset of a section of a relocatable file.
    pub fn in_section(&self, section: SectionId, offset: u64) -> Option<&str> {
        self.at(address(section, offset))
    }

    /// All sources.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

/// Which variables to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variables {
    /// All of them.
    All,
    /// Those outside of functions.
    OfFiles,
}

/// A unit's name, and where its variables are.
fn read_unit(
    unit: &gimli::Unit<Reader<'_>>,
    wanted: Variables,
) -> gimli::Result<(String, Vec<u64>)> {
    let name = unit.name.map(text).unwrap_or_default();
    let mut variables = Vec::new();
    let mut entries = unit.entries();
    // The unit's own entry, then what is in it.
    entries.next_dfs()?;
    let mut next = entries.next_dfs()?.map(|(_, entry)| entry.clone());
    while let Some(entry) = next {
        if entry.tag() == gimli::DW_TAG_variable
            && let Some(at) = static_address(unit, &entry)?
        {
            variables.push(at);
        }
        next = match wanted {
            Variables::All => entries.next_dfs()?.map(|(_, entry)| entry.clone()),
            Variables::OfFiles => entries.next_sibling()?.cloned(),
        };
    }
    Ok((name, variables))
}
