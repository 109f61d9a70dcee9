//! The last part of the closure: table entries about the code that moves, and the fields that need real addresses.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use object::elf;

use super::{Builder, Need};
use crate::clones::{Piece, PieceRelocation, Target};
use crate::plan::Refusal;
use crate::record::Fixup;
use crate::special::entries_about;
use crate::unit::{Field, Place};

impl Builder<'_> {
    /// Copies the entries of special sections that are about copied code, and what they refer to.
    pub(super) fn tables(&mut self) -> Result<()> {
        let unit = self.context.unit;
        let mut done = BTreeSet::new();
        // Entries may bring in more code (replacements), so until nothing is new.
        loop {
            let ranges: Vec<(usize, u64, u64)> = self
                .pieces
                .iter()
                .map(|(&(section, start), &(end, _))| (section, start, end))
                .filter(|range| !done.contains(range))
                .collect();
            if ranges.is_empty() {
                return Ok(());
            }
            for (section, start, end) in ranges {
                done.insert((section, start, end));
                if !unit.section(section)?.is_code() {
                    continue;
                }
                let owner = self
                    .piece_at(section, start)
                    .map_or_else(String::new, |(_, p)| self.owner_name(p));
                match entries_about(unit, section, start, end) {
                    Ok(entries) => {
                        for entry in entries {
                            self.entry(&entry, &owner)?;
                        }
                    }
                    Err(error) => self.refuse(&owner, &format!("{error:#}")),
                }
            }
            while let Some(work) = self.queue.pop() {
                self.relocate(work)?;
            }
        }
    }

    /// Copies one entry of a table.
    fn entry(&mut self, entry: &crate::special::Entry, owner: &str) -> Result<()> {
        let unit = self.context.unit;
        let table = unit.section(entry.section)?;
        let bytes = table
            .bytes
            .get(entry.start as usize..entry.end as usize)
            .context("an entry reaches past its table")?
            .to_vec();
        let mut relocations = Vec::new();
        for relocation in &table.relocations {
            if !(entry.start..entry.end).contains(&relocation.offset) {
                continue;
            }
            let symbol = unit.symbol(relocation.symbol)?;
            let offset = relocation.offset - entry.start;
            let kind = relocation.kind;
            let place = self.table_place(relocation)?;
            let copied = match (&place, symbol.section) {
                (Place::Raw(section, at, _), _) => {
                    self.piece_at(*section, *at).map(|(s, p)| (p, at - s))
                }
                (Place::In(index, into), _) => {
                    let symbol = unit.symbol(*index)?;
                    let at = symbol.value.checked_add_signed(*into);
                    let found = symbol.section.zip(at);
                    found
                        .and_then(|(section, at)| Some((self.piece_at(section, at)?, at)))
                        .map(|((start, piece), at)| (piece, at - start))
                }
                _ => None,
            };
            if let Some((piece, into)) = copied {
                let target = Target::Piece(piece);
                relocations.push(PieceRelocation { offset, kind, target, addend: into as i64 });
                continue;
            }
            // Replacement code is nameless and goes along as a whole entry's worth.
            if let Place::Raw(section, at, _) = place
                && unit.section(section)?.is_code()
            {
                let len = table.bytes.get(entry.end as usize - 1).copied().map_or(0, u64::from);
                // Replaced by nothing: what the field refers to is never read.
                if len == 0 {
                    let code: Option<&PieceRelocation> = relocations.first();
                    let target = code.context("an entry without code")?.target.clone();
                    relocations.push(PieceRelocation { offset, kind, target, addend: 0 });
                    continue;
                }
                let output = unit.section(section)?.name.clone();
                let piece = self.copy_range(section, at, at + len, output)?;
                let target = Target::Piece(piece);
                relocations.push(PieceRelocation { offset, kind, target, addend: 0 });
                continue;
            }
            let field = Field {
                offset,
                kind,
                place,
                bias: 0,
                branch: true,
                address: false,
                resolved: false,
            };
            // The low bits of a static key's reference are flags (include/linux/jump_label.h).
            if let Some((target, addend)) = self.target(&field, owner)? {
                relocations.push(PieceRelocation { offset, kind, target, addend });
            }
        }
        let piece = Piece {
            what: owner.into(),
            section: table.name.clone(),
            flags: table.flags & !u64::from(elf::SHF_GROUP | elf::SHF_LINK_ORDER),
            kind: table.kind,
            align: table.align.min(8),
            bytes,
            relocations,
            symbols: Vec::new(),
        };
        self.closure.object.add(piece);
        Ok(())
    }

    /// The place a table's field refers to. A static call's site and a bug's address are not biased.
    fn table_place(&self, relocation: &crate::unit::Relocation) -> Result<Place> {
        self.context.unit.place(relocation, 0)
    }

    /// Collects the fields that refer to placeholders.
    pub(super) fn needs(&mut self) -> Result<()> {
        let mut fixups: BTreeMap<usize, Vec<Fixup>> = BTreeMap::new();
        for id in 0..self.closure.object.pieces.len() {
            let piece = self.closure.object.pieces.get(id).context("no such piece")?;
            if piece.section.starts_with(".discard") {
                continue;
            }
            let mut found = Vec::new();
            for relocation in &piece.relocations {
                let Target::Placeholder(placeholder) = relocation.target else { continue };
                if matches!(piece.section.as_str(), ".altinstr_replacement" | ".altinstructions") {
                    let (name, _) = self.names.get(placeholder).context("no such name")?.clone();
                    let reason = "an alternative's replacement refers to it, and the kernel copies that before \
                                  its address can be filled in";
                    self.closure.refusals.push(Refusal::new(name, reason, "none yet"));
                    break;
                }
                // A jump entry's `JUMP_LABEL_HACK` stays, as in any module: dynamos.ko writes only over what the
                // record says is there, and the kernel sets the bit anew (`jump_entry_set_init`).
                let (offset, kind) = (relocation.offset as u32, relocation.kind);
                found.push((placeholder, offset, kind, relocation.addend));
            }
            if found.is_empty() {
                continue;
            }
            let base = self.closure.object.addr(Target::Piece(id), 0) as u32;
            for (placeholder, offset, kind, addend) in found {
                fixups.entry(placeholder).or_default().push(Fixup { base, offset, kind, addend });
            }
        }
        for (index, (name, function)) in self.names.iter().enumerate() {
            let placeholder = self.closure.object.addr(Target::Placeholder(index), 0) as u32;
            self.closure.needs.push(Need {
                name: name.clone(),
                function: *function,
                placeholder,
                fixups: fixups.remove(&index).unwrap_or_default(),
            });
        }
        ensure!(fixups.is_empty(), "a placeholder without a name");
        Ok(())
    }
}
