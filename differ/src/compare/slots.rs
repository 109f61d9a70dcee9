//! Variables that differ in nothing but pointers to functions: the slots of a table of operations.

use serde::Serialize;

use super::Comparer;
use crate::layout::{SlotType, VariableTypes};
use crate::load::Relocation;
use crate::model::{DataId, DataObject, Place};
use crate::object_file::Object;

/// A pointer to a function that is another one, or none, in v2.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Slot {
    /// Offset in the variable.
    pub offset: u64,
    /// The type that names the member, e.g. `struct file_operations`.
    pub of: String,
    /// The member, as that type names it.
    pub member: String,
    /// The member as the variable's own type has it (`driver.probe`).
    pub path: String,
    /// V1's function there; `None` for NULL.
    pub old: Option<String>,
    /// V2's function there.
    pub new: Option<String>,
}

/// A changed variable, all of whose differences are [`Slot`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Slots {
    /// Those that differ, by offset.
    pub slots: Vec<Slot>,
    /// Size of the variable.
    pub size: u64,
    /// Its type, e.g. `struct pci_driver`, and those of the members that hold the slots.
    pub types: Vec<String>,
    /// The files that define these in v1, as the compiler was given them.
    pub defined_in: Vec<String>,
}

/// Bytes of a pointer.
const POINTER: u64 = 8;

impl Comparer<'_, '_> {
    /// The slots in which a variable of both differs. An error says what else does, or why that is not known.
    pub(crate) fn slots(
        &self,
        (x, y): (DataId, DataId),
        (types_a, types_b): (&VariableTypes, &VariableTypes),
    ) -> Result<Slots, String> {
        let data =
            |o: &Object<'_>, id| o.model.data_object(id).map(|d| (d.section, d.start, d.end));
        let (Some(at), Some(bt)) = (data(self.a, x), data(self.b, y)) else {
            return Err("it is not in its object".into());
        };
        let differing = self.pointers(at, bt)?;
        let (type_a, type_b) = match (types_a.of((at.0, at.1)), types_b.of((bt.0, bt.1))) {
            (Some(old), Some(new)) => (old, new),
            (None, Some(_)) => return Err("V1's debug information has no type of it".into()),
            (Some(_), None) => return Err("V2's debug information has no type of it".into()),
            (None, None) => return Err("debug information has no type of it".into()),
        };
        if type_a != type_b {
            return Err(format!("its type: {type_a} → {type_b}"));
        }
        let mut found = Slots {
            slots: Vec::new(),
            size: at.2 - at.1,
            types: Vec::new(),
            defined_in: Vec::new(),
        };
        for (offset, old, new) in differing {
            let (Some(slot), Some(other)) =
                (types_a.slot(type_a, offset), types_b.slot(type_b, offset))
            else {
                return Err(format!("at {offset:#x} is no member that points to a function"));
            };
            if slot != other {
                return Err(format!("`{}` has another type", slot.path));
            }
            let old =
                function_name(self.a, old).map_err(|e| format!("`{}`: V1's {e}", slot.path))?;
            let new =
                function_name(self.b, new).map_err(|e| format!("`{}`: V2's {e}", slot.path))?;
            let SlotType { of, member, path, around, defined_in } = slot;
            found.types.extend(around);
            found.defined_in.extend(defined_in);
            found.slots.push(Slot { offset, of, member, path, old, new });
        }
        for list in [&mut found.types, &mut found.defined_in] {
            list.sort();
            list.dedup();
        }
        Ok(found)
    }

    /// The words that differ and are NULL or a pointer on each side. All else must be equal.
    #[allow(clippy::type_complexity)] // Used once, just above.
    fn pointers(
        &self,
        x: super::content::Extent,
        y: super::content::Extent,
    ) -> Result<Vec<(u64, Option<Place>, Option<Place>)>, String> {
        let (a, b) =
            (self.a.elf.sections.get(x.0.0 as usize), self.b.elf.sections.get(y.0.0 as usize));
        let (Some(a), Some(b)) = (a, b) else { return Err("it is in no section".into()) };
        if x.2 - x.1 != y.2 - y.1 {
            return Err("its size differs".into());
        }
        let (bytes_a, bytes_b) =
            super::content::contents((a, x), (b, y)).ok_or("it reaches past its section")?;
        let (refs_a, refs_b) = (a.relocations_in(x.1, x.2), b.relocations_in(y.1, y.2));
        let at =
            |refs: &[Relocation], offset: u64| refs.iter().find(|r| r.offset == offset).copied();
        let mut offsets: Vec<u64> = refs_a.iter().map(|r| r.offset - x.1).collect();
        offsets.extend(refs_b.iter().map(|r| r.offset - y.1));
        offsets.sort_unstable();
        offsets.dedup();
        let mut differing = Vec::new();
        let mut covered = vec![false; bytes_a.len()];
        for offset in offsets {
            let (p, q) = (at(refs_a, x.1 + offset), at(refs_b, y.1 + offset));
            let width = p.iter().chain(&q).map(Relocation::width).max().unwrap_or(0);
            let range = offset as usize..(offset + width) as usize;
            covered.get_mut(range.clone()).ok_or("a pointer reaches past it")?.fill(true);
            let place_a = p.map(|p| self.a.model.resolve(&self.a.elf, p.symbol, p.addend));
            let place_b = q.map(|q| self.b.model.resolve(&self.b.elf, q.symbol, q.addend));
            if let (Some(to_a), Some(to_b), Some(p), Some(q)) = (place_a, place_b, p, q)
                && p.kind() == q.kind()
                && self.place(to_a, to_b, false).is_ok()
            {
                continue;
            }
            let pointer =
                |r: Option<Relocation>| r.is_none_or(|r| r.r_type == object::elf::R_X86_64_64);
            // Without a relocation the word is a number; RELA keeps nothing in the other side's.
            let null = |r: Option<Relocation>, bytes: &[u8]| {
                r.is_some() || bytes.get(range.clone()).is_some_and(|b| b.iter().all(|b| *b == 0))
            };
            let is_slot = offset.is_multiple_of(POINTER)
                && pointer(p)
                && pointer(q)
                && null(p, &bytes_a)
                && null(q, &bytes_b);
            if !is_slot {
                return Err(format!("at {offset:#x} differs what is neither NULL nor a pointer"));
            }
            differing.push((offset, place_a, place_b));
        }
        let byte = bytes_a.iter().zip(&*bytes_b).zip(&covered).position(|((p, q), c)| !c && p != q);
        match byte {
            Some(at) => Err(format!("the byte at {at:#x} differs")),
            None => Ok(differing),
        }
    }
}

/// The function whose address a word is.
fn function_name(object: &Object<'_>, place: Option<Place>) -> Result<Option<String>, String> {
    match place {
        None => Ok(None),
        Some(Place::Function { function, offset: 0 }) => object
            .function(function)
            .map(|f| Some(f.name.clone()))
            .ok_or_else(|| "function is not known".into()),
        // Of an undefined symbol nothing says whether it is a function, but the member's type does.
        Some(Place::External { symbol, addend: 0 }) => object
            .elf
            .symbol(symbol)
            .map(|s| Some(s.name.to_owned()))
            .map_err(|_| "symbol is not known".into()),
        Some(other) => Err(format!("is {}, no function", object.describe(other))),
    }
}

/// Whether a variable may be compared for its slots at all.
pub(crate) fn may_have_slots(x: &DataObject, y: &DataObject) -> bool {
    x.end - x.start == y.end - y.start && x.end - x.start >= POINTER
}
