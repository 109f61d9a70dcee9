//! Every `tests/cases/*.c` is compiled twice, the second time with `-DV2`, and the verdicts
//! must be those that the file's comments expect:
//!
//! - `// flags: …` replaces the flags for both sides; `// flags-v2: …` adds to V2's
//! - `// function NAME VERDICT [text the reason contains]`; behind the reason of one that is replaced, `; inner` or `; entry`
//! - `// data NAME CHANGE [text]`, `// layout KIND NAME VERDICT [text]`, `// section NAME [text]`
//! - `// embeds KIND NAME HOLDER [text of the chain]`, `// instance KIND NAME VARIABLE [text]`: of changed types
//! - `// retyped NAME PLACE [text]`
//! - `// map V2NAME V1NAME`: what a symbol of v2 is called in v1
//! - `// renumbered NAME`: a symbol whose name begins so has another number in v2, and is known to be the same
//! - `// shift`: the same file, moved three lines down, must be unchanged
//!
//! What is not expected must not be there: functions without a line are unchanged. Of every file nothing is changed either
//! where it is compiled in another directory, or has its functions in the opposite order (`// reordered function NAME …`
//! is a fact that this order changes), and both readers of types say the same of its two sides.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod reordered;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use dynamos_differ::compare::Value;
use dynamos_differ::layout::{self, LayoutChange};
use dynamos_differ::lines::Debug;
use dynamos_differ::verdict::{Comparison, DataChange, Verdict};
use dynamos_differ::{Object, Pair};
use reordered::reordered;

const FLAGS: &str = "-O2 -g -ffunction-sections -fdata-sections -fno-pie -mcmodel=kernel \
    -mno-red-zone -pg -mrecord-mcount -mfentry -fno-jump-tables -fno-asynchronous-unwind-tables \
    -mno-sse -fno-common -fcf-protection=none -Wno-unused";

struct Case {
    name: String,
    flags: String,
    flags_v2: String,
    shift: bool,
    expected: Vec<String>,
    expected_reordered: Vec<String>,
}

fn parse(path: &Path, source: &str) -> Case {
    let mut case = Case {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        flags: FLAGS.to_owned(),
        flags_v2: String::new(),
        shift: false,
        expected: Vec::new(),
        expected_reordered: Vec::new(),
    };
    for line in source.lines() {
        let Some(directive) = line.strip_prefix("// ") else { continue };
        if let Some(flags) = directive.strip_prefix("flags: ") {
            case.flags = flags.to_owned();
        } else if let Some(flags) = directive.strip_prefix("flags-v2: ") {
            case.flags_v2 = flags.to_owned();
        } else if directive == "shift" {
            case.shift = true;
        } else if let Some(fact) = directive.strip_prefix("reordered ") {
            case.expected_reordered.push(fact.to_owned());
        } else if [
            "function ",
            "data ",
            "layout ",
            "embeds ",
            "instance ",
            "retyped ",
            "section ",
            "map ",
            "renumbered ",
        ]
        .iter()
        .any(|p| directive.starts_with(p))
        {
            case.expected.push(directive.to_owned());
        }
    }
    case
}

fn compile(dir: &Path, case: &Case, source: &str, v2: bool) -> Vec<u8> {
    // One name for both sides, as `__FILE__` is the same in the two builds of a kernel.
    let file = format!("{}.c", case.name);
    fs::write(dir.join(&file), source).unwrap();
    let flags = if v2 { format!("-DV2 {}", case.flags_v2) } else { String::new() };
    gcc(dir, case, flags.split_whitespace(), &file)
}

/// The same file as a build with `O=` compiles it: in another directory, the source named from the root; `__FILE__` and
/// the like say what they do elsewhere.
fn compile_elsewhere(case: &Case, source: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (sources, build) = (dir.path().join("the/sources"), dir.path().join("build"));
    [&sources, &build].iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    let file = sources.join(format!("{}.c", case.name));
    fs::write(&file, source).unwrap();
    let flags = [format!("-fmacro-prefix-map={}/=", sources.display())];
    gcc(&build, case, flags.iter().map(String::as_str), file.to_str().unwrap())
}

fn gcc<'f>(dir: &Path, case: &Case, flags: impl Iterator<Item = &'f str>, file: &str) -> Vec<u8> {
    let object = dir.join("out.o");
    let mut command = Command::new(std::env::var("CC").unwrap_or_else(|_| "gcc".to_owned()));
    command.current_dir(dir).args(case.flags.split_whitespace()).args(flags);
    command.arg("-c").arg(file).arg("-o").arg(&object);
    let output = command.output().expect("gcc runs");
    assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
    fs::read(object).unwrap()
}

