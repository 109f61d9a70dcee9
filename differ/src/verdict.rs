//! Phase 7: what became of every function and every data object, and why.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::{Cause, Comparer, Difference, Slots, Values};
use crate::correlate::Correlation;
use crate::error::Result;
use crate::layout::{LayoutChange, Layouts, Retyped};
use crate::load::SymbolId;
use crate::model::{DataId, Function, FunctionId};
use crate::object_file::Object;
use crate::special::Class;

mod aliases;
mod by_unit;
mod callers;
mod data;
mod renamed;

/// What became of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Same instructions, same references.
    Unchanged,
    /// Something in it or in what it reads differs.
    Changed,
    /// Only in v2.
    New,
    /// Only in v1.
    Removed,
    /// The same under another compiler-made name, or static where it was global, or the other way round.
    Renamed,
    /// Changed, but cannot be replaced at run time.
    Refused,
}

/// When a function runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// At any time.
    Always,
    /// While the kernel or module starts (`__init`).
    Start,
    /// While the module is unloaded (`__exit`).
    End,
}

impl Lifetime {
    /// That of a function that both versions have: v1's, unless v2's runs longer.
    pub(crate) fn of_both(old: Self, new: Self) -> Self {
        if new == Self::Always { new } else { old }
    }

    /// That of the functions in a section.
    pub(crate) fn of_section(section: &str) -> Self {
        if section.starts_with(".init.text") {
            Self::Start
        } else if section.starts_with(".exit.text") {
            Self::End
        } else {
            Self::Always
        }
    }
}

/// The verdict on one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FunctionVerdict {
    /// Its name in v2, or in v1 if it was removed.
    pub name: String,
    /// Its name in v1, if that is another.
    pub old_name: Option<String>,
    /// The function in v1.
    pub v1: Option<FunctionId>,
    /// The function in v2.
    pub v2: Option<FunctionId>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
    /// What kind of difference it is, where there is one.
    pub cause: Option<Cause>,
    /// The function inlined at the first difference, if it is not the function's own code.
    pub inlined: Option<String>,
    /// When it runs; in v1, if it is there and v2's does not run longer.
    pub lifetime: Lifetime,
    /// It changed and goes along with the functions that call it, which are all replaced; it is not redirected itself.
    pub along: bool,
    /// It is replaced, and so is whoever calls it, in either version: a call of it is always part of one of theirs.
    #[serde(skip)]
    pub inner: bool,
    /// Other objects see it, in either version.
    #[serde(skip)]
    pub global: bool,
}

/// What became of a data object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DataChange {
    /// Same size, same initial value.
    Unchanged,
    /// Another initial value.
    Changed,
    /// Another size.
    Resized,
    /// Only in v2.
    New,
    /// Only in v1.
    Removed,
}

/// What a data object is for, judged by its section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// Read-only data.
    ReadOnly,
    /// Initialised or zeroed data that the kernel may write.
    Writable,
    /// One copy for every CPU.
    PerCpu,
    /// Written while booting, read-only after.
    ReadOnlyAfterInit,
    /// Freed after booting or loading.
    Init,
    /// `EXPORT_SYMBOL`.
    Export,
    /// A module parameter.
    Parameter,
    /// An init call.
    Initcall,
    /// Module information.
    ModuleInfo,
    /// A dynamic-debug site.
    DynamicDebug,
    /// A tracepoint or trace event.
    Trace,
    /// printk's index of formats.
    PrintkIndex,
    /// Read by build tools and dropped by the linker.
    Discarded,
    /// In another section that the kernel reads as a table.
    Registration,
    /// In a section not known to us.
    Unknown,
}

/// The verdict on one data object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataVerdict {
    /// Its name in v2, or in v1 if it was removed.
    pub name: String,
    /// Its name in v1, if that is another.
    pub old_name: Option<String>,
    /// Its section.
    pub section: String,
    /// The object in v1.
    pub v1: Option<DataId>,
    /// The object in v2.
    pub v2: Option<DataId>,
    /// What it is for.
    pub kind: DataKind,
    /// Whether the kernel may write to it.
    pub writable: bool,
    /// Bytes; in v2, if it is there.
    pub size: u64,
    /// What became of it.
    pub change: DataChange,
    /// Why, in words.
    pub reason: String,
    /// Of one that changed and has the same size: its initial values that differ.
    pub values: Values,
    /// Functions whose code, or whose entries in special sections, refer to it, in either version.
    pub users: Vec<String>,
    /// Whether others than those may: its name is global, or data points to it.
    pub shared: bool,
    /// Whether it holds pointers to functions, or to what other objects define and may be functions.
    pub operations: bool,
}

