//! Every refusal says where, what is wrong, and what would be right.

use super::World;
use crate::policy::compile::{CompileError, compile_text};

fn error(text: &str) -> String {
    match compile_text(text, &World) {
        Ok(_) => panic!("{text:?} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn texts_of_refusals() {
    for (text, expected) in [
        (
            "",
            "at byte 1: the end; expected a condition: pid, tgid, uid, cpu, cgroup, comm, time, arg1 to arg6, or percent(P)",
        ),
        (
            "ppid == 1",
            "at byte 1: unknown field `ppid`; expected one of pid, tgid, uid, cpu, cgroup, comm, time, arg1 to arg6, or percent(P), or a parameter's name",
        ),
        (
            "arg7 == 1",
            "at byte 1: argument 7, which no register holds; expected one of pid, tgid, uid, cpu, cgroup, comm, time, arg1 to arg6, or percent(P), or a parameter's name",
        ),
        ("pid", "at byte 4: the end; expected a comparison (== != < <= > >=) or `in {…}`"),
        ("pid = 1", "at byte 5: `=` is not of this language; expected `==`"),
        ("pid == 1 && cpu == 0", "at byte 10: `&&` is not of this language; expected `and`"),
        ("!(pid == 1)", "at byte 1: `!` is not of this language; expected `not`"),
        (
            "pid == 1 cpu == 0",
            "at byte 10: `cpu` after a complete condition; expected `and`, `or` or the end",
        ),
        ("pid == -1", "at byte 8: -1, which `pid` never is; expected 0 to 2147483647"),
        (
            "pid == 1x",
            "at byte 8: `1x` is no whole number of 64 bits; expected digits, or 0x and hexadecimal digits",
        ),
        ("pid == \"a\"", "at byte 8: a string, but `pid` is a number; expected a number"),
        ("pid in {}", "at byte 9: `}`; expected a number"),
        ("pid in {1", "at byte 10: the end; expected `,` or `}`"),
        ("(pid == 1", "at byte 10: the end; expected `)`"),
        (
            "pid & 6 == 1",
            "at byte 12: 1, which `pid & 0x6` never is; expected bits of the mask only",
        ),
        ("pid & 0 == 0", "at byte 7: mask 0; expected 1 to 32 bits that count"),
        ("time & 1 == 1", "at byte 6: a mask of `time`; expected a comparison"),
        (
            "cgroup < 5",
            "at byte 8: `<` of cgroups, which have no order; expected `==`, `!=` or `in {…}`",
        ),
        (
            "cgroup == \"/no\"",
            "at byte 11: no cgroup \"/no\": no such directory; expected the path of one that exists",
        ),
        ("comm", "at byte 5: the end; expected `==`, `!=`, `~` (a beginning) or `in {…}`"),
        ("comm < \"a\"", "at byte 6: `<`; expected `==`, `!=`, `~` (a beginning) or `in {…}`"),
        ("comm == nginx", "at byte 9: `nginx`; expected a name in quotes, like \"nginx\""),
        (
            "comm == \"a*\"",
            "at byte 9: `*` in a name that must be equal; expected a whole name, or `comm ~ \"name*\"` for a beginning",
        ),
        (
            "comm ~ \"a\"",
            "at byte 8: pattern \"a\"; expected a beginning and one `*` at its end, like \"ngin*\"",
        ),
        (
            "comm ~ \"*\"",
            "at byte 8: 0 bytes of name; expected 1 to 15: the kernel keeps no more of a task's name",
        ),
        (
            "comm == \"sixteen_letters_\"",
            "at byte 9: 16 bytes of name; expected 1 to 15: the kernel keeps no more of a task's name",
        ),
        ("comm == \"a", "at byte 9: a string that does not end; expected `\"` at its end"),
        (
            "comm == \"\\n\"",
            "at byte 10: a backslash before something that needs none; expected `\\\\` or `\\\"`",
        ),
        (
            "percent(101)",
            "at byte 9: `101`; expected a percentage from 0 to 100 with at most 4 decimals",
        ),
        (
            "percent(0.00001)",
            "at byte 9: `0.00001`; expected a percentage from 0 to 100 with at most 4 decimals",
        ),
        ("percent 10", "at byte 9: `10`; expected `(`"),
        (
            "arg1 == 0",
            "at byte 1: the type of `arg1` is not known; expected the type with it: s32(arg1) for an int, u64(arg1) for a pointer or an unsigned long; one of u8 u16 u32 u64 s8 s16 s32 s64",
        ),
        (
            "u64(arg3) == 0",
            "at byte 5: 64 bits of `arg3`, which has 32; expected at most that; the bits above are undefined: s32",
        ),
        (
            "arg4 == 0",
            "at byte 1: `arg4` is neither an integer nor a pointer; expected one that is",
        ),
        ("u32(pid) == 0", "at byte 5: a type for `pid`, which has one; expected arg1 to arg6"),
        (
            "pid == 1 ; x",
            "at byte 10: ';' means nothing here; expected a field, a number, a string or an operator",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn depth_length_and_tests_are_bounded() {
    let deep = format!("{}true{}", "(".repeat(40), ")".repeat(40));
    assert!(error(&deep).contains("more than 32 conditions inside one another"));
    assert!(error(&"not ".repeat(40)).contains("more than 32 conditions"));
    assert!(error(&" ".repeat(1025)).contains("1025 bytes of text; expected at most 1024"));
    let many = (0..65).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let error = compile_text(&format!("pid in {{{many}}}"), &World).unwrap_err();
    assert_eq!(error, CompileError::TooManySteps { steps: 65 });
}

#[test]
fn the_caret_is_below_the_place() {
    let text = "comm == \"\u{e4}\" and\tfoo == 1";
    let Err(CompileError::Language(error)) = compile_text(text, &World) else { panic!() };
    assert_eq!(error.mark(text), "comm == \"\u{e4}\" and foo == 1\n                ^");
}
