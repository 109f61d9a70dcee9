//! `review.md`: what a person must know before the update touches a production kernel.

use std::fmt::Write as _;

use crate::plan::{DataPlan, FunctionPlan, Outcome, Plan, ScopePlan};

/// The review page; `diffs` are the source change and that of the bridge.
pub fn review(plan: &Plan, diffs: (&str, Option<&str>)) -> String {
    let mut page = String::new();
    let title = if plan.name.is_empty() { "comparison" } else { &plan.name };
    let _ = writeln!(page, "# Live update `{title}`\n");
    verdict(&mut page, plan);
    kernels(&mut page, plan);
    phases(&mut page, plan);
    functions(&mut page, plan);
    data(&mut page, plan);
    hooks(&mut page, plan);
    slots(&mut page, plan);
    layouts(&mut page, plan);
    symbols(&mut page, plan);
    if plan.outcome != Outcome::Differs {
        not_covered(&mut page, plan);
    }
    let changes = [("The source change", Some(diffs.0)), ("The bridge, from V1", diffs.1)];
    for (title, diff) in changes {
        if let Some(diff) = diff.filter(|diff| !diff.is_empty()) {
            let fence = fence(diff);
            let _ = writeln!(page, "## {title}\n\n{fence}diff\n{}\n{fence}", diff.trim_end());
        }
    }
    page
}

fn verdict(page: &mut String, plan: &Plan) {
    match plan.outcome {
        Outcome::Update => {
            let count = plan.functions.iter().filter(|f| f.verdict == "changed").count();
            let _ = writeln!(
                page,
                "**An update.** It replaces {count} function{} of the running kernel, after proving that each is the \
                 one compared here. It can be reverted.\n",
                if count == 1 { "" } else { "s" }
            );
            scope(page, plan);
        }
        Outcome::Differs => {
            let _ = writeln!(
                page,
                "**A comparison of built files.** It says what differs; an update is made of sources.\n"
            );
        }
        Outcome::NoChange => {
            let _ = writeln!(page, "**Nothing to do.** No code that this kernel runs differs.\n");
        }
        Outcome::Refused => {
            let _ = writeln!(page, "**Refused.** No update was made, for these reasons:\n");
            let _ = writeln!(page, "| what | why | what would lift it |\n|---|---|---|");
            for refusal in &plan.refusals {
                let _ = writeln!(
                    page,
                    "| `{}` | {} | {} |",
                    cell(&refusal.name),
                    cell(&refusal.reason),
                    cell(&refusal.remedy)
                );
            }
            page.push('\n');
        }
    }
}

/// When calls move.
fn scope(page: &mut String, plan: &Plan) {
    let Some(ScopePlan { scope, reason }) = &plan.scope else { return };
    let when = match scope.as_str() {
        "function" => {
            "every call from the moment of loading takes the new edition, calls under way end in the old one"
        }
        "task" => {
            "each task takes the new edition from the moment on at which none of the functions is on its stack"
        }
        "object" => {
            "each object takes the new edition from the moment on at which no call works on it"
        }
        _ => "all calls move at one instant at which no task is in any of the functions",
    };
    let _ = writeln!(page, "**Scope `{scope}`**: {when}. Because {reason}.\n");
}

/// The phases, and what leads from each to the next.
fn phases(page: &mut String, plan: &Plan) {
    if plan.phases.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "## Phases\n\n\
         | phase | new calls take | goes on when | then |\n|---|---|---|---|"
    );
    for phase in &plan.phases {
        let until = phase.until.iter().map(|until| cell(until)).collect::<Vec<_>>().join("; ");
        let _ = writeln!(
            page,
            "| {} | {} | {until} | {} |",
            cell(&phase.name),
            phase.edition,
            cell(&phase.then)
        );
    }
    let functions = plan.phases.first().map(|phase| phase.functions.join("`, `"));
    let _ = writeln!(
        page,
        "\nThe group, each of which takes these steps with all others: `{}`.\n",
        functions.unwrap_or_default()
    );
}

