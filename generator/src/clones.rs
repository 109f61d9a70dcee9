//! Writes `clones-N.o`: the clones of one object, what moves along with them, and placeholders for the rest.
//!
//! Bytes and relocations are the compiler's own, copied verbatim. The module is linked by Kbuild, which runs
//! objtool on it; so a placeholder must look to objtool like what it stands for: a function that returns (or
//! not), or data.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use object::write::{Object, Relocation, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionFlags, SectionKind,
    SymbolFlags, SymbolKind, SymbolScope, elf,
};

/// Section that collects the addresses a record refers to by index; see `docs/architecture.md`.
pub const ADDRS_SECTION: &str = ".dynamos.addrs";
/// Section of the placeholders of functions.
pub const PLACEHOLDER_SECTION: &str = ".text.dynamos.placeholders";

/// Index of a [`Piece`].
pub type PieceId = usize;

/// A run of bytes that goes into one output section as a whole.
#[derive(Clone, Debug)]
pub struct Piece {
    /// What it is a copy of, for messages.
    pub what: String,
    /// Name of the output section; pieces of one name are appended to one another.
    pub section: String,
    /// `SHF_*` flags of the section.
    pub flags: u64,
    /// `SHT_*` type of the section.
    pub kind: u32,
    /// Alignment in bytes, a power of two.
    pub align: u64,
    /// Contents; for `SHT_NOBITS` zeroes.
    pub bytes: Vec<u8>,
    /// Relocations, by offset.
    pub relocations: Vec<PieceRelocation>,
    /// Symbols defined in it.
    pub symbols: Vec<PieceSymbol>,
}

/// A symbol defined in a piece.
#[derive(Clone, Debug)]
pub struct PieceSymbol {
    /// Linker's name.
    pub name: String,
    /// Offset in the piece.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Whether it is code.
    pub function: bool,
    /// Whether other objects of the update see it.
    pub global: bool,
}

/// A relocation of a piece.
#[derive(Clone, Debug)]
pub struct PieceRelocation {
    /// Offset of the field in the piece.
    pub offset: u64,
    /// `R_X86_64_*`.
    pub kind: u32,
    /// What it refers to.
    pub target: Target,
    /// Addend, relative to the target.
    pub addend: i64,
}

/// What a relocation refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The start of a piece of the same object.
    Piece(PieceId),
    /// A symbol that the module loader resolves, or another object of the update defines.
    Import(String),
    /// The placeholder with this index.
    Placeholder(usize),
}

/// Stands for something of the running kernel until `dynamos.ko` writes the real address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder {
    /// Linker's name.
    pub name: String,
    /// What it stands for.
    pub kind: PlaceholderKind,
}

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceholderKind {
    /// A function that returns.
    Function,
    /// A function that never returns: objtool must know, for it follows the code after a call.
    NoReturn,
    /// A variable.
    Data,
}

/// One object of the update module.
#[derive(Clone, Debug, Default)]
pub struct CloneObject {
    /// What moves into the update.
    pub pieces: Vec<Piece>,
    /// What stays in the kernel.
    pub placeholders: Vec<Placeholder>,
    /// Addresses the record refers to, in order: this object's part of [`ADDRS_SECTION`].
    pub addrs: Vec<(Target, i64)>,
}

/// `endbr64; int3`: what a placeholder does if it is ever reached. The return keeps objtool from taking the
/// function for one that never returns; a body without one says just that.
const TRAP: [u8; 5] = [0xf3, 0x0f, 0x1e, 0xfa, 0xcc];
/// Bytes of a placeholder function; with the return jump and its `int3` (straight-line speculation).
const PLACEHOLDER_SIZE: u64 = 16;

impl CloneObject {
    /// Adds a piece.
    pub fn add(&mut self, piece: Piece) -> PieceId {
        self.pieces.push(piece);
        self.pieces.len() - 1
    }

    /// Adds an address for the record; its index among this object's addresses.
    pub fn addr(&mut self, target: Target, addend: i64) -> usize {
        let entry = (target, addend);
        if let Some(known) = self.addrs.iter().position(|known| *known == entry) {
            return known;
        }
        self.addrs.push(entry);
        self.addrs.len() - 1
    }

