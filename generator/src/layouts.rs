//! Types whose layout differs: rows of the plan, who uses what differs, and whether anything of V1's layout can be
//! alive when the update is loaded.

mod reason;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};
use dynamos_differ::layout::{Enumerator, Instance, LayoutChange, LayoutVerdict, Member, Place};
use kernel_trees::{CompileCommand, files_with_word};

use crate::plan::{
    CallPlan, EmbedderPlan, LayoutPlan, LivePlan, MemberPlan, MemberSide, Plan, Refusal, UserPlan,
};
use crate::report::Reporter;
use crate::uses::{Call, Reader, Uses};
use reason::{only_adds_names, only_adds_values, reason};

/// What the differ knows of a type. `stays`: whether a variable's function goes on running beside the update.
pub fn row(layout: &LayoutChange, object: &str, stays: &dyn Fn(&Instance) -> bool) -> LayoutPlan {
    let embedder = |e: &dynamos_differ::layout::Embedder| EmbedderPlan {
        name: e.name.to_string(),
        chain: e.chain.clone(),
    };
    let mut live: Vec<LivePlan> = Vec::new();
    for instance in &layout.instances {
        let within = instance.function.as_ref().map(|f| format!(" in {f}")).unwrap_or_default();
        let name = format!("{} {}{within}", instance.type_name, instance.name);
        let place = match instance.place {
            Place::Stack if stays(instance) => STAYING.into(),
            place => spelled(&place),
        };
        live.push(LivePlan { place, name });
    }
    for holder in &layout.embedded_in {
        live.push(LivePlan { place: "embedded".into(), name: holder.chain.join(" > ") });
    }
    let mut row = LayoutPlan {
        kind: spelled(&layout.kind),
        name: layout.name.clone(),
        object: object.into(),
        verdict: spelled(&layout.verdict),
        reason: reason(layout),
        defined_in: layout.defined_in.clone().unwrap_or_default(),
        members: members(layout),
        embedded_in: layout.embedded_in.iter().map(embedder).collect(),
        users: Vec::new(),
        users_unknown: Vec::new(),
        created_by: Vec::new(),
        freed_by: Vec::new(),
        live,
        liveness: match layout.verdict {
            LayoutVerdict::Added => "none",
            // Like the values of macros: what uses them differs, or its type does.
            _ if layout.is_unnamed() => UNAFFECTED,
            _ if only_adds_values(layout) || only_adds_names(layout) => UNAFFECTED,
            _ => UNKNOWN,
        }
        .into(),
    };
    outlive(&mut row);
    row
}

/// What a function that is not replaced has on its stack.
const STAYING: &str = "stack of a function that stays";

/// Objects look as they did.
const UNAFFECTED: &str = "unaffected";

/// Nobody knows who else has objects.
const UNKNOWN: &str = "unknown";

/// Finds who uses what differs, and refuses what would need the objects that there are to change.
pub fn settle(
    plan: &mut Plan,
    commands: &[CompileCommand],
    v2: &Path,
    reporter: &Reporter,
) -> Result<()> {
    if plan.layouts.iter().any(|row| row.verdict != "added") {
        ensure!(!crate::interrupted(), "interrupted");
        reporter.phase("users", "finding the users of changed types");
        find_users(plan, commands, v2);
        refuse_live(plan);
    }
    Ok(())
}

fn refuse_live(plan: &mut Plan) {
    for row in &plan.layouts {
        if row.verdict == "changed" && !matches!(row.liveness.as_str(), UNAFFECTED | "stack only") {
            let reason = format!("its layout changed: {}", row.reason);
            plan.refusals.push(Refusal::of_state(format!("{} {}", row.kind, row.name), &reason));
        }
    }
}

fn members(layout: &LayoutChange) -> Vec<MemberPlan> {
    let member = |m: &Member| MemberSide::Member {
        name: m.name.clone(),
        offset: m.bit_offset / 8,
        bit: m.bitfield.then_some(m.bit_offset % 8),
        size: if m.bitfield { m.bit_size } else { m.bit_size / 8 },
        type_name: m.type_name.clone(),
    };
    let enumerator = |e: &Enumerator| MemberSide::Enumerator {
        name: e.name.clone(),
        value: e.value.to_string(),
    };
    let of_struct = layout.members.iter().map(|m| MemberPlan {
        name: m.name.clone(),
        change: m.changes.iter().map(|c| (*c).into()).collect(),
        old: m.old.as_ref().map(member),
        new: m.new.as_ref().map(member),
    });
    let of_enum = layout.enumerators.iter().map(|e| MemberPlan {
        name: e.name.clone(),
        change: vec![e.change.into()],
        old: e.old.as_ref().map(enumerator),
        new: e.new.as_ref().map(enumerator),
    });
    of_struct.chain(of_enum).collect()
}

