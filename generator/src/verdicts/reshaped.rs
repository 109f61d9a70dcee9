//! Functions whose parameters or result are other ones in V2: a call from the other edition of a caller would go wrong.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use dynamos_abi::HookKind;
use dynamos_differ::load::Elf;
use dynamos_differ::parameters::{Signature, signatures};

use crate::assemble::UnitInput;
use crate::plan::{Escape, Plan, Refusal};
use crate::unit::{Field, Place, Symbol, Unit};

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

/// Leaves those that a replaced function calls, in either version, or a new one: callers that stay as they are give V2's
/// function what they gave V1's. Says so in the plan, and refuses what chooses the edition of each call. `v1`: V1's objects
/// by path.
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
            by_replaced || is_newly_called(unit, new)
        })
    };
    pairs.filter(is_called).map(|(_, old)| old.clone()).collect()
}

/// Whether a function that only V2 has refers to `to`.
fn is_newly_called(unit: &UnitInput, to: &str) -> bool {
    let defined =
        unit.v2.symbols.iter().filter(|symbol| symbol.function && symbol.section.is_some());
    let mut new = defined.filter(|symbol| is_new(unit, &symbol.name));
    new.any(|symbol| refers(&unit.v2, &symbol.name, to))
}

/// Whether the update brings a function along that is no edition of one of V1's.
fn is_new(unit: &UnitInput, name: &str) -> bool {
    !unit.known.contains_key(name) && !name.contains(".cold")
}

/// Refuses what gives a function V2's parameters when V1's answers: new functions whose address somebody may keep, for they
/// may be called after a revert, and hooks that run before the switch, or after the way back.
pub(crate) fn refuse_early_and_late(units: &[UnitInput], escapes: &[Escape], plan: &mut Plan) {
    const OTHER: &str = "which takes other parameters in V2 or gives another result";
    const BESIDE: &str =
        "leave the parameters as they are: give the change a new function beside the old one";
    const BETWEEN: &str =
        "call it from dynamos_after_on or dynamos_before_off, or leave its parameters as they are";
    for (at, unit) in units.iter().enumerate() {
        let is_there = |name: &str| unit.v2.find(name).is_some() && is_new(unit, name);
        // To a function, or to what may lead to one.
        let late = escapes
            .iter()
            .filter(|escape| escape.rewritten && is_there(&escape.function))
            .map(|Escape { function, at, .. }| {
                (
                    function,
                    format!("its address escapes at {at}, so it may be called after a revert"),
                    BESIDE,
                )
            });
        let early = unit
            .hooks
            .iter()
            .filter(|(kind, _)| matches!(kind, HookKind::BeforeOn | HookKind::AfterOff))
            .map(|(_, name)| (name, "runs while V1's functions answer".to_owned(), BETWEEN));
        for (name, why, remedy) in late.chain(early) {
            if let Some(old) = leads_to(units, at, name) {
                let reason = format!("{why}, and it calls `{old}`, {OTHER}: V1's would get V2's");
                plan.refusals.push(Refusal::new(name, reason, remedy).within(&unit.object));
            }
        }
    }
}

/// V1's name of a function with other parameters that a function of the unit `at` comes to, itself or by way of others that
/// the update brings along: what it replaces answers by the entry.
fn leads_to(units: &[UnitInput], at: usize, function: &str) -> Option<String> {
    let from = (at, function.to_owned());
    let (mut seen, mut queue) = (BTreeSet::from([from.clone()]), vec![from]);
    while let Some((at, function)) = queue.pop() {
        for (name, own) in referents(&units.get(at)?.v2, &function) {
            for (home, unit) in units.iter().enumerate().filter(|(home, _)| !own || *home == at) {
                let shared = |symbol: &Symbol| symbol.global && symbol.section.is_some();
                let defined = own || unit.v2.symbols.iter().any(|s| s.name == name && shared(s));
                match unit.replaced.get(&name) {
                    Some(old) if defined && unit.reshaped.contains(old) => {
                        return Some(old.clone());
                    }
                    None if defined && is_new(unit, &name) => {
                        let next = (home, name.clone());
                        if seen.insert(next.clone()) {
                            queue.push(next);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    None
}

/// The names that a function and the parts of it refer to, and whether each is defined in the same object.
fn referents(unit: &Unit, function: &str) -> BTreeSet<(String, bool)> {
    let place = |field: Field| match field.place {
        Place::Elsewhere(name, _) => Some((name, false)),
        Place::In(index, _) => {
            let symbol = unit.symbols.get(index).filter(|symbol| symbol.function);
            symbol.map(|symbol| (symbol.name.clone(), true))
        }
        Place::Raw(..) => None,
    };
    bodies(unit, function)
        .filter_map(|(section, start, end)| unit.fields_in_place(section, start, end).ok())
        .flat_map(|fields| fields.into_iter().filter_map(place).collect::<Vec<_>>())
        .collect()
}

/// Section, begin and end of a function and of the parts of it that the compiler moved away.
fn bodies<'u>(unit: &'u Unit, function: &'u str) -> impl Iterator<Item = (usize, u64, u64)> + 'u {
    let whole =
        unit.symbols.iter().filter(move |symbol| symbol.function && symbol.name == function);
    whole.chain(unit.fragments(function)).filter_map(|symbol| {
        Some((symbol.section?, symbol.value, symbol.value.saturating_add(symbol.size)))
    })
}

/// Whether a function, or a part of it that the compiler moved away, refers to `to`.
fn refers(unit: &Unit, function: &str, to: &str) -> bool {
    bodies(unit, function).any(|(section, start, end)| {
        let Ok(fields) = unit.fields_in_place(section, start, end) else { return true };
        fields.iter().any(|field| match &field.place {
            Place::Elsewhere(name, _) => name == to,
            Place::In(index, _) => unit.symbols.get(*index).is_none_or(|symbol| symbol.name == to),
            Place::Raw(..) => false,
        })
    })
}
