//! What the kernel's side takes and refuses.

use proptest::prelude::*;

use super::{World, call, program};
use crate::policy::compile::compile_text;
use crate::policy::{MAX_BYTES, Program, ProgramError, Target};

fn two_terms() -> Vec<u8> {
    compile_text("pid == 1 and comm == \"sh\"", &World).unwrap()
}

#[test]
fn the_text_goes_with_it() {
    assert_eq!(program("pid == 1\n  or pid == 2").source(), "pid == 1   or pid == 2");
    let spoilt = |byte| {
        let mut bytes = two_terms();
        *bytes.last_mut().unwrap() = byte;
        Program::parse(&bytes, 250)
    };
    assert_eq!(spoilt(0x1b), Err(ProgramError::Value("text")));
    assert_eq!(spoilt(0xff), Err(ProgramError::Value("text")));
}

#[test]
fn every_byte_of_the_head_counts() {
    let changed = |offset: usize, byte: u8| {
        let mut bytes = two_terms();
        bytes[offset] = byte;
        Program::parse(&bytes, 250).unwrap_err()
    };
    assert_eq!(changed(3, b'2'), ProgramError::NotAPolicy);
    assert_eq!(changed(4, 65), ProgramError::TooLong);
    assert_eq!(changed(4, 3), ProgramError::Length);
    assert_eq!(changed(5, 2), ProgramError::Value("start"));
    assert_eq!(changed(6, 1), ProgramError::Length);
    assert_eq!(changed(7, 9), ProgramError::TooLong);
    // The first step: kind, field, type, compare, yes, no, length, reserved.
    assert_eq!(changed(8, 3), ProgramError::Value("test"));
    assert_eq!(changed(9, 12), ProgramError::Value("Field"));
    assert_eq!(changed(10, 0), ProgramError::Value("type"));
    assert_eq!(changed(10, 8), ProgramError::Value("IntegerType"));
    assert_eq!(changed(11, 3), ProgramError::Value("Compare"));
    assert_eq!(changed(12, 0), ProgramError::Jump { step: 0 });
    assert_eq!(changed(13, 2), ProgramError::Jump { step: 0 });
    assert_eq!(changed(14, 1), ProgramError::Value("test"));
    assert_eq!(changed(15, 1), ProgramError::Value("reserved byte"));
    // Time has one comparison only.
    assert_eq!(changed(9, 5), ProgramError::Value("comparison of time"));
    // The second, a name.
    assert_eq!(changed(32 + 1, 1), ProgramError::Value("test"));
    assert_eq!(changed(32 + 6, 17), ProgramError::Value("length"));
    assert_eq!(changed(32 + 6, 1), ProgramError::Value("name"));
    assert_eq!(changed(32 + 4, 1), ProgramError::Jump { step: 1 });
}

#[test]
fn truncated_anywhere_it_is_refused() {
    let bytes = two_terms();
    for len in 0..bytes.len() {
        assert!(Program::parse(&bytes[..len], 250).is_err(), "{len}");
    }
}

/// Steps with bytes mostly in range, so that many pass the checks.
fn step() -> impl Strategy<Value = [u8; 24]> {
    let target = prop_oneof![Just(0xff), Just(0xfe), 0u8..64];
    (0u8..3, 0u8..12, 0u8..8, 0u8..3, target.clone(), target, any::<[u8; 16]>(), any::<bool>())
        .prop_map(|(kind, field, as_type, compare, yes, no, words, plain)| {
            let mut bytes = [0; 24];
            bytes[..6].copy_from_slice(&[kind, field, as_type, compare, yes, no]);
            bytes[8..].copy_from_slice(&words);
            match kind {
                0 if field < 6 => bytes[2] = 3,
                0 => {}
                _ => bytes[1..4].fill(0),
            }
            if kind == 0 && field == 5 {
                bytes[3] = 1;
                bytes[8..16].fill(0xff);
            }
            if kind == 1 {
                bytes[6] = if plain { 8 } else { 16 };
                bytes[16..].fill(0);
            }
            if kind == 2 {
                bytes[20..].fill(0);
            }
            bytes
        })
}

proptest! {
    #[test]
    fn noise_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..MAX_BYTES)) {
        let _ = Program::parse(&bytes, 250);
    }

    #[test]
    fn what_is_taken_ends(
        steps in proptest::collection::vec(step(), 0..64), start in 0u8..64, forward in any::<bool>(),
        hz in any::<u32>(),
    ) {
        let mut bytes = b"DYP1".to_vec();
        bytes.push(steps.len() as u8);
        bytes.push(if usize::from(start) < steps.len() { start } else { 0xfe });
        bytes.extend_from_slice(&[0, 0]);
        for (index, step) in (0u8..).zip(&steps) {
            let mut step = *step;
            for target in &mut step[4..6] {
                let outside = *target < 0xfe && usize::from(*target) >= steps.len();
                if forward && (outside || *target <= index) {
                    *target = if usize::from(index) + 1 < steps.len() { index + 1 } else { 0xff };
                }
            }
            bytes.extend_from_slice(&step);
        }
        let Ok(program) = Program::parse(&bytes, hz) else {
            prop_assert!(!forward, "refused {:?}", Program::parse(&bytes, hz));
            return Ok(());
        };
        let call = call();
        let mut at = program.start();
        let mut taken = 0;
        while let Target::Step(index) = at {
            at = program.steps()[usize::from(index)].next(&call);
            taken += 1;
            prop_assert!(taken <= steps.len());
        }
        prop_assert_eq!(at, Target::Answer(program.decide(&call)));
    }
}
