//! Each form that the kernel makes of a site, accepted and refused.

use dynamos_abi::SiteKind::*;
use proptest::prelude::*;

use super::*;
use crate::testing::{Build, Kernel, S, branch, site, with_record};

const AT: u64 = 0xffff_ffff_8110_0000;

type Outcome = Result<(Matched, Vec<(u32, u64)>), Mismatch>;

/// Matches a function of `expected` bytes and `sites` whose bytes in memory are `running`.
fn matched_in(kernel: &mut Kernel, expected: &[u8], sites: &[S], running: &[u8]) -> Outcome {
    let mut build = Build::new();
    for symbol in ["first", "second"] {
        build.symbol(symbol, 0);
    }
    build.function("function", 0, expected, sites);
    let bytes = build.finish("update");
    with_record(&bytes, |record| {
        let function = record.functions().get(0).unwrap();
        let mut derived = vec![];
        let mut budget = Budget::new(100_000);
        let sink = &mut |symbol, value| derived.push((symbol, value));
        match_function(record, &function, AT, running, kernel, &mut budget, sink)
            .map(|matched| (matched, derived))
    })
}

fn matched(expected: &[u8], sites: &[S], running: &[u8]) -> Outcome {
    matched_in(&mut Kernel::default(), expected, sites, running)
}

/// Matches one site that is the whole function.
fn one(kind: SiteKind, addend: i64, expected: &[u8], running: &[u8]) -> bool {
    let sites = [site(0, expected.len() as u16, kind).addend(addend)];
    matched(expected, &sites, running).is_ok()
}

#[test]
fn plain_bytes_must_be_equal() {
    assert!(matched(&[0x55, 0xc3], &[], &[0x55, 0xc3]).is_ok());
    let mismatch = matched(&[0x55, 0xc3], &[], &[0x55, 0xcc]).unwrap_err();
    assert_eq!((mismatch.offset, mismatch.what), (1, What::Byte));
    let text = mismatch.to_string();
    assert_eq!(
        text,
        "at +0x1 the build has c3, the kernel cc; it is a breakpoint: remove the kprobe"
    );
    assert!(matched(&[0x55], &[], &[]).is_err());
}

#[test]
fn fields_give_addresses() {
    let mut running = vec![0x90; 29];
    running[1..9].copy_from_slice(&0xffff_ffff_8200_0010u64.to_le_bytes());
    running[9..13].copy_from_slice(&0xf000_0010u32.to_le_bytes());
    running[13..17].copy_from_slice(&0x8200_0010u32.to_le_bytes());
    running[17..21].copy_from_slice(&(-0x100i32).to_le_bytes());
    running[21..29].copy_from_slice(&0x100u64.to_le_bytes());
    let sites = [
        site(1, 8, Abs64).of(0, 0x10),
        site(9, 4, Abs32).of(1, 0x10),
        site(13, 4, Abs32S).of(0, 0x10),
        site(17, 4, Pc32).of(1, -4),
        site(21, 8, Pc64).of(1, -8),
    ];
    let (_, derived) = matched(&[0x90; 29], &sites, &running).unwrap();
    assert_eq!(
        derived,
        [
            (0, 0xffff_ffff_8200_0000),
            (1, 0xf000_0000),
            (0, 0xffff_ffff_8200_0000),
            (1, AT + 17 + 4 - 0x100),
            (1, AT + 21 + 8 + 0x100),
        ]
    );
}

#[test]
fn a_per_cpu_variable_is_an_offset() {
    // `%gs:0x1f0c0(%rip)`: the displacement wraps round.
    let offset = 0x1f0c0u64;
    let running = (offset.wrapping_sub(AT + 4) as u32).to_le_bytes();
    let (_, derived) = matched(&[0; 4], &[site(0, 4, Pc32).of(0, -4)], &running).unwrap();
    assert_eq!(derived, [(0, offset)]);
}

#[test]
fn data_must_be_equal() {
    let text = 0xffff_ffff_8200_0100u64;
    let mut kernel = Kernel::default();
    let long: Vec<u8> = (0..150).collect();
    kernel.put(text, &long);
    let running = (text as u32).to_le_bytes();
    let run = |kernel: &mut Kernel, data: &[u8]| {
        let sites = [site(0, 4, Abs32S).of(0, 0).data(data)];
        matched_in(kernel, &[0; 4], &sites, &running).map_err(|mismatch| mismatch.what)
    };
    assert!(run(&mut kernel, &long).is_ok());
    let mut other = long.clone();
    other[149] ^= 1;
    assert_eq!(run(&mut kernel, &other).unwrap_err(), What::Data);
    assert_eq!(run(&mut Kernel::default(), &long).unwrap_err(), What::Unmapped);
}

