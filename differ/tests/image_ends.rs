//! Linked images: addresses at which there is nothing, as behind the last element of an array.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod built;

/// Arrays with some bytes behind them that only align what follows, and a number that is in the filling of the code.
const SOURCE: &str = r#"
int use(const void *p);
int moved[PAD] = { 1 };
asm(".data\n.balign 64\n"
    ".globl list, other, next\n.type list, @object\n.size list, 240\n.type other, @object\n.size other, 240\n"
    ".type next, @object\n.size next, 8\n"
    "list: .fill 30, 8, 1\n.balign 64\nother: .fill 30, 8, 2\n.balign 64\nnext: .quad 3\n"
    ".bss\n.balign 64\n"
    ".globl zeros, rest\n.type zeros, @object\n.size zeros, 240\n.type rest, @object\n.size rest, 8\n"
    "zeros: .skip 240\n.balign 64\nrest: .skip 8\n"
    ".text\n.balign 64, 0xcc\n.skip 4096, 0xcc\n");
extern long list[30], other[30], zeros[30];
extern struct { long a, b; } pairs[15] __asm__("list");
int all(void) { int n = 0; for (long *p = list; p != list + 30; p++) n += use(p); return n; }
int empty(void) { int n = 0; for (long *p = zeros; p != zeros + 30; p++) n += use(p); return n; }
int members(void) { int n = 0; for (long *p = &pairs[0].b; p != &pairs[15].b; p += 2) n += use(p); return n; }
int number(unsigned long v) { return v == 0xffffffff81000800 ? use(0) : 3; }
int use(const void *p) { return *(const char *)p; }
"#;

fn image(pad: u32, edits: &[(&str, &str)]) -> Vec<u8> {
    let edited = edits.iter().fold(SOURCE.to_owned(), |source, (from, to)| {
        assert!(source.contains(from), "{from}");
        source.replace(from, to)
    });
    built::build(&edited.replace("PAD", &pad.to_string()), "-Tdata=0xffffffff82000000")
}

#[test]
fn the_end_of_an_array_is_of_the_array() {
    let v1 = image(1, &[]);
    for pad in [1, 2, 100, 5000] {
        let v2 = image(pad, &[]);
        assert_eq!(built::changed(&v1, &v2), [""; 0], "{pad}");
        assert_eq!(built::changed(&v2, &v1), [""; 0], "{pad}");
    }
}

#[test]
fn another_end_is_another_one() {
    let v1 = image(1, &[]);
    for (function, from, to) in [
        ("all", "list; p != list + 30", "list; p != list + 29"),
        ("all", "list; p != list + 30", "list; p != list + 31"),
        ("all", "list; p != list + 30", "list; p != other + 30"),
        ("empty", "p != zeros + 30", "p != zeros + 31"),
        ("empty", "p != zeros + 30", "p != list + 30"),
        ("members", "&pairs[15].b", "&pairs[15].a"),
        ("number", "0xffffffff81000800", "0xffffffff81000801"),
    ] {
        for pad in [1, 100] {
            let v2 = image(pad, &[(from, to)]);
            assert_eq!(built::changed(&v1, &v2), [function], "{from} → {to}");
            assert_eq!(built::changed(&v2, &v1), [function], "{from} → {to}");
        }
    }
}

#[test]
fn what_is_there_is_not_taken_for_an_end() {
    // Something without a name at the same place behind the same array, which is not nothing on both sides.
    let with = |what: &str| {
        image(1, &[("list: .fill 30, 8, 1\\n", &format!("list: .fill 30, 8, 1\\n.quad {what}\\n"))])
    };
    let (one, other) = (with("7"), with("8"));
    for (v1, v2) in [(&one, &other), (&image(1, &[]), &one), (&one, &image(1, &[]))] {
        assert_eq!(built::changed(v1, v2), ["all", "members"]);
    }
    // More than what aligns the next may be something.
    let far = |pad| image(pad, &[(".balign 64\\nother", ".balign 4096\\nother")]);
    assert_eq!(built::changed(&far(1), &far(5000)), ["all", "members"]);
    // A branch to where there is nothing is a branch, and not a number.
    let jump =
        |to: &str| image(1, &[("? use(0)", &format!("? ({{ asm(\"jmp {to}\"); use(0); }})"))]);
    let (v1, v2) = (jump("list-0x1000000+0x700"), jump("list-0x1000000+0x740"));
    assert_eq!(built::changed(&v1, &v2), ["number"]);
}
