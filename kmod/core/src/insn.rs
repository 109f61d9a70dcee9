//! As much of x86-64 as matching needs: where an instruction ends, and whether it is a NOP.
//!
//! The kernel's NOP optimiser works on whole instructions (`optimize_nops` in `arch/x86/kernel/alternative.c`),
//! so a `0x90` inside an immediate must not be taken for one.

/// `endbr64`. Where indirect branches are tracked, one to anything else traps.
pub const ENDBR: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// `int3`.
pub const INT3: u8 = 0xcc;
/// `call rel32`.
pub const CALL: u8 = 0xe8;
/// `jmp rel32`.
pub const JMP32: u8 = 0xe9;
/// `jmp rel8`.
pub const JMP8: u8 = 0xeb;
/// `ret`.
pub const RET: u8 = 0xc3;
/// `nop`.
pub const NOP: u8 = 0x90;
/// `cs` prefix, which pads calls of thunks.
pub const CS: u8 = 0x2e;

/// What follows an opcode.
#[derive(Clone, Copy)]
enum Tail {
    /// Nothing but so many bytes of immediate.
    Imm(usize),
    /// 4 bytes of immediate, 2 with an operand size prefix.
    ImmZ,
    /// ModRM and so many bytes of immediate.
    ModRm(usize),
    /// ModRM and 4 bytes of immediate, 2 with an operand size prefix.
    ModRmZ,
    /// ModRM and so many bytes of immediate, if ModRM.reg is 0 or 1 (`test`), else none.
    Test(bool),
    /// Control and debug registers: ModRM whose mod field counts as 3.
    Register,
    /// `mov` of 4 bytes of immediate, 2 with an operand size prefix, 8 with REX.W.
    MovImm,
    /// An absolute address, 8 bytes or 4 with an address size prefix.
    Moffs,
}

/// An instruction's prefixes and opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    /// Length of prefixes and opcode.
    len: usize,
    /// Opcode; two-byte opcodes are `0x0fXX`, three-byte ones `0x0f38` and `0x0f3a`.
    opcode: u16,
    operand_size: bool,
    address_size: bool,
    rep: bool,
    rex: u8,
}

fn head(bytes: &[u8]) -> Option<Head> {
    let mut head =
        Head { len: 0, opcode: 0, operand_size: false, address_size: false, rep: false, rex: 0 };
    loop {
        let byte = *bytes.get(head.len)?;
        head.len += 1;
        match byte {
            0x66 => head.operand_size = true,
            0x67 => head.address_size = true,
            0xf2 | 0xf3 => head.rep = true,
            0xf0 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
            // REX counts only directly before the opcode; before another prefix no compiler emits it.
            0x40..=0x4f => {
                head.rex = byte;
                let opcode = *bytes.get(head.len)?;
                head.len += 1;
                return finish(head, opcode, bytes);
            }
            opcode => return finish(head, opcode, bytes),
        }
    }
}

fn finish(mut head: Head, opcode: u8, bytes: &[u8]) -> Option<Head> {
    head.opcode = u16::from(opcode);
    if opcode == 0x0f {
        let second = *bytes.get(head.len)?;
        head.len += 1;
        head.opcode = 0x0f00 | u16::from(second);
        if second == 0x38 || second == 0x3a {
            bytes.get(head.len)?;
            head.len += 1;
        }
    }
    Some(head)
}

/// Intel SDM volume 2, appendix A; VEX, EVEX and what 64-bit mode lacks are unknown.
fn tail(opcode: u16) -> Option<Tail> {
    use Tail::*;
    Some(match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => ModRm(0),
            4 => Imm(1),
            5 => ImmZ,
            _ => return None,
        },
        0x50..=0x5f | 0x6c..=0x6f | 0x90..=0x99 | 0x9b..=0x9f | 0xa4..=0xa7 | 0xaa..=0xaf => Imm(0),
        0x63 | 0x84..=0x8e | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => ModRm(0),
        0x68 | 0xa9 => ImmZ,
        0x69 | 0x81 | 0xc7 => ModRmZ,
        0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe0..=0xe7 | 0xeb => Imm(1),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => ModRm(1),
        0xa0..=0xa3 => Moffs,
        0xb8..=0xbf => MovImm,
        0xc2 | 0xca => Imm(2),
        0xc3 | 0xc9 | 0xcb | 0xcc | 0xcf | 0xd7 | 0xec..=0xef | 0xf1 | 0xf4 | 0xf5 => Imm(0),
        0xf8..=0xfd => Imm(0),
        0xc8 => Imm(3),
        0xe8 | 0xe9 => Imm(4),
        0xf6 => Test(false),
        0xf7 => Test(true),
        0x0f00..=0x0f03 | 0x0f0d | 0x0f10..=0x0f1f | 0x0f28..=0x0f2f | 0x0f38 => ModRm(0),
        0x0f05..=0x0f09 | 0x0f0b | 0x0f30..=0x0f35 | 0x0f37 | 0x0f77 => Imm(0),
        0x0f20..=0x0f23 => Register,
        0x0f3a | 0x0f70..=0x0f73 | 0x0fa4 | 0x0fac | 0x0fba | 0x0fc2 | 0x0fc4..=0x0fc6 => ModRm(1),
        0x0f40..=0x0f6f | 0x0f74..=0x0f76 | 0x0f7c..=0x0f7f | 0x0f90..=0x0f9f => ModRm(0),
        0x0f80..=0x0f8f => Imm(4),
        0x0fa0..=0x0fa2 | 0x0fa8..=0x0faa | 0x0fc8..=0x0fcf => Imm(0),
        0x0fa3 | 0x0fa5 | 0x0fab | 0x0fad..=0x0fb9 | 0x0fbb..=0x0fc1 | 0x0fc3 | 0x0fc7 => ModRm(0),
        0x0fd0..=0x0fff => ModRm(0),
        _ => return None,
    })
}

