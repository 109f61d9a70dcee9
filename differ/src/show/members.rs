//! The members of a type on both sides.

use std::collections::BTreeMap;

use super::{Mark, Row, Source, align};
use crate::error::Result;
use crate::image::Image;
use crate::layout::{self, Definition, Named, TypeName};
use crate::lines::Debug;
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
    /// Where it is defined.
    pub sources: (Option<Source>, Option<Source>),
    /// Whether anything differs.
    pub differs: bool,
    /// Its members.
    pub rows: Vec<Row<MemberLine>>,
}

/// The types of that name (`pipe` or `struct pipe`) that either object defines.
pub fn types(v1: &Object<'_>, v2: &Object<'_>, name: &str) -> Result<Vec<TypeView>> {
    let load =
        |object: &Object<'_>| layout::named(&object.elf.name, &Debug::load(&object.elf)?, name);
    Ok(views(load(v1)?, load(v2)?))
}

/// Those that either image defines.
pub fn types_of_images(v1: &Image<'_>, v2: &Image<'_>, name: &str) -> Result<Vec<TypeView>> {
    let load = |image: &Image<'_>| layout::named(&image.name, &image.debug(), name);
    Ok(views(load(v1)?, load(v2)?))
}

/// Of several definitions of one name those face each other that are equal, then those of one file, then what is left of
/// both sides if it is one of each.
fn views(old: Vec<Named>, new: Vec<Named>) -> Vec<TypeView> {
    let mut sides: BTreeMap<TypeName, (Vec<Named>, Vec<Named>)> = BTreeMap::new();
    for named in old {
        sides.entry(named.name.clone()).or_default().0.push(named);
    }
    for named in new {
        sides.entry(named.name.clone()).or_default().1.push(named);
    }
    let file = |named: &Named| named.source.as_ref().map(|source| source.file.clone());
    let mut views = Vec::new();
    for (name, (mut old, mut new)) in sides {
        let full = format!("{} {}", name.kind.word(), name.name);
        let mut pairs = take(&mut old, &mut new, &|x, y| x.definition == y.definition);
        pairs.extend(take(&mut old, &mut new, &|x, y| file(x).is_some() && file(x) == file(y)));
        if old.len() == 1 && new.len() == 1 {
            pairs.extend(take(&mut old, &mut new, &|_, _| true));
        }
        views.extend(pairs.iter().map(|(x, y)| view(&full, Some(x), Some(y))));
        views.extend(old.iter().map(|x| view(&full, Some(x), None)));
        views.extend(new.iter().map(|y| view(&full, None, Some(y))));
    }
    views
}

/// Takes out what goes together.
fn take(
    old: &mut Vec<Named>,
    new: &mut Vec<Named>,
    together: &dyn Fn(&Named, &Named) -> bool,
) -> Vec<(Named, Named)> {
    let (mut pairs, mut left) = (Vec::new(), Vec::new());
    for x in old.drain(..) {
        match new.iter().position(|y| together(&x, y)) {
            Some(at) => pairs.push((x, new.remove(at))),
            None => left.push(x),
        }
    }
    *old = left;
    pairs
}

fn view(name: &str, old: Option<&Named>, new: Option<&Named>) -> TypeView {
    let source = |side: Option<&Named>| side.and_then(|named| named.source.clone());
    let sources = (source(old), source(new));
    let (old, new) = (old.map(|named| &named.definition), new.map(|named| &named.definition));
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
    TypeView { name: name.to_owned(), sizes, sources, differs: old != new, rows }
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
