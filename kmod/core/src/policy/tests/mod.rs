//! What a policy says, what its program decides, and that no bytes do harm.

#![allow(clippy::panic)]

mod bytes;
mod errors;
pub(super) mod model;
pub(super) mod properties;

use model::{Call, World};

use super::compile::compile_text;
use super::{Program, Target};

/// Compiles for a kernel with 250 ticks a second.
pub(super) fn program(text: &str) -> Program {
    match compile_text(text, &World) {
        Ok(bytes) => Program::parse(&bytes, 250).unwrap(),
        Err(error) => panic!("{text}: {error}"),
    }
}

/// What `text` decides, with the number of steps it took.
fn decide(text: &str, call: &Call) -> (bool, usize) {
    let program = program(text);
    let mut at = program.start();
    let mut steps = 0;
    while let Target::Step(index) = at {
        at = program.steps()[usize::from(index)].next(call);
        steps += 1;
    }
    let decided = program.decide(call);
    assert_eq!(at, Target::Answer(decided));
    (decided, steps)
}

fn yes(text: &str, call: &Call) -> bool {
    decide(text, call).0
}

pub(crate) fn call() -> Call {
    Call {
        pid: 7,
        tgid: 5,
        uid: 33,
        cpu: 1,
        cgroup: 4242,
        comm: "nginx".into(),
        ticks: 250 * 30,
        started: 1_000_000,
        arguments: [
            0xffff_8880_0000_1000,
            0xdead_beef_ffff_fffe,
            4096,
            0,
            0x8000_0000_0000_0000,
            6,
        ],
        asked: Default::default(),
    }
}

#[test]
fn every_field_and_relation() {
    let call = call();
    for (text, expected) in [
        ("pid == 7", true),
        ("pid != 7", false),
        ("tgid < 5", false),
        ("tgid <= 5", true),
        ("uid > 32", true),
        ("uid >= 34", false),
        ("uid & 1 == 1", true),
        ("uid & 0x20 > 31", true),
        ("cpu in {0, 1}", true),
        ("cpu in {0, 2}", false),
        ("cgroup == 4242", true),
        ("cgroup == \"/web\"", true),
        ("cgroup in {1, \"/db\"}", false),
        ("comm == \"nginx\"", true),
        ("comm == \"nginxx\"", false),
        ("comm == \"ngin\"", false),
        ("comm != \"sh\"", true),
        ("comm ~ \"ngin*\"", true),
        ("comm ~ \"nginx*\"", true),
        ("comm ~ \"nginxx*\"", false),
        ("comm in {\"sh\", \"nginx\"}", true),
        ("u64(arg1) > 0xffff800000000000", true),
        ("s64(arg1) < 0", true),
        ("s32(arg2) == -2", true),
        ("u32(arg2) == 0xfffffffe", true),
        ("u16(arg2) == 65534", true),
        ("s8(arg2) & 0xf == 14", true),
        ("arg3 == 4096", true),
        ("u64(arg5) <= 0x8000000000000000", true),
        ("u64(arg5) <= 0xffffffffffffffff", true),
        ("s64(arg5) == -9223372036854775808", true),
        ("s64(arg5) < -9223372036854775808", false),
        ("true", true),
        ("false or not false", true),
        ("percent(100)", true),
        ("percent(0)", false),
    ] {
        assert_eq!(yes(text, &call), expected, "{text}");
    }
}

#[test]
fn time_counts_whole_seconds() {
    let at = |ticks| Call { ticks, ..call() };
    for (text, before, first, last, after) in [
        ("time < 30", true, false, false, false),
        ("time <= 30", true, true, true, false),
        ("time == 30", false, true, true, false),
        ("time != 30", true, false, false, true),
        ("time > 30", false, false, false, true),
        ("time >= 30", false, true, true, true),
        ("time in {30, 31}", false, true, true, true),
    ] {
        let found = [7499, 7500, 7749, 7750].map(|ticks| yes(text, &at(ticks)));
        assert_eq!(found, [before, first, last, after], "{text}");
    }
    // Later than any tick.
    assert!(yes("time < 0xffffffffffffffff", &at(u64::MAX - 1)));
}

#[test]
fn precedence_is_or_and_not() {
    let call = call();
    assert!(yes("true or false and false", &call));
    assert!(!yes("(true or false) and false", &call));
    assert!(yes("not false and true", &call));
    assert!(!yes("not (false or true)", &call));
}

/// Issue 4 allows 40 instructions for two terms; the interpreter's part is two steps.
#[test]
fn two_terms_are_two_steps() {
    assert_eq!(decide("pid == 7 and cpu == 1", &call()), (true, 2));
    assert_eq!(decide("cgroup == 4242 and percent(10)", &call()).1, 2);
    assert_eq!(decide("pid == 8 and cpu == 1", &call()), (false, 1));
    assert_eq!(decide("not (pid == 7 or cpu == 1)", &call()), (false, 1));
}

#[test]
fn only_what_is_needed_is_read() {
    let call = call();
    assert!(!yes("pid == 8 and (comm == \"nginx\" or cgroup == 1 or time < 3)", &call));
    assert_eq!(call.asked.borrow().as_slice(), ["pid", "pid"], "two runs of one question");
}

#[test]
fn a_name_is_compared_up_to_its_nul() {
    let comm = |comm: &[u8]| Call { comm: comm.to_vec(), ..call() };
    assert!(yes("comm == \"sh\"", &comm(b"sh\0left over")));
    assert!(!yes("comm == \"sh\"", &comm(b"sh-left over")));
    assert!(yes("comm == \"fifteen_letters\"", &comm(b"fifteen_letters\0")));
    assert!(yes("comm ~ \"eight_by*\"", &comm(b"eight_bytes\0")));
    assert!(!yes("comm == \"eight_by\"", &comm(b"eight_bytes\0")));
}
