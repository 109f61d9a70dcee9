//! What `--explain` shows of a small pair of objects.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;

use dynamos_differ::image::Image;
use dynamos_generator::explain::{Find, images, object};

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
        [
            "box.c:1 struct box { int a; # box.c:1 struct box { int a;",
            "| 4 bytes # 16 bytes",
            "0 +4 int a # 0 +4 int a",
            "> # 8 +8 long int fresh"
        ]
    );
}

/// One source of an image, which has more before the code of V2.
const LINKED: &str = r#"struct box { int a;
#ifdef V2
  long fresh;
#endif
};
int call(const char *, int);
int level = 3;
extern const char *const names[];
const char *const names[] = { "one", "two", WORD };
static __attribute__((noinline, cold)) int bad(int x) { return call("bad", x); }
static inline int inner(int x) { return call("inner", x + EXTRA); }
int f(int x) {
  static int count;
  count++;
#ifdef V2
  if (x == 77)
    return level;
#endif
  if (x < 3)
    return inner(x);
  for (int i = 0; i < x; i++)
    level += call(names[i % 3], i);
  if (__builtin_expect(x > 1000, 0))
    return bad(x) + 1;
  return 7;
}
int same(struct box *box) { return call("same", box->a); }
int faulty(int *p) {
  int v = 5;
  asm volatile("1: movl (%1),%0\n2:\n.section __ex_table,\"a\"\n.balign 4\n.long 1b - .\n.long 2b - .\n"
               ".long " CODE "\n.previous" : "+r"(v) : "r"(p));
  return v;
}
int old_or_new(int x) { return call(WORD, x); }
#ifdef V2
int fresh(int x) { return call("fresh", x); }
#else
int stale(int x) { return call("stale", x); }
#endif
"#;

/// Another one, with a type of the same name as one of the first; and what all call.
const OTHERS: [(&str, &str); 2] = [
    (
        "other.c",
        "struct box { short other; };\nint other(struct box *box) { return box->other; }\n",
    ),
    (
        "call.c",
        "int call(const char *text, int n) { return text[n]; }\nvoid __fentry__(void) { }\n",
    ),
];

