//! What a function's registers hold on entry and on return, as DWARF tells: for policies that ask for arguments, and
//! for adaptation handlers, which get them.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::lines::{Debug, Reader, text};
use crate::load::Elf;

type Unit<'d> = gimli::Unit<Reader<'d>>;
type Dwarf<'d> = gimli::Dwarf<Reader<'d>>;

/// Types may be typedefs of typedefs, but not for long.
const MAX_DEPTH: usize = 32;

/// What a function takes and gives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    /// Its parameters, as records have them: `(file:u64 flags:s32 rest:other)`. `other` is what does not come in one
    /// register as an integer or a pointer, and all that follows it.
    pub parameters: String,
    /// What it returns: an integer or a pointer, or `other`; nothing if it returns nothing. Where it is `other` the registers of
    /// the arguments are not known (a large one is returned in memory, whose address comes before them), so they are `other` too.
    pub returns: Option<&'static str>,
}

/// The arguments that come in registers (System V ABI for x86-64, 3.2.3).
pub const REGISTERS: usize = 6;

impl Signature {
    /// Name and type of each parameter; one may have no name.
    pub fn words(&self) -> impl Iterator<Item = (&str, &str)> {
        let inside = self.parameters.trim_start_matches('(').trim_end_matches(')');
        inside.split_whitespace().map(|word| word.split_once(':').unwrap_or(("", word)))
    }

    /// The types of its parameters.
    pub fn types(&self) -> Vec<&str> {
        self.words().map(|(_, kind)| kind).collect()
    }
}

/// The signatures of the functions in `wanted`.
///
/// A function whose name has a suffix (`foo.isra.0`) is not found: the compiler has changed its parameters. One
/// that is declared twice with different parameters is not given.
pub fn signatures(elf: &Elf<'_>, wanted: &BTreeSet<String>) -> Result<BTreeMap<String, Signature>> {
    let mut found: BTreeMap<String, BTreeSet<Signature>> = BTreeMap::new();
    each_unit(elf, |dwarf, unit| {
        for (name, signature) in of_unit(dwarf, unit, wanted)? {
            found.entry(name).or_default().insert(signature);
        }
        Ok(())
    })?;
    let single = |(name, all): (String, BTreeSet<Signature>)| {
        let one = all.first().filter(|_| all.len() == 1)?.clone();
        Some((name, one))
    };
    Ok(found.into_iter().filter_map(single).collect())
}

/// The functions, defined or called, that take any number of arguments, and how many they take before those.
pub fn variadic(elf: &Elf<'_>) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    each_unit(elf, |dwarf, unit| variadic_of(dwarf, unit, &mut found))?;
    Ok(found)
}

fn each_unit(
    elf: &Elf<'_>,
    mut look: impl FnMut(&Dwarf<'_>, &Unit<'_>) -> gimli::Result<()>,
) -> Result<()> {
    let debug = Debug::load(elf)?;
    let dwarf = debug.dwarf();
    let bad = |e: gimli::Error| Error::new(&elf.name, format_args!("DWARF: {e}"));
    let mut units = dwarf.units();
    while let Some(header) = units.next().map_err(bad)? {
        let unit = dwarf.unit(header).map_err(bad)?;
        look(&dwarf, &unit).map_err(bad)?;
    }
    Ok(())
}

