//! Strings that hold line numbers: `__FILE__ ":" __LINE__`, as FORTIFY's do (`field "x" at fs/file.c:267`,
//! include/linux/fortify-string.h), and gcc's descriptions of stack frames for KASAN (asan_emit_stack_protection in
//! gcc/asan.cc), in which the kernel skips them (print_decoded_frame_descr in mm/kasan/report_generic.c).

use super::Comparer;
use super::content::{extent, string};
use crate::decode::Body;
use crate::load::SectionId;
use crate::model::Place;
use crate::object_file::Object;

type In<'x> = (&'x Body, (SectionId, u64, u64));

impl Comparer<'_, '_> {
    /// Whether two strings differ only in the lines of variables in KASAN's description of a frame, or in `__LINE__`: in
    /// the numbers right after `.c:` or `.h:`, which are on both sides the line of one and the same instruction of the code that
    /// refers to the string. Nothing else is let through.
    pub(super) fn same_but_for_lines(
        &self,
        x: Place,
        y: Place,
        in_x: In<'_>,
        in_y: In<'_>,
    ) -> bool {
        let (Some(text_x), Some(text_y)) = (string_at(self.a, x), string_at(self.b, y)) else {
            return false;
        };
        if let (Some(p), Some(q)) = (frame(&text_x), frame(&text_y))
            && [self.a, self.b].iter().all(|object| is_watched(object))
        {
            return p == q;
        }
        let (pieces_x, pieces_y) = (split(&text_x), split(&text_y));
        pieces_x.len() == pieces_y.len()
            && pieces_x.iter().zip(&pieces_y).all(|pair| match pair {
                (Piece::Line(p), Piece::Line(q)) => {
                    p == q || self.is_line_of_one(*p, *q, in_x, in_y)
                }
                (p, q) => p == q,
            })
    }

    /// Whether an instruction has line `p` in v1 and its partner line `q` in v2.
    fn is_line_of_one(&self, p: u64, q: u64, (x, at_x): In<'_>, (y, at_y): In<'_>) -> bool {
        let (Ok(lines_x), Ok(lines_y)) = (self.a.lines(), self.b.lines()) else { return false };
        x.insns.iter().zip(&y.insns).any(|(i, j)| {
            lines_x.at(at_x.0, i.offset).any(|l| l == p)
                && lines_y.at(at_y.0, j.offset).any(|l| l == q)
        })
    }
}

/// The string at a place, if it is one that no symbol names.
pub(crate) fn string_at(object: &Object<'_>, place: Place) -> Option<String> {
    let Place::Anonymous { section, offset, from } = place else { return None };
    if offset == from { string(object, extent(object, section, from)?) } else { None }
}

#[derive(Debug, PartialEq, Eq)]
enum Piece<'t> {
    Text(&'t str),
    /// A number after the name of a source file.
    Line(u64),
}

/// Cuts the line numbers out of a text.
fn split(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut rest, mut from) = (text, 0);
    while let Some(colon) = rest.get(from..).and_then(|t| t.find(':')).map(|at| from + at) {
        let (before, after) = (rest.get(..=colon), rest.get(colon + 1..));
        let (Some(before), Some(after)) = (before, after) else { break };
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let number = after.get(..digits).and_then(|d| d.parse().ok());
        match number {
            // `__LINE__` has no leading zero, and a number that has one is another text.
            Some(line) if is_source(before) && !after.starts_with('0') => {
                pieces.extend([Piece::Text(before), Piece::Line(line)]);
                (rest, from) = (after.get(digits..).unwrap_or(""), 0);
            }
            _ => from = colon + 1,
        }
    }
    pieces.push(Piece::Text(rest));
    pieces
}

/// Whether KASAN watches the memory that an object's code uses.
fn is_watched(object: &Object<'_>) -> bool {
    object.elf.symbols().any(|(_, symbol)| symbol.name.starts_with("__asan_"))
}

/// The variables of a frame, each with its offset, size and name, if a text is a description of one in which each name
/// is told as `NAME:LINE`.
fn frame(text: &str) -> Option<Vec<(u64, u64, &str)>> {
    let named = frame_variables(text)?.into_iter().map(|(offset, size, told)| {
        let (name, line) = told.rsplit_once(':')?;
        let is_line = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit());
        is_line.then_some((offset, size, name))
    });
    named.collect()
}

/// The variables of a frame, each with its offset, size and what is told of its name, if a text is KASAN's description of
/// one: how many, and of each `OFFSET SIZE LENGTH TOLD`, the length that of the last of these.
pub fn frame_variables(text: &str) -> Option<Vec<(u64, u64, &str)>> {
    let mut words = text.trim_end().split(' ');
    let count: usize = words.next()?.parse().ok()?;
    let mut variables = Vec::new();
    while let Some(offset) = words.next() {
        let (offset, size) = (offset.parse().ok()?, words.next()?.parse().ok()?);
        let (length, told): (usize, &str) = (words.next()?.parse().ok()?, words.next()?);
        (told.len() == length).then(|| variables.push((offset, size, told)))?;
    }
    (count > 0 && variables.len() == count).then_some(variables)
}

fn is_source(before: &str) -> bool {
    before.ends_with(".c:") || before.ends_with(".h:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_of_frames_are_told_from_other_texts() {
        let two = frame("2 32 8 7 fd:1034 64 16 10 files:1033");
        assert_eq!(two, Some(vec![(32, 8, "fd"), (64, 16, "files")]));
        assert_eq!(frame("2 32 8 5 fd:34 64 16 8 files:33 "), two);
        for other in [
            "",
            "0",
            "1 32 8 2 fd",
            "2 32 8 7 fd:1034",
            "1 32 8 6 fd:1034",
            "1 32 8 3 fd:",
            "1 32 8 4 fd:x",
            "1 32 8 7 fd:1034 64 16 10 files:1033",
            "one 32 8 7 fd:1034",
        ] {
            assert_eq!(frame(other), None, "{other:?}");
        }
    }

    #[test]
    fn numbers_after_file_names_are_lines() {
        use Piece::{Line, Text};
        assert_eq!(split("a at f.c:12"), [Text("a at f.c:"), Line(12), Text("")]);
        assert_eq!(
            split("f.c:1 g.h:2!"),
            [Text("f.c:"), Line(1), Text(" g.h:"), Line(2), Text("!")]
        );
        for other in
            ["", "a: 12", "line:12", "f.c: 12", "f.c:012", "f.c:99999999999999999999999", "f.c:"]
        {
            assert_eq!(split(other), [Text(other)]);
        }
    }
}
