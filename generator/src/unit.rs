//! One relocatable object, seen by bodies: runs of code or data that a symbol names, with what they refer to.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use dynamos_differ::load::Room;
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};
use object::read::elf::{ElfFile64, FileHeader as _, SectionHeader as _};
use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags,
    RelocationTarget, SymbolKind, elf,
};

/// An object file.
#[derive(Debug)]
pub struct Unit {
    /// Its sections, by ELF index.
    pub sections: Vec<Section>,
    /// Its symbols, by ELF index.
    pub symbols: Vec<Symbol>,
    /// Defined functions and variables of each section: start → symbol index; the widest at each start.
    starts: BTreeMap<(usize, u64), usize>,
    /// What the file has room for, as far as it is left.
    room: Room,
    /// Bytes that its sections may still hold: headers may name the same ones again and again, and each gets a copy.
    contents: u64,
}

/// A section.
#[derive(Debug, Default)]
pub struct Section {
    /// Name.
    pub name: String,
    /// `SHT_*`.
    pub kind: u32,
    /// `SHF_*`.
    pub flags: u64,
    /// Alignment in bytes.
    pub align: u64,
    /// Entry size of mergeable sections.
    pub entry_size: u64,
    /// Contents; zeroes for `SHT_NOBITS`.
    pub bytes: Vec<u8>,
    /// Relocations, by offset.
    pub relocations: Vec<Relocation>,
}

impl Section {
    /// Whether it holds code.
    pub fn is_code(&self) -> bool {
        self.flags & u64::from(elf::SHF_EXECINSTR) != 0
    }

    /// Whether it is part of the memory image.
    pub fn is_loaded(&self) -> bool {
        self.flags & u64::from(elf::SHF_ALLOC) != 0
    }

    /// Whether it can be written to when the kernel runs.
    pub fn is_writable(&self) -> bool {
        self.flags & u64::from(elf::SHF_WRITE) != 0
    }

    /// Whether it is gone after boot or module start.
    pub fn is_init(&self) -> bool {
        let name = self.name.trim_start_matches(".ref");
        name.starts_with(".init") || name.starts_with(".exit")
    }
}

/// A relocation of a section.
#[derive(Clone, Copy, Debug)]
pub struct Relocation {
    /// Offset of the field.
    pub offset: u64,
    /// `R_X86_64_*`.
    pub kind: u32,
    /// Index of the symbol.
    pub symbol: usize,
    /// Addend.
    pub addend: i64,
}

/// A symbol.
#[derive(Debug, Default)]
pub struct Symbol {
    /// Linker's name; empty for a section.
    pub name: String,
    /// Section that defines it, by ELF index.
    pub section: Option<usize>,
    /// Offset in the section.
    pub value: u64,
    /// Bytes.
    pub size: u64,
    /// Whether it is a function.
    pub function: bool,
    /// Whether it names a function or variable (not a section or file).
    pub named: bool,
    /// Whether other objects see it.
    pub global: bool,
}

/// What a field refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This many bytes into a symbol of another object.
    Elsewhere(String, i64),
    /// This many bytes into a symbol of this object; before it, where an index that is never 0 is added.
    In(usize, i64),
    /// Content of a section of this object that no symbol covers: where it begins, and how far from there the place is.
    /// `"abc"[i - 1]` is one before it.
    Raw(usize, u64, i64),
}

/// A field of a body and what it refers to.
#[derive(Clone, Debug)]
pub struct Field {
    /// Offset in the body.
    pub offset: u64,
    /// `R_X86_64_*`.
    pub kind: u32,
    /// What the code means by it: the place computed, with the distance to the instruction's end undone.
    pub place: Place,
    /// What to subtract from the place's address: the distance from the field to the end of the instruction.
    pub bias: i64,
    /// The instruction is a direct call or jump to the place, which takes no address.
    pub branch: bool,
    /// Code takes the address of the place instead of reading or writing there.
    pub address: bool,
    /// The assembler resolved it; there is no relocation.
    pub resolved: bool,
}

/// The most that the sections of one object may hold.
const MAX_SIZE: u64 = 1 << 30;

