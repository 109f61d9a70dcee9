//! Phase 7: what became of every function and every data object, and why.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::compare::{Cause, Comparer, Difference, section_is_read_only};
use crate::correlate::Correlation;
use crate::error::Result;
use crate::layout::LayoutChange;
use crate::load::{SectionId, SymbolId};
use crate::model::{DataId, FunctionId};
use crate::object_file::Object;
use crate::special::{self, Class};

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
    /// The same under another compiler-made name.
    Renamed,
    /// Changed, but cannot be replaced at run time.
    Refused,
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
    /// What became of it.
    pub change: DataChange,
    /// Why, in words.
    pub reason: String,
    /// Functions whose code refers to it, in either version.
    pub users: Vec<String>,
}

/// All facts about a pair of objects.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Every function of both objects, by name.
    pub functions: Vec<FunctionVerdict>,
    /// Every data object of both objects, by name.
    pub data: Vec<DataVerdict>,
    /// Sections whose content no symbol names, and which differ.
    pub sections: Vec<SectionChange>,
    /// Types that differ; empty if they are equal.
    pub layouts: Vec<LayoutChange>,
    /// Why layouts are not known (no DWARF on a side).
    pub layouts_unknown: Option<String>,
    /// What each local or global symbol of v2 is called in v1.
    pub symbol_map: BTreeMap<SymbolId, SymbolId>,
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
        let data = data(&comparer);
        let sections = unnamed_sections(&comparer);
        let symbol_map = symbol_map(v1, v2, &correlation);
        let (layouts, layouts_unknown) = crate::layout::compare(v1, v2)?;
        Ok(Comparison {
            functions,
            data,
            sections,
            layouts,
            layouts_unknown,
            symbol_map,
            correlation,
        })
    }
}

impl Comparison {
    /// The verdict on the function of that name.
    pub fn function(&self, name: &str) -> Option<&FunctionVerdict> {
        self.functions.iter().find(|f| f.name == name)
    }

    /// Whether anything at all differs.
    pub fn is_unchanged(&self) -> bool {
        self.functions.iter().all(|f| matches!(f.verdict, Verdict::Unchanged | Verdict::Renamed))
            && self.data.iter().all(|d| d.change == DataChange::Unchanged)
            && self.sections.is_empty()
            && self.layouts.is_empty()
    }
}

