//! What the differ found out, as rows of the plan, as refusals, and as the facts that the clone closure needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use dynamos_differ::layout::{Instance, Retyped};
use dynamos_differ::load::Elf;
use dynamos_differ::parameters::{signatures, variadic};
use dynamos_differ::verdict::{DataChange, DataKind, DataVerdict, Lifetime, Verdict};
use dynamos_differ::{Comparison, Object, Pair};
use kernel_trees::CompileCommand;
use rayon::prelude::*;

use crate::adaptation;
use crate::assemble::UnitInput;
use crate::build::Built;
use crate::candidates::{Candidate, Candidates};
use crate::counting;
use crate::definitions::{self, Definition};
use crate::hooks;
use crate::layouts;
use crate::plan::{ObjectPlan, Plan, Refusal};
use crate::report::Reporter;
use crate::slots;
use crate::unit::Unit;
use crate::uses::Reader;

mod data_row;
mod function_row;
mod renamed;
pub(crate) mod reshaped;

pub use data_row::{data_change, data_verdict, retyped};
pub use function_row::{FunctionRow, function_verdict};

/// The objects with changed or new functions.
#[derive(Debug, Default)]
pub struct Judged {
    /// One for each such object, in the order of their names.
    pub units: Vec<UnitInput>,
    /// Tables of functions that differ in handlers only.
    pub slots: Vec<slots::Table>,
    /// Global functions that are in one version of an object only.
    pub definitions: Vec<Definition>,
}

/// Compares both builds of every candidate and writes the verdicts into the plan. V2's sources are in the tree `v2`.
pub fn judge(
    found: &Candidates,
    commands: &[CompileCommand],
    built: &[Built],
    v2: &Path,
    reporter: &Reporter,
    asked: &counting::Asked,
    plan: &mut Plan,
) -> Result<Judged> {
    let pairs: Vec<_> = commands.iter().zip(built).collect();
    let compared: Vec<(Comparison, Unit)> = pairs
        .par_iter()
        .map(|(command, built)| {
            let v1 = Unit::parse(&built.v1, &command.object)?;
            Ok((compare(command, [&built.v1, &built.v2], v2)?, v1))
        })
        .collect::<Result<_>>()?;
    let alone = replace_nothing(compared.iter().map(|(comparison, _)| comparison));
    let mut judged = Judged::default();
    let mut all_hooks = Vec::new();
    for ((command, built), (comparison, v1)) in pairs.into_iter().zip(&compared) {
        let candidate = found.objects.get(&command.object).context("an object nobody asked for")?;
        let names = (command.object.as_str(), command.source.as_str());
        let replaced = rows(names, candidate, comparison, alone, plan);
        let owner = &candidate.owner;
        judged.definitions.extend(definitions::of(&command.object, owner, comparison));
        reporter.detail(&format!("{}: {} functions changed", command.object, replaced.len()));
        let object = &command.object;
        let adaptations =
            adaptation::find(comparison, &replaced, &built.v2, object, &mut plan.refusals)?;
        tell_adaptations(plan, object, &replaced, &adaptations);
        // Where V2 has no such file there is nothing to be left out.
        let source = std::fs::read_to_string(v2.join(&command.source)).unwrap_or_default();
        let hooks = hooks::find(comparison, &built.v2, object, &source, &mut plan.refusals)?;
        all_hooks.push((object.clone(), hooks.clone()));
        let called = [adaptation::PREFIX, counting::PREFIX];
        hooks::left_out(comparison, &source, &called, &mut plan.refusals);
        let tables = slots::refused(command, comparison, plan);
        let writes = !tables.is_empty();
        judged.slots.extend(tables);
        // What is new in an object may be what another one uses.
        let adds = comparison.functions.iter().any(|f| f.verdict == Verdict::New);
        if replaced.is_empty() && !adds && !writes {
            continue;
        }
        let v2 = Unit::parse(&built.v2, &command.object)?;
        let wanted = replaced.values().cloned().collect();
        let signatures = signatures(&Elf::parse(&built.pre, &command.object)?, &wanted)?;
        let sides = counting::Sides {
            comparison,
            replaced: &replaced,
            v1: &signatures,
            v2: &built.v2,
            object,
        };
        let objects = counting::find(&sides, asked, &mut plan.refusals)?;
        let elf = Elf::parse(&built.v2, object)?;
        let reshaped = reshaped::find(&replaced, &signatures, &elf)?;
        let parameters = signatures.into_iter().map(|(name, s)| (name, s.parameters)).collect();
        judged.units.push(UnitInput {
            parameters,
            // Where the compiler made it, nobody else calls it as it is.
            unlike: reshaped.iter().filter(|name| !name.contains('.')).cloned().collect(),
            reshaped,
            variadic: variadic(&elf)?,
            adaptations,
            objects,
            hooks,
            object: command.object.clone(),
            owner: candidate.owner.clone(),
            pre: Unit::parse(&built.pre, &command.object)?,
            known: known(comparison, v1, &v2)?,
            along: comparison
                .data
                .iter()
                .filter(|data| goes_along(data, comparison) && !is_temporary(data))
                .map(|data| data.name.clone())
                .collect(),
            v2,
            replaced,
            slots: Vec::new(),
            watched: BTreeSet::new(),
            bridge: None,
        });
    }
    hooks::tell(&all_hooks, plan);
    let names = || commands.iter().map(|command| command.object.as_str());
    let all: Vec<_> = names().zip(compared.iter().map(|(comparison, _)| comparison)).collect();
    renamed::refuse(&all, plan);
    let v1 = names().zip(compared.iter().map(|(_, unit)| unit)).collect();
    reshaped::settle(&mut judged.units, &v1, plan);
    layouts::settle(plan, commands, v2, reporter)?;
    Ok(judged)
}

