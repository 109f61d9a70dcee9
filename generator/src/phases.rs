//! An update with phases: V2's editions together with the bridge editions of the same functions.

use std::collections::{BTreeMap, BTreeSet};

use crate::assemble::UnitInput;
use crate::closure::BridgeInput;
use crate::plan::{PhasePlan, Plan, Refusal};
use crate::verdicts::Judged;

/// Gives each object of V2 the bridge editions of its functions, and says in the plan what the phases are. What has no
/// bridge, and what phases cannot have, is refused.
pub fn join(judged: &mut Judged, bridge: Judged, plan: &mut Plan, of_bridge: Plan) {
    plan.refusals.extend(of_bridge.refusals.into_iter().map(|refusal| Refusal {
        reason: format!("in the bridge: {}", refusal.reason),
        ..refusal
    }));
    for table in judged.slots.iter().chain(&bridge.slots) {
        plan.refusals.push(Refusal::new(
            &table.name,
            "its handlers differ, which all calls share: they cannot go by way of a bridge edition",
            "leave them as they are, or make the update without --bridge",
        ));
    }
    judged.slots.clear();
    let mut bridges: BTreeMap<String, UnitInput> =
        bridge.units.into_iter().map(|unit| (unit.object.clone(), unit)).collect();
    let mut group = BTreeSet::new();
    for unit in &mut judged.units {
        group.extend(unit.replaced.values().cloned());
        let bridge = bridges.remove(&unit.object);
        refuse_adaptations(unit, plan);
        let paths = bridge.as_ref().map(|bridge| paths(bridge)).unwrap_or_default();
        for name in paths_missing(&self::paths(unit), &paths) {
            plan.refusals.push(Refusal::new(
                name,
                "V2 replaces it, and the bridge leaves it as V1 has it: beside V2's editions it would meet state that it \
                 does not know",
                "give it an edition in the file of --bridge that works with both, or change V2 so that it stays as it is",
            ));
        }
        let own = self::paths(unit);
        if let Some(bridge) = bridge {
            refuse_adaptations(&bridge, plan);
            for name in paths_missing(&paths, &own) {
                refuse_surplus(name, plan);
            }
            unit.bridge = Some(BridgeInput {
                unit: bridge.v2,
                replaced: bridge.replaced,
                along: bridge.along,
                known: bridge.known,
            });
        }
    }
    for name in bridges.values().flat_map(|unit| unit.replaced.values()) {
        refuse_surplus(name, plan);
    }
    plan.phases = phases(&group.into_iter().collect::<Vec<_>>());
}

/// V1's names of the functions that a unit replaces.
fn paths(unit: &UnitInput) -> BTreeSet<String> {
    unit.replaced.values().cloned().collect()
}

fn paths_missing<'a>(
    wanted: &'a BTreeSet<String>,
    there: &'a BTreeSet<String>,
) -> impl Iterator<Item = &'a String> {
    wanted.difference(there)
}

fn refuse_surplus(name: &str, plan: &mut Plan) {
    plan.refusals.push(Refusal::new(
        name,
        "the bridge replaces it, and V2 does not: there is no edition for it to lead to",
        "leave it as V1 has it in the bridge, or change it in V2 too",
    ));
}

fn refuse_adaptations(unit: &UnitInput, plan: &mut Plan) {
    for handler in unit.adaptations.values() {
        plan.refusals.push(Refusal::new(
            handler,
            "chooses an edition for each call, and in a phase all calls take the same",
            "leave it out, or make the update without --bridge",
        ));
    }
}

/// What the phases are.
fn phases(functions: &[String]) -> Vec<PhasePlan> {
    let phase = |name: &str, edition: &str, until: &[&str], then: &str| PhasePlan {
        name: name.into(),
        edition: edition.into(),
        functions: functions.to_vec(),
        until: until.iter().map(|text| (*text).to_owned()).collect(),
        then: then.into(),
    };
    vec![
        phase("1", "bridge", &["no task is in edition 0 of any of them"], "phase 2"),
        phase("2", "V2", &["no task is in the bridge"], "the update is active"),
        phase("2 back", "bridge", &["no task is in V2's editions"], "phase 1 back"),
        phase("1 back", "edition 0", &["no task is in the update's code"], "it is reverted"),
    ]
}
