//! Phase 1: the raw ELF file. Everything an index or an offset could point outside of is
//! checked here, once, so that later phases can look things up by typed ids.

use std::borrow::Cow;

use object::LittleEndian as LE;
use object::elf;
use object::read::SymbolIndex;
use object::read::elf::{FileHeader, Rela, SectionHeader, Sym};
use serde::Serialize;

use crate::compressed::Budget;
use crate::error::{Error, Result};

/// Index of a section in the section header table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SectionId(pub u32);

/// Index of a symbol in the symbol table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SymbolId(pub u32);

/// A section with its (decompressed) bytes and the relocations that apply to it.
#[derive(Debug)]
pub struct Section<'d> {
    /// Name, as in the section header string table.
    pub name: &'d str,
    /// `sh_type`.
    pub sh_type: u32,
    /// `sh_flags`.
    pub flags: u64,
    /// `sh_addralign`, at least 1.
    pub align: u64,
    /// `sh_entsize`.
    pub entsize: u64,
    /// Size in memory; for `SHT_NOBITS` there are no bytes in `data`.
    pub size: u64,
    /// The bytes; empty for `SHT_NOBITS`.
    pub data: Cow<'d, [u8]>,
    /// Relocations of this section, by offset.
    pub relocations: Vec<Relocation>,
}

/// How long the text is that bytes begin with, its end included: a character of `width` bytes that is zero.
pub fn text_len(bytes: &[u8], width: u64) -> Option<u64> {
    let mut characters =
        bytes.chunks_exact(usize::try_from(width).ok().filter(|width| *width > 0)?);
    let end = characters.position(|character| character.iter().all(|byte| *byte == 0))? as u64;
    (end + 1).checked_mul(width)
}

impl Section<'_> {
    /// Whether the section occupies memory at run time.
    pub fn is_alloc(&self) -> bool {
        self.flags & u64::from(elf::SHF_ALLOC) != 0
    }

    /// Whether the section holds code.
    pub fn is_exec(&self) -> bool {
        self.is_alloc() && self.flags & u64::from(elf::SHF_EXECINSTR) != 0
    }

    /// Whether the section is writable at run time.
    pub fn is_write(&self) -> bool {
        self.flags & u64::from(elf::SHF_WRITE) != 0
    }

    /// Whether the section takes no space in the file.
    pub fn is_nobits(&self) -> bool {
        self.sh_type == elf::SHT_NOBITS
    }

    /// Whether the linker may merge the section's entries.
    pub fn is_merge(&self) -> bool {
        self.flags & u64::from(elf::SHF_MERGE) != 0
    }

    /// Whether the section holds NUL-terminated strings.
    pub fn is_strings(&self) -> bool {
        self.flags & u64::from(elf::SHF_STRINGS) != 0
    }

    /// The bytes `start..start + len`, if the section has them.
    pub fn bytes(&self, start: u64, len: u64) -> Option<&[u8]> {
        let end = start.checked_add(len)?;
        self.data.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// The relocations whose field starts in `start..end`.
    pub fn relocations_in(&self, start: u64, end: u64) -> &[Relocation] {
        let from = self.relocations.partition_point(|r| r.offset < start);
        let to = self.relocations.partition_point(|r| r.offset < end);
        self.relocations.get(from..to.max(from)).unwrap_or(&[])
    }
}

/// Where a symbol is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Definition {
    /// In another object.
    Undefined,
    /// A plain number.
    Absolute,
    /// To be allocated by the linker (`-fcommon`).
    Common,
    /// In a section of this object.
    Section(SectionId),
}

/// A symbol of the object.
#[derive(Debug, Clone)]
pub struct Symbol<'d> {
    /// Name; empty for section symbols.
    pub name: &'d str,
    /// Where it is defined.
    pub definition: Definition,
    /// Offset in its section (or the absolute value).
    pub value: u64,
    /// `st_size`.
    pub size: u64,
    /// `STB_*`.
    pub binding: u8,
    /// `STT_*`.
    pub kind: u8,
    /// `STV_*`.
    pub visibility: u8,
    /// Index of the source file it is from in [`Elf::files`]; 0 if that is not noted, as of global symbols.
    pub file: u32,
}

impl Symbol<'_> {
    /// Whether other objects can refer to the symbol.
    pub fn is_global(&self) -> bool {
        self.binding != elf::STB_LOCAL
    }

    /// Whether this stands for a whole section.
    pub fn is_section(&self) -> bool {
        self.kind == elf::STT_SECTION
    }

    /// The section the symbol is defined in.
    pub fn section(&self) -> Option<SectionId> {
        match self.definition {
            Definition::Section(id) => Some(id),
            _ => None,
        }
    }
}

