//! Code of two images, instruction by instruction, operands by what they point at.

use std::cell::OnceCell;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, GasFormatter, Instruction, Mnemonic, OpKind,
    Register,
};

use super::content::{Reads, same};
use super::names::{Names, Target};
use super::per_cpu::{self, Field, Offsets};
use super::special;
use crate::lines::Lines;

/// Where the kernel is linked to (`__START_KERNEL_map`).
pub(super) const KERNEL: u64 = 0xffff_ffff_8000_0000;

/// Numbers below may be offsets of per-CPU variables, which start at 0.
const SMALL: u64 = 1 << 31;

/// Numbered variables and functions that two functions would have to share.
pub(super) type Pairs = Vec<(u32, u32)>;

/// What comes of two functions: nothing differs if the variables are pairs; or what does.
pub(super) type Compared = std::result::Result<Pairs, String>;

/// A function of one side, with the lines of its source if they are known.
pub(super) type Lined<'n, 'i, 'd> = (&'n Names<'i, 'd>, u32, Option<&'n Lines>);

/// One side of a comparison.
pub(super) struct Side<'n, 'i, 'd> {
    pub names: &'n Names<'i, 'd>,
    lines: Option<&'n Lines>,
    /// The address of its first byte.
    pub start: u64,
    pub bytes: &'i [u8],
    /// Which of its numbers are per-CPU variables, once that is asked for.
    offsets: OnceCell<Offsets>,
}

impl<'n, 'i, 'd> Side<'n, 'i, 'd> {
    pub fn new((names, id, lines): Lined<'n, 'i, 'd>) -> Self {
        let symbol = names.image.symbols.get(id as usize);
        let (start, size) = symbol.map_or((0, 0), |s| (s.address, s.size));
        Self::at(names, lines, start, usize::try_from(size).unwrap_or(usize::MAX))
    }

    /// Code that is no function of its own: at most so many bytes from an address.
    pub fn aside(&self, start: u64, len: usize) -> Self {
        Self::at(self.names, None, start, len)
    }

    fn at(names: &'n Names<'i, 'd>, lines: Option<&'n Lines>, start: u64, len: usize) -> Self {
        let bytes = names.bytes(start);
        let bytes = bytes.get(..len).unwrap_or(bytes);
        Self { names, lines, start, bytes, offsets: OnceCell::new() }
    }

    pub fn decoder(&self) -> Decoder<'i> {
        Decoder::with_ip(64, self.bytes, self.start, DecoderOptions::NONE)
    }

    /// The instruction at an address, and the decoder, which knows where the numbers of its last instruction are.
    fn decoded(&self, address: u64) -> Option<(Decoder<'i>, Instruction)> {
        let from = usize::try_from(self.inside(address)?).ok()?;
        let bytes = self.bytes.get(from..)?;
        let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
        let instruction = decoder.decode();
        Some((decoder, instruction))
    }

    /// How far into this code an address leads.
    pub fn inside(&self, address: u64) -> Option<u64> {
        let offset = address.wrapping_sub(self.start);
        (offset < self.bytes.len() as u64).then_some(offset)
    }

    /// Whether an address here and one of the other side are the same place.
    pub fn same_place(&self, p: u64, other: &Self, q: u64, pairs: &mut Pairs) -> bool {
        match (self.inside(p), other.inside(q)) {
            (None, None) => same((self.names, p), (other.names, q), Reads::AtLeast(0), pairs),
            (p, q) => p == q,
        }
    }

    /// Whether a number is the source line of the instruction at an address.
    fn is_line(&self, number: u64, address: u64) -> bool {
        let lines = self.lines.into_iter().flat_map(|lines| lines.at_address(address));
        let start = self.start;
        lines.filter(|(from, _)| *from >= start).any(|(_, line)| line == number)
    }

    /// Whether a number of the instruction at an address is an offset of a per-CPU variable.
    pub fn is_offset(&self, number: u64, address: u64, field: Field) -> bool {
        number >= per_cpu::LEAST
            && self.names.occupied(number)
            && self
                .offsets
                .get_or_init(|| per_cpu::offsets(self.names, self.decoder().into_iter()))
                .contains(&(address, field))
    }

    fn show(&self, instruction: &Instruction) -> String {
        if instruction.is_invalid() {
            return "bytes that are no instruction".to_owned();
        }
        let mut text = String::new();
        GasFormatter::new().format(instruction, &mut text);
        match address_in(instruction) {
            Some(address) => format!("`{text}` ({})", self.names.describe(address)),
            None => format!("`{text}`"),
        }
    }
}

/// The address that a person would want explained.
fn address_in(instruction: &Instruction) -> Option<u64> {
    if branches(instruction) {
        Some(instruction.near_branch_target())
    } else if instruction.is_ip_rel_memory_operand() {
        Some(instruction.ip_rel_memory_address())
    } else {
        let immediates =
            (0..instruction.op_count()).filter_map(|i| instruction.try_immediate(i).ok());
        let mut numbers = immediates.chain([instruction.memory_displacement64()]);
        numbers.find(|number| is_address(*number))
    }
}

