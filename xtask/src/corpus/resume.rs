//! Goes on where an earlier run stopped.

use std::path::Path;

use anyhow::{Context, Result};
use dynamos_generator::{Outcome, Plan};
use serde::Deserialize;

use super::{BUILT, Built, LOADED, NO_CHANGE, NOT_LOADABLE, Place, Row};

#[derive(Deserialize)]
struct Earlier {
    rows: Vec<Row>,
}

/// The rows of the run in `file` that stand, and the updates that still have to be loaded; what has to be made stays in
/// `places`.
pub fn take(file: &Path, places: &mut Vec<Place>) -> Result<(Vec<Row>, Vec<Built>)> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let earlier: Earlier =
        serde_json::from_str(&text).with_context(|| format!("{}: no rows", file.display()))?;
    let (mut rows, mut built) = (Vec::new(), Vec::new());
    places.retain(|(fix, name, directory)| {
        let source = fix.source.display().to_string();
        let Some(row) = earlier.rows.iter().find(|row| row.file == source) else { return true };
        match row.outcome.as_str() {
            BUILT => {
                let Some(plan) = plan(directory, name) else { return true };
                built.push(Built::of(&plan, rows.len(), directory));
            }
            LOADED | NOT_LOADABLE | NO_CHANGE => {}
            _ => return true,
        }
        rows.push(row.clone());
        false
    });
    Ok((rows, built))
}

/// The plan of the update called `name`, if it is still there.
fn plan(directory: &Path, name: &str) -> Option<Plan> {
    let text = std::fs::read_to_string(directory.join("plan.json")).ok()?;
    let plan: Plan = serde_json::from_str(&text).ok()?;
    let there = directory.join("update.ko").is_file();
    (there && plan.name == name && plan.outcome == Outcome::Update).then_some(plan)
}
