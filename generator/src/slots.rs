//! Tables of operations in use, of which a fix changes handlers: what the update writes there, and what it watches
//! meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use dynamos_differ::Comparison;
use dynamos_differ::compare::{Slot, Slots};
use kernel_trees::{CompileCommand, Kbuild};

use crate::assemble::UnitInput;
use crate::plan::{Plan, ReaderPlan, Refusal, SlotsPlan};
use crate::readers::{self, Readers};
use crate::unit::Unit;
use crate::verdicts::Judged;

/// A table that is refused although nothing but handlers differs.
#[derive(Debug)]
pub struct Table {
    /// Its object.
    object: String,
    /// The object's source.
    source: String,
    /// Its name, and V1's.
    pub name: String,
    old_name: String,
    /// What differs.
    slots: Slots,
}

impl Table {
    fn is_of(&self, refusal: &Refusal) -> bool {
        refusal.is_about(&self.object, &self.name)
    }
}

/// A slot that the update writes.
#[derive(Clone, Debug)]
pub struct SlotInput {
    /// V1's name of the table.
    pub table: String,
    /// Offset in it.
    pub offset: u32,
    /// V1's function there.
    pub before: Option<String>,
    /// V2's function there.
    pub after: Option<String>,
}

/// The tables of an object that are refused although nothing but handlers differs.
pub fn refused(command: &CompileCommand, comparison: &Comparison, plan: &Plan) -> Vec<Table> {
    let refused = |name: &str| plan.refusals.iter().any(|r| r.is_about(&command.object, name));
    let all = comparison.slots.iter().filter(|(name, _)| refused(name));
    let known = all.filter_map(|(name, slots)| Some((name, slots.as_ref().ok()?)));
    let old_name = |name: &String| {
        let row = comparison.data.iter().find(|data| data.name == *name);
        row.and_then(|data| data.old_name.clone()).unwrap_or_else(|| name.clone())
    };
    known
        .map(|(name, slots)| Table {
            object: command.object.clone(),
            source: command.source.clone(),
            name: name.clone(),
            old_name: old_name(name),
            slots: slots.clone(),
        })
        .collect()
}

/// Whether there are tables to be judged, and nothing else stands in the way.
pub fn matter(judged: &Judged, plan: &Plan) -> bool {
    let told = |refusal: &Refusal| judged.slots.iter().any(|table| table.is_of(refusal));
    !judged.slots.is_empty() && plan.refusals.iter().all(told)
}

/// Finds the readers of all handlers that differ. Where none of them forbids it, the update writes the handlers, and what
/// it watches is added to its objects; else the plan says why not.
pub fn judge(kbuild: &Kbuild, root: &Path, judged: &mut Judged, plan: &mut Plan) -> Result<()> {
    let tables = std::mem::take(&mut judged.slots);
    for table in &tables {
        let Readers { readers, mut obstacles, objects } =
            readers::find(kbuild, root, Path::new(&table.source), &table.slots)?;
        obstacles.extend(unreachable(table, &readers, &judged.units));
        if obstacles.is_empty() {
            plan.refusals.retain(|refusal| !table.is_of(refusal));
            add(table, &mut judged.units)?;
            for reader in &readers {
                watch(reader, &objects, &mut judged.units)?;
            }
        } else {
            let why = obstacles.join("; ");
            for refusal in plan.refusals.iter_mut().filter(|refusal| table.is_of(refusal)) {
                refusal.reason.push_str(&format!("; {why}"));
            }
        }
        plan.slots.push(SlotsPlan {
            name: table.name.clone(),
            object: table.object.clone(),
            handlers: table.slots.slots.iter().map(change).collect(),
            readers,
            written: obstacles.is_empty(),
            obstacles,
        });
    }
    judged.units.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(())
}

