//! What `--explain` shows of a small pair of objects.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;

use dynamos_generator::explain::{Find, object};

const SOURCE: &str = "struct box { int a;
#ifdef V2
  long fresh;
#endif
};
int call(const char *, int);
static inline int inner(int x) { return call(\"inner\", x + EXTRA); }
int f(int x) {
  if (x < 3)
    return inner(x);
  return 7;
}
int same(struct box *box) { return call(\"same\", box->a); }
";

fn build(extra: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("box.c"), SOURCE).unwrap();
    let status = Command::new("gcc")
        .current_dir(dir.path())
        .args(["-O2", "-g", "-fno-pie", "-mcmodel=kernel", "-mno-red-zone", "-pg", "-mfentry"])
        .args(["-ffunction-sections", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"])
        .args(["-c", "box.c", extra])
        .args((extra != "-DEXTRA=1").then_some("-DV2"))
        .status();
    assert!(status.unwrap().success());
    std::fs::read(dir.path().join("box.o")).unwrap()
}

fn explained(name: &str) -> Vec<Find> {
    let (v1, v2) = (build("-DEXTRA=1"), build("-DEXTRA=2"));
    let read = |_, file: &Path| (file == Path::new("box.c")).then(|| SOURCE.to_owned());
    object("box.o", &v1, &v2, &[name.to_owned()], &read).unwrap().remove(0)
}

fn text(find: &Find) -> String {
    let line = |line: &dynamos_generator::explain::Line| {
        format!("{} {} # {}\n", line.mark.symbol(), line.old, line.new)
    };
    find.lines.iter().map(line).collect()
}

#[test]
fn a_change_of_an_inlined_function_is_shown_where_it_is() {
    // By the function it is in, and by the inlined function's own name.
    for name in ["f", "inner"] {
        let finds = explained(name);
        assert_eq!(finds.len(), 1, "{name}");
        let find = &finds[0];
        assert!(find.differs);
        let title = &find.title;
        assert!(title.starts_with("f in box.o: changed: "), "{title}");
        assert!(title.contains("(in inner, inlined)"), "{title}");
        let text = text(find);
        assert!(text.contains("box.c:7 (inner, inlined) static inline int inner(int x)"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with('|')).count(), 1, "{text}");
        let changed = text.lines().find(|line| line.starts_with('|')).unwrap();
        assert!(changed.contains("lea 1(") && changed.contains("lea 2("), "{text}");
        assert!(text.contains("\"inner\""), "{text}");
    }
}

#[test]
fn what_is_the_same_is_shown_as_such() {
    let finds = explained("same");
    assert_eq!((finds.len(), finds[0].differs), (1, false));
    assert!(finds[0].lines.iter().all(|line| line.mark.symbol() == ' '));
    assert!(explained("nothing").is_empty());
}

#[test]
fn a_type_has_its_members() {
    let finds = explained("struct box");
    assert_eq!((finds.len(), finds[0].differs), (1, true));
    let text = text(&finds[0]);
    let words: Vec<String> =
        text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        words,
        ["| 4 bytes # 16 bytes", "0 +4 int a # 0 +4 int a", "> # 8 +8 long int fresh"]
    );
}
