//! Phase 8: structs, unions, enums and typedefs as DWARF describes them, and which differ.
//!
//! Types are compared by name and content. Units are read in parallel; equal definitions from
//! several units are one definition.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::lines::{Debug, Reader};
use crate::load::Elf;
use crate::object_file::Object;

mod abbreviations;
mod index;
mod read;
mod scan;

/// What a type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayoutKind {
    /// `struct`.
    Struct,
    /// `union`.
    Union,
    /// `enum`.
    Enum,
    /// `typedef`, as far as it does not just name one of the others.
    Typedef,
}

/// A member of a struct or union. Members of anonymous members appear as their own, those of
/// a member with an unnamed type as `member.inner`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Member {
    /// Its name; empty for padding bitfields.
    pub name: String,
    /// Offset in bits from the start of the type.
    pub bit_offset: u64,
    /// Size in bits; 0 for a flexible array.
    pub bit_size: u64,
    /// Whether it is a bitfield.
    pub bitfield: bool,
    /// Its type, written as in C.
    #[serde(rename = "type")]
    pub type_name: String,
}

/// An enumerator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Enumerator {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: i128,
}

/// One definition of a type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Definition {
    /// Size in bytes.
    pub size: u64,
    /// For a struct or union.
    pub members: Vec<Member>,
    /// For an enum.
    pub enumerators: Vec<Enumerator>,
    /// For a typedef: what it stands for; for an enum: its integer type.
    pub target: Option<String>,
}

/// Kind and name of a type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TypeName {
    /// What it is.
    pub kind: LayoutKind,
    /// Its tag or typedef name.
    pub name: String,
}

/// All named types of an image: usually one definition each.
pub type Types = BTreeMap<TypeName, BTreeSet<Definition>>;

/// What became of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayoutVerdict {
    /// Only in v2.
    Added,
    /// Only in v1.
    Removed,
    /// Another definition.
    Changed,
}

/// What became of a member or enumerator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberChange {
    /// Its name.
    pub name: String,
    /// `added`, `removed`, `moved`, `resized`, `retyped`, `value`: all that apply.
    pub changes: Vec<&'static str>,
}

/// A type that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayoutChange {
    /// What it is.
    pub kind: LayoutKind,
    /// Its name.
    pub name: String,
    /// What became of it.
    pub verdict: LayoutVerdict,
    /// Its definitions in v1 (more than one only if units disagree).
    pub old: Vec<Definition>,
    /// Its definitions in v2.
    pub new: Vec<Definition>,
    /// By member, where each side has one definition.
    pub members: Vec<MemberChange>,
}

/// All named types that the DWARF of an object defines.
pub fn types(elf: &Elf<'_>) -> Result<Types> {
    let debug = Debug::load(elf)?;
    let dwarf = debug.dwarf();
    let bad = |e: gimli::Error| Error::new(&elf.name, format_args!("DWARF: {e}"));
    let mut headers = Vec::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next().map_err(bad)? {
        headers.push(header);
    }
    let found = headers
        .into_par_iter()
        .map(|header| unit_types(elf, &dwarf, header))
        .collect::<Result<Vec<_>>>()?;
    let mut types = Types::new();
    for (name, definition) in found.into_iter().flatten() {
        types.entry(name).or_default().insert(definition);
    }
    Ok(types)
}

fn unit_types(
    elf: &Elf<'_>,
    dwarf: &gimli::Dwarf<Reader<'_>>,
    header: gimli::UnitHeader<Reader<'_>>,
) -> Result<Vec<(TypeName, Definition)>> {
    let bad = |e: gimli::Error| Error::new(&elf.name, format_args!("DWARF: {e}"));
    let unit = dwarf.unit(header).map_err(bad)?;
    if unit.dwo_name().map_err(bad)?.is_some() {
        return Err(Error::new(
            &elf.name,
            "split DWARF: the types are in a .dwo file; build without -gsplit-dwarf",
        ));
    }
    read::unit(dwarf, &unit).map_err(bad)
}

