//! Sources compiled and linked like a kernel, and what the differ says of two of them.

use std::process::Command;

use dynamos_differ::image::{self, FunctionVerdict, Image};
use dynamos_differ::verdict::Verdict;

const FLAGS: &str = "-c -g -O2 -mcmodel=kernel -fno-pic -fno-pie -fcf-protection=none -fno-inline -fno-ipa-ra -mno-sse -fno-asynchronous-unwind-tables a.c";

/// Compiles a source and links it, with the linker's arguments `more`.
pub fn build(source: &str, more: &str) -> Vec<u8> {
    build_with(source, "", more)
}

/// Like [`build`], with the compiler's arguments `flags` too.
pub fn build_with(source: &str, flags: &str, more: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &str| {
        let mut command = Command::new(program);
        let status = command.current_dir(&dir).args(arguments.split_whitespace()).status().unwrap();
        assert!(status.success(), "{program} {arguments}");
    };
    std::fs::write(dir.path().join("a.c"), source).unwrap();
    run("gcc", &format!("{FLAGS} {flags}"));
    run("ld", &format!("-static -e 0 -Ttext=0xffffffff81000000 {more} -o image a.o"));
    std::fs::read(dir.path().join("image")).unwrap()
}

pub fn verdicts(v1: &[u8], v2: &[u8]) -> Vec<FunctionVerdict> {
    let (a, b) = (Image::parse(v1, "v1").unwrap(), Image::parse(v2, "v2").unwrap());
    image::contents(&a, &b).unwrap().functions
}

/// The functions that are in both and not the same, however they are called.
#[allow(dead_code)] // Not all tests that share this file need it.
pub fn changed(v1: &[u8], v2: &[u8]) -> Vec<String> {
    let same = |f: &FunctionVerdict| matches!(f.verdict, Verdict::Unchanged | Verdict::Renamed);
    let functions = verdicts(v1, v2).into_iter().filter(|f| !same(f));
    functions
        .inspect(|f| eprintln!("{}: {:?} {}", f.name, f.verdict, f.reason))
        .map(|f| f.name)
        .collect()
}
