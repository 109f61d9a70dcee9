//! A first, fast look at the types of one DWARF unit.
//!
//! A kernel image repeats the same few thousand types in each of its thousands of units. To
//! build each of them only to find that it is known takes most of the time, so this reader gives
//! every definition as a hash of its content, straight from the bytes. Equal hashes mean equal
//! definitions; the few definitions whose hashes differ are then read properly.

use gimli::constants as dw;
use gimli::{Error, Result};

use super::abbreviations::{Abbreviation, Cursor, Role, Spec, Strings, hash_of};
use super::{LayoutKind, TypeName, unnamed};

/// No such node, child or type.
const NONE: u32 = u32::MAX;

/// As in the exact reader: what nests deeper than this is cyclic.
const MAX_DEPTH: usize = 64;

/// As in the exact reader: what takes longer is made to take long. The parts of a unit's types, seen from outside.
const MAX_PARTS: u32 = 1 << 24;

/// A definition of the unit that has a name, or an enum.
pub(super) struct Found {
    /// What it is.
    pub kind: LayoutKind,
    /// Hash of its name.
    pub name: u64,
    /// Hash of everything it says.
    pub content: u64,
    /// Where in the unit.
    pub offset: u32,
}

impl Found {
    /// Hash of kind and name.
    pub(super) fn id(&self) -> u64 {
        mix(self.kind as u64, self.name)
    }

    /// Hash of all of it.
    pub(super) fn key(&self) -> u64 {
        mix(self.id(), self.content)
    }
}

/// The hash ([`Found::id`]) of a type that is called so; an enum without a name by its first enumerator.
pub(super) fn id_of(of: &TypeName) -> Result<u64> {
    let name = match unnamed::first_of(of) {
        Some(first) => mix(FIRST, hash_of(first)?),
        None => hash_of(&of.name)?,
    };
    Ok(mix(of.kind as u64, name))
}

/// Who wants to know of definitions.
pub(super) trait Sink {
    /// A definition; whether what it holds is wanted too.
    fn note(&mut self, found: &Found) -> bool;
    /// The types ([`Found::id`]) that a value of it is made of.
    fn holds(&mut self, found: &Found, held: Vec<u64>);
    /// A variable with an address, where it is in the unit and what types its value is made of.
    fn variable(&mut self, offset: u32, held: Vec<u64>);
}

/// A DIE that can be the type of something.
struct Node {
    offset: u32,
    role: Role,
    declaration: bool,
    /// Hash of the name; 0 without one.
    name: u64,
    /// `DW_AT_byte_size`.
    size: Option<u64>,
    /// `DW_AT_alignment`.
    alignment: Option<u64>,
    target: u32,
    first: u32,
    last: u32,
}

/// A member, enumerator, array dimension or parameter.
struct Child {
    /// Hash of its name.
    name: u64,
    /// Hash of all it says but its type.
    content: u64,
    target: u32,
    next: u32,
}

/// Hash of a type as a name in C, and of its size.
type Hashes = (u64, u64);

/// Memory that is used for one unit after the other.
#[derive(Default)]
pub(super) struct Scanner {
    nodes: Vec<Node>,
    children: Vec<Child>,
    /// Index in `nodes` by offset in the unit, plus one; 0 where no type is.
    at: Vec<u32>,
    hashes: Vec<Option<Hashes>>,
    parents: Vec<u32>,
    /// Variables with an address.
    variables: Vec<Variable>,
    /// How many parts of types may still be looked at.
    left: u32,
    /// A number that no other unit has, of this side or the other.
    unit: u64,
}

/// A variable with an address: where it is described, and what says its type.
struct Variable {
    offset: u32,
    of: Described,
}

/// A variable's type, or the entry that it completes or is an instance of.
#[derive(Clone, Copy)]
struct Described {
    target: Option<u32>,
    origin: Option<u32>,
}

