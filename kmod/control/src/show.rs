//! What the commands that change nothing print.

use serde::Serialize;

use crate::failure::Failure;
use crate::sysfs::{Module, Sysfs, Update};

/// `status --json`. Fields are added, never renamed or taken away.
#[derive(Serialize)]
struct Status {
    /// dynamos.ko; null where it is not loaded.
    dynamos: Option<Module>,
    updates: Vec<Update>,
}

/// One line for each update.
pub(crate) fn list(sysfs: &Sysfs) -> Result<(), Failure> {
    let updates = sysfs.updates()?;
    let width = updates.iter().map(|u| u.name.len()).max().unwrap_or(0);
    for update in &updates {
        println!("{:width$}  {:12}  {}", update.name, update.state, update.target);
    }
    if updates.is_empty() {
        let why = if sysfs.is_there() { "" } else { "; dynamos.ko is not loaded" };
        eprintln!("no update is loaded{why}");
    }
    Ok(())
}

/// Everything that is known of one update, or of all.
pub(crate) fn status(sysfs: &Sysfs, name: Option<&str>, json: bool) -> Result<(), Failure> {
    let updates = match name {
        Some(name) => vec![sysfs.update(name)?],
        None => sysfs.updates()?,
    };
    let dynamos = sysfs.module()?;
    if json {
        let status = Status { dynamos, updates };
        let text = serde_json::to_string_pretty(&status).map_err(Failure::error)?;
        println!("{text}");
        return Ok(());
    }
    match dynamos {
        Some(module) => println!("dynamos.ko {} (ABI {})", module.version, module.abi),
        None => println!("dynamos.ko is not loaded"),
    }
    for update in &updates {
        print(update);
    }
    Ok(())
}

fn print(update: &Update) {
    let enabled = if update.enabled { "enabled" } else { "not enabled" };
    println!("\n{} for {}: {}, {enabled}", update.name, update.target, update.state);
    if let Some(scope) = &update.scope {
        let of = |text: &str| dynamos_core::Scope::parse(text);
        let proposed = update.proposed_scope.as_deref().unwrap_or_default();
        let weaker = of(scope) < of(proposed);
        let note = if weaker {
            format!(", weaker than the plan proposes ({proposed})")
        } else {
            String::new()
        };
        println!("  scope: {scope}{note}");
    }
    if let Some(hook) = &update.hook {
        println!("  waits for hook {hook}, which has not returned");
    }
    if let Some(phase) = phase(update) {
        println!("  {phase}");
    }
    if let Some(count) = update.blocking.filter(|count| *count > 0) {
        let plural = |count| if count == 1 { "" } else { "s" };
        let activations = update.activations.unwrap_or(count);
        println!(
            "  waits for {count} task{}, {activations} activation{}:",
            plural(count),
            plural(activations)
        );
        for blocker in &update.blockers {
            println!("    {blocker}");
        }
        let more = count.saturating_sub(update.blockers.len() as u64);
        if more > 0 {
            println!("    and {more} more");
        }
    }
    for policy in update.policy.iter().flat_map(|text| text.lines()) {
        println!("  policy: {policy}");
    }
    if let Some(note) = editions_meet(update) {
        println!("  {note}");
    }
    let width = update.functions.iter().map(|f| f.function.len()).max().unwrap_or(0);
    for function in &update.functions {
        let object = &function.object;
        let stack = stacked(&function.stack);
        println!("  {:width$}  edition {}  {object}{stack}", function.function, function.edition);
    }
}

/// That policies are weaker than the plan's scope, if they are.
pub(crate) fn editions_meet(update: &Update) -> Option<String> {
    let proposed = update.proposed_scope.as_ref().filter(|_| update.editions_meet)?;
    Some(format!("by these policies editions meet: weaker than the plan proposes ({proposed})"))
}

/// Which updates have editions of a function, if several have: the topmost first.
fn stacked(stack: &[String]) -> String {
    match stack {
        [] | [_] => String::new(),
        all => {
            let names: Vec<_> = all.iter().rev().map(String::as_str).collect();
            format!("  ({})", names.join(" over "))
        }
    }
}

/// Where an update with phases is.
fn phase(update: &Update) -> Option<String> {
    let (edition, number) = match update.phase? {
        1 => ("the bridge", "1 of 2"),
        2 => ("V2's edition", "2 of 2"),
        _ => return None,
    };
    let not_yet = update.not_yet.as_ref();
    let not_yet = not_yet.map_or_else(String::new, |hook| format!("; {hook} says: not yet"));
    let rest = update
        .rest_ms
        .map_or_else(String::new, |ms| format!(", for {} s more at least", ms.div_ceil(1000)));
    Some(format!("phase {number}: new calls take {edition}{rest}{not_yet}"))
}

/// Who holds up a switch of `update`, in one line.
pub(crate) fn held_by(update: &Update) -> String {
    let tasks = tasks_of(update);
    match (phase(update), update.blockers.is_empty() && update.hook.is_none()) {
        (Some(phase), true) => phase,
        (Some(phase), false) => format!("{phase}; {tasks}"),
        (None, _) => tasks,
    }
}

fn tasks_of(update: &Update) -> String {
    let hook = update.hook.iter().map(|hook| format!("hook {hook} has not returned"));
    let shown = hook.chain(update.blockers.iter().cloned()).collect::<Vec<_>>().join(", ");
    match update.blocking.map(|count| count.saturating_sub(update.blockers.len() as u64)) {
        None | Some(0) if shown.is_empty() => "for whom, `dynamos status` shows".to_owned(),
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
