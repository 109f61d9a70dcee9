//! Tables of operations in use, of which a fix changes handlers.

use std::path::Path;

use anyhow::Result;
use dynamos_differ::Comparison;
use dynamos_differ::compare::{Slot, Slots};
use kernel_trees::{CompileCommand, Kbuild};

use crate::plan::{Plan, SlotsPlan};
use crate::readers;
use crate::verdicts::Judged;

/// The tables of an object that are refused although nothing but handlers differs: object, source, variable.
pub fn refused(
    command: &CompileCommand,
    comparison: &Comparison,
    plan: &Plan,
) -> Vec<(String, String, String, Slots)> {
    let refused = |name: &str| plan.refusals.iter().any(|refusal| refusal.name == name);
    let all = comparison.slots.iter().filter(|(name, _)| refused(name));
    let known = all.filter_map(|(name, slots)| Some((name, slots.as_ref().ok()?)));
    let (object, source) = (&command.object, &command.source);
    known
        .map(|(name, slots)| (object.clone(), source.clone(), name.clone(), slots.clone()))
        .collect()
}

/// Whether there are tables to be judged, and nothing else stands in the way.
pub fn matter(judged: &Judged, plan: &Plan) -> bool {
    let told = |name: &String| judged.slots.iter().any(|(_, _, table, _)| table == name);
    !judged.slots.is_empty() && plan.refusals.iter().all(|refusal| told(&refusal.name))
}

/// Finds the readers of all handlers that differ, and says in the plan whether these could be changed under them.
pub fn judge(kbuild: &Kbuild, root: &Path, judged: &Judged, plan: &mut Plan) -> Result<()> {
    for (object, source, name, slots) in &judged.slots {
        let found = readers::find(kbuild, root, Path::new(source), slots)?;
        let more = match found.obstacles.as_slice() {
            [] => "no reader of them forbids to change them, but dynamos.ko does not write handlers yet".into(),
            all => all.join("; "),
        };
        for refusal in plan.refusals.iter_mut().filter(|refusal| refusal.name == *name) {
            refusal.reason.push_str(&format!("; {more}"));
        }
        plan.slots.push(SlotsPlan {
            name: name.clone(),
            object: object.clone(),
            handlers: slots.slots.iter().map(change).collect(),
            readers: found.readers,
            obstacles: found.obstacles,
        });
    }
    Ok(())
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
