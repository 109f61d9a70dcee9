//! The forms of sites that the kernel patches as a whole.
//!
//! Sources are those of 6.1.192 and 6.12.111; where they differ, both forms are accepted.

use dynamos_abi::{Site, SiteKind};

use super::{Matcher, Mismatch, Sink, Sites, Span, What, symbol_of};
use crate::insn::{self, CALL, CS, ENDBR, INT3, JMP8, JMP32, RET};

/// `lfence`.
const LFENCE: [u8; 3] = [0x0f, 0xae, 0xe8];

/// What `gen_endbr_poison` (`arch/x86/include/asm/ibt.h`) makes of an `endbr64` that nothing may jump to:
/// `osp nopl (%rax)` in 6.1 and 6.12, `nopl -42(%rax)` since 6.16.
const SEALED: [[u8; 4]; 2] = [[0x66, 0x0f, 0x1f, 0x00], [0x0f, 0x1f, 0x40, 0xd6]];

/// What `__static_call_transform` (`arch/x86/kernel/static_call.c`) makes of a call whose target returns 0:
/// `xor5rax`, and the form of kernels before 5.19.
const RETURN_0: [[u8; 5]; 2] = [[0x2e, 0x2e, 0x2e, 0x31, 0xc0], [0x66, 0x66, 0x48, 0x31, 0xc0]];

/// `ret` padded with `int3`: `retinsn` of `static_call.c`, and `patch_return` of `alternative.c`.
const RET_INT3: [u8; 5] = [RET, INT3, INT3, INT3, INT3];

impl Matcher<'_, '_> {
    /// Matches a site other than a field, an alternative or a paravirtual call.
    pub(super) fn patched(
        &mut self,
        span: Span,
        site: &Site,
        kind: SiteKind,
        sink: &mut Sink<'_>,
    ) -> Result<(), Mismatch> {
        let (expected, running) = (self.expected(span), self.running(span));
        let (fits, site_name) = match kind {
            SiteKind::Fentry => return self.fentry(span),
            SiteKind::JumpLabel => return self.jump_label(span, site, sink),
            SiteKind::StaticCall => (static_call(expected, running), "a static call"),
            SiteKind::ReturnThunk => (return_thunk(expected, running), "a return"),
            SiteKind::Retpoline => (retpoline(expected, running, site.addend), "a retpoline"),
            SiteKind::Endbr => (endbr(expected, running), "an endbr64"),
            SiteKind::SmpLock => {
                let fits = expected == [0xf0] && (running == [0xf0] || running == [0x3e]);
                (fits, "a lock prefix")
            }
            _ => return Err(self.mismatch(span.start, What::Record("site kind"))),
        };
        if fits {
            return Ok(());
        }
        let same = expected.iter().zip(running).take_while(|(a, b)| a == b).count();
        let last = span.end.saturating_sub(1).max(span.start);
        let at = span.start.saturating_add(same).min(last);
        Err(self.mismatch(at, What::Form(site_name)))
    }

    /// `ftrace_make_nop` and `ftrace_make_call` (`arch/x86/kernel/ftrace.c`): `x86_nops[5]` or a call of a
    /// trampoline.
    fn fentry(&mut self, span: Span) -> Result<(), Mismatch> {
        let running = self.running(span);
        if insn::nop(running) == Some(running.len()) {
            return Ok(());
        }
        if let ([CALL, ..], Some(rel)) = (running, insn::rel32(running, 1)) {
            self.matched.traced = Some(self.address_of(span.end).wrapping_add_signed(rel));
            return Ok(());
        }
        Err(self.mismatch(span.start, What::Fentry))
    }

    /// `__jump_label_patch` (`arch/x86/kernel/jump_label.c`): `x86_nops[len]` or a jump of that length.
    ///
    /// If the site names a symbol (the target is in another part, `foo.cold`), the jump gives its address.
    fn jump_label(&mut self, span: Span, site: &Site, sink: &mut Sink<'_>) -> Result<(), Mismatch> {
        let running = self.running(span);
        if insn::nop(running) == Some(running.len()) {
            return Ok(());
        }
        let rel = match running {
            [JMP8, rel] => i64::from(rel.cast_signed()),
            [JMP32, _, _, _, _] => insn::rel32(running, 1).unwrap_or(0),
            _ => return Err(self.mismatch(span.start, What::Form("a static key's jump"))),
        };
        if let Some(symbol) = symbol_of(site) {
            let target = self.address_of(span.end).wrapping_add_signed(rel);
            sink(symbol, target.wrapping_sub(site.addend.cast_unsigned()));
            return Ok(());
        }
        if (span.end as i64).wrapping_add(rel) != site.addend {
            return Err(self.mismatch(span.start.saturating_add(1), What::Target));
        }
        Ok(())
    }

