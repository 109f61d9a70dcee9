//! Whether a redirection handler is what it should be.

use crate::insn::ENDBR;
use crate::update::Handler;

/// The longest handler.
pub const HANDLER_LEN: usize = 48;

/// `endbr64`, and the NOP that the kernel puts in its place where nothing jumps (`apply_seal_endbr`).
pub(crate) const ENTRIES: [&[u8]; 2] = [&ENDBR, &[0x66, 0x0f, 0x1f, 0x00]];
/// `add $8, %rsp`.
pub(crate) const DROP: &[u8] = &[0x48, 0x83, 0xc4, 0x08];
/// `cmpb $0, …(%rip)`, before the displacement.
pub(crate) const COMPARE: &[u8] = &[0x80, 0x3d];
/// The immediate of the comparison, and `je` over the drop and the jump.
const EQUAL: &[u8] = &[0x00, 0x74, 0x09];
/// The immediate of the comparison with the bridge's number, and `jb` over all that follows.
const BELOW: &[u8] = &[0x01, 0x72, 0x10];
/// `lea 8(%rsp), %rsp`: drops the return address, and keeps the flags.
const DROP_KEEPING: &[u8] = &[0x48, 0x8d, 0x64, 0x24, 0x08];
/// `je` with four bytes.
const JUMP_EQUAL: &[u8] = &[0x0f, 0x84];
/// `push` of the registers that arguments come in.
pub(crate) const SAVE: &[u8] = &[0x57, 0x56, 0x52, 0x51, 0x41, 0x50, 0x41, 0x51];
/// `call`.
pub(crate) const CALL: &[u8] = &[0xe8];
/// `pop` of them; `test %eax, %eax`, and `je` over the drop and the jump.
const RESTORE: &[u8] = &[0x41, 0x59, 0x41, 0x58, 0x59, 0x5a, 0x5e, 0x5f, 0x85, 0xc0, 0x74, 0x09];
/// `ret`, or a jump that some mitigation has made of it.
pub(crate) const RETURNS: [u8; 2] = [0xc3, 0xe9];
/// `jmp`.
pub(crate) const JUMP: &[u8] = &[0xe9];

/// Whether `code`, which is at `address`, is the handler of that kind that leads to the edition at `clone` and asks
/// the flag at `active`: `handlers.S` as docs/architecture.md shows it. A record that mixes up two functions'
/// handlers would send the calls of one to the edition of the other.
pub fn is_handler(code: &[u8], address: u64, kind: Handler, clone: u64, active: u64) -> bool {
    let mut cursor = Cursor { rest: code, address };
    let entered = ENTRIES.into_iter().any(|entry| cursor.take(entry));
    let asks = match kind {
        Handler::Steady => true,
        // The displacement counts from the end of the instruction, after the immediate.
        Handler::Transition => {
            cursor.take(COMPARE) && cursor.target(1) == Some(active) && cursor.take(EQUAL)
        }
    };
    entered && asks && cursor.take(DROP) && cursor.take(JUMP) && cursor.target(0) == Some(clone)
}

/// Whether `code`, which is at `address`, is the transition handler of an update with phases: it reads the byte at
/// `active` once, and goes on in edition 0, or to the one at `bridge`, or to the one at `last`.
pub fn is_phase_handler(code: &[u8], address: u64, bridge: u64, last: u64, active: u64) -> bool {
    let mut cursor = Cursor { rest: code, address };
    ENTRIES.into_iter().any(|entry| cursor.take(entry))
        && cursor.take(COMPARE)
        && cursor.target(1) == Some(active)
        && cursor.take(BELOW)
        && cursor.take(DROP_KEEPING)
        && cursor.take(JUMP_EQUAL)
        && cursor.target(0) == Some(bridge)
        && cursor.take(JUMP)
        && cursor.target(0) == Some(last)
        && cursor.rest.first().is_some_and(|byte| RETURNS.contains(byte))
}

/// Whether `code`, which is at `address`, is a steady handler that leads to the edition at `clone` only if the update's
/// own adaptation handler says so: the address of that one.
pub fn adaptation_of(code: &[u8], address: u64, clone: u64) -> Option<u64> {
    let mut cursor = Cursor { rest: code, address };
    let entered = ENTRIES.into_iter().any(|entry| cursor.take(entry));
    if !(entered && cursor.take(SAVE) && cursor.take(CALL)) {
        return None;
    }
    let adaptation = cursor.target(0)?;
    let taken = cursor.take(RESTORE) && cursor.take(DROP) && cursor.take(JUMP);
    (taken && cursor.target(0) == Some(clone)).then_some(adaptation)
}