#[test]
fn ftrace_sites() {
    let original = [0xe8, 0, 0, 0, 0];
    let sites = [site(0, 5, Fentry)];
    for nop in [[0x0f, 0x1f, 0x44, 0, 0], [0x66, 0x66, 0x66, 0x66, 0x90]] {
        assert_eq!(matched(&original, &sites, &nop).unwrap().0.traced, None);
    }
    let call = branch(0xe8, AT, AT + 0x1000);
    assert_eq!(matched(&original, &sites, &call).unwrap().0.traced, Some(AT + 0x1000));
    let mismatch = matched(&original, &sites, &[0xcc, 0x1f, 0x44, 0, 0]).unwrap_err();
    assert!(mismatch.to_string().contains("breakpoint"), "{mismatch}");
    assert!(matched(&original, &sites, &[0xe9, 0, 0, 0, 0]).is_err());
}

#[test]
fn static_calls() {
    let call = [0xe8, 1, 2, 3, 4];
    for running in [
        [0xe8, 9, 9, 9, 9],
        [0x0f, 0x1f, 0x44, 0, 0],
        [0x2e, 0x2e, 0x2e, 0x31, 0xc0],
        [0x66, 0x66, 0x48, 0x31, 0xc0],
    ] {
        assert!(one(StaticCall, 0, &call, &running), "{running:x?}");
    }
    for running in [[0xe9, 9, 9, 9, 9], [0xc3, 0xcc, 0xcc, 0xcc, 0xcc], [0xcc, 1, 2, 3, 4]] {
        assert!(!one(StaticCall, 0, &call, &running), "{running:x?}");
    }
    let jump = [0xe9, 1, 2, 3, 4];
    assert!(one(StaticCall, 0, &jump, &[0xe9, 9, 9, 9, 9]));
    assert!(one(StaticCall, 0, &jump, &[0xc3, 0xcc, 0xcc, 0xcc, 0xcc]));
    assert!(!one(StaticCall, 0, &jump, &[0xc3, 0xcc, 0xcc, 0xcc, 0x90]));
    assert!(!one(StaticCall, 0, &jump, &[0x0f, 0x1f, 0x44, 0, 0]));
    let jcc = [0x0f, 0x84, 1, 2, 3, 4];
    assert!(one(StaticCall, 0, &jcc, &[0x0f, 0x84, 9, 9, 9, 9]));
    assert!(!one(StaticCall, 0, &jcc, &[0x0f, 0x85, 9, 9, 9, 9]));
}

#[test]
fn static_keys() {
    let original = [0xeb, 0x10, 0x0f, 0x1f, 0x44, 0, 0];
    let sites = [site(0, 2, JumpLabel).addend(0x12), site(2, 5, JumpLabel).addend(0x100)];
    let mut running = original;
    assert!(matched(&original, &sites, &running).is_ok());
    running[..2].copy_from_slice(&[0x66, 0x90]);
    running[2..].copy_from_slice(&branch(0xe9, AT + 2, AT + 0x100));
    assert!(matched(&original, &sites, &running).is_ok());
    running[3] ^= 1;
    assert_eq!(matched(&original, &sites, &running).unwrap_err().what, What::Target);
    running[..2].copy_from_slice(&[0xeb, 0x11]);
    assert_eq!(matched(&original, &sites, &running).unwrap_err().what, What::Target);
    running[..2].copy_from_slice(&[0x74, 0x10]);
    assert!(matched(&original, &sites, &running).is_err());
}

#[test]
fn a_static_keys_jump_gives_the_part_it_goes_to() {
    let sites = [site(0, 5, JumpLabel).of(1, 8)];
    let jump = branch(0xe9, AT, AT + 0x9008);
    let (_, derived) = matched(&[0x0f, 0x1f, 0x44, 0, 0], &sites, &jump).unwrap();
    assert_eq!(derived, [(1, AT + 0x9000)]);
    let nop = [0x0f, 0x1f, 0x44, 0, 0];
    assert_eq!(matched(&nop, &sites, &nop).unwrap().1, []);
}

