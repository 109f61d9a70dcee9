//! The members of a type on both sides.

use std::collections::BTreeSet;

use super::{Mark, Row, align};
use crate::error::Result;
use crate::layout::{self, Definition, LayoutKind, TypeName, Types};
use crate::object_file::Object;

/// A member or enumerator to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberLine {
    /// Its name.
    pub name: String,
    /// Where it is and how large: bytes, or bytes and bits; the value of an enumerator.
    pub place: String,
    /// Its type.
    pub type_name: String,
}

/// A type, both sides.
#[derive(Debug, Clone)]
pub struct TypeView {
    /// Its kind and name, as in C.
    pub name: String,
    /// Its size in bytes in v1 and v2, where it exists.
    pub sizes: (Option<u64>, Option<u64>),
    /// Whether anything differs.
    pub differs: bool,
    /// Its members.
    pub rows: Vec<Row<MemberLine>>,
}

/// The types of that name (`pipe` or `struct pipe`) that either object defines.
pub fn types(v1: &Object<'_>, v2: &Object<'_>, name: &str) -> Result<Vec<TypeView>> {
    let load = |object: &Object<'_>| match object.elf.section_by_name(".debug_info") {
        Some(_) => layout::types(&object.elf),
        None => Ok(Types::new()),
    };
    let (old, new) = (load(v1)?, load(v2)?);
    let wanted: BTreeSet<&TypeName> =
        old.keys().chain(new.keys()).filter(|t| t.name == name || full(t) == name).collect();
    let mut views = Vec::new();
    for wanted in wanted {
        let list = |types: &Types| -> Vec<Definition> {
            types.get(wanted).into_iter().flatten().cloned().collect()
        };
        // More than one only if units of one object disagree.
        let (of_v1, of_v2) = (list(&old), list(&new));
        for i in 0..of_v1.len().max(of_v2.len()) {
            views.push(view(full(wanted), of_v1.get(i), of_v2.get(i)));
        }
    }
    Ok(views)
}

fn full(name: &TypeName) -> String {
    let kind = match name.kind {
        LayoutKind::Struct => "struct",
        LayoutKind::Union => "union",
        LayoutKind::Enum => "enum",
        LayoutKind::Typedef => "typedef",
    };
    format!("{kind} {}", name.name)
}

fn view(name: String, old: Option<&Definition>, new: Option<&Definition>) -> TypeView {
    let (x, y) = (old.map(lines).unwrap_or_default(), new.map(lines).unwrap_or_default());
    let keys =
        |lines: &[MemberLine]| -> Vec<String> { lines.iter().map(|l| l.name.clone()).collect() };
    let rows = align(&keys(&x), &keys(&y))
        .into_iter()
        .map(|(i, j)| {
            let (old, new) = (i.and_then(|i| x.get(i)), j.and_then(|j| y.get(j)));
            let mark = match (old, new) {
                (Some(old), Some(new)) if old == new => Mark::Same,
                (Some(_), Some(_)) => Mark::Differs,
                (Some(_), None) => Mark::Removed,
                _ => Mark::Added,
            };
            Row { mark, old: old.cloned(), new: new.cloned() }
        })
        .collect();
    let sizes = (old.map(|d| d.size), new.map(|d| d.size));
    TypeView { name, sizes, differs: old != new, rows }
}

fn lines(definition: &Definition) -> Vec<MemberLine> {
    let members = definition.members.iter().map(|m| MemberLine {
        name: m.name.clone(),
        place: if m.bitfield {
            let (byte, bit) = (m.bit_offset / 8, m.bit_offset % 8);
            format!("{byte}.{bit} :{}", m.bit_size)
        } else {
            format!("{} +{}", m.bit_offset / 8, m.bit_size / 8)
        },
        type_name: m.type_name.clone(),
    });
    let enumerators = definition.enumerators.iter().map(|e| MemberLine {
        name: e.name.clone(),
        place: format!("= {}", e.value),
        type_name: String::new(),
    });
    let target = definition.target.iter().map(|target| MemberLine {
        name: String::new(),
        place: String::new(),
        type_name: target.clone(),
    });
    let alignment = definition.alignment.iter().map(|bytes| MemberLine {
        name: format!("aligned({bytes})"),
        place: String::new(),
        type_name: String::new(),
    });
    alignment.chain(members).chain(enumerators).chain(target).collect()
}