fn functions(comparer: &Comparer<'_, '_>) -> Vec<FunctionVerdict> {
    let (a, b) = (comparer.a, comparer.b);
    let mut verdicts = Vec::new();
    for (x, f) in a.model.functions().filter(|(_, f)| f.parent.is_none()) {
        verdicts.push(match comparer.correlation.functions.get(&x) {
            Some(y) => pair_verdict(comparer, x, *y),
            None => FunctionVerdict {
                name: f.name.clone(),
                old_name: None,
                v1: Some(x),
                v2: None,
                verdict: Verdict::Removed,
                reason: "not in v2".to_owned(),
                cause: None,
                inlined: None,
            },
        });
    }
    for (y, f) in b.model.functions().filter(|(_, f)| f.parent.is_none()) {
        if comparer.correlation.functions_back.contains_key(&y) {
            continue;
        }
        let obstacle = not_copyable(b, y);
        verdicts.push(FunctionVerdict {
            name: f.name.clone(),
            old_name: None,
            v1: None,
            v2: Some(y),
            verdict: if obstacle.is_some() { Verdict::Refused } else { Verdict::New },
            reason: obstacle.map_or("not in v1".to_owned(), |o| format!("new, but {o}")),
            cause: None,
            inlined: None,
        });
    }
    verdicts.sort_by(|p, q| (&p.name, p.v1, p.v2).cmp(&(&q.name, q.v1, q.v2)));
    verdicts
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
    };
    match comparer.functions(x, y) {
        Ok(()) if old == new => {}
        Ok(()) => {
            verdict.verdict = Verdict::Renamed;
            verdict.reason = format!("was {old}");
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

/// Why edition 0 cannot be redirected.
fn not_redirectable(object: &Object<'_>, id: FunctionId) -> Option<String> {
    let f = object.function(id)?;
    let section = object.section_name(f.section);
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
    if object.fentry_offset(id).is_none() {
        return Some("has no ftrace site (notrace)".to_owned());
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

fn data(comparer: &Comparer<'_, '_>) -> Vec<DataVerdict> {
    let (a, b) = (comparer.a, comparer.b);
    let mut verdicts = Vec::new();
    for (x, d) in a.model.data() {
        let y = comparer.correlation.data.get(&x).copied();
        let (change, reason) = match y.and_then(|y| Some((y, b.model.data_object(y)?))) {
            None => (DataChange::Removed, "not in v2".to_owned()),
            Some((_, e)) if d.end - d.start != e.end - e.start => (
                DataChange::Resized,
                format!("{} bytes instead of {}", e.end - e.start, d.end - d.start),
            ),
            Some((y, _)) => match comparer.data(x, y) {
                Ok(()) => (DataChange::Unchanged, String::new()),
                Err(difference) => (DataChange::Changed, difference.text),
            },
        };
        verdicts.push(data_verdict(comparer, Some(x), y, change, reason));
    }
    for (y, _) in b.model.data() {
        if !comparer.correlation.data_back.contains_key(&y) {
            let reason = "not in v1".to_owned();
            verdicts.push(data_verdict(comparer, None, Some(y), DataChange::New, reason));
        }
    }
    verdicts.sort_by(|p, q| (&p.name, p.v1, p.v2).cmp(&(&q.name, q.v1, q.v2)));
    verdicts
}

fn data_verdict(
    comparer: &Comparer<'_, '_>,
    x: Option<DataId>,
    y: Option<DataId>,
    change: DataChange,
    reason: String,
) -> DataVerdict {
    let mut users = BTreeSet::new();
    let mut names = [None, None];
    let mut section_of = None;
    for (object, id, name) in [(comparer.a, x, 0), (comparer.b, y, 1)]
        .into_iter()
        .filter_map(|(o, i, n)| Some((o, i?, n)))
    {
        for f in object.referrers().functions_of_data.get(&id).into_iter().flatten() {
            users.extend(object.function(*f).map(|f| f.name.clone()));
        }
        if let Some(d) = object.model.data_object(id) {
            if let Some(slot) = names.get_mut(name) {
                *slot = Some(d.name.clone());
            }
            section_of = Some((object, d.section));
        }
    }
    let [old, new] = names;
    let (section, kind, writable) =
        section_of.map_or((String::new(), DataKind::Unknown, true), |(o, id)| {
            let writable =
                o.elf.sections.get(id.0 as usize).is_none_or(|s| !section_is_read_only(s));
            (o.section_name(id).to_owned(), data_kind(o, id), writable)
        });
    let old_name = if new.is_some() && new != old { old.clone() } else { None };
    let name = new.or(old).unwrap_or_default();
    let users = users.into_iter().collect();
    DataVerdict { name, old_name, section, v1: x, v2: y, kind, writable, change, reason, users }
}

fn data_kind(object: &Object<'_>, id: SectionId) -> DataKind {
    let Some(section) = object.elf.sections.get(id.0 as usize) else { return DataKind::Unknown };
    let name = section.name;
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    match name {
        _ if starts(&[".discard"]) => DataKind::Discarded,
        _ if starts(&[".data..percpu"]) => DataKind::PerCpu,
        _ if starts(&[".data..ro_after_init"]) => DataKind::ReadOnlyAfterInit,
        _ if starts(&[".init.", ".exit.", ".meminit."]) && special::is_plain_data(name) => {
            DataKind::Init
        }
        _ if special::is_plain_data(name) && section_is_read_only(section) => DataKind::ReadOnly,
        _ if special::is_plain_data(name) => DataKind::Writable,
        "__param" => DataKind::Parameter,
        ".modinfo" | "__modver" => DataKind::ModuleInfo,
        "__dyndbg" | "__dyndbg_classes" => DataKind::DynamicDebug,
        ".printk_index" => DataKind::PrintkIndex,
        ".export_symbol" => DataKind::Export,
        _ if starts(&["___ksymtab", "__ksymtab", "___kcrctab"]) => DataKind::Export,
        _ if starts(&[".initcall", ".con_initcall", ".security_initcall", ".exitcall"]) => {
            DataKind::Initcall
        }
        _ if starts(&["__tracepoint", "_ftrace", "__bpf_raw_tp", "__trace_printk"]) => {
            DataKind::Trace
        }
        _ => match special::class_of(section) {
            Some(Class::Unknown) | None => DataKind::Unknown,
            Some(_) => DataKind::Registration,
        },
    }
}

/// Registration tables, unknown sections and stray code that no symbol names: compared whole.
fn unnamed_sections(comparer: &Comparer<'_, '_>) -> Vec<SectionChange> {
    let (a, b) = (comparer.a, comparer.b);
    let unnamed = |o: &Object<'_>| -> BTreeMap<String, (SectionId, u64)> {
        o.elf
            .sections()
            .filter(|(id, s)| {
                let class = special::class_of(s);
                let table = matches!(class, Some(Class::Registration | Class::Unknown));
                let code = class.is_none() && s.is_exec();
                s.size > 0
                    && (table || code)
                    && o.model.data_in(*id).is_empty()
                    && o.model.functions_in(*id).is_empty()
            })
            .map(|(id, s)| (s.name.to_owned(), (id, s.size)))
            .collect()
    };
    let (of_a, of_b) = (unnamed(a), unnamed(b));
    let names: BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let (reason, kind) = match (of_a.get(name), of_b.get(name)) {
            (Some((x, size_x)), Some((y, size_y))) => {
                match comparer.whole_sections((*x, *size_x), (*y, *size_y)) {
                    Ok(()) => continue,
                    Err(difference) => (difference.text, data_kind(b, *y)),
                }
            }
            (Some((x, _)), None) => ("not in v2".to_owned(), data_kind(a, *x)),
            (None, Some((y, _))) => ("not in v1".to_owned(), data_kind(b, *y)),
            (None, None) => continue,
        };
        changes.push(SectionChange { section: name.clone(), kind, reason });
    }
    changes
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
    for (x, y) in &correlation.data {
        if let (Some(d), Some(e)) = (a.model.data_object(*x), b.model.data_object(*y)) {
            map.insert(e.symbol, d.symbol);
        }
    }
    map
}
