//! Tables of operations that differ in pointers to functions and in nothing else.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::process::Command;

use dynamos_differ::compare::{Slot, Slots};
use dynamos_differ::{Object, Pair};

const HEAD: &str = "typedef int fn_t(int); typedef void (*cb_t)(void);
struct inner { int flags; int (*probe)(int); };
struct ops { const char *name; int (*open)(int); fn_t *read; cb_t done; struct inner in; long mode; void *data;
  union { int (*u)(int); long l; }; int (*list[2])(int); };
static int f(int a) { return a + 1; } static int g(int a) { return a + 2; } static void h(void) { }
int elsewhere(int);
";

/// What `name` is found to differ in, where `old` and `new` are V1's and V2's code behind [`HEAD`].
fn compare(old: &str, new: &str) -> Result<Slots, String> {
    let build = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let keep = "int use(int i) { h(); return f(i) + g(i) + elsewhere(i); } void *p(void) { return (void *)&table; }";
        std::fs::write(dir.path().join("a.c"), format!("{HEAD}{text}\n{keep}")).unwrap();
        let flags = "-O1 -g -c -fno-pie -mcmodel=kernel -mno-sse -ffunction-sections -fdata-sections a.c -o a.o";
        let status = Command::new("gcc").current_dir(&dir).args(flags.split(' ')).status().unwrap();
        assert!(status.success());
        std::fs::read(dir.path().join("a.o")).unwrap()
    };
    let (v1, v2) = (build(old), build(new));
    let (a, b) = (Object::parse(&v1, "v1.o").unwrap(), Object::parse(&v2, "v2.o").unwrap());
    Pair::compare(&a, &b).unwrap().slots.remove("table").expect("it changed")
}

fn table(body: &str) -> String {
    format!("static const struct ops table = {{ .name = \"x\", .mode = 5, {body} }};")
}

fn slot(offset: u64, of: &str, path: &str, old: Option<&str>, new: Option<&str>) -> Slot {
    let member = path.rsplit('.').next().unwrap().to_owned();
    let owned = |name: Option<&str>| name.map(str::to_owned);
    Slot { offset, of: of.into(), member, path: path.into(), old: owned(old), new: owned(new) }
}

#[test]
fn handlers_come_go_and_change() {
    let found = compare(&table(".open = f, .done = h,"), &table(".open = g, .read = elsewhere,"));
    let found = found.unwrap();
    let expected = [
        slot(8, "struct ops", "open", Some("f"), Some("g")),
        slot(16, "struct ops", "read", None, Some("elsewhere")),
        slot(24, "struct ops", "done", Some("h"), None),
    ];
    assert_eq!(found.slots, expected);
    assert_eq!((found.size, found.types), (88, vec!["struct ops".to_owned()]));
    assert_eq!(found.defined_in.len(), 1);
}

#[test]
fn a_member_of_a_member_counts() {
    let found = compare(&table(".open = f,"), &table(".open = f, .in.probe = g,")).unwrap();
    assert_eq!(found.slots, [slot(40, "struct inner", "in.probe", None, Some("g"))]);
    assert_eq!(found.types, ["struct inner", "struct ops"]);
}

#[test]
fn all_else_is_no_slot() {
    for (old, new, why) in [
        (".open = f,", ".in.flags = 1, .open = g,", "the byte at 0x20 differs"),
        (".open = f,", ".open = f, .data = (void *)g,", "at 0x38 is no member"),
        (".open = f,", ".open = f, .u = g,", "at 0x40 is no member"),
        (".open = f,", ".open = f, .list = { g },", "at 0x48 is no member"),
        (".open = f,", ".open = (int (*)(int))4096,", "neither NULL nor a pointer"),
        (".open = f,", ".open = (int (*)(int))((char *)f + 4),", "`open`: V2's"),
    ] {
        let error = compare(&table(old), &table(new)).unwrap_err();
        assert!(error.contains(why), "{new}: {error}");
    }
}

#[test]
fn another_type_of_the_member_is_no_slot() {
    let other = "struct other { long a; int (*opened)(int); long rest[9]; };";
    let new = format!("{other} static const struct other table = {{ .opened = g }};");
    let old = "static const struct ops table = { .open = f };";
    assert!(compare(old, &new).unwrap_err().contains("its type"));
}
