//! Code as sequences of instructions. Instructions are decoded to be compared, never to be
//! encoded again.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use object::elf;

use crate::load::{Elf, Relocation, SectionId};
use crate::model::{Model, Place};

/// Which part of an instruction a reference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The displacement of a memory operand.
    Displacement,
    /// An immediate operand.
    Immediate,
    /// The target of a direct branch or call.
    Branch,
}

/// A reference from an instruction to a place.
#[derive(Debug, Clone, Copy)]
pub struct Reference {
    /// The part of the instruction.
    pub field: Field,
    /// The relocation; none if the assembler resolved it.
    pub relocation: Option<Relocation>,
    /// What is referred to, corrected for the position of the field in the instruction.
    pub place: Place,
}

/// A decoded instruction.
#[derive(Debug, Clone)]
pub struct Insn {
    /// Offset in the section.
    pub offset: u64,
    /// The decoded form; its IP is the section offset.
    pub code: Instruction,
    /// For a byte that is no instruction: its value.
    pub raw: Option<u8>,
    /// At most two.
    pub references: Vec<Reference>,
    /// A relocation that fits no operand: nothing sure can be said.
    pub unclear: bool,
}

impl Insn {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        if self.raw.is_some() { 1 } else { self.code.len() as u64 }
    }

    /// Always false: an instruction has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The reference in the given field.
    pub fn reference(&self, field: Field) -> Option<&Reference> {
        self.references.iter().find(|r| r.field == field)
    }

    /// The displacement of a memory operand that is not relative to the instruction. (iced
    /// keeps the target of a branch in the same place.)
    pub fn displacement(&self) -> Option<u64> {
        let memory = (0..self.code.op_count()).any(|i| self.code.op_kind(i) == OpKind::Memory);
        (memory && !self.code.is_ip_rel_memory_operand()).then(|| self.code.memory_displacement64())
    }

    /// Whether this is a direct or indirect call.
    pub fn is_call(&self) -> bool {
        matches!(self.code.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
    }
}

/// A piece of code without its padding.
#[derive(Debug, Default, Clone)]
pub struct Body {
    /// The instructions that count.
    pub insns: Vec<Insn>,
}

impl Body {
    /// Which instruction is at a section offset (and how far into it): padding before an
    /// instruction counts as that instruction.
    pub fn position(&self, offset: u64) -> (usize, u64) {
        let after = self.insns.partition_point(|i| i.offset <= offset);
        match after.checked_sub(1).and_then(|i| self.insns.get(i).map(|insn| (i, insn))) {
            Some((i, insn)) if offset < insn.offset + insn.len() => (i, offset - insn.offset),
            _ => (after, 0),
        }
    }
}

/// Decodes `start..end` of a section. No-operations are dropped unless `pinned` says that
/// something refers to that place (a patch site); padding at the end is always dropped.
pub fn decode(
    elf: &Elf<'_>,
    model: &Model,
    section: SectionId,
    (start, end): (u64, u64),
    pinned: &dyn Fn(u64) -> bool,
) -> Body {
    let Ok(sec) = elf.section(section) else { return Body::default() };
    let Some(bytes) = sec.bytes(start, end.saturating_sub(start)) else {
        return Body::default();
    };
    let mut insns = Vec::with_capacity(bytes.len() / 4);
    let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
    while decoder.can_decode() {
        let position = decoder.position();
        let offset = start + position as u64;
        let code = decoder.decode();
        if code.is_invalid() {
            let raw = bytes.get(position).copied();
            if decoder.set_position(position + 1).is_err() {
                break;
            }
            decoder.set_ip(offset + 1);
            let unclear = !sec.relocations_in(offset, offset + 1).is_empty();
            insns.push(Insn { offset, code, raw, references: Vec::new(), unclear });
            continue;
        }
        if code.mnemonic() == Mnemonic::Nop && !pinned(offset) {
            continue;
        }
        let constants = decoder.get_constant_offsets(&code);
        let mut insn = Insn { offset, code, raw: None, references: Vec::new(), unclear: false };
        relocated(
            elf,
            model,
            sec.relocations_in(offset, offset + insn.len()),
            &constants,
            &mut insn,
        );
        unrelocated(model, section, &mut insn);
        insns.push(insn);
    }
    while insns.last().is_some_and(|i| i.code.code() == Code::Int3 && !pinned(i.offset)) {
        insns.pop();
    }
    Body { insns }
}

fn is_branch(code: &Instruction) -> bool {
    (0..code.op_count()).any(|i| {
        matches!(
            code.op_kind(i),
            iced_x86::OpKind::NearBranch16
                | iced_x86::OpKind::NearBranch32
                | iced_x86::OpKind::NearBranch64
        )
    })
}

fn relocated(
    elf: &Elf<'_>,
    model: &Model,
    relocations: &[Relocation],
    constants: &iced_x86::ConstantOffsets,
    insn: &mut Insn,
) {
    for &relocation in relocations {
        let at = relocation.offset - insn.offset;
        let field = if constants.has_displacement() && at == constants.displacement_offset() as u64
        {
            Field::Displacement
        } else if constants.has_immediate() && at == constants.immediate_offset() as u64 {
            if is_branch(&insn.code) { Field::Branch } else { Field::Immediate }
        } else {
            insn.unclear = true;
            continue;
        };
        let expects_pc = field == Field::Branch || insn.code.is_ip_rel_memory_operand();
        let fits = relocation.is_pc_relative() == expects_pc
            || (field == Field::Immediate && !relocation.is_pc_relative());
        if !fits {
            insn.unclear = true;
        }
        if relocation.r_type == elf::R_X86_64_SIZE32 || relocation.r_type == elf::R_X86_64_SIZE64 {
            insn.unclear = true;
        }
        // S + A - P is stored; what the instruction means is that plus its own end.
        let correction = if relocation.is_pc_relative() { (insn.len() - at) as i64 } else { 0 };
        let place =
            model.resolve(elf, relocation.symbol, relocation.addend.wrapping_add(correction));
        insn.references.push(Reference { field, relocation: Some(relocation), place });
    }
}

/// References the assembler resolved itself, because both ends are in one section.
fn unrelocated(model: &Model, section: SectionId, insn: &mut Insn) {
    if is_branch(&insn.code) && insn.reference(Field::Branch).is_none() {
        let target = insn.code.near_branch_target() as i64;
        insn.references.push(Reference {
            field: Field::Branch,
            relocation: None,
            place: model.at(section, target),
        });
    }
    if insn.code.is_ip_rel_memory_operand() && insn.reference(Field::Displacement).is_none() {
        let target = insn.code.ip_rel_memory_address() as i64;
        insn.references.push(Reference {
            field: Field::Displacement,
            relocation: None,
            place: model.at(section, target),
        });
    }
}
