//! Phase 8: structs, unions, enums and typedefs as DWARF describes them, and which differ.
//!
//! Types are compared by name and content. Units are read in parallel; equal definitions from
//! several units are one definition.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::lines::{Debug, Reader};
use crate::load::Elf;
use crate::object_file::Object;
use crate::show::Source;
use index::Index;

mod abbreviations;
mod embed;
mod index;
mod leaf;
mod live;
mod members;
mod read;
mod scan;
mod slots;
mod unnamed;

pub use embed::Embedder;
pub(crate) use leaf::{Leaf, Reads};
pub use live::{Instance, Place, Retyped};
pub(crate) use live::{Statics, fixed_address};
pub use members::{EnumeratorChange, MemberChange};
pub(crate) use slots::SlotType;
pub use slots::VariableTypes;

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

impl LayoutKind {
    /// The word that says it.
    pub fn word(self) -> &'static str {
        match self {
            LayoutKind::Struct => "struct",
            LayoutKind::Union => "union",
            LayoutKind::Enum => "enum",
            LayoutKind::Typedef => "typedef",
        }
    }
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
    /// In bytes, where the source asks for one (`aligned`), of the type or of something in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alignment: Option<u64>,
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
    /// Its tag or typedef name; `of FIRST` for an enum without one that begins with that enumerator.
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

/// A type that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayoutChange {
    /// What it is.
    pub kind: LayoutKind,
    /// Its name.
    pub name: String,
    /// What became of it.
    pub verdict: LayoutVerdict,
    /// Its definitions that only v1 has: more than one, or none, where several types have the name.
    pub old: Vec<Definition>,
    /// Those that only v2 has.
    pub new: Vec<Definition>,
    /// By member, where each side has one of its own.
    pub members: Vec<MemberChange>,
    /// By enumerator, likewise.
    pub enumerators: Vec<EnumeratorChange>,
    /// The file that defines it in v1 (in v2, if it is new), as the compiler was given it.
    pub defined_in: Option<String>,
    /// V1's types that hold one by value, to any depth.
    pub embedded_in: Vec<Embedder>,
    /// V1's variables that hold one by value.
    pub instances: Vec<Instance>,
}

impl LayoutChange {
    /// Whether it is an enum without a name, whose enumerators are no more than numbers with names. What is of its type
    /// nevertheless has a type that says them all.
    pub fn is_unnamed(&self) -> bool {
        unnamed::is_one(&self.type_name())
    }

    /// Without what is around it: what it is in, and where it is defined.
    pub fn by_itself(self) -> Self {
        Self { defined_in: None, embedded_in: Vec::new(), instances: Vec::new(), ..self }
    }

    /// Kind and name.
    pub fn type_name(&self) -> TypeName {
        TypeName { kind: self.kind, name: self.name.clone() }
    }
}

impl std::fmt::Display for TypeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            LayoutKind::Typedef => write!(f, "{}", self.name),
            kind => write!(f, "{} {}", kind.word(), self.name),
        }
    }
}

/// What differs in the types of two objects.
#[derive(Debug, Clone, Default)]
pub struct Layouts {
    /// Types.
    pub types: Vec<LayoutChange>,
    /// Static and per-CPU variables of both whose type is another.
    pub variables: Vec<Retyped>,
    /// Why it is not known, if it is not.
    pub unknown: Option<String>,
    /// V1's and v2's variables that have an address.
    pub(crate) statics: [Statics; 2],
}

/// All named types that the DWARF of an object defines.
pub fn types(elf: &Elf<'_>) -> Result<Types> {
    let debug = Debug::load(elf)?;
    let mut types = Types::new();
    let found = each_unit(elf, &debug, &|dwarf, unit| read::unit(dwarf, unit))?;
    for (name, definition) in found.into_iter().flatten() {
        types.entry(name).or_default().insert(definition);
    }
    Ok(types)
}

/// What is done with each unit.
type ReadUnit<'f, T> =
    dyn Fn(&gimli::Dwarf<Reader<'_>>, &gimli::Unit<Reader<'_>>) -> gimli::Result<T> + Sync + 'f;

/// Reads every unit, in parallel; the results are in the order of the units.
fn each_unit<T: Send>(elf: &Elf<'_>, debug: &Debug<'_>, read: &ReadUnit<'_, T>) -> Result<Vec<T>> {
    let dwarf = debug.dwarf();
    let bad = |e: gimli::Error| Error::new(&elf.name, format_args!("DWARF: {e}"));
    let mut headers = Vec::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next().map_err(bad)? {
        headers.push(header);
    }
    headers
        .into_par_iter()
        .map(|header| {
            let unit = dwarf.unit(header).map_err(bad)?;
            if unit.dwo_name().map_err(bad)?.is_some() {
                return Err(Error::new(
                    &elf.name,
                    "split DWARF: the types are in a .dwo file; build without -gsplit-dwarf",
                ));
            }
            read(&dwarf, &unit).map_err(bad)
        })
        .collect()
}

