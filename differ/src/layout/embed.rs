//! Which types hold which others by value, to any depth.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gimli::UnitOffset;
use serde::Serialize;

use super::read::{Entry, MAX_DEPTH, Unit, children};
use super::{LayoutKind, TypeName};
use crate::lines::text;
use crate::show::{Source, relative};

/// A type that holds another one by value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Embedder {
    /// The type.
    #[serde(flatten)]
    pub name: TypeName,
    /// From it down to the type it holds, e.g. `struct outer.list[]`, `struct middle.inner`: the shortest such way.
    pub chain: Vec<String>,
}

/// Which types hold which, and where they are defined.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    /// Who holds a type, and by which member (none for a typedef).
    holders: BTreeMap<TypeName, BTreeSet<(TypeName, String)>>,
    files: BTreeMap<TypeName, String>,
}

/// What one unit says.
#[derive(Default)]
pub(super) struct Found {
    /// The type held, by whom, as which member.
    held: Vec<(TypeName, TypeName, String)>,
    files: Vec<(TypeName, String)>,
}

impl Nesting {
    /// What units say, in their order.
    pub(super) fn of(units: Vec<Found>) -> Self {
        let mut nesting = Nesting::default();
        for found in units {
            for (inner, outer, member) in found.held {
                nesting.holders.entry(inner).or_default().insert((outer, member));
            }
            for (name, file) in found.files {
                nesting.files.entry(name).or_insert(file);
            }
        }
        nesting
    }

    pub(super) fn defined_in(&self, name: &TypeName) -> Option<&str> {
        self.files.get(name).map(String::as_str)
    }

    /// All types that hold `name`, by name.
    pub(super) fn embedders(&self, name: &TypeName) -> Vec<Embedder> {
        let mut chains: BTreeMap<&TypeName, Vec<String>> = BTreeMap::new();
        let mut queue = VecDeque::from([(name, Vec::new())]);
        while let Some((inner, chain)) = queue.pop_front() {
            for (outer, member) in self.holders.get(inner).into_iter().flatten() {
                if outer == name || chains.contains_key(outer) {
                    continue;
                }
                let mut chain = chain.clone();
                let dot = if member.is_empty() { "" } else { "." };
                chain.insert(0, format!("{outer}{dot}{member}"));
                chains.insert(outer, chain.clone());
                queue.push_back((outer, chain));
            }
        }
        let embedder = |(name, chain): (&TypeName, _)| Embedder { name: name.clone(), chain };
        chains.into_iter().map(embedder).collect()
    }
}

/// What the definitions at these places of a unit say.
pub(super) fn at<'a>(
    dwarf: &gimli::Dwarf<crate::lines::Reader<'a>>,
    unit: &gimli::Unit<crate::lines::Reader<'a>>,
    offsets: Vec<UnitOffset>,
) -> gimli::Result<Found> {
    let reader = Unit::new(dwarf, unit);
    let mut found = Found::default();
    for offset in offsets {
        note(&reader, &unit.entry(offset)?, &mut found)?;
    }
    Ok(found)
}

fn note<'a>(reader: &Unit<'_, 'a>, entry: &Entry<'_, 'a>, found: &mut Found) -> gimli::Result<()> {
    let Some(outer) = named(reader, entry)? else { return Ok(()) };
    if let Some(file) = file_of(reader.dwarf, reader.unit, entry)? {
        found.files.push((outer.clone(), file));
    }
    let mut held = Vec::new();
    match outer.kind {
        LayoutKind::Typedef => by_value(reader, reader.type_of(entry)?, "", 0, &mut held)?,
        LayoutKind::Struct | LayoutKind::Union => {
            members(reader, entry.offset(), "", 0, &mut held)?;
        }
        LayoutKind::Enum => {}
    }
    found.held.extend(held.into_iter().map(|(inner, member)| (inner, outer.clone(), member)));
    Ok(())
}

/// Kind and name of a type that has both and is not only declared.
fn named<'a>(reader: &Unit<'_, 'a>, entry: &Entry<'_, 'a>) -> gimli::Result<Option<TypeName>> {
    let kind = match entry.tag() {
        gimli::DW_TAG_structure_type => LayoutKind::Struct,
        gimli::DW_TAG_union_type => LayoutKind::Union,
        gimli::DW_TAG_enumeration_type => LayoutKind::Enum,
        gimli::DW_TAG_typedef => LayoutKind::Typedef,
        _ => return Ok(None),
    };
    if entry.attr(gimli::DW_AT_declaration)?.is_some() {
        return Ok(None);
    }
    Ok(reader.name(entry)?.map(|name| TypeName { kind, name }))
}

