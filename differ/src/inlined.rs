//! Which inlined function an instruction comes from, as DWARF tells.

use crate::error::Result;
use crate::lines::{Debug, Reader, address, text};
use crate::load::{Elf, SectionId};

/// All ranges of inlined subroutines of an object.
#[derive(Debug, Default)]
pub struct Inlined {
    /// Start, end, depth, name; by start.
    ranges: Vec<(u64, u64, isize, String)>,
}

impl Inlined {
    /// Reads `DW_TAG_inlined_subroutine` of all units.
    pub fn load(elf: &Elf<'_>) -> Result<Self> {
        Self::of(&elf.name, &Debug::load(elf)?, &|_| true)
    }

    /// Reads those of some units, by their number in the file.
    pub(crate) fn of(
        name: &str,
        debug: &Debug<'_>,
        wanted: &dyn Fn(usize) -> bool,
    ) -> Result<Self> {
        let mut all = Self::default();
        // A list of ranges belongs to one function; more ranges than bytes mean that hostile
        // functions share theirs.
        let sections = [".debug_info", ".debug_rnglists", ".debug_ranges"];
        let limit = sections.iter().map(|name| debug.section(name).len()).sum();
        debug.read_units(name, wanted, |dwarf, unit| all.read_unit(dwarf, unit, limit))?;
        all.ranges.sort();
        Ok(all)
    }

    fn read_unit(
        &mut self,
        dwarf: &gimli::Dwarf<Reader<'_>>,
        unit: &gimli::Unit<Reader<'_>>,
        limit: usize,
    ) -> gimli::Result<()> {
        let mut depth = 0;
        let mut entries = unit.entries();
        while let Some((delta, entry)) = entries.next_dfs()? {
            depth += delta;
            if entry.tag() != gimli::DW_TAG_inlined_subroutine {
                continue;
            }
            let Some(name) = origin_name(dwarf, unit, entry, 0)? else { continue };
            if ends_past_all(dwarf, unit, entry)? {
                return Err(gimli::Error::UnsupportedOffset);
            }
            let mut ranges = dwarf.die_ranges(unit, entry)?;
            while let Some(range) = ranges.next()? {
                if range.begin < range.end {
                    if self.ranges.len() >= limit {
                        return Err(gimli::Error::UnsupportedOffset);
                    }
                    self.ranges.push((range.begin, range.end, depth, name.clone()));
                }
            }
        }
        Ok(())
    }

    /// Whether code of that inlined function is between two addresses.
    pub fn is_within(&self, name: &str, start: u64, end: u64) -> bool {
        self.ranges.iter().any(|r| r.3 == name && r.0 < end && start < r.1)
    }

    /// Start and end of all code of that inlined function.
    pub(crate) fn of_name<'n>(&'n self, name: &'n str) -> impl Iterator<Item = (u64, u64)> + 'n {
        self.ranges.iter().filter(move |r| r.3 == name).map(|r| (r.0, r.1))
    }

    /// The innermost inlined function at that place.
    pub fn at(&self, section: SectionId, offset: u64) -> Option<&str> {
        self.at_address(address(section, offset))
    }

    /// The innermost inlined function at an address.
    pub(crate) fn at_address(&self, wanted: u64) -> Option<&str> {
        let end = self.ranges.partition_point(|r| r.0 <= wanted);
        self.ranges
            .get(..end)?
            .iter()
            .filter(|r| wanted < r.1)
            .max_by_key(|r| (r.2, r.0))
            .map(|r| r.3.as_str())
    }
}

/// Whether `DW_AT_low_pc` and the size in `DW_AT_high_pc` make no address, which gimli 0.32 adds without a check. Of those
/// that are there twice it takes the last.
fn ends_past_all(
    dwarf: &gimli::Dwarf<Reader<'_>>,
    unit: &gimli::Unit<Reader<'_>>,
    entry: &gimli::DebuggingInformationEntry<'_, '_, Reader<'_>>,
) -> gimli::Result<bool> {
    let (mut low, mut size) = (0u64, 0u64);
    let mut attributes = entry.attrs();
    while let Some(attribute) = attributes.next()? {
        match attribute.name() {
            gimli::DW_AT_low_pc => {
                low = low.max(dwarf.attr_address(unit, attribute.value())?.unwrap_or(0));
            }
            gimli::DW_AT_high_pc => size = size.max(attribute.udata_value().unwrap_or(0)),
            _ => {}
        }
    }
    Ok(low.checked_add(size).is_none())
}

/// The name of the abstract function; origins may chain, but not for long.
fn origin_name(
    dwarf: &gimli::Dwarf<Reader<'_>>,
    unit: &gimli::Unit<Reader<'_>>,
    entry: &gimli::DebuggingInformationEntry<'_, '_, Reader<'_>>,
    depth: usize,
) -> gimli::Result<Option<String>> {
    if let Some(name) = entry.attr_value(gimli::DW_AT_name)? {
        return Ok(Some(text(dwarf.attr_string(unit, name)?)));
    }
    match entry.attr_value(gimli::DW_AT_abstract_origin)? {
        Some(gimli::AttributeValue::UnitRef(offset)) if depth < 8 => {
            origin_name(dwarf, unit, &unit.entry(offset)?, depth + 1)
        }
        _ => Ok(None),
    }
}