/// Compares the types and variables of two objects.
pub fn compare(a: &Object<'_>, b: &Object<'_>) -> Result<Layouts> {
    for (object, side) in [(a, "v1"), (b, "v2")] {
        if object.elf.section_by_name(".debug_info").is_none() {
            let unknown = Some(format!("{side} has no DWARF (.debug_info)"));
            return Ok(Layouts { unknown, ..Layouts::default() });
        }
    }
    let (old, new) = (Debug::load(&a.elf)?, Debug::load(&b.elf)?);
    let mut types = compare_debug((&a.elf.name, &old), (&b.elf.name, &new))?;
    let (old, new) = rayon::join(|| live::variables(&a.elf), || live::variables(&b.elf));
    let (old, new) = (old?, new?);
    for change in &mut types {
        change.instances = live::instances(&old, &change.type_name(), &change.embedded_in);
    }
    let variables = live::retyped(&old, &new);
    let statics = [old.statics, new.statics];
    Ok(Layouts { types, variables, unknown: None, statics })
}

/// Compares the types of two objects or images, each given with the name that errors call it. The same as comparing all
/// their [`types`], but only those that differ are ever built.
pub fn compare_debug(
    old: (&str, &Debug<'_>),
    new: (&str, &Debug<'_>),
) -> Result<Vec<LayoutChange>> {
    let (dwarf, other) = (old.1.dwarf(), new.1.dwarf());
    let (old, new) = (Index::build(old.0, &dwarf, 1)?, Index::build(new.0, &other, 2)?);
    Ok(compare_indexes(&old, &new)?.0)
}

/// The same of two images, with the variables of the old one that have an address: `place` tells where that is.
pub fn compare_images(
    old: (&str, &Debug<'_>),
    new: (&str, &Debug<'_>),
    place: &(dyn Fn(u64) -> Place + Sync),
) -> Result<Vec<LayoutChange>> {
    let (dwarf, other) = (old.1.dwarf(), new.1.dwarf());
    let (old, new) = (Index::build(old.0, &dwarf, 1)?, Index::build(new.0, &other, 2)?);
    let (mut changes, holders) = compare_indexes(&old, &new)?;
    let variables = old.variables(&holders, place)?;
    for change in &mut changes {
        change.instances = live::instances(&variables, &change.type_name(), &change.embedded_in);
    }
    Ok(changes)
}

/// What differs, and the names (hashed) of those types and of all of the old side's that hold one.
fn compare_indexes(
    old: &Index<'_, '_>,
    new: &Index<'_, '_>,
) -> Result<(Vec<LayoutChange>, HashSet<u64>)> {
    let names = old.differing(new);
    if names.is_empty() {
        return Ok((Vec::new(), names));
    }
    let is_one = |name| names.contains(&name);
    let (x, y) = rayon::join(|| old.read(is_one), || new.read(is_one));
    let mut changes = compare_types(&x?, &y?);
    // Of the new side only where its own are defined.
    let holders = old.reached(&names);
    let (x, y) = rayon::join(|| old.nesting(&holders), || new.nesting(&names));
    let (x, y) = (x?, y?);
    for change in &mut changes {
        let name = change.type_name();
        change.defined_in = x.defined_in(&name).or(y.defined_in(&name)).map(str::to_owned);
        change.embedded_in = x.embedders(&name);
    }
    Ok((changes, holders))
}

/// Compares two sets of types.
pub fn compare_types(old: &Types, new: &Types) -> Vec<LayoutChange> {
    let names: BTreeSet<&TypeName> = old.keys().chain(new.keys()).collect();
    let mut changes = unnamed::compare(old, new);
    for name in names.into_iter().filter(|name| !unnamed::is_one(name)) {
        let (x, y) = (old.get(name), new.get(name));
        if x == y {
            continue;
        }
        let verdict = match (x, y) {
            (None, _) => LayoutVerdict::Added,
            (_, None) => LayoutVerdict::Removed,
            _ => LayoutVerdict::Changed,
        };
        // What both have is as it was; which of the others was which, nothing says.
        let without = |s: Option<&BTreeSet<Definition>>, other: Option<&BTreeSet<Definition>>| {
            let is_new = |of: &&Definition| !other.is_some_and(|other| other.contains(*of));
            s.into_iter().flatten().filter(is_new).cloned().collect::<Vec<_>>()
        };
        let (x, y) = (without(x, y), without(y, x));
        let (members, enumerators) = match (x.as_slice(), y.as_slice()) {
            ([x], [y]) => (members::members(x, y), members::enumerators(x, y)),
            _ => Default::default(),
        };
        changes.push(LayoutChange {
            kind: name.kind,
            name: name.name.clone(),
            verdict,
            old: x,
            new: y,
            members,
            enumerators,
            defined_in: None,
            embedded_in: Vec::new(),
            instances: Vec::new(),
        });
    }
    changes.sort_by(|x, y| (x.kind, &x.name).cmp(&(y.kind, &y.name)));
    changes
}

/// A definition, and where the source has it.
pub(crate) struct Named {
    pub name: TypeName,
    pub definition: Definition,
    pub source: Option<Source>,
}

/// All definitions of the types that a person calls so: `pipe`, or `struct pipe`. `name` is what errors call the file.
pub(crate) fn named(name: &str, debug: &Debug<'_>, wanted: &str) -> Result<Vec<Named>> {
    let kinds =
        [LayoutKind::Struct, LayoutKind::Union, LayoutKind::Enum, LayoutKind::Typedef].into_iter();
    let of_kind = |kind: LayoutKind| {
        let full = wanted.strip_prefix(kind.word()).and_then(|rest| rest.strip_prefix(' '));
        [Some(wanted), full].map(|name| Some(TypeName { kind, name: name?.to_owned() }))
    };
    let types: Vec<TypeName> = kinds.flat_map(of_kind).flatten().collect();
    let dwarf = debug.dwarf();
    Index::build(name, &dwarf, 0)?.named(&types)
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