/// An image of V1 (1) or V2 (2), without what `strip` takes away.
fn image(version: u32, strip: Option<&str>) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let mut objects = Vec::new();
    for (name, text) in OTHERS.into_iter().chain([("box.c", LINKED)]) {
        std::fs::write(path.join(name), text).unwrap();
        let mut gcc = Command::new("gcc");
        gcc.current_dir(path).args(["-O2", "-g", "-fno-pie", "-fno-pic", "-mcmodel=kernel"]);
        gcc.args(["-mno-red-zone", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"]);
        gcc.args((name != "call.c").then_some(["-pg", "-mfentry"]).into_iter().flatten());
        gcc.arg(format!("-DEXTRA={version}")).arg(format!("-DWORD=\"three {version}\""));
        gcc.arg(format!("-DCODE=\"{version}\"")).args((version == 2).then_some("-DV2"));
        assert!(gcc.args(["-c", name]).status().unwrap().success());
        objects.push(name.replace(".c", ".o"));
    }
    let mut ld = Command::new("ld");
    ld.current_dir(path).args(["-static", "-e", "f", "-Ttext=0xffffffff81000000", "-o", "image"]);
    assert!(ld.args(objects).status().unwrap().success());
    if let Some(what) = strip {
        let mut command = Command::new("strip");
        assert!(command.arg(what).arg(path.join("image")).status().unwrap().success());
    }
    std::fs::read(path.join("image")).unwrap()
}

fn in_images(strip: Option<&str>, names: &[&str]) -> anyhow::Result<Vec<Vec<Find>>> {
    let (v1, v2) = (image(1, strip), image(2, strip));
    let (v1, v2) = (Image::parse(&v1, "V1").unwrap(), Image::parse(&v2, "V2").unwrap());
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    images("vmlinux", &v1, &v2, &names)
}

/// The lines that a mark has, without places of the code.
fn marked(find: &Find, mark: char) -> Vec<String> {
    let bare = |text: &str| {
        let text = text.trim();
        text.split_once("  ").map_or(text, |(_, text)| text).to_owned()
    };
    let lines = find.lines.iter().filter(|line| line.mark.symbol() == mark && !line.source);
    lines.map(|line| format!("{}#{}", bare(&line.old), bare(&line.new))).collect()
}

#[test]
fn functions_of_images_are_shown_with_what_their_operands_name() {
    let all = in_images(None, &["f", "inner", "same", "faulty", "old_or_new", "no_such"]).unwrap();
    let [f, inner, same, faulty, string, none] = &all[..] else { panic!("{} names", all.len()) };
    // By the function it is in, and by the inlined function's own name.
    assert_eq!((f.len(), inner.len()), (1, 1));
    assert_eq!((&f[0].title, &f[0].lines), (&inner[0].title, &inner[0].lines));
    let f = &f[0];
    assert!(f.differs && f.title.starts_with("f in vmlinux (box.c): changed: at +"), "{}", f.title);
    let text = text(f);
    // What is new, and how the line that it is of is called.
    let added = marked(f, '>');
    assert!(added.iter().any(|line| line == "#cmp $0x4d,%edi"), "{text}");
    assert!(added.iter().any(|line| line == "#mov level(%rip),%eax"), "{text}");
    assert!(f.lines.iter().any(|line| line.source && line.new == "box.c:16 "), "{text}");
    // What is another one.
    let changed = marked(f, '|');
    let one = changed.iter().filter(|line| line.contains("lea"));
    let one: Vec<&String> = one.collect();
    assert!(one.len() == 1 && one[0].contains("lea 1(") && one[0].contains("lea 2("), "{text}");
    let inlined = |line: &str| line.starts_with("box.c:11 (inner, inlined)");
    assert!(f.lines.iter().any(|line| line.source && inlined(&line.new)), "{text}");
    // What is the same: calls, data, strings, and jumps to what faces each other, though all of it has moved.
    let same_rows = marked(f, ' ');
    let is_same = |what: &str| same_rows.iter().any(|line| line.matches(what).count() == 2);
    for what in
        ["call call", "names(,%rax,8)", "$\"inner\"", "level(%rip)", "jg f.cold", "call bad"]
    {
        assert!(is_same(what), "{what}: {text}");
    }
    let back = same_rows.iter().find(|line| line.starts_with("jmp f+0x"));
    assert!(back.is_some() && text.contains("f, cold part"), "{text}");
    let jumps = changed.iter().filter(|line| line.starts_with('j'));
    assert_eq!(jumps.count(), 0, "{text}");
    // A function that is the same has no mark, and its lines.
    assert_eq!((same.len(), same[0].differs), (1, false));
    assert_eq!(same[0].title, "same in vmlinux (box.c): unchanged");
    assert!(same[0].lines.iter().all(|line| line.mark.symbol() == ' '));
    assert!(same[0].lines.iter().any(|line| line.old.contains("$\"same\"")));
    // The tables that are compared.
    assert_eq!(marked(&faulty[0], '|').len(), 1);
    let entry = &marked(&faulty[0], '|')[0];
    assert!(entry.starts_with("__ex_table: to +0x"), "{entry}");
    assert!(
        entry.contains("flags 0x1#__ex_table: to +0x") && entry.ends_with("flags 0x2"),
        "{entry}"
    );
    assert_eq!(marked(&string[0], '|'), ["mov $\"three 1\",%rdi#mov $\"three 2\",%rdi"]);
    assert!(none.is_empty());
}

#[test]
fn a_function_of_one_image_is_shown_alone() {
    let all = in_images(None, &["fresh", "stale"]).unwrap();
    for (finds, mark, verdict) in [(&all[0], '>', "new"), (&all[1], '<', "removed")] {
        assert_eq!((finds.len(), finds[0].differs), (1, true));
        assert!(finds[0].title.contains(&format!(": {verdict}: ")), "{}", finds[0].title);
        assert!(marked(&finds[0], mark).len() > 2);
        let rows = finds[0].lines.iter().filter(|line| !line.source);
        assert!(rows.into_iter().all(|line| line.mark.symbol() == mark));
    }
}

#[test]
fn types_of_images_have_their_members_and_where_they_are_defined() {
    let words = |find: &Find| -> Vec<String> {
        text(find).lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    for strip in [None, Some("-g"), Some("--strip-all")] {
        let found = in_images(strip, &["struct box"]);
        if strip.is_some() {
            // Nothing says what types there are; of what has no symbols nobody knows what functions.
            assert_eq!(found.is_ok(), strip == Some("-g"));
            assert!(found.map_or(true, |found| found[0].is_empty()));
            continue;
        }
        let finds = found.unwrap().remove(0);
        let titles: Vec<_> = finds.iter().map(|find| (&*find.title, find.differs)).collect();
        assert_eq!(titles, [("struct box: unchanged", false), ("struct box: changed", true)]);
        assert_eq!(
            words(&finds[0]),
            [
                "other.c:1 # other.c:1",
                "2 bytes # 2 bytes",
                "0 +2 short int other # 0 +2 short int other"
            ]
        );
        assert_eq!(
            words(&finds[1]),
            [
                "box.c:1 # box.c:1",
                "| 4 bytes # 16 bytes",
                "0 +4 int a # 0 +4 int a",
                "> # 8 +8 long int fresh"
            ]
        );
    }
}

#[test]
fn images_without_debug_information_are_shown_without_lines() {
    let finds = in_images(Some("-g"), &["f"]).unwrap().remove(0);
    assert_eq!((finds.len(), finds[0].differs), (1, true));
    assert!(finds[0].title.starts_with("f in vmlinux: changed: "), "{}", finds[0].title);
    let headings: Vec<_> = finds[0].lines.iter().filter(|line| line.source).collect();
    assert!(headings.iter().all(|line| line.old == line.new && !line.old.contains(':')));
    assert!(marked(&finds[0], '|').iter().any(|line| line.contains("lea 1(")));
    let why = in_images(Some("--strip-all"), &["f"]).unwrap_err().to_string();
    assert!(why.contains("is stripped (no symbol table)"), "{why}");
}