/// Whether a number is an address of a kernel rather than a small one below 0.
pub(super) fn is_address(number: u64) -> bool {
    (KERNEL..u64::MAX - 0xff_ffff).contains(&number)
}

pub(super) fn branches(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::NearBranch64
}

/// Compares two functions.
pub(super) fn compare(x: Lined<'_, '_, '_>, y: Lined<'_, '_, '_>) -> Compared {
    let (a, b) = (Side::new(x), Side::new(y));
    let mut pairs = Pairs::new();
    same_code(&a, &b, &mut pairs)?;
    special::compare(&a, &b, &mut pairs).map(|()| pairs)
}

/// Compares all instructions of both sides.
pub(super) fn same_code(
    a: &Side<'_, '_, '_>,
    b: &Side<'_, '_, '_>,
    pairs: &mut Pairs,
) -> std::result::Result<(), String> {
    let (mut old, mut new) = (a.decoder(), b.decoder());
    let (mut i, mut j) = (Instruction::default(), Instruction::default());
    loop {
        match (old.can_decode(), new.can_decode()) {
            (false, false) => return Ok(()),
            (true, true) => {}
            _ => return Err(format!("{} bytes of code became {}", a.bytes.len(), b.bytes.len())),
        }
        old.decode_out(&mut i);
        new.decode_out(&mut j);
        if !instruction(a, (&i, &old), b, (&j, &new), pairs) {
            let at = i.ip().wrapping_sub(a.start);
            return Err(format!("at +{at:#x}: {} became {}", a.show(&i), b.show(&j)));
        }
    }
}

/// Whether the instruction at an address of one side is the one at an address of the other.
pub(super) fn same_at(
    a: &Side<'_, '_, '_>,
    p: u64,
    b: &Side<'_, '_, '_>,
    q: u64,
    pairs: &mut Pairs,
) -> bool {
    match (a.decoded(p), b.decoded(q)) {
        (Some((old, i)), Some((new, j))) => instruction(a, (&i, &old), b, (&j, &new), pairs),
        _ => false,
    }
}

/// Whether two instructions are the same.
fn instruction(
    a: &Side<'_, '_, '_>,
    (i, old): (&Instruction, &Decoder<'_>),
    b: &Side<'_, '_, '_>,
    (j, new): (&Instruction, &Decoder<'_>),
    pairs: &mut Pairs,
) -> bool {
    let raw = |side: &Side<'_, '_, '_>, i: &Instruction| {
        let at = i.ip().wrapping_sub(side.start) as usize;
        (at, at + i.len())
    };
    let ((from, to), (from_b, to_b)) = (raw(a, i), raw(b, j));
    let (Some(x), Some(y)) = (a.bytes.get(from..to), b.bytes.get(from_b..to_b)) else {
        return false;
    };
    if i.code() != j.code() || x.len() != y.len() {
        return false;
    }
    if i.is_invalid() {
        return x == y;
    }
    let (fields, others) = (old.get_constant_offsets(i), new.get_constant_offsets(j));
    if fields.displacement_offset() != others.displacement_offset()
        || fields.immediate_offset() != others.immediate_offset()
        || fields.displacement_size() != others.displacement_size()
        || fields.immediate_size() != others.immediate_size()
    {
        return false;
    }
    let field = |at: usize| {
        let within = |start: usize, size: usize| (start..start + size).contains(&at);
        within(fields.displacement_offset(), fields.displacement_size())
            || within(fields.immediate_offset(), fields.immediate_size())
            || within(fields.immediate_offset2(), fields.immediate_size2())
    };
    // Everything but numbers must be equal as it is.
    if x != y && x.iter().zip(y).enumerate().any(|(at, (p, q))| p != q && !field(at)) {
        return false;
    }
    if branches(i) {
        let (p, q) = (i.near_branch_target(), j.near_branch_target());
        return a.same_place(p, b, q, pairs) || same_aside(a, p, b, q, pairs);
    }
    let (x, y) = ((a, i), (b, j));
    same_memory(x, y, fields.displacement_size(), pairs) && same_immediates(x, y, pairs)
}

/// An instruction of one side.
type Of<'x, 'n, 'i, 'd> = (&'x Side<'n, 'i, 'd>, &'x Instruction);

/// Whether the operands in memory of two instructions are the same, as far as these are numbers: of so many bytes.
fn same_memory(
    x: Of<'_, '_, '_, '_>,
    y: Of<'_, '_, '_, '_>,
    bytes: usize,
    pairs: &mut Pairs,
) -> bool {
    let ((a, i), (b, j)) = (x, y);
    let (p, q) = (i.memory_displacement64(), j.memory_displacement64());
    let plain = i.is_ip_rel_memory_operand()
        || i.memory_base() == Register::None && i.memory_index() == Register::None;
    let reads = match i.memory_size().size() {
        _ if i.mnemonic() == Mnemonic::Lea => Reads::AtLeast(0),
        0 => Reads::AtLeast(0),
        size if plain => Reads::Exactly(size),
        // An index may begin at 1, so that the first one lies before what is read.
        size => Reads::AtLeast(size.saturating_mul(2)),
    };
    if i.is_ip_rel_memory_operand() {
        return same((a.names, p), (b.names, q), reads, pairs);
    }
    if bytes < 4 {
        return p == q;
    }
    if i.memory_segment() == Register::GS {
        // There may be nothing with a name: the members of what is allocated for each CPU begin at 0.
        let unnamed = |side: &Side<'_, '_, '_>, n| {
            n < SMALL && !matches!(side.names.at(n), Target::Symbol(..))
        };
        let number = p == q && unnamed(a, p) && unnamed(b, q);
        return number || same((a.names, p), (b.names, q), reads, pairs);
    }
    same_number((x, p), (y, q), Field::Displacement, reads, pairs)
}

fn same_immediates(x: Of<'_, '_, '_, '_>, y: Of<'_, '_, '_, '_>, pairs: &mut Pairs) -> bool {
    let ((a, i), (b, j)) = (x, y);
    (0..i.op_count()).all(|operand| match i.try_immediate(operand) {
        Ok(p) if is_mask(i) => j.try_immediate(operand).is_ok_and(|q| p == q),
        Ok(p) => j.try_immediate(operand).is_ok_and(|q| {
            same_number((x, p), (y, q), Field::Immediate, Reads::AtLeast(0), pairs)
                || a.is_line(p, i.ip()) && b.is_line(q, j.ip())
        }),
        Err(_) => true,
    })
}

/// A mask may look like an address.
pub(super) fn is_mask(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Test | Mnemonic::And | Mnemonic::Or | Mnemonic::Xor)
}

