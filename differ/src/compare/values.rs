//! The initial values of a variable that differ, old and new, as a person writes them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Comparer;
use super::content::{Extent, Mask, contents, extent, line_mask, string};
use crate::layout::{Leaf, Reads, VariableTypes};
use crate::load::{Relocation, Section};
use crate::model::{DataId, Place};
use crate::object_file::Object;

/// A part of a variable that has another initial value in v2.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value {
    /// Bytes from the start of the variable.
    pub offset: u64,
    /// The member or element, as `.ops.read` or `[3]`; empty for the variable itself, or where nobody says.
    pub member: String,
    /// V1's value.
    pub old: String,
    /// V2's value.
    pub new: String,
}

/// What differs between two variables: the first parts, and how many more there are.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Values {
    /// By offset.
    pub shown: Vec<Value>,
    /// How many are not shown.
    pub more: usize,
}

/// How many are shown.
const SHOWN: usize = 64;

/// One side: where it is, what it holds and what it points to.
struct Side<'s, 'o, 'data> {
    object: &'o Object<'data>,
    start: u64,
    bytes: Cow<'s, [u8]>,
    pointers: &'s [Relocation],
}

impl Comparer<'_, '_> {
    /// The parts of two variables of one size that differ; types say what they are, where they are known.
    pub(crate) fn values(
        &self,
        (x, y): (DataId, DataId),
        (types_a, types_b): (&VariableTypes, &VariableTypes),
    ) -> Values {
        let of = |object: &Object<'_>, id| {
            object.model.data_object(id).map(|data| (data.section, data.start, data.end))
        };
        let (Some(at), Some(bt)) = (of(self.a, x), of(self.b, y)) else { return Values::default() };
        let sections = (self.a.elf.section(at.0), self.b.elf.section(bt.0));
        let (Ok(p), Ok(q)) = sections else { return Values::default() };
        let Some((old, new)) = contents((p, at), (q, bt)) else { return Values::default() };
        let (a, b) = (Side::of(self.a, p, at, old), Side::of(self.b, q, bt, new));
        let size = (a.bytes.len() as u64).saturating_mul(8);
        let typed = |bit: u64| {
            let old = types_a.leaf(types_a.of((at.0, at.1))?, size, bit);
            let new = types_b.leaf(types_b.of((bt.0, bt.1))?, size, bit);
            // Where the type has changed, the parts of both are not the same.
            (old == new).then_some(old)
        };
        let leaf = |bit: u64| {
            typed(bit).unwrap_or_else(|| {
                let start = bit - bit % 64;
                let size = size.saturating_sub(start).min(64);
                Leaf { path: String::new(), start, size, reads: Reads::Unknown }
            })
        };
        self.differing(&a, &b, &line_mask(self.a, x), leaf)
    }

    fn differing(
        &self,
        a: &Side<'_, '_, '_>,
        b: &Side<'_, '_, '_>,
        mask: &Mask,
        leaf: impl Fn(u64) -> Leaf,
    ) -> Values {
        let mut values = Values::default();
        let mut add = |value: Value| match values.shown.len() < SHOWN {
            true => values.shown.push(value),
            false => values.more += 1,
        };
        // In bits, for bit-fields are parts too.
        let mut bit = 0u64;
        while let Some(byte) = usize::try_from(bit / 8).ok().filter(|byte| *byte < a.bytes.len()) {
            let at = bit / 8;
            let pointers = (a.pointer(at), b.pointer(at));
            if let (p, q) = pointers
                && (p.is_some() || q.is_some())
            {
                let width = p.iter().chain(&q).map(|r| r.width()).max().unwrap_or(1).max(1);
                if !self.same_pointers(a, b, pointers) {
                    let member = leaf(at.saturating_mul(8)).path;
                    let (old, new) = (a.pointer_text(p, at, width), b.pointer_text(q, at, width));
                    add(Value { offset: at, member, old, new });
                }
                bit = at.saturating_add(width).saturating_mul(8);
                continue;
            }
            let bits = |side: &Side<'_, '_, '_>| side.bytes.get(byte).copied().unwrap_or(0);
            let differ = (bits(a) ^ bits(b)) & !mask.at(at) & (0xff << (bit % 8));
            if differ == 0 {
                bit = at.saturating_add(1).saturating_mul(8);
                continue;
            }
            bit = at.saturating_mul(8).saturating_add(u64::from(differ.trailing_zeros()));
            let found = leaf(bit);
            let (old, new) = (a.text(&found), b.text(&found));
            add(Value { offset: found.start / 8, member: found.path.clone(), old, new });
            bit = found.start.saturating_add(found.size).max(bit.saturating_add(1));
        }
        values
    }

    fn same_pointers(
        &self,
        a: &Side<'_, '_, '_>,
        b: &Side<'_, '_, '_>,
        pointers: (Option<&Relocation>, Option<&Relocation>),
    ) -> bool {
        let (Some(p), Some(q)) = pointers else { return false };
        p.kind() == q.kind() && self.place(a.place(p), b.place(q), false).is_ok()
    }
}

