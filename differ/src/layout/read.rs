//! Reading the types of one DWARF unit.

use std::cell::Cell;
use std::collections::HashMap;

use gimli::{AttributeValue, DebuggingInformationEntry, Result, UnitOffset};

use super::{Definition, Enumerator, LayoutKind, Member, TypeName, unnamed};
use crate::lines::{Reader, text};

pub(super) type Entry<'u, 'a> = DebuggingInformationEntry<'u, 'u, Reader<'a>>;

/// Types nest no deeper than this in any sane program; DWARF that claims so is cyclic.
pub(super) const MAX_DEPTH: usize = 64;

/// What reading the types of one unit may cost, in characters of text. Types that refer to each
/// other can double it at each step; the largest units of a kernel need a hundredth of this.
const MAX_COST: u64 = 1 << 27;

/// What a member costs besides its text.
const MEMBER_COST: u64 = 64;

/// A unit, and the names of its types as far as they were asked for.
pub(super) struct Unit<'u, 'a> {
    pub(super) dwarf: &'u gimli::Dwarf<Reader<'a>>,
    pub(super) unit: &'u gimli::Unit<Reader<'a>>,
    names: HashMap<UnitOffset, String>,
    left: Cell<u64>,
}

/// All named struct, union, enum and typedef definitions of a unit.
pub(super) fn unit<'a>(
    dwarf: &gimli::Dwarf<Reader<'a>>,
    unit: &gimli::Unit<Reader<'a>>,
) -> Result<Vec<(TypeName, Definition)>> {
    let mut reader = Unit::new(dwarf, unit);
    let mut found = Vec::new();
    let mut entries = unit.entries();
    let mut depth = 0;
    while let Some((delta, entry)) = entries.next_dfs()? {
        // A unit is one tree; what comes after it is none of its entries.
        depth += delta;
        if depth <= 0 && entry.offset() != UnitOffset(unit.header.size_of_header()) {
            break;
        }
        found.extend(reader.named(entry)?);
    }
    Ok(found)
}

/// Goes through the children of an entry. The next one comes after all that is in the one before, whatever its
/// `DW_AT_sibling` says.
pub(super) fn children<'u, 'a>(
    unit: &'u gimli::Unit<Reader<'a>>,
    of: UnitOffset,
    mut each: impl FnMut(&Entry<'u, 'a>) -> Result<()>,
) -> Result<()> {
    let mut entries = unit.entries_at_offset(of)?;
    entries.next_dfs()?;
    let mut depth = 0;
    while let Some((delta, entry)) = entries.next_dfs()? {
        depth += delta;
        match depth {
            ..=0 => break,
            1 => each(entry)?,
            _ => {}
        }
    }
    Ok(())
}

/// The definitions at these offsets of a unit.
pub(super) fn at<'a>(
    dwarf: &gimli::Dwarf<Reader<'a>>,
    unit: &gimli::Unit<Reader<'a>>,
    offsets: Vec<UnitOffset>,
) -> Result<Vec<(TypeName, Definition)>> {
    let mut reader = Unit::new(dwarf, unit);
    let mut found = Vec::new();
    for offset in offsets {
        found.extend(reader.named(&unit.entry(offset)?)?);
    }
    Ok(found)
}

impl<'u, 'a> Unit<'u, 'a> {
    pub(super) fn new(
        dwarf: &'u gimli::Dwarf<Reader<'a>>,
        unit: &'u gimli::Unit<Reader<'a>>,
    ) -> Self {
        Self { dwarf, unit, names: HashMap::new(), left: Cell::new(MAX_COST) }
    }

    /// The definition that an entry is, if it is a named one, or an enum.
    fn named(&mut self, entry: &Entry<'_, 'a>) -> Result<Option<(TypeName, Definition)>> {
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
        let name = match self.name(entry)? {
            None if kind == LayoutKind::Enum => {
                self.enumerators(entry.offset())?.first().map(|e| unnamed::name(&e.name))
            }
            name => name,
        };
        let Some(name) = name else { return Ok(None) };
        let definition = self.definition(entry, kind)?;
        Ok(Some((TypeName { kind, name }, definition)))
    }

