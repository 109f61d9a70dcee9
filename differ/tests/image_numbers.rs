//! Linked images: clones of one function, and numbers that may be offsets of per-CPU variables.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod built;

const CLONES: &str = r#"
int out(int);
static int one(int) __asm__("foo.constprop.0");
static int two(int) __asm__("foo.constprop.1");
static int __attribute__((used)) one(int x) { return out(x + 1); }
static int __attribute__((used)) two(int x) { return out(x + 2); }
int first(int x) { return one(x) * 3; }
int second(int x) { return two(x) * 5; }
int either(int x) { return one(x) * 7; }
int out(int x) { return x; }
"#;

#[test]
fn another_clone_of_a_callee_is_another_callee() {
    let v1 = built::build(CLONES, "");
    let v2 = built::build(&CLONES.replace("one(x) * 7", "two(x) * 7"), "");
    assert_eq!(built::changed(&v1, &v2), ["either"]);
    assert_eq!(built::changed(&v2, &v1), ["either"]);
}

#[test]
fn clones_are_known_by_what_they_do_not_by_their_number() {
    let v1 = built::build(CLONES, "");
    let swapped =
        CLONES.replace("constprop.0", "constprop.x").replace("constprop.1", "constprop.0");
    let swapped = swapped.replace("constprop.x", "constprop.1");
    assert_eq!(built::changed(&v1, &built::build(&swapped, "")), [""; 0]);
    let other = swapped.replace("one(x) * 7", "two(x) * 7");
    assert_eq!(built::changed(&v1, &built::build(&other, "")), ["either"]);
}

const NUMBERS: &str = r#"
asm(".pushsection .percpu, \"aw\"\n"
    ".globl this_cpu_off, before, counter, another\n"
    ".type this_cpu_off, @object\n .size this_cpu_off, 8\n"
    ".type before, @object\n .size before, BEFORE - 8\n"
    ".type FIRST, @object\n .size FIRST, 8\n"
    ".type SECOND, @object\n .size SECOND, 8\n"
    "this_cpu_off: .quad 0\n"
    "before: .skip BEFORE - 8\n"
    "FIRST: .quad 0\n"
    "SECOND: .quad 0\n"
    ".skip 4096\n .popsection");
extern long counter, another;
long __per_cpu_offset[8] = { 1 };
int out(long);
long read(void) { long v; asm volatile("movq %%gs:%P1, %0" : "=r"(v) : "p"(&counter)); return v; }
long element(long i) { long v; asm volatile("movq %%gs:counter(,%1,8), %0" : "=r"(v) : "r"(i)); return v; }
static inline __attribute__((always_inline)) long hidden(long p) { asm("" : "+r"(p)); return p; }
long mine(void) { long p = hidden((long)&counter); asm("addq %%gs:this_cpu_off, %0" : "+r"(p)); return p; }
long mine_too(void)
{
    long p;
    asm("movq %%gs:this_cpu_off, %0" : "=r"(p));
    return p + (long)&counter;
}
long of(long cpu) { return *(long *)(hidden((long)&counter) + __per_cpu_offset[cpu]); }
long member(long cpu) { return *(long *)((char *)&counter + __per_cpu_offset[cpu]); }
long sum(long n)
{
    long all = 0;
    for (long cpu = 0; cpu < n; cpu++)
        if (out(cpu))
            all += *(long *)(hidden((long)&counter) + __per_cpu_offset[cpu]);
    return all;
}
long number(void) { return 0x3040; }
long both(long cpu) { return *(long *)(hidden((long)&counter) + __per_cpu_offset[cpu]) + out(0x3040); }
long displaced(char *p) { return *(long *)(p + 0x3040); }
int out(long x) { return x; }
"#;

/// With the per-CPU variables `first` and `second` at `at` and 8 bytes behind that.
fn numbers(at: u64, [first, second]: [&str; 2], edit: (&str, &str)) -> Vec<u8> {
    assert!(edit.0.is_empty() || NUMBERS.contains(edit.0), "{}", edit.0);
    let edited =
        if edit.0.is_empty() { NUMBERS.to_owned() } else { NUMBERS.replace(edit.0, edit.1) };
    let source =
        edited.replace("BEFORE", &at.to_string()).replace("FIRST", first).replace("SECOND", second);
    built::build(&source, "--section-start=.percpu=0")
}

const ORDER: [&str; 2] = ["counter", "another"];

#[test]
fn a_per_cpu_variable_that_moves_is_the_same() {
    let v1 = numbers(0x3040, ORDER, ("", ""));
    assert_eq!(built::changed(&v1, &numbers(0x3080, ORDER, ("", ""))), [""; 0]);
    assert_eq!(built::changed(&v1, &numbers(0x3040, ["another", "counter"], ("", ""))), [""; 0]);
}

#[test]
fn a_number_is_no_per_cpu_variable() {
    let v1 = numbers(0x3040, ORDER, ("", ""));
    for (function, from, to) in [
        ("number", "return 0x3040", "return 0x3080"),
        ("both", "out(0x3040)", "out(0x3080)"),
        ("displaced", "p + 0x3040", "p + 0x3080"),
    ] {
        let v2 = numbers(0x3080, ORDER, (from, to));
        assert_eq!(built::changed(&v1, &v2), [function], "{from} → {to}");
    }
}

#[test]
fn another_per_cpu_variable_at_the_same_place_is_another() {
    let v1 = numbers(0x3040, ORDER, ("", ""));
    let swapped = ["another", "counter"];
    let uses = |function: &str| {
        let start = NUMBERS.find(&format!("long {function}(")).unwrap();
        let end = start + NUMBERS[start..].find("counter").unwrap() + "counter".len();
        NUMBERS[start..end].to_owned()
    };
    for function in ["read", "element", "mine", "mine_too", "of", "member", "sum", "both"] {
        let from = uses(function);
        let to = from.replace("counter", "another");
        let v2 = numbers(0x3040, swapped, (&from, &to));
        assert_eq!(built::changed(&v1, &v2), [function]);
    }
}
