//! Functions whose parameters or result are other ones in V2: a call from the other edition of a caller would go wrong.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use dynamos_differ::load::Elf;
use dynamos_differ::parameters::{Signature, signatures};

use crate::assemble::UnitInput;
use crate::plan::{Escape, Plan, Refusal};
use crate::unit::{Place, Unit};

/// Those of the `replaced` functions (V2's name → V1's) of an object, by V1's name, and what they take on each side. Where
/// the compiler has changed what one takes (`f.isra.0`), or nothing is known of it, it counts as one.
pub(super) fn find(
    replaced: &BTreeMap<String, String>,
    v1: &BTreeMap<String, Signature>,
    v2: &Elf<'_>,
) -> Result<BTreeSet<String>> {
    if replaced.is_empty() {
        return Ok(BTreeSet::new());
    }
    let v2 = signatures(v2, &replaced.keys().cloned().collect())?;
    let differ = |(new, old): &(&String, &String)| match (v1.get(*old), v2.get(*new)) {
        (Some(old), Some(new)) => !alike(old, new),
        _ => true,
    };
    Ok(replaced.iter().filter(differ).map(|(_, old)| old.clone()).collect())
}

/// Whether registers and stack hold the same. Of what does not come in one register only the name is known.
fn alike(old: &Signature, new: &Signature) -> bool {
    let known = !old.types().contains(&"other") && old.returns != Some("other");
    let same = if known { old.types() == new.types() } else { old.parameters == new.parameters };
    same && old.returns == new.returns
}

/// Leaves those that a replaced function calls, in either version: callers that stay as they are give V2's function what
/// they gave V1's. Says so in the plan, and refuses what chooses the edition of each call. `v1`: V1's objects by path.
pub(super) fn settle(units: &mut [UnitInput], v1: &BTreeMap<&str, &Unit>, plan: &mut Plan) {
    let called: Vec<BTreeSet<String>> = units.iter().map(|unit| called(unit, units, v1)).collect();
    for (unit, called) in units.iter_mut().zip(called) {
        unit.reshaped.retain(|name| called.contains(name));
        for name in &unit.reshaped {
            if let Some(row) = plan.function_mut(&unit.object, name) {
                row.reshaped = true;
            }
            let adapts = |new: &String| unit.replaced.get(new) == Some(name);
            if unit.adaptations.keys().any(adapts) {
                let reason = "takes other parameters in V2 or gives another result, or that is not known, so an adaptation \
                              handler may not choose between its editions";
                let remedy = "leave the handler out, or the parameters as they are";
                plan.refusals.push(Refusal::new(name, reason, remedy).within(&unit.object));
            }
        }
    }
}

/// Those of one object that a replaced or new function of any object calls, or may.
fn called(of: &UnitInput, units: &[UnitInput], v1: &BTreeMap<&str, &Unit>) -> BTreeSet<String> {
    let pairs = of.replaced.iter().filter(|(_, old)| of.reshaped.contains(*old));
    let is_called = |(new, old): &(&String, &String)| {
        units.iter().any(|unit| {
            let by_replaced = unit.replaced.iter().any(|(by_new, by_old)| {
                let itself = unit.object == of.object && by_new == *new;
                let old_unit = v1.get(unit.object.as_str());
                !itself
                    && (refers(&unit.v2, by_new, new)
                        || old_unit.is_none_or(|unit| refers(unit, by_old, old)))
            });
            by_replaced || new_callers(unit, new).next().is_some()
        })
    };
    pairs.filter(is_called).map(|(_, old)| old.clone()).collect()
}

/// The functions that only V2 has and that refer to `to`.
fn new_callers<'u>(unit: &'u UnitInput, to: &'u str) -> impl Iterator<Item = &'u str> {
    let defined =
        unit.v2.symbols.iter().filter(|symbol| symbol.function && symbol.section.is_some());
    let new = defined.filter(|symbol| !unit.known.contains_key(&symbol.name));
    new.filter(move |symbol| refers(&unit.v2, &symbol.name, to)).map(|symbol| symbol.name.as_str())
}

/// Refuses new functions that give a function V2's parameters, where somebody may keep their address: after a revert they
/// would give them to V1's.
pub(crate) fn refuse_kept(units: &[UnitInput], escapes: &[Escape], plan: &mut Plan) {
    // To a function, or to what may lead to one.
    let Some(escape) = escapes.iter().find(|escape| escape.rewritten) else { return };
    for of in units {
        for (new, old) in of.replaced.iter().filter(|(_, old)| of.reshaped.contains(*old)) {
            for unit in units {
                plan.refusals.extend(new_callers(unit, new).map(|caller| {
                    let reason = format!(
                        "is new and calls `{old}`, which takes other parameters in V2 or gives another result; the address of \
                         `{}` escapes at {}, so it may be called after a revert, when V1's `{old}` answers",
                        escape.function, escape.at
                    );
                    let remedy = "leave the parameters as they are: give the change a new function beside the old one";
                    Refusal::new(caller, &reason, remedy).within(&unit.object)
                }));
            }
        }
    }
}

/// Whether a function, or a part of it that the compiler moved away, refers to `to`.
fn refers(unit: &Unit, function: &str, to: &str) -> bool {
    let whole = unit.symbols.iter().filter(|symbol| symbol.function && symbol.name == function);
    whole.chain(unit.fragments(function)).any(|symbol| {
        let Some(section) = symbol.section else { return false };
        let end = symbol.value.saturating_add(symbol.size);
        let Ok(fields) = unit.fields_in_place(section, symbol.value, end) else { return true };
        fields.iter().any(|field| match &field.place {
            Place::Elsewhere(name, _) => name == to,
            Place::In(index, _) => unit.symbols.get(*index).is_none_or(|symbol| symbol.name == to),
            Place::Raw(..) => false,
        })
    })
}