/// Says in the plan which functions have adaptation handlers of their own.
fn tell_adaptations(
    plan: &mut Plan,
    object: &str,
    replaced: &BTreeMap<String, String>,
    adaptations: &BTreeMap<String, String>,
) {
    for (name, handler) in adaptations {
        let old = replaced.get(name).unwrap_or(name);
        if let Some(row) = plan.function_mut(object, old) {
            row.adapted_by = Some(handler.clone());
        }
    }
}

/// Compares both builds of one object; its sources are in `command`'s tree and in that of `v2`.
pub fn compare(command: &CompileCommand, built: [&[u8]; 2], v2: &Path) -> Result<Comparison> {
    let (name, [old, new]) = (&command.object, built);
    let old = Object::parse(old, &format!("{name} (V1)"))?;
    let new = Object::parse(new, &format!("{name} (V2)"))?;
    let mut comparison = Pair::compare(&old, &new)?;
    lookup_tables(command, v2, &mut comparison);
    Ok(comparison)
}

/// Tells tables that are only looked up from tables of operations: what nothing but the functions that name it can
/// reach is a constant like any other. Where the sources cannot be read it stays what it may be.
fn lookup_tables(command: &CompileCommand, v2: &Path, comparison: &mut Comparison) {
    let doubtful = |data: &&DataVerdict| {
        let constant = data.kind == DataKind::ReadOnly && !data.writable;
        constant && data.operations && is_of_the_replaced(data, comparison)
    };
    let names: BTreeSet<String> =
        comparison.data.iter().filter(doubtful).map(|data| data.name.clone()).collect();
    if names.is_empty() {
        return;
    }
    let Ok(reader) = Reader::open() else { return };
    let both = [command.clone(), command.in_tree(v2)];
    let stays =
        |name: &str| both.iter().all(|side| matches!(reader.stays_within(side, name), Ok(Ok(()))));
    for data in comparison.data.iter_mut().filter(|data| names.contains(&data.name)) {
        if data.old_name.is_none() && stays(&data.name) {
            data.operations = false;
        }
    }
}

/// Adds everything about one object, compiled from `source`, to the plan; gives the functions to replace, V2's name →
/// V1's. `alone`: nothing is replaced ([`replace_nothing`]).
pub fn rows(
    (object, source): (&str, &str),
    candidate: &Candidate,
    comparison: &Comparison,
    alone: bool,
    plan: &mut Plan,
) -> BTreeMap<String, String> {
    Rows { object, plan }.fill(source, candidate, comparison, alone)
}

/// Whether an update with these objects would replace nothing that the kernel runs, neither a function nor a handler. What
/// V2 does at the start is not missed then.
pub fn replace_nothing<'a>(all: impl IntoIterator<Item = &'a Comparison>) -> bool {
    all.into_iter().all(|comparison| {
        comparison.functions.iter().all(|f| f.verdict != Verdict::Changed)
            && comparison.slots.values().all(Result::is_err)
    })
}

