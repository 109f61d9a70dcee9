//! State that V2 may keep under another name, or in another object: in an update it would begin anew, without a word.

use dynamos_differ::Comparison;
use dynamos_differ::verdict::{DataChange, DataKind, DataVerdict};

use super::base;
use crate::closure::is_of_its_own;
use crate::plan::{Plan, Refusal};

/// Refuses each new variable that may be one of V1's, of all objects of the update.
pub(super) fn refuse(all: &[(&str, &Comparison)], plan: &mut Plan) {
    let of = |change: DataChange| {
        let rows = all.iter().flat_map(|(object, comparison)| {
            comparison.data.iter().map(move |data| (*object, data))
        });
        rows.filter(|(_, data)| data.change == change && holds_state(data)).collect::<Vec<_>>()
    };
    let removed = of(DataChange::Removed);
    for (object, new) in of(DataChange::New) {
        let may_be = |(other, old): &&(&str, &DataVerdict)| {
            let beside = *other == object && old.size == new.size;
            beside || base(&old.name) == base(&new.name)
        };
        let Some((other, old)) = removed.iter().find(may_be) else { continue };
        let reason = format!(
            "may be `{}` of {other}, which is gone: what the running kernel has in it would be lost",
            old.name
        );
        plan.refusals.push(Refusal::of_state(&new.name, reason).within(object));
    }
}

fn holds_state(data: &DataVerdict) -> bool {
    matches!(data.kind, DataKind::Writable | DataKind::PerCpu | DataKind::ReadOnlyAfterInit)
        && !is_of_its_own(&data.name)
}
