//! Parameters as the compiler's debug information has them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::Command;

use dynamos_differ::load::Elf;
use dynamos_differ::parameters::signatures;

const SOURCE: &str = r#"
typedef unsigned int u32;
typedef u32 uid_t;
enum level { LOW, HIGH };
struct pair { long a, b; };
long plain(const char *name, int count, unsigned long long size, uid_t uid, _Bool on, enum level at)
{ return count + size + uid + on + at + (long)name; }
int nothing(void) { return 1; }
int by_value(int before, struct pair pair, int after) { return before + after + pair.a; }
int floating(double x, short after) { return x + after; }
static __attribute__((noinline)) char local(signed char c) { return c + 1; }
extern int declared(int x);
int caller(void) { return local(3) + declared(4); }
"#;

#[test]
fn integers_and_pointers_have_types() {
    let dir = tempfile::tempdir().unwrap();
    let (source, object) = (dir.path().join("a.c"), dir.path().join("a.o"));
    std::fs::write(&source, SOURCE).unwrap();
    let status = Command::new("gcc")
        .args(["-g", "-O1", "-fno-ipa-sra", "-c", "-o"])
        .args([&object, &source])
        .status()
        .unwrap();
    assert!(status.success());
    let bytes = std::fs::read(&object).unwrap();
    let elf = Elf::parse(&bytes, "a.o").unwrap();
    let wanted = ["plain", "nothing", "by_value", "floating", "local", "declared", "absent"];
    let all = signatures(&elf, &wanted.into_iter().map(str::to_owned).collect()).unwrap();
    let found: Vec<_> =
        all.iter().map(|(name, found)| (name.as_str(), found.parameters.as_str())).collect();
    assert_eq!(
        found,
        [
            ("by_value", "(before:s32 pair:other after:other)"),
            ("floating", "(x:other after:other)"),
            ("local", "(c:s8)"),
            ("nothing", "()"),
            ("plain", "(name:u64 count:s32 size:u64 uid:u32 on:u8 at:u32)"),
        ]
    );
    let returns: Vec<_> = all.values().map(|found| found.returns).collect();
    assert_eq!(returns, [Some("s32"), Some("s32"), Some("s8"), Some("s32"), Some("s64")]);
}
