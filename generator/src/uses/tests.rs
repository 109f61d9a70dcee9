//! Small sources, and what must be found in them. It takes libclang, which `cargo xtask setup` provides.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

/// The reader; without it nothing here would be tested.
pub(crate) fn open() -> Reader {
    Reader::open().unwrap_or_else(|why| {
        panic!("libclang-14 is needed: run `cargo xtask setup`, or install libclang1-14 ({why:#})")
    })
}

const TYPES: &str = "
typedef unsigned long size_t; typedef unsigned gfp_t;
struct inner { int x, y; };
union both { int whole; char part; };
enum state { IDLE, BUSY };
typedef struct { int n; } anon_t;
struct foo {
    int a, b; unsigned bits : 3; int arr[4]; struct inner in; struct foo *next;
    struct { int deep; union { int left; int right; }; } u;
    struct { int hidden; };
    int (*op)(int); struct { int head; } rcu;
};
void *kmalloc(size_t, gfp_t); void *kmem_cache_alloc(void *, gfp_t); void kfree(const void *);
void *kmem_cache_create(const char *, size_t); void kvfree_call_rcu(void *, void *); void use(void *); int get(int);
struct foo *foo_alloc(void); void eat(struct foo);
";

fn uses(open: &Reader, body: &str) -> (String, Uses) {
    let types = ["struct foo", "union both", "enum state", "anon_t"];
    let types = types.iter().map(|t| (*t).to_owned()).collect();
    let text = format!("{TYPES}\n# 1 \"case.c\"\n{body}\n");
    let uses = open
        .alone(|clang| in_text(clang, &text, &["-std=gnu11", "-w"], &types, &BTreeSet::new()))
        .unwrap()
        .unwrap();
    (text, uses)
}

/// The accesses of `body` are exactly these: `member how`, in the order of member and how.
fn check(open: &Reader, body: &str, expected: &[&str]) {
    let (_, uses) = uses(open, body);
    let found: Vec<String> = uses
        .accesses
        .iter()
        .map(|a| {
            format!("{} {}", if a.member.is_empty() { &a.of } else { &a.member }, a.how.word())
        })
        .collect();
    assert_eq!(found, expected, "in {body}");
    assert_eq!(uses.unknown, [""; 0], "in {body}");
}

fn calls(list: &BTreeSet<Call>) -> Vec<String> {
    list.iter().map(|c| format!("{} {} {}", c.function, c.callee, c.of)).collect()
}

#[test]
fn reads_writes_and_addresses() {
    let open = open();
    check(&open, "void f(struct foo *p) { p->a = p->b; }", &["a write", "b read"]);
    check(
        &open,
        "void f(struct foo p) { (p.a) += 1; p.b++; --p.bits; }",
        &["a read and write", "b read and write", "bits read and write"],
    );
    check(
        &open,
        "void f(struct foo *p) { use(&p->a); use(p->arr); }",
        &["a address", "arr address"],
    );
    check(
        &open,
        "int f(struct foo *p) { return p->arr[1] + *(p->arr + 2); }",
        &["arr read", "arr read"],
    );
    check(&open, "void f(struct foo *p) { p->arr[p->a] = 1; }", &["a read", "arr write"]);
    check(
        &open,
        "void f(struct foo *p) { p->next->next->a = 1; }",
        &["a write", "next read", "next read"],
    );
    check(
        &open,
        "int f(struct foo *p) { return p->a == 1 ? p->op(p->b) : -p->a; }",
        &["a read", "a read", "b read", "op read"],
    );
    check(&open, "void f(struct foo *p) { asm(\"\" : \"+m\"(p->a)); }", &["a assembly"]);
    // Something with a line marker between the operands.
    check(&open, "void f(struct foo *p) { p->a\n# 7 \"case.c\"\n = 2; }", &["a write"]);
}

#[test]
fn nested_and_unnamed_members() {
    let open = open();
    check(&open, "void f(struct foo *p) { p->in.x = 1; }", &["in write"]);
    check(
        &open,
        "void f(struct foo *p) { p->u.deep = p->u.left; }",
        &["u.deep write", "u.left read"],
    );
    check(&open, "void f(struct foo *p) { p->hidden = 1; }", &["hidden write"]);
    check(&open, "void f(struct foo *p) { use(&p->u); }", &["u address"]);
    check(&open, "void f(union both *p) { p->part = 1; }", &["part write"]);
    check(&open, "void f(anon_t *p) { p->n = 1; }", &["n write"]);
    check(&open, "int f(enum state s) { return s == BUSY; }", &["BUSY read"]);
}