#[test]
fn returns() {
    let jump = [0xe9, 0, 0, 0, 0];
    assert!(one(ReturnThunk, 0, &jump, &[0xe9, 1, 2, 3, 4]));
    assert!(one(ReturnThunk, 0, &jump, &[0xc3, 0xcc, 0xcc, 0xcc, 0xcc]));
    assert!(!one(ReturnThunk, 0, &jump, &[0xc3, 0x90, 0x90, 0x90, 0x90]));
    assert!(!one(ReturnThunk, 0, &jump, &[0xe8, 1, 2, 3, 4]));
}

#[test]
fn retpolines() {
    let call = [0xe8, 0, 0, 0, 0];
    for (register, running) in [
        (0, [0xe8, 9, 9, 9, 9]),
        (0, [0xff, 0xd0, 0x0f, 0x1f, 0x00]),
        (0, [0xff, 0xd0, 0x90, 0x90, 0x90]),
        (3, [0x0f, 0xae, 0xe8, 0xff, 0xd3]),
        (11, [0x41, 0xff, 0xd3, 0x66, 0x90]),
    ] {
        assert!(one(Retpoline, register, &call, &running), "{running:x?}");
    }
    for (register, running) in [
        (1, [0xff, 0xd0, 0x0f, 0x1f, 0x00]),
        (0, [0xff, 0xe0, 0xcc, 0x66, 0x90]),
        (8, [0xff, 0xd0, 0x0f, 0x1f, 0x00]),
        (4, [0xe8, 0, 0, 0, 0]),
        (16, [0xe8, 0, 0, 0, 0]),
        (0, [0xff, 0xd0, 0x0f, 0x1f, 0x40]),
    ] {
        assert!(!one(Retpoline, register, &call, &running), "{running:x?}");
    }
    let jump = [0xe9, 0, 0, 0, 0];
    assert!(one(Retpoline, 2, &jump, &[0xe9, 9, 9, 9, 9]));
    assert!(one(Retpoline, 2, &jump, &[0xff, 0xe2, 0xcc, 0x66, 0x90]));
    assert!(one(Retpoline, 2, &jump, &[0x0f, 0xae, 0xe8, 0xff, 0xe2]));
    assert!(one(Retpoline, 10, &jump, &[0x41, 0xff, 0xe2, 0xcc, 0x90]));
    assert!(!one(Retpoline, 2, &jump, &[0xff, 0xe2, 0x90, 0x66, 0x90]));
}

#[test]
fn retpolines_with_a_prefix_and_conditional_ones() {
    let call = [0x2e, 0xe8, 0, 0, 0, 0];
    assert!(one(Retpoline, 11, &call, &[0x2e, 0xe8, 9, 9, 9, 9]));
    assert!(one(Retpoline, 11, &call, &[0x41, 0xff, 0xd3, 0x0f, 0x1f, 0x00]));
    assert!(one(Retpoline, 11, &call, &[0x0f, 0xae, 0xe8, 0x41, 0xff, 0xd3]));
    assert!(!one(Retpoline, 11, &call, &[0x2e, 0xe9, 9, 9, 9, 9]));
    let jump = [0x2e, 0xe9, 0, 0, 0, 0];
    assert!(one(Retpoline, 11, &jump, &[0x41, 0xff, 0xe3, 0xcc, 0x66, 0x90]));
    let jcc = [0x0f, 0x85, 0, 0, 0, 0];
    assert!(one(Retpoline, 11, &jcc, &[0x0f, 0x85, 9, 9, 9, 9]));
    assert!(one(Retpoline, 11, &jcc, &[0x74, 0x04, 0x41, 0xff, 0xe3, 0xcc]));
    assert!(!one(Retpoline, 11, &jcc, &[0x75, 0x04, 0x41, 0xff, 0xe3, 0xcc]));
}

#[test]
fn endbr_and_lock() {
    let endbr = [0xf3, 0x0f, 0x1e, 0xfa];
    assert!(one(Endbr, 0, &endbr, &endbr));
    assert!(one(Endbr, 0, &endbr, &[0x66, 0x0f, 0x1f, 0x00]));
    assert!(one(Endbr, 0, &endbr, &[0x0f, 0x1f, 0x40, 0xd6]));
    assert!(!one(Endbr, 0, &endbr, &[0x0f, 0x1f, 0x40, 0x00]));
    assert!(one(SmpLock, 0, &[0xf0], &[0xf0]) && one(SmpLock, 0, &[0xf0], &[0x3e]));
    assert!(!one(SmpLock, 0, &[0xf0], &[0x90]));
}

