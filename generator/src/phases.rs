//! An update with phases: V2's editions together with the bridge editions of the same functions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use dynamos_abi::HookKind::{self, Advance, AdvanceBack, Transfer, TransferBack};

use crate::assemble::UnitInput;
use crate::changes::Changes;
use crate::closure::BridgeInput;
use crate::input::Spec;
use crate::plan::{PhasePlan, Plan, Refusal};
use crate::verdicts::Judged;

/// V1 with the bridge's source in the place of the one of that name which V2 changes.
pub fn source(file: &Path, changes: &Changes) -> Result<Spec> {
    let content = file.canonicalize().with_context(|| format!("cannot read {}", file.display()))?;
    let mut named = changes.keys().filter(|path| path.file_name() == file.file_name());
    match (named.next(), named.next()) {
        (Some(path), None) => Ok(Spec::Source { path: path.clone(), content }),
        (None, _) => bail!(
            "V2 changes no file that is called as the bridge's source {}: give the source the name of the file that it is to \
             take the place of, or give a patch of V1",
            file.display()
        ),
        (Some(first), Some(second)) => bail!(
            "{} could take the place of {} or of {}: give a patch of V1 instead",
            file.display(),
            first.display(),
            second.display()
        ),
    }
}

/// Gives each object of V2 the bridge editions of its functions, and says in the plan what the phases are. What has no
/// bridge, and what phases cannot have, is refused.
pub fn join(judged: &mut Judged, bridge: Judged, plan: &mut Plan, of_bridge: Plan) {
    plan.refusals.extend(of_bridge.refusals.iter().cloned().map(|refusal| Refusal {
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
    plan.hooks.extend(of_bridge.hooks);
    let mut bridges: BTreeMap<String, UnitInput> =
        bridge.units.into_iter().map(|unit| (unit.object.clone(), unit)).collect();
    let (mut group, mut between) = (BTreeSet::new(), BTreeSet::new());
    for unit in &mut judged.units {
        group.extend(unit.replaced.values().cloned());
        let bridge = bridges.remove(&unit.object);
        refuse_adaptations(unit, plan);
        for name in unit.hooks.iter().filter(|(kind, _)| is_between(kind)).map(|(_, name)| name) {
            plan.refusals.push(Refusal::new(
                name,
                "is in V2, and what is called between phases is the bridge's",
                "have it in the file of --bridge",
            ));
        }
        let paths = bridge.as_ref().map(paths).unwrap_or_default();
        for name in paths_missing(&self::paths(unit), &paths) {
            plan.refusals.push(Refusal::new(
                name,
                "V2 replaces it, and the bridge leaves it as V1 has it: beside V2's editions it would meet state that it \
                 does not know",
                "give it an edition in the file of --bridge that works with both, or change V2 so that it stays as it is",
            ));
        }
        let of_bridge = bridge.as_ref().map(|bridge| &bridge.reshaped);
        let all: BTreeSet<&String> =
            unit.reshaped.iter().chain(of_bridge.into_iter().flatten()).collect();
        for name in all {
            let reason = "takes other parameters in V2 or in the bridge, or gives another result, or that is not known, and \
                          in a phase editions call each other";
            let remedy = "leave its parameters as they are, or make the update without --bridge";
            plan.refusals.push(Refusal::new(name, reason, remedy).within(&unit.object));
        }
        let own = self::paths(unit);
        if let Some(bridge) = bridge {
            refuse_adaptations(&bridge, plan);
            between.extend(bridge.hooks.keys().filter(|kind| is_between(kind)));
            for name in bridge.hooks.iter().filter(|(kind, _)| !is_between(kind)) {
                plan.refusals.push(Refusal::new(
                    name.1,
                    "is in the bridge, and what is called around the update's switches is V2's",
                    "have it in V2",
                ));
            }
            for name in paths_missing(&paths, &own) {
                refuse_surplus(name, plan);
            }
            unit.bridge = Some(BridgeInput {
                unit: bridge.v2,
                replaced: bridge.replaced,
                along: bridge.along,
                known: bridge.known,
                variadic: bridge.variadic,
                hooks: bridge.hooks,
            });
        }
    }
    for name in bridges.values().flat_map(|unit| unit.replaced.values()) {
        refuse_surplus(name, plan);
    }
    for unit in bridges.values().filter(|unit| !unit.hooks.is_empty()) {
        for name in unit.hooks.values() {
            plan.refusals.push(Refusal::new(
                name,
                format!("is in {}, of which V2 changes nothing", unit.object),
                "have it in a file that V2 changes too",
            ));
        }
    }
    let has = |kind: HookKind| between.contains(&kind);
    // V2 may leave what only the way back has to carry; but what was carried over must come back.
    if has(Transfer) && !has(TransferBack) {
        let back = TransferBack.name();
        plan.refusals.push(Refusal::new(
            Transfer.name(),
            format!("carries state over, and nothing carries it back: there is no `{back}`"),
            format!("have `static __used int {back}(void)` in the bridge"),
        ));
    }
    plan.phases = phases(&group.into_iter().collect::<Vec<_>>(), &between);
}

/// Refuses what is only for updates with phases, in one that has none.
pub fn refuse(judged: &Judged, plan: &mut Plan) {
    for name in
        judged.units.iter().flat_map(|unit| &unit.hooks).filter(|(kind, _)| is_between(kind))
    {
        plan.refusals.push(Refusal::new(
            name.1,
            "is called between phases, and there are none",
            "give the bridge that it belongs to with --bridge, or call it otherwise",
        ));
    }
}

fn is_between(kind: &HookKind) -> bool {
    HookKind::BETWEEN_PHASES.contains(kind)
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

/// What the phases are, with these hooks between them.
fn phases(functions: &[String], hooks: &BTreeSet<HookKind>) -> Vec<PhasePlan> {
    let phase = |name: &str, edition: &str, until: &str, asks: Option<HookKind>, then: String| {
        let asks = asks.filter(|kind| hooks.contains(kind));
        let asks = asks.map(|kind| format!("`{}` does not answer 0", kind.name()));
        PhasePlan {
            name: name.into(),
            edition: edition.into(),
            functions: functions.to_vec(),
            until: [until.to_owned()].into_iter().chain(asks).collect(),
            then,
        }
    };
    let carry = |kind: HookKind, next: &str| match hooks.contains(&kind) {
        true => format!("`{}`, which may refuse; {next}", kind.name()),
        false => next.to_owned(),
    };
    vec![
        phase(
            "1",
            "bridge",
            "no task is in edition 0 of any of them",
            Some(Advance),
            carry(Transfer, "phase 2"),
        ),
        phase("2", "V2", "no task is in the bridge", None, "the update is active".into()),
        phase(
            "2 back",
            "bridge",
            "no task is in V2's editions",
            Some(AdvanceBack),
            carry(TransferBack, "phase 1 back"),
        ),
        phase(
            "1 back",
            "edition 0",
            "no task is in the update's code",
            None,
            "it is reverted".into(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_takes_the_place_of_one_that_v2_changes() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("pipe.c");
        std::fs::write(&file, "").unwrap();
        let changes = |paths: &[&str]| paths.iter().map(|path| (path.into(), None)).collect();
        match source(&file, &changes(&["fs/pipe.c", "fs/inode.c"])).unwrap() {
            Spec::Source { path, content } => {
                assert_eq!((path.as_path(), content.is_absolute()), (Path::new("fs/pipe.c"), true));
            }
            other => panic!("{other:?}"),
        }
        let told = |paths: &[&str]| source(&file, &changes(paths)).unwrap_err().to_string();
        assert!(told(&["fs/inode.c"]).contains("changes no file"));
        assert!(told(&["fs/pipe.c", "net/pipe.c"]).contains("fs/pipe.c or of net/pipe.c"));
    }
}
