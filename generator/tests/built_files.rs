//! Built files as input: images, objects and directories of them, good and bad. Made by the real compiler.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kernel_trees::{Cache, Manifest};
use serde_json::Value;

/// A file with a static variable, a string, a struct and three functions.
const SOURCE: &str = r#"
struct box { int a; long b; };
struct box boxes[4];
static int count;
int other(const char *text, int n);
int __attribute__((noinline)) name(int n) { return other("a text", n + count); }
int __attribute__((noinline)) sum(struct box *box) { count++; return box->a + boxes[1].a; }
int f(struct box *box) { return sum(box) + name(box->a); }
"#;

/// The rest of the image.
const OTHER: &str = "int other(const char *text, int n) { return text[n]; }\n";

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Compiles an object as the kernel is.
    fn object(&self, name: &str, source: &str, more: &[&str]) -> PathBuf {
        let (path, input) = (self.path(name), self.path("file.c"));
        fs::write(&input, source).unwrap();
        let mut gcc = Command::new("gcc");
        gcc.current_dir(self.0.path()).args([
            "-c",
            "-g",
            "-O2",
            "-mcmodel=kernel",
            "-fno-pic",
            "-fno-pie",
        ]);
        gcc.args(["-fcf-protection=none", "file.c", "-o"]).arg(&path).args(more);
        assert!(gcc.status().unwrap().success());
        path
    }

    /// Links an image with `SOURCE` edited, and with so much data before it.
    fn image(&self, name: &str, edit: (&str, &str), shift: usize) -> PathBuf {
        self.image_with(name, edit, shift, &[])
    }

    fn image_with(&self, name: &str, edit: (&str, &str), shift: usize, flags: &[&str]) -> PathBuf {
        let first = format!(
            "int {name}_first[{}] = {{1}}; int {name}_code(void) {{ return {shift}; }}\n",
            shift + 1
        );
        let source = SOURCE.replace(edit.0, edit.1);
        let objects = [
            self.object(&format!("{name}-first.o"), &first, &[]),
            self.object(&format!("{name}-main.o"), &source, flags),
            self.object(&format!("{name}-other.o"), OTHER, &[]),
        ];
        let path = self.path(name);
        let mut ld = Command::new("ld");
        ld.args([
            "-static",
            "-e",
            "f",
            "-Ttext=0xffffffff81000000",
            "-Tdata=0xffffffff82000000",
            "-o",
        ]);
        assert!(ld.arg(&path).args(&objects).status().unwrap().success());
        path
    }

    /// A copy of a file in which a section is another (`objcopy`).
    fn with_section(&self, of: &Path, option: &str, section: &str, content: &str) -> PathBuf {
        let (path, input) = (self.path("with_section"), self.path("content"));
        fs::write(&input, content).unwrap();
        let mut objcopy = Command::new("objcopy");
        objcopy.arg(format!("{option}={section}={}", input.display())).arg(of).arg(&path);
        assert!(objcopy.status().unwrap().success());
        path
    }

    fn run(&self, v1: &Path, v2: &Path, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dynamos-diff"));
        command.arg(v1).arg(v2).arg("-o").arg(self.path("out/report")).args(more).output().unwrap()
    }

    fn plan(&self, v1: &Path, v2: &Path, code: i32) -> Value {
        let output = self.run(v1, v2, &[]);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        serde_json::from_slice(&fs::read(self.path("out/report/plan.json")).unwrap()).unwrap()
    }

    fn error(&self, v1: &Path, v2: &Path, words: &str) {
        let output = self.run(v1, v2, &[]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// Names of the rows of a list that have this verdict.
fn rows(plan: &Value, list: &str, verdict: &str) -> Vec<String> {
    let all = plan[list].as_array().unwrap();
    let found = all.iter().filter(|row| row["verdict"] == verdict);
    found.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

fn notes(plan: &Value) -> String {
    plan["notes"].to_string()
}

const SAME: (&str, &str) = ("", "");

#[test]
fn code_that_only_moved_is_unchanged() {
    let bench = Bench::new();
    let (v1, v2) = (bench.image("v1", SAME, 1), bench.image("v2", SAME, 1000));
    let plan = bench.plan(&v1, &v2, 0);
    assert!(rows(&plan, "functions", "changed").is_empty(), "{plan:#}");
    assert_eq!(rows(&plan, "functions", "new"), ["v2_code"]);
    assert_eq!(rows(&plan, "functions", "removed"), ["v1_code"]);
}

#[test]
fn operands_are_compared_by_what_they_point_at() {
    let bench = Bench::new();
    for (edit, function) in [
        (("a text", "b text"), "name"),
        (("boxes[1]", "boxes[2]"), "sum"),
        (("sum(box) +", "sum(box) -"), "f"),
        (("count++", "boxes[3].a++"), "sum"),
    ] {
        let (v1, v2) = (bench.image("v1", SAME, 1), bench.image("v2", edit, 300));
        let plan = bench.plan(&v1, &v2, 0);
        assert!(
            rows(&plan, "functions", "changed").contains(&function.to_owned()),
            "{edit:?}: {plan:#}"
        );
        assert!(rows(&plan, "layouts", "changed").is_empty());
    }
}

#[test]
fn a_function_s_own_line_is_no_change() {
    let bench = Bench::new();
    let with = |text: &str| {
        format!("{text}int __attribute__((noinline)) name(int n) {{ return other(\"a text\", ")
    };
    let from = with("");
    let image = |name: &str, before: &str, number: &str| {
        bench.image(name, (&format!("{from}n + count"), &format!("{}{number}", with(before))), 1)
    };
    let v1 = image("v1", "", "__LINE__");
    let changed = |v2: &Path| rows(&bench.plan(&v1, v2, 0), "functions", "changed");
    assert!(changed(&image("v2", "\n\n", "__LINE__")).is_empty());
    assert_eq!(changed(&image("v2", "\n\n", "__LINE__ + 1")), ["name"]);
}

#[test]
fn variables_of_images_are_compared_by_what_they_hold() {
    let bench = Bench::new();
    let image = |name: &str, level: &str, to: &str, shift| {
        let more = format!(
            "int level = {level}, other_level = 1; int *where = &{to};\nstruct box boxes[4];"
        );
        bench.image(name, ("struct box boxes[4];", &more), shift)
    };
    let v1 = image("v1", "3", "level", 1);
    let plan = bench.plan(&v1, &image("v2", "3", "level", 300), 0);
    assert!(rows(&plan, "data", "changed").is_empty(), "{plan:#}");
    let plan = bench.plan(&v1, &image("v2", "4", "other_level", 300), 0);
    assert_eq!(rows(&plan, "data", "changed"), ["level", "where"]);
    let v2 = bench.image("v2", ("struct box boxes[4];", "struct box boxes[5];"), 1);
    let plan = bench.plan(&bench.image("v1", SAME, 1), &v2, 0);
    assert_eq!(rows(&plan, "data", "resized"), ["boxes"]);
}

#[test]
fn a_layout_that_changed_is_seen_in_every_form_of_dwarf() {
    let bench = Bench::new();
    let wider = SOURCE.replace("long b", "long b, c");
    for flags in [&["-gdwarf-4"][..], &["-gdwarf-5"], &["-gz=zlib"], &["-gdwarf-5", "-gdwarf64"]] {
        let v1 = bench.object("v1.o", SOURCE, flags);
        let plan = bench.plan(&v1, &bench.object("v2.o", &wider, flags), 0);
        assert_eq!(rows(&plan, "layouts", "changed"), ["box"], "{flags:?}");
        // The same types in another version are the same types.
        let plan = bench.plan(&v1, &bench.object("v2.o", SOURCE, &["-gdwarf-3"]), 1);
        assert_eq!(plan["layouts"].as_array().unwrap().len(), 0, "{flags:?}");
    }
    let (v1, v2) = (bench.image("v1", SAME, 1), bench.image("v2", ("long b", "long b, c"), 1));
    let plan = bench.plan(&v1, &v2, 0);
    assert_eq!(rows(&plan, "layouts", "changed"), ["box"]);
    let row = &plan["layouts"][0];
    assert_eq!(row["live"][0]["name"], "struct box[4] boxes");
    assert_eq!((&row["live"][0]["place"], &row["liveness"]), (&"static".into(), &"lasting".into()));
}

#[test]
fn debug_information_may_be_compressed_with_zstd() {
    let bench = Bench::new();
    let compressed = |name: &str, source: &str| {
        let path = bench.object(name, source, &[]);
        let mut objcopy = Command::new("objcopy");
        objcopy.arg("--compress-debug-sections=zstd").arg(&path);
        assert!(objcopy.status().unwrap().success(), "binutils 2.40 or newer, with zstd");
        // Elf64_Shdr.sh_flags has SHF_COMPRESSED and Elf64_Chdr.ch_type is ELFCOMPRESS_ZSTD.
        let mut readelf = Command::new("readelf");
        let headers = readelf.args(["-t", "-W"]).arg(&path).output().unwrap().stdout;
        assert!(String::from_utf8_lossy(&headers).contains("ZSTD"));
        path
    };
    let v1 = compressed("v1.o", SOURCE);
    let wider = SOURCE.replace("long b", "long b, c").replace("count++", "count--");
    let plan = bench.plan(&v1, &compressed("v2.o", &wider), 0);
    assert_eq!(rows(&plan, "layouts", "changed"), ["box"]);
    assert_eq!(rows(&plan, "functions", "changed"), ["sum"], "{plan:#}");
    assert!(!notes(&plan).contains("unknown"), "{plan:#}");
    // Not compressed, they are the same.
    let plan = bench.plan(&v1, &bench.object("v2.o", SOURCE, &[]), 1);
    assert_eq!(plan["outcome"], "no-change");
}

#[test]
fn split_dwarf_is_refused() {
    let bench = Bench::new();
    let v1 = bench.object("v1.o", SOURCE, &["-gsplit-dwarf"]);
    let v2 = bench.object("v2.o", &SOURCE.replace("count++", "count--"), &["-gsplit-dwarf"]);
    bench.error(&v1, &v2, "split DWARF");
    let flags = ["-gsplit-dwarf"];
    let image = |name: &str, edit| bench.image_with(name, edit, 1, &flags);
    let (v1, v2) = (image("v1", SAME), image("v2", ("count++", "count--")));
    bench.error(&v1, &v2, "split DWARF: the types are in a .dwo file");
    // Without types the functions can be compared.
    let output = bench.run(&v1, &v2, &["--only", "functions"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
fn without_dwarf_functions_are_still_compared() {
    let bench = Bench::new();
    let (v1, v2) = (bench.image("v1", SAME, 1), bench.image("v2", ("a text", "b text"), 1));
    assert!(Command::new("strip").arg("-g").arg(&v1).status().unwrap().success());
    let plan = bench.plan(&v1, &v2, 0);
    assert!(rows(&plan, "functions", "changed").contains(&"name".to_owned()));
    assert!(notes(&plan).contains("layouts are unknown: v1 has no DWARF"), "{plan:#}");
    assert!(Command::new("strip").arg(&v2).status().unwrap().success());
    bench.error(&v1, &v2, "stripped");
}

#[test]
fn an_object_stripped_on_one_side_still_has_functions() {
    let bench = Bench::new();
    let wider = SOURCE.replace("long b", "long b, c").replace("count++", "count--");
    for stripped in ["v1.o", "v2.o"] {
        let (v1, v2) = (bench.object("v1.o", SOURCE, &[]), bench.object("v2.o", &wider, &[]));
        let side = bench.path(stripped);
        assert!(Command::new("strip").arg("-g").arg(&side).status().unwrap().success());
        let plan = bench.plan(&v1, &v2, 0);
        assert_eq!(rows(&plan, "functions", "changed"), ["sum"], "{stripped}: {plan:#}");
        assert_eq!(plan["layouts"].as_array().unwrap().len(), 0);
        assert!(notes(&plan).contains("layouts are unknown"), "{plan:#}");
        assert!(notes(&plan).contains("has no DWARF"), "{plan:#}");
        // Without names there is nothing to compare.
        assert!(Command::new("strip").arg(&side).status().unwrap().success());
        bench.error(&v1, &v2, "is stripped (no symbol table)");
    }
}

#[test]
fn who_uses_a_variable_that_differs_is_told() {
    let bench = Bench::new();
    let more = |value: &str, kind: &str, size: &str| {
        format!(
            "{SOURCE}static int level = {value};\n{kind} signs;\nint table[{size}];\nint alone = {value};\n\
             void set(int n) {{ level = n; signs++; }}\nint get(int n) {{ return level + table[n]; }}\n"
        )
    };
    let v1 = bench.object("v1.o", &more("1", "int", "2"), &[]);
    let v2 = bench.object("v2.o", &more("2", "unsigned", "3"), &[]);
    let plan = bench.plan(&v1, &v2, 0);
    let users = |name: &str, verdict: &str| {
        let all = plan["data"].as_array().unwrap();
        let row = all.iter().find(|row| row["name"] == name && row["verdict"] == verdict);
        row.unwrap_or_else(|| panic!("no {name}: {plan:#}"))["users"].to_string()
    };
    assert_eq!(users("level", "changed"), r#"["get","set"]"#);
    assert_eq!(users("table", "resized"), r#"["get"]"#);
    assert_eq!(users("signs", "retyped"), r#"["set"]"#);
    assert_eq!(users("alone", "changed"), "[]");
    let review = fs::read_to_string(bench.path("out/report/review.md")).unwrap();
    let line = |name: &str| review.lines().find(|l| l.starts_with(&format!("| `{name}`"))).unwrap();
    let told = "| changed | byte 0x0 is 0x02 instead of 0x01; `1` → `2` | `get`, `set` |";
    assert!(line("level").ends_with(told), "{review}");
    assert!(line("table").ends_with("| `get` |") && line("alone").ends_with("| – |"), "{review}");
}

#[test]
fn built_objects_are_shown_side_by_side() {
    let bench = Bench::new();
    let v1 = bench.object("v1.o", SOURCE, &[]);
    let v2 = bench.object("v2.o", &SOURCE.replace("count++", "count += 2"), &[]);
    let explain = |v1: &Path, v2: &Path, name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dynamos-diff"));
        let output = command.arg(v1).arg(v2).args(["--explain", name]).output().unwrap();
        (output.status.code(), said(&output))
    };
    let (code, text) = explain(&v1, &v2, "sum");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("sum in v2.o: ") && text.contains("file.c:7"), "{text}");
    assert!(text.lines().any(|l| l.contains('|') && l.contains("addl $2,count")), "{text}");
    let (code, text) = explain(&v1, &v2, "f");
    assert!(code == Some(1) && text.contains("f in v2.o: unchanged"), "{text}");
    assert_eq!(explain(&v1, &v2, "no_such").0, Some(2));
    let image = bench.image("image", SAME, 1);
    let (code, text) = explain(&image, &image, "f");
    assert!(code == Some(1) && text.contains("f in image (file.c): unchanged"), "{text}");
    let other = bench.image("other", ("long b", "long b, c"), 1);
    let (code, text) = explain(&image, &other, "box");
    assert!(code == Some(0) && text.contains("struct box: changed"), "{text}");
    assert!(text.contains("file.c:2") && text.contains("16 +8  long int c"), "{text}");
    assert_eq!(explain(&image, &other, "no_such").0, Some(2));
}

#[test]
fn another_architecture_is_named() {
    let bench = Bench::new();
    let v1 = bench.object("v1.o", SOURCE, &[]);
    let mut bytes = fs::read(&v1).unwrap();
    // e_machine: EM_AARCH64.
    bytes[18] = 183;
    let v2 = bench.path("v2.o");
    fs::write(&v2, bytes).unwrap();
    bench.error(&v1, &v2, "machine 183");
}

#[test]
fn different_compilers_are_reported() {
    let bench = Bench::new();
    for v1 in [bench.object("v1.o", SOURCE, &[]), bench.image("v1", SAME, 1)] {
        let v2 =
            bench.with_section(&v1, "--update-section", ".comment", "\0another compiler 1.0\0");
        let plan = bench.plan(&v1, &v2, 1);
        assert_eq!(plan["outcome"], "no-change");
        assert!(notes(&plan).contains("the compilers differ (GCC"), "{plan:#}");
        assert!(notes(&plan).contains("another compiler 1.0"), "{plan:#}");
    }
}

#[test]
fn the_same_file_twice_is_no_change() {
    let bench = Bench::new();
    for v1 in [bench.object("v1.o", SOURCE, &[]), bench.image("v1", SAME, 1)] {
        let plan = bench.plan(&v1, &v1, 1);
        assert_eq!(plan["outcome"], "no-change");
        assert!(notes(&plan).contains("1 of 1 pairs are identical"), "{plan:#}");
        // What is not loaded makes it another file, so that it is compared, and nothing else.
        let v2 = bench.with_section(&v1, "--add-section", ".extra", "something");
        let plan = bench.plan(&v1, &v2, 1);
        assert_eq!(plan["outcome"], "no-change");
        assert!(notes(&plan).contains("0 of 1 pairs are identical"), "{plan:#}");
        for list in ["functions", "data", "layouts", "refusals"] {
            assert_eq!(plan[list].as_array().unwrap().len(), 0, "{list}: {plan:#}");
        }
    }
}

#[test]
fn what_has_no_name_and_what_has_another_type_differs() {
    let bench = Bench::new();
    let section = |name: &str, flags: &str, body: &str| {
        format!("{SOURCE}asm(\".section {name},\\\"{flags}\\\"\\n{body}\\n.previous\");\n")
    };
    for (name, flags, old, new) in [
        (".pci_fixup_early", "a", ".quad 1", ".quad 1, 2"),
        (".text.hidden", "ax", "mov $1, %eax; ret", "mov $2, %eax; ret"),
    ] {
        let v1 = bench.object("v1.o", &section(name, flags, old), &[]);
        let v2 = bench.object("v2.o", &section(name, flags, new), &[]);
        let plan = bench.plan(&v1, &v2, 0);
        assert_eq!(plan["outcome"], "differs");
        assert!(notes(&plan).contains(&format!("section {name}")), "{plan:#}");
        assert_eq!(bench.run(&v1, &v2, &["--only", "layouts"]).status.code(), Some(1));
    }
    let with = |is: &str| format!("{SOURCE}{is} counter; int *where = (int *)&counter;\n");
    let v1 = bench.object("v1.o", &with("int"), &[]);
    let v2 = bench.object("v2.o", &with("unsigned"), &[]);
    let plan = bench.plan(&v1, &v2, 0);
    assert_eq!(plan["outcome"], "differs");
    assert_eq!(rows(&plan, "data", "retyped"), ["counter"]);
    // One that is told for what it holds is not told again for its type.
    let v2 = bench.object("v2.o", &with("long"), &[]);
    assert_eq!(rows(&bench.plan(&v1, &v2, 0), "data", "resized"), ["counter"]);
    assert!(rows(&bench.plan(&v1, &v2, 0), "data", "retyped").is_empty());
}

#[test]
fn what_has_nothing_in_common_is_an_error() {
    let bench = Bench::new();
    bench.object("v1/a.o", SOURCE, &[]);
    bench.object("v2/b.o", SOURCE, &[]);
    bench.error(
        &bench.path("v1"),
        &bench.path("v2"),
        "no object, module or image is on both sides",
    );
    let (object, image) = (bench.object("v1.o", SOURCE, &[]), bench.image("image", SAME, 1));
    bench.error(&object, &image, "one side is a linked image");
    bench.error(Path::new("deb:6.12.107"), &image, "give sources twice or built files twice");
}

/// What has the same bytes is skipped, whatever they are.
#[test]
fn identical_files_are_not_read() {
    let bench = Bench::new();
    for side in ["v1", "v2"] {
        fs::write(bench.path(&format!("{side}/broken.o")), "no object at all").unwrap();
        bench.object(&format!("{side}/same.o"), SOURCE, &[]);
    }
    let plan = bench.plan(&bench.path("v1"), &bench.path("v2"), 1);
    assert!(notes(&plan).contains("2 of 2 pairs are identical"), "{plan:#}");
    assert_eq!(plan["outcome"], "no-change");
    // One byte more, and they are read.
    fs::write(bench.path("v2/broken.o"), "no object at all.").unwrap();
    let output = bench.run(&bench.path("v1"), &bench.path("v2"), &[]);
    assert!(said(&output).contains("broken.o"), "{}", said(&output));
}

#[test]
fn one_bad_file_of_many_is_refused_and_the_rest_compared() {
    let bench = Bench::new();
    let changed = SOURCE.replace("count++", "count--");
    let good = bench.object("good.o", SOURCE, &[]);
    let good = fs::read(good).unwrap();
    // e_machine: EM_AARCH64; e_type: ET_EXEC.
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let bad = [
        ("foreign.o", with(18, 183), "machine 183"),
        ("linked.o", with(16, 2), "one side is a linked image"),
        ("cut.o", good[..good.len() / 2].to_vec(), ""),
        ("text.o", b"no object at all".to_vec(), "not a 64-bit little-endian ELF file"),
        ("empty.o", Vec::new(), ""),
    ];
    for (name, bytes, _) in &bad {
        fs::write(bench.path(&format!("v1/{name}")), &good).unwrap();
        fs::write(bench.path(&format!("v2/{name}")), bytes).unwrap();
    }
    bench.object("v1/one.o", SOURCE, &[]);
    bench.object("v2/one.o", &changed, &[]);
    let (v1, v2) = (bench.path("v1"), bench.path("v2"));
    let plan = bench.plan(&v1, &v2, 3);
    assert_eq!(plan["outcome"], "refused");
    assert_eq!(rows(&plan, "functions", "changed"), ["sum"]);
    assert_eq!(plan["functions"][0]["object"], "one.o");
    let refusals = plan["refusals"].as_array().unwrap();
    assert_eq!(refusals.len(), bad.len(), "{plan:#}");
    for (name, _, why) in bad {
        let refusal = refusals.iter().map(Value::to_string).find(|text| text.contains(name));
        let refusal = refusal.unwrap_or_else(|| panic!("{name} is not refused: {plan:#}"));
        assert!(refusal.contains("cannot be compared: ") && refusal.contains(why), "{refusal}");
    }
    let review = fs::read_to_string(bench.path("out/report/review.md")).unwrap();
    assert!(review.contains("foreign.o") && review.contains("`sum`"), "{review}");
    // The same the other way round.
    let plan = bench.plan(&v2, &v1, 3);
    assert_eq!(plan["refusals"].as_array().unwrap().len(), 5, "{plan:#}");
    assert_eq!(rows(&plan, "functions", "changed"), ["sum"]);
}

/// As if they had been fetched and unpacked.
#[test]
fn debug_packages_are_compared_whole_or_by_file() {
    let bench = Bench::new();
    let root = bench.path("cache/debug").parent().unwrap().to_owned();
    let (cache, manifest) = (Cache::open(Some(&root)).unwrap(), Manifest::builtin().unwrap());
    for (version, edit) in [("6.12.107", SAME), ("6.12.111", ("count++", "count--"))] {
        let kernel = manifest.find(version).unwrap();
        let (release, place) = (&kernel.release, cache.debug_place(kernel).unwrap());
        let below = place.join("usr/lib/debug").strip_prefix(bench.0.path()).unwrap().to_owned();
        let name = |name: &str| below.join(name).to_str().unwrap().to_owned();
        let image = bench.image("image", edit, 1);
        fs::copy(image, bench.path(&name(&format!("boot/vmlinux-{release}")))).unwrap();
        let module = |file: &str| name(&format!("lib/modules/{release}/kernel/{file}"));
        let source = SOURCE.replace(edit.0, edit.1);
        bench.object(&module("fs/one.ko.debug"), &source, &[]);
        bench.object(&module("fs/same.ko.debug"), SOURCE, &[]);
        fs::write(bench.path(&name(".build-id/12/345.debug")), "linked to by number").unwrap();
    }
    let run = |old: &str, new: &str, code: i32| {
        let (old, new) = (format!("deb-dbg:{old}"), format!("deb-dbg:{new}"));
        let more = ["--cache", root.to_str().unwrap()];
        let output = bench.run(Path::new(&old), Path::new(&new), &more);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        said(&output)
    };
    let plan = || -> Value {
        serde_json::from_slice(&fs::read(bench.path("out/report/plan.json")).unwrap()).unwrap()
    };
    run("6.12.107", "6.12.111", 0);
    let all = plan();
    let changed: Vec<_> = all["functions"].as_array().unwrap().iter().collect();
    let objects: Vec<_> = changed.iter().map(|row| row["object"].as_str().unwrap()).collect();
    assert_eq!(objects, ["kernel/fs/one.ko", "vmlinux (file.c)"], "{all:#}");
    assert!(changed.iter().all(|row| row["name"] == "sum"), "{all:#}");
    assert!(notes(&all).contains("1 of 3 pairs are identical"), "{all:#}");
    assert_eq!(all["kernels"]["v1"], "deb-dbg:6.12.107");
    for (file, object) in [("vmlinux", "vmlinux (file.c)"), ("one.ko", "kernel/fs/one.ko")] {
        run(&format!("6.12.107-1/{file}"), &format!("6.12.111-1/{file}"), 0);
        let one = plan();
        assert_eq!(one["functions"].as_array().unwrap().len(), 1, "{one:#}");
        assert_eq!(one["functions"][0]["object"], object);
    }
    let said = run("6.12.107/none.ko", "6.12.111/none.ko", 2);
    assert!(said.contains("V1: the debug package of 6.12.107 has no none.ko"), "{said}");
    let said = run("6.12.107/one.ko", "6.12.111/same.ko", 2);
    assert!(said.contains("is on both sides (1 in V1, 1 in V2)"), "{said}");
    let said = run("6.12.107", "5.10.1", 2);
    assert!(said.contains("5.10.1"), "{said}");
}

#[test]
fn build_directories_are_paired_by_path() {
    let bench = Bench::new();
    for side in ["v1", "v2"] {
        bench.object(&format!("{side}/fs/same.o"), SOURCE, &[]);
        let change = if side == "v1" { SAME } else { ("count++", "count--") };
        bench.object(&format!("{side}/fs/main.o"), &SOURCE.replace(change.0, change.1), &[]);
        bench.object(&format!("{side}/fs/{side}.o"), SOURCE, &[]);
        // What `ld -r` made of others is not compared again.
        bench.object(&format!("{side}/fs/all.o"), &SOURCE.replace(change.0, change.1), &[]);
        fs::write(
            bench.path(&format!("{side}/fs/.all.o.cmd")),
            "cmd_all.o := ld -m elf -r -o all.o main.o\n",
        )
        .unwrap();
    }
    let (v1, v2) = (bench.path("v1"), bench.path("v2"));
    let plan = bench.plan(&v1, &v2, 0);
    assert_eq!(rows(&plan, "functions", "changed"), ["sum"]);
    assert_eq!(plan["functions"][0]["object"], "fs/main.o");
    assert!(notes(&plan).contains("`fs/v1.o` is only in V1"), "{plan:#}");
    // `same.o` and `all.o` are not even read as objects.
    assert!(notes(&plan).contains("2 of 3 pairs are identical or only link others"), "{plan:#}");
    assert_eq!(plan["objects"].as_array().unwrap().len(), 1, "{plan:#}");
    // The same bytes for any number of threads.
    let mut reports = Vec::new();
    for jobs in ["1", "8"] {
        assert_eq!(bench.run(&v1, &v2, &["--jobs", jobs]).status.code(), Some(0));
        let read = |name: &str| fs::read(bench.path("out/report").join(name)).unwrap();
        reports.push((read("plan.json"), read("review.md")));
    }
    assert!(reports[0] == reports[1]);
}

#[test]
fn a_million_symbols_are_no_trouble() {
    let bench = Bench::new();
    let object = |name: &str, value: u8| {
        let (source, path) = (bench.path("many.s"), bench.path(name));
        let mut text = String::from(".data\n");
        for number in 0..1_000_000 {
            text += &format!("s{number}: .byte 0\n");
        }
        text += &format!(".globl last\n.type last, @object\n.size last, 1\nlast: .byte {value}\n");
        fs::write(&source, text).unwrap();
        let mut gas = Command::new("as");
        assert!(gas.arg(&source).arg("-o").arg(&path).status().unwrap().success());
        path
    };
    let plan = bench.plan(&object("v1.o", 0), &object("v2.o", 1), 0);
    assert_eq!(rows(&plan, "data", "changed"), ["last"]);
}