/// Reads the sources of both sides for the users of what differs.
fn find_users(plan: &mut Plan, commands: &[CompileCommand], v2: &Path) {
    let reader = Reader::open();
    for command in commands {
        let mut rows: Vec<&mut LayoutPlan> = plan
            .layouts
            .iter_mut()
            .filter(|row| row.object == command.object && row.verdict != "added")
            // No source can name an enum without a name.
            .filter(|row| !row.name.starts_with("of "))
            .collect();
        if !rows.is_empty() {
            read_users(rows.iter_mut().map(|row| &mut **row).collect(), command, v2, &reader);
            rows.iter_mut().for_each(|row| conclude(row, command));
        }
    }
}

/// Adds what both sides of one source say of types.
pub fn read_users(
    mut rows: Vec<&mut LayoutPlan>,
    command: &CompileCommand,
    v2: &Path,
    reader: &Result<Reader>,
) {
    let types: BTreeSet<String> = rows.iter().flat_map(|row| names(row)).collect();
    let find = |command: &CompileCommand| match reader {
        Ok(reader) => reader.find(command, &types).map_err(|why| format!("{why:#}")),
        Err(why) => Err(format!("{why:#}")),
    };
    let (old, new) = (find(command), find(&command.in_tree(v2)));
    for row in &mut rows {
        for (side, uses) in [("v2", &new), ("v1", &old)] {
            match uses {
                Ok(uses) => add(row, side, uses),
                Err(why) => row.users_unknown.push(format!("{side}: {why}")),
            }
        }
    }
}

/// The change of a type, without anything that sources say of it.
pub fn without_users(row: &LayoutPlan) -> LayoutPlan {
    LayoutPlan {
        users: Vec::new(),
        users_unknown: Vec::new(),
        created_by: Vec::new(),
        freed_by: Vec::new(),
        live: Vec::new(),
        ..row.clone()
    }
}

/// Adds what one more source says of a type.
pub fn add_users(row: &mut LayoutPlan, found: LayoutPlan) {
    fn join<T: Ord>(list: &mut Vec<T>, more: Vec<T>) {
        list.extend(more);
        list.sort();
        list.dedup();
    }
    join(&mut row.users, found.users);
    join(&mut row.users_unknown, found.users_unknown);
    join(&mut row.created_by, found.created_by);
    join(&mut row.freed_by, found.freed_by);
    join(&mut row.live, found.live);
    outlive(row);
}

/// Whoever else may have objects, what is known to last does.
fn outlive(row: &mut LayoutPlan) {
    if row.liveness == UNKNOWN && lasts(row) {
        row.liveness = "lasting".into();
    }
}

/// The type as C calls it.
fn own_name(row: &LayoutPlan) -> String {
    if row.kind == "typedef" { row.name.clone() } else { format!("{} {}", row.kind, row.name) }
}

/// The type and those that hold it.
fn names(row: &LayoutPlan) -> Vec<String> {
    std::iter::once(own_name(row)).chain(row.embedded_in.iter().map(|e| e.name.clone())).collect()
}

