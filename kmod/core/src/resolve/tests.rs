//! What is found, and what is refused with which words.

use dynamos_abi::SiteKind::{Abs32S, JumpLabel, Pc32};
use dynamos_abi::{NONE, RecordWriter, symbol_flags::*};
use proptest::prelude::*;

use super::*;
use crate::testing::{Build, Kernel, S, branch, site, with_record};

const TEXT: u64 = 0xffff_ffff_8100_0000;
const DATA: u64 = 0xffff_ffff_8200_0000;

/// `call symbol` at the start of a function, then `ret`.
const CALL_RET: [u8; 6] = [0xe8, 0, 0, 0, 0, 0xc3];

fn call_of(symbol: u32) -> [S; 1] {
    [site(1, 4, Pc32).of(symbol, -4)]
}

fn call_ret(from: u64, to: u64) -> Vec<u8> {
    let mut bytes = branch(0xe8, from, to);
    bytes.push(0xc3);
    bytes
}

fn outcome(build: Build, kernel: &mut Kernel) -> Result<Resolved, String> {
    outcome_within(build.finish("update"), kernel, Budget::LOAD)
}

fn outcome_within(
    bytes: Vec<u8>,
    kernel: &mut Kernel,
    mut budget: Budget,
) -> Result<Resolved, String> {
    let names = kernel.clone();
    with_record(&bytes, |record| {
        resolve(record, &names, kernel, &mut budget).map_err(|refusal| refusal.to_string())
    })
}

/// Two functions of one name whose code differs.
#[test]
fn the_one_that_matches_is_taken() {
    let (mut build, mut kernel) = (Build::new(), Kernel::default());
    let f = build.function("show", 0, &[0x31, 0xc0, 0xc3], &[]);
    kernel.put(TEXT, &[0x31, 0xd2, 0xc3]);
    kernel.put(TEXT + 0x100, &[0x31, 0xc0, 0xc3]);
    kernel.name(f, &[TEXT, TEXT + 0x100]);
    let resolved = outcome(build, &mut kernel).unwrap();
    assert_eq!(resolved.functions, [TEXT + 0x100]);
    assert_eq!(resolved.symbols, [Some(TEXT + 0x100)]);
}

#[test]
fn none_that_matches_is_refused_with_the_closest() {
    let (mut build, mut kernel) = (Build::new(), Kernel::default());
    let f = build.function("show", 0, &[0x31, 0xc0, 0xc3], &[]);
    kernel.put(TEXT, &[0x31, 0xc0, 0x90]);
    kernel.put(TEXT + 0x100, &[0x33, 0xc0, 0xc3]);
    kernel.name(f, &[TEXT, TEXT + 0x100]);
    let text = outcome(build, &mut kernel).unwrap_err();
    assert_eq!(
        text,
        "function `show` of `vmlinux` is not the one compared: at +0x2 the build has c3, the kernel 90 \
         (the closest of 2 of that name); an update fits only the build it was made for, and no other \
         patch"
    );
}

#[test]
fn a_function_that_is_not_there_is_refused() {
    let (mut build, mut kernel) = (Build::new(), Kernel::default());
    build.function("gone", 0, &[0xc3], &[]);
    let text = outcome(build, &mut kernel).unwrap_err();
    assert!(text.starts_with("function `gone` is not in `vmlinux`"), "{text}");
}

/// Two functions of one name and one code, in a kernel where a caller knows which is meant.
fn twins(with_caller: bool) -> (Build, Kernel) {
    let (mut build, mut kernel) = (Build::new(), Kernel::default());
    let twin = build.function("twin", 0, &[0x31, 0xc0, 0xc3], &[]);
    for address in [TEXT, TEXT + 0x100] {
        kernel.put(address, &[0x31, 0xc0, 0xc3]);
    }
    kernel.name(twin, &[TEXT, TEXT + 0x100]);
    if with_caller {
        let caller = build.function("caller", 0, &CALL_RET, &call_of(twin));
        kernel.put(TEXT + 0x200, &call_ret(TEXT + 0x200, TEXT + 0x100));
        kernel.name(caller, &[TEXT + 0x200]);
    }
    (build, kernel)
}

#[test]
fn a_caller_tells_twins_apart() {
    let (build, mut kernel) = twins(true);
    assert_eq!(outcome(build, &mut kernel).unwrap().functions, [TEXT + 0x100, TEXT + 0x200]);
    let (build, mut kernel) = twins(false);
    let text = outcome(build, &mut kernel).unwrap_err();
    assert!(text.starts_with("2 functions `twin` of `vmlinux` have the same code"), "{text}");
}

