//! The clone closure: from the functions that changed to everything that must move into the update, and to what
//! it uses of the running kernel.

mod bridge;
mod flow;
mod replace;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use dynamos_abi::{HookKind, edition};
use object::elf;

pub use bridge::{BridgeInput, CodePiece};
use flow::returns;

use crate::clones::{
    CloneObject, Piece, PieceId, PieceRelocation, PieceSymbol, Placeholder, PlaceholderKind, Target,
};
use crate::counting::ObjectOf;
use crate::handlers::Redirected;
use crate::plan::{Escape, Refusal};
use crate::record::Fixup;
use crate::unit::{Field, Place, Unit};

/// What is known of one object and of the kernel it goes into.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// V2's object.
    pub unit: &'a Unit,
    /// Functions to replace: V2's name → V1's.
    pub replaced: &'a BTreeMap<String, String>,
    /// V2's symbols that the running kernel has, unchanged or replaced: V2's name → V1's.
    pub known: &'a BTreeMap<String, String>,
    /// Functions with an adaptation handler of the update's own: V2's name → the handler's.
    pub adaptations: &'a BTreeMap<String, String>,
    /// How the objects are found that the calls of a function work on, by V2's name of it.
    pub objects: &'a BTreeMap<String, ObjectOf>,
    /// Functions that are called when the update is switched, by V2's name.
    pub hooks: &'a BTreeMap<HookKind, String>,
    /// Changed constants that go along although the running kernel has an edition of them, by V2's name.
    pub along: &'a BTreeSet<String>,
    /// New functions whose addresses the update writes into tables of operations, by V2's name.
    pub handlers: &'a BTreeSet<String>,
    /// Symbols exported to all modules.
    pub exported: &'a BTreeSet<String>,
    /// Global functions and variables that other objects of this update define anew.
    pub elsewhere: &'a BTreeSet<String>,
    /// Those of them that are defined here and used there: they go along although nothing here may use them.
    pub wanted: &'a BTreeSet<String>,
    /// First index of the handlers' clones: the n-th replaced function's clone is `dynamos_clone_N`.
    pub first_clone: usize,
    /// The bridge editions of the same functions, if the update has phases.
    pub bridge: Option<&'a BridgeInput>,
    /// Whether it has: its objects without such functions too.
    pub phases: bool,
}

/// Something of the running kernel that the update needs.
#[derive(Clone, Debug)]
pub struct Need {
    /// V1's name.
    pub name: String,
    /// Whether it is code.
    pub function: bool,
    /// Its placeholder.
    pub placeholder: u32,
    /// The fields to write.
    pub fixups: Vec<Fixup>,
}

/// The closure of one object.
#[derive(Debug, Default)]
pub struct Closure {
    /// The clones and all that moves with them.
    pub object: CloneObject,
    /// V1's names of the replaced functions, in the order of their clones.
    pub replaced: Vec<String>,
    /// How each of those chooses an edition.
    pub handlers: Vec<Redirected>,
    /// Address index (within this object) of each replaced function's clone.
    pub clone_addrs: Vec<u32>,
    /// Address index (within this object) of each bridge edition, by V1's name of the function.
    pub bridge_addrs: BTreeMap<String, u32>,
    /// The code of each edition, if there are phases.
    pub code: Vec<CodePiece>,
    /// Address index (within this object) of each function that is to be a handler.
    pub handler_addrs: BTreeMap<String, u32>,
    /// Address index (within this object) of each hook.
    pub hook_addrs: BTreeMap<HookKind, u32>,
    /// What it uses of the running kernel. Address indices are within this object.
    pub needs: Vec<Need>,
    /// Exported symbols it uses.
    pub imports: BTreeSet<String>,
    /// Functions that are new and go along.
    pub added: BTreeSet<String>,
    /// Where addresses of the update's code or data may stay behind in the kernel.
    pub escapes: Vec<Escape>,
    /// What stands in the way.
    pub refusals: Vec<Refusal>,
}