fn compare(v1: &[u8], v2: &[u8]) -> Comparison {
    let a = Object::parse(v1, "v1.o").unwrap();
    let b = Object::parse(v2, "v2.o").unwrap();
    let comparison = Pair::compare(&a, &b).unwrap();
    let again = Pair::compare(&a, &b).unwrap();
    assert_eq!(
        serde_json::to_string(&comparison).unwrap(),
        serde_json::to_string(&again).unwrap(),
        "the same input gave two outputs"
    );
    comparison
}

/// The comparison as lines in the form of the directives, changes only.
fn facts(comparison: &Comparison) -> Vec<String> {
    let word = |value: &dyn Fn() -> String| value().trim_matches('"').to_owned();
    let mut lines = Vec::new();
    for f in comparison.functions.iter().filter(|f| f.verdict != Verdict::Unchanged) {
        let verdict = word(&|| serde_json::to_string(&f.verdict).unwrap());
        let called = match (f.verdict, f.along, f.inner) {
            (Verdict::Changed, false, true) => "; inner",
            (Verdict::Changed, false, false) => "; entry",
            _ => "",
        };
        lines.push(format!("function {} {verdict} {}{called}", f.name, f.reason));
    }
    for d in comparison.data.iter().filter(|d| d.change != DataChange::Unchanged) {
        let change = word(&|| serde_json::to_string(&d.change).unwrap());
        let value = |v: &Value| match v.member.as_str() {
            "" => format!("{} → {}", v.old, v.new),
            member => format!("{member}: {} → {}", v.old, v.new),
        };
        let values: Vec<String> = d.values.shown.iter().map(value).collect();
        let values = values.join("; ");
        lines.push(format!(
            "data {} {change} {} users {:?} values {values}",
            d.name, d.reason, d.users
        ));
    }
    for l in &comparison.layouts {
        let kind = word(&|| serde_json::to_string(&l.kind).unwrap());
        let verdict = word(&|| serde_json::to_string(&l.verdict).unwrap());
        let renamed = |new: Option<&String>, old: &String| {
            new.filter(|new| *new != old).map(|new| format!(" to {new}")).unwrap_or_default()
        };
        let mut members: Vec<String> = Vec::new();
        for m in &l.members {
            let to = renamed(m.new.as_ref().map(|n| &n.name), &m.name);
            members.push(format!("{} {}{to}", m.name, m.changes.join("+")));
        }
        for e in &l.enumerators {
            let to = renamed(e.new.as_ref().map(|n| &n.name), &e.name);
            members.push(format!("{} {}{to}", e.name, e.change));
        }
        if let ([old], [new]) = (l.old.as_slice(), l.new.as_slice())
            && old.alignment != new.alignment
        {
            members.push(format!("alignment {:?} → {:?}", old.alignment, new.alignment));
        }
        lines.push(format!("layout {kind} {} {verdict} {}", l.name, members.join(", ")));
        for e in &l.embedded_in {
            lines.push(format!("embeds {kind} {} {} {}", l.name, e.name.name, e.chain.join(" ")));
        }
        for i in &l.instances {
            let place = word(&|| serde_json::to_string(&i.place).unwrap());
            let function = i.function.as_ref().map(|f| format!(" in {f}")).unwrap_or_default();
            lines.push(format!(
                "instance {kind} {} {} {place}{function} {}",
                l.name, i.name, i.type_name
            ));
        }
    }
    for r in &comparison.retyped {
        let place = word(&|| serde_json::to_string(&r.place).unwrap());
        lines.push(format!("retyped {} {place} {} → {}", r.name, r.old, r.new));
    }
    for s in &comparison.sections {
        lines.push(format!("section {} {}", s.section, s.reason));
    }
    lines.iter().map(|l| without_numbers(l)).collect()
}

