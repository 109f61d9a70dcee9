//! Which members of a variable's type are pointers to functions, as DWARF tells.

use std::collections::BTreeMap;

use gimli::UnitOffset;

use super::read::Unit;
use super::{Definition, LayoutKind, TypeName, Types, embed, live};
use crate::error::Result;
use crate::lines::{Debug, address};
use crate::load::{Elf, SectionId};

/// The types of an object's variables.
#[derive(Debug)]
pub struct VariableTypes {
    /// Type of the variable at an address (see [`crate::lines::address`]), written as in C.
    variables: BTreeMap<u64, String>,
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
    /// Reads them.
    pub fn read(elf: &Elf<'_>) -> Result<Self> {
        let debug = Debug::load(elf)?;
        let mut variables = BTreeMap::new();
        let found = super::each_unit(elf, &debug, &|dwarf, unit| {
            let mut reader = Unit::new(dwarf, unit);
            let mut found: Vec<(u64, String)> = Vec::new();
            let mut entries = unit.entries();
            while let Some((_, entry)) = entries.next_dfs()? {
                if entry.tag() != gimli::DW_TAG_variable {
                    continue;
                }
                if let Some(at) = live::static_address(unit, entry)? {
                    let of: Option<UnitOffset> = live::described(&reader, entry, 0)?.1;
                    found.push((at, reader.type_name(of, 0)?));
                }
            }
            Ok(found)
        })?;
        variables.extend(found.into_iter().flatten());
        Ok(Self { variables, types: super::types(elf)?, nesting: embed::nesting(elf)? })
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

/// Without `const` and `volatile`.
pub(super) fn plain(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("const ").or(name.strip_prefix("volatile ")) {
        name = rest;
    }
    name
}