/// One `Elf64_Rela`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Relocation {
    /// Offset of the field in the section.
    pub offset: u64,
    /// `R_X86_64_*`.
    pub r_type: u32,
    /// The symbol referred to.
    pub symbol: SymbolId,
    /// `r_addend`, unmodified.
    pub addend: i64,
}

impl Relocation {
    /// Width of the field in bytes.
    pub fn width(&self) -> u64 {
        width(self.r_type).unwrap_or(0)
    }

    /// Whether the field holds the distance to the target (and not its address).
    pub fn is_pc_relative(&self) -> bool {
        matches!(
            self.r_type,
            elf::R_X86_64_PC32
                | elf::R_X86_64_PLT32
                | elf::R_X86_64_PC64
                | elf::R_X86_64_GOTPCREL
                | elf::R_X86_64_GOTPCRELX
                | elf::R_X86_64_REX_GOTPCRELX
        )
    }

    /// The type with those made equal that differ only in how a call is linked.
    pub fn kind(&self) -> u32 {
        match self.r_type {
            elf::R_X86_64_PLT32 => elf::R_X86_64_PC32,
            elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX => elf::R_X86_64_GOTPCREL,
            other => other,
        }
    }
}

/// Width of the field of each relocation type that gcc and clang emit for kernel code
/// (x86-64 psABI, table 4.9).
fn width(r_type: u32) -> Option<u64> {
    Some(match r_type {
        elf::R_X86_64_NONE => 0,
        elf::R_X86_64_8 | elf::R_X86_64_PC8 => 1,
        elf::R_X86_64_16 | elf::R_X86_64_PC16 => 2,
        elf::R_X86_64_32
        | elf::R_X86_64_32S
        | elf::R_X86_64_PC32
        | elf::R_X86_64_PLT32
        | elf::R_X86_64_GOTPCREL
        | elf::R_X86_64_GOTPCRELX
        | elf::R_X86_64_REX_GOTPCRELX
        | elf::R_X86_64_SIZE32 => 4,
        elf::R_X86_64_64 | elf::R_X86_64_PC64 | elf::R_X86_64_SIZE64 => 8,
        _ => return None,
    })
}

/// A relocatable x86-64 object, checked.
#[derive(Debug)]
pub struct Elf<'d> {
    /// The name errors carry.
    pub name: String,
    /// All sections, by id; entry 0 is the null section.
    pub sections: Vec<Section<'d>>,
    /// All symbols, by id; entry 0 is the null symbol.
    pub symbols: Vec<Symbol<'d>>,
    /// The names of the `STT_FILE` symbols; the first is empty and stands for none.
    pub files: Vec<&'d str>,
}

impl<'d> Elf<'d> {
    /// Reads an object; fails if it is not a whole, consistent ET_REL file for x86-64.
    pub fn parse(data: &'d [u8], name: &str) -> Result<Self> {
        let bad = |e: object::read::Error| Error::new(name, e);
        let header = elf::FileHeader64::<LE>::parse(data).map_err(|e| {
            Error::new(name, format_args!("not a 64-bit little-endian ELF file ({e})"))
        })?;
        if header.e_ident().data != elf::ELFDATA2LSB {
            return Err(Error::new(name, "big-endian ELF file; x86-64 objects are little-endian"));
        }
        let machine = header.e_machine(LE);
        if machine != elf::EM_X86_64 {
            return Err(Error::new(
                name,
                format_args!("built for ELF machine {machine}, not x86-64 ({})", elf::EM_X86_64),
            ));
        }
        if header.e_type(LE) != elf::ET_REL {
            return Err(Error::new(
                name,
                format_args!("ELF type {} is not a relocatable object (.o)", header.e_type(LE)),
            ));
        }
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
            sections.push(load_section(name, section_name, header, data, &mut budget)?);
        }
        let symbols = load_symbols(name, &table, &sections, data, &mut room)?;
        for (_, header) in table.enumerate() {
            load_relocations(name, header, data, &symbols, &mut sections, &mut room)?;
        }
        let files = std::iter::once("")
            .chain(symbols.iter().filter(|s| s.kind == elf::STT_FILE).map(|s| s.name))
            .collect();
        Ok(Self { name: name.to_owned(), sections, symbols, files })
    }

    /// The section of that id. Ids come from this object, so it exists.
    pub fn section(&self, id: SectionId) -> Result<&Section<'d>> {
        self.sections
            .get(id.0 as usize)
            .ok_or_else(|| Error::new(&self.name, format_args!("no section {}", id.0)))
    }

    /// The symbol of that id.
    pub fn symbol(&self, id: SymbolId) -> Result<&Symbol<'d>> {
        self.symbols
            .get(id.0 as usize)
            .ok_or_else(|| Error::new(&self.name, format_args!("no symbol {}", id.0)))
    }

    /// All sections with their ids.
    pub fn sections(&self) -> impl Iterator<Item = (SectionId, &Section<'d>)> {
        self.sections.iter().enumerate().map(|(i, s)| (SectionId(i as u32), s))
    }

    /// All symbols with their ids.
    pub fn symbols(&self) -> impl Iterator<Item = (SymbolId, &Symbol<'d>)> {
        self.symbols.iter().enumerate().map(|(i, s)| (SymbolId(i as u32), s))
    }

    /// The first section of that name.
    pub fn section_by_name(&self, name: &str) -> Option<(SectionId, &Section<'d>)> {
        self.sections().find(|(_, s)| s.name == name)
    }
}

