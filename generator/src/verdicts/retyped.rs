//! A variable whose type is another one, as a row of the plan.

use dynamos_differ::Comparison;
use dynamos_differ::layout::Retyped;
use dynamos_differ::verdict::{DataChange, DataVerdict};

use super::base;
use crate::plan::DataPlan;

/// The row for it, if none tells of it already.
pub fn row(comparison: &Comparison, variable: &Retyped, object: &str) -> Option<DataPlan> {
    // Of several with this name in the source it is one; where all of them have been told, it has.
    let of_name = |data: &&DataVerdict| {
        let paired = data.v1.is_some() && data.v2.is_some();
        paired && base(&data.name) == variable.name
    };
    let mut of_name = comparison.data.iter().filter(of_name).peekable();
    let differs = |data: &DataVerdict| data.change != DataChange::Unchanged;
    if of_name.peek().is_some() && of_name.all(differs) {
        return None;
    }
    let within = variable.function.as_ref().map(|f| format!(" of {f}")).unwrap_or_default();
    Some(DataPlan {
        name: variable.name.clone(),
        object: object.into(),
        verdict: "retyped".into(),
        reason: format!("its type{within}: {} → {}", variable.old, variable.new),
    })
}