/// `name.12` as `name.N` (the number is up to gcc), but for clones of functions.
fn without_numbers(line: &str) -> String {
    let word = |word: &str| match word.rsplit_once('.') {
        Some((head, tail))
            if !tail.is_empty()
                && tail.bytes().all(|b| b.is_ascii_digit())
                && !head.ends_with(".isra")
                && !head.ends_with(".constprop") =>
        {
            format!("{head}.N")
        }
        _ => word.to_owned(),
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Two words name a fact, a third its verdict, the rest must be in the reason.
fn meets(expectation: &str, fact: &str) -> bool {
    let long = ["layout ", "embeds ", "instance "].iter().any(|p| expectation.starts_with(p));
    let words = if long {
        4
    } else if expectation.starts_with("section ") {
        2
    } else {
        3
    };
    let split = |s: &str| {
        let parts: Vec<String> = s.splitn(words + 1, ' ').map(str::to_owned).collect();
        let rest = parts.get(words).cloned().unwrap_or_default();
        (parts.into_iter().take(words).collect::<Vec<_>>(), rest)
    };
    let ((head, text), (fact_head, reason)) = (split(expectation), split(fact));
    head == fact_head && reason.contains(&text)
}

fn check_maps(case: &Case, v1: &[u8], v2: &[u8], comparison: &Comparison) -> Vec<String> {
    let (a, b) = (Object::parse(v1, "v1.o").unwrap(), Object::parse(v2, "v2.o").unwrap());
    let known: BTreeSet<(&str, &str)> = comparison
        .symbol_map
        .iter()
        .map(|(y, x)| (b.elf.symbol(*y).unwrap().name, a.elf.symbol(*x).unwrap().name))
        .collect();
    let unnumbered = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    let renumbered = |name: &str| {
        known.iter().any(|(y, x)| {
            y != x && [x, y].iter().all(|n| unnumbered(n).trim_end_matches('.') == name)
        })
    };
    let mut problems: Vec<String> = case
        .expected
        .iter()
        .filter_map(|e| e.strip_prefix("map ")?.split_once(' '))
        .filter(|pair| !known.contains(pair))
        .map(|(y, x)| format!("no map {y} → {x} in {known:?}"))
        .collect();
    let wanted = case.expected.iter().filter_map(|e| e.strip_prefix("renumbered "));
    problems.extend(
        wanted.filter(|n| !renumbered(n)).map(|n| format!("{n} is not renumbered in {known:?}")),
    );
    problems
}

/// Whether an expectation is about symbols, and not a fact of the comparison.
fn is_map(expectation: &str) -> bool {
    ["map ", "renumbered "].iter().any(|p| expectation.starts_with(p))
}

/// What the reader that compares by hashes says of two objects, and what the exact one says, if they do not say the same.
fn readers_differ(v1: &[u8], v2: &[u8]) -> Option<String> {
    let (a, b) = (Object::parse(v1, "v1.o").unwrap(), Object::parse(v2, "v2.o").unwrap());
    let exact =
        layout::compare_types(&layout::types(&a.elf).unwrap(), &layout::types(&b.elf).unwrap());
    let (old, new) = (Debug::load(&a.elf).unwrap(), Debug::load(&b.elf).unwrap());
    let fast = layout::compare_debug(("v1.o", &old), ("v2.o", &new)).unwrap();
    let fast: Vec<_> = fast.into_iter().map(LayoutChange::by_itself).collect();
    (fast != exact).then(|| format!("by hashes {fast:#?}, exactly {exact:#?}"))
}

/// What there is and was not expected, and the other way round.
fn differences(facts: &[String], expected: &[&String], when: &str) -> Vec<String> {
    let surprises = facts.iter().filter(|f| !expected.iter().any(|e| meets(e, f)));
    let missing = expected.iter().filter(|e| !facts.iter().any(|f| meets(e, f)));
    surprises
        .map(|fact| format!("{when}not expected: {fact}"))
        .chain(missing.map(|fact| format!("{when}missing: {fact}")))
        .collect()
}

/// What is wrong with a case, and whether its functions have another order.
fn run(path: &Path) -> (Vec<String>, bool) {
    let source = fs::read_to_string(path).unwrap();
    let case = parse(path, &source);
    let dir = tempfile::tempdir().unwrap();
    let v1 = compile(dir.path(), &case, &source, false);
    let v2 = compile(dir.path(), &case, &source, true);
    let comparison = compare(&v1, &v2);
    let expected: Vec<&String> = case.expected.iter().filter(|e| !is_map(e)).collect();
    let mut problems = check_maps(&case, &v1, &v2, &comparison);
    problems.extend(differences(&facts(&comparison), &expected, ""));
    let elsewhere = compile_elsewhere(&case, &source);
    assert_ne!(v1, elsewhere, "the directory is not in it");
    problems.extend(differences(&facts(&compare(&v1, &elsewhere)), &[], "elsewhere: "));
    if case.shift {
        let moved = compile(dir.path(), &case, &format!("\n\n\n{source}"), false);
        problems.extend(differences(&facts(&compare(&v1, &moved)), &[], "three lines down: "));
    }
    let reordered = reordered(&source);
    if let Some(source) = &reordered {
        let expected: Vec<&String> = case.expected_reordered.iter().collect();
        let other = compile(dir.path(), &case, source, false);
        problems.extend(differences(&facts(&compare(&v1, &other)), &expected, "reordered: "));
    }
    for (x, y, sides) in
        [(&v1, &v2, "V1 to V2"), (&v2, &v1, "V2 to V1"), (&v1, &elsewhere, "elsewhere")]
    {
        problems.extend(readers_differ(x, y).map(|how| format!("types, {sides}: {how}")));
    }
    (problems, reordered.is_some())
}

#[test]
fn cases() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let mut failed = String::new();
    let mut reordered = 0;
    for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "c")) {
        let (problems, another_order) = run(path);
        reordered += usize::from(another_order);
        for problem in problems {
            failed.push_str(&format!("{}: {problem}\n", path.file_name().unwrap().display()));
        }
    }
    assert!(failed.is_empty(), "\n{failed}");
    assert!(reordered > 25, "only {reordered} files have functions in another order");
}

