//! The clone closure: from the functions that changed to everything that must move into the update, and to what
//! it uses of the running kernel.

mod body;
mod bridge;
mod copy;
mod flow;
mod keeps;
mod outside;
mod replace;
mod tables;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use dynamos_abi::{HookKind, edition};

pub use bridge::{BridgeInput, CodePiece, is_of_its_own};
pub use copy::constant;

use body::Body;

use crate::clones::{CloneObject, PieceId, PieceRelocation, PieceSymbol, Target};
use crate::counting::ObjectOf;
use crate::exports::Seen;
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
    /// Functions that take any number of arguments, and how many before those.
    pub variadic: &'a BTreeMap<String, usize>,
    /// How the objects are found that the calls of a function work on, by V2's name of it.
    pub objects: &'a BTreeMap<String, ObjectOf>,
    /// Functions that are called when the update is switched, by V2's name.
    pub hooks: &'a BTreeMap<HookKind, String>,
    /// Changed constants that go along although the running kernel has an edition of them, by V2's name.
    pub along: &'a BTreeSet<String>,
    /// New functions whose addresses the update writes into tables of operations, by V2's name.
    pub handlers: &'a BTreeSet<String>,
    /// What the kernel exports, as V1's object sees it.
    pub exported: &'a Seen<'a>,
    /// Global functions and variables that other objects of this update define anew, and whether one of them is of the
    /// same part of the kernel.
    pub elsewhere: &'a BTreeMap<String, bool>,
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

    /// Resolves what a copied range refers to.
    fn relocate(&mut self, work: Work) -> Result<()> {
        let unit = self.context.unit;
        let fields = unit.fields(work.section, work.start, work.end)?;
        let body = LazyCell::new(|| Body::new(unit, work.section, work.start, work.end, &fields));
        for field in &fields {
            let inside = match &field.place {
                Place::In(index, into) => {
                    let symbol = self.context.unit.symbol(*index)?;
                    let at = symbol.value.checked_add_signed(*into);
                    symbol.section == Some(work.section)
                        && at.is_some_and(|at| (work.start..work.end).contains(&at))
                }
                Place::Raw(section, at, _) => {
                    *section == work.section && (work.start..work.end).contains(at)
                }
                Place::Elsewhere(..) => false,
            };
            if field.resolved && inside {
                continue;
            }
            let owner = self.owner_name(work.piece);
            let Some((target, addend)) = self.target(field, &owner)? else { continue };
            let code = unit.section(work.section)?.is_code();
            if matches!(target, Target::Piece(_)) && code && !field.branch {
                let at = work.start + field.offset;
                let variadic = self.context.variadic;
                let may_keep = |name: &str| keeps::may_keep(name, variadic);
                self.note_kept(field, &owner, |deep| body.keeps(unit, at, deep, &may_keep))?;
            }
            if field.resolved {
                self.clear(work.piece, field.offset);
            }
            self.push(work.piece, field.offset, field.kind, target, addend - field.bias);
        }
        Ok(())
    }

    /// What the assembler has put into a branch that gets a relocation now: the kernel's loader wants a field of zeroes
    /// (`apply_relocate_add`).
    fn clear(&mut self, piece: PieceId, offset: u64) {
        let bytes =
            self.closure.object.pieces.get_mut(piece).map(|piece| piece.bytes.as_mut_slice());
        let field = bytes.and_then(|bytes| bytes.get_mut(offset as usize..)?.get_mut(..4));
        field.unwrap_or_default().fill(0);
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
                let target = self.outside(name, field.branch)?;
                Ok(target.map(|target| (target, *offset)))
            }
            Place::In(index, into) => {
                let symbol = unit.symbol(*index)?;
                let section_index = symbol.section.context("a defined symbol has a section")?;
                let section = unit.section(section_index)?;
                // What is before a variable goes where the variable goes.
                let at = symbol.value.saturating_add_signed((*into).max(0));
                let addend = |start: u64| (symbol.value as i64).wrapping_add(*into) - start as i64;
                if let Some((start, piece)) = self.piece_at(section_index, at)
                    && (!self.context.replaced.contains_key(&symbol.name)
                        || *into != 0
                        || owner == symbol.name && field.branch)
                {
                    // Its own body, a fragment of it, or something already copied. The address of a replaced function
                    // is edition 0's, also where it hands out its own: that stays when the update goes.
                    self.note_escape(field, &symbol.name, owner, section.is_code());
                    return Ok(Some((Target::Piece(piece), addend(start))));
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
                    return Ok(Some((target, *into)));
                }
                if let Some(shared) = self.shared(*index)? {
                    return Ok(shared.map(|(piece, at)| (Target::Piece(piece), at + *into)));
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
                Ok(Some((Target::Piece(piece), addend(start))))
            }
            Place::Raw(section_index, at, into) => {
                let found = self.raw(*section_index, *at, owner)?;
                Ok(found.map(|(target, addend)| (target, addend.wrapping_add(*into))))
            }
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

    fn refuse(&mut self, name: &str, reason: &str) {
        self.closure.refusals.push(Refusal::new(
            name,
            reason,
            "change the fix so that it does without, or wait for state transfer to be supported",
        ));
    }
}