/// Adds what one side's source says. V2 comes first: of V1 counts what V2 does not do any more.
fn add(row: &mut LayoutPlan, side: &str, uses: &Uses) {
    let (own, names) = (own_name(row), names(row));
    let named = |side: &Option<MemberSide>| match side {
        Some(MemberSide::Member { name, .. } | MemberSide::Enumerator { name, .. }) => {
            Some(name.clone())
        }
        None => None,
    };
    let changed: BTreeSet<String> = row
        .members
        .iter()
        .filter_map(|m| if side == "v2" { named(&m.new) } else { named(&m.old) })
        .collect();
    let told: BTreeSet<(String, String, String)> =
        row.users.iter().map(|u| (u.function.clone(), u.member.clone(), u.how.clone())).collect();
    for access in uses.accesses.iter().filter(|access| access.of == own) {
        let user = UserPlan {
            function: access.function.clone(),
            member: access.member.clone(),
            how: access.how.word().into(),
            side: side.into(),
            file: access.at.file.clone(),
            line: access.at.line,
        };
        let key = (user.function.clone(), user.member.clone(), user.how.clone());
        if (user.member.is_empty() || changed.contains(&user.member)) && !told.contains(&key) {
            row.users.push(user);
        }
    }
    row.users.sort();
    row.users.dedup();
    let calls = |list: &BTreeSet<Call>, told: &[CallPlan]| -> Vec<CallPlan> {
        let known =
            |c: &Call| told.iter().any(|t| t.function == c.function && t.callee == c.callee);
        let ours = list.iter().filter(|call| names.contains(&call.of) && !known(call));
        let plan = |call: &Call| CallPlan {
            function: call.function.clone(),
            callee: call.callee.clone(),
            of: call.of.clone(),
            side: side.into(),
            file: call.at.file.clone(),
            line: call.at.line,
        };
        ours.map(plan).collect()
    };
    let created = calls(&uses.created, &row.created_by);
    let freed = calls(&uses.freed, &row.freed_by);
    let slab = calls(&uses.caches, &[]);
    let live = |place: &str, call: &CallPlan| LivePlan {
        place: place.into(),
        name: format!("{} by {} ({})", call.of, call.function, call.callee),
    };
    row.live.extend(created.iter().map(|call| live("allocated", call)));
    row.live.extend(slab.iter().map(|call| live("slab", call)));
    row.live.extend(uses.overlays.iter().filter(|call| names.contains(&call.of)).map(|call| {
        let name = format!("{} in what {} takes for one", call.of, call.function);
        LivePlan { place: "memory of another kind".into(), name }
    }));
    row.created_by.extend(created);
    row.freed_by.extend(freed);
    row.users_unknown.extend(uses.unknown.iter().map(|why| format!("{side}: {why}")));
}

/// What of V1's layout can be alive, judged by all that is known.
fn conclude(row: &mut LayoutPlan, command: &CompileCommand) {
    if row.liveness == UNAFFECTED {
        return;
    }
    if row.defined_in != command.source
        && let Some(name) = known_elsewhere(row, command)
    {
        row.live.push(LivePlan { place: "elsewhere".into(), name });
    }
    row.live.sort();
    row.live.dedup();
    let any = |places: &[&str]| row.live.iter().any(|live| places.contains(&live.place.as_str()));
    row.liveness = if lasts(row) {
        "lasting"
    } else if any(&["elsewhere"]) || !row.users_unknown.is_empty() {
        UNKNOWN
    } else if any(&["stack"]) {
        "stack only"
    } else {
        "none"
    }
    .into();
}

/// Whether there can be objects whatever the functions do that are replaced.
fn lasts(row: &LayoutPlan) -> bool {
    const LASTING: [&str; 7] =
        ["static", "per-cpu", "extern", "slab", "allocated", "memory of another kind", STAYING];
    row.live.iter().any(|live| LASTING.contains(&live.place.as_str()))
}

/// Who else may have objects of a type that a header of V1 defines; `None`: nobody else says its name.
fn known_elsewhere(row: &LayoutPlan, command: &CompileCommand) -> Option<String> {
    let includers = || match row.defined_in.as_str() {
        "" => "the type's file is not known".to_string(),
        file => format!("whatever else includes {file}"),
    };
    if row.defined_in.is_empty() || lasts(row) || !row.users_unknown.is_empty() {
        return Some(includers());
    }
    for name in names(row) {
        // What has no tag goes by many names.
        let Some((_, tag)) = name.split_once(' ') else { return Some(includers()) };
        let Ok(files) = files_with_word(&command.cwd, tag) else { return Some(includers()) };
        let other = files.iter().find(|(file, count)| {
            // Once: the definition.
            file != Path::new(&command.source) && (file != Path::new(&row.defined_in) || *count > 1)
        });
        if let Some((file, _)) = other {
            return Some(format!("{name} in {}", file.display()));
        }
    }
    None
}

