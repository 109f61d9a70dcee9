//! The handler of scope `task`, for x86-64: which edition a call takes is asked of the table of tasks.
//!
//! It lies where policies do, and the same holds for it as for [their code](crate::policy::native): it uses `rax`, `r10`,
//! `r11` and the flags, and nothing else. An interrupt may come between any two instructions; it asks for the same task.
//!
//! ```text
//!         endbr64
//!         cmpb  $1, dynamos_active(%rip)
//!         jb    leave                      # 0: all calls take edition 0
//!         je    take                       # 1: all take the update's
//!         mov   %gs:current_task, %rax     # else that of the task
//!         movabs $cell, %r11
//!         mov   (%r11), %r11               # the table
//!         movabs $SPREAD, %r10
//!         imul  %rax, %r10
//!         shr   $32, %r10
//! next:   and   (%r11), %r10
//!         cmp   %rax, 16(%r11, %r10, 8)
//!         je    found
//!         cmpq  $0, 16(%r11, %r10, 8)
//!         je    absent
//!         add   $2, %r10
//!         jmp   next
//! absent: cmpq  $0, 8(%r11)
//!         je    leave
//!         jmp   take
//! found:  cmpq  $0, 24(%r11, %r10, 8)
//!         je    leave
//!         jmp   take
//! ```

use super::{ENTRY, HEAD, SPREAD};
use crate::policy::native::{Assembler, Condition, Free, NativeError, Place, WIDE};

/// Bytes of a word.
const WORD: u32 = 8;

/// What the handler asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asks {
    /// Address of the update's flag: 0, 1, or by task.
    pub flag: u64,
    /// Offset from `gs` of the pointer to the current task.
    pub current: u32,
    /// Address of the word that holds the table's address.
    pub cell: u64,
}

/// Writes the handler to `into`, and breakpoints to what is left; gives its length.
///
/// On an error nothing that is in `into` may be run.
pub fn write_handler(asks: &Asks, place: &Place, into: &mut [u8]) -> Result<usize, NativeError> {
    let room = into.len();
    let mut labels = Labels::default();
    let mut measure = Assembler::new(&mut [], place.at);
    write(asks, place, &mut measure, &mut labels);
    let needed = measure.len();
    if needed > room {
        return Err(NativeError::TooLong { needed, room });
    }
    let mut code = Assembler::new(into, place.at);
    write(asks, place, &mut code, &mut labels);
    code.finish()
}

/// Addresses within the code; nothing until they have been found.
#[derive(Default)]
struct Labels {
    next: u64,
    absent: u64,
    found: u64,
}

fn write(asks: &Asks, place: &Place, code: &mut Assembler<'_>, labels: &mut Labels) {
    let entries = HEAD as u32 * WORD;
    let here = |code: &Assembler<'_>| place.at.wrapping_add(code.len() as u64);
    code.endbr64();
    code.compare_byte_at(asks.flag, 1);
    code.jump_if(Condition::Below, place.leave);
    code.jump_if(Condition::Equal, place.take);
    code.load_gs(WIDE, Free::Rax, asks.current);
    code.constant(Free::R11, asks.cell);
    code.load(WIDE, Free::R11, Free::R11, 0);
    code.constant(Free::R10, SPREAD);
    code.multiply_by_rax();
    code.shift_right(32);
    labels.next = here(code);
    code.and_table();
    code.compare_rax_in_table(entries);
    code.jump_if(Condition::Equal, labels.found);
    code.compare_zero_in_table(entries);
    code.jump_if(Condition::Equal, labels.absent);
    code.add_small(ENTRY as u8);
    code.jump(labels.next);
    labels.absent = here(code);
    code.compare_zero_in_head(WORD);
    code.jump_if(Condition::Equal, place.leave);
    code.jump(place.take);
    labels.found = here(code);
    code.compare_zero_in_table(entries.wrapping_add(WORD));
    code.jump_if(Condition::Equal, place.leave);
    code.jump(place.take);
}
