//! `cargo run -p dynamos-fuzz-entries --example seeds [RECORD.BIN]` writes the first inputs of
//! every target into `fuzz/corpus`; the fuzzer adds to them. `RECORD.BIN` is an update's
//! `source/record.bin`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use dynamos_abi::{
    Function, NONE, Object, Record, RecordWriter, Site, SiteKind, Symbol, symbol_flags,
};
use dynamos_fuzz_entries::{DWARF, IMAGE, REFERENCE, frame};

const COMMON: &str = "-mcmodel=kernel -mno-red-zone -fno-pie -mno-sse -fcf-protection=none -c";
const VARIANTS: [(&str, &str); 4] = [
    ("plain", "-O2 -mfentry -pg -mrecord-mcount"),
    ("dwarf5", "-O2 -gdwarf-5 -ffunction-sections -fdata-sections"),
    ("dwarf4", "-O1 -gdwarf-4 -fno-jump-tables"),
    ("types", "-O2 -gdwarf-5 -fdebug-types-section"),
];

fn main() {
    let entries = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = entries.join("../../fuzz/corpus");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let dir = corpus.join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    };
    let scratch = tempfile::tempdir().unwrap();
    for (name, flags) in VARIANTS {
        let object = scratch.path().join(name);
        let status = Command::new("gcc")
            .current_dir(entries)
            .args(flags.split(' ').chain(COMMON.split(' ')))
            .arg(format!("-fdebug-prefix-map={}=.", entries.display()))
            .args(["reference.c".as_ref(), "-o".as_ref(), object.as_os_str()])
            .status();
        assert!(status.unwrap().success());
        let object = std::fs::read(object).unwrap();
        put("differ", name, &object);
        put("unit", name, &object);
        put("dwarf", name, &dwarf_of(&object));
    }
    for form in ["zlib", "zstd"] {
        let object = scratch.path().join("compressed");
        let mut objcopy = Command::new("objcopy");
        objcopy.arg(format!("--compress-debug-sections={form}"));
        assert!(
            objcopy.args([&scratch.path().join("dwarf5"), &object]).status().unwrap().success()
        );
        put("differ", form, &std::fs::read(object).unwrap());
    }
    put("differ", "reference", REFERENCE);
    for (name, flags) in [("dwarf5", "-O2 -gdwarf-5"), ("dwarf4", "-O1 -gdwarf-4")] {
        put("image", name, &linked(flags, scratch.path()));
    }
    put("image", "reference", IMAGE);
    let (record, matcher) = example();
    put("record", "example", &record);
    put("matcher", "example", &matcher);
    if let Some(file) = std::env::args().nth(1) {
        let record = std::fs::read(file).unwrap();
        put("record", "real", &record);
        put("matcher", "real", &running(&record));
    }
}

/// The image of the differ's tests.
fn linked(flags: &str, scratch: &Path) -> Vec<u8> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../differ/tests");
    let (object, image) = (scratch.join("image.o"), scratch.join("image"));
    let mut gcc = Command::new("gcc");
    gcc.current_dir(&tests).args(flags.split(' ').chain(COMMON.split(' ')));
    gcc.arg(format!("-fdebug-prefix-map={}=.", tests.display()));
    gcc.args(["image.c".as_ref(), "-o".as_ref(), object.as_os_str()]);
    assert!(gcc.status().unwrap().success());
    let mut ld = Command::new("ld");
    ld.args("-static -e exception -Ttext=0xffffffff81000000 -z max-page-size=4096 -o".split(' '));
    assert!(ld.args([&image, &object]).status().unwrap().success());
    std::fs::read(image).unwrap()
}

/// The relocated DWARF sections of an object.
fn dwarf_of(object: &[u8]) -> Vec<u8> {
    let object = dynamos_differ::Object::parse(object, "seed.o").unwrap();
    let debug = dynamos_differ::lines::Debug::load(&object.elf).unwrap();
    let parts: Vec<&[u8]> = DWARF.iter().map(|name| debug.section(name)).collect();
    frame(&parts)
}

/// A record with a site of each kind, and a kernel that runs it.
fn example() -> (Vec<u8>, Vec<u8>) {
    use SiteKind::*;
    let mut writer = RecordWriter::default();
    let name = writer.str("vmlinux");
    writer.objects.push(Object { name });
    for (name, flags) in [
        ("example", symbol_flags::FUNCTION),
        ("other", symbol_flags::FUNCTION | symbol_flags::NEEDED),
        ("variable", symbol_flags::NEEDED),
        ("", symbol_flags::ANONYMOUS),
    ] {
        let name = writer.str(name);
        writer.symbols.push(Symbol { name, object: 0, flags, placeholder: NONE });
    }
    let kinds = [
        (Fentry, 5, NONE, &[0xe8, 0, 0, 0, 0][..]),
        (Pc32, 4, 1, &[0; 4]),
        (Abs32S, 4, 2, &[0; 4]),
        (Abs64, 8, 3, &[0; 8]),
        (ReturnThunk, 5, NONE, &[0xe9, 0, 0, 0, 0]),
        (JumpLabel, 5, NONE, &[0x0f, 0x1f, 0x44, 0, 0]),
        (StaticCall, 5, 1, &[0xe8, 0, 0, 0, 0]),
        (Alternative, 3, NONE, &[0x0f, 0x01, 0xca]),
        (SmpLock, 1, NONE, &[0xf0]),
        (Endbr, 4, NONE, &[0xf3, 0x0f, 0x1e, 0xfa]),
    ];
    let mut code = Vec::new();
    for (kind, len, symbol, bytes) in kinds {
        let data = match kind {
            Alternative => writer.alternatives(&[(vec![0x90, 0x90, 0x90], vec![])]),
            _ => writer.bytes(&[]),
        };
        let offset = code.len() as u32;
        writer.sites.push(Site { offset, len, kind: kind as u16, symbol, addend: 0, data });
        code.extend_from_slice(bytes);
        code.push(0x90);
    }
    let bytes = writer.bytes(&code);
    let parameters = writer.str("(a:u64 b:s32)");
    writer.functions.push(Function {
        symbol: 0,
        flags: 0,
        bytes,
        first_site: 0,
        site_count: kinds.len() as u32,
        fentry: NONE,
        clone: NONE,
        bridge: NONE,
        transition: NONE,
        steady: NONE,
        policy: NONE,
        counting: NONE,
        original: NONE,
        parameters,
    });
    let record = writer.finish("example", "6.1.0-55-amd64", "").unwrap();
    let matcher = running(&record);
    (record, matcher)
}

/// A kernel whose memory has the `pre` bytes of the record's functions, one after the other.
fn running(record: &[u8]) -> Vec<u8> {
    let (mut names, mut memory) = (Vec::new(), Vec::new());
    let parsed = Record::parse(record).unwrap();
    for function in parsed.functions().iter() {
        names.push(function.symbol as u8);
        names.extend_from_slice(&(memory.len() as u32).to_le_bytes());
        memory.extend_from_slice(parsed.bytes(function.bytes));
    }
    frame(&[record, &names, &memory])
}
