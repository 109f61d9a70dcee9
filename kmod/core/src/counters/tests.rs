use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use dynamos_abi::counters::{BEGUN, CALL};

use super::*;
use crate::Blockers;
use crate::relocate::Range;

const AT: u64 = 0xffff_ffff_c000_0000;
const LEADS: Leads =
    Leads { clone: AT + 0x4000, original: AT - 0x20, active: AT + 0x9000, counters: AT + 0xa000 };

/// A counting handler as the assembler writes it, and where both editions return to; `argument` instead of the accessor.
fn handler(argument: Option<[u8; 3]>) -> (Vec<u8>, [u64; 2]) {
    let mut code: Vec<u8> = Vec::new();
    let relative = |code: &mut Vec<u8>, to: u64, more: u64| {
        let end = AT + code.len() as u64 + 4 + more;
        code.extend(((to as i64 - end as i64) as i32).to_le_bytes());
    };
    code.extend([0xf3, 0x0f, 0x1e, 0xfa, 0x80, 0x3d]);
    relative(&mut code, LEADS.active, 1);
    code.extend([1, 0x0f, 0x82]);
    let below = code.len();
    code.extend([0, 0, 0, 0, 0x77, 9, 0x48, 0x83, 0xc4, 8, 0xe9]);
    relative(&mut code, LEADS.clone, 0);
    code.extend([0x57, 0x56, 0x52, 0x51, 0x41, 0x50, 0x41, 0x51]);
    match argument {
        Some(argument) => code.extend(argument),
        None => {
            code.push(0xe8);
            relative(&mut code, AT + 0x5000, 0);
        }
    }
    code.extend([0x48, 0xb9]);
    code.extend(dynamos_abi::counters::SPREAD.to_le_bytes());
    let shift = 64 - dynamos_abi::counters::BITS as u8;
    code.extend([0x48, 0x0f, 0xaf, 0xc1, 0x48, 0xc1, 0xe8, shift, 0x48, 0x8d, 0x0d]);
    relative(&mut code, LEADS.counters + 8, 0);
    code.extend([0x48, 0x8d, 4, 0xc1, 0x48, 0x89, 0x44, 0x24, 0x30]);
    code.extend([0x48, 0xb9]);
    code.extend((BEGUN + CALL).to_le_bytes());
    code.extend([0xf0, 0x48, 0x0f, 0xc1, 8, 0xf6, 0xc1, 1]);
    code.extend([0x41, 0x59, 0x41, 0x58, 0x59, 0x5a, 0x5e, 0x5f, 0x75, 7, 0xe8]);
    relative(&mut code, LEADS.original, 0);
    let original = AT + code.len() as u64;
    code.extend([0xeb, 5, 0xe8]);
    relative(&mut code, LEADS.clone, 0);
    let clone = AT + code.len() as u64;
    code.extend([0x59, 0x48, 0xc7, 0xc6]);
    code.extend((-2i32).to_le_bytes());
    code.extend([0xf0, 0x48, 0x0f, 0xc1, 0x31, 0x48, 0x83, 0xee, 2, 0x83, 0xfe, 1]);
    code.extend([0x77, 0x22, 0x48, 0x8b, 0x3d]);
    relative(&mut code, LEADS.counters, 0);
    code.extend([0x48, 0x31, 0xf7, 0x40, 0xf6, 0xc7, 1, 0x74, 0x12, 0x49, 0x89, 0xc0]);
    code.extend([0x48, 0x89, 0xf0, 0x48, 0x83, 0xf6, 1]);
    code.extend([0xf0, 0x48, 0x0f, 0xb1, 0x31, 0x4c, 0x89, 0xc0]);
    let end = code.len() - below - 4;
    code[below..below + 4].copy_from_slice(&(end as u32).to_le_bytes());
    code.push(0xc3);
    (code, [original, clone])
}

#[test]
fn a_counting_handler_is_known_byte_for_byte() {
    let (code, returns) = handler(None);
    assert!(code.len() <= COUNTING_LEN);
    let found = counting_handler(&code, AT, &LEADS);
    assert_eq!(found, Some(Counting { accessor: Some(AT + 0x5000), returns }));
    for at in 0..code.len() {
        let mut other = code.clone();
        other[at] ^= 1;
        assert_ne!(counting_handler(&other, AT, &LEADS), found, "byte {at}");
        assert_eq!(counting_handler(&code[..at], AT, &LEADS), None);
    }
    let (code, returns) = handler(Some([0x48, 0x89, 0xf0]));
    let found = counting_handler(&code, AT, &LEADS);
    assert_eq!(found, Some(Counting { accessor: None, returns }));
    // Something else than an argument.
    assert_eq!(counting_handler(&handler(Some([0x48, 0x89, 0xd8])).0, AT, &LEADS), None);
}