/// Computes the closure.
pub fn close(context: &Known<'_>) -> Result<Closure> {
    let mut builder = Builder {
        context,
        closure: Closure::default(),
        pieces: BTreeMap::new(),
        queue: Vec::new(),
        edition0: BTreeMap::new(),
        names: Vec::new(),
        of_bridge: false,
        shared: BTreeMap::new(),
    };
    for (name, v1_name) in context.replaced {
        builder.replace(name, v1_name)?;
    }
    builder.handlers()?;
    builder.hooks()?;
    builder.wanted()?;
    while let Some(work) = builder.queue.pop() {
        builder.relocate(work)?;
    }
    builder.tables()?;
    if context.phases {
        builder.note_code(0, edition::FINAL);
    }
    let of_bridge;
    let mut builder = match context.bridge {
        None => builder,
        Some(input) => {
            of_bridge = bridge::context(context, input);
            builder.bridge(&of_bridge, input)?
        }
    };
    builder.needs()?;
    Ok(builder.closure)
}

/// A piece whose fields are still to be resolved: where its bytes come from.
#[derive(Clone, Copy, Debug)]
struct Work {
    piece: PieceId,
    section: usize,
    start: u64,
    end: u64,
}

struct Builder<'a> {
    context: &'a Known<'a>,
    closure: Closure,
    /// Where each copied range of V2's sections went: (section, start) → (end, piece).
    pieces: BTreeMap<(usize, u64), (u64, PieceId)>,
    queue: Vec<Work>,
    /// Placeholder index of each symbol of the running kernel, by V1's name.
    edition0: BTreeMap<String, usize>,
    /// V1's name of each placeholder, and whether it is code.
    names: Vec<(String, bool)>,
    /// It is the bridge's object that is copied, after V2's.
    of_bridge: bool,
    /// V2's new variables and constants, which the bridge shares: where they went.
    shared: BTreeMap<String, (PieceId, u64)>,
}

