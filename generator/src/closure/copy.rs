//! What goes along is copied here: functions, variables, constants.

use anyhow::{Context, Result};
use dynamos_differ::load::text_len;
use object::elf;

use super::{Builder, Work};
use crate::clones::{Piece, PieceId, PieceSymbol};
use crate::unit::Section;

impl Builder<'_> {
    /// Offset of a symbol in the piece that holds it (call padding comes before a function).
    pub(super) fn offset_in_piece(&self, index: usize) -> Result<u64> {
        let symbol = self.context.unit.symbol(index)?;
        let section = symbol.section.context("an undefined symbol cannot be copied")?;
        let (start, _) =
            self.piece_at(section, symbol.value).context("the symbol was not copied")?;
        Ok(symbol.value - start)
    }

    /// The copied range that holds an offset of a section: its start and piece.
    pub(super) fn piece_at(&self, section: usize, offset: u64) -> Option<(u64, PieceId)> {
        let (&(_, start), &(end, piece)) =
            self.pieces.range((section, 0)..=(section, offset)).next_back()?;
        (offset < end || offset == start).then_some((start, piece))
    }

    /// Copies a function.
    pub(super) fn code(&mut self, index: usize) -> Result<PieceId> {
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
    pub(super) fn data(&mut self, index: usize) -> Result<PieceId> {
        let symbol = self.context.unit.symbol(index)?;
        let section = symbol.section.context("an undefined variable cannot be copied")?;
        let name = self.context.unit.section(section)?.name.clone();
        self.copy(section, symbol.value, symbol.value + symbol.size, name, index)
    }

    pub(super) fn copy(
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
    pub(super) fn name_in_update(&self, name: &str) -> String {
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

    pub(super) fn copy_range(
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

    /// Where the out-of-line code of a `static_cpu_has()` ends: with its jump back
    /// (arch/x86/include/asm/cpufeature.h).
    pub(super) fn auxiliary_end(&self, section_index: usize, at: u64) -> Result<u64> {
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
}

/// The extent of the nameless constant at `at`: a string with its end, which is as wide as its characters, an entry of a
/// mergeable section, or all of a section that cannot be divided.
pub fn constant(section: &Section, at: u64) -> (u64, u64) {
    let len = section.bytes.len() as u64;
    let strings = section.flags & u64::from(elf::SHF_STRINGS) != 0;
    if strings && matches!(section.entry_size, 0..=4) {
        let rest = section.bytes.get(at as usize..).unwrap_or(&[]);
        (at, text_len(rest, section.entry_size.max(1)).map_or(len, |text| at + text))
    } else if strings {
        (0, len)
    } else if section.flags & u64::from(elf::SHF_MERGE) != 0 && section.entry_size > 0 {
        let start = at - at % section.entry_size;
        (start, (start + section.entry_size).min(len))
    } else {
        (0, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_ends_with_a_character_that_is_zero() {
        let section = |entry_size, bytes: &[u8]| Section {
            flags: u64::from(elf::SHF_ALLOC | elf::SHF_MERGE | elf::SHF_STRINGS),
            entry_size,
            bytes: bytes.to_vec(),
            ..Section::default()
        };
        assert_eq!(constant(&section(1, b"ab\0cd\0"), 3), (3, 6));
        assert_eq!(constant(&section(2, b"a\0b\0\0\0c\0\0\0"), 0), (0, 6));
        assert_eq!(constant(&section(2, b"a\0b\0\0\0c\0\0\0"), 6), (6, 10));
        assert_eq!(constant(&section(4, b"a\0\0\0\0\0\0\0"), 0), (0, 8));
        // What has no end, or characters of no known width, is copied whole.
        assert_eq!(constant(&section(2, b"a\0b\0"), 0), (0, 4));
        assert_eq!(constant(&section(16, b"a\0b\0\0\0"), 2), (0, 6));
    }
}