    pub(super) fn name(&self, entry: &Entry<'_, 'a>) -> Result<Option<String>> {
        match entry.attr_value(gimli::DW_AT_name)? {
            Some(value) => Ok(Some(text(self.dwarf.attr_string(self.unit, value)?))),
            None => Ok(None),
        }
    }

    fn unsigned(&self, entry: &Entry<'_, 'a>, at: gimli::DwAt) -> Result<Option<u64>> {
        Ok(entry.attr_value(at)?.and_then(|v| v.udata_value()))
    }

    /// The type an entry refers to; `None` is `void`. A type in another unit (link-time optimisation, type units)
    /// is not followed, and must not be taken for `void` either.
    pub(super) fn type_of(&self, entry: &Entry<'_, 'a>) -> Result<Option<UnitOffset>> {
        let Some(attribute) = entry.attr(gimli::DW_AT_type)? else { return Ok(None) };
        let within = match attribute.value() {
            AttributeValue::UnitRef(offset) => Some(offset),
            AttributeValue::DebugInfoRef(offset) => offset.to_unit_offset(&self.unit.header),
            _ => None,
        };
        within.map(Some).ok_or(gimli::Error::UnsupportedAttributeForm)
    }

    fn definition(&mut self, entry: &Entry<'_, 'a>, kind: LayoutKind) -> Result<Definition> {
        let mut definition = Definition {
            size: self.unsigned(entry, gimli::DW_AT_byte_size)?.unwrap_or(0),
            alignment: self.unsigned(entry, gimli::DW_AT_alignment)?,
            members: Vec::new(),
            enumerators: Vec::new(),
            target: None,
        };
        match kind {
            LayoutKind::Struct | LayoutKind::Union => {
                self.members(entry.offset(), "", 0, 0, &mut definition.members)?;
            }
            LayoutKind::Enum => {
                definition.enumerators = self.enumerators(entry.offset())?;
                let target = self.type_of(entry)?;
                definition.target = Some(self.type_name(target, 0)?);
            }
            LayoutKind::Typedef => {
                let target = self.type_of(entry)?;
                definition.target = Some(self.type_name(target, 0)?);
                definition.size = self.size(target, 0)?;
                if let Some(body) = self.unnamed_body(target)? {
                    self.members(body, "", 0, 0, &mut definition.members)?;
                    if definition.alignment.is_none() {
                        let body = self.unit.entry(body)?;
                        definition.alignment = self.unsigned(&body, gimli::DW_AT_alignment)?;
                    }
                }
            }
        }
        Ok(definition)
    }

    fn enumerators(&self, offset: UnitOffset) -> Result<Vec<Enumerator>> {
        let mut found = Vec::new();
        children(self.unit, offset, |entry| {
            if entry.tag() != gimli::DW_TAG_enumerator {
                return Ok(());
            }
            let value = match entry.attr_value(gimli::DW_AT_const_value)? {
                Some(AttributeValue::Sdata(v)) => i128::from(v),
                Some(v) => v.udata_value().map_or(0, i128::from),
                None => 0,
            };
            found.push(Enumerator { name: self.name(entry)?.unwrap_or_default(), value });
            Ok(())
        })?;
        Ok(found)
    }

    /// Takes from what this unit may cost.
    pub(super) fn spend(&self, cost: u64) -> Result<()> {
        let left = self.left.get().checked_sub(cost).ok_or(gimli::Error::UnsupportedOffset)?;
        self.left.set(left);
        Ok(())
    }