/// Whether `code` is a handler that goes back to edition 0: `endbr64; ret`, the latter as whatever mitigation the
/// kernel has made of it, which is a jump if it is not itself.
pub fn is_leave(code: &[u8]) -> bool {
    ENTRIES.into_iter().any(|entry| {
        code.strip_prefix(entry).and_then(<[u8]>::first).is_some_and(|byte| RETURNS.contains(byte))
    })
}

/// Bytes, and what the relative field behind them refers to, with how many bytes follow it in the instruction.
type Part<'a> = (&'a [u8], Option<(u64, u64)>);

/// Writes a handler to `into`, and breakpoints to what is left: at `at`, it asks the byte at `flag` and goes to `on` if
/// that is not 0, else to `off`. `None` if something is out of reach.
pub fn choice(at: u64, flag: u64, on: u64, off: u64, into: &mut [u8; HANDLER_LEN]) -> Option<()> {
    // endbr64; cmpb $0, flag(%rip); je off; jmp on
    let parts: [Part<'_>; 5] = [
        (&ENDBR, None),
        (COMPARE, Some((flag, 1))),
        (&[0x00], None),
        (&[0x0f, 0x84], Some((off, 0))),
        (JUMP, Some((on, 0))),
    ];
    into.fill(0xcc);
    let mut len = 0;
    for (bytes, target) in parts {
        into.get_mut(len..)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
        len = len.checked_add(bytes.len())?;
        if let Some((to, after)) = target {
            let end = at.checked_add(len as u64)?.checked_add(4)?.checked_add(after)?;
            let distance = i32::try_from(to.wrapping_sub(end).cast_signed()).ok()?;
            into.get_mut(len..)?.get_mut(..4)?.copy_from_slice(&distance.to_le_bytes());
            len = len.checked_add(4)?;
        }
    }
    Some(())
}

/// Code that is read in order.
pub(crate) struct Cursor<'a> {
    pub(crate) rest: &'a [u8],
    pub(crate) address: u64,
}

