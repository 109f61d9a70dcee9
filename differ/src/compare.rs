//! Phase 6: are two functions, two data objects, two pieces of content the same?
//!
//! Every question is answered with the first difference found, in words. What cannot be
//! understood is a difference.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use serde::Serialize;

use crate::correlate::Correlation;
use crate::decode::{Body, Field};
use crate::load::{Section, SectionId};
use crate::model::{DataId, FunctionId, Place};
use crate::names::base;
use crate::object_file::Object;
use crate::special::Class;

mod content;
mod entries;
mod explain;
mod instruction;
mod line_text;
mod slots;
mod values;

pub(crate) use content::{Mask, line_mask, lines_in};
pub(crate) use entries::{Table, counts};
pub(crate) use slots::may_have_slots;
pub use slots::{Slot, Slots};
pub use values::{Value, Values};

pub use line_text::frame_variables;
pub(crate) use line_text::string_at;

/// What kind of thing differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An instruction or the number of instructions.
    Instruction,
    /// Another function is called.
    Callee,
    /// Another variable or function is referred to.
    Reference,
    /// A string.
    String,
    /// Other read-only data the code refers to.
    Constant,
    /// The initial value of a writable object.
    Initialiser,
    /// An entry of a special section.
    Special(Class),
    /// The split into hot and cold code.
    ColdPart,
    /// Something the comparison does not understand.
    Unclear,
}

/// A difference, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What kind of thing differs.
    pub cause: Cause,
    /// What exactly.
    pub text: String,
    /// Section offset of the instruction in v1 and v2, where one differs.
    pub at: Option<(u64, u64)>,
}

impl Difference {
    pub(crate) fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self { cause, text: text.into(), at: None }
    }
}

pub(crate) type Same = Result<(), Difference>;

/// Compares things of v1 with things of v2.
pub struct Comparer<'c, 'd> {
    pub(crate) a: &'c Object<'d>,
    pub(crate) b: &'c Object<'d>,
    pub(crate) correlation: &'c Correlation,
    equal: RefCell<HashSet<Key>>,
    visited: RefCell<HashSet<Key>>,
    depth: Cell<usize>,
}

/// Two pieces of content under comparison, and whether named read-only data is followed.
type Key = (SectionId, u64, u64, SectionId, u64, u64, bool);

/// Read-only data that nests deeper than this is not followed (nor believed).
const MAX_DEPTH: usize = 100;

impl<'c, 'd> Comparer<'c, 'd> {
    /// A comparer for a pair of objects.
    pub fn new(a: &'c Object<'d>, b: &'c Object<'d>, correlation: &'c Correlation) -> Self {
        Self {
            a,
            b,
            correlation,
            equal: RefCell::default(),
            visited: RefCell::default(),
            depth: Cell::new(0),
        }
    }

    /// Compares two functions with their `.cold` parts and special-section entries.
    pub fn functions(&self, x: FunctionId, y: FunctionId) -> Same {
        self.body(x, y)?;
        let cold = |o: &Object<'_>, id| o.function(id).and_then(|f| f.cold);
        match (cold(self.a, x), cold(self.b, y)) {
            (None, None) => Ok(()),
            (Some(x), Some(y)) => self
                .body(x, y)
                .map_err(|d| Difference { text: format!("in the cold part: {}", d.text), ..d }),
            (Some(_), None) => Err(Difference::new(Cause::ColdPart, "has no cold part any more")),
            (None, Some(_)) => Err(Difference::new(Cause::ColdPart, "has a cold part now")),
        }
    }

    fn body(&self, x: FunctionId, y: FunctionId) -> Same {
        let start = |o: &Object<'_>, id| o.function(id).map(|f| (f.section, f.start, f.end));
        let (Some(at_a), Some(at_b)) = (start(self.a, x), start(self.b, y)) else {
            return Err(Difference::new(Cause::Unclear, "function is not in its object"));
        };
        self.code((self.a.body(x), at_a), (self.b.body(y), at_b))?;
        self.entries(x, y)
    }

    /// Compares two pieces of code, given with section and extent.
    fn code(
        &self,
        (body_a, at_a): (&Body, (SectionId, u64, u64)),
        (body_b, at_b): (&Body, (SectionId, u64, u64)),
    ) -> Same {
        let different_length = body_a.insns.len() != body_b.insns.len();
        for (index, (insn_a, insn_b)) in body_a.insns.iter().zip(&body_b.insns).enumerate() {
            self.instruction((insn_a, body_a, at_a), (insn_b, body_b, at_b)).map_err(|d| {
                // The target of a jump also moves when code is added before it.
                let jump =
                    d.cause == Cause::Instruction && insn_a.reference(Field::Branch).is_some();
                if (different_length || jump)
                    && let Some(better) = self.explain_lengths((body_a, at_a.0), (body_b, at_b.0))
                {
                    return better;
                }
                let lines = self.line_note(at_a.0, insn_a.offset, at_b.0, insn_b.offset);
                Difference {
                    text: match d.cause {
                        Cause::Instruction | Cause::Unclear => {
                            format!("instruction {index}: {}{lines}", d.text)
                        }
                        _ => format!("{}{lines}", d.text),
                    },
                    at: Some((insn_a.offset, insn_b.offset)),
                    ..d
                }
            })?;
        }
        if different_length {
            return Err(Difference::new(
                Cause::Instruction,
                format!("{} instructions instead of {}", body_b.insns.len(), body_a.insns.len()),
            ));
        }
        Ok(())
    }

