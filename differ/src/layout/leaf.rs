//! What lies at a bit of a variable, as DWARF tells: the member or element, and how its bits are to be read.

use super::slots::plain;
use super::{Definition, LayoutKind, Member, TypeName, VariableTypes};

/// The innermost part of a variable that holds a bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// From the variable, as in `.ops.read` or `[3]`; empty for the variable itself.
    pub path: String,
    /// Where it begins, in bits from the variable.
    pub start: u64,
    /// Bits.
    pub size: u64,
    /// What its bits mean.
    pub reads: Reads,
}

/// What bits mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reads {
    /// A number with a sign.
    Signed,
    /// A number without.
    Unsigned,
    /// `_Bool`.
    Bool,
    /// An address.
    Pointer,
    /// An array of characters.
    Text,
    /// An enum: its enumerators by value.
    Enum(Vec<(i128, String)>),
    /// Nobody says: padding, a union, a type that is not known.
    Unknown,
}

/// A word of what nobody describes.
const WORD: u64 = 64;
/// Types in types in types.
const MAX_DEPTH: usize = 16;

impl VariableTypes {
    /// The part of a variable of that type and size that holds a bit.
    pub(crate) fn leaf(&self, type_name: &str, size: u64, bit: u64) -> Leaf {
        let whole = Leaf { path: String::new(), start: 0, size, reads: Reads::Unknown };
        self.within(type_name, whole, bit, 0)
    }

    /// The part of `around`, which is of that type, that holds a bit of the variable.
    fn within(&self, type_name: &str, around: Leaf, bit: u64, depth: usize) -> Leaf {
        let name = plain(type_name);
        if depth > MAX_DEPTH {
            return word_of(around, bit);
        }
        if let Some((element, count)) = array(name) {
            return match element_of(&around, count, bit) {
                _ if plain(element) == "char" => Leaf { reads: Reads::Text, ..around },
                Some(inner) => self.within(element, inner, bit, depth + 1),
                None => word_of(around, bit),
            };
        }
        // One without a tag has its typedef's name.
        let typedef = TypeName { kind: LayoutKind::Typedef, name: name.to_owned() };
        let untagged = || self.only(&typedef).filter(|typedef| !typedef.members.is_empty());
        let definition = self.definition(name).map(|(_, definition)| definition);
        if let Some(definition) = definition.or_else(untagged) {
            return match member_at(definition, &around, bit) {
                Ok((member, inner)) => self.within(&member.type_name, inner, bit, depth + 1),
                Err(word) => word,
            };
        }
        if let Some(target) = self.typedef(name) {
            return self.within(target, around, bit, depth + 1);
        }
        match self.scalar(name) {
            Reads::Unknown => word_of(around, bit),
            reads if around.size <= WORD => Leaf { reads, ..around },
            _ => word_of(around, bit),
        }
    }

    fn scalar(&self, name: &str) -> Reads {
        if name.ends_with('*') || name.contains("(*)") {
            return Reads::Pointer;
        }
        if let Some(tag) = name.strip_prefix("enum ") {
            let name = TypeName { kind: LayoutKind::Enum, name: tag.to_owned() };
            let all = self.types_of(&name).flat_map(|definition| &definition.enumerators);
            return Reads::Enum(all.map(|one| (one.value, one.name.clone())).collect());
        }
        let mut words = name.split(' ').peekable();
        let number = ["char", "short", "int", "long", "signed", "unsigned", "__int128"];
        match name {
            "_Bool" => Reads::Bool,
            _ if words.clone().any(|word| !number.contains(&word)) => Reads::Unknown,
            "char" => Reads::Unsigned,
            _ if words.any(|word| word == "unsigned") => Reads::Unsigned,
            _ => Reads::Signed,
        }
    }
}

/// The member that holds a bit, or its word if that is not one alone: of a union, whichever is meant cannot be told.
fn member_at<'d>(
    definition: &'d Definition,
    around: &Leaf,
    bit: u64,
) -> Result<(&'d Member, Leaf), Leaf> {
    let at = bit.saturating_sub(around.start);
    let of = |member: &&Member| {
        at.checked_sub(member.bit_offset).is_some_and(|into| into < member.bit_size)
    };
    let all: Vec<&Member> = definition.members.iter().filter(of).collect();
    let leaf = |member: &Member| Leaf {
        path: format!("{}.{}", around.path, member.name),
        start: around.start.saturating_add(member.bit_offset),
        size: member.bit_size,
        reads: Reads::Unknown,
    };
    // Those of a member with an unnamed type stand beside it.
    let holds = |outer: &Member, inner: &Member| {
        inner.name.strip_prefix(&outer.name).is_some_and(|rest| rest.starts_with('.'))
    };
    let innermost = |member: &&&Member| !all.iter().any(|other| holds(member, other));
    let mut parts = all.iter().filter(innermost);
    if let (Some(member), None) = (parts.next(), parts.next()) {
        return Ok((*member, leaf(member)));
    }
    let has = |outer: &&&Member| all.iter().all(|one| one == *outer || holds(outer, one));
    let outer = all.iter().find(has).map_or_else(|| around.clone(), |outer| leaf(outer));
    Err(word_of(outer, bit))
}

/// The type of the elements of `T[4]`, and how many there are; of an array of arrays the outermost.
fn array(name: &str) -> Option<(&str, u64)> {
    let dimensions = name.strip_suffix(']')?;
    let (element, _) = name.split_once('[')?;
    if element.contains("(*") {
        return None;
    }
    let mut count = 1u64;
    for dimension in dimensions.get(element.len()..)?.trim_start_matches('[').split("][") {
        count = count.checked_mul(dimension.parse().ok()?)?;
    }
    Some((element.trim_end(), count))
}

/// The element that holds a bit. All dimensions are one.
fn element_of(around: &Leaf, count: u64, bit: u64) -> Option<Leaf> {
    let size = around.size.checked_div(count)?;
    let index = bit.checked_sub(around.start)?.checked_div(size)?;
    let start = around.start.checked_add(index.checked_mul(size)?)?;
    (index < count).then(|| Leaf {
        path: format!("{}[{index}]", around.path),
        start,
        size,
        reads: Reads::Unknown,
    })
}

/// The word of something that nobody describes.
fn word_of(around: Leaf, bit: u64) -> Leaf {
    let into = bit.saturating_sub(around.start);
    let start = around.start.saturating_add(into - into % WORD);
    let end = around.start.saturating_add(around.size);
    Leaf { start, size: end.saturating_sub(start).min(WORD), reads: Reads::Unknown, ..around }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_are_counted() {
        assert_eq!(array("unsigned int[4]"), Some(("unsigned int", 4)));
        assert_eq!(array("struct a[2][3]"), Some(("struct a", 6)));
        assert_eq!(array("int"), None);
        assert_eq!(array("int (*)[4]"), None);
        assert_eq!(array("int[]"), None);
        assert_eq!(array("int[4"), None);
    }

    #[test]
    fn a_word_ends_with_what_is_around_it() {
        let around = Leaf { path: ".u".into(), start: 32, size: 96, reads: Reads::Signed };
        let word = word_of(around.clone(), 40);
        assert_eq!((word.start, word.size, word.reads), (32, 64, Reads::Unknown));
        let word = word_of(around, 100);
        assert_eq!((word.start, word.size), (96, 32));
    }
}
