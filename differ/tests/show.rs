//! What is shown of a pair: marks and texts.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::process::Command;

use dynamos_differ::show::{self, Sources};
use dynamos_differ::{Object, Pair};

const SOURCE: &str = "\
struct box { int a; int b : 3;
#ifdef V2
long fresh;
#endif
char name[4]; };
int call(const char *, int);
static inline int twice(int x) { return call(\"in twice\", x); }
int f(struct box *box, int x) {
  if (x < 3)
    return twice(x);
#ifdef V2
  call(\"more\", 7);
#endif
  return call(\"rest\", box->a);
}
";

fn build(v2: bool) -> Vec<u8> {
    compile(SOURCE, v2)
}

fn compile(source: &str, v2: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("box.c"), source).unwrap();
    let mut gcc = Command::new(std::env::var("CC").unwrap_or_else(|_| "gcc".to_owned()));
    gcc.current_dir(dir.path()).args(["-O2", "-g", "-fno-pie", "-mcmodel=kernel"]);
    gcc.args(["-ffunction-sections", "-mno-red-zone", "-fcf-protection=none", "-c", "box.c"]);
    gcc.args(v2.then_some("-DV2"));
    assert!(gcc.status().unwrap().success());
    std::fs::read(dir.path().join("box.o")).unwrap()
}

#[test]
fn a_function_side_by_side() {
    let (v1, v2) = (build(false), build(true));
    let (v1, v2) = (Object::parse(&v1, "v1.o").unwrap(), Object::parse(&v2, "v2.o").unwrap());
    let comparison = Pair::compare(&v1, &v2).unwrap();
    let (s1, s2) = (Sources::load(&v1.elf).unwrap(), Sources::load(&v2.elf).unwrap());
    let verdict = comparison.function("f").unwrap();
    let parts = show::function((&v1, Some(&s1)), (&v2, Some(&s2)), &comparison, verdict);
    let rows = &parts.first().unwrap().rows;
    let text: Vec<String> = rows
        .iter()
        .map(|row| {
            let side = |code: &Option<show::Code>| {
                code.as_ref().map_or(String::new(), |c| {
                    let line = c
                        .source
                        .as_ref()
                        .map_or(String::new(), |s| format!("{}:{}", s.file, s.line));
                    format!("{line} {} {}", c.inlined.as_deref().unwrap_or(""), c.text)
                })
            };
            format!("{} {} # {}", row.mark.symbol(), side(&row.old), side(&row.new))
        })
        .collect();
    let all = text.join("\n");
    let has = |mark: char, words: &[&str]| {
        text.iter().any(|l| l.starts_with(mark) && words.iter().all(|w| l.contains(w)))
    };
    assert!(has(' ', &["box.c:7 twice", "\"in twice\""]), "{all}");
    assert!(has('>', &["box.c:12", "\"more\""]), "{all}");
    assert!(!has(' ', &["\"more\""]) && !has('<', &["\"rest\""]), "{all}");
    assert!(text.iter().any(|l| l.contains("call") && l.contains("jmp")), "{all}");
    // The same function against itself has no marks.
    let same = Pair::compare(&v1, &v1).unwrap();
    let parts = show::function((&v1, None), (&v1, None), &same, same.function("f").unwrap());
    assert!(parts.iter().flat_map(|p| &p.rows).all(|row| row.mark == show::Mark::Same));
}

/// Functions that differ in nothing but an entry of a special section.
const TABLES: &str = "\
#ifdef V2
#define SEL(a, b) b
#else
#define SEL(a, b) a
#endif
struct key { int a; void *b; } key_a, key_b;
#define JUMP(key) asm goto(\"1: .byte 0x0f,0x1f,0x44,0,0\\n.pushsection __jump_table,\\\"aw\\\"\\n.balign 8\\n\" \\
  \".long 1b - .\\n.long %l[yes] - .\\n.quad %c0 - .\\n.popsection\" : : \"i\"(&key) : : yes)
int branch(int x) { JUMP(SEL(key_a, key_b)); return 1; yes: return x; }
int branch_same(int x) { JUMP(key_a); return 1; yes: return x; }
#define EX(type) \".pushsection __ex_table,\\\"a\\\"\\n.long 1b - .\\n.long 2b - .\\n.long \" type \"\\n.popsection\\n\"
void fault(long *p) { asm volatile(\"1: incq (%0)\\n2:\\n\" EX(\"1\") SEL(\"\", EX(\"3\")) : : \"r\"(p)); }
#define ALT(repl) asm volatile(\"661: nop\\n nop\\n nop\\n nop\\n nop\\n662:\\n\" \\
  \".pushsection .altinstructions,\\\"a\\\"\\n.long 661b - .\\n.long 663f - .\\n.word 7\\n.byte 662b-661b\\n.byte 664f-663f\\n\" \\
  \".popsection\\n.pushsection .altinstr_replacement,\\\"ax\\\"\\n663: \" repl \"\\n664:\\n.popsection\")
void alternative(void) { ALT(SEL(\"call extern_a\", \"call extern_b\")); }
#define BUG(line, flags) asm volatile(\"1: ud2\\n.pushsection __bug_table,\\\"aw\\\"\\n2: .long 1b - .\\n.long %c0 - .\\n\" \\
  \".word \" line \"\\n.word \" flags \"\\n.popsection\" : : \"i\"(\"box.c\"))
void bug_flags(void) { BUG(\"5\", SEL(\"1\", \"3\")); }
void bug_line(void) { BUG(SEL(\"5\", \"6\"), \"1\"); }
";

/// A title that says `changed` has a marked row below it, and this is which.
#[test]
fn entries_of_special_sections_side_by_side() {
    let (v1, v2) = (compile(TABLES, false), compile(TABLES, true));
    let (v1, v2) = (Object::parse(&v1, "v1.o").unwrap(), Object::parse(&v2, "v2.o").unwrap());
    let comparison = Pair::compare(&v1, &v2).unwrap();
    let marked = |name: &str| -> Vec<String> {
        let verdict = comparison.function(name).unwrap();
        let parts = show::function((&v1, None), (&v2, None), &comparison, verdict);
        let rows = parts.iter().flat_map(|part| &part.rows);
        let text = |code: &Option<show::Code>| code.as_ref().map_or("", |c| &c.text).to_owned();
        rows.filter(|row| row.mark != show::Mark::Same)
            .map(|row| format!("{} {} # {}", row.mark.symbol(), text(&row.old), text(&row.new)))
            .collect()
    };
    assert_eq!(
        marked("branch"),
        ["| __jump_table: +0x2, +0xc, key_a # __jump_table: +0x2, +0xc, key_b"]
    );
    assert_eq!(marked("fault"), [">  # __ex_table: +0x0, +0x3, 03 00 00 00"]);
    assert_eq!(
        marked("alternative"),
        [
            "| .altinstructions: +0x0, 07 00 05 05, call extern_a # .altinstructions: +0x0, 07 00 05 05, call extern_b"
        ]
    );
    assert_eq!(
        marked("bug_flags"),
        [
            "| __bug_table: +0x0, \"box.c\", line 5, flags 0x1 # __bug_table: +0x0, \"box.c\", line 5, flags 0x3"
        ]
    );
    for same in ["branch_same", "bug_line"] {
        assert!(marked(same).is_empty(), "{same}: {:?}", marked(same));
    }
}

#[test]
fn a_type_side_by_side() {
    let (v1, v2) = (build(false), build(true));
    let (v1, v2) = (Object::parse(&v1, "v1.o").unwrap(), Object::parse(&v2, "v2.o").unwrap());
    for name in ["box", "struct box"] {
        let views = show::types(&v1, &v2, name).unwrap();
        let view = views.first().unwrap();
        let marks: String = view.rows.iter().map(|r| r.mark.symbol()).collect();
        assert_eq!(
            (view.name.as_str(), marks.as_str(), view.differs),
            ("struct box", "  >|", true)
        );
        assert_eq!(view.rows[1].old.as_ref().unwrap().place, "4.0 :3");
        assert_eq!(view.rows[3].new.as_ref().unwrap().place, "16 +4");
    }
    assert!(show::types(&v1, &v2, "no such").unwrap().is_empty());
}