    /// `apply_paravirt` and `paravirt_patch` (6.1, `alternative.c` and `paravirt.c`): the indirect call as it
    /// was, a direct call of the platform's function, or nothing; then NOPs. 6.12 has alternatives instead.
    pub(super) fn paravirt(
        &mut self,
        span: Span,
        group: Sites,
        index: u32,
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), Mismatch> {
        let running = self.running(span);
        let called = running.first() == Some(&CALL) && running.get(5..).is_some_and(insn::all_nops);
        if called || insn::all_nops(running) {
            return Ok(());
        }
        // The sites nested in it: fields come after it, and nothing else is nested in an indirect call.
        let inner = Sites { next: index.saturating_add(1), ..group };
        if index != group.next {
            return Err(self.mismatch(span.start, What::Record("sites overlap")));
        }
        self.range(span, inner, depth.saturating_add(1), sink).map_err(|cause| match cause.what {
            What::Byte => Mismatch { what: What::Form("a paravirtual call"), ..cause },
            _ => cause,
        })
    }

    /// The run-time address of `offset`.
    fn address_of(&self, offset: usize) -> u64 {
        self.address.wrapping_add(offset as u64)
    }
}

/// Second opcode byte of `jcc rel32`, as `is_jcc32` in `alternative.c`.
fn jcc32(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [0x0f, second @ 0x80..=0x8f, _, _, _, _] => Some(*second),
        _ => None,
    }
}

/// `__static_call_transform`: what a call, a tail call or a conditional tail call may have become.
fn static_call(expected: &[u8], running: &[u8]) -> bool {
    match (expected, running) {
        ([CALL, _, _, _, _], [CALL, _, _, _, _]) | ([JMP32, _, _, _, _], [JMP32, _, _, _, _]) => {
            true
        }
        ([CALL, _, _, _, _], _) => {
            insn::nop(running) == Some(5) || RETURN_0.iter().any(|form| form == running)
        }
        ([JMP32, _, _, _, _], _) => running == RET_INT3,
        _ => jcc32(expected).is_some() && jcc32(expected) == jcc32(running),
    }
}

/// `patch_return`: a jump to whichever return thunk the CPU needs, or `ret; int3…`.
fn return_thunk(expected: &[u8], running: &[u8]) -> bool {
    expected.first() == Some(&JMP32) && (running.first() == Some(&JMP32) || running == RET_INT3)
}

/// `poison_endbr`.
fn endbr(expected: &[u8], running: &[u8]) -> bool {
    expected == ENDBR && (running == ENDBR || SEALED.iter().any(|form| form == running))
}

/// `apply_retpolines`: what a call, jump or conditional jump to `__x86_indirect_thunk_reg` may have become.
///
/// Either a call of a thunk as it was (`__emit_trampoline` for ITS and call depth tracking keeps opcode and
/// length), or what `patch_retpoline` writes: `[lfence;] call/jmp *reg`, `int3` after a jump, NOPs.
fn retpoline(expected: &[u8], running: &[u8], register: i64) -> bool {
    let Some(register @ (0..=3 | 5..=15)) = u8::try_from(register).ok() else {
        return false; // `patch_retpoline`: rsp is a BUG
    };
    let (prefix, opcode, condition) = match expected {
        [op @ (CALL | JMP32), _, _, _, _] => (None, *op, None),
        [CS, op @ (CALL | JMP32), _, _, _, _] => (Some(CS), *op, None),
        _ => match jcc32(expected) {
            Some(second) => (None, JMP32, Some(second)),
            None => return false,
        },
    };
    let thunk = match (running, condition) {
        (_, Some(second)) => jcc32(running) == Some(second),
        ([first, second, _, _, _, _], None) if prefix == Some(*first) => *second == opcode,
        ([first, _, _, _, _], None) => prefix.is_none() && *first == opcode,
        _ => false,
    };
    thunk || inlined(running, opcode, condition, register)
}

/// The inlined forms of [`retpoline`].
fn inlined(running: &[u8], opcode: u8, condition: Option<u8>, register: u8) -> bool {
    let mut rest = running;
    if let Some(second) = condition {
        // `jncc.d8` over the jump that follows.
        let inverted = 0x70 | ((second & 0xf) ^ 1);
        let over = u8::try_from(running.len().saturating_sub(2)).unwrap_or(0);
        let Some(after) = rest.strip_prefix(&[inverted, over]) else { return false };
        rest = after;
    }
    rest = rest.strip_prefix(&LFENCE).unwrap_or(rest);
    let modrm = if opcode == CALL { 0xd0 } else { 0xe0 } | (register & 7);
    if register >= 8 {
        let Some(after) = rest.strip_prefix(&[0x41]) else { return false };
        rest = after;
    }
    let Some(mut rest) = rest.strip_prefix(&[0xff, modrm]) else { return false };
    if opcode == JMP32 && !rest.is_empty() {
        let Some(after) = rest.strip_prefix(&[INT3]) else { return false };
        rest = after;
    }
    insn::all_nops(rest)
}