fn variadic_of(
    dwarf: &Dwarf<'_>,
    unit: &Unit<'_>,
    found: &mut BTreeMap<String, usize>,
) -> gimli::Result<()> {
    let mut tree = unit.entries_tree(None)?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        if node.entry().tag() != gimli::DW_TAG_subprogram {
            continue;
        }
        let Some(name) = node.entry().attr_value(gimli::DW_AT_name)? else { continue };
        let (mut parts, mut fixed) = (node.children(), 0);
        while let Some(part) = parts.next()? {
            match part.entry().tag() {
                gimli::DW_TAG_formal_parameter => fixed += 1,
                gimli::DW_TAG_unspecified_parameters => {
                    found.insert(text(dwarf.attr_string(unit, name)?), fixed);
                    break;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The definitions of one unit: children of its root that are no declarations.
fn of_unit(
    dwarf: &Dwarf<'_>,
    unit: &Unit<'_>,
    wanted: &BTreeSet<String>,
) -> gimli::Result<Vec<(String, Signature)>> {
    let mut found = Vec::new();
    let mut tree = unit.entries_tree(None)?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        let entry = node.entry();
        if entry.tag() != gimli::DW_TAG_subprogram
            || entry.attr_value(gimli::DW_AT_declaration)?.is_some()
        {
            continue;
        }
        let Some(name) = entry.attr_value(gimli::DW_AT_name)? else { continue };
        let name = text(dwarf.attr_string(unit, name)?);
        if !wanted.contains(&name) {
            continue;
        }
        let returns = match entry.attr_value(gimli::DW_AT_type)? {
            Some(_) => Some(type_of(unit, entry)?.unwrap_or("other")),
            None => None,
        };
        let mut words = Vec::new();
        let mut regular = returns != Some("other");
        let mut parts = node.children();
        while let Some(part) = parts.next()? {
            let entry = part.entry();
            if entry.tag() == gimli::DW_TAG_unspecified_parameters {
                words.push("other".into());
            }
            if entry.tag() != gimli::DW_TAG_formal_parameter {
                continue;
            }
            let name = match entry.attr_value(gimli::DW_AT_name)? {
                Some(name) => text(dwarf.attr_string(unit, name)?) + ":",
                None => String::new(),
            };
            let kind = type_of(unit, entry)?;
            regular &= kind.is_some();
            let kind = kind.filter(|_| regular).unwrap_or("other");
            words.push(name + kind);
        }
        let parameters = format!("({})", words.join(" "));
        found.push((name, Signature { parameters, returns }));
    }
    Ok(found)
}

/// The type of a parameter, or the one that a function returns.
fn type_of(
    unit: &Unit<'_>,
    entry: &gimli::DebuggingInformationEntry<'_, '_, Reader<'_>>,
) -> gimli::Result<Option<&'static str>> {
    match entry.attr_value(gimli::DW_AT_type)? {
        Some(gimli::AttributeValue::UnitRef(offset)) => integer(unit, offset, 0),
        _ => Ok(None),
    }
}

/// The name that records have for a type, if it is an integer or a pointer.
fn integer(
    unit: &Unit<'_>,
    offset: gimli::UnitOffset,
    depth: usize,
) -> gimli::Result<Option<&'static str>> {
    let entry = unit.entry(offset)?;
    let size = entry.attr_value(gimli::DW_AT_byte_size)?.and_then(|size| size.udata_value());
    let encoding = match entry.attr_value(gimli::DW_AT_encoding)? {
        Some(gimli::AttributeValue::Encoding(encoding)) => Some(encoding),
        _ => None,
    };
    match entry.tag() {
        gimli::DW_TAG_pointer_type => Ok(Some("u64")),
        gimli::DW_TAG_base_type => {
            let signed = match encoding {
                Some(gimli::DW_ATE_signed | gimli::DW_ATE_signed_char) => true,
                Some(
                    gimli::DW_ATE_unsigned | gimli::DW_ATE_unsigned_char | gimli::DW_ATE_boolean,
                ) => false,
                _ => return Ok(None),
            };
            Ok(name_of(size, signed))
        }
        // What it is made of says whether it has a sign; older compilers do not say, and then it is not known.
        gimli::DW_TAG_enumeration_type
        | gimli::DW_TAG_typedef
        | gimli::DW_TAG_const_type
        | gimli::DW_TAG_volatile_type
        | gimli::DW_TAG_restrict_type
            if depth < MAX_DEPTH =>
        {
            match entry.attr_value(gimli::DW_AT_type)? {
                Some(gimli::AttributeValue::UnitRef(offset)) => integer(unit, offset, depth + 1),
                _ => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

fn name_of(size: Option<u64>, signed: bool) -> Option<&'static str> {
    Some(match (size?, signed) {
        (1, true) => "s8",
        (2, true) => "s16",
        (4, true) => "s32",
        (8, true) => "s64",
        (1, false) => "u8",
        (2, false) => "u16",
        (4, false) => "u32",
        (8, false) => "u64",
        _ => return None,
    })
}
