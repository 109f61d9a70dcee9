//! A function of V2 as instructions, and what relocations of them refer to.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::unit::{Field, Unit};

/// All by offsets in the function's section.
pub(super) struct Body {
    pub(super) start: u64,
    pub(super) instructions: BTreeMap<u64, Instruction>,
    pub(super) fields: BTreeMap<u64, Field>,
}

impl Body {
    /// The function with this symbol.
    pub(super) fn of(unit: &Unit, index: usize) -> Result<Self> {
        let symbol = unit.symbol(index)?;
        let section = symbol.section.context("an undefined function has no body")?;
        let (start, end) = (symbol.value, symbol.value.saturating_add(symbol.size));
        Ok(Self::new(unit, section, start, end, &unit.fields(section, start, end)?))
    }

    /// The code between two offsets of a section, which refers to what `fields` say.
    pub(super) fn new(unit: &Unit, section: usize, start: u64, end: u64, fields: &[Field]) -> Self {
        let section = unit.section(section).ok();
        let code = section.and_then(|of| of.bytes.get(start as usize..end as usize));
        let code = code.unwrap_or(&[]);
        let decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
        let placed = |field: &Field| (start.saturating_add(field.offset), field.clone());
        Self {
            start,
            instructions: decoder.into_iter().map(|found| (found.ip(), found)).collect(),
            fields: fields.iter().map(placed).collect(),
        }
    }

    /// What the first relocation in an instruction refers to.
    pub(super) fn field_in(&self, instruction: &Instruction) -> Option<&Field> {
        let mut within = self.fields.range(instruction.ip()..instruction.next_ip());
        within.next().map(|(_, field)| field)
    }
}
