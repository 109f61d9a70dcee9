//! Linked images: lines in tables that the kernel may write to, or that these lead to.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod built;

use dynamos_differ::image::{self, Image};
use dynamos_differ::verdict::DataChange;

/// Dynamic debug as the kernel has it (include/linux/dynamic_debug.h), in a part of `.data` that is marked.
const DEBUG: &str = r#"
struct ddebug {
    const char *modname, *function, *filename, *format;
    unsigned int lineno : 18, class_id : 6, flags : 8;
    unsigned long key[2];
} __attribute__((aligned(8)));
void print(struct ddebug *, const char *);
#define debug(n, format) do { \
    static struct ddebug __attribute__((section(".data.dyndbg.1"), used)) __UNIQUE_ID_ddebug##n = { \
        "mod", __func__, __FILE__, format, __LINE__, 63, 0 }; \
    print(&__UNIQUE_ID_ddebug##n, format); } while (0)
asm(".pushsection .data.dyndbg.0, \"aw\"\n .balign 8\n .globl __start___dyndbg\n__start___dyndbg:\n .popsection\n"
    ".pushsection .data.dyndbg.2, \"aw\"\n .globl __stop___dyndbg\n__stop___dyndbg:\n .popsection");
void one(void) { debug(1, "one"); debug(2, "two"); }
void other(void) { debug(3, "three"); }
struct pi_entry { const char *fmt, *func, *file; unsigned line; const char *level, *prefix; } __attribute__((packed));
#define printk(fmt) \
    static const struct pi_entry __attribute__((used)) _entry = { fmt, __func__, __FILE__, __LINE__, 0, "pre" }; \
    static const struct pi_entry *__attribute__((used, section(".printk_index"))) _entry_ptr = &_entry;
void told(void) { printk("told") }
void told_too(void) { printk("told too") }
struct ddebug alone = { "mod", "alone", __FILE__, "four", 1, 63, 0 };
void print(struct ddebug *d, const char *format) { d->key[0] += *format; }
"#;

/// What differs in data when `from` becomes `to` and everything moves down by so many lines.
fn differing(from: &str, to: &str, lines: usize) -> Vec<(String, String, DataChange, String)> {
    assert!(DEBUG.contains(from), "{from}");
    let build = |source: &str| built::build(source, "--sort-section=name");
    let (v1, v2) = (build(DEBUG), build(&("\n".repeat(lines) + &DEBUG.replace(from, to))));
    let (a, b) = (Image::parse(&v1, "v1").unwrap(), Image::parse(&v2, "v2").unwrap());
    let rows = image::contents(&a, &b).unwrap().data.into_iter();
    rows.map(|row| (row.name, row.section, row.change, row.reason)).collect()
}

#[test]
fn a_line_is_no_change() {
    assert_eq!(differing("", "", 3), []);
    assert_eq!(differing("", "", 1000), []);
}

#[test]
fn all_else_of_dynamic_debug_is_a_change() {
    for (from, to, what) in [
        ("\"three\"", "\"four\"", "\"three\" became \"four\""),
        ("63, 0 }; \\", "62, 0 }; \\", "at +0x20: 0xfc0000 became 0xf80000"),
        ("63, 0 }; \\", "63, 1 }; \\", "at +0x20: 0xfc0000 became 0x1fc0000"),
        ("63, 0 }; \\", "63, 0, { 1 } }; \\", "at +0x28: 0x0 became 0x1"),
    ] {
        let found = differing(from, to, 3);
        let (name, section, change, reason) = found.last().unwrap();
        assert!(name.starts_with("__UNIQUE_ID_ddebug3"), "{found:?}");
        assert_eq!((section.as_str(), *change), ("__dyndbg", DataChange::Changed));
        assert!(reason.contains(what), "{from} → {to}: {found:?}");
    }
}

#[test]
fn entries_that_are_numbered_anew_are_the_same() {
    let more = "void more(void) { debug(1, \"more\"); printk(\"more\") }\nvoid told(";
    let renumbered = DEBUG
        .replace("debug(3", "debug(4")
        .replace("debug(2", "debug(3")
        .replace("debug(1", "debug(2")
        .replace("void told(", more);
    let found = differing(DEBUG, &renumbered, 3);
    let told: Vec<_> = found.iter().map(|row| (row.1.as_str(), row.2)).collect();
    let new = [("__dyndbg", DataChange::New), (".printk_index", DataChange::New)];
    assert_eq!(told, new, "{found:?}");
}

#[test]
fn a_format_of_printk_is_a_change() {
    for (from, to) in
        [("\"told too\"", "\"said too\""), ("__LINE__, 0, \"pre\"", "__LINE__, 0, \"no\"")]
    {
        let found = differing(from, to, 3);
        let row = found.iter().find(|row| row.0.starts_with("_entry_ptr"));
        let (_, section, change, _) = row.unwrap_or_else(|| panic!("{found:?}"));
        assert_eq!((section.as_str(), *change), (".printk_index", DataChange::Changed));
    }
}

#[test]
fn a_number_where_a_line_would_be_is_a_change_in_other_variables() {
    let found = differing("\"four\", 1,", "\"four\", 2,", 0);
    assert!(found.len() == 1 && found[0].0 == "alone", "{found:?}");
}