/// Compares the types of two objects. Second: why they are not known, if they are not.
pub fn compare(a: &Object<'_>, b: &Object<'_>) -> Result<(Vec<LayoutChange>, Option<String>)> {
    for (object, side) in [(a, "v1"), (b, "v2")] {
        if object.elf.section_by_name(".debug_info").is_none() {
            return Ok((Vec::new(), Some(format!("{side} has no DWARF (.debug_info)"))));
        }
    }
    let (old, new) = (Debug::load(&a.elf)?, Debug::load(&b.elf)?);
    Ok((compare_debug((&a.elf.name, &old), (&b.elf.name, &new))?, None))
}

/// Compares the types of two images, each given with the name that errors call it. The same as comparing all
/// their [`types`], but only those that differ are ever built.
pub fn compare_debug(
    old: (&str, &Debug<'_>),
    new: (&str, &Debug<'_>),
) -> Result<Vec<LayoutChange>> {
    let (dwarf, other) = (old.1.dwarf(), new.1.dwarf());
    let index = index::Index::build(old.0, &dwarf)?;
    let (old, new) = index.differing(&index::Index::build(new.0, &other)?)?;
    Ok(compare_types(&old, &new))
}

/// Compares two sets of types.
pub fn compare_types(old: &Types, new: &Types) -> Vec<LayoutChange> {
    let names: BTreeSet<&TypeName> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let (x, y) = (old.get(name), new.get(name));
        if x == y {
            continue;
        }
        let verdict = match (x, y) {
            (None, _) => LayoutVerdict::Added,
            (_, None) => LayoutVerdict::Removed,
            _ => LayoutVerdict::Changed,
        };
        let list = |s: Option<&BTreeSet<Definition>>| -> Vec<Definition> {
            s.into_iter().flatten().cloned().collect()
        };
        let (x, y) = (list(x), list(y));
        let members = match (x.as_slice(), y.as_slice()) {
            ([x], [y]) => member_changes(x, y),
            _ => Vec::new(),
        };
        changes.push(LayoutChange {
            kind: name.kind,
            name: name.name.clone(),
            verdict,
            old: x,
            new: y,
            members,
        });
    }
    changes
}

fn member_changes(x: &Definition, y: &Definition) -> Vec<MemberChange> {
    let mut changes = Vec::new();
    let mut note = |name: &str, list: Vec<&'static str>| {
        if !list.is_empty() {
            changes.push(MemberChange { name: name.to_owned(), changes: list });
        }
    };
    for m in &x.members {
        match y.members.iter().find(|n| n.name == m.name) {
            None => note(&m.name, vec!["removed"]),
            Some(n) => {
                let tests = [
                    (m.bit_offset != n.bit_offset, "moved"),
                    (m.bit_size != n.bit_size, "resized"),
                    (m.type_name != n.type_name || m.bitfield != n.bitfield, "retyped"),
                ];
                note(&m.name, tests.iter().filter(|t| t.0).map(|t| t.1).collect());
            }
        }
    }
    for n in y.members.iter().filter(|n| !x.members.iter().any(|m| m.name == n.name)) {
        note(&n.name, vec!["added"]);
    }
    for e in &x.enumerators {
        match y.enumerators.iter().find(|f| f.name == e.name) {
            None => note(&e.name, vec!["removed"]),
            Some(f) if f.value != e.value => note(&e.name, vec!["value"]),
            Some(_) => {}
        }
    }
    for f in y.enumerators.iter().filter(|f| !x.enumerators.iter().any(|e| e.name == f.name)) {
        note(&f.name, vec!["added"]);
    }
    changes
}

/// The compilers that made an object (`DW_AT_producer`), without repetition.
pub fn producers(elf: &Elf<'_>) -> Result<BTreeSet<String>> {
    let debug = Debug::load(elf)?;
    let dwarf = debug.dwarf();
    let bad = |e: gimli::Error| Error::new(&elf.name, format_args!("DWARF: {e}"));
    let mut found = BTreeSet::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next().map_err(bad)? {
        let unit = dwarf.unit(header).map_err(bad)?;
        let mut entries = unit.entries();
        if let Some((_, root)) = entries.next_dfs().map_err(bad)?
            && let Some(value) = root.attr_value(gimli::DW_AT_producer).map_err(bad)?
        {
            found.insert(crate::lines::text(dwarf.attr_string(&unit, value).map_err(bad)?));
        }
    }
    Ok(found)
}
