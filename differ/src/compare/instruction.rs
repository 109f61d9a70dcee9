//! One instruction of v1 against one of v2.

use iced_x86::{Formatter, GasFormatter, Instruction, OpKind, Register};

use super::{Cause, Comparer, Difference, FIELDS, Same};
use crate::decode::{Body, Field, Insn};
use crate::load::SectionId;
use crate::model::Place;
use crate::object_file::Object;

type In<'x> = (&'x Insn, &'x Body, (SectionId, u64, u64));

impl Comparer<'_, '_> {
    pub(crate) fn instruction(&self, (x, body_x, at_x): In<'_>, (y, body_y, at_y): In<'_>) -> Same {
        let differs = |cause| {
            let text = format!("{} vs {}", show(self.a, x), show(self.b, y));
            Err(Difference::new(cause, text))
        };
        if x.unclear || y.unclear {
            return Err(Difference::new(
                Cause::Unclear,
                format!("{} has a relocation that fits no operand", show(self.a, x)),
            ));
        }
        if x.raw != y.raw || !same_shape(&x.code, &y.code) {
            return differs(Cause::Instruction);
        }
        for i in 0..x.code.op_count() {
            let immediate = x.code.try_immediate(i).ok().zip(y.code.try_immediate(i).ok());
            if let Some((imm_x, imm_y)) = immediate
                && x.reference(Field::Immediate).is_none()
                && imm_x != imm_y
                && !(self.is_line(self.a, at_x.0, x, imm_x)
                    && self.is_line(self.b, at_y.0, y, imm_y))
            {
                return differs(Cause::Instruction);
            }
        }
        if x.reference(Field::Displacement).is_none() && x.displacement() != y.displacement() {
            return differs(Cause::Instruction);
        }
        for field in FIELDS {
            match (x.reference(field), y.reference(field)) {
                (None, None) => {}
                (Some(p), Some(q)) => {
                    let kind = |r: &crate::decode::Reference| r.relocation.map(|r| r.kind());
                    if field != Field::Branch && kind(p) != kind(q) {
                        return differs(Cause::Instruction);
                    }
                    // A jump inside a piece of code that no symbol names.
                    if let (
                        Place::Anonymous { section: sx, offset: ox, .. },
                        Place::Anonymous { section: sy, offset: oy, .. },
                    ) = (p.place, q.place)
                        && let (Some(to_x), Some(to_y)) =
                            (inside(sx, ox, at_x), inside(sy, oy, at_y))
                        && field == Field::Branch
                    {
                        if body_x.position(to_x) == body_y.position(to_y) {
                            continue;
                        }
                        return differs(Cause::Instruction);
                    }
                    let lines = || {
                        self.same_but_for_lines(p.place, q.place, (body_x, at_x), (body_y, at_y))
                    };
                    match self.place(p.place, q.place, true) {
                        Err(d) if d.cause == Cause::String && lines() => {}
                        other => {
                            let indexed = field == Field::Displacement && is_indexed(&x.code);
                            let other = if indexed {
                                other.and_then(|()| self.behind(p.place, q.place))
                            } else {
                                other
                            };
                            other.map_err(|d| self.explain(d, (x, p.place), (y, q.place)))?;
                        }
                    }
                }
                _ => return differs(Cause::Instruction),
            }
        }
        Ok(())
    }

    fn explain(&self, d: Difference, (x, p): (&Insn, Place), (y, q): (&Insn, Place)) -> Difference {
        match d.cause {
            Cause::Reference if x.is_call() => Difference {
                cause: Cause::Callee,
                text: format!("calls {} instead of {}", self.b.describe(q), self.a.describe(p)),
                ..d
            },
            Cause::Reference if matches!((p, q), (Place::Function { function: f, .. }, Place::Function { function: g, .. }) if self.correlation.functions.get(&f) == Some(&g)) => {
                Difference {
                    cause: Cause::Instruction,
                    text: format!("{} goes elsewhere than {}", show(self.b, y), show(self.a, x)),
                    ..d
                }
            }
            _ => d,
        }
    }

    /// Whether an immediate is `__LINE__`: exactly the line that the line table gives for this
    /// very instruction. Nothing else is let through.
    fn is_line(&self, object: &Object<'_>, section: SectionId, insn: &Insn, value: u64) -> bool {
        object.lines().is_ok_and(|lines| lines.at(section, insn.offset).any(|l| l == value))
    }
}

/// Whether a register is added to the place that it refers to.
fn is_indexed(x: &Instruction) -> bool {
    let base = x.memory_base();
    x.memory_index() != Register::None || !matches!(base, Register::None | Register::RIP)
}

/// The offset, if it lies in the piece of code.
fn inside(section: SectionId, offset: i64, (s, start, end): (SectionId, u64, u64)) -> Option<u64> {
    let offset = u64::try_from(offset).ok()?;
    (section == s && (start..=end).contains(&offset)).then_some(offset)
}

/// Everything but immediates, displacements and relocated fields.
fn same_shape(x: &Instruction, y: &Instruction) -> bool {
    let branch =
        |k| matches!(k, OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    let is_branch = (0..x.op_count()).any(|i| branch(x.op_kind(i)));
    // Short and near forms of a branch are one instruction; all else must be the same code.
    if x.mnemonic() != y.mnemonic() || x.op_count() != y.op_count() {
        return false;
    }
    if !is_branch && x.code() != y.code() && !same_but_for_immediate_width(x, y) {
        return false;
    }
    let prefixes = |i: &Instruction| {
        (
            i.has_lock_prefix(),
            i.has_rep_prefix(),
            i.has_repne_prefix(),
            i.segment_prefix(),
            (i.op_mask(), i.zeroing_masking(), i.is_broadcast(), i.rounding_control()),
        )
    };
    prefixes(x) == prefixes(y)
        && (0..x.op_count()).all(|i| match (x.op_kind(i), y.op_kind(i)) {
            (OpKind::Register, OpKind::Register) => x.op_register(i) == y.op_register(i),
            (OpKind::Memory, OpKind::Memory) => {
                x.memory_base() == y.memory_base()
                    && x.memory_index() == y.memory_index()
                    && (x.memory_index() == iced_x86::Register::None
                        || x.memory_index_scale() == y.memory_index_scale())
                    && x.memory_segment() == y.memory_segment()
                    && x.memory_size() == y.memory_size()
            }
            (p, q) if branch(p) => branch(q),
            (p, q) if x.try_immediate(i).is_ok() => y.try_immediate(i).is_ok() || p == q,
            (p, q) => p == q,
        })
}

/// `cmp $imm8,%eax` and `cmp $imm32,%eax`: gas chooses by the value, and the value is compared.
/// This matters where the value is a line number.
fn same_but_for_immediate_width(x: &Instruction, y: &Instruction) -> bool {
    (0..x.op_count()).any(|i| x.try_immediate(i).is_ok() && y.try_immediate(i).is_ok())
        && (0..x.op_count()).all(|i| {
            x.op_kind(i) == y.op_kind(i)
                || (x.try_immediate(i).is_ok() && y.try_immediate(i).is_ok())
        })
}

/// An instruction as AT&T syntax has it, with names for relocated operands.
pub(crate) fn show(object: &Object<'_>, insn: &Insn) -> String {
    if let Some(byte) = insn.raw {
        return format!(".byte {byte:#04x}");
    }
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(false);
    options.set_rip_relative_addresses(true);
    let mut text = String::new();
    formatter.format(&insn.code, &mut text);
    for reference in &insn.references {
        text.push_str(&format!(" <{}>", object.describe(reference.place)));
    }
    text
}