/// Length of ModRM, SIB and displacement.
fn modrm_len(bytes: &[u8]) -> Option<usize> {
    let modrm = *bytes.first()?;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    if mode == 3 {
        return Some(1);
    }
    let (sib, base) = if rm == 4 { (1, *bytes.get(1)? & 7) } else { (0, rm) };
    let displacement = match mode {
        0 if base == 5 => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    Some(1 + sib + displacement)
}

/// Length of the instruction at the start of `bytes`, if it is one that is known and whole.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let head = head(bytes)?;
    let rest = bytes.get(head.len..)?;
    let wide = head.rex & 8 != 0;
    let z = if head.operand_size && !wide { 2 } else { 4 };
    let tail_len = match tail(head.opcode)? {
        Tail::Imm(len) => len,
        Tail::ImmZ => z,
        Tail::ModRm(len) => modrm_len(rest)? + len,
        Tail::ModRmZ => modrm_len(rest)? + z,
        Tail::Test(long) => {
            let is_test = (*rest.first()? >> 3) & 7 < 2;
            modrm_len(rest)?
                + if !is_test {
                    0
                } else if long {
                    z
                } else {
                    1
                }
        }
        Tail::Register => 1,
        Tail::MovImm => {
            if wide {
                8
            } else {
                z
            }
        }
        Tail::Moffs => {
            if head.address_size {
                4
            } else {
                8
            }
        }
    };
    let len = head.len + tail_len;
    (len <= 15 && len <= bytes.len()).then_some(len)
}

/// Length of the NOP at the start of `bytes`: `nop` or `nopl` with any padding prefixes, as in the kernel's
/// `insn_is_nop` (6.12, `arch/x86/kernel/alternative.c`); not `pause`.
pub fn nop(bytes: &[u8]) -> Option<usize> {
    let head = head(bytes)?;
    let locked = bytes.get(..head.len)?.contains(&0xf0);
    if head.rep || locked || head.rex != 0 {
        return None;
    }
    match head.opcode {
        0x90 | 0x0f1f => length(bytes),
        _ => None,
    }
}

/// Whether all of `bytes` does nothing: NOPs, or a jump to its end over `int3`s.
///
/// 6.1 fills with NOPs of at most 8 bytes (`add_nops`), 6.12 with one of at most 11 or with a jump (`add_nop`).
pub fn all_nops(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        if let Some(len) = nop(rest) {
            rest = rest.get(len..).unwrap_or(&[]);
            continue;
        }
        let (skipped, distance) = match rest {
            [JMP8, rel, skipped @ ..] => (skipped, usize::from(*rel)),
            [JMP32, a, b, c, d, skipped @ ..] => {
                (skipped, u32::from_le_bytes([*a, *b, *c, *d]) as usize)
            }
            _ => return false,
        };
        return skipped.len() == distance && skipped.iter().all(|&byte| byte == INT3);
    }
    true
}

/// The 4 bytes at `offset`, sign-extended.
pub fn rel32(bytes: &[u8], offset: usize) -> Option<i64> {
    let field = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(i64::from(i32::from_le_bytes(*field)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};
    use proptest::prelude::*;

    /// The padding NOPs of `arch/x86/include/asm/nops.h`, 1 to 11 bytes.
    pub(crate) const NOPS: [&[u8]; 11] = [
        &[0x90],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x0f, 0x1f, 0x40, 0x00],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
        &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        &[0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        &[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
    ];

    #[test]
    fn knows_the_kernels_nops() {
        for (index, bytes) in NOPS.iter().enumerate() {
            assert_eq!(nop(bytes), Some(index + 1), "{bytes:x?}");
            assert!(all_nops(bytes));
        }
        assert_eq!(nop(&[0xf3, 0x90]), None, "pause");
        assert_eq!(nop(&[0x41, 0x90]), None, "xchg r8, rax");
        assert_eq!(nop(&[0x0f, 0x1f]), None, "cut");
    }

    #[test]
    fn a_jump_over_int3_does_nothing() {
        let mut bytes = vec![INT3; 12];
        bytes[..2].copy_from_slice(&[JMP8, 10]);
        assert!(all_nops(&bytes));
        bytes[1] = 9;
        assert!(!all_nops(&bytes));
        bytes[1] = 10;
        bytes[5] = 0x90;
        assert!(!all_nops(&bytes));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn lengths_agree_with_iced(bytes in proptest::collection::vec(any::<u8>(), 15),
                                   prefix in 0usize..4, escape: bool) {
            let mut bytes = bytes;
            // Random bytes seldom start with what compilers emit.
            match prefix { 1 => bytes[0] = 0x48, 2 => bytes[0] = 0x66, 3 => bytes[0] = 0x65, _ => {} }
            if escape { bytes[usize::from(prefix != 0)] = 0x0f; }
            let mut decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
            let instruction = decoder.decode();
            if let (false, Some(len)) = (instruction.is_invalid(), length(&bytes)) {
                prop_assert_eq!(len, instruction.len(), "{:x?}", &bytes);
            }
        }
    }
}