    /// Appends the members of a struct or union, flattened as C sees them.
    fn members(
        &mut self,
        offset: UnitOffset,
        prefix: &str,
        base_bits: u64,
        depth: usize,
        found: &mut Vec<Member>,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(gimli::Error::UnsupportedOffset);
        }
        children(self.unit, offset, |entry| {
            if entry.tag() != gimli::DW_TAG_member {
                return Ok(());
            }
            let own = self.name(entry)?;
            let type_offset = self.type_of(entry)?;
            let start = base_bits.wrapping_add(self.member_offset(entry)?);
            self.spend(MEMBER_COST + prefix.len() as u64)?;
            let name = match &own {
                Some(own) => format!("{prefix}{own}"),
                None => prefix.trim_end_matches('.').to_owned(),
            };
            if let Some(body) = self.unnamed_body(type_offset)? {
                let inner = if own.is_some() { format!("{name}.") } else { prefix.to_owned() };
                self.members(body, &inner, start, depth + 1, found)?;
                if own.is_none() {
                    return Ok(());
                }
            }
            let bits = self.unsigned(entry, gimli::DW_AT_bit_size)?;
            let size = self.size(type_offset, 0)?.wrapping_mul(8);
            let type_name = self.type_name(type_offset, depth + 1)?;
            found.push(Member {
                name,
                bit_offset: start,
                bit_size: bits.unwrap_or(size),
                bitfield: bits.is_some(),
                type_name,
            });
            Ok(())
        })
    }

    fn member_offset(&self, entry: &Entry<'_, 'a>) -> Result<u64> {
        if let Some(bits) = self.unsigned(entry, gimli::DW_AT_data_bit_offset)? {
            return Ok(bits);
        }
        let bytes = self.unsigned(entry, gimli::DW_AT_data_member_location)?.unwrap_or(0);
        let mut bits = bytes.wrapping_mul(8);
        // DWARF 2 and 3 count a bitfield's offset from the storage unit's most significant bit.
        if let (Some(offset), Some(size)) = (
            self.unsigned(entry, gimli::DW_AT_bit_offset)?,
            self.unsigned(entry, gimli::DW_AT_bit_size)?,
        ) {
            let storage = match self.unsigned(entry, gimli::DW_AT_byte_size)? {
                Some(size) => size,
                None => self.size(self.type_of(entry)?, 0)?,
            };
            bits =
                bits.wrapping_add(storage.wrapping_mul(8).wrapping_sub(offset).wrapping_sub(size));
        }
        Ok(bits)
    }

    /// The struct or union without a tag that a type is, if it is one.
    pub(super) fn unnamed_body(&self, offset: Option<UnitOffset>) -> Result<Option<UnitOffset>> {
        let Some(offset) = offset else { return Ok(None) };
        let entry = self.unit.entry(offset)?;
        let body = matches!(entry.tag(), gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type)
            && entry.attr(gimli::DW_AT_name)?.is_none();
        Ok(body.then_some(offset))
    }

    fn size(&self, offset: Option<UnitOffset>, depth: usize) -> Result<u64> {
        let Some(offset) = offset else { return Ok(0) };
        if depth > MAX_DEPTH {
            return Err(gimli::Error::UnsupportedOffset);
        }
        let entry = self.unit.entry(offset)?;
        if let Some(size) = self.unsigned(&entry, gimli::DW_AT_byte_size)? {
            return Ok(size);
        }
        let inner = self.type_of(&entry)?;
        match entry.tag() {
            gimli::DW_TAG_pointer_type => Ok(8),
            gimli::DW_TAG_array_type => {
                let mut size = self.size(inner, depth + 1)?;
                for count in self.dimensions(offset)? {
                    size = size.wrapping_mul(count.unwrap_or(0));
                }
                Ok(size)
            }
            gimli::DW_TAG_subroutine_type => Ok(0),
            _ => self.size(inner, depth + 1),
        }
    }

    /// The alignment that the source asks for: of a variable, or else of its type.
    pub(super) fn alignment(&self, entry: &Entry<'_, 'a>, depth: usize) -> Result<Option<u64>> {
        if let Some(own) = self.unsigned(entry, gimli::DW_AT_alignment)? {
            return Ok(Some(own));
        }
        if depth > MAX_DEPTH {
            return Err(gimli::Error::UnsupportedOffset);
        }
        for attribute in [gimli::DW_AT_abstract_origin, gimli::DW_AT_specification] {
            if let Some(AttributeValue::UnitRef(origin)) = entry.attr_value(attribute)? {
                return self.alignment(&self.unit.entry(origin)?, depth + 1);
            }
        }
        match entry.tag() {
            // What it points at is aligned for itself.
            gimli::DW_TAG_pointer_type
            | gimli::DW_TAG_subroutine_type
            | gimli::DW_TAG_enumeration_type => Ok(None),
            _ => match self.type_of(entry)? {
                Some(inner) => self.alignment(&self.unit.entry(inner)?, depth + 1),
                None => Ok(None),
            },
        }
    }

    /// The lengths of an array; `None` where it is open.
    fn dimensions(&self, offset: UnitOffset) -> Result<Vec<Option<u64>>> {
        let mut found = Vec::new();
        children(self.unit, offset, |entry| {
            self.spend(MEMBER_COST)?;
            if entry.tag() == gimli::DW_TAG_subrange_type {
                let count = self.unsigned(entry, gimli::DW_AT_count)?;
                let upper = self.unsigned(entry, gimli::DW_AT_upper_bound)?;
                found.push(count.or(upper.map(|u| u.wrapping_add(1))));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// A type, written as in C (declarator last, so that it reads in one piece).
    pub(super) fn type_name(&mut self, offset: Option<UnitOffset>, depth: usize) -> Result<String> {
        let Some(offset) = offset else { return Ok("void".to_owned()) };
        if let Some(name) = self.names.get(&offset) {
            self.spend(name.len() as u64)?;
            return Ok(name.clone());
        }
        if depth > MAX_DEPTH {
            return Err(gimli::Error::UnsupportedOffset);
        }
        let unit = self.unit;
        let entry = unit.entry(offset)?;
        let own = self.name(&entry)?;
        let inner = self.type_of(&entry)?;
        let name = match entry.tag() {
            gimli::DW_TAG_structure_type => self.tagged("struct", own, offset, depth)?,
            gimli::DW_TAG_union_type => self.tagged("union", own, offset, depth)?,
            gimli::DW_TAG_enumeration_type => match own {
                Some(own) => format!("enum {own}"),
                None => {
                    let list = self.enumerators(offset)?;
                    let list: Vec<String> =
                        list.iter().map(|e| format!("{} = {}", e.name, e.value)).collect();
                    format!("enum {{ {} }}", list.join(", "))
                }
            },
            gimli::DW_TAG_pointer_type => {
                let to = self.type_name(inner, depth + 1)?;
                match to.find("()(") {
                    // The pointer belongs between the return type and the parameters.
                    Some(at) if to.get(..at).is_some() => {
                        let (head, tail) = to.split_at(at);
                        format!("{head}(*){}", tail.get(2..).unwrap_or(""))
                    }
                    _ => format!("{to} *"),
                }
            }
            gimli::DW_TAG_const_type => format!("const {}", self.type_name(inner, depth + 1)?),
            gimli::DW_TAG_volatile_type => {
                format!("volatile {}", self.type_name(inner, depth + 1)?)
            }
            gimli::DW_TAG_array_type => {
                let mut name = self.type_name(inner, depth + 1)?;
                for count in self.dimensions(offset)? {
                    match count {
                        Some(count) => name.push_str(&format!("[{count}]")),
                        None => name.push_str("[]"),
                    }
                }
                name
            }
            gimli::DW_TAG_subroutine_type => self.signature(offset, inner, depth)?,
            _ => match own {
                Some(own) => own,
                None => self.type_name(inner, depth + 1)?,
            },
        };
        self.spend(name.len() as u64)?;
        self.names.insert(offset, name.clone());
        Ok(name)
    }

    fn tagged(
        &mut self,
        keyword: &str,
        name: Option<String>,
        offset: UnitOffset,
        depth: usize,
    ) -> Result<String> {
        if let Some(name) = name {
            return Ok(format!("{keyword} {name}"));
        }
        let mut members = Vec::new();
        self.members(offset, "", 0, depth + 1, &mut members)?;
        let list: Vec<String> = members
            .iter()
            .map(|m| format!("{} {} @{}:{}", m.type_name, m.name, m.bit_offset, m.bit_size))
            .collect();
        Ok(format!("{keyword} {{ {} }}", list.join("; ")))
    }

    fn signature(
        &mut self,
        offset: UnitOffset,
        returns: Option<UnitOffset>,
        depth: usize,
    ) -> Result<String> {
        let returns = self.type_name(returns, depth + 1)?;
        let mut parameters = Vec::new();
        children(self.unit, offset, |entry| {
            match entry.tag() {
                gimli::DW_TAG_formal_parameter => {
                    let parameter = self.type_of(entry)?;
                    parameters.push(self.type_name(parameter, depth + 1)?);
                }
                gimli::DW_TAG_unspecified_parameters => parameters.push("...".to_owned()),
                _ => {}
            }
            Ok(())
        })?;
        Ok(format!("{returns} ()({})", parameters.join(", ")))
    }
}