    /// Encodes the relocatable object.
    pub fn write(&self) -> Result<Vec<u8>> {
        let mut writer = Writer {
            object: Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little),
            sections: BTreeMap::new(),
            pieces: Vec::new(),
            placeholders: Vec::new(),
            imports: Vec::new(),
        };
        for piece in &self.pieces {
            writer.piece(piece);
        }
        writer.placeholders(&self.placeholders)?;
        for (index, piece) in self.pieces.iter().enumerate() {
            writer.relocate(index, piece)?;
        }
        writer.addrs(&self.addrs, &self.pieces)?;
        writer.object.write().context("cannot write the object of clones")
    }
}

struct Writer {
    object: Object<'static>,
    sections: BTreeMap<String, object::write::SectionId>,
    /// Section, offset in it and section symbol of each piece.
    pieces: Vec<(object::write::SectionId, u64, SymbolId)>,
    placeholders: Vec<SymbolId>,
    imports: Vec<(String, SymbolId)>,
}

impl Writer {
    fn section(&mut self, name: &str, kind: u32, flags: u64) -> object::write::SectionId {
        if let Some(&known) = self.sections.get(name) {
            return known;
        }
        let section_kind = if kind == elf::SHT_NOBITS {
            SectionKind::UninitializedData
        } else {
            SectionKind::Elf(kind)
        };
        let id = self.object.add_section(Vec::new(), name.as_bytes().to_vec(), section_kind);
        self.object.section_mut(id).flags = SectionFlags::Elf { sh_flags: flags };
        self.sections.insert(name.into(), id);
        id
    }

    fn piece(&mut self, piece: &Piece) {
        let section = self.section(&piece.section, piece.kind, piece.flags);
        let align = piece.align.max(1);
        let start = if piece.kind == elf::SHT_NOBITS {
            self.object.append_section_bss(section, piece.bytes.len() as u64, align)
        } else {
            self.object.append_section_data(section, &piece.bytes, align)
        };
        for symbol in &piece.symbols {
            self.define(section, start, symbol);
        }
        let base = self.object.section_symbol(section);
        self.pieces.push((section, start, base));
    }

    fn define(
        &mut self,
        section: object::write::SectionId,
        start: u64,
        symbol: &PieceSymbol,
    ) -> SymbolId {
        self.object.add_symbol(Symbol {
            name: symbol.name.as_bytes().to_vec(),
            value: start + symbol.offset,
            size: symbol.size,
            // A second name for a place: objtool wants functions to have a size, and no two at one place.
            kind: match (symbol.size, symbol.function) {
                (0, _) => SymbolKind::Label,
                (_, true) => SymbolKind::Text,
                (_, false) => SymbolKind::Data,
            },
            scope: if symbol.global { SymbolScope::Dynamic } else { SymbolScope::Compilation },
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        })
    }

    fn placeholders(&mut self, placeholders: &[Placeholder]) -> Result<()> {
        let code = u64::from(elf::SHF_ALLOC | elf::SHF_EXECINSTR);
        let data = u64::from(elf::SHF_ALLOC | elf::SHF_WRITE);
        let thunk = self.import("__x86_return_thunk");
        for placeholder in placeholders {
            let function = placeholder.kind != PlaceholderKind::Data;
            let section = if function {
                self.section(PLACEHOLDER_SECTION, elf::SHT_PROGBITS, code)
            } else {
                self.section(".data.dynamos.placeholders", elf::SHT_PROGBITS, data)
            };
            let start = match placeholder.kind {
                PlaceholderKind::Data => self.object.append_section_data(section, &[0; 8], 8),
                kind => {
                    let mut body = TRAP.to_vec();
                    if kind == PlaceholderKind::Function {
                        body.extend([0xe9, 0, 0, 0, 0]);
                    }
                    if kind == PlaceholderKind::NoReturn {
                        body.extend([0x0f, 0x0b]); // ud2: for objtool, nothing goes on behind it
                    }
                    body.resize(PLACEHOLDER_SIZE as usize, 0xcc);
                    let start = self.object.append_section_data(section, &body, PLACEHOLDER_SIZE);
                    if kind == PlaceholderKind::Function {
                        let field = start + TRAP.len() as u64 + 1;
                        self.relocation(section, field, elf::R_X86_64_PLT32, thunk, -4)?;
                    }
                    start
                }
            };
            let size = if function { PLACEHOLDER_SIZE } else { 8 };
            let symbol = PieceSymbol {
                name: placeholder.name.clone(),
                offset: 0,
                size,
                function,
                global: false,
            };
            let id = self.define(section, start, &symbol);
            self.placeholders.push(id);
        }
        Ok(())
    }

