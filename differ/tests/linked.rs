//! Modules: several sources linked into one relocatable file, with static functions and variables of one name.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::process::Command;

use dynamos_differ::verdict::{DataChange, Verdict};
use dynamos_differ::{Comparison, Object, Pair};

const READ: &str = "int shared(int);
static int count = 1;
static int help(int a) { return shared(a) + count++; }
int read(int a) { return help(a) * help(a + 1); }
";
const WRITE: &str = "int shared(int);
static int count = 2;
static int help(int a) { if (a > 4) return 4; return shared(a) - count--; }
int write(int a) { return help(a) / help(a + 1); }
";
const BOTH: &str = "int shared(int a) { return a; }\n";

/// Compiles sources (name, text) and links them in that order.
fn module(sources: &[(&str, &str)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).current_dir(&dir).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    for (name, text) in sources {
        std::fs::write(dir.path().join(name), text).unwrap();
        let flags = "-O2 -g -c -fno-pie -mcmodel=kernel -mno-sse -fno-inline -fno-ipa-cp -fno-asynchronous-unwind-tables -pg -mfentry";
        let arguments: Vec<&str> = flags.split(' ').chain([*name]).collect();
        run("gcc", &arguments);
    }
    let objects: Vec<String> = sources.iter().map(|(name, _)| name.replace(".c", ".o")).collect();
    let mut arguments = vec!["-r", "-o", "m.ko"];
    arguments.extend(objects.iter().map(String::as_str));
    run("ld", &arguments);
    std::fs::read(dir.path().join("m.ko")).unwrap()
}

fn compare(old: &[(&str, &str)], new: &[(&str, &str)]) -> BTreeMap<String, Comparison> {
    let (v1, v2) = (module(old), module(new));
    let (a, b) = (Object::parse(&v1, "v1.ko").unwrap(), Object::parse(&v2, "v2.ko").unwrap());
    Pair::compare(&a, &b).unwrap().by_unit(&a, &b).unwrap()
}

/// The functions of a source that are not as they were.
fn differing(parts: &BTreeMap<String, Comparison>, source: &str) -> Vec<(String, Verdict)> {
    let functions = parts[source].functions.iter();
    functions
        .filter(|f| f.verdict != Verdict::Unchanged)
        .inspect(|f| eprintln!("{}: {}", f.name, f.reason))
        .map(|f| (f.name.clone(), f.verdict))
        .collect()
}

#[test]
fn one_name_in_two_sources_is_two_functions() {
    let old = [("read.c", READ), ("write.c", WRITE), ("both.c", BOTH)];
    // Whatever the order they are linked in.
    let new = [("write.c", WRITE), ("both.c", BOTH), ("read.c", READ)];
    let parts = compare(&old, &new);
    for source in ["read.c", "write.c", "both.c"] {
        assert!(parts[source].is_unchanged(), "{source}: {:?}", differing(&parts, source));
        assert!(!parts[source].functions.is_empty(), "{source}");
    }
}

#[test]
fn a_change_is_told_of_its_source_alone() {
    let old = [("read.c", READ), ("write.c", WRITE), ("both.c", BOTH)];
    let write = WRITE.replace("return 4;", "return 5;").replace("count = 2", "count = 3");
    let new = [("both.c", BOTH), ("write.c", write.as_str()), ("read.c", READ)];
    let parts = compare(&old, &new);
    assert_eq!(differing(&parts, "write.c"), [("help".to_owned(), Verdict::Changed)]);
    let count = parts["write.c"].data.iter().find(|data| data.name == "count").unwrap();
    assert_eq!(count.change, DataChange::Changed);
    assert!(parts["read.c"].is_unchanged() && parts["both.c"].is_unchanged());
}

#[test]
fn what_becomes_static_is_still_the_same_function() {
    let old = [
        ("both.c", BOTH),
        ("more.c", "int twice(int a) { return a * 2; } int m(int a) { return twice(a); }"),
    ];
    let new = [
        ("both.c", BOTH),
        ("more.c", "static int twice(int a) { return a * 2; } int m(int a) { return twice(a); }"),
    ];
    let parts = compare(&old, &new);
    // Said, and nothing to replace.
    assert_eq!(differing(&parts, "more.c"), [("twice".to_owned(), Verdict::Renamed)]);
    assert!(parts["more.c"].is_unchanged());
}
