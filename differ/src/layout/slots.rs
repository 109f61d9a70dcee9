//! Which members of a variable's type are pointers to functions, as DWARF tells.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::index::Index;
use super::scan::id_of;
use super::{Definition, LayoutKind, Statics, TypeName, Types, embed};
use crate::error::{Error, Result};
use crate::lines::{Debug, address};
use crate::load::{Elf, SectionId};

/// The types of some of an object's variables.
#[derive(Debug)]
pub struct VariableTypes {
    /// Type of the variable at an address (see [`crate::lines::address`]), written as in C.
    variables: BTreeMap<u64, String>,
    /// These, and what they are made of.
    types: Types,
    nesting: embed::Nesting,
}

/// A member that is a pointer to a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotType {
    /// The innermost type with a name that has it.
    pub of: String,
    /// Its name there.
    pub member: String,
    /// From the variable.
    pub path: String,
    /// The types around it, the variable's first.
    pub around: Vec<String>,
    /// The files that define these.
    pub defined_in: Vec<String>,
}

/// Types in types in types.
const MAX_DEPTH: usize = 8;

impl VariableTypes {
    /// Reads those of the variables at some addresses. No more is read than these are made of: a module describes most types
    /// of the kernel, once for each of its sources.
    pub(crate) fn read(elf: &Elf<'_>, all: &Statics, wanted: &[u64]) -> Result<Self> {
        let of = |at: &u64| Some((*at, all.types.get(at)?.clone()));
        let variables: BTreeMap<u64, String> = wanted.iter().filter_map(of).collect();
        let (mut types, mut known) = (Types::new(), HashSet::new());
        let mut left: BTreeSet<TypeName> =
            variables.values().flat_map(|of| mentioned(of)).collect();
        if left.is_empty() {
            return Ok(Self { variables, types, nesting: embed::Nesting::default() });
        }
        let bad = |e: gimli::Error| Error::new(&elf.name, format_args!("DWARF: {e}"));
        let debug = Debug::load(elf)?;
        let dwarf = debug.dwarf();
        let index = Index::build(&elf.name, &dwarf, 0)?;
        while !left.is_empty() {
            let names: HashSet<u64> =
                left.iter().map(id_of).collect::<gimli::Result<_>>().map_err(bad)?;
            let more = index.read(|name| names.contains(&name) && !known.contains(&name))?;
            known.extend(names);
            let definitions = more.values().flatten();
            left = definitions.flat_map(|of| of.names().flat_map(mentioned)).collect();
            types.extend(more);
            left.retain(|name| !types.contains_key(name));
        }
        let nesting = index.nesting(&known)?;
        Ok(Self { variables, types, nesting })
    }

    /// The type of the variable at that place, without qualifiers.
    pub(crate) fn of(&self, (section, offset): (SectionId, u64)) -> Option<&str> {
        self.variables.get(&address(section, offset)).map(|name| plain(name))
    }

    /// The pointer to a function at that offset of a type.
    pub(crate) fn slot(&self, type_name: &str, offset: u64) -> Option<SlotType> {
        self.inside(type_name, offset, "", 0)
    }

    fn inside(&self, type_name: &str, offset: u64, prefix: &str, depth: usize) -> Option<SlotType> {
        let (name, definition) = self.definition(type_name)?;
        let bit = offset.checked_mul(8)?;
        let holds = |start: u64, size: u64| start <= bit && bit < start.saturating_add(size);
        // Of a union, whichever member is meant cannot be told.
        let mut at = definition.members.iter().filter(|m| holds(m.bit_offset, m.bit_size));
        let (member, None) = (at.next()?, at.next()) else { return None };
        let path = format!("{prefix}{}", member.name);
        let place = self.nesting.defined_in(&name).map(str::to_owned);
        let of = name.to_string();
        if member.bit_offset == bit
            && member.bit_size == 64
            && !member.bitfield
            && self.is_function_pointer(&member.type_name, 0)
        {
            return Some(SlotType {
                member: member.name.rsplit('.').next()?.to_owned(),
                around: vec![of.clone()],
                defined_in: place.into_iter().collect(),
                of,
                path,
            });
        }
        if depth >= MAX_DEPTH {
            return None;
        }
        let rest = (bit - member.bit_offset) / 8;
        let mut found =
            self.inside(plain(&member.type_name), rest, &format!("{path}."), depth + 1)?;
        found.around.insert(0, of);
        found.defined_in.extend(place);
        Some(found)
    }

    /// The one definition of a struct, under its own name or a typedef's.
    pub(super) fn definition(&self, type_name: &str) -> Option<(TypeName, &Definition)> {
        let (kind, name) = match type_name.split_once(' ') {
            Some(("struct", name)) => (LayoutKind::Struct, name),
            None => {
                let target = self.typedef(type_name)?;
                return target.starts_with("struct ").then(|| self.definition(target))?;
            }
            _ => return None,
        };
        let name = TypeName { kind, name: name.to_owned() };
        let only = self.only(&name)?;
        Some((name, only))
    }

    /// The definition of a type that has one only.
    pub(super) fn only(&self, name: &TypeName) -> Option<&Definition> {
        let mut all = self.types_of(name);
        let (only, None) = (all.next()?, all.next()) else { return None };
        Some(only)
    }

    /// All definitions of a type.
    pub(super) fn types_of(&self, name: &TypeName) -> impl Iterator<Item = &Definition> {
        self.types.get(name).into_iter().flatten()
    }

    pub(super) fn typedef(&self, name: &str) -> Option<&str> {
        let name = TypeName { kind: LayoutKind::Typedef, name: name.to_owned() };
        self.only(&name)?.target.as_deref().map(plain)
    }

    fn is_function_pointer(&self, type_name: &str, depth: usize) -> bool {
        let name = plain(type_name);
        // `int (*)(void)`; a typedef's own name has neither.
        if name.contains("(*)(") {
            return !name.ends_with(']');
        }
        // A typedef of a function: `fn_t *`.
        let name = name.strip_suffix(" *").unwrap_or(name);
        depth < MAX_DEPTH
            && self
                .typedef(name)
                .is_some_and(|to| to.contains("()(") || self.is_function_pointer(to, depth + 1))
    }
}

impl Definition {
    /// The types that it is made of, written as in C.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.type_name.as_str()).chain(self.target.as_deref())
    }
}

/// The types that a value of a type, written as in C, is made of, as far as it names them itself; and that which a pointer leads to if it may
/// be one of a function.
fn mentioned(type_name: &str) -> Option<TypeName> {
    let name = plain(type_name);
    let name = name.split_once('[').map_or(name, |(element, _)| plain(element.trim_end()));
    let (kind, name) = match name.split_once(' ') {
        Some(("struct", name)) => (LayoutKind::Struct, name),
        Some(("union", name)) => (LayoutKind::Union, name),
        Some(("enum", name)) => (LayoutKind::Enum, name),
        _ => (LayoutKind::Typedef, name.strip_suffix(" *").unwrap_or(name)),
    };
    (!name.ends_with('*')).then(|| TypeName { kind, name: name.to_owned() })
}

/// Without `const` and `volatile`.
pub(super) fn plain(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("const ").or(name.strip_prefix("volatile ")) {
        name = rest;
    }
    name
}