fn kernels(page: &mut String, plan: &Plan) {
    let _ = writeln!(page, "## What was compared\n");
    let _ = writeln!(page, "- V1, what runs: {}", plan.kernels.v1);
    let _ = writeln!(page, "- V2, what should run: {}", plan.kernels.v2);
    if let Some(bridge) = &plan.kernels.bridge {
        let _ = writeln!(page, "- the bridge from one to the other: {bridge}");
    }
    if !plan.kernels.release.is_empty() {
        let _ = writeln!(page, "- the kernel: `{}`", plan.kernels.release);
        let _ = writeln!(page, "- the compiler: {}", plan.kernels.compiler);
    }
    for note in &plan.notes {
        let _ = writeln!(page, "- note: {}", cell(note));
    }
    page.push('\n');
    if plan.objects.is_empty() {
        return;
    }
    let _ =
        writeln!(page, "| object | in | because of | functions | changed |\n|---|---|---|---|---|");
    for object in &plan.objects {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            object.object,
            object.owner,
            cell(&object.because.join(", ")),
            object.functions,
            object.changed
        );
    }
    page.push('\n');
}

fn functions(page: &mut String, plan: &Plan) {
    if plan.functions.is_empty() {
        return;
    }
    let _ = writeln!(page, "## Functions\n");
    let _ = writeln!(
        page,
        "*Matched* is the number of bytes of the running function that must equal what was compared, but for the \
         places that the kernel itself patches (static keys, static calls, alternatives, ftrace).\n"
    );
    let (mut adapted, mut objects) = (Vec::new(), Vec::new());
    let _ =
        writeln!(page, "| function | object | verdict | why | matched |\n|---|---|---|---|---|");
    for FunctionPlan {
        name,
        object,
        verdict,
        reason,
        matched_bytes,
        adapted_by,
        works_on,
        inner,
        reshaped,
    } in &plan.functions
    {
        let matched =
            if *matched_bytes == 0 { "–".to_string() } else { format!("{matched_bytes} bytes") };
        let only = if *inner { "; only functions that are replaced call it" } else { "" };
        let other = if *reshaped {
            "; its parameters or its result differ, or may: no choice by call"
        } else {
            ""
        };
        let why = cell(reason) + only + other;
        let _ = writeln!(page, "| `{name}` | `{object}` | {verdict} | {why} | {matched} |");
        if let Some(handler) = adapted_by {
            adapted.push((name, handler));
        }
        if let Some(object) = works_on {
            objects.push((name, object));
        }
    }
    if !adapted.is_empty() || !objects.is_empty() {
        page.push('\n');
    }
    for (name, handler) in adapted {
        let _ = writeln!(
            page,
            "Calls of `{name}` take the edition that `{handler}` chooses, each by itself; both editions run side by side."
        );
    }
    for (name, object) in objects {
        let _ = writeln!(
            page,
            "With scope `object`, a call of `{name}` takes the edition of the object that it works on, {object}: calls on one \
             object must be all that editions may not mix in."
        );
    }
    page.push('\n');
}

fn data(page: &mut String, plan: &Plan) {
    if plan.data.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "## Data\n\n| what | object | verdict | why | used by |\n|---|---|---|---|---|"
    );
    for row in &plan.data {
        let DataPlan { name, object, verdict, reason, users, .. } = row;
        let users = match users.as_slice() {
            [] => "–".to_string(),
            known => format!("`{}`", known.join("`, `")),
        };
        let reason = cell(&(reason.clone() + &values(row)));
        let _ = writeln!(page, "| `{name}` | `{object}` | {verdict} | {reason} | {users} |");
    }
    page.push('\n');
}

/// The first values that differ, old and new.
fn values(row: &DataPlan) -> String {
    const SHOWN: usize = 8;
    let mut text = String::new();
    for value in row.values.iter().take(SHOWN) {
        let at = match value.member.as_str() {
            "" if value.offset == 0 => String::new(),
            "" => format!("+{:#x}: ", value.offset),
            member => format!("`{member}`: "),
        };
        let _ = write!(text, "; {at}`{}` → `{}`", value.old, value.new);
    }
    match row.values.len().saturating_sub(SHOWN).saturating_add(row.more_values) {
        0 => text,
        more => text + &format!("; {more} more"),
    }
}

fn hooks(page: &mut String, plan: &Plan) {
    if plan.hooks.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "## Hooks\n\nThe update brings functions that `dynamos.ko` calls when it is switched, each in a thread of its own. \
         What they do to the kernel is not compared with anything: read them.\n"
    );
    for hook in &plan.hooks {
        let when = match hook.name.as_str() {
            "dynamos_before_on" => {
                "before calls move to the update's editions; can refuse that: nothing has changed then"
            }
            "dynamos_after_on" => "once they have; can refuse it: the update is reverted then",
            "dynamos_before_off" => "before calls move back to edition 0; can refuse that",
            "dynamos_advance" => {
                "in phase 1, once nobody is in edition 0; 0: not yet, and it is asked again"
            }
            "dynamos_transfer" => {
                "then: carries state to V2's meaning; can refuse that: the update goes back to edition 0"
            }
            "dynamos_advance_back" => {
                "on the way back, once nobody is in V2's editions; 0: not yet, and it is asked again"
            }
            "dynamos_transfer_back" => {
                "then: carries state back to V1's meaning; can refuse that: the update stays active"
            }
            _ => "once edition 0 is current again and nobody is in the update's editions",
        };
        let _ = writeln!(page, "- `{}` in `{}`: {when}", hook.name, hook.object);
    }
    page.push('\n');
}