/// All facts about a pair of objects.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Comparison {
    /// Every function of both objects, by name.
    pub functions: Vec<FunctionVerdict>,
    /// Every data object of both objects, by name.
    pub data: Vec<DataVerdict>,
    /// Sections whose content no symbol names, and which differ.
    pub sections: Vec<SectionChange>,
    /// Types that differ; empty if they are equal.
    pub layouts: Vec<LayoutChange>,
    /// Static and per-CPU variables of both whose type is another.
    pub retyped: Vec<Retyped>,
    /// Why layouts are not known (no DWARF on a side).
    pub layouts_unknown: Option<String>,
    /// What each local or global symbol of v2 is called in v1.
    pub symbol_map: BTreeMap<SymbolId, SymbolId>,
    /// Changed variables of V2 that may differ in pointers to functions only: those, or what else differs.
    pub slots: BTreeMap<String, std::result::Result<Slots, String>>,
    /// The pairs all this is based on.
    #[serde(skip)]
    pub correlation: Correlation,
}

/// A section without symbols that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SectionChange {
    /// Its name.
    pub section: String,
    /// What it is for.
    pub kind: DataKind,
    /// How it differs.
    pub reason: String,
}

/// Two builds of one source file.
#[derive(Debug)]
pub struct Pair;

impl Pair {
    /// Compares v1 with v2.
    pub fn compare(v1: &Object<'_>, v2: &Object<'_>) -> Result<Comparison> {
        let correlation = Correlation::build(v1, v2);
        let comparer = Comparer::new(v1, v2, &correlation);
        let functions = functions(&comparer);
        let Layouts { types, variables, unknown, statics } = crate::layout::compare(v1, v2)?;
        let mut data = data::verdicts(&comparer, &statics);
        let slots = data::values_and_slots(&comparer, &mut data, &statics)?;
        let sections = data::unnamed_sections(&comparer);
        let symbol_map = symbol_map(v1, v2, &correlation);
        Ok(Comparison {
            functions,
            data,
            sections,
            layouts: types,
            retyped: variables,
            layouts_unknown: unknown,
            symbol_map,
            slots,
            correlation,
        })
    }
}

impl Comparison {
    /// The verdict on the function of that name.
    pub fn function(&self, name: &str) -> Option<&FunctionVerdict> {
        self.functions.iter().find(|f| f.name == name)
    }

    /// What a symbol of v2 is in v1, if it is there.
    pub fn v1_symbol(&self, v2: SymbolId) -> Option<SymbolId> {
        self.symbol_map.get(&v2).copied()
    }

    /// Whether nothing differs that reaches the running kernel.
    pub fn is_unchanged(&self) -> bool {
        self.functions.iter().all(|f| matches!(f.verdict, Verdict::Unchanged | Verdict::Renamed))
            && self
                .data
                .iter()
                .all(|d| d.change == DataChange::Unchanged || d.kind == DataKind::Discarded)
            && self.sections.is_empty()
            && self.layouts.is_empty()
            && self.retyped.is_empty()
    }
}

