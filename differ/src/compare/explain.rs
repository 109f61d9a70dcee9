//! The difference a person would name first, where code was inserted or removed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use similar::DiffOp;

use super::instruction::show;
use super::{Cause, Comparer, Difference};
use crate::correlate::hash_shape;
use crate::decode::{Body, Field, Insn};
use crate::load::SectionId;
use crate::model::Place;
use crate::names::base;
use crate::object_file::Object;

impl Comparer<'_, '_> {
    /// Aligns two bodies of different length and names what was added or removed first, and
    /// the calls that are on one side only.
    pub(super) fn explain_lengths(
        &self,
        (x, sx): (&Body, SectionId),
        (y, sy): (&Body, SectionId),
    ) -> Option<Difference> {
        let of_a: Vec<u64> = x.insns.iter().map(|i| token(self.a, i)).collect();
        let of_b: Vec<u64> = y.insns.iter().map(|i| token(self.b, i)).collect();
        let ops = similar::capture_diff_slices(similar::Algorithm::Myers, &of_a, &of_b);
        let first = ops.iter().find(|op| !matches!(op, DiffOp::Equal { .. }))?;
        let (i, j) = (first.old_range().start, first.new_range().start);
        let old = x.insns.get(i);
        let new = y.insns.get(j);
        let what = match first {
            DiffOp::Delete { .. } => format!("instruction {i}: removed {}", show(self.a, old?)),
            DiffOp::Insert { .. } => format!("instruction {j}: added {}", show(self.b, new?)),
            _ => format!("instruction {i}: {} vs {}", show(self.a, old?), show(self.b, new?)),
        };
        let at = (old.map_or(0, |o| o.offset), new.map_or(0, |n| n.offset));
        let lines = self.line_note(sx, at.0, sy, at.1);
        let calls = self.call_balance(x, y);
        let length = if of_a.len() == of_b.len() {
            String::new()
        } else {
            format!("; {} instructions instead of {}", of_b.len(), of_a.len())
        };
        let cause = if calls.is_empty() { Cause::Instruction } else { Cause::Callee };
        Some(Difference { cause, text: format!("{what}{lines}{length}{calls}"), at: Some(at) })
    }

    fn call_balance(&self, x: &Body, y: &Body) -> String {
        let mut balance: BTreeMap<String, i64> = BTreeMap::new();
        for (object, body, sign) in [(self.a, x, -1), (self.b, y, 1)] {
            for insn in body.insns.iter().filter(|i| i.is_call()) {
                if let Some(reference) = insn.reference(Field::Branch)
                    && !matches!(reference.place, Place::Anonymous { .. })
                {
                    let name = base(&object.describe(reference.place)).text;
                    *balance.entry(name).or_default() += sign;
                }
            }
        }
        let list = |wanted: fn(i64) -> bool| {
            let names: Vec<&str> =
                balance.iter().filter(|(_, n)| wanted(**n)).map(|(s, _)| s.as_str()).collect();
            names.join(", ")
        };
        let (more, fewer) = (list(|n| n > 0), list(|n| n < 0));
        let mut text = String::new();
        if !more.is_empty() {
            text.push_str(&format!("; calls {more} more often"));
        }
        if !fewer.is_empty() {
            text.push_str(&format!("; calls {fewer} less often"));
        }
        text
    }
}

fn token(object: &Object<'_>, insn: &Insn) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash_shape(object, insn, &mut hasher);
    for i in 0..insn.code.op_count() {
        insn.code.try_immediate(i).ok().hash(&mut hasher);
    }
    insn.displacement().hash(&mut hasher);
    hasher.finish()
}
