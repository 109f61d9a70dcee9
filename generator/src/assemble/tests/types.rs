//! What the plan says of types that differ, from the compiler to the rows.

use serde_json::{Value, json};

use super::*;
use crate::plan::{CallPlan, EmbedderPlan, LayoutPlan, UserPlan};

/// What is the same on both sides before and behind the types. Lines are counted by it, so that it is one line.
const HEAD: &str = "typedef unsigned long size_t; typedef unsigned gfp_t; struct kmem_cache; \
    struct kmem_cache *kmem_cache_create(const char *, size_t, size_t, unsigned, void *); \
    void *kmem_cache_alloc(struct kmem_cache *, gfp_t); void kmem_cache_free(struct kmem_cache *, void *); \
    void *kmalloc(size_t, gfp_t); void kfree(const void *); void use(void *);";

const V1: &str = "enum state { IDLE, BUSY, DEAD };
struct item { int key; int size; unsigned flags; char name[8]; long moved; int gone; unsigned bits : 3; };
";

const V2: &str = "enum state { IDLE, NEW, BUSY, DEAD };
struct item { int id; long size; int flags; char name[16]; long fresh; long moved; unsigned bits : 5; };
";

/// Who uses them, by `item->KEY`.
const USERS: &str = "struct holder { int n; struct item in[2]; };
static struct item kept;
__attribute__((section(\".data..percpu\"))) struct item each;
struct holder whole;
static struct kmem_cache *cache;
int reads(struct item *i) { return i->size; }
void writes(struct item *i) { i->flags = 1; kept.moved++; }
void *points(struct item *i) { return &i->name; }
size_t sized(void) { return sizeof(struct item); }
int keys(struct item *i) { return i->KEY; }
void copies(struct item *i) { *i = kept; each.bits = 1; }
int on_stack(int n) { struct item i = { .size = n }; use(&i); return i.size; }
void init(void) { cache = kmem_cache_create(\"item\", sizeof(struct item), 0, 0, 0); }
struct item *make(void) { return kmem_cache_alloc(cache, 0); }
struct holder *make_two(void) { return kmalloc(sizeof(struct holder), 0); }
void drop(struct item *i) { kmem_cache_free(cache, i); }
void drop_two(struct holder *h) { kfree(h); }
int busy(enum state s) { return s == BUSY; }
";

/// The rows of a source pair, `a.c`, beside these other files of both trees.
fn layouts(old: &str, new: &str, more: &[(&str, &str)]) -> Vec<LayoutPlan> {
    crate::uses::tests::open();
    let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for root in [v1.path(), v2.path()] {
        for (name, text) in more {
            std::fs::write(root.join(name), text).unwrap();
        }
    }
    judged(&[("a", old, new)], v1.path(), v2.path()).1.layouts
}

/// All that a row says of who does something, each in a line.
fn users(row: &LayoutPlan) -> Vec<String> {
    let user = |u: &UserPlan| {
        let UserPlan { function, member, how, side, file, line } = u;
        format!("{side} {file}:{line} {function}: {how} {member}").trim_end().to_owned()
    };
    row.users.iter().map(user).collect()
}

fn calls(list: &[CallPlan]) -> Vec<String> {
    let call = |c: &CallPlan| {
        let CallPlan { function, callee, of, side, file, line } = c;
        format!("{side} {file}:{line} {function}: {callee} of {of}")
    };
    list.iter().map(call).collect()
}

fn live(row: &LayoutPlan) -> Vec<String> {
    row.live.iter().map(|live| format!("{}: {}", live.place, live.name)).collect()
}

/// A member as it is in `plan.json`.
fn member(name: &str, change: &[&str], old: Value, new: Value) -> Value {
    let side = |side: Value, name: &str| match side {
        Value::Null => Value::Null,
        Value::Array(side) => {
            let name = side.get(3).and_then(Value::as_str).unwrap_or(name);
            json!({ "name": name, "offset": side[0], "size": side[1], "type": side[2] })
        }
        mut other => {
            other["name"] = name.into();
            other
        }
    };
    json!({ "name": name, "change": change, "old": side(old, name), "new": side(new, name) })
}

fn whole() -> Vec<LayoutPlan> {
    let source = |types: &str, key: &str, more: &str| {
        format!("{HEAD}\n{types}{}{more}", USERS.replace("KEY", key))
    };
    layouts(
        &source(V1, "key", "int was(struct item *i) { return i->gone; }\n"),
        &source(V2, "id", "long is(struct item *i) { return i->fresh; }\n"),
        &[],
    )
}

#[test]
fn the_plan_says_all_of_a_type_that_differs() {
    let rows = whole();
    let names: Vec<_> = rows.iter().map(|row| format!("{} {}", row.kind, row.name)).collect();
    assert_eq!(names, ["struct holder", "struct item", "enum state"]);
    for row in &rows {
        assert_eq!((&*row.object, &*row.verdict, &*row.defined_in), ("a.o", "changed", "a.c"));
        assert_eq!(row.users_unknown, Vec::<String>::new());
    }
    let item = &rows[1];
    assert_eq!(
        item.reason,
        "size 40 → 64, key renamed to id, size moved and resized and retyped, flags moved and retyped, name moved and \
         resized and retyped, gone removed, bits moved and resized, fresh added, moved moved"
    );
    let bits = |offset: u32, size: u32| json!({ "offset": offset, "bit": 0, "size": size, "type": "unsigned int" });
    assert_eq!(
        serde_json::to_value(&item.members).unwrap(),
        json!([
            member("key", &["renamed"], json!([0, 4, "int"]), json!([0, 4, "int", "id"])),
            member(
                "size",
                &["moved", "resized", "retyped"],
                json!([4, 4, "int"]),
                json!([8, 8, "long int"])
            ),
            member(
                "flags",
                &["moved", "retyped"],
                json!([8, 4, "unsigned int"]),
                json!([16, 4, "int"])
            ),
            member(
                "name",
                &["moved", "resized", "retyped"],
                json!([12, 8, "char[8]"]),
                json!([20, 16, "char[16]"])
            ),
            member("moved", &["moved"], json!([24, 8, "long int"]), json!([48, 8, "long int"])),
            member("gone", &["removed"], json!([32, 4, "int"]), Value::Null),
            member("bits", &["moved", "resized"], bits(36, 3), bits(56, 5)),
            member("fresh", &["added"], Value::Null, json!([40, 8, "long int"])),
        ])
    );
    let value = |name: &str, value: &str| json!({ "name": name, "value": value });
    assert_eq!(rows[2].reason, "BUSY enumerator changed, DEAD enumerator changed, NEW added");
    assert_eq!(
        serde_json::to_value(&rows[2].members).unwrap(),
        json!([
            { "name": "BUSY", "change": ["enumerator changed"], "old": value("BUSY", "1"), "new": value("BUSY", "2") },
            { "name": "DEAD", "change": ["enumerator changed"], "old": value("DEAD", "2"), "new": value("DEAD", "3") },
            { "name": "NEW", "change": ["added"], "old": null, "new": value("NEW", "1") },
        ])
    );
    assert_eq!(rows[0].reason, "size 88 → 136, in resized");
    assert_eq!(
        serde_json::to_value(&rows[0].members).unwrap(),
        json!([member(
            "in",
            &["resized"],
            json!([8, 80, "struct item[2]"]),
            json!([8, 128, "struct item[2]"])
        )])
    );
}

#[test]
fn the_plan_says_who_uses_a_type_and_where_its_objects_are() {
    let rows = whole();
    let [holder, item, state] = &rows[..] else { panic!("{} rows", rows.len()) };
    assert_eq!(
        users(item),
        [
            "v2 a.c:14 copies: copy",
            "v2 a.c:14 copies: write bits",
            "v2 a.c:16 init: sizeof",
            "v2 a.c:22 is: read fresh",
            "v2 a.c:13 keys: read id",
            "v1 a.c:13 keys: read key",
            "v2 a.c:15 on_stack: initialise size",
            "v2 a.c:15 on_stack: read size",
            "v2 a.c:11 points: address name",
            "v2 a.c:9 reads: read size",
            "v2 a.c:12 sized: sizeof",
            "v1 a.c:22 was: read gone",
            "v2 a.c:10 writes: write flags",
            "v2 a.c:10 writes: read and write moved",
        ]
    );
    assert_eq!(
        calls(&item.created_by),
        [
            "v2 a.c:18 make_two: kmalloc of struct holder",
            "v2 a.c:17 make: kmem_cache_alloc of struct item",
        ]
    );
    assert_eq!(
        calls(&item.freed_by),
        [
            "v2 a.c:20 drop_two: kfree of struct holder",
            "v2 a.c:19 drop: kmem_cache_free of struct item",
        ]
    );
    let embedded =
        EmbedderPlan { name: "struct holder".into(), chain: vec!["struct holder.in[]".into()] };
    assert_eq!(item.embedded_in, [embedded]);
    assert_eq!(
        live(item),
        [
            "allocated: struct holder by make_two (kmalloc)",
            "allocated: struct item by make (kmem_cache_alloc)",
            "embedded: struct holder.in[]",
            "per-cpu: struct item each",
            "slab: struct item by init (kmem_cache_create)",
            "stack: struct item i in on_stack",
            "static: struct holder whole",
            "static: struct item kept",
        ]
    );
    assert_eq!(users(holder), ["v2 a.c:18 make_two: sizeof"]);
    assert_eq!(calls(&holder.created_by), ["v2 a.c:18 make_two: kmalloc of struct holder"]);
    assert_eq!(calls(&holder.freed_by), ["v2 a.c:20 drop_two: kfree of struct holder"]);
    assert_eq!(
        live(holder),
        ["allocated: struct holder by make_two (kmalloc)", "static: struct holder whole"]
    );
    assert_eq!(users(state), ["v2 a.c:21 busy: read BUSY"]);
    assert_eq!(live(state), ["stack: enum state s in busy"]);
    let liveness: Vec<_> = rows.iter().map(|row| &*row.liveness).collect();
    assert_eq!(liveness, ["lasting", "lasting", "stack only"]);
}

#[test]
fn the_review_says_of_a_type_what_the_plan_does() {
    let rows = whole();
    assert_eq!(
        crate::layouts::told(&rows[1]),
        [
            "renamed: `key`, 4 bytes at 0, `int` → `id`, 4 bytes at 0, `int`",
            "used by `keys` (read)",
            "moved, resized, retyped: `size`, 4 bytes at 4, `int` → `size`, 8 bytes at 8, `long int`",
            "used by `on_stack` (initialise, read), `reads` (read)",
            "moved, retyped: `flags`, 4 bytes at 8, `unsigned int` → `flags`, 4 bytes at 16, `int`",
            "used by `writes` (write)",
            "moved, resized, retyped: `name`, 8 bytes at 12, `char[8]` → `name`, 16 bytes at 20, `char[16]`",
            "used by `points` (address)",
            "removed: `gone`, 4 bytes at 32, `int` → nothing",
            "used by `was` (read)",
            "moved, resized: `bits`, 3 bits at 36 bit 0, `unsigned int` → `bits`, 5 bits at 56 bit 0, `unsigned int`",
            "used by `copies` (write)",
            "added: nothing → `fresh`, 8 bytes at 40, `long int`",
            "used by `is` (read)",
            "1 more only moved",
            "created by `make_two` (kmalloc), `make` (kmem_cache_alloc)",
            "freed by `drop_two` (kfree), `drop` (kmem_cache_free)",
            "instances: **lasting** (allocated: struct holder by make_two (kmalloc), allocated: struct item by make \
             (kmem_cache_alloc), embedded: struct holder.in[], per-cpu: struct item each, slab: struct item by init \
             (kmem_cache_create), stack: struct item i in on_stack and 2 more)",
        ]
    );
    assert_eq!(
        crate::layouts::told(&rows[2])[..3],
        [
            "enumerator changed: `BUSY` = 1 → `BUSY` = 2",
            "used by `busy` (read)",
            "enumerator changed: `DEAD` = 2 → `DEAD` = 3",
        ]
    );
}

/// How `include/linux/slab.h` of 6.12 makes caches.
const CACHES: &str = "typedef unsigned slab_flags_t; struct kmem_cache_args { unsigned align; };
struct kmem_cache *__kmem_cache_create_args(const char *, unsigned, struct kmem_cache_args *, slab_flags_t);
struct kmem_cache *__kmem_cache_default_args(const char *, unsigned, struct kmem_cache_args *, slab_flags_t);
struct kmem_cache *__kmem_cache_create(const char *, unsigned, unsigned, slab_flags_t, void (*)(void *));
#define KMEM_CACHE(s, flags) __kmem_cache_create_args(#s, sizeof(struct s), \\
    &(struct kmem_cache_args) { .align = __alignof__(struct s) }, (flags))
#define kmem_cache_create(name, size, args, ...) _Generic((args), \\
    struct kmem_cache_args *: __kmem_cache_create_args, void *: __kmem_cache_default_args, \\
    default: __kmem_cache_create)(name, size, args, __VA_ARGS__)
";

#[test]
fn caches_are_known_by_all_of_the_kernel_s_ways_to_make_them() {
    let head = HEAD.replace(
        "struct kmem_cache *kmem_cache_create(const char *, size_t, size_t, unsigned, void *);",
        "",
    );
    let made = |how: &str| {
        let source = |more: &str| {
            format!(
                "{head}\n{CACHES}struct item {{ int a; {more} }};\nstruct kmem_cache *cache;\n\
                 void init(void) {{ cache = {how}; }}\nint f(struct item *i) {{ return i->a; }}\n"
            )
        };
        let rows = layouts(&source(""), &source("long b;"), &[]);
        assert_eq!(rows.len(), 1, "{how}");
        assert_eq!(rows[0].users_unknown, Vec::<String>::new(), "{how}");
        (live(&rows[0]), rows[0].liveness.clone())
    };
    for (how, callee) in [
        ("KMEM_CACHE(item, 0)", "__kmem_cache_create_args"),
        ("kmem_cache_create(\"item\", sizeof(struct item), 0, 0, 0)", "__kmem_cache_create"),
        // Two of these have one type: the name is that of the first.
        (
            "kmem_cache_create(\"item\", sizeof(struct item), (void *)0, 0)",
            "__kmem_cache_create_args",
        ),
        (
            "kmem_cache_create(\"item\", sizeof(struct item), &(struct kmem_cache_args) { 8 }, 0)",
            "__kmem_cache_create_args",
        ),
    ] {
        let expected = vec![format!("slab: struct item by init ({callee})")];
        assert_eq!(made(how), (expected, "lasting".to_owned()), "{how}");
    }
}

#[test]
fn who_may_have_objects_of_a_type_decides_whether_they_can_be_alive() {
    let use_it = "int f(struct item *i) { return i->a; }\n";
    // In a header of the tree, with another file beside it.
    let of = |body: &str, other: &str| {
        let header = |more: &str| format!("struct item {{ int a; {more} }};\n");
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        crate::uses::tests::open();
        for (root, more) in [(old.path(), ""), (new.path(), "long b;")] {
            std::fs::write(root.join("h.h"), header(more)).unwrap();
            std::fs::write(root.join("b.c"), other).unwrap();
        }
        let text = format!("#include \"h.h\"\nvoid use(void *); void *elsewhere(void);\n{body}");
        let (_, plan) = judged(&[("a", &text, &text)], old.path(), new.path());
        let mut rows = plan.layouts;
        assert_eq!(rows.len(), 1, "{body}");
        let row = rows.remove(0);
        let refused = plan.refusals.iter().any(|r| r.name == "struct item" && r.state_transfer);
        assert_eq!(refused, row.liveness != "stack only", "{body}");
        (row.defined_in.clone(), live(&row), row.liveness)
    };
    let expect = |found: (String, Vec<String>, String), live: &[&str], liveness: &str| {
        assert_eq!(
            found,
            ("h.h".to_owned(), live.iter().map(|l| (*l).to_owned()).collect(), liveness.to_owned())
        );
    };
    expect(of(use_it, "int nothing;"), &[], "none");
    expect(of(use_it, "struct item;"), &["elsewhere: struct item in b.c"], "unknown");
    expect(of(use_it, "int item_count, items;"), &[], "none");
    let on_stack = "int f(void) { struct item i = { 1 }; use(&i); return i.a; }\n";
    expect(of(on_stack, ""), &["stack: struct item i in f"], "stack only");
    expect(
        of("extern struct item far; int f(void) { return far.a + sizeof(far); }\n", ""),
        &["elsewhere: whatever else includes h.h", "extern: struct item far"],
        "lasting",
    );
    expect(
        of("int f(void) { struct item *i = elsewhere(); return i->a; }\n", ""),
        &[
            "elsewhere: whatever else includes h.h",
            "memory of another kind: struct item in what f takes for one",
        ],
        "lasting",
    );
}

#[test]
fn what_is_not_understood_leaves_it_open_who_uses_a_type() {
    // gcc has functions within functions, clang does not.
    let source = |of: &str| {
        format!(
            "struct item {{ {of} a; }};\nint f(struct item *i) {{ int in(void) {{ return i->a; }} return in(); }}\n\
             int g(struct item *i) {{ return i->a; }}\n"
        )
    };
    let rows = layouts(&source("int"), &source("long"), &[]);
    assert_eq!(users(&rows[0]), ["v2 a.c:3 g: read a"]);
    let why = "a.c:2: function definition is not allowed here";
    let told: Vec<_> = rows[0].users_unknown.iter().filter(|told| told.contains(why)).collect();
    assert_eq!(
        told,
        [
            "v2: a.c:2: function definition is not allowed here",
            "v1: a.c:2: function definition is not allowed here"
        ]
    );
    assert_eq!(rows[0].liveness, "unknown");
    assert!(
        crate::layouts::told(&rows[0])
            .iter()
            .any(|line| line.starts_with("users unknown: v2: a.c:2: "))
    );
}
