//! Which source file each function and variable of a linked file comes from, as DWARF tells.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::layout::fixed_address;
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
        Self::read(&elf.name, &Debug::load(elf)?)
    }

    /// Reads those of a linked image.
    pub fn of_image(image: &Image<'_>) -> Result<Self> {
        Self::read(&image.name, &image.debug())
    }

    fn read(name: &str, debug: &Debug<'_>) -> Result<Self> {
        let dwarf = debug.dwarf();
        let bad = |e: gimli::Error| Error::new(name, format_args!("DWARF: {e}"));
        let mut headers = Vec::new();
        let mut units = dwarf.units();
        while let Some(header) = units.next().map_err(bad)? {
            headers.push(header);
        }
        let read: Vec<(String, Vec<u64>)> = headers
            .par_iter()
            .map(|header| read_unit(&dwarf.unit(*header)?))
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

/// A unit's name, and where its variables are.
fn read_unit(unit: &gimli::Unit<Reader<'_>>) -> gimli::Result<(String, Vec<u64>)> {
    let directory = unit.comp_dir.map(text).unwrap_or_default();
    let name = in_tree(&unit.name.map(text).unwrap_or_default(), &directory).to_owned();
    let mut variables = Vec::new();
    // An image has tens of millions of entries: what is no variable is skipped without being understood.
    let mut entries = unit.entries_raw(None)?;
    while !entries.is_empty() {
        let Some(abbreviation) = entries.read_abbreviation()? else { continue };
        if abbreviation.tag() != gimli::DW_TAG_variable {
            entries.skip_attributes(abbreviation.attributes())?;
            continue;
        }
        for specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(*specification)?;
            if attribute.name() == gimli::DW_AT_location {
                variables.extend(fixed_address(unit, attribute.value())?);
            }
        }
    }
    Ok((name, variables))
}

/// A source's name without the directories that it shares with the one it was compiled in: the assembler gives whole
/// paths where the compiler does not, and they have the version in them.
fn in_tree<'n>(name: &'n str, directory: &str) -> &'n str {
    let mut rest = name;
    if !name.starts_with('/') || !directory.starts_with('/') {
        return name;
    }
    for part in directory.split('/') {
        match rest.strip_prefix(part).and_then(|rest| rest.strip_prefix('/')) {
            Some(after) => rest = after,
            None => break,
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_known_by_its_place_in_the_tree() {
        let built = "/build/linux-6.1.187/debian/build/amd64";
        assert_eq!(
            in_tree("/build/linux-6.1.187/arch/x86/lib/getuser.S", built),
            "arch/x86/lib/getuser.S"
        );
        assert_eq!(in_tree("/src/a.S", "/src"), "a.S");
        assert_eq!(in_tree("/src/linux/a.S", "/src/linu"), "linux/a.S");
        assert_eq!(in_tree("fs/pipe.c", built), "fs/pipe.c");
        assert_eq!(in_tree("/elsewhere/a.c", ""), "/elsewhere/a.c");
    }
}