/// What decoding says of it: the jumps lead to instructions, and what is pushed is popped.
#[test]
fn a_counting_handler_is_whole() {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};
    for argument in [None, Some([0x4c, 0x89, 0xc8])] {
        let (code, returns) = handler(argument);
        let all: Vec<_> = Decoder::with_ip(64, &code, AT, DecoderOptions::NONE).iter().collect();
        let starts: Vec<u64> = all.iter().map(|i| i.ip()).collect();
        let inside = AT..AT + code.len() as u64;
        for jump in all.iter().filter(|i| i.is_jcc_short_or_near()) {
            assert!(starts.contains(&jump.near_branch_target()), "{jump}");
        }
        assert!(returns.iter().all(|at| starts.contains(at) && inside.contains(at)));
        let count = |mnemonic| all.iter().filter(|i| i.mnemonic() == mnemonic).count();
        // One more pop, for the word in the place of the return address.
        assert_eq!((count(Mnemonic::Push), count(Mnemonic::Pop)), (6, 7));
        assert_eq!(all.last().map(|i| i.mnemonic()), Some(Mnemonic::Ret));
    }
}

#[test]
fn the_way_to_edition_0_is_a_jump() {
    assert_eq!(to_original(AT, AT + 9), Some([0xe9, 4, 0, 0, 0]));
    assert_eq!(to_original(AT, AT - 0x100), Some([0xe9, 0xfb, 0xfe, 0xff, 0xff]));
    assert_eq!(to_original(AT, 0x7000_0000_0000), None);
}

/// A call, as the handler counts it.
fn enter(word: &AtomicU64) -> bool {
    word.fetch_add(CALL + BEGUN, Ordering::SeqCst) & 1 != 0
}

fn leave(counters: &Counters<'_>, word: &AtomicU64) {
    let left = word.fetch_sub(CALL, Ordering::SeqCst) - CALL;
    if left & UNDER_WAY <= 1 && (left & 1 != 0) != counters.goal() {
        let _ = word.compare_exchange(left, left ^ 1, Ordering::SeqCst, Ordering::SeqCst);
    }
}

#[test]
fn an_object_moves_when_the_last_call_on_it_ends() {
    let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let counters = Counters::new(&words).unwrap();
    assert!(counters.begin(false));
    assert!(!enter(&words[1]) && !enter(&words[1]) && !enter(&words[2]));
    counters.set_goal(true);
    assert!(!counters.move_idle(true));
    // One that nobody works on has moved; the others have their edition, for nested calls too.
    assert!(enter(&words[3]) && !enter(&words[2]));
    leave(&counters, &words[2]);
    leave(&counters, &words[2]);
    assert!(enter(&words[2]) && !enter(&words[1]));
    for _ in 0..3 {
        leave(&counters, &words[1]);
    }
    assert!(counters.move_idle(true));
    // A call of this edition is still under way, so the other cannot be where it begins.
    assert!(!counters.begin(false));
    leave(&counters, &words[2]);
    leave(&counters, &words[3]);
    assert!(counters.begin(false));
    // Who died in a call is forgotten when nobody can be in one.
    assert!(!enter(&words[3]));
    counters.set_goal(true);
    assert!(!counters.move_idle(true));
    counters.clear();
    assert!(!counters.goal() && counters.begin(true));
    assert!(Counters::new(&[]).is_none());
}

/// What nobody has begun or ended since is left by whoever died in it.
#[test]
fn a_count_that_is_left_behind_is_known_by_its_rest() {
    let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let counters = Counters::new(&words).unwrap();
    for word in &words[1..] {
        assert!(!enter(word));
    }
    counters.set_goal(true);
    let mut noted = [0; 3];
    counters.note(&mut noted);
    // As many calls as before, and not the same.
    leave(&counters, &words[2]);
    words[2].store(words[2].load(Ordering::SeqCst) & !1, Ordering::SeqCst);
    assert!(!enter(&words[2]));
    leave(&counters, &words[3]);
    assert!(!counters.move_left(&noted, true));
    let editions = [1, 2, 3].map(|at: usize| words[at].load(Ordering::SeqCst) & UNDER_WAY);
    assert_eq!(editions, [1, CALL, 1]);
    // And nothing is left of it.
    assert!(enter(&words[1]));
    leave(&counters, &words[1]);
    assert_eq!(words[1].load(Ordering::SeqCst) & UNDER_WAY, 1);
}

/// Edition 0's function, the update's text, and the handlers in it.
const RANGES: [Range; 2] =
    [Range { start: 0x100, end: 0x200 }, Range { start: 0x1000, end: 0x3000 }];
