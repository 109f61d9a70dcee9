//! Where a function of V2 goes to: what its instructions say.

use std::collections::BTreeSet;

use anyhow::Result;
use iced_x86::{FlowControl, Instruction};

use super::body::Body;
use crate::unit::{Field, Place, Unit};

/// Whether a function of V2 calls itself, also by a call that the assembler has resolved.
pub(super) fn calls_itself(unit: &Unit, index: usize) -> Result<bool> {
    let body = Body::of(unit, index)?;
    let by_name =
        |field: &Field| matches!(field.place, Place::In(to, 0) if to == index) && field.branch;
    let resolved = |instruction: &Instruction| {
        instruction.is_call_near() && instruction.near_branch_target() == body.start
    };
    Ok(body.fields.values().any(by_name) || body.instructions.values().any(resolved))
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
        for field in Body::of(unit, index)?.fields.into_values() {
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
    Ok(body.instructions.values().any(|instruction| match instruction.flow_control() {
        FlowControl::Return | FlowControl::IndirectBranch => true,
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
            body.field_in(instruction).is_some()
        }
        _ => false,
    }))
}