fn functions(comparer: &Comparer<'_, '_>) -> Vec<FunctionVerdict> {
    let (a, b) = (comparer.a, comparer.b);
    let mut verdicts = Vec::new();
    for (x, f) in a.model.functions().filter(|(_, f)| f.parent.is_none()) {
        verdicts.push(match comparer.correlation.functions.get(&x) {
            Some(y) => pair_verdict(comparer, x, *y),
            None => aliases::verdict(comparer, Some(x), None).unwrap_or_else(|| {
                alone((a, x), (f, true), (Verdict::Removed, "not in v2".to_owned()))
            }),
        });
    }
    for (y, f) in b.model.functions().filter(|(_, f)| f.parent.is_none()) {
        if comparer.correlation.functions_back.contains_key(&y) {
            continue;
        }
        verdicts.push(aliases::verdict(comparer, None, Some(y)).unwrap_or_else(|| {
            let what = match not_copyable(b, y) {
                Some(obstacle) => (Verdict::Refused, format!("new, but {obstacle}")),
                None => (Verdict::New, "not in v1".to_owned()),
            };
            alone((b, y), (f, false), what)
        }));
    }
    callers::let_go_along(comparer, &mut verdicts);
    callers::find_inner(comparer, &mut verdicts);
    aliases::refuse(comparer, &mut verdicts);
    verdicts.sort_by(|p, q| (&p.name, p.v1, p.v2).cmp(&(&q.name, q.v1, q.v2)));
    verdicts
}

/// That on a function of one version (of V1, if the flag says so) that the other has not.
fn alone(
    (object, id): (&Object<'_>, FunctionId),
    (f, old): (&Function, bool),
    (verdict, reason): (Verdict, String),
) -> FunctionVerdict {
    FunctionVerdict {
        name: f.name.clone(),
        old_name: None,
        v1: old.then_some(id),
        v2: (!old).then_some(id),
        verdict,
        reason,
        cause: None,
        inlined: None,
        lifetime: lifetime(object, id),
        along: false,
        inner: false,
        global: is_global(object, id),
    }
}

fn pair_verdict(comparer: &Comparer<'_, '_>, x: FunctionId, y: FunctionId) -> FunctionVerdict {
    let (a, b) = (comparer.a, comparer.b);
    let name = |o: &Object<'_>, id| o.function(id).map_or(String::new(), |f| f.name.clone());
    let (old, new) = (name(a, x), name(b, y));
    let mut verdict = FunctionVerdict {
        old_name: (old != new).then(|| old.clone()),
        name: new.clone(),
        v1: Some(x),
        v2: Some(y),
        verdict: Verdict::Unchanged,
        reason: String::new(),
        cause: None,
        inlined: None,
        lifetime: Lifetime::of_both(lifetime(a, x), lifetime(b, y)),
        along: false,
        inner: false,
        global: is_global(a, x) || is_global(b, y),
    };
    if let Some(why) = outlives(a, x, b, y) {
        (verdict.verdict, verdict.reason) = (Verdict::Refused, why);
        return verdict;
    }
    match comparer.functions(x, y) {
        Err(_) if registers_with_kasan(a, x) && registers_with_kasan(b, y) => {
            verdict.reason = "tells KASAN of this object's variables: not compared".to_owned();
        }
        Ok(()) => {
            if let Some(why) = renamed::why((a, x), (b, y)) {
                (verdict.verdict, verdict.reason) = (Verdict::Renamed, why);
            }
        }
        Err(difference) => {
            let obstacle = not_redirectable(a, x).or_else(|| not_copyable(b, y));
            verdict.inlined = inlined(a, x, b, y, &difference);
            let via =
                verdict.inlined.as_ref().map_or(String::new(), |n| format!(" (in {n}, inlined)"));
            verdict.cause = Some(difference.cause);
            (verdict.verdict, verdict.reason) = match obstacle {
                Some(o) => (Verdict::Refused, format!("{o}; changed: {}{via}", difference.text)),
                None => (Verdict::Changed, format!("{}{via}", difference.text)),
            };
        }
    }
    verdict
}

/// Why v2's function cannot be had: it may be called when v1's is gone.
fn outlives(a: &Object<'_>, x: FunctionId, b: &Object<'_>, y: FunctionId) -> Option<String> {
    let section = |o: &Object<'_>, id| o.function(id).map(|f| o.section_name(f.section).to_owned());
    let (old, new) = (section(a, x)?, section(b, y)?);
    longer_lived(&old, &new)
}

/// Why a function that moves from one section to another cannot be had at run time.
pub(crate) fn longer_lived(old: &str, new: &str) -> Option<String> {
    let gone = match (Lifetime::of_section(old), Lifetime::of_section(new)) {
        (Lifetime::Start, Lifetime::Always) => "frees it once it has started",
        (Lifetime::End, Lifetime::Always) => "has it only while its module ends",
        _ => return None,
    };
    Some(format!("is in {old} in v1 and in {new} in v2: the running kernel {gone}"))
}

/// Whether other objects see it, under any of its names.
fn is_global(object: &Object<'_>, id: FunctionId) -> bool {
    let is_global = |symbol| object.elf.symbol(symbol).is_ok_and(|symbol| symbol.is_global());
    object
        .function(id)
        .is_some_and(|f| is_global(f.symbol) || f.aliases.iter().copied().any(is_global))
}

fn lifetime(object: &Object<'_>, id: FunctionId) -> Lifetime {
    Lifetime::of_section(object.function(id).map_or("", |f| object.section_name(f.section)))
}

fn inlined(
    a: &Object<'_>,
    x: FunctionId,
    b: &Object<'_>,
    y: FunctionId,
    difference: &Difference,
) -> Option<String> {
    let (at_a, at_b) = difference.at?;
    let chain = |o: &Object<'_>, id, at| {
        let section = o.function(id)?.section;
        o.inlined_at(section, at)
    };
    chain(b, y, at_b).or_else(|| chain(a, x, at_a))
}

