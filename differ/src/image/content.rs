//! What two places of images hold: the same symbol, or the same string or constant.
//!
//! An image does not say what a constant without a symbol is, nor how long. It is compared as far as an instruction reads; or
//! up to the next place that something refers to, which is no less than all of it.

use object::elf;

use super::code::{KERNEL, Pairs};
use super::names::{Names, Target};
use crate::compare::Mask;

/// No text is longer, in characters.
const LONGEST: usize = 4096;

/// Tables of pointers to tables go no deeper than this.
const MAX_DEPTH: usize = 3;

/// What lies between a constant and the next is no longer.
const PADDING: usize = 64;

/// How many texts there have to be on each side of a text among texts.
const NEIGHBOURS: usize = 8;

/// An address of one image.
pub(super) type At<'n, 'i, 'd> = (&'n Names<'i, 'd>, u64);

/// How much is read at an address.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reads {
    /// So many bytes.
    Exactly(usize),
    /// Nobody knows, but no less.
    AtLeast(usize),
}

/// Whether two addresses mean the same.
pub(super) fn same(x: At<'_, '_, '_>, y: At<'_, '_, '_>, reads: Reads, pairs: &mut Pairs) -> bool {
    let ((a, p), (b, q)) = (x, y);
    match (a.at(p), b.at(q)) {
        (Target::Number, Target::Number) => p == q,
        (Target::Symbol(s, offset), Target::Symbol(t, other)) => {
            offset == other && same_symbol((a, s), (b, t), pairs)
        }
        (Target::Anonymous(s), Target::Anonymous(t)) if a.writable(s) && b.writable(t) => {
            matches!(reads, Reads::AtLeast(_)) && same_end(x, y, pairs)
        }
        (Target::Anonymous(s), Target::Anonymous(t)) => {
            !a.writable(s)
                && !b.writable(t)
                && match reads {
                    Reads::Exactly(size) => same_content(x, y, size as u64, 0, pairs),
                    Reads::AtLeast(least) => {
                        let code = a.executable(s) || b.executable(t);
                        !code && same_unnamed(x, y, least, 0, pairs)
                    }
                }
        }
        _ => false,
    }
}

/// Whether two addresses at which there is nothing are as far behind the same symbol: loops over an array end there.
fn same_end((a, p): At<'_, '_, '_>, (b, q): At<'_, '_, '_>, pairs: &mut Pairs) -> bool {
    match (a.behind(p), b.behind(q)) {
        (Some((x, offset)), Some((y, other))) => {
            offset == other && same_symbol((a, x), (b, y), pairs)
        }
        _ => false,
    }
}

fn same_symbol(
    (a, x): (&Names<'_, '_>, u32),
    (b, y): (&Names<'_, '_>, u32),
    pairs: &mut Pairs,
) -> bool {
    let (Some((p, s)), Some((q, t))) = (a.known(x), b.known(y)) else { return false };
    if p != q {
        return false;
    }
    if !p.numbered {
        return true;
    }
    // Several clones of a function have one identity, as have several variables: who is who is known when all are paired.
    if s.kind == elf::STT_FUNC {
        pairs.push((x, y));
        return true;
    }
    if s.size != t.size {
        return false;
    }
    if a.writable(s.section) || b.writable(t.section) {
        pairs.push((x, y));
        return true;
    }
    same_content((a, s.address), (b, t.address), s.size, 0, pairs)
}

/// Whether two constants are the same: words that point into the images by what is there.
pub(super) fn same_content(
    x: At<'_, '_, '_>,
    y: At<'_, '_, '_>,
    size: u64,
    depth: usize,
    pairs: &mut Pairs,
) -> bool {
    same_but_for(&Mask::default(), x, y, size, depth, pairs)
}

/// Like [`same_content`], but for some bits of numbers.
pub(super) fn same_but_for(
    mask: &Mask,
    (a, p): At<'_, '_, '_>,
    (b, q): At<'_, '_, '_>,
    size: u64,
    depth: usize,
    pairs: &mut Pairs,
) -> bool {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let (Some(x), Some(y)) = (a.bytes(p).get(..size), b.bytes(q).get(..size)) else { return false };
    let (words, rest) = x.as_chunks::<8>();
    let (others, more) = y.as_chunks::<8>();
    rest == more
        && words.iter().zip(others).enumerate().all(|(index, (x, y))| {
            let (x, y) = (u64::from_le_bytes(*x), u64::from_le_bytes(*y));
            if x < KERNEL || y < KERNEL {
                return x == y || without(mask, index, x) == without(mask, index, y);
            }
            match (a.at(x), b.at(y)) {
                (Target::Number, Target::Number) => x == y,
                (Target::Symbol(s, offset), Target::Symbol(t, other)) => {
                    offset == other && same_pointee((a, s), (b, t), depth + 1, pairs)
                }
                (Target::Anonymous(s), Target::Anonymous(t)) => {
                    let other = |names: &Names<'_, '_>, section| {
                        names.writable(section) || names.executable(section)
                    };
                    depth < MAX_DEPTH
                        && !other(a, s)
                        && !other(b, t)
                        && same_unnamed((a, x), (b, y), 1, depth + 1, pairs)
                }
                _ => false,
            }
        })
}

