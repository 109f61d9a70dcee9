//! Where a function of V2 goes to: what its instructions say.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

use crate::unit::{Field, Place, Unit};

/// A function's instructions, by their offsets in its section.
struct Body {
    start: u64,
    instructions: Vec<Instruction>,
    /// What relocations of it refer to.
    fields: Vec<Field>,
}

impl Body {
    fn of(unit: &Unit, index: usize) -> Result<Self> {
        let symbol = unit.symbol(index)?;
        let section = symbol.section.context("an undefined function has no body")?;
        let (start, end) = (symbol.value, symbol.value + symbol.size);
        let code = unit.section(section)?.bytes.get(start as usize..end as usize).unwrap_or(&[]);
        let decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
        let fields = unit.fields(section, start, end)?;
        Ok(Self { start, instructions: decoder.into_iter().collect(), fields })
    }

    /// Whether a relocation is in an instruction.
    fn refers(&self, instruction: &Instruction) -> bool {
        let bytes = instruction.ip()..instruction.next_ip();
        self.fields.iter().any(|field| bytes.contains(&(self.start + field.offset)))
    }
}

/// Whether a function of V2 calls itself, also by a call that the assembler has resolved.
pub(super) fn calls_itself(unit: &Unit, index: usize) -> Result<bool> {
    let body = Body::of(unit, index)?;
    let by_name =
        |field: &Field| matches!(field.place, Place::In(to, 0) if to == index) && field.branch;
    let resolved = |instruction: &Instruction| {
        instruction.is_call_near() && instruction.near_branch_target() == body.start
    };
    Ok(body.fields.iter().any(by_name) || body.instructions.iter().any(resolved))
}

/// One of the `wanted` functions that a function of V2 calls, or takes the address of, itself or by way of others of its
/// object.
pub(super) fn comes_to(
    unit: &Unit,
    index: usize,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Option<String>> {
    let (mut seen, mut queue) = (BTreeSet::from([index]), vec![index]);
    while let Some(index) = queue.pop() {
        for field in Body::of(unit, index)?.fields {
            match field.place {
                Place::Elsewhere(name, _) if wanted(&name) => return Ok(Some(name)),
                Place::In(to, _) => {
                    let symbol = unit.symbol(to)?;
                    if symbol.function && wanted(&symbol.name) {
                        return Ok(Some(symbol.name.clone()));
                    }
                    if symbol.function && seen.insert(to) {
                        queue.push(to);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(None)
}

/// Whether a function of V2 ever returns, as objtool would find out (`__dead_end_function`): it has a return
/// or a jump to another function.
pub(super) fn returns(unit: &Unit, index: usize) -> Result<bool> {
    let body = Body::of(unit, index)?;
    Ok(body.instructions.iter().any(|instruction| match instruction.flow_control() {
        FlowControl::Return | FlowControl::IndirectBranch => true,
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
            body.refers(instruction)
        }
        _ => false,
    }))
}