#[test]
fn paravirtual_calls() {
    // call *pv_ops+0x10
    let original = [0xff, 0x14, 0x25, 0, 0, 0, 0];
    let sites = [site(0, 7, Paravirt), site(3, 4, Abs32S).of(0, 0x10)];
    let run = |running: &[u8]| matched(&original, &sites, running);
    let (_, derived) = run(&[0xff, 0x14, 0x25, 0x10, 0, 0, 0x82]).unwrap();
    assert_eq!(derived, [(0, 0xffff_ffff_8200_0000)]);
    assert_eq!(run(&[0xe8, 1, 2, 3, 4, 0x66, 0x90]).unwrap().1, []);
    assert!(run(&[0x0f, 0x1f, 0x80, 0, 0, 0, 0]).is_ok());
    assert!(run(&[0xe8, 1, 2, 3, 4, 0x66, 0x91]).is_err());
    assert!(run(&[0xff, 0x15, 0x25, 0x10, 0, 0, 0x82]).is_err());
}

/// `stac`/`clac`: nothing, or a feature's instruction.
#[test]
fn an_alternative_of_padding() {
    let original = [0x90, 0x90, 0x90];
    let sites = [site(0, 3, Alternative).or(&[0x0f, 0x01, 0xcb], &[])];
    for running in [[0x90, 0x90, 0x90], [0x0f, 0x1f, 0x00], [0x0f, 0x01, 0xcb]] {
        assert!(matched(&original, &sites, &running).is_ok(), "{running:x?}");
    }
    let mismatch = matched(&original, &sites, &[0x0f, 0x01, 0xca]).unwrap_err();
    assert_eq!(mismatch.what, What::Form("an alternative"));
}

#[test]
fn a_nop_in_an_immediate_is_none() {
    // mov $0x90909090, %eax; three bytes of padding
    let original = [0xb8, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90];
    let sites = [site(0, 8, Alternative)];
    let good = [0xb8, 0x90, 0x90, 0x90, 0x90, 0x0f, 0x1f, 0x00];
    let bad = [0xb8, 0x90, 0x90, 0x0f, 0x1f, 0x44, 0x00, 0x00];
    assert!(matched(&original, &sites, &good).is_ok());
    assert!(matched(&original, &sites, &bad).is_err());
}