const HANDLERS: Range = Range { start: 0x2000, end: 0x2800 };
const LABELS: [Label; 2] = [
    Label { address: 0x2072, function: 3, edition: false },
    Label { address: 0x2079, function: 3, edition: true },
];
const KERNEL: u64 = 0x9000;

/// Where a handler that does not count took calls for a while, the way back begins with a look for such calls.
#[test]
fn calls_that_were_not_counted_are_looked_for_again() {
    let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let counters = Counters::new(&words).unwrap();
    let mut moving = Moving::default();
    moving.begin_anew(&counters, true);
    assert!(moving.turn(&counters, true, false));
    assert_eq!(moving.awaits(&counters, false), Look::Deciding);
    moving.lose_count();
    assert_eq!(moving.awaits(&counters, false), Look::Uncounted);
    let mut seen = Vec::new();
    let (noted, blockers) = (&mut [0; 3], &mut Blockers::default());
    let all = moving.advance(&counters, false, noted, blockers, |look, _| seen.push(look));
    assert_eq!((all, seen.first()), (Some(true), Some(&Look::Uncounted)));
    assert_eq!(moving.awaits(&counters, true), Look::Deciding, "all are counted again");
}

fn found(trace: &[u64]) -> Option<usize> {
    uncounted(trace, &RANGES, HANDLERS, &LABELS)
}

#[test]
fn a_label_tells_that_a_call_is_counted() {
    // An edition, counted; with kernel code that it has called.
    assert_eq!(found(&[0x150, 0x2072, KERNEL]), None);
    assert_eq!(found(&[KERNEL, 0x1150, 0x2079, KERNEL]), None);
    // By a tail call it is not there itself.
    assert_eq!(found(&[KERNEL, 0x2072, KERNEL]), None);
    // Not counted, also within one that is.
    assert_eq!(found(&[KERNEL, 0x150, KERNEL]), Some(1));
    assert_eq!(found(&[0x150]), Some(0));
    assert_eq!(found(&[0x150, KERNEL, 0x150, 0x2072, KERNEL]), Some(0));
    assert_eq!(found(&[0x1150, 0x1350, 0x2079, KERNEL]), Some(0));
    // In a handler, before it counts or after.
    assert_eq!(found(&[0x2010, KERNEL]), Some(0));
    assert_eq!(found(&[0x1750, 0x2034, 0x1150, 0x2079]), Some(0));
    assert_eq!(found(&[KERNEL]), None);
    assert_eq!(found(&[]), None);
}

#[test]
fn calls_are_counted_by_their_labels() {
    let trace = [KERNEL, 0x150, 0x2072, KERNEL, 0x1150, 0x2079, 0x150, 0x2072];
    assert_eq!(calls_of(false, &trace, &LABELS), (2, Some(3)));
    assert_eq!(calls_of(true, &trace, &LABELS), (1, Some(3)));
    assert_eq!(calls_of(true, &trace[..4], &LABELS), (0, None));
}

/// What a task does, outermost first: code of the kernel; a call of the function, counted or not; code of the update that it calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Frame {
    Kernel,
    Counted(bool),
    Uncounted(bool),
    Helper,
}

proptest! {
    #[test]
    fn no_uncounted_call_is_overlooked(frames in proptest::collection::vec(0..7u8, 0..8)) {
        let mut last = Frame::Kernel;
        let (mut outward, mut uncounted_call, mut helper) = (Vec::new(), false, false);
        for byte in frames {
            let frame = match byte {
                0 | 1 => Frame::Kernel,
                2 | 3 => Frame::Counted(byte == 3),
                4 | 5 => Frame::Uncounted(byte == 5),
                // Only an edition of the update calls it, or its like.
                _ if matches!(last, Frame::Counted(true) | Frame::Uncounted(true) | Frame::Helper) => Frame::Helper,
                _ => Frame::Kernel,
            };
            let body = |new: bool| if new { 0x1150 } else { 0x150 };
            match frame {
                Frame::Kernel => outward.push(KERNEL),
                Frame::Counted(new) => outward.extend([LABELS[usize::from(new)].address, body(new)]),
                Frame::Uncounted(new) => outward.push(body(new)),
                Frame::Helper => outward.push(0x1750),
            }
            uncounted_call |= matches!(frame, Frame::Uncounted(_));
            helper |= frame == Frame::Helper;
            last = frame;
        }
        outward.reverse();
        let told = found(&outward);
        prop_assert!(!uncounted_call || told.is_some());
        // Without code that is the update's alone it is exact.
        prop_assert!(helper || uncounted_call == told.is_some());
    }
}