fn slots(page: &mut String, plan: &Plan) {
    if plan.slots.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "## Handlers in tables in use\n\n\
         These tables differ in nothing but pointers to functions. Whoever tests such a pointer and calls it must not be \
         between the two when it changes; who reads one was looked for in the sources of V1 that name the member. The \
         update writes them while all CPUs are stopped and no task is in one of these readers, unless something is said \
         not to be safe.\n"
    );
    for table in &plan.slots {
        let _ = writeln!(
            page,
            "- `{}` in `{}`: {}",
            table.name,
            table.object,
            table.handlers.join(", ")
        );
        for reader in &table.readers {
            let via = reader.inlined.as_ref().map(|name| format!(" (in `{name}`, inlined)"));
            let _ = writeln!(
                page,
                "  - `{}` of {} (`{}`) reads `.{}`{}",
                reader.function,
                reader.owner,
                reader.object,
                reader.member,
                via.unwrap_or_default()
            );
        }
        for obstacle in &table.obstacles {
            let _ = writeln!(page, "  - not safe: {}", obstacle.replace('\n', " "));
        }
    }
    page.push('\n');
}

fn layouts(page: &mut String, plan: &Plan) {
    if plan.layouts.is_empty() {
        return;
    }
    let _ = writeln!(page, "## Layouts\n");
    for row in &plan.layouts {
        let within = if row.defined_in.is_empty() {
            String::new()
        } else {
            format!(" (`{}`)", row.defined_in)
        };
        let reason =
            if row.reason.is_empty() { String::new() } else { format!(": {}", row.reason) };
        let _ = writeln!(
            page,
            "- `{} {}`{within}, seen in `{}`, {}{reason}",
            row.kind, row.name, row.object, row.verdict
        );
        for line in crate::layouts::told(row) {
            let _ = writeln!(page, "  - {}", line.replace('\n', " "));
        }
    }
    page.push('\n');
}

fn symbols(page: &mut String, plan: &Plan) {
    if plan.symbols.is_empty() {
        return;
    }
    let _ = writeln!(page, "## What the new code uses of the running kernel\n");
    let _ = writeln!(page, "| symbol | in | how its address is found |\n|---|---|---|");
    for symbol in &plan.symbols {
        let _ = writeln!(page, "| `{}` | {} | {} |", symbol.name, symbol.owner, symbol.found_by);
    }
    page.push('\n');
}

fn not_covered(page: &mut String, plan: &Plan) {
    let _ = writeln!(page, "## What is not covered\n");
    for escape in &plan.escapes {
        let _ = writeln!(
            page,
            "- The address of the update's `{}` escapes at {}: once that has run, the update can be reverted but not \
             {}.",
            escape.function,
            escape.at,
            if escape.rewritten { "unloaded, nor enabled again" } else { "unloaded" }
        );
    }
    let _ = writeln!(
        page,
        "- State that the old code has already got wrong stays as it is: the update changes what the functions do \
         from now on.\n\
         - Bytes that the kernel patches at boot are checked for being one of the forms the kernel writes there; of \
         paravirtual calls it is not checked where they go.\n\
         - Where the scope is `system`: while a task sleeps in one of the functions, loading waits, up to its time limit, and \
         then gives up without a trace, or does what `dynamos load --on-timeout` says."
    );
    for file in &plan.ignored {
        let _ = writeln!(page, "- `{}`: {}.", file.path, file.reason);
    }
    page.push('\n');
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// A code fence that does not occur in `text`.
fn fence(text: &str) -> String {
    let mut fence = "```".to_string();
    while text.contains(&fence) {
        fence.push('`');
    }
    fence
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Refusal;

    #[test]
    fn a_refusal_names_reason_and_remedy() {
        let mut plan = Plan::default();
        plan.refusals.push(Refusal::new("f|x", "is `__init`", "nothing to do"));
        plan.settle();
        let page = review(&plan, ("--- a\n+++ b\n```\n", None));
        assert!(
            page.contains("**Refused.**") && page.contains("f\\|x") && page.contains("````diff")
        );
    }
}