/// A word of something, by its index, without the bits that do not count.
pub(super) fn without(mask: &Mask, index: usize, word: u64) -> u64 {
    let bytes = word.to_le_bytes();
    let offsets = (index as u64).saturating_mul(8)..;
    let mut left = [0; 8];
    for ((left, byte), offset) in left.iter_mut().zip(bytes).zip(offsets) {
        *left = byte & !mask.at(offset);
    }
    u64::from_le_bytes(left)
}

/// Whether a constant points at the same symbol on both sides.
fn same_pointee(
    (a, x): (&Names<'_, '_>, u32),
    (b, y): (&Names<'_, '_>, u32),
    depth: usize,
    pairs: &mut Pairs,
) -> bool {
    let (Some((p, s)), Some((q, t))) = (a.known(x), b.known(y)) else { return false };
    if p != q {
        return false;
    }
    if !p.numbered {
        return true;
    }
    if s.kind == elf::STT_FUNC {
        pairs.push((x, y));
        return true;
    }
    depth < MAX_DEPTH
        && s.size == t.size
        && !a.writable(s.section)
        && !b.writable(t.section)
        && same_content((a, s.address), (b, t.address), s.size, depth, pairs)
}

/// Whether the same string or constant is at two addresses that no symbol names, which is `least` bytes long or longer.
fn same_unnamed(
    x: At<'_, '_, '_>,
    y: At<'_, '_, '_>,
    least: usize,
    depth: usize,
    pairs: &mut Pairs,
) -> bool {
    let ((a, p), (b, q)) = (x, y);
    let (old, new) = (extent(x, least), extent(y, least));
    let short = old.len().min(new.len());
    // The shorter one is all that can be read there; behind the other is what aligns the next one.
    let is_padding = |bytes: &[u8]| {
        let rest = bytes.get(short..).unwrap_or_default();
        rest.len() < PADDING && rest.iter().all(|byte| *byte == 0)
    };
    if short == 0 {
        return false;
    }
    let whole = is_padding(old) && is_padding(new);
    if whole && same_content(x, y, short as u64, depth, pairs) {
        return true;
    }
    matches!((string_at(a, p), string_at(b, q)), (Some(s), Some(t)) if s == t)
        && is_among_texts(x, old)
        && is_among_texts(y, new)
}

/// What is at an address up to the next place that something refers to, behind its text if it looks like one: two strings may
/// share their end.
fn extent<'i>((names, at): At<'_, 'i, '_>, least: usize) -> &'i [u8] {
    let text = string_at(names, at).map_or(0, |text| text.len().saturating_add(1));
    // One character may be the first of a text of wider ones.
    let wide = if text == 2 { wide_at(names, at) } else { None };
    let wide = wide.map_or(0, |text| text.len().saturating_add(2));
    names.bytes(at).get(..names.unnamed(at, least.max(text).max(wide))).unwrap_or_default()
}

/// Whether a text that something follows to which nobody refers is in a section of strings, which compilers fill with nothing
/// but texts that have no zero inside: the image does not say where these are, but nothing else can be among so many.
fn is_among_texts((names, at): At<'_, '_, '_>, extent: &[u8]) -> bool {
    let texts = |bytes: &[u8]| bytes.split(|byte| *byte == 0).all(is_readable);
    let one = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let (text, rest) = bytes.split_at(end);
        is_readable(text) && rest.iter().all(|byte| *byte == 0)
    };
    let Some((before, after)) = names.neighbours(at, extent.len(), NEIGHBOURS) else {
        return false;
    };
    let ends = before.iter().skip(1).chain(std::iter::once(&at));
    let alone = |(from, to): (&u64, &u64)| {
        let len = to.checked_sub(*from).and_then(|len| usize::try_from(len).ok());
        len.and_then(|len| names.bytes(*from).get(..len)).is_some_and(one)
    };
    texts(extent)
        && before.iter().zip(ends).all(alone)
        && after.iter().zip(after.iter().skip(1)).all(alone)
}

/// What is at an address up to a character of two bytes that is zero, if it looks like a text of such (`L"…"`).
fn wide_at<'i>(names: &Names<'i, '_>, address: u64) -> Option<&'i [u8]> {
    let bytes = names.bytes(address);
    let characters = bytes.as_chunks::<2>().0.iter().take(LONGEST);
    let end = characters.clone().position(|c| *c == [0; 2]).filter(|end| *end > 0)?;
    let readable = |c: &[u8; 2]| matches!(c, [0x20..=0x7e | b'\n' | b'\t' | b'\r', 0]);
    characters.take(end).all(readable).then(|| bytes.get(..end.saturating_mul(2)))?
}

/// The text at an address, if it looks like one.
pub(super) fn string_at<'i>(names: &Names<'i, '_>, address: u64) -> Option<&'i [u8]> {
    let bytes = names.bytes(address);
    let end = bytes.iter().take(LONGEST).position(|b| *b == 0)?;
    bytes.get(..end).filter(|text| is_readable(text))
}

fn is_readable(text: &[u8]) -> bool {
    // printk's level is a start-of-header byte and another.
    let text = match text {
        [1, b'0'..=b'7' | b'c' | b'd', rest @ ..] => rest,
        _ => text,
    };
    let readable = |c: char| !c.is_ascii_control() || matches!(c, '\n' | '\t' | '\r');
    std::str::from_utf8(text).is_ok_and(|text| text.chars().all(readable))
}