impl Unit {
    /// Reads an object file; `name` is for messages.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Unit> {
        let file: ElfFile64<'_, LittleEndian> =
            ElfFile64::parse(bytes).with_context(|| format!("{name} is not a 64-bit ELF file"))?;
        let header = file.elf_header();
        ensure!(
            header.e_type(LittleEndian) == elf::ET_REL
                && header.e_machine(LittleEndian) == elf::EM_X86_64,
            "{name} is not a relocatable x86-64 object"
        );
        let mut unit = Unit {
            sections: Vec::new(),
            symbols: Vec::new(),
            starts: BTreeMap::new(),
            room: Room::of(bytes),
            contents: MAX_SIZE,
        };
        for section in file.sections() {
            unit.add_section(&section).with_context(|| name.to_string())?;
        }
        for symbol in file.symbols() {
            unit.add_symbol(&symbol).with_context(|| name.to_string())?;
        }
        Ok(unit)
    }

    /// One with these symbols and nothing else.
    #[cfg(test)]
    pub(crate) fn with_symbols(symbols: Vec<Symbol>) -> Self {
        Self {
            sections: Vec::new(),
            symbols,
            starts: BTreeMap::new(),
            room: Room::default(),
            contents: 0,
        }
    }

    fn name(&mut self, name: &str) -> Result<String> {
        ensure!(self.room.take_name(name.len()), "the names are longer than the file has room for");
        Ok(name.to_string())
    }

    fn add_section(
        &mut self,
        section: &object::read::elf::ElfSection64<'_, '_, LittleEndian>,
    ) -> Result<()> {
        let index = section.index().0;
        let header = section.elf_section_header();
        let name = self.name(section.name().context("a section has no readable name")?)?;
        let kind = header.sh_type(LittleEndian);
        let mut bytes = if kind == elf::SHT_NOBITS {
            ensure!(section.size() <= MAX_SIZE, "section {name} is larger than 1 GiB");
            let flags = header.sh_flags(LittleEndian);
            let code = flags & u64::from(elf::SHF_EXECINSTR) != 0;
            ensure!(!code, "section {name} is code without contents");
            vec![0; section.size() as usize]
        } else {
            section.data().with_context(|| format!("section {name} cannot be read"))?.to_vec()
        };
        if name.starts_with(".debug") {
            bytes.clear();
        }
        self.contents = self
            .contents
            .checked_sub(bytes.len() as u64)
            .context("the sections hold more than 1 GiB")?;
        let mut relocations = Vec::new();
        for (offset, relocation) in section.relocations() {
            if name.starts_with(".debug") {
                break;
            }
            let (RelocationTarget::Symbol(symbol), RelocationFlags::Elf { r_type }) =
                (relocation.target(), relocation.flags())
            else {
                bail!("{name}+{offset:#x}: a relocation without a symbol");
            };
            ensure!(
                self.room.take_relocations(1),
                "{name}: more relocations than the file has room for"
            );
            relocations.push(Relocation {
                offset,
                kind: r_type,
                symbol: symbol.0,
                addend: relocation.addend(),
            });
        }
        relocations.sort_by_key(|relocation| relocation.offset);
        if self.sections.len() <= index {
            self.sections.resize_with(index + 1, Section::default);
        }
        if let Some(slot) = self.sections.get_mut(index) {
            *slot = Section {
                name,
                kind,
                flags: header.sh_flags(LittleEndian),
                align: section.align(),
                entry_size: header.sh_entsize(LittleEndian),
                bytes,
                relocations,
            };
        }
        Ok(())
    }

    fn add_symbol(
        &mut self,
        symbol: &object::read::elf::ElfSymbol64<'_, '_, LittleEndian>,
    ) -> Result<()> {
        let index = symbol.index().0;
        let section = symbol.section_index().map(|section| section.0);
        let kind = symbol.kind();
        let named = !matches!(kind, SymbolKind::Section | SymbolKind::File)
            && symbol.name().is_ok_and(|name| !name.is_empty() && !name.starts_with(".L"));
        let entry = Symbol {
            name: self.name(symbol.name().context("a symbol has no readable name")?)?,
            section,
            value: symbol.address(),
            size: symbol.size(),
            function: kind == SymbolKind::Text,
            named,
            global: symbol.is_global(),
        };
        if let Some(section) = section
            && named
            && entry.size > 0
        {
            let start = self.starts.entry((section, entry.value)).or_insert(index);
            let wider = self.symbols.get(*start).is_some_and(|known| known.size < entry.size);
            // Aliases: the global name is the one kallsyms and other objects use.
            if wider
                || (entry.global && self.symbols.get(*start).is_some_and(|known| !known.global))
            {
                *start = index;
            }
        }
        if self.symbols.len() <= index {
            self.symbols.resize_with(index + 1, Symbol::default);
        }
        if let Some(slot) = self.symbols.get_mut(index) {
            *slot = entry;
        }
        Ok(())
    }

    /// The section with this index.
    pub fn section(&self, index: usize) -> Result<&Section> {
        self.sections.get(index).with_context(|| format!("there is no section {index}"))
    }

    /// The symbol with this index.
    pub fn symbol(&self, index: usize) -> Result<&Symbol> {
        self.symbols.get(index).with_context(|| format!("there is no symbol {index}"))
    }

    /// Whether accesses are watched (KASAN).
    pub fn is_watched(&self) -> bool {
        self.symbols.iter().any(|symbol| symbol.name.starts_with("__asan_"))
    }

    /// The parts of a function that the compiler moved away.
    pub fn fragments(&self, function: &str) -> impl Iterator<Item = &Symbol> {
        let part = format!("{function}.cold");
        self.symbols.iter().filter(move |symbol| {
            symbol.function && symbol.section.is_some() && symbol.name.starts_with(&part)
        })
    }

    /// The defined symbol with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.symbols
            .iter()
            .position(|symbol| symbol.named && symbol.section.is_some() && symbol.name == name)
    }

    /// The symbol that covers an offset of a section. A symbol's end belongs to it only if nothing starts there.
    pub fn covering(&self, section: usize, offset: u64) -> Option<(usize, u64)> {
        let (_, &index) = self.starts.range((section, 0)..=(section, offset)).next_back()?;
        let symbol = self.symbols.get(index)?;
        let into = offset - symbol.value;
        (into < symbol.size).then_some((index, into))
    }

    /// Bytes of a symbol.
    pub fn bytes(&self, symbol: &Symbol) -> Result<&[u8]> {
        let section = self.section(symbol.section.context("an undefined symbol has no bytes")?)?;
        let (start, end) = (symbol.value, symbol.value.checked_add(symbol.size));
        end.and_then(|end| section.bytes.get(start as usize..end as usize))
            .with_context(|| format!("{} reaches past the end of {}", symbol.name, section.name))
    }

    /// The place a relocation refers to, `bias` bytes behind what its addend says.
    pub fn place(&self, relocation: &Relocation, bias: i64) -> Result<Place> {
        let symbol = self.symbol(relocation.symbol)?;
        let Some(section) = symbol.section else {
            return Ok(Place::Elsewhere(symbol.name.clone(), relocation.addend.wrapping_add(bias)));
        };
        let offset = (symbol.value as i64).wrapping_add(relocation.addend).wrapping_add(bias);
        // A pointer just past a named variable still means that variable.
        if symbol.named && offset >= symbol.value as i64 {
            let into = offset.wrapping_sub(symbol.value as i64);
            return Ok(Place::In(relocation.symbol, into));
        }
        let whole = self.section(section)?;
        // In a section of constants that are merged gas keeps a label that something is added to (adjust_reloc_syms).
        let is_merged = whole.flags & u64::from(elf::SHF_MERGE) != 0;
        if symbol.name.starts_with(".L") && is_merged {
            let into = offset.wrapping_sub(symbol.value as i64);
            return Ok(Place::Raw(section, symbol.value, into));
        }
        let Ok(offset) = u64::try_from(offset) else {
            let (index, start) = self.first(section)?;
            return Ok(Place::In(index, offset.wrapping_sub(start as i64)));
        };
        Ok(match self.covering(section, offset).or_else(|| self.ending(section, offset)) {
            Some((index, into)) => Place::In(index, into as i64),
            None => Place::Raw(section, offset, 0),
        })
    }

    /// The variable that comes first in a section, and where: a place before the section is meant from there. With
    /// `-fdata-sections` there is no other, and without it what is between them stays as it is.
    fn first(&self, section: usize) -> Result<(usize, u64)> {
        let whole = self.section(section)?;
        let first = self.starts.range((section, 0)..=(section, u64::MAX)).next();
        let first = first.filter(|_| !whole.is_code());
        let (&(_, start), &index) =
            first.with_context(|| format!("a relocation points before {}", whole.name))?;
        Ok((index, start))
    }

    /// The variable that ends where its section ends: a pointer to that place is one past its end, and nothing else
    /// can be meant.
    fn ending(&self, section: usize, offset: u64) -> Option<(usize, u64)> {
        let whole = self.sections.get(section)?;
        let (_, &index) = self.starts.range((section, 0)..=(section, offset)).next_back()?;
        let symbol = self.symbols.get(index)?;
        let end = whole.bytes.len() as u64;
        (!whole.is_code() && offset == end && symbol.value.checked_add(symbol.size) == Some(end))
            .then_some((index, symbol.size))
    }

    /// What the bytes of a section between `start` and `end` refer to, if they are to be copied elsewhere.
    pub fn fields(&self, section: usize, start: u64, end: u64) -> Result<Vec<Field>> {
        self.fields_as(section, start, end, true)
    }

    /// The same for bytes that stay where they are: a short jump to a neighbour of the same section is what it is.
    pub fn fields_in_place(&self, section: usize, start: u64, end: u64) -> Result<Vec<Field>> {
        self.fields_as(section, start, end, false)
    }

    fn fields_as(&self, section: usize, start: u64, end: u64, copied: bool) -> Result<Vec<Field>> {
        let within = self.section(section)?;
        let mut fields = Vec::new();
        let code = within.is_code();
        let ends = if code { self.instructions(section, start, end)? } else { BTreeMap::new() };
        for relocation in &within.relocations {
            if !(start..end).contains(&relocation.offset) {
                continue;
            }
            let relative = matches!(
                relocation.kind,
                elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 | elf::R_X86_64_PC64
            );
            let instruction = ends.range(..=relocation.offset).next_back().map(|(_, found)| found);
            let bias = match instruction {
                Some(found) if relative && code => (found.end - relocation.offset) as i64,
                _ => 0,
            };
            fields.push(Field {
                offset: relocation.offset - start,
                kind: relocation.kind,
                place: self.place(relocation, bias)?,
                bias,
                branch: instruction.is_some_and(|found| found.branch.is_some()),
                address: instruction.is_some_and(|found| {
                    found.branch.is_none() && !found.accesses(relocation.offset)
                }),
                resolved: false,
            });
        }
        for instruction in ends.values() {
            let Some(target) = instruction.branch else { continue };
            let relocated = within.relocations.iter().any(|relocation| {
                (instruction.start..instruction.end).contains(&relocation.offset)
            });
            if relocated || (start..end).contains(&target) {
                continue;
            }
            if instruction.end - instruction.start < 5 {
                ensure!(
                    !copied,
                    "{}+{:#x}: a short jump leaves its function",
                    within.name,
                    instruction.start
                );
                continue;
            }
            let place = match self.covering(section, target) {
                Some((index, into)) => Place::In(index, into as i64),
                None => Place::Raw(section, target, 0),
            };
            fields.push(Field {
                offset: instruction.end - 4 - start,
                kind: elf::R_X86_64_PLT32,
                place,
                bias: 4,
                branch: true,
                address: false,
                resolved: true,
            });
        }
        fields.sort_by_key(|field| field.offset);
        Ok(fields)
    }

    fn instructions(
        &self,
        section: usize,
        start: u64,
        end: u64,
    ) -> Result<BTreeMap<u64, Instruction>> {
        let code = self
            .section(section)?
            .bytes
            .get(start as usize..end as usize)
            .context("a function reaches past its section")?;
        let mut found = BTreeMap::new();
        let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let branch = instruction.op0_kind() == OpKind::NearBranch64;
            let offsets = decoder.get_constant_offsets(&instruction);
            let displacement = (offsets.has_displacement()
                && instruction.mnemonic() != Mnemonic::Lea)
                .then(|| instruction.ip() + offsets.displacement_offset() as u64);
            found.insert(
                instruction.ip(),
                Instruction {
                    start: instruction.ip(),
                    end: instruction.next_ip(),
                    branch: branch.then(|| instruction.near_branch_target()),
                    displacement,
                },
            );
        }
        Ok(found)
    }
}

