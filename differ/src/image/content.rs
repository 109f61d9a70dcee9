//! What two places of images hold: the same symbol, or the same string or constant.

use object::elf;

use super::code::{KERNEL, Pairs};
use super::names::{Names, Target};

/// No text is longer, in characters.
const LONGEST: usize = 4096;

/// Tables of pointers to tables go no deeper than this.
const MAX_DEPTH: usize = 3;

/// Whether two addresses mean the same. `width` is how much is read there, if that is known.
pub(super) fn same(
    a: &Names<'_, '_>,
    p: u64,
    b: &Names<'_, '_>,
    q: u64,
    width: usize,
    pairs: &mut Pairs,
) -> bool {
    match (a.at(p), b.at(q)) {
        (Target::Number, Target::Number) => p == q,
        (Target::Symbol(x, offset), Target::Symbol(y, other)) => {
            offset == other && same_symbol(a, x, b, y, pairs)
        }
        (Target::Anonymous(s), Target::Anonymous(t)) => {
            if a.writable(s) || b.writable(t) {
                return false;
            }
            if width > 0 {
                return matches!((a.bytes(p).get(..width), b.bytes(q).get(..width)), (Some(x), Some(y)) if x == y);
            }
            !a.executable(s) && !b.executable(t) && same_text(a, p, b, q)
        }
        _ => false,
    }
}

fn same_symbol(a: &Names<'_, '_>, x: u32, b: &Names<'_, '_>, y: u32, pairs: &mut Pairs) -> bool {
    let (Some((p, s)), Some((q, t))) = (a.known(x), b.known(y)) else { return false };
    if p != q {
        return false;
    }
    if !p.numbered || s.kind == elf::STT_FUNC {
        return true;
    }
    if s.size != t.size {
        return false;
    }
    if a.writable(s.section) || b.writable(t.section) {
        pairs.push((x, y));
        return true;
    }
    same_content(a, s.address, b, t.address, s.size, 0)
}

/// Whether two constants are the same: words that point into the images by what is there.
pub(super) fn same_content(
    a: &Names<'_, '_>,
    p: u64,
    b: &Names<'_, '_>,
    q: u64,
    size: u64,
    depth: usize,
) -> bool {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let (Some(x), Some(y)) = (a.bytes(p).get(..size), b.bytes(q).get(..size)) else { return false };
    let (words, rest) = x.as_chunks::<8>();
    let (others, more) = y.as_chunks::<8>();
    rest == more
        && words.iter().zip(others).all(|(x, y)| {
            let (x, y) = (u64::from_le_bytes(*x), u64::from_le_bytes(*y));
            if x < KERNEL || y < KERNEL {
                return x == y;
            }
            match (a.at(x), b.at(y)) {
                (Target::Number, Target::Number) => x == y,
                (Target::Symbol(s, offset), Target::Symbol(t, other)) => {
                    offset == other && same_pointee(a, s, b, t, depth + 1)
                }
                (Target::Anonymous(s), Target::Anonymous(t)) => {
                    !a.writable(s) && !b.writable(t) && same_text(a, x, b, y)
                }
                _ => false,
            }
        })
}

/// Whether a constant points at the same symbol on both sides.
fn same_pointee(a: &Names<'_, '_>, x: u32, b: &Names<'_, '_>, y: u32, depth: usize) -> bool {
    let (Some((p, s)), Some((q, t))) = (a.known(x), b.known(y)) else { return false };
    let code = s.kind == elf::STT_FUNC;
    p == q
        && (!p.numbered
            || code
            || depth < MAX_DEPTH
                && s.size == t.size
                && !a.writable(s.section)
                && !b.writable(t.section)
                && same_content(a, s.address, b, t.address, s.size, depth))
}

/// Whether there is the same text at two addresses. One character may be the first of a string of wider ones (`L"…"`):
/// then the rest of that has to be the same too.
fn same_text(a: &Names<'_, '_>, p: u64, b: &Names<'_, '_>, q: u64) -> bool {
    let same = matches!((string_at(a, p), string_at(b, q)), (Some(x), Some(y)) if x == y);
    same && (string_at(a, p).is_none_or(|text| text.len() != 1) || wide_at(a, p) == wide_at(b, q))
}

/// What is at an address up to a character of two bytes that is zero.
fn wide_at<'i>(names: &Names<'i, '_>, address: u64) -> Option<&'i [u8]> {
    let bytes = names.bytes(address);
    let end = bytes.as_chunks::<2>().0.iter().take(LONGEST).position(|c| *c == [0; 2])?;
    bytes.get(..end * 2)
}

/// The text at an address, if it looks like one.
pub(super) fn string_at<'i>(names: &Names<'i, '_>, address: u64) -> Option<&'i [u8]> {
    let bytes = names.bytes(address);
    let end = bytes.iter().take(LONGEST).position(|b| *b == 0)?;
    let text = bytes.get(..end)?;
    // printk's level is a start-of-header byte.
    let readable = |b: &u8| matches!(b, 0x20..=0x7e | b'\n' | b'\t' | b'\r' | 1 | 0x80..);
    text.iter().all(readable).then_some(text)
}
