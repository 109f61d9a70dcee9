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
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("box.c"), SOURCE).unwrap();
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