#[test]
fn what_the_macros_of_the_kernel_expand_to() {
    let open = open();
    check(
        &open,
        "int f(struct foo *p) { return (*(const volatile typeof(p->a) *)&(p->a)); }",
        &["a read", "a typeof"],
    );
    check(
        &open,
        "void f(struct foo *p) { do { *(volatile typeof(p->a) *)&(p->a) = (1); } while (0); }",
        &["a write", "a typeof"],
    );
    check(
        &open,
        "struct foo *f(int *m) { return ((struct foo *)((void *)m - __builtin_offsetof(struct foo, b))); }",
        &["b offsetof"],
    );
    check(
        &open,
        "void f(struct foo *p) { ({ typeof(p->b) v = p->b; use(&v); v; }); }",
        &["b read", "b typeof"],
    );
    check(
        &open,
        "int f(struct foo *p) { return __builtin_types_compatible_p(typeof(p->a), typeof(p->b)); }",
        &["a typeof", "b typeof"],
    );
}

#[test]
fn whole_values() {
    let open = open();
    check(
        &open,
        "size_t f(struct foo *p) { return sizeof(struct foo) + sizeof(*p) + sizeof p->arr; }",
        &["struct foo sizeof", "struct foo sizeof", "arr sizeof"],
    );
    check(&open, "size_t f(struct foo *p) { return sizeof(struct foo *) + sizeof(p); }", &[]);
    check(&open, "void f(struct foo *p, struct foo *q) { *p = *q; }", &["struct foo copy"]);
    check(
        &open,
        "void f(struct foo *p) { struct foo v = *p; eat(v); }",
        &["struct foo copy", "struct foo copy"],
    );
    check(
        &open,
        "struct foo v = { .a = 1, .in = { .x = 2 }, .u.deep = 3 };",
        &["a initialise", "in initialise", "u initialise", "u.deep initialise"],
    );
    check(&open, "struct foo v = { 1, 2 };", &["struct foo initialise"]);
    check(
        &open,
        "void f(struct foo *p) { *p = (struct foo) { .b = 1 }; }",
        &["struct foo copy", "b initialise"],
    );
}

#[test]
fn extents_are_those_of_the_expressions() {
    let body = "void f(struct foo *p)\n{\n\tp->u.left = get((p)->a);\n}";
    let open = open();
    let (text, uses) = uses(&open, body);
    let found: Vec<(u32, &str)> =
        uses.accesses.iter().map(|a| (a.at.line, &text[a.at.extent.0..a.at.extent.1])).collect();
    assert_eq!(found, [(3, "(p)->a"), (3, "p->u.left")]);
    assert!(uses.accesses.iter().all(|a| a.at.file == "case.c" && a.function == "f"));
}

