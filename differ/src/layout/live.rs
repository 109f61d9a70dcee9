//! Variables, as DWARF describes them: where values of a type can live, and which variables have another type.

use std::collections::{BTreeMap, BTreeSet};

use gimli::{Operation, UnitOffset};
use serde::Serialize;

use super::TypeName;
use super::embed::{Embedder, by_value};
use super::read::{Entry, Unit};
use crate::error::Result;
use crate::lines::{Debug, Reader};
use crate::load::Elf;

/// Where a variable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Of a function: on its stack or in registers, as long as it runs.
    Stack,
    /// Declared here, defined in another object.
    Extern,
    /// One for as long as the code is loaded.
    Static,
    /// One for each CPU.
    PerCpu,
}

/// A variable that holds a value of a type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Instance {
    /// Where it is.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// The function it belongs to.
    pub function: Option<String>,
    /// The functions with code of that one: itself, and those that it is inlined into.
    pub homes: Vec<String>,
    /// Its type, written as in C.
    #[serde(rename = "type")]
    pub type_name: String,
}

/// A variable whose type is another one in v2.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Retyped {
    /// Its name.
    pub name: String,
    /// The function it belongs to.
    pub function: Option<String>,
    /// Where it is.
    pub place: Place,
    /// Its type in v1, written as in C.
    pub old: String,
    /// Its type in v2.
    pub new: String,
}

/// Function (empty for none) and name of a variable.
pub(super) type Key = (String, String);

/// What is known of a variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Variable {
    place: Place,
    type_name: String,
    /// Types its value is made of, as far as it names them itself.
    holds: Vec<TypeName>,
}

/// All variables of an object.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// Several of one name in one function differ by their type or are one.
    known: BTreeMap<Key, BTreeSet<Variable>>,
    /// The functions that a function's code is in.
    homes: BTreeMap<String, BTreeSet<String>>,
    /// What else is known of those with an address.
    pub(super) statics: Statics,
}

/// Variables by their addresses (see [`crate::lines::address`]).
#[derive(Debug, Clone, Default)]
pub(crate) struct Statics {
    /// The alignment that the source asks for.
    pub(crate) alignments: BTreeMap<u64, u64>,
    /// The type, written as in C.
    pub(crate) types: BTreeMap<u64, String>,
}

/// Reads the variables of an object.
pub(super) fn variables(elf: &Elf<'_>) -> Result<Variables> {
    let debug = Debug::load(elf)?;
    let place = |address: u64| {
        // As `lines::address` made it; an image's own addresses are in no such section.
        let section = usize::try_from(address >> 32).ok().and_then(|id| elf.sections.get(id));
        match section {
            Some(section) if section.name.starts_with(".data..percpu") => Place::PerCpu,
            _ => Place::Static,
        }
    };
    Ok(Variables::of(super::each_unit(elf, &debug, &|dwarf, unit| read(dwarf, unit, &place))?))
}

impl Variables {
    /// What units have.
    pub(super) fn of(units: Vec<Found>) -> Self {
        let mut variables = Variables::default();
        for found in units {
            for (key, variable) in found.variables {
                variables.known.entry(key).or_default().insert(variable);
            }
            variables.statics.alignments.extend(found.alignments);
            variables.statics.types.extend(found.types);
            for (function, home) in found.homes {
                variables.homes.entry(function).or_default().insert(home);
            }
        }
        variables.settle();
        variables
    }

    /// Leaves out the declaration of what is defined further down, and the abstract form of what an inlined function has.
    fn settle(&mut self) {
        for found in self.known.values_mut() {
            let mut best: BTreeMap<String, Place> = BTreeMap::new();
            for v in found.iter() {
                let place = best.entry(v.type_name.clone()).or_insert(v.place);
                *place = (*place).max(v.place);
            }
            found.retain(|v| best.get(&v.type_name) == Some(&v.place));
        }
    }
}

