//! Objects that were made to do harm: headers with impossible numbers, DWARF that goes round in
//! circles or nests without end. They may be refused; nothing may panic, hang or overflow.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::process::Command;

use dynamos_differ::image::Image;
use dynamos_differ::show::Sources;
use dynamos_differ::verdict::DataChange;
use dynamos_differ::{Object, Pair};

fn assemble(file: &str, text: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(file), text).unwrap();
    let gcc = std::env::var("CC").unwrap_or_else(|_| "gcc".to_owned());
    let status = Command::new(gcc)
        .current_dir(dir.path())
        .args(["-O2", "-g", "-fno-pie", "-mcmodel=kernel", "-c", file, "-o", "out.o"])
        .status();
    assert!(status.unwrap().success());
    std::fs::read(dir.path().join("out.o")).unwrap()
}

/// Everything that the differ does with an object.
fn exercise(bytes: &[u8], good: &Object<'_>) {
    let Ok(object) = Object::parse(bytes, "hostile.o") else { return };
    let _ = Pair::compare(good, &object);
    let _ = Pair::compare(&object, good);
    let _ = Sources::load(&object.elf);
    for (id, _) in object.elf.sections() {
        let _ = object.inlined_at(id, 1);
    }
}

fn sample() -> Vec<u8> {
    assemble(
        "sample.c",
        "struct s { int a; char b[3]; }; static int t[] = {1, 2};
         static inline int in(struct s *s) { return t[s->a]; }
         int g(const char *); int f(struct s *s) { return in(s) + g(\"x\"); }",
    )
}

/// Each number of the headers, the symbol table and the relocations becomes each extreme.
#[test]
fn impossible_numbers() {
    let bytes = sample();
    let good = Object::parse(&bytes, "good.o").unwrap();
    let number = |at: usize, len: usize| {
        let mut value = [0; 8];
        value[..len].copy_from_slice(&bytes[at..at + len]);
        usize::try_from(u64::from_le_bytes(value)).unwrap()
    };
    // e_shoff, e_shnum; sh_type, sh_offset, sh_size of each (gABI, chapter 4).
    let (headers, count) = (number(40, 8), number(60, 2));
    let mut places: Vec<usize> = (16..64).collect();
    places.extend(headers..headers + count * 64);
    for header in (0..count).map(|i| headers + i * 64) {
        // SHT_SYMTAB, SHT_RELA
        if matches!(number(header + 4, 4), 2 | 4) {
            let (offset, size) = (number(header + 24, 8), number(header + 32, 8));
            places.extend(offset..offset + size.min(240));
        }
    }
    for at in places.into_iter().filter(|at| at.is_multiple_of(4)) {
        for (len, value) in [(4, 0), (4, u64::MAX), (4, 0x7fff_ffff), (8, u64::MAX), (8, 1 << 40)] {
            let mut bad = bytes.clone();
            let end = (at + len).min(bad.len());
            bad[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            exercise(&bad, &good);
        }
    }
}

/// Every byte of the DWARF, flipped, and the sections cut short.
#[test]
fn damaged_dwarf() {
    let bytes = sample();
    let good = Object::parse(&bytes, "good.o").unwrap();
    for section in good.elf.sections.iter().filter(|s| s.name.starts_with(".debug")) {
        let base = section.data.as_ptr() as usize - bytes.as_ptr() as usize;
        for at in (0..section.data.len()).step_by(3) {
            for bits in [0xff, 0x80, 0x01] {
                let mut bad = bytes.clone();
                bad[base + at] ^= bits;
                exercise(&bad, &good);
            }
        }
        let mut bad = bytes.clone();
        bad[base..base + section.data.len() / 2].fill(0xff);
        exercise(&bad, &good);
    }
}

/// `entries` in a unit of DWARF 4. Abbreviations: 2 typedef, 3 pointer, 4 struct, 5 member,
/// 6 named struct, 7 array, 8 inlined subroutine, 9 lexical block, 10 const.
fn dwarf(entries: &str) -> String {
    let abbreviation = |code: u8, tag: u8, children: u8, attributes: &[u8]| {
        let list: Vec<String> = attributes.iter().map(u8::to_string).collect();
        let separator = if list.is_empty() { "" } else { ", " };
        format!(".byte {code}, {tag}, {children}{separator}{}, 0, 0\n", list.join(", "))
            .replace(", , ", ", ")
    };
    // DW_AT_name 3 as string 8, DW_AT_type 0x49 and abstract_origin 0x31 as ref4 0x13,
    // byte_size 0xb as data1 0xb, data_member_location 0x38 (data1)
    let abbreviations = [
        abbreviation(1, 0x11, 1, &[3, 8]),
        abbreviation(2, 0x16, 0, &[3, 8, 0x49, 0x13]),
        abbreviation(3, 0x0f, 0, &[0x49, 0x13]),
        abbreviation(4, 0x13, 1, &[0x0b, 0x0b]),
        abbreviation(5, 0x0d, 0, &[0x49, 0x13, 0x38, 0x0b]),
        abbreviation(6, 0x13, 1, &[3, 8, 0x0b, 0x0b]),
        abbreviation(7, 0x01, 0, &[0x49, 0x13]),
        abbreviation(8, 0x1d, 0, &[0x31, 0x13]),
        abbreviation(9, 0x0b, 1, &[]),
        abbreviation(10, 0x26, 0, &[0x49, 0x13]),
    ]
    .concat();
    format!(
        ".text\nnop\n.section .debug_abbrev,\"\",@progbits\n{abbreviations}.byte 0\n\
         .section .debug_info,\"\",@progbits\nunit: .long end - begin\nbegin: .short 4\n.long 0\n\
         .byte 8\n.byte 1\n.asciz \"hostile.c\"\n{entries}\n.byte 0\nend:\n"
    )
}

#[test]
fn dwarf_in_circles() {
    let bytes = sample();
    let good = Object::parse(&bytes, "good.o").unwrap();
    let circles = [
        "a: .byte 2\n.asciz \"t\"\n.long a - unit\n",
        "a: .byte 2\n.asciz \"t\"\n.long b - unit\nb: .byte 2\n.asciz \"u\"\n.long a - unit\n",
        "t: .byte 2\n.asciz \"t\"\n.long a - unit\na: .byte 3\n.long a - unit\n",
        "t: .byte 2\n.asciz \"t\"\n.long a - unit\na: .byte 10\n.long a - unit\n",
        "t: .byte 2\n.asciz \"t\"\n.long a - unit\na: .byte 7\n.long a - unit\n",
        // A struct inside itself, by name and without one.
        "a: .byte 6\n.asciz \"s\"\n.byte 8\n.byte 5\n.long a - unit\n.byte 0\n.byte 0\n",
        "s: .byte 6\n.asciz \"s\"\n.byte 8\n.byte 5\n.long a - unit\n.byte 0\n.byte 0\n\
         a: .byte 4\n.byte 8\n.byte 5\n.long a - unit\n.byte 0\n.byte 5\n.long a - unit\n.byte 4\n.byte 0\n",
        // A struct without a name that points to itself.
        "t: .byte 2\n.asciz \"t\"\n.long a - unit\n\
         a: .byte 4\n.byte 8\n.byte 5\n.long b - unit\n.byte 0\n.byte 0\nb: .byte 3\n.long a - unit\n",
        "a: .byte 8\n.long a - unit\n",
        // Types that are not where they should be.
        "a: .byte 2\n.asciz \"t\"\n.long 0x7fffffff\n",
        "a: .byte 2\n.asciz \"t\"\n.long a - unit + 1\n",
        "a: .byte 2\n.asciz \"t\"\n.long 0\n",
    ];
    for circle in circles {
        exercise(&assemble("circle.s", &dwarf(circle)), &good);
    }
}

#[test]
fn dwarf_without_end() {
    let bytes = sample();
    let good = Object::parse(&bytes, "good.o").unwrap();
    // Blocks in blocks.
    exercise(&assemble("deep.s", &dwarf(".rept 300000\n.byte 9\n.endr\n")), &good);
    // Pointers to pointers.
    let mut chain = String::from(".byte 2\n.asciz \"t\"\n.long p0 - unit\n");
    for i in 0..50_000 {
        chain.push_str(&format!("p{i}: .byte 3\n.long p{} - unit\n", i + 1));
    }
    chain.push_str("p50000: .byte 3\n.long 0\n");
    exercise(&assemble("chain.s", &dwarf(&chain)), &good);
    // Each anonymous member has two of the next: 2^40 members in all.
    let mut wide = String::from(
        "s: .byte 6\n.asciz \"s\"\n.byte 8\n.byte 5\n.long w0 - unit\n.byte 0\n.byte 0\n",
    );
    for i in 0..40 {
        let member = format!(".byte 5\n.long w{} - unit\n.byte 0\n", i + 1);
        wide.push_str(&format!("w{i}: .byte 4\n.byte 8\n{member}{member}.byte 0\n"));
    }
    wide.push_str("w40: .byte 4\n.byte 8\n.byte 0\n");
    exercise(&assemble("wide.s", &dwarf(&wide)), &good);
}

/// An object of code, symbols (16 bytes of code each) whose names all begin at `name` of `names`, and so many headers that
/// name the same `relocations`.
fn again_and_again(
    symbols: u32,
    (name, names): (u32, &[u8]),
    relocations: u32,
    headers: u16,
) -> Vec<u8> {
    let section = |name: u32, kind: u32, (at, size): (usize, usize), link: [u32; 2], entry: u64| {
        let mut bytes = [name, kind].map(u32::to_le_bytes).concat();
        bytes.extend([0, 0, at as u64, size as u64].map(u64::to_le_bytes).concat());
        bytes.extend(link.map(u32::to_le_bytes).concat());
        bytes.extend([1, entry].map(u64::to_le_bytes).concat());
        bytes
    };
    let mut bytes = sample()[..64].to_vec();
    let mut part = |content: &[u8]| {
        let start = bytes.len();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        (start, content.len())
    };
    let text = part(&vec![0x90; symbols as usize * 16]);
    let mut table = vec![0; 24];
    for i in 0..u64::from(symbols) {
        // STB_GLOBAL, STT_FUNC, in section 1.
        table.extend(
            [u64::from(name) | 0x12 << 32 | 1 << 48, i * 16, 16].map(u64::to_le_bytes).concat(),
        );
    }
    let table = part(&table);
    let names = part(names);
    // R_X86_64_PC32 against symbol 1.
    let one = [0u64, 1 << 32 | 2, 0].map(u64::to_le_bytes).concat();
    let relocations = part(&one.repeat(relocations as usize));
    let shoff = bytes.len() as u64;
    bytes.extend(section(0, 0, (0, 0), [0, 0], 0));
    bytes.extend(section(1, 1, text, [0, 0], 0));
    bytes.extend(section(0, 2, table, [3, 1], 24));
    bytes.extend(section(0, 3, names, [0, 0], 0));
    bytes.extend(section(0, 4, relocations, [2, 1], 24).repeat(usize::from(headers)));
    bytes[40..48].copy_from_slice(&shoff.to_le_bytes());
    bytes[60..64].copy_from_slice(&[4 + headers, 3].map(u16::to_le_bytes).concat());
    bytes
}

/// A megabyte that would become gigabytes.
#[test]
fn what_is_named_again_and_again() {
    let once = again_and_again(3, (7, b"\0.text\0name\0"), 8_000, 1);
    let object = Object::parse(&once, "once.o").unwrap();
    assert_eq!(object.elf.section_by_name(".text").unwrap().1.relocations.len(), 8_000);
    assert_eq!(object.elf.symbols[3].name, "name");
    let refused = |bytes: &[u8], why: &str| {
        assert!(bytes.len() < 1 << 20);
        let error = Object::parse(bytes, "hostile.o").unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    let many = again_and_again(3, (7, b"\0.text\0name\0"), 8_000, 8_000);
    refused(&many, "section .text: more relocations than the file has room for");
    let mut names = b"\0.text\0".to_vec();
    names.resize(400_000, b'a');
    names.push(0);
    let mut long = again_and_again(10_000, (7, &names), 1, 1);
    refused(&long, "longer names than the file has room for");
    long[16] = 2; // e_type: ET_EXEC
    let error = Image::parse(&long, "hostile").unwrap_err().to_string();
    assert!(error.contains("longer names than the file has room for"), "{error}");
}

/// Uninitialised variables that claim more than any machine has; beside them, one that only v2 initialises.
#[test]
fn larger_than_memory() {
    let of = |section: &str, content: &str| {
        let code = format!(
            ".section {section}\n.type big, @object\n{content}\n.size big, . - big\n
             .text\n.type f, @function\nf: movl $big, %eax\nret\n.size f, . - f\n"
        );
        assemble("big.s", &code)
    };
    let values = |old: &[u8], new: &[u8]| {
        let [old, new] = [old, new].map(|bytes| Object::parse(bytes, "big.o").unwrap());
        let pair = Pair::compare(&old, &new).unwrap();
        let big = pair.data.into_iter().find(|data| data.name == "big").unwrap();
        assert_eq!(big.change, DataChange::Changed);
        big.values.shown
    };
    let huge = |align: u64| of(".bss", &format!(".balign {align}\nbig: .skip 0x100000000000"));
    assert_eq!(values(&huge(8), &huge(64)), []);
    let (zero, seven) = (of(".bss", "big: .skip 8"), of(".data", "big: .long 0, 7"));
    let [there] = &values(&zero, &seven)[..] else { panic!() };
    assert_eq!((&*there.old, &*there.new), ("0x0", "0x700000000"));
    let [back] = &values(&seven, &zero)[..] else { panic!() };
    assert_eq!((&*back.old, &*back.new), ("0x700000000", "0x0"));
}