/// The compiler's constructor and destructor that tell KASAN where the variables of an object are. They run when
/// the kernel or the module comes and goes; an update's copies of variables are not watched.
fn registers_with_kasan(object: &Object<'_>, id: FunctionId) -> bool {
    let generated = object.function(id).is_some_and(|f| f.name.starts_with("_sub_"));
    let relocations = object.function_relocations(id).iter();
    let mut calls = relocations.filter_map(|r| object.elf.symbol(r.symbol).ok().map(|s| s.name));
    generated && calls.any(|n| n == "__asan_register_globals" || n == "__asan_unregister_globals")
}

pub(crate) const NO_SITE: &str = "has no ftrace site (notrace)";

/// Why no function of a section can be redirected.
pub(crate) fn never_redirected(section: &str) -> Option<String> {
    for (prefix, what) in [
        (".init.text", "runs only while the kernel or module starts, and is freed then"),
        (".exit.text", "runs only while the module is unloaded"),
        (".noinstr.text", "must not be instrumented (noinstr)"),
        (".entry.text", "is entry code"),
        (".head.text", "runs only at boot"),
        (".static_call.text", "is a static call's trampoline, which the kernel rewrites"),
    ] {
        if section.starts_with(prefix) {
            return Some(format!("is in {section}: {what}"));
        }
    }
    None
}

/// Why edition 0 cannot be redirected.
fn not_redirectable(object: &Object<'_>, id: FunctionId) -> Option<String> {
    let f = object.function(id)?;
    if let Some(why) = never_redirected(object.section_name(f.section)) {
        return Some(why);
    }
    if object.fentry_offset(id).is_none() {
        return Some(NO_SITE.to_owned());
    }
    None
}

/// Why the function cannot be copied into an update.
fn not_copyable(object: &Object<'_>, id: FunctionId) -> Option<String> {
    let cold = object.function(id).and_then(|f| f.cold);
    for part in std::iter::once(id).chain(cold) {
        for entry in object.special_entries(part) {
            let section = object.section_name(entry.section);
            match entry.class {
                Class::Unknown => {
                    return Some(format!("section {section} refers to it and is not known"));
                }
                Class::RuntimeConstant => {
                    return Some(format!(
                        "it uses a run-time constant ({section}), which the kernel patches only at boot"
                    ));
                }
                _ => {}
            }
        }
    }
    None
}

fn symbol_map(
    a: &Object<'_>,
    b: &Object<'_>,
    correlation: &Correlation,
) -> BTreeMap<SymbolId, SymbolId> {
    let mut map = BTreeMap::new();
    for (x, y) in &correlation.functions {
        if let (Some(f), Some(g)) = (a.function(*x), b.function(*y)) {
            map.insert(g.symbol, f.symbol);
        }
    }
    map.extend(aliases::symbols(a, b, correlation));
    for (x, y) in &correlation.data {
        if let (Some(d), Some(e)) = (a.model.data_object(*x), b.model.data_object(*y)) {
            map.insert(e.symbol, d.symbol);
        }
    }
    map
}