/// The variables that hold a `name` by value, or one of the types that embed it.
pub(super) fn instances(
    variables: &Variables,
    name: &TypeName,
    embedders: &[Embedder],
) -> Vec<Instance> {
    let holders: BTreeSet<&TypeName> =
        embedders.iter().map(|e| &e.name).chain(std::iter::once(name)).collect();
    let homes = |function: &String| {
        variables.homes.get(function).into_iter().flatten().cloned().collect::<Vec<_>>()
    };
    let mut found: Vec<Instance> = variables
        .known
        .iter()
        .flat_map(|(key, list)| list.iter().map(move |variable| (key, variable)))
        .filter(|(_, variable)| variable.holds.iter().any(|held| holders.contains(held)))
        .map(|((function, name), variable)| Instance {
            place: variable.place,
            name: name.clone(),
            function: (!function.is_empty()).then(|| function.clone()),
            homes: homes(function),
            type_name: variable.type_name.clone(),
        })
        .collect();
    found.sort();
    found
}

/// Static and per-CPU variables of both sides whose type is another.
pub(super) fn retyped(old: &Variables, new: &Variables) -> Vec<Retyped> {
    let lasting = |list: &BTreeSet<Variable>| -> Option<Variable> {
        let mut found = list.iter().filter(|v| matches!(v.place, Place::Static | Place::PerCpu));
        let first = found.next()?;
        // Scopes of one function may each have one of that name: which is which is not known here.
        found.next().is_none().then(|| first.clone())
    };
    old.known
        .iter()
        .filter_map(|(key, x)| Some((key, lasting(x)?, lasting(new.known.get(key)?)?)))
        .filter(|(_, x, y)| x.type_name != y.type_name)
        .map(|((function, name), x, y)| Retyped {
            name: name.clone(),
            function: (!function.is_empty()).then(|| function.clone()),
            place: x.place,
            old: x.type_name,
            new: y.type_name,
        })
        .collect()
}

/// What a unit has.
#[derive(Default)]
pub(super) struct Found {
    variables: Vec<(Key, Variable)>,
    /// A function, and one that its code is in.
    homes: Vec<(String, String)>,
    /// Address and alignment of variables, where the source asks for one.
    alignments: Vec<(u64, u64)>,
    /// Address and type of variables.
    types: Vec<(u64, String)>,
}

/// A function around an entry.
struct Around {
    depth: isize,
    name: String,
    /// Whether it is code, not the description of what is inlined.
    code: bool,
}