/// What a DIE says, as far as types are concerned.
#[derive(Default)]
struct Facts {
    name: u64,
    target: Option<u32>,
    byte_size: Option<u64>,
    alignment: Option<u64>,
    bit_size: Option<u64>,
    bit_offset: Option<u64>,
    data_bit_offset: Option<u64>,
    location: Option<u64>,
    count: Option<u64>,
    upper_bound: Option<u64>,
    value: Option<(u64, bool)>,
    declaration: bool,
    origin: Option<u32>,
    /// The location is an address.
    address: bool,
}

impl Scanner {
    /// All named definitions of a unit. `entries` are its bytes, the header included.
    pub(super) fn scan(
        &mut self,
        cursor: Cursor<'_>,
        table: &[Option<Abbreviation>],
        strings: &Strings<'_>,
        sink: &mut impl Sink,
    ) -> Result<()> {
        self.at.resize(self.at.len().max(cursor.data.len()), 0);
        self.left = MAX_PARTS;
        self.unit = mix(strings.side, strings.unit);
        let result = self.collect(cursor, table, strings).and_then(|()| {
            self.hashes.resize(self.nodes.len(), None);
            for index in 0..self.nodes.len() {
                let Some(definition) = self.definition(index)? else { continue };
                if sink.note(&definition) {
                    let mut held = Vec::new();
                    self.parts(index, 0, &mut held)?;
                    sink.holds(&definition, held);
                }
            }
            for variable in std::mem::take(&mut self.variables) {
                let mut held = Vec::new();
                if let Some(target) = type_of(variable.of, cursor, table, strings)? {
                    self.by_value(target, 0, &mut held)?;
                }
                if !held.is_empty() {
                    sink.variable(variable.offset, held);
                }
            }
            Ok(())
        });
        for node in &self.nodes {
            if let Some(slot) = self.at.get_mut(node.offset as usize) {
                *slot = 0;
            }
        }
        self.nodes.clear();
        self.children.clear();
        self.hashes.clear();
        self.parents.clear();
        self.variables.clear();
        result
    }

