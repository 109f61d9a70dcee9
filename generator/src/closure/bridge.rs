//! Bridge editions: a second object's clones in the same object of the update, with what both share in it once.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use dynamos_abi::{HookKind, edition};
use object::elf;

use super::{Builder, Known};
use crate::clones::{PieceId, PieceSymbol, Target};
use crate::handlers::bridge_symbol;
use crate::unit::Unit;

/// The build of an object that has bridge editions of its functions.
#[derive(Debug)]
pub struct BridgeInput {
    /// The object.
    pub unit: Unit,
    /// Functions to replace: the bridge's name → V1's.
    pub replaced: BTreeMap<String, String>,
    /// Changed constants that go along with them.
    pub along: BTreeSet<String>,
    /// Symbols that the running kernel has: the bridge's name → V1's.
    pub known: BTreeMap<String, String>,
    /// Functions that take any number of arguments, and how many before those.
    pub variadic: BTreeMap<String, usize>,
    /// What is called between phases.
    pub hooks: BTreeMap<HookKind, String>,
}

/// A piece of an edition's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePiece {
    /// Address index (within this object).
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
    /// See [`dynamos_abi::edition`].
    pub edition: u32,
}

/// Static variables of functions that mean nothing to another edition: what has been warned of, limits of messages, keys
/// of locks, names.
const OF_THEIR_OWN: [&str; 7] =
    ["__already_done", "__func__", "__key", "___key", "__warned", "_rs", "__print_once"];

/// So begin the names of messages of dynamic debug, with a number behind; they go with their module.
const DYNAMIC_DEBUG: &str = "__UNIQUE_ID_ddebug";

/// Whether it is the name of such a variable.
pub fn is_of_its_own(name: &str) -> bool {
    let own = |base: &str| OF_THEIR_OWN.contains(&base) || base.starts_with(DYNAMIC_DEBUG);
    name.split_once('.').is_some_and(|(base, _)| own(base))
}

/// The context for the bridge's object. What other objects of V2 define is V2's.
pub(super) fn context<'a>(v2: &Known<'a>, bridge: &'a BridgeInput) -> Known<'a> {
    static NOTHING: BTreeSet<String> = BTreeSet::new();
    static NOWHERE: BTreeMap<String, bool> = BTreeMap::new();
    static NO_NAMES: BTreeMap<String, String> = BTreeMap::new();
    Known {
        unit: &bridge.unit,
        replaced: &bridge.replaced,
        known: &bridge.known,
        variadic: &bridge.variadic,
        adaptations: &NO_NAMES,
        along: &bridge.along,
        hooks: &bridge.hooks,
        handlers: &NOTHING,
        elsewhere: &NOWHERE,
        wanted: &NOTHING,
        ..*v2
    }
}

impl<'a> Builder<'a> {
    /// Goes on with the bridge's object: the placeholders are the same, and so are the new variables of both.
    pub(super) fn bridge<'b>(
        self,
        context: &'b Known<'b>,
        input: &BridgeInput,
    ) -> Result<Builder<'b>> {
        let shared = self.variables();
        let first = self.closure.object.pieces.len();
        let mut builder = Builder {
            context,
            closure: self.closure,
            pieces: BTreeMap::new(),
            queue: Vec::new(),
            edition0: self.edition0,
            names: self.names,
            of_bridge: true,
            shared,
        };
        for (name, v1_name) in &input.replaced {
            let number = builder.closure.replaced.iter().position(|replaced| replaced == v1_name);
            // Those that V2 does not replace were refused.
            let Some(number) = number else { continue };
            let index = context.unit.find(name).with_context(|| format!("no function {name}"))?;
            let symbol = bridge_symbol(context.first_clone + number);
            let (piece, into) = builder.known_as(index, symbol)?;
            let addr = builder.closure.object.addr(Target::Piece(piece), into as i64);
            builder.closure.bridge_addrs.insert(v1_name.clone(), addr as u32);
        }
        builder.hooks()?;
        while let Some(work) = builder.queue.pop() {
            builder.relocate(work)?;
        }
        builder.tables()?;
        builder.note_code(first, edition::BRIDGE);
        Ok(builder)
    }

    /// The variables and constants with names that were copied: where they are.
    fn variables(&self) -> BTreeMap<String, (PieceId, u64)> {
        let pieces = self.closure.object.pieces.iter().enumerate();
        let of_piece = |(id, symbols): (usize, &Vec<PieceSymbol>)| {
            let data = symbols.iter().filter(|symbol| !symbol.function && symbol.size > 0);
            data.map(|symbol| (symbol.name.clone(), (id, symbol.offset))).collect::<Vec<_>>()
        };
        pieces.map(|(id, piece)| (id, &piece.symbols)).flat_map(of_piece).collect()
    }

    /// Where a new variable is that V2 has too: `Some(None)` if it was refused, `None` if V2 has none.
    pub(super) fn shared(&mut self, index: usize) -> Result<Option<Option<(PieceId, i64)>>> {
        let unit = self.context.unit;
        let symbol = unit.symbol(index)?;
        if !self.of_bridge || symbol.function || self.context.along.contains(&symbol.name) {
            return Ok(None);
        }
        let section = unit.section(symbol.section.context("a defined symbol has a section")?)?;
        if let Some((base, _)) = symbol.name.split_once('.') {
            let twice =
                self.shared.keys().any(|name| name.split_once('.').is_some_and(|(b, _)| b == base));
            if section.is_writable() && twice && !is_of_its_own(&symbol.name) {
                self.refuse(
                    base,
                    "is a variable within a function of the bridge and of V2, and each would have one of its own: \
                     make it a variable of the file",
                );
                return Ok(Some(None));
            }
            return Ok(None);
        }
        let Some(&(piece, offset)) = self.shared.get(&symbol.name) else { return Ok(None) };
        let start = symbol.value as usize;
        let own = section.bytes.get(start..start + symbol.size as usize);
        let theirs = self.closure.object.pieces.get(piece).and_then(|piece| {
            let same = piece.symbols.iter().find(|other| other.name == symbol.name)?;
            piece.bytes.get(offset as usize..(offset + same.size) as usize)
        });
        if own.is_none() || own != theirs {
            self.refuse(
                &symbol.name,
                "is new in the bridge and in V2, which share it, and has another size or value in each",
            );
            return Ok(Some(None));
        }
        Ok(Some(Some((piece, offset as i64))))
    }

    /// Takes note of the code of an edition: all of it from the piece `first` on.
    pub(super) fn note_code(&mut self, first: PieceId, edition: u32) {
        for id in first..self.closure.object.pieces.len() {
            let Some(piece) = self.closure.object.pieces.get(id) else { continue };
            let code = piece.flags & u64::from(elf::SHF_EXECINSTR) != 0;
            // Alternatives are copied over other code, and do not run where they are.
            if !code || piece.section == ".altinstr_replacement" {
                continue;
            }
            // The padding in front of a function is never run.
            let sized = piece.symbols.iter().filter(|symbol| symbol.size > 0);
            let padding = sized.map(|symbol| symbol.offset).min().unwrap_or(0);
            let len = (piece.bytes.len() as u64).saturating_sub(padding) as u32;
            if len > 0 {
                let start = self.closure.object.addr(Target::Piece(id), padding as i64) as u32;
                self.closure.code.push(CodePiece { start, len, edition });
            }
        }
    }
}
