//! Linked images whose instructions are the same, but not what tables say of them.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod built;

use built::verdicts;
use dynamos_differ::image::{self, Image};
use dynamos_differ::verdict::Verdict;

const SOURCE: &str = include_str!("image.c");

fn link(edit: (&str, &str)) -> Vec<u8> {
    if edit.0.is_empty() {
        return build(SOURCE);
    }
    assert!(SOURCE.contains(edit.0), "{edit:?}");
    build(&SOURCE.replace(edit.0, edit.1))
}

fn build(source: &str) -> Vec<u8> {
    built::build(source, "")
}

/// The functions that are not as they were, and why.
fn differing(edit: (&str, &str)) -> Vec<(String, Verdict, String)> {
    let functions = verdicts(&link(("", "")), &link(edit)).into_iter();
    functions
        .filter(|f| f.verdict != Verdict::Unchanged)
        .map(|f| (f.name, f.verdict, f.reason))
        .collect()
}

#[test]
fn what_tables_say_of_a_function_is_part_of_it() {
    for (function, table, from, to) in [
        ("exception", "__ex_table", ".long 2b - .\\n .long 3", ".long 2b - .\\n .long 4"),
        ("exception", "__ex_table", ".long 2b - .\\n .long 3", ".long 3b - .\\n .long 3"),
        ("exception", "__ex_table", ".long 1b - .\\n .long 2b", ".long 2b - .\\n .long 2b"),
        ("alternative", ".altinstructions", ".word 77", ".word 78"),
        ("alternative", ".altinstructions", "3: call out", "3: call notrace"),
        ("alternative", ".altinstructions", "3: call out", "3: nop"),
        ("branch", "__jump_table", "key_a + 1", "key_b + 1"),
        ("branch", "__jump_table", "key_a + 1", "key_a"),
        ("bug", "__bug_table", ".word 0x901", ".word 0x909"),
        ("bug", "__bug_table", ".Lfile: .string \\\"a.c", ".Lfile: .string \\\"b.c"),
    ] {
        let found = differing((from, to));
        assert_eq!(found.len(), 1, "{from} → {to}: {found:?}");
        let (name, verdict, reason) = &found[0];
        assert_eq!((name.as_str(), *verdict), (function, Verdict::Changed), "{from} → {to}");
        assert!(reason.contains(table), "{reason}");
    }
}

#[test]
fn strings_of_wider_characters_count_to_their_end() {
    let found = differing(("u\"SetupMode\"", "u\"SecureBoot\""));
    assert!(found.len() == 1 && found[0].0 == "wide", "{found:?}");
}

#[test]
fn an_entry_more_or_less_is_a_change() {
    let entry = ".balign 4\\n .long 1b - .\\n .long 2b - .\\n .long 3\\n";
    let found = differing((entry, ""));
    assert!(found.len() == 1 && found[0].2.contains("is gone"), "{found:?}");
    let more = format!("{entry}.long 2b - .\\n .long 3b - .\\n .long 3\\n");
    let found = differing((entry, &more));
    assert!(found.len() == 1 && found[0].2.contains("is new"), "{found:?}");
}

#[test]
fn the_line_of_a_bug_is_no_change() {
    assert_eq!(differing((".word 100", ".word 200")), []);
    assert_eq!(differing(("int out(int);", "int out(int);\n\n\n")), []);
}

#[test]
fn a_line_that_is_passed_is_no_change_but_another_number_is() {
    let image = |number: &str, before: &str| {
        let more = format!("{before}int line(int a)\n{{\n    return out(a) + out({number});\n}}\n");
        build(&format!("{SOURCE}{more}"))
    };
    let moved = built::changed(&image("__LINE__", ""), &image("__LINE__", "\n\n\n"));
    assert_eq!(moved, [""; 0]);
    assert_eq!(built::changed(&image("700", ""), &image("703", "\n\n\n")), ["line"]);
}

#[test]
fn what_the_running_kernel_has_freed_is_refused() {
    let found = differing(("int __attribute__((section(\".init.text\"))) begin", "int begin"));
    assert!(found.len() == 1 && found[0].1 == Verdict::Refused, "{found:?}");
    assert!(found[0].2.contains("in .text in v2: the running kernel frees it"), "{found:?}");
}

#[test]
fn what_cannot_be_redirected_is_refused() {
    let found = differing(("a * 3", "a * 5"));
    assert!(found.len() == 1 && found[0].1 == Verdict::Refused, "{found:?}");
    assert!(found[0].2.contains("no ftrace site"), "{found:?}");
    let found = differing(("a + 5", "a + 6"));
    assert!(found.len() == 1 && found[0].1 == Verdict::Refused, "{found:?}");
    assert!(found[0].2.contains(".init.text"), "{found:?}");
}

#[test]
fn a_table_that_makes_no_sense_is_an_error() {
    let good = link(("", ""));
    let bad = link((".long 3\\n", ".long 3, 0\\n"));
    let (a, b) = (Image::parse(&good, "good").unwrap(), Image::parse(&bad, "bad").unwrap());
    let error = image::contents(&a, &b).unwrap_err().to_string();
    assert!(error.contains("bad") && error.contains("__ex_table"), "{error}");
}