    fn collect(
        &mut self,
        mut cursor: Cursor<'_>,
        table: &[Option<Abbreviation>],
        strings: &Strings<'_>,
    ) -> Result<()> {
        while !cursor.is_empty() {
            let offset = cursor.at as u32;
            let code = cursor.uleb()?;
            if code == 0 {
                self.parents.pop();
                if self.parents.is_empty() {
                    break;
                }
                continue;
            }
            let abbreviation = usize::try_from(code)
                .ok()
                .and_then(|code| table.get(code)?.as_ref())
                .ok_or(Error::UnknownAbbreviation(code))?;
            let mut node = NONE;
            match abbreviation.role {
                Role::Variable if abbreviation.located => {
                    let facts = facts(&abbreviation.specs, &mut cursor, strings)?;
                    if facts.address {
                        self.variables.push(Variable { offset, of: facts.described() });
                    }
                }
                Role::Other | Role::Variable => abbreviation.skip(&mut cursor)?,
                role @ (Role::Member
                | Role::Enumerator
                | Role::Subrange
                | Role::Parameter
                | Role::Variadic) => {
                    let parent = self.parents.last().copied().unwrap_or(NONE);
                    let wanted =
                        self.nodes.get(parent as usize).is_some_and(|p| belongs(role, p.role));
                    if wanted {
                        let facts = facts(&abbreviation.specs, &mut cursor, strings)?;
                        self.add_child(parent, role, &facts);
                    } else {
                        abbreviation.skip(&mut cursor)?;
                    }
                }
                role => {
                    let facts = facts(&abbreviation.specs, &mut cursor, strings)?;
                    node = self.nodes.len() as u32;
                    if let Some(slot) = self.at.get_mut(offset as usize) {
                        *slot = node + 1;
                    }
                    self.nodes.push(Node {
                        offset,
                        role,
                        declaration: facts.declaration,
                        name: facts.name,
                        size: facts.byte_size,
                        alignment: facts.alignment,
                        target: facts.target.unwrap_or(NONE),
                        first: NONE,
                        last: NONE,
                    });
                }
            }
            if abbreviation.children {
                self.parents.push(node);
            } else if self.parents.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn add_child(&mut self, parent: u32, role: Role, facts: &Facts) {
        let content = match role {
            Role::Member => {
                let place = match facts.data_bit_offset {
                    Some(bits) => bits,
                    None => facts.location.unwrap_or(0).wrapping_mul(8),
                };
                // What is there twice may be said in a form that does not count.
                let bits = [
                    facts.bit_size,
                    facts.bit_offset,
                    facts.bit_offset.and(facts.byte_size),
                    facts.data_bit_offset.and(facts.location),
                ];
                bits.iter().fold(mix(facts.name, place), |h, bits| option(h, *bits))
            }
            Role::Enumerator => {
                let (value, signed) = facts.value.unwrap_or((0, false));
                mix(mix(facts.name, value), u64::from(signed && value >> 63 != 0))
            }
            Role::Subrange => {
                let count = facts.count.or(facts.upper_bound.map(|u| u.wrapping_add(1)));
                option(option(1, count), facts.count.and(facts.upper_bound))
            }
            _ => role as u64,
        };
        let index = self.children.len() as u32;
        let target = if role == Role::Subrange { None } else { facts.target };
        let target = target.unwrap_or(NONE);
        self.children.push(Child { name: facts.name, content, target, next: NONE });
        let Some(node) = self.nodes.get_mut(parent as usize) else { return };
        match self.children.get_mut(node.last as usize) {
            Some(last) => last.next = index,
            None => node.first = index,
        }
        node.last = index;
    }

    fn definition(&mut self, index: usize) -> Result<Option<Found>> {
        let Some(node) = self.nodes.get(index) else { return Ok(None) };
        let Some(kind) = kind(node.role) else { return Ok(None) };
        // An enum without a name goes by its first enumerator.
        let first = self.children.get(node.first as usize).map(|child| mix(FIRST, child.name));
        let name = match (node.name, first) {
            (0, Some(first)) if kind == LayoutKind::Enum => first,
            (name, _) => name,
        };
        if node.declaration || name == 0 {
            return Ok(None);
        }
        let (offset, target) = (node.offset, node.target);
        let mut content = option(option(kind as u64, node.size), node.alignment);
        if kind == LayoutKind::Typedef || kind == LayoutKind::Enum {
            let (text, size) = self.of_type(target, 0)?;
            content = mix(mix(content, text), size);
        }
        let content = self.body(index, content, 0)?;
        Ok(Some(Found { kind, name, content, offset }))
    }

    /// Adds all children of a node to a hash.
    fn body(&mut self, index: usize, mut hash: u64, depth: usize) -> Result<u64> {
        let mut next = self.nodes.get(index).map_or(NONE, |n| n.first);
        while let Some(child) = self.children.get(next as usize) {
            let (content, target) = (child.content, child.target);
            next = child.next;
            hash = mix(hash, content);
            if target != NONE {
                let (text, size) = self.of_type(target, depth + 1)?;
                hash = mix(mix(hash, text), size);
            }
        }
        Ok(hash)
    }

    /// What a definition holds by value (as `embed::by_value` has it).
    fn parts(&mut self, index: usize, depth: usize, held: &mut Vec<u64>) -> Result<()> {
        let Some(node) = self.nodes.get(index) else { return Ok(()) };
        match node.role {
            Role::Typedef => self.by_value(node.target, depth + 1, held),
            Role::Struct | Role::Union => {
                let mut next = node.first;
                while let Some(child) = self.children.get(next as usize) {
                    let target = child.target;
                    next = child.next;
                    self.by_value(target, depth + 1, held)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn by_value(&mut self, target: u32, depth: usize, held: &mut Vec<u64>) -> Result<()> {
        self.left = self.left.checked_sub(1).ok_or(Error::UnsupportedOffset)?;
        if depth > MAX_DEPTH {
            return Err(Error::UnsupportedOffset);
        }
        let found = self.at.get(target as usize).copied().unwrap_or(0);
        let Some(index) = found.checked_sub(1).map(|i| i as usize) else { return Ok(()) };
        let Some(node) = self.nodes.get(index) else { return Ok(()) };
        if let Some(kind) = kind(node.role)
            && node.name != 0
            && !node.declaration
        {
            held.push(mix(kind as u64, node.name));
            return Ok(());
        }
        match node.role {
            Role::Struct | Role::Union => self.parts(index, depth, held),
            // `restrict` and `_Atomic` are no names of their own.
            Role::Array | Role::Const | Role::Volatile | Role::Base => {
                self.by_value(node.target, depth + 1, held)
            }
            _ => Ok(()),
        }
    }

    /// The hashes of the type at an offset of the unit.
    fn of_type(&mut self, target: u32, depth: usize) -> Result<Hashes> {
        if target == NONE {
            return Ok((VOID, 0));
        }
        if depth > MAX_DEPTH {
            return Err(Error::UnsupportedOffset);
        }
        let found = self.at.get(target as usize).copied().unwrap_or(0);
        let Some(index) = found.checked_sub(1).map(|i| i as usize) else {
            // Something that is no type in C. No two of them are taken for equal, and the exact reader decides.
            return Ok((mix(mix(VOID, self.unit), u64::from(target)), 0));
        };
        if let Some(Some(hashes)) = self.hashes.get(index) {
            return Ok(*hashes);
        }
        let Some(node) = self.nodes.get(index) else { return Ok((VOID, 0)) };
        let (role, name, size, inner) = (node.role, node.name, node.size, node.target);
        let own = mix(role as u64, name);
        let alignment = node.alignment;
        let tag = matches!(role, Role::Struct | Role::Union | Role::Enum);
        let (text, size) = if tag {
            let text = match name {
                0 => self.body(index, option(own, alignment), depth)?,
                _ => own,
            };
            let size = match size {
                None if inner != NONE => self.of_type(inner, depth + 1)?.1,
                size => option(0, Some(size.unwrap_or(0))),
            };
            (text, size)
        } else {
            let target = match role {
                // A name says all, but the size is the target's.
                Role::Typedef | Role::Base if name != 0 && size.is_some() => (own, 0),
                _ => self.of_type(inner, depth + 1)?,
            };
            let text = match role {
                Role::Typedef | Role::Base if name != 0 => own,
                Role::Typedef | Role::Base => target.0,
                Role::Array | Role::Subroutine => self.body(index, mix(own, target.0), depth)?,
                _ => mix(own, target.0),
            };
            let size = match (role, size) {
                (_, Some(size)) => option(0, Some(size)),
                (Role::Pointer, None) => option(0, Some(8)),
                (Role::Subroutine, None) => 0,
                (Role::Array, None) => self.body(index, target.1, depth)?,
                (_, None) => target.1,
            };
            (text, size)
        };
        if let Some(slot) = self.hashes.get_mut(index) {
            *slot = Some((text, size));
        }
        Ok((text, size))
    }
}

/// The type of a variable, which another entry may say.
fn type_of(
    mut of: Described,
    cursor: Cursor<'_>,
    table: &[Option<Abbreviation>],
    strings: &Strings<'_>,
) -> Result<Option<u32>> {
    for _ in 0..MAX_DEPTH {
        let (None, Some(origin)) = (of.target, of.origin) else { return Ok(of.target) };
        let mut cursor = Cursor { at: origin as usize, ..cursor };
        let code = cursor.uleb()?;
        let shape = usize::try_from(code).ok().and_then(|code| table.get(code)?.as_ref());
        let shape = shape.ok_or(Error::UnknownAbbreviation(code))?;
        of = facts(&shape.specs, &mut cursor, strings)?.described();
    }
    Err(Error::UnsupportedOffset)
}

fn kind(role: Role) -> Option<LayoutKind> {
    match role {
        Role::Struct => Some(LayoutKind::Struct),
        Role::Union => Some(LayoutKind::Union),
        Role::Enum => Some(LayoutKind::Enum),
        Role::Typedef => Some(LayoutKind::Typedef),
        _ => None,
    }
}

fn belongs(child: Role, parent: Role) -> bool {
    match child {
        Role::Member => matches!(parent, Role::Struct | Role::Union),
        Role::Enumerator => parent == Role::Enum,
        Role::Subrange => parent == Role::Array,
        _ => parent == Role::Subroutine,
    }
}

impl Facts {
    fn described(&self) -> Described {
        Described { target: self.target, origin: self.origin }
    }
}

fn facts(specs: &[Spec], cursor: &mut Cursor<'_>, strings: &Strings<'_>) -> Result<Facts> {
    let mut facts = Facts::default();
    for spec in specs {
        match spec.at {
            dw::DW_AT_name => facts.name = strings.hash(spec, cursor)?,
            dw::DW_AT_type => facts.target = Some(cursor.reference(spec, strings)?),
            dw::DW_AT_byte_size => facts.byte_size = cursor.number(spec)?.map(|n| n.0),
            dw::DW_AT_alignment => facts.alignment = cursor.number(spec)?.map(|n| n.0),
            dw::DW_AT_bit_size => facts.bit_size = cursor.number(spec)?.map(|n| n.0),
            dw::DW_AT_bit_offset => facts.bit_offset = cursor.number(spec)?.map(|n| n.0),
            dw::DW_AT_data_bit_offset => facts.data_bit_offset = cursor.number(spec)?.map(|n| n.0),
            dw::DW_AT_data_member_location => facts.location = cursor.number(spec)?.map(|n| n.0),
            dw::DW_AT_count => facts.count = cursor.number(spec)?.map(|n| n.0),
            dw::DW_AT_upper_bound => facts.upper_bound = cursor.number(spec)?.map(|n| n.0),
            dw::DW_AT_const_value => facts.value = cursor.number(spec)?,
            dw::DW_AT_declaration => {
                facts.declaration = true;
                cursor.skip(spec.form)?;
            }
            dw::DW_AT_specification | dw::DW_AT_abstract_origin => {
                let at = cursor.at;
                facts.origin = cursor.reference(spec, strings).ok();
                if facts.origin.is_none() {
                    cursor.at = at; // It is in another unit.
                    cursor.skip(spec.form)?;
                }
            }
            dw::DW_AT_location if spec.form == dw::DW_FORM_exprloc => {
                facts.address = cursor.expression()?.first().is_some_and(|operation| {
                    [dw::DW_OP_addr.0, dw::DW_OP_addrx.0].contains(operation)
                });
            }
            _ => cursor.skip(spec.form)?,
        }
    }
    Ok(facts)
}

const VOID: u64 = 0x9e37_79b9_7f4a_7c15;

/// Tells a first enumerator from a name of its own.
const FIRST: u64 = 0xd6e8_feb8_6659_fd93;

/// Adds a number to a hash: the halves of a 128-bit product, folded, with another odd factor for each side.
pub(super) fn mix(hash: u64, value: u64) -> u64 {
    let x = hash.rotate_left(23) ^ 0xa076_1d64_78bd_642f;
    let y = value ^ 0xe703_7ed1_a0b4_28db;
    let product = u128::from(x) * u128::from(y);
    (product as u64) ^ ((product >> 64) as u64) ^ hash.wrapping_mul(0x8ebc_6af0_9c88_c6e3) ^ value
}

fn option(hash: u64, value: Option<u64>) -> u64 {
    match value {
        Some(value) => mix(mix(hash, 1), value),
        None => mix(hash, 2),
    }
}