/// Twins that refer to different variables, one of which is known from elsewhere.
#[test]
fn what_they_refer_to_tells_twins_apart() {
    let (mut build, mut kernel) = (Build::new(), Kernel::default());
    let state = build.symbol("state", 0);
    let code = [0x48, 0xc7, 0xc7, 0, 0, 0, 0, 0xc3];
    let sites = [site(3, 4, Abs32S).of(state, 0)];
    let twin = build.function("twin", 0, &code, &sites);
    let anchor = build.function(
        "anchor",
        0,
        &[&[0x90], &code[..]].concat(),
        &[site(4, 4, Abs32S).of(state, 0)],
    );
    let with = |value: u64| {
        let mut bytes = code.to_vec();
        bytes[3..7].copy_from_slice(&(value as u32).to_le_bytes());
        bytes
    };
    kernel.put(TEXT, &with(DATA));
    kernel.put(TEXT + 0x100, &with(DATA + 8));
    kernel.put(TEXT + 0x200, &[&[0x90], &with(DATA + 8)[..]].concat());
    kernel.name(twin, &[TEXT, TEXT + 0x100]);
    kernel.name(anchor, &[TEXT + 0x200]);
    kernel.name(state, &[DATA, DATA + 8]);
    let resolved = outcome(build, &mut kernel).unwrap();
    assert_eq!(resolved.functions, [TEXT + 0x100, TEXT + 0x200]);
    assert_eq!(resolved.symbols[0], Some(DATA + 8));
}

#[test]
fn a_fragment_is_found_through_its_parent() {
    let mut build = Build::new();
    let mut kernel = Kernel::default();
    let cold = build.function("f.cold", function_flags::FRAGMENT, &[0x0f, 0x0b], &[]);
    let f = build.function("f", 0, &[0x0f, 0x1f, 0x44, 0, 0], &[site(0, 5, JumpLabel).of(cold, 0)]);
    kernel.put(TEXT, &branch(0xe9, TEXT, TEXT + 0x900));
    kernel.put(TEXT + 0x900, &[0x0f, 0x0b]);
    kernel.name(f, &[TEXT]);
    kernel.name(cold, &[TEXT + 0x800, TEXT + 0x900]);
    assert_eq!(outcome(build, &mut kernel).unwrap().functions, [TEXT + 0x900, TEXT]);

    let mut build = Build::new();
    build.function("f.cold", function_flags::FRAGMENT, &[0x0f, 0x0b], &[]);
    let text = outcome(build, &mut kernel).unwrap_err();
    assert!(text.contains("no matched function refers to `f.cold`"), "{text}");
}

#[test]
fn contradictions_are_refused() {
    // Two callers that call different functions as `callee`.
    let (mut build, mut kernel) = (Build::new(), Kernel::default());
    let callee = build.symbol("callee", FUNCTION);
    for (index, to) in [(0u64, 0x800), (1, 0x900)] {
        let at = TEXT + 0x100 * index;
        let name = ["one", "two"][index as usize];
        let caller = build.function(name, 0, &CALL_RET, &call_of(callee));
        kernel.put(at, &call_ret(at, TEXT + to));
        kernel.name(caller, &[at]);
    }
    let text = outcome(build, &mut kernel).unwrap_err();
    assert!(text.starts_with("`one` and `two` refer to different things as `callee`"), "{text}");
}

#[test]
fn what_is_referred_to_must_have_the_name() {
    let run = |flags: u32, candidates: &[u64]| {
        let (mut build, mut kernel) = (Build::new(), Kernel::default());
        let callee = build.symbol("callee", FUNCTION | flags);
        let caller = build.function("caller", 0, &CALL_RET, &call_of(callee));
        kernel.put(TEXT, &call_ret(TEXT, TEXT + 0x800));
        kernel.name(caller, &[TEXT]);
        kernel.name(callee, candidates);
        outcome(build, &mut kernel)
    };
    assert!(run(0, &[TEXT + 0x700, TEXT + 0x800]).is_ok());
    assert!(run(0, &[]).is_ok(), "kallsyms does not know the name");
    assert!(run(ANONYMOUS, &[TEXT + 0x700]).is_ok());
    let text = run(0, &[TEXT + 0x700]).unwrap_err();
    assert!(text.starts_with("what `caller` refers to as `callee` has no such name"), "{text}");
}

#[test]
fn a_needed_symbol_must_be_unique() {
    let run = |flags: u32, candidates: &[u64]| {
        let (mut build, mut kernel) = (Build::new(), Kernel::default());
        let symbol = build.symbol("counter", flags);
        kernel.name(symbol, candidates);
        outcome(build, &mut kernel)
    };
    assert_eq!(run(NEEDED, &[DATA]).unwrap().symbols, [Some(DATA)]);
    assert_eq!(run(0, &[DATA]).unwrap().symbols, [None], "not needed");
    for (flags, candidates, wanted) in [
        (NEEDED, &[][..], "`counter`, which the update needs, is not in `vmlinux`"),
        (NEEDED, &[DATA, DATA + 8], "2 symbols of `vmlinux` are named `counter`"),
        (NEEDED | ANONYMOUS, &[DATA], "no matched function refers to `counter`"),
    ] {
        let text = run(flags, candidates).unwrap_err();
        assert!(text.starts_with(wanted), "{text}");
    }
}

