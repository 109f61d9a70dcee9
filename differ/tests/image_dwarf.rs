//! Linked images whose debug information is compressed, damaged, or not in them.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod built;

use dynamos_differ::image::{self, Image};

const SOURCE: &str = include_str!("image.c");

/// [`SOURCE`] after so many lines, with a type that differs if `wider`, and a function that passes its line on.
fn source(lines: usize, wider: bool) -> String {
    let source = if wider { SOURCE.replace("int member;", "long member;") } else { SOURCE.into() };
    format!("{}{source}int line(int a) {{ return out(a) + out(__LINE__); }}\n", "\n".repeat(lines))
}

/// The names of types that differ.
fn types(v1: &[u8], v2: &[u8]) -> Vec<String> {
    let (a, b) = (Image::parse(v1, "v1").unwrap(), Image::parse(v2, "v2").unwrap());
    let (types, unknown) = image::layouts(&a, &b).unwrap();
    assert_eq!(unknown, None);
    types.into_iter().map(|change| change.name).collect()
}

#[test]
fn split_dwarf_is_refused() {
    let whole = built::build(SOURCE, "");
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let split = built::build_with(SOURCE, &format!("{version} -gsplit-dwarf"), "");
        for (v1, v2) in [(&split, &whole), (&whole, &split)] {
            let (a, b) = (Image::parse(v1, "one").unwrap(), Image::parse(v2, "other").unwrap());
            let error = image::layouts(&a, &b).unwrap_err().to_string();
            assert!(error.contains("split DWARF: the types are in a .dwo file"), "{error}");
            let name = if v1 == &split { "one" } else { "other" };
            assert!(error.contains(name), "{error}");
        }
    }
}

#[test]
fn compressed_debug_information_says_the_same() {
    let plain = built::build(&source(0, false), "");
    for how in ["zlib", "zstd"] {
        let build = |lines, wider| {
            let linker = format!("--compress-debug-sections={how}");
            built::build(&source(lines, wider), &linker)
        };
        let v1 = build(0, false);
        // Elf64_Chdr.ch_type: ELFCOMPRESS_ZLIB is 1, ELFCOMPRESS_ZSTD 2.
        assert_eq!(compressed(&v1).first().map(|at| v1[*at]), Some(1 + u8::from(how == "zstd")));
        assert_eq!(types(&plain, &v1), [""; 0], "{how}");
        assert_eq!(types(&v1, &build(3, true)), ["held", "holder", "outer"], "{how}");
        assert_eq!(built::changed(&v1, &build(3, false)), [""; 0], "{how}");
        assert_eq!(built::changed(&plain, &build(3, false)), [""; 0], "{how}");
    }
}

/// Where the compressed sections of an image begin (`SHF_COMPRESSED`, gABI, chapter 4).
fn compressed(image: &[u8]) -> Vec<usize> {
    let number = |at: usize, len: usize| {
        let mut value = [0; 8];
        value[..len].copy_from_slice(&image[at..at + len]);
        usize::try_from(u64::from_le_bytes(value)).unwrap()
    };
    let (headers, count) = (number(40, 8), number(60, 2));
    let headers = (0..count).map(|index| headers + index * 64);
    headers.filter(|at| number(at + 8, 8) & 0x800 != 0).map(|at| number(at + 24, 8)).collect()
}

#[test]
fn compressed_sections_that_lie_are_refused() {
    let good = built::build(SOURCE, "--compress-debug-sections=zlib");
    let places = compressed(&good);
    assert!(places.len() > 3, "{places:?}");
    let reference = Image::parse(&good, "good").unwrap();
    for at in places {
        // ch_type, and ch_size: beyond reason, and other than what is there.
        for (at, value) in [(at, 77), (at + 8 + 7, 0x7f), (at + 8 + 2, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            let error = Image::parse(&bad, "bad").unwrap_err().to_string();
            assert!(error.contains("bad") && error.contains(".debug"), "{error}");
        }
        for offset in (24..120).step_by(5) {
            let mut bad = good.clone();
            bad[at + offset] ^= 0xff;
            if let Ok(image) = Image::parse(&bad, "flipped") {
                let _ = image::contents(&reference, &image);
                let _ = image::layouts(&image, &reference);
            }
        }
    }
}