fn read(
    dwarf: &gimli::Dwarf<Reader<'_>>,
    unit: &gimli::Unit<Reader<'_>>,
    place: &dyn Fn(u64) -> Place,
) -> gimli::Result<Found> {
    let mut reader = Unit::new(dwarf, unit);
    let mut found = Found::default();
    let mut around: Vec<Around> = Vec::new();
    let mut depth = 0;
    let mut entries = unit.entries();
    while let Some((delta, entry)) = entries.next_dfs()? {
        depth += delta;
        while around.last().is_some_and(|of| of.depth >= depth) {
            around.pop();
        }
        match entry.tag() {
            gimli::DW_TAG_subprogram | gimli::DW_TAG_inlined_subroutine => {
                let name = described(&reader, entry, 0)?.0.unwrap_or_default();
                let code = has_code(entry)?;
                around.push(Around { depth, name: name.clone(), code });
                if let Some(home) = around.iter().find(|of| of.code) {
                    found.homes.push((name, home.name.clone()));
                }
            }
            gimli::DW_TAG_variable | gimli::DW_TAG_formal_parameter => {
                let function = around.last().map(|of| of.name.clone());
                note(&mut reader, entry, function, place, &mut found)?;
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The variables with an address at these places of a unit. Which functions some belong to is not said.
pub(super) fn at<'a>(
    dwarf: &gimli::Dwarf<Reader<'a>>,
    unit: &gimli::Unit<Reader<'a>>,
    offsets: Vec<UnitOffset>,
    place: &dyn Fn(u64) -> Place,
) -> gimli::Result<Found> {
    let mut reader = Unit::new(dwarf, unit);
    let mut found = Found::default();
    for offset in offsets {
        note(&mut reader, &unit.entry(offset)?, None, place, &mut found)?;
    }
    Ok(found)
}

/// Notes a variable; `function`: the one it belongs to.
fn note<'a>(
    reader: &mut Unit<'_, 'a>,
    entry: &Entry<'_, 'a>,
    function: Option<String>,
    place: &dyn Fn(u64) -> Place,
    found: &mut Found,
) -> gimli::Result<()> {
    let (Some(name), type_offset) = described(reader, entry, 0)? else { return Ok(()) };
    let local = function.is_some();
    let address = static_address(reader.unit, entry)?;
    if let (Some(address), Some(to)) = (address, reader.alignment(entry, 0)?) {
        found.alignments.push((address, to));
    }
    let at = match (address, local) {
        (Some(address), _) => place(address),
        (None, true) => Place::Stack,
        (None, false) => Place::Extern,
    };
    let mut holds = Vec::new();
    by_value(reader, type_offset, "", 0, &mut holds)?;
    let variable = Variable {
        place: at,
        type_name: reader.type_name(type_offset, 0)?,
        holds: holds.into_iter().map(|(name, _)| name).collect(),
    };
    found.types.extend(address.map(|address| (address, variable.type_name.clone())));
    found.variables.push(((function.unwrap_or_default(), name), variable));
    Ok(())
}

/// Whether an entry has an address.
fn has_code(entry: &Entry<'_, '_>) -> gimli::Result<bool> {
    for attribute in [gimli::DW_AT_low_pc, gimli::DW_AT_ranges, gimli::DW_AT_entry_pc] {
        if entry.attr(attribute)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Name and type of an entry; if it has none, those of the one it completes or is an instance of.
fn described<'a>(
    reader: &Unit<'_, 'a>,
    entry: &Entry<'_, 'a>,
    depth: usize,
) -> gimli::Result<(Option<String>, Option<UnitOffset>)> {
    let (name, of) = (reader.name(entry)?, reader.type_of(entry)?);
    if name.is_some() && of.is_some() {
        return Ok((name, of));
    }
    for attribute in [gimli::DW_AT_abstract_origin, gimli::DW_AT_specification] {
        if let Some(gimli::AttributeValue::UnitRef(origin)) = entry.attr_value(attribute)?
            && depth < super::read::MAX_DEPTH
        {
            let origin = reader.unit.entry(origin)?;
            let (origin_name, origin_type) = described(reader, &origin, depth + 1)?;
            return Ok((name.or(origin_name), of.or(origin_type)));
        }
    }
    Ok((name, of))
}

/// The fixed address of a variable, if it has one.
fn static_address(
    unit: &gimli::Unit<Reader<'_>>,
    entry: &Entry<'_, '_>,
) -> gimli::Result<Option<u64>> {
    match entry.attr_value(gimli::DW_AT_location)? {
        Some(location) => fixed_address(unit, location),
        None => Ok(None),
    }
}

/// The address that a location is, if it is one. With `DW_OP_stack_value` it is what a pointer is, which itself is nowhere (DWARF 5,
/// 2.6.1.1.4).
pub(crate) fn fixed_address(
    unit: &gimli::Unit<Reader<'_>>,
    location: gimli::AttributeValue<Reader<'_>>,
) -> gimli::Result<Option<u64>> {
    let gimli::AttributeValue::Exprloc(expression) = location else { return Ok(None) };
    let mut operations = expression.operations(unit.encoding());
    let Some(Operation::Address { address }) = operations.next()? else { return Ok(None) };
    while let Some(operation) = operations.next()? {
        if operation == Operation::StackValue {
            return Ok(None);
        }
    }
    Ok(Some(address))
}
