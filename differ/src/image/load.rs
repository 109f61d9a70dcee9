//! A linked image as it is: sections at their addresses, symbols with the source file they come from.

use object::LittleEndian as LE;
use object::elf;
use object::read::elf::{FileHeader, SectionHeader, Sym};

use crate::compressed::Budget;
use crate::error::{Error, Result};
use crate::lines::Debug;
use crate::load::{Room, Section, load_section};

/// A section and its address.
#[derive(Debug)]
pub struct Placed<'d> {
    /// Its content.
    pub section: Section<'d>,
    /// First address.
    pub address: u64,
}

/// A symbol of the image that stands for an address in it.
#[derive(Debug, Clone, Copy)]
pub struct Symbol<'d> {
    /// Its name.
    pub name: &'d str,
    /// Where it is.
    pub address: u64,
    /// `st_size`.
    pub size: u64,
    /// Index of its section.
    pub section: u32,
    /// `STT_*`.
    pub kind: u8,
    /// Whether other objects can refer to it.
    pub global: bool,
    /// Number of the `STT_FILE` symbol before it; 0 if there is none, or for global symbols.
    pub file: u32,
}

/// A linked x86-64 image (`vmlinux`).
#[derive(Debug)]
pub struct Image<'d> {
    /// The name errors carry.
    pub name: String,
    /// All sections, in the order of the file.
    pub sections: Vec<Placed<'d>>,
    /// All symbols that stand for an address, in the order of the file.
    pub symbols: Vec<Symbol<'d>>,
    /// The names of the `STT_FILE` symbols; the first is empty and stands for none.
    pub files: Vec<&'d str>,
}

/// Whether an ELF file for x86-64 is linked (`true`) or relocatable (`false`); anything else is an error.
pub fn is_linked(data: &[u8], name: &str) -> Result<bool> {
    let header = header(data, name)?;
    match header.e_type(LE) {
        elf::ET_REL => Ok(false),
        elf::ET_EXEC | elf::ET_DYN => Ok(true),
        other => Err(Error::new(
            name,
            format_args!("ELF type {other} is neither an object nor an image"),
        )),
    }
}

fn header<'d>(data: &'d [u8], name: &str) -> Result<&'d elf::FileHeader64<LE>> {
    let header = elf::FileHeader64::<LE>::parse(data)
        .map_err(|e| Error::new(name, format_args!("not a 64-bit little-endian ELF file ({e})")))?;
    if header.e_ident().data != elf::ELFDATA2LSB {
        return Err(Error::new(name, "big-endian ELF file; x86-64 files are little-endian"));
    }
    let machine = header.e_machine(LE);
    if machine != elf::EM_X86_64 {
        return Err(Error::new(
            name,
            format_args!("built for ELF machine {machine}, not x86-64 ({})", elf::EM_X86_64),
        ));
    }
    Ok(header)
}

impl<'d> Image<'d> {
    /// Reads an image; fails if it is not a whole, consistent linked file for x86-64.
    pub fn parse(data: &'d [u8], name: &str) -> Result<Self> {
        if !is_linked(data, name)? {
            return Err(Error::new(name, "a relocatable object, not a linked image"));
        }
        let bad = |e: object::read::Error| Error::new(name, e);
        let header = header(data, name)?;
        let table = header.sections(LE, data).map_err(bad)?;
        let mut sections = Vec::with_capacity(table.len());
        let (mut budget, mut room) = (Budget::of(data), Room::of(data));
        for (index, header) in table.enumerate() {
            let section_name = table
                .section_name(LE, header)
                .ok()
                .and_then(|n| std::str::from_utf8(n).ok())
                .ok_or_else(|| {
                    Error::new(name, format_args!("section {} has no readable name", index.0))
                })?;
            let section = load_section(name, section_name, header, data, &mut budget)?;
            let address = header.sh_addr(LE);
            if address.checked_add(section.size).is_none() {
                return Err(Error::new(name, "ends beyond the last address").section(section_name));
            }
            sections.push(Placed { section, address });
        }
        let mut image =
            Self { name: name.to_owned(), sections, symbols: Vec::new(), files: vec![""] };
        let symbols = table.symbols(LE, data, elf::SHT_SYMTAB).map_err(bad)?;
        image.symbols.reserve(symbols.len());
        for (index, symbol) in symbols.enumerate() {
            let text = room.name(name, index, symbols.symbol_name(LE, symbol).ok())?;
            if symbol.st_type() == elf::STT_FILE {
                image.files.push(text);
                continue;
            }
            if let Some(section) = symbols.symbol_section(LE, symbol, index).map_err(bad)? {
                image.add(symbol, text, section.0)?;
            }
        }
        Ok(image)
    }

    fn add(&mut self, symbol: &elf::Sym64<LE>, name: &'d str, section: usize) -> Result<()> {
        if name.is_empty() || matches!(symbol.st_type(), elf::STT_SECTION | elf::STT_TLS) {
            return Ok(());
        }
        if self.sections.get(section).is_none() {
            return Err(Error::new(
                &self.name,
                format_args!("defined in section {section}, which is not there"),
            )
            .symbol(name));
        }
        let global = symbol.st_bind() != elf::STB_LOCAL;
        self.symbols.push(Symbol {
            name,
            address: symbol.st_value(LE),
            size: symbol.st_size(LE),
            section: section as u32,
            kind: symbol.st_type(),
            global,
            file: if global { 0 } else { (self.files.len() as u32).saturating_sub(1) },
        });
        Ok(())
    }

    /// Its DWARF.
    pub(crate) fn debug(&self) -> Debug<'_> {
        Debug::of(self.sections.iter().map(|s| &s.section))
    }

    /// The section of that name.
    pub fn section(&self, name: &str) -> Option<&Placed<'d>> {
        self.sections.iter().find(|s| s.section.name == name)
    }
}