/// V2's symbols that the running kernel has: V2's name → V1's.
///
/// What the compiler made up for constants has no life of its own, so it moves along with the clones instead.
fn known(comparison: &Comparison, v1: &Unit, v2: &Unit) -> Result<BTreeMap<String, String>> {
    let constants = comparison.data.iter().filter(|data| {
        is_temporary(data) || goes_along(data, comparison) || begins_anew(data, comparison)
    });
    let functions = comparison.functions.iter().filter(|function| function.along);
    let copied: BTreeSet<&str> = constants
        .map(|data| data.name.as_str())
        .chain(functions.map(|function| function.name.as_str()))
        .collect();
    let mut known = BTreeMap::new();
    for (new, old) in &comparison.symbol_map {
        let (new, old) = (v2.symbol(new.0 as usize)?, v1.symbol(old.0 as usize)?);
        // A cold part belongs to the body that jumps to it: edition 0's would jump back into edition 0.
        let defined = new.named && new.section.is_some() && !new.name.contains(".cold");
        if defined && !copied.contains(new.name.as_str()) {
            known.insert(new.name.clone(), old.name.clone());
        }
    }
    Ok(known)
}

/// Whether a constant is the compiler's own (`CSWTCH.12`, `__func__.3`), which no one else can refer to.
fn is_temporary(data: &DataVerdict) -> bool {
    let base = data.name.split_once('.').map(|(base, _)| base);
    data.kind == DataKind::ReadOnly
        && matches!(
            base,
            Some("CSWTCH" | "__func__" | "__FUNCTION__" | "__PRETTY_FUNCTION__" | "C")
        )
}

/// Whether a changed constant is used by nothing but functions that are replaced, so that it goes along with their
/// clones and edition 0 keeps its own. A table of functions does not: objects that were given it before go on with V1's.
fn goes_along(data: &DataVerdict, comparison: &Comparison) -> bool {
    data.kind == DataKind::ReadOnly
        && !data.writable
        && !data.operations
        && is_of_the_replaced(data, comparison)
}

/// Whether it is the count of a message that is not to come too often (`printk_ratelimited` and the like call it `_rs`)
/// and replaced functions alone use it: edition 0 keeps its own, and V2's begins with V2's limits.
fn begins_anew(data: &DataVerdict, comparison: &Comparison) -> bool {
    let is_limit = |name: &String| name.split_once('.').is_some_and(|(base, _)| base == "_rs");
    data.kind == DataKind::Writable
        && is_limit(&data.name)
        && data.old_name.as_ref().is_none_or(is_limit)
        && is_of_the_replaced(data, comparison)
}

/// Whether a variable or constant changed and nothing but functions that are replaced uses it.
fn is_of_the_replaced(data: &DataVerdict, comparison: &Comparison) -> bool {
    let replaced = |user: &String| {
        let mut verdicts = comparison
            .functions
            .iter()
            .filter(|f| f.name == *user || f.old_name.as_ref() == Some(user))
            .peekable();
        verdicts.peek().is_some()
            && verdicts.all(|f| match f.verdict {
                Verdict::Changed | Verdict::New | Verdict::Removed => true,
                Verdict::Refused => f.lifetime != Lifetime::Always,
                Verdict::Unchanged | Verdict::Renamed => false,
            })
    };
    matches!(data.change, DataChange::Changed | DataChange::Resized)
        && !data.shared
        && !data.users.is_empty()
        && data.users.iter().all(replaced)
}

/// The name in the source, without what the compiler adds.
fn base(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// Whether nothing runs any more in functions with these names in the source once the update is active.
fn is_left(homes: &[String], comparison: &Comparison) -> bool {
    let of_name = |home: &String| {
        let functions = comparison.functions.iter();
        functions
            .filter(|f| base(f.old_name.as_ref().unwrap_or(&f.name)) == *home)
            .collect::<Vec<_>>()
    };
    !homes.is_empty()
        && homes.iter().all(|home| {
            let functions = of_name(home);
            !functions.is_empty()
                && functions.iter().all(|f| match f.verdict {
                    Verdict::Changed | Verdict::New => true,
                    Verdict::Refused => f.lifetime == Lifetime::Start,
                    Verdict::Unchanged | Verdict::Renamed | Verdict::Removed => false,
                })
        })
}

struct Rows<'a> {
    object: &'a str,
    plan: &'a mut Plan,
}

