//! The plan's rows for variables and constants.

use std::collections::BTreeSet;

use dynamos_differ::layout::Retyped;
use dynamos_differ::verdict::{Comparison, DataChange, DataKind, DataVerdict};

use super::base;
use crate::plan::DataPlan;

/// The plan's word for what became of a variable or constant; nothing if it is as it was.
pub fn data_change(change: DataChange) -> Option<&'static str> {
    match change {
        DataChange::Unchanged => None,
        DataChange::Changed => Some("changed"),
        DataChange::Resized => Some("resized"),
        DataChange::New => Some("new"),
        DataChange::Removed => Some("removed"),
    }
}

/// The plan's row for a variable or constant, if it differs and gets into the kernel.
pub fn data_verdict(data: &DataVerdict, object: &str) -> Option<DataPlan> {
    let verdict = data_change(data.change)?;
    (data.kind != DataKind::Discarded).then(|| DataPlan {
        name: data.name.clone(),
        object: object.into(),
        verdict: verdict.into(),
        reason: data.reason.clone(),
        values: data.values.shown.clone(),
        more_values: data.values.more,
        users: data.users.clone(),
    })
}

/// The row for a variable of another type; nothing if a change of its size or content tells of it already.
pub fn retyped(comparison: &Comparison, variable: &Retyped, object: &str) -> Option<DataPlan> {
    // Of several with this name in the source it is one; where all of them have been told, it has.
    let of_name: Vec<&DataVerdict> =
        comparison.data.iter().filter(|data| base(&data.name) == variable.name).collect();
    let mut paired =
        of_name.iter().filter(|data| data.v1.is_some() && data.v2.is_some()).peekable();
    if paired.peek().is_some() && paired.all(|data| data.change != DataChange::Unchanged) {
        return None;
    }
    let within = variable.function.as_ref().map(|f| format!(" of {f}")).unwrap_or_default();
    let users: BTreeSet<&String> = of_name.iter().flat_map(|data| &data.users).collect();
    Some(DataPlan {
        name: variable.name.clone(),
        object: object.into(),
        verdict: "retyped".into(),
        reason: format!("its type{within}: {} → {}", variable.old, variable.new),
        users: users.into_iter().cloned().collect(),
        ..DataPlan::default()
    })
}
