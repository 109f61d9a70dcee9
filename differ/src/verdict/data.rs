//! Verdicts on data objects, and on what no symbol names.

use std::collections::{BTreeMap, BTreeSet};

use super::{DataChange, DataKind, DataVerdict, SectionChange};
use crate::compare::{Comparer, Slots, Values, may_have_slots, section_is_read_only};
use crate::error::Result;
use crate::layout::{Statics, VariableTypes};
use crate::lines::address;
use crate::load::SectionId;
use crate::model::{DataId, DataObject, Place};
use crate::object_file::Object;
use crate::special::{self, Class};

/// The verdicts on all data objects, by name.
pub(super) fn verdicts(comparer: &Comparer<'_, '_>, statics: &[Statics; 2]) -> Vec<DataVerdict> {
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
            Some((_, e)) if data_kind(a, d.section) != data_kind(b, e.section) => (
                DataChange::Changed,
                format!(
                    "moved from {} to {}",
                    a.section_name(d.section),
                    b.section_name(e.section)
                ),
            ),
            Some((y, e)) => match (comparer.data(x, y), alignment((a, d), (b, e), statics)) {
                (Ok(()), None) => (DataChange::Unchanged, String::new()),
                (Ok(()), Some(aligned)) => (DataChange::Changed, aligned),
                (Err(difference), None) => (DataChange::Changed, difference.text),
                (Err(difference), Some(aligned)) => {
                    (DataChange::Changed, format!("{}; {aligned}", difference.text))
                }
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

/// Adds what the changed variables hold, old and new; and which of them differ in pointers to functions only.
pub(super) fn values_and_slots(
    comparer: &Comparer<'_, '_>,
    verdicts: &mut [DataVerdict],
    statics: &[Statics; 2],
) -> Result<BTreeMap<String, std::result::Result<Slots, String>>> {
    let (a, b) = (comparer.a, comparer.b);
    let lasting = |kind| {
        matches!(kind, DataKind::ReadOnly | DataKind::Writable | DataKind::ReadOnlyAfterInit)
    };
    let told: Vec<(&mut DataVerdict, DataId, DataId)> = verdicts
        .iter_mut()
        .filter(|v| v.change == DataChange::Changed && v.kind != DataKind::Discarded)
        .filter_map(|v| v.v1.zip(v.v2).map(|(x, y)| (v, x, y)))
        .collect();
    let mut found = BTreeMap::new();
    if told.is_empty() {
        return Ok(found);
    }
    let place = |object: &Object<'_>, id| {
        object.model.data_object(id).map(|data| address(data.section, data.start))
    };
    let old: Vec<u64> = told.iter().filter_map(|(_, x, _)| place(a, *x)).collect();
    let new: Vec<u64> = told.iter().filter_map(|(_, _, y)| place(b, *y)).collect();
    let (old, new) = rayon::join(
        || VariableTypes::read(&a.elf, &statics[0], &old),
        || VariableTypes::read(&b.elf, &statics[1], &new),
    );
    let types = (&old?, &new?);
    for (verdict, x, y) in told {
        let (Some(d), Some(e)) = (a.model.data_object(x), b.model.data_object(y)) else { continue };
        verdict.values = comparer.values((x, y), types);
        if !(verdict.operations && lasting(verdict.kind) && may_have_slots(d, e)) {
            continue;
        }
        let slots = match alignment((a, d), (b, e), statics) {
            Some(aligned) => Err(aligned),
            None => comparer.slots((x, y), types),
        };
        found.insert(verdict.name.clone(), slots);
    }
    Ok(found)
}

/// How the required alignment differs. Where neither source asks for one, the compiler's choice depends on what else is
/// compared; but it may not be told of all (assembly, a declaration before the definition), so that the section of a
/// variable that has one to itself must be aligned alike.
fn alignment(
    (a, d): (&Object<'_>, &DataObject),
    (b, e): (&Object<'_>, &DataObject),
    [of_a, of_b]: &[Statics; 2],
) -> Option<String> {
    let asked = |known: &Statics, d: &DataObject| {
        known.alignments.get(&address(d.section, d.start)).copied()
    };
    let told = |alignment: Option<u64>| {
        alignment.map_or_else(|| "that of its type".to_owned(), |bytes| bytes.to_string())
    };
    let (old, new) = match (asked(of_a, d), asked(of_b, e)) {
        (None, None) => (alone(a, d)?, alone(b, e)?),
        known => known,
    };
    (old != new).then(|| format!("alignment {} instead of {}", told(new), told(old)))
}

/// The alignment of a variable's section, if there is nothing else in it.
fn alone(object: &Object<'_>, d: &DataObject) -> Option<Option<u64>> {
    let section = object.elf.sections.get(d.section.0 as usize)?;
    let alone = object.model.data_in(d.section).len() == 1;
    (alone && d.start == 0 && d.end == section.size).then_some(Some(section.align))
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
    let (mut section_of, mut size) = (None, 0);
    let (mut shared, mut operations) = (false, false);
    for (object, id, name) in [(comparer.a, x, 0), (comparer.b, y, 1)]
        .into_iter()
        .filter_map(|(o, i, n)| Some((o, i?, n)))
    {
        for f in object.referrers().functions_of_data.get(&id).into_iter().flatten() {
            users.extend(object.function(*f).map(|f| f.name.clone()));
        }
        shared |= object.referrers().data_of_data.get(&id).is_some_and(|list| !list.is_empty());
        if let Some(d) = object.model.data_object(id) {
            operations |= points_to_functions(object, d.section, d.start, d.end);
            shared |= object.elf.symbol(d.symbol).is_ok_and(|symbol| symbol.is_global());
            if let Some(slot) = names.get_mut(name) {
                *slot = Some(d.name.clone());
            }
            section_of = Some((object, d.section));
            size = d.end - d.start;
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
    DataVerdict {
        name,
        old_name,
        section,
        v1: x,
        v2: y,
        kind,
        writable,
        size,
        change,
        reason,
        values: Values::default(),
        users,
        shared,
        operations,
    }
}

fn points_to_functions(object: &Object<'_>, section: SectionId, start: u64, end: u64) -> bool {
    let section = object.elf.sections.get(section.0 as usize);
    section.is_some_and(|section| {
        section.relocations_in(start, end).iter().any(|r| {
            let place = object.model.resolve(&object.elf, r.symbol, r.addend);
            matches!(place, Place::Function { .. } | Place::External { .. })
        })
    })
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
pub(super) fn unnamed_sections(comparer: &Comparer<'_, '_>) -> Vec<SectionChange> {
    let (a, b) = (comparer.a, comparer.b);
    let (of_a, of_b) = (without_names(a), without_names(b));
    let names: BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    let none = Vec::new();
    let mut changes = Vec::new();
    for name in names {
        let x = of_a.get(name).unwrap_or(&none);
        let y = of_b.get(name).unwrap_or(&none);
        let differs = |(x, y): (&Whole, &Whole)| comparer.whole_sections(*x, *y).err();
        let reason = match (x.len(), y.len()) {
            (_, 0) => "not in v2".to_owned(),
            (0, _) => "not in v1".to_owned(),
            (old, new) if old != new => format!("{new} sections of this name instead of {old}"),
            _ => match x.iter().zip(y).find_map(differs) {
                Some(difference) => difference.text,
                None => continue,
            },
        };
        let of_v1 = x.first().map(|(id, _)| data_kind(a, *id));
        let kind = y.first().map(|(id, _)| data_kind(b, *id)).or(of_v1);
        let kind = kind.unwrap_or(DataKind::Unknown);
        changes.push(SectionChange { section: name.clone(), kind, reason });
    }
    changes.extend(unnamed_code(comparer));
    changes
}

/// A section and its size.
type Whole = (SectionId, u64);

/// The sections to compare whole, by name: there may be several of one, in an order that counts.
fn without_names(o: &Object<'_>) -> BTreeMap<String, Vec<Whole>> {
    let mut found: BTreeMap<String, Vec<Whole>> = BTreeMap::new();
    for (id, section) in o.elf.sections().filter(|(_, s)| s.size > 0) {
        let class = special::class_of(section);
        let table = matches!(class, Some(Class::Registration | Class::Unknown));
        let code = class.is_none() && section.is_exec();
        if (table || code) && o.model.data_in(id).is_empty() && o.model.functions_in(id).is_empty()
        {
            found.entry(section.name.to_owned()).or_default().push((id, section.size));
        }
    }
    found
}

/// Code between functions that no symbol names, and that is not padding.
fn unnamed_code(comparer: &Comparer<'_, '_>) -> Vec<SectionChange> {
    let (of_a, of_b) = (gaps(comparer.a), gaps(comparer.b));
    let names: BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    let none = Vec::new();
    let mut changes = Vec::new();
    for name in names {
        let x = of_a.get(name).unwrap_or(&none);
        let y = of_b.get(name).unwrap_or(&none);
        let same = x.len() == y.len()
            && x.iter().zip(y).all(|(p, q)| comparer.unnamed_code(*p, *q).is_ok());
        if !same {
            changes.push(SectionChange {
                section: name.clone(),
                kind: DataKind::Unknown,
                reason: "code that no symbol names changed".to_owned(),
            });
        }
    }
    changes
}

/// Extents between the functions of a section that hold more than padding.
fn gaps(object: &Object<'_>) -> BTreeMap<String, Vec<(SectionId, u64, u64)>> {
    let mut found: BTreeMap<String, Vec<(SectionId, u64, u64)>> = BTreeMap::new();
    for (id, section) in object.elf.sections() {
        let mut at = 0;
        let mut extents = Vec::new();
        for f in object.model.functions_in(id).iter().filter_map(|f| object.function(*f)) {
            if f.start > at {
                extents.push((id, at, f.start));
            }
            at = at.max(f.end);
        }
        if at > 0 && at < section.size {
            extents.push((id, at, section.size));
        }
        extents.retain(|(_, start, end)| !object.is_padding(id, *start, *end));
        if !extents.is_empty() {
            found.entry(section.name.to_owned()).or_default().extend(extents);
        }
    }
    found
}