/// For a person: who uses what, a line for each thing worth knowing.
pub fn told(row: &LayoutPlan) -> Vec<String> {
    let mut lines = Vec::new();
    let list = |items: Vec<String>| match items.split_at_checked(6) {
        Some((few, rest)) if !rest.is_empty() => {
            format!("{} and {} more", few.join(", "), rest.len())
        }
        _ => items.join(", "),
    };
    for member in row.members.iter().filter(|m| m.change != ["moved"]) {
        let side = |side: &Option<MemberSide>| match side {
            None => "nothing".into(),
            Some(MemberSide::Enumerator { name, value }) => format!("`{name}` = {value}"),
            Some(MemberSide::Member { name, offset, bit, size, type_name }) => match bit {
                Some(bit) => format!("`{name}`, {size} bits at {offset} bit {bit}, `{type_name}`"),
                None => format!("`{name}`, {size} bytes at {offset}, `{type_name}`"),
            },
        };
        let change = member.change.join(", ");
        lines.push(format!("{change}: {} → {}", side(&member.old), side(&member.new)));
        let new_name = match &member.new {
            Some(MemberSide::Member { name, .. } | MemberSide::Enumerator { name, .. }) => name,
            None => &member.name,
        };
        let mut users: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for user in row.users.iter().filter(|u| u.member == member.name || u.member == *new_name) {
            users.entry(&user.function).or_default().insert(&user.how);
        }
        let users = users.iter().map(|(function, how)| {
            let how: Vec<&str> = how.iter().copied().collect();
            format!("`{function}` ({})", how.join(", "))
        });
        let users: Vec<String> = users.collect();
        if !users.is_empty() {
            lines.push(format!("used by {}", list(users)));
        }
    }
    let moved = row.members.iter().filter(|m| m.change == ["moved"]).count();
    if moved > 0 {
        lines.push(format!("{moved} more only moved"));
    }
    let callers = |calls: &[CallPlan]| -> Vec<String> {
        let all: BTreeSet<String> =
            calls.iter().map(|c| format!("`{}` ({})", c.function, c.callee)).collect();
        all.into_iter().collect()
    };
    for (word, calls) in [("created by", &row.created_by), ("freed by", &row.freed_by)] {
        if !calls.is_empty() {
            lines.push(format!("{word} {}", list(callers(calls))));
        }
    }
    let live: Vec<String> =
        row.live.iter().map(|live| format!("{}: {}", live.place, live.name)).collect();
    if !live.is_empty() {
        lines.push(format!("instances: **{}** ({})", row.liveness, list(live)));
    }
    if !row.users_unknown.is_empty() {
        lines.push(format!("users unknown: {}", list(row.users_unknown.clone())));
    }
    lines
}

/// The word that JSON has for it.
pub fn spelled(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::reason::tests::{change, member};
    use super::*;

    #[test]
    fn what_more_sources_say_is_told_once_and_what_lasts_outlives_doubt() {
        let of = change(vec![member("a", 0, "u64")], vec![member("a", 0, "s64")]);
        let mut all = row(&of, "m", &|_| false);
        assert_eq!(all.liveness, UNKNOWN);
        let live = |place: &str, name: &str| LivePlan { place: place.into(), name: name.into() };
        let user = |function: &str, line| UserPlan {
            function: function.into(),
            member: "a".into(),
            how: "read".into(),
            side: "v2".into(),
            file: "a.c".into(),
            line,
        };
        let call = |function: &str| CallPlan {
            function: function.into(),
            callee: "kmalloc".into(),
            of: "struct s".into(),
            side: "v2".into(),
            file: "a.c".into(),
            line: 1,
        };
        let bare = without_users(&all);
        let found = |function: &str, place: &str| LayoutPlan {
            users: vec![user(function, 2), user("both", 1)],
            users_unknown: vec!["why".into()],
            created_by: vec![call(function), call("both")],
            freed_by: vec![call(function)],
            live: vec![live(place, function)],
            ..bare.clone()
        };
        add_users(&mut all, found("f", "stack"));
        assert_eq!(all.liveness, UNKNOWN);
        add_users(&mut all, found("e", "allocated"));
        assert_eq!(all.liveness, "lasting");
        assert_eq!(all.users, [user("both", 1), user("e", 2), user("f", 2)]);
        assert_eq!(all.users_unknown, ["why"]);
        assert_eq!(all.created_by, [call("both"), call("e"), call("f")]);
        assert_eq!(all.freed_by, [call("e"), call("f")]);
        assert_eq!(all.live, [live("allocated", "e"), live("stack", "f")]);
        // Objects that look as they did are no matter of who has some.
        let more =
            [vec![member("a", 0, "u64")], vec![member("a", 0, "u64"), member("b", 0, "u64")]];
        let [old, new] = more;
        let mut same = row(&change(old, new), "m", &|_| false);
        add_users(&mut same, found("e", "allocated"));
        assert_eq!(same.liveness, UNAFFECTED);
    }
}