impl<'s, 'o, 'data> Side<'s, 'o, 'data> {
    fn of(
        object: &'o Object<'data>,
        section: &'s Section<'_>,
        (_, start, end): Extent,
        bytes: Cow<'s, [u8]>,
    ) -> Self {
        Self { object, start, bytes, pointers: section.relocations_in(start, end) }
    }

    /// What is written at a byte when the object is linked.
    fn pointer(&self, at: u64) -> Option<&Relocation> {
        let offset = self.start.checked_add(at)?;
        let first = self.pointers.partition_point(|pointer| pointer.offset < offset);
        self.pointers.get(first).filter(|pointer| pointer.offset == offset)
    }

    fn place(&self, pointer: &Relocation) -> Place {
        self.object.model.resolve(&self.object.elf, pointer.symbol, pointer.addend)
    }

    /// What a pointer leads to: a text by itself, anything else by its name.
    fn pointer_text(&self, pointer: Option<&Relocation>, at: u64, width: u64) -> String {
        let Some(pointer) = pointer else {
            let number = self.bits(at.saturating_mul(8), width.saturating_mul(8));
            return if number == 0 { "NULL".to_owned() } else { format!("{number:#x}") };
        };
        let place = self.place(pointer);
        let text = match place {
            Place::Anonymous { section, offset, from } if offset == from => {
                extent(self.object, section, offset).and_then(|at| string(self.object, at))
            }
            _ => None,
        };
        text.map_or_else(|| self.object.describe(place), |text| format!("{text:?}"))
    }

    /// Up to 64 bits.
    fn bits(&self, start: u64, size: u64) -> u64 {
        let (first, shift) = (start / 8, start % 8);
        let mut word = [0u8; 16];
        let rest = usize::try_from(first).ok().and_then(|first| self.bytes.get(first..));
        for (to, from) in word.iter_mut().zip(rest.unwrap_or(&[])) {
            *to = *from;
        }
        let all = u128::from_le_bytes(word) >> shift;
        let kept = all & (1u128 << size.min(64)).wrapping_sub(1);
        u64::try_from(kept).unwrap_or(u64::MAX)
    }

    fn text(&self, leaf: &Leaf) -> String {
        let number = self.bits(leaf.start, leaf.size);
        let signed = || {
            let unused = 64u64.saturating_sub(leaf.size.clamp(1, 64));
            (number << unused).cast_signed() >> unused
        };
        match &leaf.reads {
            Reads::Signed => signed().to_string(),
            Reads::Unsigned => number.to_string(),
            Reads::Bool => (number != 0).to_string(),
            Reads::Pointer if number == 0 => "NULL".to_owned(),
            Reads::Enum(all) => {
                let is = |value: i128| value == i128::from(signed()) || value == i128::from(number);
                let named = all.iter().find(|(value, _)| is(*value));
                named.map_or_else(|| number.to_string(), |(_, name)| name.clone())
            }
            Reads::Text => {
                let from = usize::try_from(leaf.start / 8).unwrap_or(usize::MAX);
                let to = from.saturating_add(usize::try_from(leaf.size / 8).unwrap_or(usize::MAX));
                let bytes = self.bytes.get(from..to).unwrap_or(&[]);
                let text = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]);
                format!("{:?}", String::from_utf8_lossy(text))
            }
            Reads::Pointer | Reads::Unknown => format!("{number:#x}"),
        }
    }
}
