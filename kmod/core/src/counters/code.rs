//! The counting handler, which the generator writes into `handlers.S`, as it must be byte for byte.
//!
//! ```text
//!         endbr64
//!         cmpb  $1, dynamos_active(%rip)
//!         jb    done                       # 0: all calls take edition 0
//!         ja    count
//!         add   $8, %rsp                   # 1: all take the update's
//!         jmp   clone
//! count:  push  %rdi, %rsi, %rdx, %rcx, %r8, %r9
//!         call  accessor                   # or: mov the argument to %rax
//!         movabs $SPREAD, %rcx
//!         imul  %rcx, %rax
//!         shr   $64 - BITS, %rax
//!         lea   counters + 8(%rip), %rcx
//!         lea   (%rcx, %rax, 8), %rax
//!         mov   %rax, 48(%rsp)             # where the return address into edition 0 was
//!         movabs $BEGUN + CALL, %rcx
//!         lock xadd %rcx, (%rax)
//!         test  $1, %cl
//!         pop   %r9, %r8, %rcx, %rdx, %rsi, %rdi
//!         jne   new
//!         call  original                   # behind the function's own `call __fentry__`
//!         jmp   leave
//! new:    call  clone
//! leave:  pop   %rcx
//!         mov   $-CALL, %rsi
//!         lock xadd %rsi, (%rcx)
//!         sub   $CALL, %rsi
//!         cmp   $1, %esi
//!         ja    done                       # other calls work on it
//!         mov   goal(%rip), %rdi
//!         xor   %rsi, %rdi
//!         test  $1, %dil
//!         je    done                       # it has that edition
//!         mov   %rax, %r8                  # what the function returns is in rax and rdx
//!         mov   %rsi, %rax
//!         xor   $1, %rsi
//!         lock cmpxchg %rsi, (%rcx)
//!         mov   %r8, %rax
//! done:   ret
//! ```

use dynamos_abi::counters::ORIGINAL;

use crate::handler::{CALL, COMPARE, Cursor, DROP, ENTRIES, JUMP, RETURNS, SAVE};
use crate::policy::native::Assembler;

/// The longest counting handler, up to its return.
pub const COUNTING_LEN: usize = 192;

/// The immediate of the comparison, and `jb`.
const BELOW: &[u8] = &[0x01, 0x0f, 0x82];
/// `ja` over the drop and the jump.
const ABOVE: &[u8] = &[0x77, 0x09];
/// `mov` of the register of each argument to `rax`.
const ARGUMENTS: [&[u8]; 6] = [
    &[0x48, 0x89, 0xf8],
    &[0x48, 0x89, 0xf0],
    &[0x48, 0x89, 0xd0],
    &[0x48, 0x89, 0xc8],
    &[0x4c, 0x89, 0xc0],
    &[0x4c, 0x89, 0xc8],
];
/// `movabs`, `imul`, `shr`, `lea` before the displacement.
const PLACE: &[u8] = &[
    0x48, 0xb9, 0x15, 0x7c, 0x4a, 0x7f, 0xb9, 0x79, 0x37, 0x9e, 0x48, 0x0f, 0xaf, 0xc1, 0x48, 0xc1,
    0xe8, 0x34, 0x48, 0x8d, 0x0d,
];
/// `lea`, `mov`, `movabs`, `lock xadd`, `test`, the pops, `jne` over the call and the jump.
const COUNT: &[u8] = &[
    0x48, 0x8d, 0x04, 0xc1, 0x48, 0x89, 0x44, 0x24, 0x30, 0x48, 0xb9, 0x02, 0x00, 0x00, 0x00, 0x01,
    0x00, 0x00, 0x00, 0xf0, 0x48, 0x0f, 0xc1, 0x08, 0xf6, 0xc1, 0x01, 0x41, 0x59, 0x41, 0x58, 0x59,
    0x5a, 0x5e, 0x5f, 0x75, 0x07,
];
/// `jmp` over the other call.
const OVER: &[u8] = &[0xeb, 0x05];
/// From `pop %rcx` to the `mov` of the goal, before the displacement.
const UNCOUNT: &[u8] = &[
    0x59, 0x48, 0xc7, 0xc6, 0xfe, 0xff, 0xff, 0xff, 0xf0, 0x48, 0x0f, 0xc1, 0x31, 0x48, 0x83, 0xee,
    0x02, 0x83, 0xfe, 0x01, 0x77, 0x22, 0x48, 0x8b, 0x3d,
];
/// From there to the return.
const GIVE: &[u8] = &[
    0x48, 0x31, 0xf7, 0x40, 0xf6, 0xc7, 0x01, 0x74, 0x12, 0x49, 0x89, 0xc0, 0x48, 0x89, 0xf0, 0x48,
    0x83, 0xf6, 0x01, 0xf0, 0x48, 0x0f, 0xb1, 0x31, 0x4c, 0x89, 0xc0,
];

/// Where a counting handler is to lead, and what it is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leads {
    /// The clone.
    pub clone: u64,
    /// The place from where it goes on in edition 0.
    pub original: u64,
    /// The update's flag.
    pub active: u64,
    /// The goal, and behind it the counters.
    pub counters: u64,
}

/// What a counting handler has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counting {
    /// The function of the update that gives the object; else it is an argument.
    pub accessor: Option<u64>,
    /// Where edition 0 and the clone return to.
    pub returns: [u64; 2],
}

/// What `code`, which is at `address`, has, if it is the counting handler that leads there.
pub fn counting_handler(code: &[u8], address: u64, leads: &Leads) -> Option<Counting> {
    let mut cursor = Cursor { rest: code, address };
    let entered = ENTRIES.into_iter().any(|entry| cursor.take(entry));
    let asks = entered
        && cursor.take(COMPARE)
        // The displacement counts from the end of the instruction, after the immediate.
        && cursor.target(1) == Some(leads.active)
        && cursor.take(BELOW);
    let end = asks.then(|| cursor.target(0)).flatten()?;
    let takes = cursor.take(ABOVE)
        && cursor.take(DROP)
        && cursor.take(JUMP)
        && cursor.target(0) == Some(leads.clone)
        && cursor.take(SAVE);
    let accessor = match takes && cursor.take(CALL) {
        true => Some(cursor.target(0)?),
        false => None,
    };
    let has_object =
        accessor.is_some() || takes && ARGUMENTS.into_iter().any(|argument| cursor.take(argument));
    let counts = has_object
        && cursor.take(PLACE)
        && cursor.target(0) == leads.counters.checked_add(8)
        && cursor.take(COUNT)
        && cursor.take(CALL)
        && cursor.target(0) == Some(leads.original);
    let original = cursor.address;
    let leaves =
        counts && cursor.take(OVER) && cursor.take(CALL) && cursor.target(0) == Some(leads.clone);
    let clone = cursor.address;
    let whole = leaves
        && cursor.take(UNCOUNT)
        && cursor.target(0) == Some(leads.counters)
        && cursor.take(GIVE)
        && cursor.address == end
        && cursor.rest.first().is_some_and(|byte| RETURNS.contains(byte));
    whole.then_some(Counting { accessor, returns: [original, clone] })
}

/// The jump from `at` to `to`; `None` if that is out of reach.
pub fn to_original(at: u64, to: u64) -> Option<[u8; ORIGINAL as usize]> {
    let mut code = [0; ORIGINAL as usize];
    let mut jump = Assembler::new(&mut code, at);
    jump.jump(to);
    jump.finish().ok()?;
    Some(code)
}