/// Whether two addresses are the same code that no symbol names, up to where it leaves: the kernel's `static_cpu_has` moves
/// its test of a bit out of the way, to `.altinstr_aux`, from where it jumps back; and what assembly does after a fault
/// has no name of its own.
pub(super) fn same_aside(
    a: &Side<'_, '_, '_>,
    p: u64,
    b: &Side<'_, '_, '_>,
    q: u64,
    pairs: &mut Pairs,
) -> bool {
    const LONGEST: usize = 64;
    let is_aside = |side: &Side<'_, '_, '_>, start| matches!(side.names.at(start), Target::Anonymous(id) if side.names.executable(id));
    if !is_aside(a, p) || !is_aside(b, q) {
        return false;
    }
    let until = |names: &Names<'_, '_>, start| names.unnamed(start, 0).min(LONGEST);
    let (a, b) = (a.aside(p, until(a.names, p)), b.aside(q, until(b.names, q)));
    if !special::alike(&a, &b) {
        return false;
    }
    let (mut old, mut new) = (a.decoder(), b.decoder());
    while old.can_decode() && new.can_decode() {
        let (i, j) = (old.decode(), new.decode());
        // One such place does not lead to another: that would have no end.
        let leads_on = |names: &Names<'_, '_>, i: &Instruction| {
            branches(i) && matches!(names.at(i.near_branch_target()), Target::Anonymous(_))
        };
        let far = leads_on(a.names, &i) && a.inside(i.near_branch_target()).is_none();
        if far || i.is_invalid() || !instruction(&a, (&i, &old), &b, (&j, &new), pairs) {
            return false;
        }
        if matches!(i.flow_control(), FlowControl::UnconditionalBranch | FlowControl::Return) {
            return true;
        }
    }
    // It may go on into what has a name.
    let end = |side: &Side<'_, '_, '_>| side.start.wrapping_add(side.bytes.len() as u64);
    let (p, q) = (end(&a), end(&b));
    let named = |names: &Names<'_, '_>, at| matches!(names.at(at), Target::Symbol(_, 0));
    let ended = !old.can_decode() && !new.can_decode();
    ended
        && named(a.names, p)
        && named(b.names, q)
        && same((a.names, p), (b.names, q), Reads::AtLeast(0), pairs)
}

/// Whether two numbers mean the same: equal, unless they are addresses in the images or of per-CPU variables.
fn same_number(
    ((a, i), p): (Of<'_, '_, '_, '_>, u64),
    ((b, j), q): (Of<'_, '_, '_, '_>, u64),
    field: Field,
    reads: Reads,
    pairs: &mut Pairs,
) -> bool {
    if p >= SMALL || q >= SMALL {
        // A number like any other may happen to lie where the code of both has nothing.
        let nowhere = || a.names.is_filling(p) && b.names.is_filling(q);
        let number = matches!(field, Field::Immediate) && p == q && nowhere();
        return number || same((a.names, p), (b.names, q), reads, pairs);
    }
    match (a.is_offset(p, i.ip(), field), b.is_offset(q, j.ip(), field)) {
        (true, true) => same((a.names, p), (b.names, q), reads, pairs),
        (false, false) => p == q,
        _ => false,
    }
}