impl Cursor<'_> {
    /// Passes `bytes`, if they come next.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> bool {
        let Some(rest) = self.rest.strip_prefix(bytes) else { return false };
        self.rest = rest;
        self.address = self.address.wrapping_add(bytes.len() as u64);
        true
    }

    /// Passes a relative field; what it refers to, if the instruction ends `more` bytes after the field.
    pub(crate) fn target(&mut self, more: u64) -> Option<u64> {
        let (field, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        self.address = self.address.wrapping_add(4);
        let distance = i64::from(i32::from_le_bytes(*field)).cast_unsigned();
        Some(self.address.wrapping_add(more).wrapping_add(distance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0xffff_ffff_c000_0000;
    const CLONE: u64 = AT + 0x100;
    const ACTIVE: u64 = AT + 0x1000;

    /// As the assembler writes them.
    fn handler(kind: Handler) -> Vec<u8> {
        let mut code = vec![0xf3, 0x0f, 0x1e, 0xfa];
        if kind == Handler::Transition {
            code.extend([0x80, 0x3d]);
            code.extend((0x1000u32 - 11).to_le_bytes());
            code.extend([0, 0x74, 9]);
        }
        code.extend([0x48, 0x83, 0xc4, 8, 0xe9]);
        let end = code.len() as u32 + 4;
        code.extend((0x100 - end).to_le_bytes());
        code.extend([0xcc; 3]);
        code
    }

    #[test]
    fn each_kind_is_itself_only() {
        for kind in [Handler::Steady, Handler::Transition] {
            let code = handler(kind);
            assert!(is_handler(&code, AT, kind, CLONE, ACTIVE));
            assert!(!is_handler(&code, AT, kind, CLONE + 16, ACTIVE));
            assert!(!is_handler(&code, AT + 16, kind, CLONE, ACTIVE));
            assert_eq!(is_handler(&code, AT, kind, CLONE, ACTIVE + 1), kind == Handler::Steady);
            let other = match kind {
                Handler::Steady => Handler::Transition,
                Handler::Transition => Handler::Steady,
            };
            assert!(!is_handler(&code, AT, other, CLONE, ACTIVE));
        }
    }

    #[test]
    fn every_byte_counts() {
        for kind in [Handler::Steady, Handler::Transition] {
            let code = handler(kind);
            for at in 0..code.len() - 3 {
                let mut code = code.clone();
                code[at] ^= 1;
                assert!(!is_handler(&code, AT, kind, CLONE, ACTIVE), "byte {at}");
                assert!(!is_handler(&code[..at], AT, kind, CLONE, ACTIVE));
            }
        }
    }

    #[test]
    fn an_adapting_handler_asks_first() {
        let mut code = vec![0xf3, 0x0f, 0x1e, 0xfa];
        code.extend([0x57, 0x56, 0x52, 0x51, 0x41, 0x50, 0x41, 0x51, 0xe8]);
        code.extend((0x200u32 - 17).to_le_bytes());
        code.extend([0x41, 0x59, 0x41, 0x58, 0x59, 0x5a, 0x5e, 0x5f, 0x85, 0xc0, 0x74, 9]);
        code.extend([0x48, 0x83, 0xc4, 8, 0xe9]);
        code.extend((0x100u32 - 38).to_le_bytes());
        let whole = code.len();
        code.extend([0xc3, 0xcc, 0xcc, 0xcc, 0xcc]);
        assert!(whole <= HANDLER_LEN);
        assert_eq!(adaptation_of(&code, AT, CLONE), Some(AT + 0x200));
        assert!(!is_handler(&code, AT, Handler::Steady, CLONE, ACTIVE));
        assert_eq!(adaptation_of(&handler(Handler::Steady), AT, CLONE), None);
        for at in 0..whole {
            let mut other = code.clone();
            other[at] ^= 1;
            assert_ne!(adaptation_of(&other, AT, CLONE), Some(AT + 0x200), "byte {at}");
            assert_eq!(adaptation_of(&code[..at], AT, CLONE), None);
        }
    }

    #[test]
    fn a_phase_handler_knows_three_editions() {
        const BRIDGE: u64 = AT + 0x200;
        let mut code = vec![0xf3, 0x0f, 0x1e, 0xfa, 0x80, 0x3d];
        code.extend((0x1000u32 - 11).to_le_bytes());
        code.extend([1, 0x72, 0x10, 0x48, 0x8d, 0x64, 0x24, 8, 0x0f, 0x84]);
        code.extend((0x200u32 - 24).to_le_bytes());
        code.push(0xe9);
        code.extend((0x100u32 - 29).to_le_bytes());
        code.push(0xc3);
        // `jb` leads to the return.
        assert_eq!(13 + 0x10, code.len() - 1);
        assert!(code.len() <= HANDLER_LEN && is_phase_handler(&code, AT, BRIDGE, CLONE, ACTIVE));
        for at in 0..code.len() {
            let mut other = code.clone();
            other[at] ^= 1;
            assert!(!is_phase_handler(&other, AT, BRIDGE, CLONE, ACTIVE), "byte {at}");
            assert!(!is_phase_handler(&code[..at], AT, BRIDGE, CLONE, ACTIVE));
        }
        assert!(!is_phase_handler(&code, AT, CLONE, BRIDGE, ACTIVE));
        assert!(!is_handler(&code, AT, Handler::Transition, CLONE, ACTIVE));
        assert!(!is_phase_handler(&handler(Handler::Transition), AT, BRIDGE, CLONE, ACTIVE));
    }

    #[test]
    fn a_choice_leads_to_both() {
        use iced_x86::{Decoder, DecoderOptions, Mnemonic};
        let mut code = [0; HANDLER_LEN];
        choice(AT, ACTIVE, CLONE, AT - 0x100, &mut code).unwrap();
        let decoded: Vec<_> =
            Decoder::with_ip(64, &code, AT, DecoderOptions::NONE).iter().collect();
        let kinds: Vec<_> = decoded.iter().take(4).map(|i| i.mnemonic()).collect();
        assert_eq!(kinds, [Mnemonic::Endbr64, Mnemonic::Cmp, Mnemonic::Je, Mnemonic::Jmp]);
        assert_eq!((decoded[1].ip_rel_memory_address(), decoded[1].immediate8()), (ACTIVE, 0));
        assert_eq!(decoded[2].near_branch_target(), AT - 0x100);
        assert_eq!(decoded[3].near_branch_target(), CLONE);
        assert!(decoded[4..].iter().all(|i| i.mnemonic() == Mnemonic::Int3));
        assert_eq!(choice(AT, ACTIVE, CLONE, 0x7000_0000, &mut code), None);
    }

    #[test]
    fn leaving_is_an_entry_and_a_return() {
        assert!(is_leave(&[0xf3, 0x0f, 0x1e, 0xfa, 0xc3, 0xcc]));
        assert!(is_leave(&[0x66, 0x0f, 0x1f, 0x00, 0xe9, 0, 0, 0, 0]));
        assert!(!is_leave(&[0xf3, 0x0f, 0x1e, 0xfa, 0x90]));
        assert!(!is_leave(&[0xf3, 0x0f, 0x1e, 0xfa]));
        assert!(!is_leave(&[0xc3]));
    }

    #[test]
    fn a_sealed_entry_is_one_too() {
        let mut code = handler(Handler::Steady);
        code[..4].copy_from_slice(&[0x66, 0x0f, 0x1f, 0x00]);
        assert!(is_handler(&code, AT, Handler::Steady, CLONE, ACTIVE));
    }
}