/// What of a table and its readers cannot be named to `dynamos.ko`.
fn unreachable(table: &Table, readers: &[ReaderPlan], units: &[UnitInput]) -> Vec<String> {
    let Some(unit) = units.iter().find(|unit| unit.object == table.object) else {
        return vec![format!("{} is no part of the update", table.object)];
    };
    let mut found = Vec::new();
    for slot in &table.slots.slots {
        let old = slot.old.as_ref().filter(|old| unit.pre.find(old).is_none());
        found.extend(old.map(|old| format!("V1's handler {old} is not in {}", table.object)));
        let new = slot.new.as_ref().filter(|new| unit.v2.find(new).is_none());
        found.extend(new.map(|new| format!("V2's handler {new} is not in {}", table.object)));
    }
    // A module that need not be there when the update is switched would have to be waited for.
    for reader in readers {
        let known = units.iter().any(|unit| unit.owner == reader.owner);
        if reader.owner != "vmlinux" && !known {
            let ReaderPlan { function, member, owner, .. } = reader;
            found.push(format!(
                "{function} reads `.{member}` in {owner}, of which this update changes nothing"
            ));
        }
    }
    found
}

/// Has the update write the handlers of a table, while nobody is in V1's.
pub(crate) fn add(table: &Table, units: &mut [UnitInput]) -> Result<()> {
    let unit = units.iter_mut().find(|unit| unit.object == table.object);
    let unit = unit.context("a table of an object that is no part of the update")?;
    for slot in &table.slots.slots {
        unit.watched.extend(slot.old.clone());
        unit.slots.push(SlotInput {
            table: table.old_name.clone(),
            offset: u32::try_from(slot.offset).context("a table of more than 4 GiB")?,
            before: slot.old.clone(),
            after: slot.new.clone(),
        });
    }
    Ok(())
}

/// Has the update watch a reader.
fn watch(
    reader: &ReaderPlan,
    objects: &BTreeMap<String, Vec<u8>>,
    units: &mut Vec<UnitInput>,
) -> Result<()> {
    let at = match units.iter().position(|unit| unit.object == reader.object) {
        Some(at) => at,
        None => {
            let bytes =
                objects.get(&reader.object).context("a reader of an object nobody built")?;
            units.push(unchanged(&reader.object, bytes, &reader.owner)?);
            units.len() - 1
        }
    };
    if let Some(unit) = units.get_mut(at) {
        unit.watched.insert(reader.function.clone());
    }
    Ok(())
}

/// An object of which nothing is replaced.
fn unchanged(object: &str, bytes: &[u8], owner: &str) -> Result<UnitInput> {
    let (pre, v2) = (Unit::parse(bytes, object)?, Unit::parse(bytes, object)?);
    let named = pre.symbols.iter().filter(|symbol| symbol.named && symbol.section.is_some());
    let known = named.map(|symbol| (symbol.name.clone(), symbol.name.clone())).collect();
    Ok(UnitInput {
        object: object.to_owned(),
        owner: owner.to_owned(),
        pre,
        v2,
        known,
        replaced: BTreeMap::new(),
        along: BTreeSet::new(),
        parameters: BTreeMap::new(),
        reshaped: BTreeSet::new(),
        unlike: BTreeSet::new(),
        variadic: BTreeMap::new(),
        adaptations: BTreeMap::new(),
        objects: BTreeMap::new(),
        hooks: BTreeMap::new(),
        slots: Vec::new(),
        watched: BTreeSet::new(),
        bridge: None,
    })
}

/// What a change of a table of functions is, for people.
pub fn told(slots: &Result<Slots, String>) -> String {
    match slots {
        Ok(slots) => {
            let list: Vec<String> = slots.slots.iter().map(change).collect();
            format!("nothing but handlers differs: {}", list.join(", "))
        }
        Err(why) => format!("more than handlers differs: {why}"),
    }
}

fn change(slot: &Slot) -> String {
    let name = |function: &Option<String>| function.clone().unwrap_or_else(|| "NULL".into());
    format!("`.{}` {} → {}", slot.path, name(&slot.old), name(&slot.new))
}