    fn import(&mut self, name: &str) -> SymbolId {
        if let Some((_, known)) = self.imports.iter().find(|(known, _)| known == name) {
            return *known;
        }
        let id = self.object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: 0,
            size: 0,
            kind: SymbolKind::Unknown,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Undefined,
            flags: SymbolFlags::None,
        });
        self.imports.push((name.into(), id));
        id
    }

    /// The symbol and the offset to add for a target.
    fn resolve(&mut self, target: &Target) -> Result<(SymbolId, i64)> {
        Ok(match target {
            Target::Piece(id) => {
                let (_, start, base) = *self.pieces.get(*id).context("no such piece")?;
                (base, start as i64)
            }
            Target::Import(name) => {
                // Another piece of this object may define it.
                match self.object.symbol_id(name.as_bytes()) {
                    Some(id) => (id, 0),
                    None => (self.import(name), 0),
                }
            }
            Target::Placeholder(id) => {
                (*self.placeholders.get(*id).context("no such placeholder")?, 0)
            }
        })
    }

    fn relocate(&mut self, index: PieceId, piece: &Piece) -> Result<()> {
        let (section, start, _) = *self.pieces.get(index).context("no such piece")?;
        for relocation in &piece.relocations {
            let (symbol, offset) = self.resolve(&relocation.target)?;
            let addend = relocation.addend.wrapping_add(offset);
            self.relocation(section, start + relocation.offset, relocation.kind, symbol, addend)
                .with_context(|| format!("in {}", piece.section))?;
        }
        Ok(())
    }

    fn relocation(
        &mut self,
        section: object::write::SectionId,
        offset: u64,
        r_type: u32,
        symbol: SymbolId,
        addend: i64,
    ) -> Result<()> {
        let flags = RelocationFlags::Elf { r_type };
        self.object
            .add_relocation(section, Relocation { offset, symbol, addend, flags })
            .context("cannot add a relocation")
    }

    fn addrs(&mut self, addrs: &[(Target, i64)], pieces: &[Piece]) -> Result<()> {
        let section = self.section(ADDRS_SECTION, elf::SHT_PROGBITS, u64::from(elf::SHF_ALLOC));
        for (target, addend) in addrs {
            let (symbol, offset) = self.resolve(target)?;
            let addend = addend.wrapping_add(offset);
            let at = self.object.append_section_data(section, &[0; 8], 8);
            self.relocation(section, at, elf::R_X86_64_64, symbol, addend)?;
            if is_plain_code(target, addend - offset, pieces) {
                // ANNOTATE_NOENDBR: the address is only looked at, nothing jumps to it indirectly.
                let hints = self.section(".discard.noendbr", elf::SHT_PROGBITS, 0);
                let at = self.object.append_section_data(hints, &[0; 4], 4);
                self.relocation(hints, at, elf::R_X86_64_PC32, symbol, addend)?;
            }
        }
        Ok(())
    }
}

/// Whether a place is code that does not start with `endbr64`.
fn is_plain_code(target: &Target, offset: i64, pieces: &[Piece]) -> bool {
    let Target::Piece(id) = target else { return false };
    let Some(piece) = pieces.get(*id) else { return false };
    let code = piece.bytes.get(offset as usize..).unwrap_or(&[]);
    piece.flags & u64::from(elf::SHF_EXECINSTR) != 0 && !code.starts_with(&crate::sites::ENDBR64)
}