pub(crate) fn load_section<'d>(
    object: &str,
    name: &'d str,
    header: &elf::SectionHeader64<LE>,
    data: &'d [u8],
    budget: &mut Budget,
) -> Result<Section<'d>> {
    let bad = |e: object::read::Error| Error::new(object, e).section(name);
    let sh_type = header.sh_type(LE);
    let nobits = sh_type == elf::SHT_NOBITS || sh_type == elf::SHT_NULL;
    let mut size = if nobits { header.sh_size(LE) } else { 0 };
    let bytes = if nobits {
        Cow::Borrowed(&[][..])
    } else if let Some((compression, offset, compressed)) =
        header.compression(LE, data).map_err(bad)?
    {
        let raw = data
            .get(usize::try_from(offset).unwrap_or(usize::MAX)..)
            .and_then(|d| d.get(..usize::try_from(compressed).ok()?))
            .ok_or_else(|| Error::new(object, "compressed data is truncated").section(name))?;
        let (form, size) = (compression.ch_type.get(LE), compression.ch_size.get(LE));
        let bad = |what| Error::new(object, what).section(name);
        Cow::Owned(budget.decompress(form, raw, size, bad)?)
    } else {
        Cow::Borrowed(header.data(LE, data).map_err(bad)?)
    };
    if !nobits {
        size = bytes.len() as u64;
    }
    Ok(Section {
        name,
        sh_type,
        flags: header.sh_flags(LE),
        align: header.sh_addralign(LE).max(1),
        entsize: header.sh_entsize(LE),
        size,
        data: bytes,
        relocations: Vec::new(),
    })
}

/// What a file has room for. Headers and symbols may name the same bytes again and again, and copies are made for each.
#[derive(Debug, Default)]
pub struct Room {
    relocations: usize,
    names: usize,
}

impl Room {
    /// The room that a file of these bytes has.
    pub fn of(file: &[u8]) -> Self {
        // Of names one may be the end of another, but not of thousands.
        Self {
            relocations: file.len() / size_of::<elf::Rela64<LE>>(),
            names: file.len().saturating_mul(16),
        }
    }

    /// Whether there is room for another name of `len` bytes; it is taken.
    pub fn take_name(&mut self, len: usize) -> bool {
        let left = self.names.checked_sub(len);
        self.names = left.unwrap_or(0);
        left.is_some()
    }

    /// Whether there is room for `count` more relocations; it is taken.
    pub fn take_relocations(&mut self, count: usize) -> bool {
        let left = self.relocations.checked_sub(count);
        self.relocations = left.unwrap_or(0);
        left.is_some()
    }

    /// The name of a symbol.
    pub(crate) fn name<'d>(
        &mut self,
        object: &str,
        symbol: SymbolIndex,
        name: Option<&'d [u8]>,
    ) -> Result<&'d str> {
        let bad = |what| Error::new(object, format_args!("symbol {} {what}", symbol.0));
        let name = name.ok_or_else(|| bad("has no readable name"))?;
        if !self.take_name(name.len()) {
            return Err(bad("and those before have longer names than the file has room for"));
        }
        std::str::from_utf8(name).map_err(|_| bad("has no readable name"))
    }
}