#[test]
fn one_function_under_two_names_is_refused() {
    let (mut build, mut kernel) = (Build::new(), Kernel::default());
    for name in ["one", "alias"] {
        let f = build.function(name, 0, &[0x31, 0xc0, 0xc3], &[]);
        kernel.name(f, &[TEXT]);
    }
    kernel.put(TEXT, &[0x31, 0xc0, 0xc3]);
    let text = outcome(build, &mut kernel).unwrap_err();
    assert!(text.starts_with("functions `one` and `alias`"), "{text}");
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let (mut build, mut kernel) = (Build::new(), Kernel::default());
    let f = build.function("f", 0, &[0xc3], &[]);
    kernel.name(f, &[TEXT]);
    assert!(outcome(build, &mut kernel).is_err());
}

/// A forged record: many twins that no round tells apart, but each round finds one more function.
#[test]
fn work_is_bounded() {
    let mut build = Build::new();
    let mut kernel = Kernel::default();
    let code = [0x90u8; 64];
    let candidates: Vec<u64> = (0..200).map(|index| TEXT + 0x100 * index).collect();
    candidates.iter().for_each(|at| kernel.put(*at, &code));
    for index in 0..200 {
        let f = build.function(&format!("f{index}"), 0, &code, &[]);
        kernel.name(f, &candidates);
    }
    let text =
        outcome_within(build.finish("update"), &mut kernel, Budget::new(100_000)).unwrap_err();
    assert!(text.contains("more work than an honest one"), "{text}");
}

proptest! {
    /// Functions in random places, calling each other: all are found where they are, in any order.
    #[test]
    fn finds_everything(
        calls in proptest::collection::vec(0usize..12, 12),
        order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        decoys in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let (mut build, mut kernel) = (Build::new(), Kernel::default());
        let at = |function: usize| TEXT + 0x1000 * function as u64;
        // Function n starts with n NOPs, so that a decoy (another body) differs.
        let symbols: Vec<u32> =
            (0..12).map(|index| build.symbol(&format!("f{index}"), FUNCTION)).collect();
        for &index in &order {
            let mut expected = vec![0x90; index];
            let mut running = expected.clone();
            expected.extend(CALL_RET);
            running.extend(call_ret(at(index) + index as u64, at(calls[index])));
            let sites = [site(index as u32 + 1, 4, Pc32).of(symbols[calls[index]], -4)];
            build.function_of(symbols[index], 0, &expected, &sites);
            kernel.put(at(index), &running);
            let mut candidates = vec![at(index)];
            if decoys[index] {
                let decoy = at(index) + 0x800;
                let mut body = running.clone();
                *body.last_mut().unwrap() = 0xcb;
                kernel.put(decoy, &body);
                candidates.push(decoy);
            }
            kernel.name(symbols[index], &candidates);
        }
        let resolved = outcome(build, &mut kernel).unwrap();
        let wanted: Vec<u64> = order.iter().map(|&index| at(index)).collect();
        prop_assert_eq!(resolved.functions, wanted);
    }
}

/// The collector of candidates keeps to objects, and lets an exported symbol be anywhere.
#[test]
fn candidates_keep_to_their_object() {
    use crate::candidates::Candidates;
    let mut writer = RecordWriter::default();
    for object in ["vmlinux", "ext4"] {
        let name = writer.str(object);
        writer.objects.push(dynamos_abi::Object { name });
    }
    for (name, object, flags) in [
        ("init", 0, FUNCTION),
        ("init", 1, FUNCTION),
        ("kfree", NONE, EXPORTED),
        ("x", 0, ANONYMOUS),
    ] {
        let name = writer.str(name);
        writer.symbols.push(dynamos_abi::Symbol { name, object, flags, placeholder: NONE });
    }
    let bytes = writer.finish("update", "6.1", "").unwrap();
    with_record(&bytes, |record| {
        let mut candidates = Candidates::new(record).unwrap();
        for (object, name, address) in [
            ("vmlinux", "init", 20),
            ("vmlinux", "init", 10),
            ("vmlinux", "init", 10),
            ("ext4", "init", 30),
            ("xfs", "init", 40),
            ("xfs", "kfree", 50),
            ("vmlinux", "x", 60),
            ("vmlinux", "other", 70),
        ] {
            candidates.offer(object, name, address);
        }
        let found = candidates.finish().unwrap();
        let all: Vec<&[u64]> = (0..5).map(|index| found.candidates(index)).collect();
        assert_eq!(all, [&[10, 20][..], &[30], &[50], &[], &[]]);
    });
}