#[test]
fn long_padding_is_filled_or_jumped_over() {
    let original = [0x90; 20];
    let sites = [site(0, 20, Alternative).or(&[0x0f, 0xae, 0xe8], &[])];
    let eight = [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
    let filled = [&eight[..], &eight, &[0x0f, 0x1f, 0x40, 0]].concat();
    let mut jumped = vec![0xcc; 20];
    jumped[..2].copy_from_slice(&[0xeb, 18]);
    let mut replaced = vec![0xcc; 20];
    replaced[..5].copy_from_slice(&[0x0f, 0xae, 0xe8, 0xeb, 15]);
    for running in [&filled, &jumped, &replaced] {
        assert!(matched(&original, &sites, running).is_ok(), "{running:x?}");
    }
    jumped[1] = 17;
    assert!(matched(&original, &sites, &jumped).is_err());
}

#[test]
fn a_call_in_an_alternative() {
    // `call clear_page_orig` or `call clear_page_rep`, and one with a jump.
    let original = [0xe8, 0, 0, 0, 0];
    let sites = [
        site(0, 5, Alternative).or(&[0xe8, 7, 7, 7, 7], &[1]).or(&[0xe9, 7, 7, 7, 7], &[1]),
        site(1, 4, Pc32).of(0, -4),
    ];
    // A `call` may be the original's or the replacement's: its target is no address of the original's symbol.
    for running in [
        [0xe8, 1, 2, 3, 4],
        [0xe9, 1, 2, 3, 4],
        [0xeb, 0x10, 0x0f, 0x1f, 0x00],
        [0xeb, 0x10, 0xcc, 0xcc, 0xcc],
    ] {
        assert_eq!(matched(&original, &sites, &running).unwrap().1, [], "{running:x?}");
    }
    assert!(matched(&original, &sites, &[0xeb, 0x10, 0x90, 0xcc, 0xcc]).is_err());
}

#[test]
fn an_alternative_that_is_the_original_gives_addresses() {
    let sites = [site(0, 5, Alternative).or(&[0xf3, 0x48, 0xab], &[]), site(1, 4, Pc32).of(0, -4)];
    let run = |running: &[u8]| matched(&[0xe8, 0, 0, 0, 0], &sites, running).unwrap().1;
    assert_eq!(run(&branch(0xe8, AT, AT + 0x500)), [(0, AT + 0x500)]);
    assert_eq!(run(&[0xf3, 0x48, 0xab, 0x66, 0x90]), []);
}

#[test]
fn a_paravirtual_call_in_an_alternative() {
    // 6.1: ALTERNATIVE(PARAVIRT_CALL, "cli", …); 6.12: ALT_FLAG_DIRECT_CALL.
    let original = [0xff, 0x14, 0x25, 0, 0, 0, 0];
    for order in [[0, 1], [1, 0]] {
        let both = [site(0, 7, Alternative).or(&[0xfa], &[]), site(0, 7, Paravirt)];
        let mut sites: Vec<S> = order.iter().map(|&index: &usize| both[index].clone()).collect();
        sites.push(site(3, 4, Abs32S).of(0, 0));
        let running = [0xfa, 0x66, 0x0f, 0x1f, 0x44, 0, 0];
        assert!(matched(&original, &sites, &running).is_ok());
        assert!(matched(&original, &sites, &[0xe8, 1, 2, 3, 4, 0x66, 0x90]).is_ok());
        assert!(matched(&original, &sites, &[0xfb, 0x66, 0x0f, 0x1f, 0x44, 0, 0]).is_err());
    }
    let original = [0xff, 0x15, 0, 0, 0, 0];
    let sites = [site(0, 6, Alternative).or(&[0xe8, 0, 0, 0, 0], &[1]), site(2, 4, Pc32).of(0, -4)];
    assert!(matched(&original, &sites, &[0xe8, 1, 2, 3, 4, 0x90]).is_ok());
    assert!(matched(&original, &sites, &[0x66, 0x0f, 0x1f, 0x44, 0, 0]).is_ok());
}

/// 6.12: `ALTERNATIVE_2` is two entries at one place, the outer one longer.
#[test]
fn nested_alternatives() {
    let original = [0xfa, 0x90, 0x90, 0x90, 0x90];
    let sites = [
        site(0, 3, Alternative).or(&[0x0f, 0x01, 0xcb], &[]),
        site(0, 5, Alternative).or(&[0xfb, 0x0f, 0x01, 0xca, 0xf4], &[]),
    ];
    for running in [
        [0xfa, 0x0f, 0x1f, 0x40, 0x00],
        [0x0f, 0x01, 0xcb, 0x66, 0x90],
        [0xfb, 0x0f, 0x01, 0xca, 0xf4],
    ] {
        assert!(matched(&original, &sites, &running).is_ok(), "{running:x?}");
    }
    assert!(matched(&original, &sites, &[0x0f, 0x01, 0xcb, 0x66, 0x91]).is_err());
}

#[test]
fn sites_that_contradict_each_other_are_refused() {
    let original = [0; 12];
    let fields = [site(0, 4, Abs32).of(0, 0), site(2, 4, Abs32).of(0, 0)];
    assert!(matches!(matched(&original, &fields, &original).unwrap_err().what, What::Record(_)));
    let twice = [site(0, 4, Abs32).of(0, 0), site(0, 4, Abs32S).of(0, 0)];
    assert!(matches!(matched(&original, &twice, &original).unwrap_err().what, What::Record(_)));
    let deep: Vec<S> = (0..6).map(|at| site(at, 12 - 2 * at as u16, Alternative)).collect();
    assert!(matches!(matched(&original, &deep, &original).unwrap_err().what, What::Record(_)));
}

/// One piece of a function: the `pre` build's bytes, its sites (offsets within the piece), what the kernel may
/// have made of it.
type Piece = (&'static [u8], fn(u32) -> Vec<S>, &'static [&'static [u8]]);

const PIECES: [Piece; 9] = [
    (&[0x48, 0x89, 0xe5], |_| vec![], &[&[0x48, 0x89, 0xe5]]),
    (&[0x31, 0xc0], |_| vec![], &[&[0x31, 0xc0]]),
    (
        &[0xe8, 0, 0, 0, 0],
        |at| vec![site(at, 5, StaticCall)],
        &[&[0xe8, 1, 2, 3, 4], &[0x0f, 0x1f, 0x44, 0, 0], &[0x2e, 0x2e, 0x2e, 0x31, 0xc0]],
    ),
    (
        &[0xe9, 0, 0, 0, 0],
        |at| vec![site(at, 5, ReturnThunk)],
        &[&[0xe9, 4, 3, 2, 1], &[0xc3, 0xcc, 0xcc, 0xcc, 0xcc]],
    ),
    (
        &[0xe8, 0, 0, 0, 0],
        |at| vec![site(at, 5, Retpoline).addend(1)],
        &[&[0xe8, 1, 1, 1, 1], &[0xff, 0xd1, 0x0f, 0x1f, 0x00]],
    ),
    (
        &[0x90, 0x90, 0x90],
        |at| vec![site(at, 3, Alternative).or(&[0x0f, 0x01, 0xca], &[])],
        &[&[0x90, 0x90, 0x90], &[0x0f, 0x1f, 0x00], &[0x0f, 0x01, 0xca]],
    ),
    (&[0xf0], |at| vec![site(at, 1, SmpLock)], &[&[0xf0], &[0x3e]]),
    (
        &[0xf3, 0x0f, 0x1e, 0xfa],
        |at| vec![site(at, 4, Endbr)],
        &[&[0xf3, 0x0f, 0x1e, 0xfa], &[0x66, 0x0f, 0x1f, 0x00]],
    ),
    (&[0, 0, 0, 0], |at| vec![site(at, 4, Abs32S).of(0, 0)], &[&[1, 2, 3, 4], &[0xcc, 0, 0, 0]]),
];

/// A function put together from pieces: the `pre` build's bytes, the sites, the bytes in memory, and for each
/// byte whether it is outside all sites.
fn assemble(choice: &[(usize, usize)]) -> (Vec<u8>, Vec<S>, Vec<u8>, Vec<bool>) {
    let (mut expected, mut sites, mut running, mut plain) = (vec![], vec![], vec![], vec![]);
    for &(piece, form) in choice {
        let (bytes, sites_at, forms) = PIECES[piece % PIECES.len()];
        let new = sites_at(expected.len() as u32);
        plain.extend(bytes.iter().map(|_| new.is_empty()));
        sites.extend(new);
        expected.extend_from_slice(bytes);
        running.extend_from_slice(forms[form % forms.len()]);
    }
    (expected, sites, running, plain)
}

proptest! {
    #[test]
    fn every_mix_of_forms_matches(choice in proptest::collection::vec((0usize..9, 0usize..3), 1..20)) {
        let (expected, sites, running, _) = assemble(&choice);
        prop_assert!(matched(&expected, &sites, &running).is_ok());
    }

    #[test]
    fn damage_outside_sites_is_found(
        choice in proptest::collection::vec((0usize..9, 0usize..3), 1..20),
        at: prop::sample::Index,
        flip in 1u8..,
    ) {
        let (expected, sites, mut running, plain) = assemble(&choice);
        let outside: Vec<usize> = (0..plain.len()).filter(|&at| plain[at]).collect();
        prop_assume!(!outside.is_empty());
        let at = *at.get(&outside);
        running[at] ^= flip;
        let mismatch = matched(&expected, &sites, &running).unwrap_err();
        prop_assert_eq!(mismatch.offset as usize, at);
        prop_assert_eq!(mismatch.what, What::Byte);
    }

    #[test]
    fn no_record_makes_it_panic(
        expected in proptest::collection::vec(any::<u8>(), 24),
        raw in proptest::collection::vec((0u32..24, 1u16..12, 1u8..15, any::<i64>()), 0..10),
        running in proptest::collection::vec(any::<u8>(), 24),
    ) {
        let mut sites: Vec<S> = vec![];
        for (offset, len, kind, addend) in raw {
            let kind = SiteKind::from_raw(kind).unwrap();
            let len = match kind {
                Abs64 | Pc64 => 8,
                Abs32 | Abs32S | Pc32 | Endbr => 4,
                Fentry | StaticCall | ReturnThunk | Retpoline => 5,
                JumpLabel => 2,
                SmpLock => 1,
                Alternative | Paravirt => len,
            };
            if offset + u32::from(len) <= 24 {
                sites.push(site(offset, len, kind).of(0, addend));
            }
        }
        sites.sort_by_key(|site| site.offset);
        for site in sites.iter_mut().filter(|site| site.kind == Alternative) {
            site.alternatives.push((running[..usize::from(site.len)].to_vec(), vec![]));
        }
        let _ = matched(&expected, &sites, &running);
        let _ = matched(&expected, &sites, &expected);
    }
}