impl Builder<'_> {
    /// Copies the functions that become handlers. Their addresses stand beside the record, so objtool sees them taken and
    /// leaves their `endbr64` as it is.
    fn handlers(&mut self) -> Result<()> {
        let unit = self.context.unit;
        for name in self.context.handlers {
            let index = unit.find(name).with_context(|| format!("V2 has no function {name}"))?;
            let piece = self.code(index)?;
            let offset = self.offset_in_piece(index)?;
            if !self.context.replaced.contains_key(name) {
                self.closure.added.insert(name.clone());
            }
            let addr = self.closure.object.addr(Target::Piece(piece), offset as i64);
            self.closure.handler_addrs.insert(name.clone(), addr as u32);
        }
        Ok(())
    }

    /// Copies the hooks, which are called by their addresses as well.
    fn hooks(&mut self) -> Result<()> {
        for (kind, name) in self.context.hooks {
            let index = self
                .context
                .unit
                .find(name)
                .with_context(|| format!("V2 has no function {name}"))?;
            let piece = self.code(index)?;
            let offset = self.offset_in_piece(index)?;
            self.closure.added.insert(name.clone());
            let addr = self.closure.object.addr(Target::Piece(piece), offset as i64);
            self.closure.hook_addrs.insert(*kind, addr as u32);
        }
        Ok(())
    }

    /// Copies a function that `handlers.S` knows as `name`; its piece, and where it begins in there.
    fn known_as(&mut self, index: usize, name: String) -> Result<(PieceId, u64)> {
        let piece = self.code(index)?;
        let offset = self.offset_in_piece(index)?;
        if let Some(piece) = self.closure.object.pieces.get_mut(piece) {
            piece.symbols.push(PieceSymbol { name, offset, size: 0, function: true, global: true });
        }
        Ok((piece, offset))
    }

    /// Copies the new functions and variables that other objects use.
    fn wanted(&mut self) -> Result<()> {
        let context = self.context;
        for (index, symbol) in context.unit.symbols.iter().enumerate() {
            let defined = symbol.global && symbol.named && symbol.section.is_some();
            if !defined
                || context.known.contains_key(&symbol.name)
                || !context.wanted.contains(&symbol.name)
            {
                continue;
            }
            if symbol.function {
                self.closure.added.insert(symbol.name.clone());
                self.code(index)?;
            } else {
                self.data(index)?;
            }
        }
        Ok(())
    }

    /// Offset of a symbol in the piece that holds it (call padding comes before a function).
    fn offset_in_piece(&self, index: usize) -> Result<u64> {
        let symbol = self.context.unit.symbol(index)?;
        let section = symbol.section.context("an undefined symbol cannot be copied")?;
        let (start, _) =
            self.piece_at(section, symbol.value).context("the symbol was not copied")?;
        Ok(symbol.value - start)
    }

    /// The copied range that holds an offset of a section: its start and piece.
    fn piece_at(&self, section: usize, offset: u64) -> Option<(u64, PieceId)> {
        let (&(_, start), &(end, piece)) =
            self.pieces.range((section, 0)..=(section, offset)).next_back()?;
        (offset < end || offset == start).then_some((start, piece))
    }

    /// Copies a function.
    fn code(&mut self, index: usize) -> Result<PieceId> {
        let unit = self.context.unit;
        let symbol = unit.symbol(index)?;
        let section_index = symbol.section.context("an undefined function cannot be cloned")?;
        if let Some((_, known)) = self.piece_at(section_index, symbol.value) {
            return Ok(known);
        }
        let section = unit.section(section_index)?;
        // Call padding (-fpatchable-function-entry) lies before the function and belongs to it.
        let padding = section
            .bytes
            .get(..symbol.value as usize)
            .unwrap_or(&[])
            .iter()
            .rev()
            .take(16)
            .take_while(|byte| **byte == 0x90)
            .count() as u64;
        let start = symbol.value - if padding == 16 { padding } else { 0 };
        let end = symbol.value + symbol.size;
        let suffix = if symbol.name.ends_with(".cold") { ".text.unlikely." } else { ".text." };
        // Sections of one name are put together with zeroes between them, which objtool takes for code.
        let of = if self.of_bridge { "bridge." } else { "" };
        self.copy(section_index, start, end, format!("{suffix}{of}{}", symbol.name), index)
    }

    /// Copies a variable or constant.
    fn data(&mut self, index: usize) -> Result<PieceId> {
        let symbol = self.context.unit.symbol(index)?;
        let section = symbol.section.context("an undefined variable cannot be copied")?;
        let name = self.context.unit.section(section)?.name.clone();
        self.copy(section, symbol.value, symbol.value + symbol.size, name, index)
    }

    fn copy(
        &mut self,
        section_index: usize,
        start: u64,
        end: u64,
        output: String,
        symbol: usize,
    ) -> Result<PieceId> {
        if let Some((_, known)) = self.piece_at(section_index, start) {
            return Ok(known);
        }
        let unit = self.context.unit;
        let symbol = unit.symbol(symbol)?;
        let named = PieceSymbol {
            name: self.name_in_update(&symbol.name),
            offset: symbol.value - start,
            size: symbol.size,
            function: symbol.function,
            global: symbol.global
                && !self.of_bridge
                && !self.context.known.contains_key(&symbol.name),
        };
        let piece = self.copy_range(section_index, start, end, output)?;
        if let Some(piece) = self.closure.object.pieces.get_mut(piece) {
            piece.what.clone_from(&symbol.name);
            piece.symbols.push(named);
        }
        Ok(piece)
    }

    /// A clone's name differs from edition 0's, so that both can be told apart: `f.clone`, and `f.clone.cold` for
    /// what objtool finds as the cold part of it by name.
    fn name_in_update(&self, name: &str) -> String {
        let (base, part) = name.find(".cold").map_or((name, ""), |at| name.split_at(at));
        if self.of_bridge {
            return format!("{base}.bridge{part}");
        }
        if self.context.replaced.contains_key(base) {
            format!("{base}.clone{part}")
        } else {
            name.into()
        }
    }

    fn copy_range(
        &mut self,
        section_index: usize,
        start: u64,
        end: u64,
        output: String,
    ) -> Result<PieceId> {
        let section = self.context.unit.section(section_index)?;
        let bytes = section
            .bytes
            .get(start as usize..end as usize)
            .with_context(|| format!("a copy reaches past the end of {}", section.name))?
            .to_vec();
        // What is copied has its own place, so sharing of equal strings is no longer the linker's business.
        let merge = u64::from(elf::SHF_MERGE | elf::SHF_STRINGS | elf::SHF_GROUP);
        let piece = self.closure.object.add(Piece {
            what: "constant data".into(),
            section: output,
            flags: section.flags & !merge,
            kind: section.kind,
            align: section.align,
            bytes,
            relocations: Vec::new(),
            symbols: Vec::new(),
        });
        self.pieces.insert((section_index, start), (end, piece));
        self.queue.push(Work { piece, section: section_index, start, end });
        Ok(piece)
    }

    /// Resolves what a copied range refers to.
    fn relocate(&mut self, work: Work) -> Result<()> {
        for field in self.context.unit.fields(work.section, work.start, work.end)? {
            let inside = match &field.place {
                Place::In(index, into) => {
                    let symbol = self.context.unit.symbol(*index)?;
                    symbol.section == Some(work.section)
                        && (work.start..work.end).contains(&(symbol.value + into))
                }
                Place::Raw(section, at) => {
                    *section == work.section && (work.start..work.end).contains(at)
                }
                Place::Elsewhere(..) => false,
            };
            if field.resolved && inside {
                continue;
            }
            let owner = self.owner_name(work.piece);
            let Some((target, addend)) = self.target(&field, &owner)? else { continue };
            self.push(work.piece, field.offset, field.kind, target, addend - field.bias);
        }
        Ok(())
    }

    fn push(&mut self, piece: PieceId, offset: u64, kind: u32, target: Target, addend: i64) {
        if let Some(piece) = self.closure.object.pieces.get_mut(piece) {
            piece.relocations.push(PieceRelocation { offset, kind, target, addend });
        }
    }

    /// Name of the function or variable in a piece, for messages.
    fn owner_name(&self, piece: PieceId) -> String {
        let piece = self.closure.object.pieces.get(piece);
        piece.map_or_else(String::new, |piece| piece.what.clone())
    }

    /// What a field is to refer to in the update, and how far into it. `None`: refused.
    fn target(&mut self, field: &Field, owner: &str) -> Result<Option<(Target, i64)>> {
        let unit = self.context.unit;
        match &field.place {
            Place::Elsewhere(name, offset) => {
                let target = self.outside(name, field.branch);
                Ok(Some((target, *offset)))
            }
            Place::In(index, into) => {
                let symbol = unit.symbol(*index)?;
                let section_index = symbol.section.context("a defined symbol has a section")?;
                let section = unit.section(section_index)?;
                let at = symbol.value + into;
                if let Some((start, piece)) = self.piece_at(section_index, at)
                    && (!self.context.replaced.contains_key(&symbol.name)
                        || *into > 0
                        || owner == symbol.name)
                {
                    // Its own body, a fragment of it, or something already copied.
                    self.note_escape(field, &symbol.name, owner, section.is_code());
                    return Ok(Some((Target::Piece(piece), (at - start) as i64)));
                }
                if section.is_init() {
                    self.refuse(
                        &symbol.name,
                        &format!(
                            "{owner} refers to it, and it is gone after boot ({})",
                            section.name
                        ),
                    );
                    return Ok(None);
                }
                if let Some(v1_name) = self.context.known.get(&symbol.name) {
                    let target = self.kernel(v1_name, section.is_code(), *index)?;
                    return Ok(Some((target, *into as i64)));
                }
                if let Some(shared) = self.shared(*index)? {
                    return Ok(shared.map(|(piece, at)| (Target::Piece(piece), at + *into as i64)));
                }
                if section.name.contains("percpu") {
                    self.refuse(&symbol.name, "a new per-CPU variable");
                    return Ok(None);
                }
                let piece = if section.is_code() {
                    if !symbol.name.ends_with(".cold") {
                        self.closure.added.insert(symbol.name.clone());
                    }
                    self.code(*index)?
                } else {
                    self.data(*index)?
                };
                self.note_escape(field, &symbol.name, owner, section.is_code());
                let start =
                    self.piece_at(section_index, at).map_or(symbol.value, |(start, _)| start);
                Ok(Some((Target::Piece(piece), (at - start) as i64)))
            }
            Place::Raw(section_index, at) => self.raw(*section_index, *at, owner),
        }
    }

    /// Nameless bytes: strings and constants are copied, one by one.
    fn raw(&mut self, section_index: usize, at: u64, owner: &str) -> Result<Option<(Target, i64)>> {
        if let Some((start, piece)) = self.piece_at(section_index, at) {
            return Ok(Some((Target::Piece(piece), (at - start) as i64)));
        }
        let section = self.context.unit.section(section_index)?;
        if section.name == ".altinstr_aux" {
            let end = self.auxiliary_end(section_index, at)?;
            let output = section.name.clone();
            let piece = self.copy_range(section_index, at, end, output)?;
            return Ok(Some((Target::Piece(piece), 0)));
        }
        // Nothing is ever read through the address of an empty object (a lock class key without lockdep).
        let empty = section.bytes.is_empty();
        if !empty && (section.is_code() || section.is_writable() || section.is_init()) {
            let name = &section.name;
            self.refuse(owner, &format!("refers to a nameless place in {name} ({at:#x})"));
            return Ok(None);
        }
        let (start, end) = constant(section, at);
        let piece = self.copy_range(section_index, start, end, section.name.clone())?;
        Ok(Some((Target::Piece(piece), (at - start) as i64)))
    }

    /// Where the out-of-line code of a `static_cpu_has()` ends: with its jump back
    /// (arch/x86/include/asm/cpufeature.h).
    fn auxiliary_end(&self, section_index: usize, at: u64) -> Result<u64> {
        let section = self.context.unit.section(section_index)?;
        let code = section.bytes.get(at as usize..).unwrap_or(&[]);
        let mut decoder = iced_x86::Decoder::with_ip(64, code, at, iced_x86::DecoderOptions::NONE);
        while decoder.can_decode() {
            let instruction = decoder.decode();
            if instruction.flow_control() == iced_x86::FlowControl::UnconditionalBranch {
                return Ok(instruction.next_ip());
            }
        }
        anyhow::bail!("{}+{at:#x} does not jump back", section.name)
    }

    /// A symbol that the module loader resolves. With an exported static call comes its key, if that is exported as
    /// well: objtool looks for it by name, and without it the kernel would take the call for one whose key it has to
    /// look up (`static_call_add_module`, kernel/static_call_inline.c).
    fn import(&mut self, name: &str) -> Target {
        let first = self.closure.imports.insert(name.into());
        let key = name.strip_prefix("__SCT__").map(|base| format!("__SCK__{base}"));
        if let Some(key) = key.filter(|key| first && self.context.exported.contains(key)) {
            self.closure.imports.insert(key.clone());
            let relocation = PieceRelocation {
                offset: 0,
                kind: elf::R_X86_64_64,
                target: Target::Import(key.clone()),
                addend: 0,
            };
            // As `__ADDRESSABLE` has it; the linker drops it.
            self.closure.object.add(Piece {
                what: key,
                section: ".discard.addressable".into(),
                flags: u64::from(elf::SHF_ALLOC | elf::SHF_WRITE),
                kind: elf::SHT_PROGBITS,
                align: 8,
                bytes: vec![0; 8],
                relocations: vec![relocation],
                symbols: Vec::new(),
            });
        }
        Target::Import(name.into())
    }

    /// A symbol that V2's object does not define.
    fn outside(&mut self, name: &str, called: bool) -> Target {
        if self.context.exported.contains(name) || self.context.elsewhere.contains(name) {
            return self.import(name);
        }
        let function = called || name.starts_with("__SCT__");
        let kind = if function { PlaceholderKind::Function } else { PlaceholderKind::Data };
        Target::Placeholder(self.edition0(name, kind))
    }

    /// A symbol of V2's object that the running kernel has under the name `v1_name`.
    fn kernel(&mut self, v1_name: &str, function: bool, index: usize) -> Result<Target> {
        if self.context.exported.contains(v1_name) {
            return Ok(self.import(v1_name));
        }
        let kind = if !function {
            PlaceholderKind::Data
        } else if returns(self.context.unit, index)? {
            PlaceholderKind::Function
        } else {
            PlaceholderKind::NoReturn
        };
        Ok(Target::Placeholder(self.edition0(v1_name, kind)))
    }

    fn edition0(&mut self, v1_name: &str, kind: PlaceholderKind) -> usize {
        if let Some(&known) = self.edition0.get(v1_name) {
            return known;
        }
        // Names of the kernel must stay unique: a kprobe asks for a function by name. But objtool knows the parts
        // of a static call by their names.
        let by_name = v1_name.starts_with("__SCT__") || v1_name.starts_with("__SCK__");
        let name = if by_name { v1_name.to_string() } else { format!("edition0.{v1_name}") };
        let index = self.closure.object.placeholders.len();
        self.closure.object.placeholders.push(Placeholder { name, kind });
        self.edition0.insert(v1_name.into(), index);
        self.names.push((v1_name.into(), kind != PlaceholderKind::Data));
        if let Some(base) = v1_name.strip_prefix("__SCT__") {
            // objtool looks for the key of a static call by name.
            self.edition0(&format!("__SCK__{base}"), PlaceholderKind::Data);
        }
        index
    }

    /// Notes that the address of something in the update is taken.
    fn note_escape(&mut self, field: &Field, name: &str, owner: &str, code: bool) {
        if code && !field.branch && name != owner && !name.ends_with(".cold") {
            self.closure.escapes.push(Escape { function: name.into(), at: owner.into() });
        }
        // What is only read in place is not used once the call is over; an address may be kept.
        if !code && field.address && self.context.along.contains(name) {
            self.closure.escapes.push(Escape { function: name.into(), at: owner.into() });
        }
    }

    fn refuse(&mut self, name: &str, reason: &str) {
        self.closure.refusals.push(Refusal::new(
            name,
            reason,
            "change the fix so that it does without, or wait for state transfer to be supported",
        ));
    }
}

/// The extent of the nameless constant at `at`: a string with its end, an entry of a mergeable section, or
/// all of a section that cannot be divided.
pub fn constant(section: &crate::unit::Section, at: u64) -> (u64, u64) {
    let len = section.bytes.len() as u64;
    if section.flags & u64::from(elf::SHF_STRINGS) != 0 {
        let rest = section.bytes.get(at as usize..).unwrap_or(&[]);
        let end = rest.iter().position(|byte| *byte == 0).map_or(len, |end| at + end as u64 + 1);
        (at, end)
    } else if section.flags & u64::from(elf::SHF_MERGE) != 0 && section.entry_size > 0 {
        let start = at - at % section.entry_size;
        (start, (start + section.entry_size).min(len))
    } else {
        (0, len)
    }
}
