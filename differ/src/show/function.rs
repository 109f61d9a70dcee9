//! The instructions of a function on both sides.

use super::text::{Extent, Shown, shown};
use super::{Mark, Row, Source, Sources, align, entries};
use crate::compare::Comparer;
use crate::decode::Body;
use crate::model::FunctionId;
use crate::object_file::Object;
use crate::verdict::{Comparison, FunctionVerdict};

/// An instruction to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// Bytes from the start of its function.
    pub offset: u64,
    /// The instruction, in AT&T syntax, with names for what it refers to; or the name of a special section and what an
    /// entry of it says about this place.
    pub text: String,
    /// Its source line.
    pub source: Option<Source>,
    /// The function it was inlined from.
    pub inlined: Option<String>,
}

/// A function, or its part that is out of the way.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Both sides: instructions, then entries of special sections.
    pub rows: Vec<Row<Code>>,
}

/// Shows a function that was compared, and its `.cold` part. Without line tables (`None`) there
/// are no source lines.
pub fn function(
    (v1, lines1): (&Object<'_>, Option<&Sources>),
    (v2, lines2): (&Object<'_>, Option<&Sources>),
    comparison: &Comparison,
    verdict: &FunctionVerdict,
) -> Vec<Part> {
    let comparer = Comparer::new(v1, v2, &comparison.correlation);
    let cold = |o: &Object<'_>, id: Option<FunctionId>| o.function(id?)?.cold;
    let both = [
        (verdict.name.clone(), verdict.v1, verdict.v2),
        (format!("{}, cold part", verdict.name), cold(v1, verdict.v1), cold(v2, verdict.v2)),
    ];
    both.into_iter()
        .filter(|(_, x, y)| x.is_some() || y.is_some())
        .map(|(name, x, y)| {
            let (x, y) = (Side::new(v1, lines1, x), Side::new(v2, lines2, y));
            let mut rows = rows(&comparer, &x, &y);
            rows.extend(entries::rows(&comparer, &x, &y));
            Part { name, rows }
        })
        .collect()
}

/// One side of the comparison.
pub(super) struct Side<'s, 'd> {
    pub(super) object: &'s Object<'d>,
    pub(super) id: Option<FunctionId>,
    body: &'s Body,
    pub(super) at: Extent,
    shown: Vec<Shown>,
    sources: Option<&'s Sources>,
}

impl<'s, 'd> Side<'s, 'd> {
    fn new(object: &'s Object<'d>, sources: Option<&'s Sources>, id: Option<FunctionId>) -> Self {
        static NOTHING: Body = Body { insns: Vec::new() };
        let function = id.and_then(|id| object.function(id));
        let at =
            function.map_or((crate::load::SectionId(0), 0, 0), |f| (f.section, f.start, f.end));
        let body = id.map_or(&NOTHING, |id| object.body(id));
        let shown = body.insns.iter().map(|insn| shown(object, insn, at)).collect();
        Side { object, id, body, at, shown, sources }
    }

    fn keys(&self) -> Vec<String> {
        self.shown.iter().map(|s| s.key.clone()).collect()
    }

    fn code(&self, index: usize) -> Option<Code> {
        let (insn, shown) = (self.body.insns.get(index)?, self.shown.get(index)?);
        Some(self.line(insn.offset, shown.text.clone()))
    }

    /// What there is to say of a place in its section.
    pub(super) fn line(&self, at: u64, text: String) -> Code {
        Code {
            offset: at.saturating_sub(self.at.1),
            text,
            source: self.sources.and_then(|s| s.at(self.at.0, at)),
            inlined: self.object.inlined_at(self.at.0, at),
        }
    }
}

fn rows(comparer: &Comparer<'_, '_>, x: &Side<'_, '_>, y: &Side<'_, '_>) -> Vec<Row<Code>> {
    let pairs = align(&x.keys(), &y.keys());
    // Where the one after the last goes matters too: some jumps go there.
    let mut partner = vec![None; x.shown.len() + 1];
    if let Some(last) = partner.last_mut() {
        *last = Some(y.shown.len());
    }
    for (i, j) in &pairs {
        if let Some(place) = i.and_then(|i| partner.get_mut(i)) {
            *place = *j;
        }
    }
    pairs
        .into_iter()
        .map(|(i, j)| {
            let mark = match (i, j) {
                (Some(i), Some(j)) if same(comparer, x, y, (i, j), &partner) => Mark::Same,
                (Some(_), Some(_)) => Mark::Differs,
                (Some(_), None) => Mark::Removed,
                _ => Mark::Added,
            };
            Row { mark, old: i.and_then(|i| x.code(i)), new: j.and_then(|j| y.code(j)) }
        })
        .collect()
}

/// Whether two instructions mean the same. A jump does if its targets face each other, however
/// far away they are.
fn same(
    comparer: &Comparer<'_, '_>,
    x: &Side<'_, '_>,
    y: &Side<'_, '_>,
    (i, j): (usize, usize),
    partner: &[Option<usize>],
) -> bool {
    let (Some(of_x), Some(of_y)) = (x.body.insns.get(i), y.body.insns.get(j)) else { return false };
    let (Some(shown_x), Some(shown_y)) = (x.shown.get(i), y.shown.get(j)) else { return false };
    match (shown_x.target, shown_y.target) {
        (Some(to_x), Some(to_y)) => {
            let ((index_x, into_x), (index_y, into_y)) =
                (x.body.position(to_x), y.body.position(to_y));
            shown_x.key == shown_y.key
                && into_x == into_y
                && partner.get(index_x).copied().flatten() == Some(index_y)
        }
        (None, None) => comparer.instruction((of_x, x.body, x.at), (of_y, y.body, y.at)).is_ok(),
        _ => false,
    }
}