#[derive(Debug)]
struct Instruction {
    start: u64,
    end: u64,
    branch: Option<u64>,
    /// Where the displacement is of the memory operand that it reads or writes.
    displacement: Option<u64>,
}

impl Instruction {
    /// Whether the field at this offset says where it reads or writes.
    fn accesses(&self, offset: u64) -> bool {
        self.displacement == Some(offset)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use object::write;

    use super::*;

    /// Each symbol gets the long name of the first, each section the relocations of the last.
    #[test]
    fn what_is_named_again_and_again_is_refused() {
        let mut object = write::Object::new(
            object::BinaryFormat::Elf,
            object::Architecture::X86_64,
            object::Endianness::Little,
        );
        let text = object.section_id(write::StandardSection::Text);
        object.append_section_data(text, &[0x90; 800], 16);
        for i in 0..200 {
            let name = if i == 0 { "a".repeat(4000) } else { format!("f{i}") };
            let id = object.add_symbol(write::Symbol {
                name: name.into_bytes(),
                value: i * 4,
                size: 4,
                kind: SymbolKind::Text,
                scope: object::SymbolScope::Linkage,
                weak: false,
                section: write::SymbolSection::Section(text),
                flags: object::SymbolFlags::None,
            });
            let flags = RelocationFlags::Elf { r_type: elf::R_X86_64_PC32 };
            let (offset, addend) = (i * 4, 0);
            object
                .add_relocation(text, write::Relocation { offset, symbol: id, addend, flags })
                .unwrap();
        }
        let mut bytes = object.write().unwrap();
        let unit = Unit::parse(&bytes, "good.o").unwrap();
        assert_eq!(unit.find("f7").map(|symbol| unit.symbols[symbol].value), Some(28));
        let number = |bytes: &[u8], at: usize, len: usize| {
            let field = bytes[at..at + len].iter().rev();
            field.fold(0, |value, byte| value << 8 | usize::from(*byte))
        };
        // e_shoff and e_shnum; sh_type, sh_offset and sh_size: SHT_SYMTAB and SHT_RELA.
        let headers = number(&bytes, 40, 8);
        let count = number(&bytes, 60, 2);
        let of_type = |bytes: &[u8], kind| {
            let all = (0..count).map(|i| headers + i * 64);
            all.rev().find(|header| number(bytes, header + 4, 4) == kind).unwrap()
        };
        let relocations = of_type(&bytes, 4);
        let refused = |bytes: &[u8], why: &str| {
            let error = format!("{:#}", Unit::parse(bytes, "bad.o").unwrap_err());
            assert!(error.contains(why), "{error}");
        };
        // They are the file's last, and there are 200 headers more.
        let mut again = bytes.clone();
        again.truncate(headers);
        again.extend_from_slice(&bytes[headers..headers + count * 64]);
        again.extend(bytes[relocations..relocations + 64].repeat(200));
        again[60..62].copy_from_slice(&(count as u16 + 200).to_le_bytes());
        refused(&again, "more relocations than the file has room for");
        let symbols = of_type(&bytes, 2);
        let (table, size) = (number(&bytes, symbols + 24, 8), number(&bytes, symbols + 32, 8));
        let entries = || (table..table + size).step_by(24);
        // Whose value is 0 and whose type is STT_FUNC.
        let first =
            entries().find(|at| bytes[at + 4] & 15 == 2 && number(&bytes, at + 8, 8) == 0).unwrap();
        let name: [u8; 4] = bytes[first..first + 4].try_into().unwrap();
        for at in entries() {
            bytes[at..at + 4].copy_from_slice(&name);
        }
        refused(&bytes, "the names are longer than the file has room for");
    }
}