#[test]
fn a_part_out_of_the_way_belongs_to_its_function() {
    let image = |number| {
        let edit = format!(
            "void __attribute__((cold, noreturn)) end(int a) {{ for (;;) out(a); }}\n\
             int bug(int a)\n{{ if (a == 4) end({number});"
        );
        link(("int bug(int a)\n{", &edit))
    };
    let (v1, v2) = (image(1), image(2));
    let a = Image::parse(&v1, "v1").unwrap();
    assert!(a.symbols.iter().any(|s| s.name == "bug.cold"), "gcc moved nothing out of the way");
    let functions = verdicts(&v1, &v2);
    let changed: Vec<_> = functions.iter().filter(|f| f.verdict != Verdict::Unchanged).collect();
    assert!(changed.len() == 1 && changed[0].name == "bug", "{changed:?}");
    assert!(functions.iter().all(|f| f.name != "bug.cold"));
}

#[test]
fn code_without_a_name_is_compared_where_a_fault_leads_to_it() {
    let image = |number: u32, skip: &str, leaves: &str| {
        let fault = format!(
            "asm(\".pushsection .text.fault, \\\"ax\\\"\\n {skip}\\n\"\n\
             \".Lfault: mov ${number}, %eax\\n xor %edx, %edx\\n {leaves} jmp out\\n .popsection\");\n\
             int exception(int *p)\n"
        );
        let edited = SOURCE
            .replace("int exception(int *p)\n", &fault)
            .replace(".long 2b - .\\n .long 3", ".long .Lfault - .\\n .long 3");
        build(&edited)
    };
    let changed = |v1: &[u8], v2: &[u8]| {
        let functions = verdicts(v1, v2).into_iter();
        functions.filter(|f| f.verdict != Verdict::Unchanged).map(|f| f.name).collect::<Vec<_>>()
    };
    for leaves in ["", "goes_on:"] {
        let v1 = image(1, ".skip 8", leaves);
        assert_eq!(changed(&v1, &image(1, ".skip 24", leaves)), [""; 0]);
        assert_eq!(changed(&v1, &image(2, ".skip 8", leaves)), ["exception"]);
    }
    let v1 = image(1, ".skip 8", "goes_on:");
    assert_eq!(changed(&v1, &image(1, ".skip 8", "goes_there:")), ["exception"]);
}

#[test]
fn truncated_and_flipped_images_do_not_panic() {
    let good = link(("", ""));
    let reference = Image::parse(&good, "good").unwrap();
    for len in (0..good.len()).step_by(97) {
        assert!(Image::parse(&good[..len], "cut").is_err(), "cut at {len}");
    }
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        if let Ok(image) = Image::parse(&bad, "flipped") {
            let _ = image::contents(&reference, &image);
            let _ = image::contents(&image, &reference);
            let _ = image::layouts(&reference, &image);
            let _ = image::layouts(&image, &reference);
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let types =
        "struct s { int a; long b; } s; union u { int a; char c[8]; } u; enum e { A, B } e;\n";
    let source = format!("{types}{SOURCE}");
    let edited = source.replace("char c[8]", "char c[9]").replace("long b", "int b");
    let edited = edited.replace("a + 1", "a + 2").replace("SetupMode", "Mode");
    let (v1, v2) = (build(&source), build(&edited));
    let told = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (a, b) = (Image::parse(&v1, "v1").unwrap(), Image::parse(&v2, "v2").unwrap());
            let contents = image::contents(&a, &b).unwrap();
            let layouts = image::layouts(&a, &b).unwrap();
            serde_json::to_string(&(contents.functions, contents.data, layouts)).unwrap()
        })
    };
    let one = told(1);
    assert!(
        ["branch", "wide", "\"kind\":\"union\""].iter().all(|part| one.contains(part)),
        "{one}"
    );
    for _ in 0..4 {
        assert_eq!(one, told(8));
    }
}

/// What embeds a changed type, and where it is defined.
#[test]
fn types_that_hold_a_changed_one_are_told() {
    let (v1, v2) = (link(("", "")), link(("int member;", "long member;")));
    let (v1, v2) = (Image::parse(&v1, "v1").unwrap(), Image::parse(&v2, "v2").unwrap());
    let (types, unknown) = image::layouts(&v1, &v2).unwrap();
    assert_eq!(unknown, None);
    let held = types.iter().find(|change| change.name == "held").unwrap();
    assert!(held.defined_in.as_ref().is_some_and(|file| file.ends_with(".c")), "{held:?}");
    let holders: Vec<String> = held
        .embedded_in
        .iter()
        .map(|holder| format!("{}: {}", holder.name, holder.chain.join(" ")))
        .collect();
    assert_eq!(
        holders,
        [
            "struct holder: struct holder.list[]",
            "struct outer: struct outer.unnamed.in struct holder.list[]",
        ]
    );
    let instances: Vec<String> = held
        .instances
        .iter()
        .map(|of| format!("{:?} {}: {}", of.place, of.name, of.type_name))
        .collect();
    assert_eq!(
        instances,
        [
            "Static once: struct holder",
            "Static outer_of_all: struct outer",
            "PerCpu of_cpu: struct held",
        ]
    );
}