fn sample() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let source = "int g; static int t[] = {1, 2}; const char *f(int i) { g = t[i]; return \"x\"; }";
    let case = parse(Path::new("sample.c"), "");
    compile(dir.path(), &case, source, false)
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let good = sample();
    let error = |data: &[u8]| Object::parse(data, "bad.o").unwrap_err().to_string();
    assert!(error(b"").starts_with("bad.o: "));
    assert!(error(b"#!/bin/sh\n").contains("not a 64-bit little-endian ELF"));
    let mut arm = good.clone();
    arm[18] = 183;
    assert!(error(&arm).contains("ELF machine 183"));
    let mut executable = good.clone();
    executable[16] = 2;
    assert!(error(&executable).contains("not a relocatable object"));
}

#[test]
fn truncated_and_flipped_objects_do_not_panic() {
    let good = sample();
    let reference = Object::parse(&good, "good.o").unwrap();
    for len in (0..good.len()).step_by(97) {
        assert!(Object::parse(&good[..len], "cut.o").is_err(), "cut at {len}");
    }
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        if let Ok(object) = Object::parse(&bad, "flipped.o") {
            let _ = Pair::compare(&reference, &object);
            let _ = Pair::compare(&object, &reference);
        }
    }
}

#[test]
fn without_dwarf_layouts_are_said_to_be_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let mut case = parse(Path::new("plain.c"), "");
    case.flags = FLAGS.replace("-g ", "");
    let object = compile(dir.path(), &case, "int f(int x) { return x + 1; }", false);
    let comparison = compare(&object, &object);
    assert!(comparison.layouts_unknown.is_some());
    assert!(comparison.is_unchanged());
}

/// A type in a unit of its own is referred to by signature, which is not followed; it is not `void` either.
#[test]
fn type_units_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut case = parse(Path::new("units.c"), "");
    case.flags = format!("{FLAGS} -fdebug-types-section");
    let source =
        "struct s { int a; struct { long b[8]; } in; }; struct s *f(struct s *p) { return p + 1; }";
    let object = compile(dir.path(), &case, source, false);
    let object = Object::parse(&object, "units.o").unwrap();
    let error = Pair::compare(&object, &object).unwrap_err().to_string();
    assert!(error.contains("DWARF"), "{error}");
}

/// Every byte of code and data that no relocation covers matters to some verdict.
#[test]
fn a_flipped_byte_of_code_or_data_is_seen() {
    let good = sample();
    let a = Object::parse(&good, "good.o").unwrap();
    for section in &a.elf.sections {
        let plain = [".text", ".rodata", ".data"].iter().any(|p| section.name.starts_with(p));
        if !plain || !section.is_alloc() || section.data.is_empty() {
            continue;
        }
        let base = section.data.as_ptr() as usize - good.as_ptr() as usize;
        for at in 0..section.size {
            if section.relocations.iter().any(|r| (r.offset..r.offset + r.width()).contains(&at)) {
                continue;
            }
            let mut bad = good.clone();
            bad[base + at as usize] ^= 0x11;
            let b = Object::parse(&bad, "bad.o").unwrap();
            let comparison = Pair::compare(&a, &b).unwrap();
            assert!(!comparison.is_unchanged(), "{} byte {at:#x}", section.name);
        }
    }
}
