//! Compressed sections: the ordinary ones read like those that are not compressed, and those that stand for gigabytes are
//! refused before they take them.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use dynamos_differ::image::Image;
use dynamos_differ::{Object, Pair};
use object::{SectionFlags, SectionKind, elf, write};

const ZLIB: u32 = elf::ELFCOMPRESS_ZLIB;
const ZSTD: u32 = elf::ELFCOMPRESS_ZSTD;

/// A section: its name, the form and the size that its header says, and what follows.
type Compressed<'a> = (&'a str, u32, u64, &'a [u8]);

/// An object of a little code and these sections.
fn object(sections: &[Compressed<'_>]) -> Vec<u8> {
    let mut object = write::Object::new(
        object::BinaryFormat::Elf,
        object::Architecture::X86_64,
        object::Endianness::Little,
    );
    let text = object.section_id(write::StandardSection::Text);
    object.append_section_data(text, &[0x90; 64], 16);
    for (name, form, size, data) in sections {
        let id = object.add_section(Vec::new(), name.as_bytes().to_vec(), SectionKind::Debug);
        // Elf64_Chdr: ch_type, ch_reserved, ch_size, ch_addralign.
        let mut bytes = [form.to_le_bytes(), [0; 4]].concat();
        bytes.extend([size.to_le_bytes(), 1u64.to_le_bytes()].concat());
        bytes.extend_from_slice(data);
        object.append_section_data(id, &bytes, 8);
        let flags = SectionFlags::Elf { sh_flags: u64::from(elf::SHF_COMPRESSED) };
        object.section_mut(id).flags = flags;
    }
    object.write().unwrap()
}

/// What the object's section holds, or why it is refused; the same as of an image.
fn read(sections: &[Compressed<'_>]) -> Result<Vec<u8>, String> {
    let mut bytes = object(sections);
    let of_object = Object::parse(&bytes, "file").map_err(|e| e.to_string()).map(|object| {
        object.elf.section_by_name(sections[0].0).map(|(_, section)| section.data.to_vec()).unwrap()
    });
    // e_type: ET_EXEC.
    bytes[16] = 2;
    let of_image = Image::parse(&bytes, "file").map_err(|e| e.to_string()).map(|image| {
        image.section(sections[0].0).map(|placed| placed.section.data.to_vec()).unwrap()
    });
    assert!(of_object == of_image, "an image is read in another way");
    of_object
}

/// Why these sections are refused.
fn refusal(sections: &[Compressed<'_>]) -> String {
    match read(sections) {
        Ok(content) => panic!("{} bytes are read", content.len()),
        Err(why) => why,
    }
}

/// What no section of these tests may take: the peak of the whole process.
fn assert_little_memory() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 1 << 20, "{kilobytes} kB at most");
}

/// A frame of zstd (RFC 8878, 3.1.1) with this window descriptor and these blocks: their type, the size that the
/// header has, and their content.
fn frame(window: u8, blocks: &[(u32, usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
    for (i, (kind, size, content)) in blocks.iter().enumerate() {
        let last = u32::from(i + 1 == blocks.len());
        bytes.extend_from_slice(&(last | kind << 1 | (*size as u32) << 3).to_le_bytes()[..3]);
        bytes.extend_from_slice(content);
    }
    bytes
}

const RAW: u32 = 0;
const RLE: u32 = 1;
const SEQUENCES: u32 = 2;
const BLOCK: usize = 128 << 10;
/// A window of 128 KiB.
const SMALL: u8 = 7 << 3;

/// Runs of one byte: 128 KiB in 4 bytes.
fn runs(window: u8, count: usize) -> Vec<u8> {
    frame(window, &vec![(RLE, BLOCK, &b"a"[..]); count])
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// `size` zeroes.
fn zlib_zeroes(size: u64) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), size), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_is_compressed_reads_like_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/layouts.c");
    let gcc = std::env::var("CC").unwrap_or_else(|_| "gcc".to_owned());
    let plain = dir.path().join("plain.o");
    let mut gcc = Command::new(gcc);
    gcc.args(["-O2", "-g", "-c"]).arg(cases).arg("-o").arg(&plain);
    assert!(gcc.status().unwrap().success());
    let bytes = std::fs::read(&plain).unwrap();
    let expected = Object::parse(&bytes, "plain.o").unwrap();
    for form in ["zlib", "zstd"] {
        let path = dir.path().join(form);
        let mut objcopy = Command::new("objcopy");
        objcopy.arg(format!("--compress-debug-sections={form}")).args([&plain, &path]);
        assert!(objcopy.status().unwrap().success(), "binutils 2.40 or newer, with zstd");
        let bytes = std::fs::read(&path).unwrap();
        let object = Object::parse(&bytes, "compressed.o").unwrap();
        let mut compressed = 0;
        for (_, section) in object.elf.sections().filter(|(_, s)| s.name.starts_with(".debug")) {
            let (_, other) = expected.elf.section_by_name(section.name).unwrap();
            assert!(section.data == other.data, "{form} {}", section.name);
            assert_eq!(section.relocations.len(), other.relocations.len());
            compressed += usize::from(section.flags & u64::from(elf::SHF_COMPRESSED) != 0);
        }
        assert!(compressed > 2, "{form}: {compressed}");
        assert!(Pair::compare(&expected, &object).unwrap().is_unchanged());
    }
}

#[test]
fn all_that_the_formats_allow_is_read() {
    let content: Vec<u8> = (0..300_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    let size = content.len() as u64;
    assert!(read(&[(".debug_x", ZLIB, size, &zlib(&content))]).as_ref() == Ok(&content));
    assert_eq!(read(&[(".debug_x", ZLIB, 0, &zlib(b""))]), Ok(Vec::new()));
    // As many frames as one likes, and some to be skipped.
    let skipped = [&0x184d_2a53_u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"any"].concat();
    let blocks: Vec<_> = content.chunks(BLOCK).map(|c| (RAW, c.len(), c)).collect();
    let (first, rest) = blocks.split_at(4);
    let frames = [&skipped[..], &frame(SMALL, first), &skipped, &frame(SMALL, rest)].concat();
    assert!(read(&[(".debug_x", ZSTD, size, &frames)]) == Ok(content));
    assert_eq!(read(&[(".debug_x", ZSTD, 0, &frame(SMALL, &[(RAW, 0, b"")]))]), Ok(Vec::new()));
    // The largest window that is taken of what holds little: 8 MiB.
    let text = frame(13 << 3, &[(RAW, 4, b"text")]);
    assert_eq!(read(&[(".debug_x", ZSTD, 4, &text)]), Ok(b"text".to_vec()));
}

#[test]
fn no_more_is_made_than_the_header_says() {
    let refused = |form, size, data: &[u8], why: &str| {
        let error = refusal(&[(".debug_x", form, size, data)]);
        assert!(error.starts_with("file: section .debug_x: ") && error.contains(why), "{error}");
        assert_little_memory();
    };
    let says = "and its header says";
    // 8 GiB in 256 KiB.
    let bomb = runs(SMALL, 1 << 16);
    refused(ZSTD, 100, &bomb, says);
    refused(ZSTD, 50 << 20, &bomb, says);
    // A window so large that nothing is given out before the end.
    refused(ZSTD, 100, &runs(31 << 3, 1 << 16), "window");
    refused(ZSTD, 50 << 20, &runs(31 << 3, 1 << 16), "window");
    // One block that is 2 GiB: 32,000 times 65,539 bytes as before.
    let count = 32_000usize;
    let mut sequences = vec![0, (count >> 8) as u8 + 128, count as u8];
    // Run lengths for all three: no literals, the last offset, the longest match and 16 more bits of it.
    sequences.extend([0b0101_0100, 0, 0, 52]);
    sequences.extend(vec![0; count * 2]);
    sequences.push(1);
    let bomb = frame(SMALL, &[(RAW, 8, b"abcdefgh"), (SEQUENCES, sequences.len(), &sequences)]);
    refused(ZSTD, 100, &bomb, "damaged zstd data");
    refused(ZSTD, 50 << 20, &bomb, "damaged zstd data");
    // Frames one after the other.
    refused(ZSTD, 1 << 20, &runs(SMALL, 1).repeat(1 << 14), says);
    let bomb = zlib_zeroes(1 << 30);
    assert!(bomb.len() < 5 << 20);
    refused(ZLIB, 100, &bomb, says);
    refused(ZLIB, 50 << 20, &bomb, says);
}

#[test]
fn what_is_not_as_the_header_says_is_refused() {
    let refused = |form, size, data: &[u8], why: &str| {
        let error = refusal(&[(".debug_x", form, size, data)]);
        assert!(error.starts_with("file: section .debug_x: ") && error.contains(why), "{error}");
    };
    let (text, of_zlib) = (frame(SMALL, &[(RAW, 4, b"text")]), zlib(b"text"));
    for (form, data, name) in [(ZSTD, &text, "zstd"), (ZLIB, &of_zlib, "zlib")] {
        refused(form, 5, data, "it decompresses to 4 bytes, and its header says 5");
        refused(form, 3, data, "it decompresses to more bytes, and its header says 3");
        refused(form, 4, &data[..data.len() - 1], &format!("damaged {name} data"));
        refused(form, 4, &data[1..], &format!("damaged {name} data"));
    }
    refused(ZSTD, 4, &[&text[..], &[0; 9]].concat(), "damaged zstd data");
    refused(3, 4, &text, "compressed in form 3");
}

/// A budget for the file, whatever each section says.
#[test]
fn sections_together_have_a_bound_too() {
    let half = runs(SMALL, 40 << 3);
    let size = 40 << 20;
    assert_eq!(read(&[(".debug_a", ZSTD, size, &half)]).unwrap().len() as u64, size);
    let why = refusal(&[(".debug_a", ZSTD, size, &half), (".debug_b", ZSTD, size, &half)]);
    assert!(why.starts_with("file: section .debug_b: it decompresses to 41943040 bytes"), "{why}");
    assert!(why.contains("may hold 64 MiB together"), "{why}");
    for form in [ZLIB, ZSTD] {
        let why = refusal(&[(".debug_a", form, u64::MAX, b"")]);
        assert!(why.starts_with("file: section .debug_a: it decompresses to "), "{why}");
        // Far too much even of a large file.
        let padding = vec![0; 40 << 20];
        let large = [(".debug_b", form, 3 << 30, &padding[..])];
        let why = refusal(&large);
        assert!(why.contains("may hold 512 MiB together"), "{why}");
    }
    assert_little_memory();
}
