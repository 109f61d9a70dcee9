//! File and line of every instruction, as the line tables tell.

use std::path::{Component, Path, PathBuf};

use crate::error::Result;
use crate::lines::{Debug, Reader, address, text};
use crate::load::{Elf, SectionId};

/// A place in a source file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The file, relative to the directory of compilation where it is under that.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
}

/// The line tables of an object, with files.
#[derive(Debug, Default)]
pub struct Sources {
    /// Address, line (0 ends a sequence), index of the file.
    rows: Vec<(u64, u64, usize)>,
    files: Vec<String>,
}

impl Sources {
    /// Reads them.
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
        debug.read_units(name, wanted, |dwarf, unit| all.read_unit(dwarf, unit))?;
        // Stable, and an end of sequence goes before what starts at the same address.
        all.rows.sort_by_key(|(address, line, _)| (*address, *line != 0));
        Ok(all)
    }

    fn read_unit(
        &mut self,
        dwarf: &gimli::Dwarf<Reader<'_>>,
        unit: &gimli::Unit<Reader<'_>>,
    ) -> gimli::Result<()> {
        let Some(program) = unit.line_program.clone() else { return Ok(()) };
        let mut known = std::collections::HashMap::new();
        let mut state = program.rows();
        while let Some((header, row)) = state.next_row()? {
            let file = match known.get(&row.file_index()) {
                Some(file) => *file,
                None => {
                    self.files.push(path(dwarf, unit, header, row)?);
                    known.insert(row.file_index(), self.files.len() - 1);
                    self.files.len() - 1
                }
            };
            let line = if row.end_sequence() { 0 } else { row.line().map_or(0, |l| l.get()) };
            self.rows.push((row.address(), line, file));
        }
        Ok(())
    }

    /// The source of the instruction at that place.
    pub fn at(&self, section: SectionId, offset: u64) -> Option<Source> {
        let (at, source) = self.at_address(address(section, offset))?;
        (at >> 32 == u64::from(section.0)).then_some(source)
    }

    /// The source of what is at an address, and the address from which that holds.
    pub(crate) fn at_address(&self, wanted: u64) -> Option<(u64, Source)> {
        let end = self.rows.partition_point(|r| r.0 <= wanted);
        let (at, line, file) = *self.rows.get(end.checked_sub(1)?)?;
        let file = || self.files.get(file).cloned().unwrap_or_default();
        (line != 0).then(|| (at, Source { file: file(), line }))
    }
}

fn path(
    dwarf: &gimli::Dwarf<Reader<'_>>,
    unit: &gimli::Unit<Reader<'_>>,
    header: &gimli::LineProgramHeader<Reader<'_>>,
    row: &gimli::LineRow,
) -> gimli::Result<String> {
    let Some(file) = row.file(header) else { return Ok("?".to_owned()) };
    let mut path = PathBuf::new();
    if let Some(directory) = file.directory(header) {
        path.push(text(dwarf.attr_string(unit, directory)?));
    }
    path.push(text(dwarf.attr_string(unit, file.path_name())?));
    let compiled_in = unit.comp_dir.map(text).unwrap_or_default();
    Ok(relative(&path, &compiled_in))
}

/// A file as it is called from the directory of compilation, where it is under that.
pub(crate) fn relative(path: impl AsRef<Path>, compiled_in: &str) -> String {
    let path = path.as_ref();
    clean(path.strip_prefix(compiled_in).unwrap_or(path)).display().to_string()
}

/// The path without `.`, and without `..` where that is sure.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if clean.file_name().is_some() => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}