fn load_symbols<'d>(
    object: &str,
    table: &object::read::elf::SectionTable<'d, elf::FileHeader64<LE>>,
    sections: &[Section<'d>],
    data: &'d [u8],
    room: &mut Room,
) -> Result<Vec<Symbol<'d>>> {
    let bad = |e: object::read::Error| Error::new(object, e);
    let symtab = table.symbols(LE, data, elf::SHT_SYMTAB).map_err(bad)?;
    let mut symbols = Vec::with_capacity(symtab.len());
    let mut files: u32 = 0;
    for (index, sym) in symtab.enumerate() {
        files = files.saturating_add(u32::from(sym.st_type() == elf::STT_FILE));
        let name = room.name(object, index, symtab.symbol_name(LE, sym).ok())?;
        let definition = match symtab.symbol_section(LE, sym, index).map_err(bad)? {
            Some(section) => Definition::Section(SectionId(section.0 as u32)),
            None => match sym.st_shndx(LE) {
                elf::SHN_UNDEF => Definition::Undefined,
                elf::SHN_ABS => Definition::Absolute,
                elf::SHN_COMMON => Definition::Common,
                other => {
                    return Err(
                        Error::new(object, format_args!("section index {other:#x}")).symbol(name)
                    );
                }
            },
        };
        let symbol = Symbol {
            name,
            definition,
            value: sym.st_value(LE),
            size: sym.st_size(LE),
            binding: sym.st_bind(),
            kind: sym.st_type(),
            visibility: sym.st_visibility(),
            file: if sym.st_bind() == elf::STB_LOCAL { files } else { 0 },
        };
        check_symbol(object, &symbol, sections)?;
        symbols.push(symbol);
    }
    Ok(symbols)
}

fn check_symbol(object: &str, symbol: &Symbol<'_>, sections: &[Section<'_>]) -> Result<()> {
    let Some(id) = symbol.section() else { return Ok(()) };
    let section = sections.get(id.0 as usize).ok_or_else(|| {
        Error::new(object, format_args!("defined in section {}, which is not there", id.0))
            .symbol(symbol.name)
    })?;
    match symbol.value.checked_add(symbol.size) {
        Some(end) if end <= section.size => Ok(()),
        _ => Err(Error::new(
            object,
            format_args!(
                "{} bytes do not fit the section's {} (truncated or damaged object)",
                symbol.size, section.size
            ),
        )
        .section(section.name)
        .symbol(symbol.name)
        .offset(symbol.value)),
    }
}

fn load_relocations<'d>(
    object: &str,
    header: &elf::SectionHeader64<LE>,
    data: &'d [u8],
    symbols: &[Symbol<'d>],
    sections: &mut [Section<'d>],
    room: &mut Room,
) -> Result<()> {
    let sh_type = header.sh_type(LE);
    if sh_type == elf::SHT_REL {
        return Err(Error::new(object, "SHT_REL relocations; x86-64 objects have SHT_RELA"));
    }
    if sh_type != elf::SHT_RELA {
        return Ok(());
    }
    let Some((relas, _)) = header.rela(LE, data).map_err(|e| Error::new(object, e))? else {
        return Ok(());
    };
    let section = sections.get_mut(header.sh_info(LE) as usize).ok_or_else(|| {
        Error::new(object, format_args!("relocations for section {}", header.sh_info(LE)))
    })?;
    if !room.take_relocations(relas.len()) {
        let error = Error::new(object, "more relocations than the file has room for");
        return Err(error.section(section.name));
    }
    for rela in relas {
        let relocation = Relocation {
            offset: rela.r_offset(LE),
            r_type: rela.r_type(LE, false),
            symbol: SymbolId(rela.r_sym(LE, false)),
            addend: rela.r_addend(LE),
        };
        let fail = |what: String| {
            Err(Error::new(object, what).section(section.name).offset(relocation.offset))
        };
        let Some(width) = width(relocation.r_type) else {
            return fail(format!("relocation type {} is not known", relocation.r_type));
        };
        match relocation.offset.checked_add(width) {
            Some(end) if end <= section.size => {}
            _ => return fail("relocation outside the section".to_owned()),
        }
        if relocation.symbol.0 as usize >= symbols.len() {
            return fail(format!("relocation against symbol {}", relocation.symbol.0));
        }
        if width > 0 {
            section.relocations.push(relocation);
        }
    }
    section.relocations.sort_by_key(|r| r.offset);
    Ok(())
}