    pub(crate) fn line_note(&self, sa: SectionId, oa: u64, sb: SectionId, ob: u64) -> String {
        let line = |o: &Object<'_>, s, at| o.lines().ok().and_then(|l| l.first(s, at));
        match (line(self.a, sa, oa), line(self.b, sb, ob)) {
            (Some(x), Some(y)) if x == y => format!(" (line {x})"),
            (Some(x), Some(y)) => format!(" (line {x} vs {y})"),
            _ => String::new(),
        }
    }

    /// Compares what two references mean. With `deep`, named read-only data must also have
    /// the same content: code that reads a changed table is changed code.
    pub(crate) fn place(&self, x: Place, y: Place, deep: bool) -> Same {
        let (a, b) = (self.a, self.b);
        let other = || {
            Err(Difference::new(
                Cause::Reference,
                format!("refers to {} instead of {}", b.describe(y), a.describe(x)),
            ))
        };
        match (x, y) {
            (
                Place::External { symbol: sx, addend: ax },
                Place::External { symbol: sy, addend: ay },
            ) => {
                let name = |o: &Object<'d>, s| o.elf.symbol(s).map(|s| s.name).ok();
                if ax == ay && name(a, sx).is_some() && name(a, sx) == name(b, sy) {
                    Ok(())
                } else {
                    other()
                }
            }
            (
                Place::Function { function: fx, offset: ox },
                Place::Function { function: fy, offset: oy },
            ) => {
                // Under one name two functions that were one: those that are not alike are refused.
                let paired = self.correlation.functions.get(&fx) == Some(&fy)
                    || self.correlation.aliases.contains_key(&(fx, fy));
                if !paired {
                    return other();
                }
                if (ox == 0 && oy == 0) || self.same_position(fx, ox, fy, oy) {
                    Ok(())
                } else {
                    other()
                }
            }
            (Place::Data { data: dx, offset: ox }, Place::Data { data: dy, offset: oy }) => {
                self.data_place((dx, ox), (dy, oy), deep).unwrap_or_else(other)
            }
            (
                Place::Anonymous { section: sx, offset: ox, from: from_x },
                Place::Anonymous { section: sy, offset: oy, from: from_y },
            ) => self.anonymous((sx, ox, from_x), (sy, oy, from_y), deep),
            (Place::Absolute(x), Place::Absolute(y)) if x == y => Ok(()),
            _ => other(),
        }
    }

    fn same_position(&self, fx: FunctionId, ox: u64, fy: FunctionId, oy: u64) -> bool {
        let position = |o: &Object<'_>, f, offset| {
            o.function(f).map(|function| o.body(f).position(function.start + offset))
        };
        let (x, y) = (position(self.a, fx, ox), position(self.b, fy, oy));
        x.is_some() && x == y
    }

    /// `None`: another object.
    fn data_place(
        &self,
        (dx, ox): (DataId, i64),
        (dy, oy): (DataId, i64),
        deep: bool,
    ) -> Option<Same> {
        let (x, y) = (self.a.model.data_object(dx)?, self.b.model.data_object(dy)?);
        let paired = self.correlation.data.get(&dx) == Some(&dy);
        if ox != oy {
            return None;
        }
        if !(is_read_only(self.a, x.section) && is_read_only(self.b, y.section)) {
            return paired.then_some(Ok(()));
        }
        // Compilers number `CSWTCH`, `__func__` and the like as they please: content decides.
        let (base_x, base_y) = (base(&x.name), base(&y.name));
        let numbered = base_x.text != x.name || base_y.text != y.name;
        let twins = numbered && base_x == base_y;
        if !paired && !twins {
            return None;
        }
        // An entry of printk's index holds a line: its own verdict tells whether anything else in it differs.
        if paired && !deep && (!numbered || base_x.text == "_entry") {
            return Some(Ok(()));
        }
        let same = self.content((x.section, x.start, x.end), (y.section, y.start, y.end), deep);
        Some(same.map_err(|d| Difference {
            cause: Cause::Constant,
            text: format!("read-only data \"{}\" changed: {}", base_x.text, d.text),
            ..d
        }))
    }
}

/// Whether the content of a section is fixed for good once the object is linked.
pub(crate) fn is_read_only(object: &Object<'_>, id: SectionId) -> bool {
    object.elf.sections.get(id.0 as usize).is_some_and(section_is_read_only)
}

pub(crate) fn section_is_read_only(section: &Section<'_>) -> bool {
    // gcc puts tables that need relocation into writable sections of this name.
    section.is_alloc() && (!section.is_write() || section.name.starts_with(".data.rel.ro"))
}

/// Whether a field of an instruction is relocated or resolved to a place.
pub(crate) const FIELDS: [Field; 3] = [Field::Displacement, Field::Immediate, Field::Branch];