impl Rows<'_> {
    /// Adds everything about one object to the plan; gives the functions to replace, V2's name → V1's.
    fn fill(
        mut self,
        source: &str,
        candidate: &Candidate,
        comparison: &Comparison,
        alone: bool,
    ) -> BTreeMap<String, String> {
        let mut replaced = BTreeMap::new();
        for function in &comparison.functions {
            FunctionRow::of(function).tell(self.object, alone, self.plan);
            if function.verdict == Verdict::Changed && !function.along {
                let old = function.old_name.as_ref().unwrap_or(&function.name);
                replaced.insert(function.name.clone(), old.clone());
            }
        }
        for data in &comparison.data {
            let along = goes_along(data, comparison) || begins_anew(data, comparison);
            let handlers = comparison.slots.get(&data.name).map(slots::told);
            self.data(data, along, handlers.as_deref());
        }
        for section in &comparison.sections {
            if !is_harmless(section.kind) && section.kind != DataKind::ReadOnly {
                self.refuse_state(&section.section, &section.reason);
            }
        }
        self.layouts(comparison);
        self.plan.objects.push(ObjectPlan {
            object: self.object.into(),
            source: source.into(),
            owner: candidate.owner.clone(),
            because: candidate.because.iter().cloned().collect(),
            functions: comparison.functions.len(),
            changed: replaced.len(),
            reached: None,
        });
        replaced
    }

    /// `along`: it goes along with the clones. `handlers`: what there is to say of a table of functions.
    fn data(&mut self, data: &DataVerdict, along: bool, handlers: Option<&str>) {
        let Some(row) = data_verdict(data, self.object) else { return };
        let verdict = row.verdict.clone();
        self.plan.data.push(row);
        let differs = matches!(data.change, DataChange::Changed | DataChange::Resized);
        let takes_part = matches!(
            data.kind,
            DataKind::Parameter
                | DataKind::Initcall
                | DataKind::Trace
                | DataKind::Registration
                | DataKind::Unknown
        );
        if data.change == DataChange::New && data.kind == DataKind::Export {
            self.plan.notes.push(format!(
                "{} is new: the update exports nothing, so a module that needs it cannot be loaded into the running kernel",
                data.name
            ));
        }
        let refused = if data.change == DataChange::New {
            takes_part
        } else {
            differs && !along && !is_harmless(data.kind) && !is_temporary(data)
        };
        if refused {
            let users = users(&data.users);
            if data.change == DataChange::New {
                let reason = format!(
                    "is new in {}, which the kernel reads only when it starts",
                    data.section
                );
                let remedy = "change the fix so that it does without";
                let refusal = Refusal::new(&data.name, reason, remedy).within(self.object);
                self.plan.refusals.push(refusal);
            } else {
                let mut reason = format!(
                    "{verdict}: {}; the running kernel's copy is not touched yet, and its users are {users}",
                    data.reason
                );
                if let Some(handlers) = handlers {
                    reason.push_str(&format!("; {handlers}"));
                }
                let refusal = Refusal::of_state(&data.name, reason).within(self.object);
                self.plan.refusals.push(refusal);
            }
        }
    }

    fn layouts(&mut self, comparison: &Comparison) {
        if let Some(why) = &comparison.layouts_unknown {
            let reason = format!("layouts cannot be compared: {why}");
            self.refuse(self.object, &reason, "build with debug information");
        }
        for layout in &comparison.layouts {
            let stays = |instance: &Instance| !is_left(&instance.homes, comparison);
            self.plan.layouts.push(layouts::row(layout, self.object, &stays));
        }
        for variable in &comparison.retyped {
            self.retyped(comparison, variable);
        }
    }

    /// A variable of the same size and first value, whose content nevertheless means something else now.
    fn retyped(&mut self, comparison: &Comparison, variable: &Retyped) {
        let Some(row) = retyped(comparison, variable, self.object) else { return };
        let only_const = variable.new.strip_prefix("const ") == Some(variable.old.as_str());
        if !variable.old.starts_with("const ") && !only_const {
            let why = format!("{}; the running kernel's copy is not touched yet", row.reason);
            self.refuse_state(&variable.name, &why);
        }
        self.plan.data.push(row);
    }

    fn refuse_state(&mut self, name: &str, reason: &str) {
        self.plan.refusals.push(Refusal::of_state(name, reason));
    }

    fn refuse(&mut self, name: &str, reason: &str, remedy: &str) {
        self.plan.refusals.push(Refusal::new(name, reason, remedy));
    }
}

/// Data that the running kernel no longer reads, or that only describes code for tools.
fn is_harmless(kind: DataKind) -> bool {
    matches!(
        kind,
        DataKind::Init
            | DataKind::ModuleInfo
            | DataKind::DynamicDebug
            | DataKind::PrintkIndex
            | DataKind::Discarded
    )
}

fn users(users: &[String]) -> String {
    match users {
        [] => "not known".into(),
        few if few.len() <= 5 => few.join(", "),
        many => format!(
            "{} and {} more",
            many.iter().take(5).cloned().collect::<Vec<_>>().join(", "),
            many.len() - 5
        ),
    }
}