#[test]
fn creation_and_freeing() {
    let body = "
void *cache;
struct foo *plain(void) { struct foo *p = kmalloc(sizeof(*p), 0); return p; }
struct foo *slab(void) { return kmem_cache_alloc(cache, 0); }
struct foo *hooked(void) { struct foo *p; p = ({ void *_res = kmalloc(3, 0); _res; }); return p; }
struct foo *other(void) { return foo_alloc(); }
void *sized(void) { return kmalloc(sizeof(struct foo), 0); }
void *not_one(void) { struct inner *p = kmalloc(sizeof(*p), 0); return p; }
void init(void) { cache = kmem_cache_create(\"foo\", sizeof(struct foo)); }
void bye(struct foo *p) { kfree(p); }
void later(struct foo *p) { kvfree_call_rcu(&p->rcu, (void *)p); }
void not_it(struct foo *p) { kfree(p->op); }
";
    let open = open();
    let (_, uses) = uses(&open, body);
    assert_eq!(
        calls(&uses.created),
        [
            "hooked kmalloc struct foo",
            "other foo_alloc struct foo",
            "plain kmalloc struct foo",
            "sized kmalloc struct foo",
            "slab kmem_cache_alloc struct foo",
        ]
    );
    assert_eq!(calls(&uses.caches), ["init kmem_cache_create struct foo"]);
    let freed: BTreeSet<String> = calls(&uses.freed).into_iter().collect();
    assert_eq!(
        freed.into_iter().collect::<Vec<_>>(),
        ["bye kfree struct foo", "later kvfree_call_rcu struct foo",]
    );
}

#[test]
fn what_is_not_understood_is_named() {
    let open = open();
    let (_, uses) = uses(&open, "void f(struct foo *p) { p->nothing = 1; p->a = 2; }");
    assert_eq!(uses.accesses.len(), 1);
    assert!(uses.unknown.iter().any(|why| why.starts_with("case.c:1: no member named 'nothing'")));
}

/// What becomes of the address of `table` in `body`.
fn table(open: &Reader, body: &str) -> std::result::Result<(), String> {
    let head = "int strcmp(const char *, const char *); void keep(const void *); int found(int);";
    let entry = "struct entry { const char *name; int (*call)(int); char tag[4]; };";
    let rows = "static const struct entry table[] = { { \"a\", found, \"x\" }, { 0 } };";
    let text = format!("{head}\n# 1 \"case.c\"\n{entry}\n{rows}\n{body}\n");
    let look = |unit: &TranslationUnit<'_>| {
        assert_eq!(errors(unit), [""; 0]);
        private::stays_within(&unit.get_entity(), "table", "case.c")
    };
    open.alone(|clang| with_unit(clang, &text, &["-std=gnu11", "-w"], look)).unwrap().unwrap()
}

#[test]
fn a_table_that_is_only_looked_up_stays() {
    let open = open();
    let lookup = "int f(const char *n) { const struct entry *e; for (e = table; e->name; e++) \
        if (!strcmp(e->name, n)) return e->call(1); return table[0].tag == 0 ? 0 : -1; }";
    let without = lookup.replace("table[0].tag == 0 ? 0 : ", "");
    assert_eq!(table(&open, &without), Ok(()));
    assert_eq!(
        table(
            &open,
            "int f(int i) { return !table[i].call && (i > 1 ? &table[0] : table)->call(2); }"
        ),
        Ok(())
    );
}

#[test]
fn a_table_that_gets_out_does_not() {
    let open = open();
    for body in [
        "void f(void) { keep(table); }",
        "void f(void) { keep(&table[1]); }",
        "int printk(const char *, ...); void f(void) { printk(\"%p\", table); }",
        "void f(void) { keep(&table[1].call); }",
        "void f(void) { keep(table[1].tag); }",
        "long f(void) { return (long)table; }",
        "static const struct entry *kept; void f(void) { kept = table; }",
        "void f(void) { static const struct entry *kept; kept = table; }",
        "struct holder { const struct entry *e; };",
        "const struct entry *f(void) { return table; }",
        "int f(const struct entry *e) { return e->call(1); }",
        "void f(void) { asm volatile(\"\" :: \"r\"(table)); }",
        "static const void *kept = table;",
        "typedef const struct entry *entry_t;",
        "extern int (*hook)(const struct entry *);",
    ] {
        assert!(table(&open, body).is_err(), "{body}");
    }
}

/// What `body`, in `int f(struct ops *o, int a)`, does with `o->x`.
fn looks(body: &str) -> Vec<Look> {
    let reader = open();
    let text = format!(
        "struct ops {{ int (*x)(int); int n; }}; int keep(void *); extern int (*kept)(int); int more(void);
int more_of(struct ops **);
int f(struct ops *o, struct ops *other, int a) {{ {body} }}"
    );
    let of = "struct ops".to_owned();
    let handlers = BTreeSet::from([(of.clone(), "x".to_owned())]);
    let uses = reader
        .alone(|clang| in_text(clang, &text, &["-w"], &BTreeSet::from([of]), &handlers))
        .unwrap()
        .unwrap();
    assert_eq!(uses.unknown, Vec::<String>::new(), "{body}");
    uses.handled.into_iter().map(|handled| handled.look).collect()
}

#[test]
fn handlers_that_are_tested_and_called() {
    use Look::*;
    for body in [
        "if (o->x) return o->x(a); return 0;",
        "if (!o->x) return 0; more(); return (*o->x)(a);",
        "if (__builtin_expect(!!(!o->x), 0)) { more(); goto out; } o->x(a); out: return 0;",
        "return o->x ? o->x(a) : 0;",
        "return a && o->x != ((void *)0) && o->x(a);",
        "while (o->x) { for (;;) o->x(a); } return 0;",
        "if (!o || !o->x) return 0; return o->x(a);",
        "return o->x == 0 || o->x(a);",
    ] {
        let found = looks(body);
        assert_eq!(found, [Test, GuardedCall], "{body}");
    }
}

#[test]
fn handlers_that_are_not_known_to_be_there() {
    use Look::*;
    for (body, expected) in [
        ("return o->x(a);", vec![Call]),
        ("if (o->x) more(); return o->x(a);", vec![Test, Call]),
        ("if (o->x) return other->x(a); return 0;", vec![Test, Call]),
        ("if (o->x || a) return o->x(a); return 0;", vec![Test, Call]),
        ("if (a) goto in; if (!o->x) return 0; in: return o->x(a);", vec![Test, Call]),
        ("if (o->x) { o = other; return o->x(a); } return 0;", vec![Test, Call]),
        ("if (!o->x) return 0; o++; return o->x(a);", vec![Test, Call]),
        ("if (o->x && (o = other) && o->x(a)) return 1; return 0;", vec![Test, Call]),
        ("if (!o->x) return 0; more_of(&o); return o->x(a);", vec![Test, Call]),
        ("return !o->x;", vec![Test]),
        ("int has = !!o->x; if (has) o->x(a); return 0;", vec![Test, Call]),
        ("kept = o->x; return 0;", vec![Kept]),
        ("int (*now)(int) = o->x; return now ? now(a) : 0;", vec![Kept]),
        ("return keep(o->x);", vec![Kept]),
        ("return keep(&o->x);", vec![Kept]),
        ("if ((kept = o->x)) return 1; return 0;", vec![Kept]),
        ("return (a ? o->x : other->x)(a);", vec![Kept]),
        ("return sizeof(o->x);", vec![]),
    ] {
        let found = looks(body);
        assert_eq!(found, expected, "{body}");
    }
}

#[test]
fn a_type_of_a_function_is_found_there() {
    let open = open();
    let body = "int f(void) { struct foo { int own; } it; it.own = 1; return sizeof(it); }";
    check(&open, body, &["struct foo sizeof", "own write"]);
}