/// The types that a value of a type is made of: itself if it has a name, else what its array or unnamed body holds.
/// `member` is how the value is called.
pub(super) fn by_value(
    reader: &Unit<'_, '_>,
    offset: Option<UnitOffset>,
    member: &str,
    depth: usize,
    held: &mut Vec<(TypeName, String)>,
) -> gimli::Result<()> {
    let Some(offset) = offset else { return Ok(()) };
    reader.spend(1)?;
    if depth > MAX_DEPTH {
        return Err(gimli::Error::UnsupportedOffset);
    }
    let entry = reader.unit.entry(offset)?;
    if let Some(name) = named(reader, &entry)? {
        held.push((name, member.to_owned()));
        return Ok(());
    }
    match entry.tag() {
        gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => {
            let prefix = if member.is_empty() { String::new() } else { format!("{member}.") };
            members(reader, offset, &prefix, depth + 1, held)
        }
        gimli::DW_TAG_array_type => {
            let element = reader.type_of(&entry)?;
            by_value(reader, element, &format!("{member}[]"), depth + 1, held)
        }
        gimli::DW_TAG_const_type
        | gimli::DW_TAG_volatile_type
        | gimli::DW_TAG_restrict_type
        | gimli::DW_TAG_atomic_type => {
            by_value(reader, reader.type_of(&entry)?, member, depth + 1, held)
        }
        _ => Ok(()),
    }
}

fn members(
    reader: &Unit<'_, '_>,
    body: UnitOffset,
    prefix: &str,
    depth: usize,
    held: &mut Vec<(TypeName, String)>,
) -> gimli::Result<()> {
    children(reader.unit, body, |entry| {
        if entry.tag() != gimli::DW_TAG_member {
            return Ok(());
        }
        let name = match reader.name(entry)? {
            Some(own) => format!("{prefix}{own}"),
            None => prefix.trim_end_matches('.').to_owned(),
        };
        by_value(reader, reader.type_of(entry)?, &name, depth + 1, held)
    })
}

/// Where the source has the type that is at this place of a unit.
pub(super) fn source(
    dwarf: &gimli::Dwarf<crate::lines::Reader<'_>>,
    unit: &gimli::Unit<crate::lines::Reader<'_>>,
    offset: UnitOffset,
) -> gimli::Result<Option<Source>> {
    let entry = unit.entry(offset)?;
    let line = entry.attr_value(gimli::DW_AT_decl_line)?.and_then(|line| line.udata_value());
    let compiled_in = unit.comp_dir.map(text).unwrap_or_default();
    let file = file_of(dwarf, unit, &entry)?;
    Ok(file.zip(line).map(|(file, line)| Source { file: relative(&file, &compiled_in), line }))
}

/// The file in which a type is declared, as the line table has it.
fn file_of(
    dwarf: &gimli::Dwarf<crate::lines::Reader<'_>>,
    unit: &gimli::Unit<crate::lines::Reader<'_>>,
    entry: &Entry<'_, '_>,
) -> gimli::Result<Option<String>> {
    let index = match entry.attr_value(gimli::DW_AT_decl_file)? {
        Some(gimli::AttributeValue::FileIndex(index)) => index,
        Some(value) => match value.udata_value() {
            Some(index) => index,
            None => return Ok(None),
        },
        None => return Ok(None),
    };
    let Some(program) = &unit.line_program else { return Ok(None) };
    let header = program.header();
    let Some(file) = header.file(index) else { return Ok(None) };
    let name = text(dwarf.attr_string(unit, file.path_name())?);
    let directory = match file.directory(header) {
        // The first one is where the compiler ran.
        Some(value) if file.directory_index() != 0 => text(dwarf.attr_string(unit, value)?),
        _ => String::new(),
    };
    let path = if directory.is_empty() || name.starts_with('/') {
        name
    } else {
        format!("{directory}/{name}")
    };
    Ok(Some(path.strip_prefix("./").map_or(path.clone(), str::to_owned)))
}
