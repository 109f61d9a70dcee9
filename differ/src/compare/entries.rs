//! Entries of special sections, those of a function in v1 against those in v2.

use super::content::Mask;
use super::{Cause, Comparer, Difference, Same};
use crate::decode;
use crate::load::SectionId;
use crate::model::FunctionId;
use crate::object_file::Object;
use crate::special::{Class, Entry};

/// What of one special section belongs to a function, in the order of its instructions.
pub(crate) struct Table<'c> {
    class: Class,
    /// Name of the section.
    pub(crate) section: String,
    /// V1's entries.
    pub(crate) old: Vec<&'c Entry>,
    /// V2's entries.
    pub(crate) new: Vec<&'c Entry>,
}

impl<'c> Comparer<'c, '_> {
    /// The entries that are compared, by section; of a function that a side does not have there are none.
    pub(crate) fn tables(&self, x: Option<FunctionId>, y: Option<FunctionId>) -> Vec<Table<'c>> {
        let of_a = x.map(|x| sorted_entries(self.a, x)).unwrap_or_default();
        let of_b = y.map(|y| sorted_entries(self.b, y)).unwrap_or_default();
        let name = |o: &Object<'_>, e: &Entry| o.section_name(e.section).to_owned();
        let mut sections: Vec<(Class, String)> = of_a
            .iter()
            .map(|e| (e.class, name(self.a, e)))
            .chain(of_b.iter().map(|e| (e.class, name(self.b, e))))
            .filter(|(class, _)| counts(*class))
            .collect();
        sections.sort();
        sections.dedup();
        let pick = |list: &[&'c Entry], o: &Object<'_>, class, section: &str| -> Vec<&'c Entry> {
            list.iter().filter(|e| e.class == class && name(o, e) == section).copied().collect()
        };
        sections
            .into_iter()
            .map(|(class, section)| Table {
                old: pick(&of_a, self.a, class, &section),
                new: pick(&of_b, self.b, class, &section),
                class,
                section,
            })
            .collect()
    }

    /// Compares the special-section entries of two functions.
    pub(super) fn entries(&self, x: FunctionId, y: FunctionId) -> Same {
        for Table { class, section, old, new } in self.tables(Some(x), Some(y)) {
            if old.len() != new.len() {
                return Err(Difference::new(
                    Cause::Special(class),
                    format!("{} entries in {section} instead of {}", new.len(), old.len()),
                ));
            }
            for (entry_a, entry_b) in old.iter().zip(&new) {
                self.entry(entry_a, entry_b)?;
            }
        }
        Ok(())
    }

    pub(crate) fn entry(&self, x: &Entry, y: &Entry) -> Same {
        let section = self.a.section_name(x.section);
        let wrap = |d: Difference| {
            let at = self.line_note(
                self.section_of(true, x),
                self.site(true, x),
                self.section_of(false, y),
                self.site(false, y),
            );
            Difference::new(
                Cause::Special(x.class),
                match (x.class, d.cause) {
                    (Class::BugTable, Cause::Initialiser) => format!("bug table flags{at}"),
                    _ => format!("entry of {section}: {}{at}", d.text),
                },
            )
        };
        let mask = match x.class {
            // bug_entry.line
            Class::BugTable if x.size == 12 => Mask::bytes(8, 2),
            // Compared below, by its length: it may be empty, and then points at another one's.
            Class::Alternatives if x.replacement.is_some() => Mask::skipping(4),
            _ => Mask::default(),
        };
        self.raw(
            (x.section, x.offset, x.offset + x.size),
            (y.section, y.offset, y.offset + y.size),
            &mask,
            false,
        )
        .map_err(wrap)?;
        match (x.replacement, y.replacement) {
            (None, None) => Ok(()),
            (Some(x), Some(y)) => self.replacement(x, y).map_err(|d| {
                Difference::new(
                    Cause::Special(Class::Alternatives),
                    format!("alternative replacement: {}", d.text),
                )
            }),
            _ => Err(wrap(Difference::new(Cause::Unclear, "one side has no replacement"))),
        }
    }

    fn section_of(&self, first: bool, entry: &Entry) -> SectionId {
        let o = if first { self.a } else { self.b };
        o.function(entry.function).map_or(SectionId(0), |f| f.section)
    }

    fn site(&self, first: bool, entry: &Entry) -> u64 {
        let o = if first { self.a } else { self.b };
        o.function(entry.function).map_or(0, |f| f.start) + entry.site
    }

    fn replacement(
        &self,
        (sx, ox, lx): (SectionId, u64, u64),
        (sy, oy, ly): (SectionId, u64, u64),
    ) -> Same {
        let all = |_| true;
        let x = decode::decode(&self.a.elf, &self.a.model, sx, (ox, ox + lx), &all);
        let y = decode::decode(&self.b.elf, &self.b.model, sy, (oy, oy + ly), &all);
        self.code((&x, (sx, ox, ox + lx)), (&y, (sy, oy, oy + ly)))
    }
}

/// Entries in the order of the instructions they belong to.
fn sorted_entries<'o>(object: &'o Object<'_>, id: FunctionId) -> Vec<&'o Entry> {
    let start = object.function(id).map_or(0, |f| f.start);
    let mut entries: Vec<&Entry> = object.special_entries(id).collect();
    entries.sort_by_key(|e| (object.body(id).position(start + e.site), e.section, e.offset));
    entries
}

/// Whether a difference in entries of that class is a change of the function. The others are
/// written by tools from what is compared anyway, or concern the function only from outside.
pub(crate) fn counts(class: Class) -> bool {
    !matches!(
        class,
        Class::Mcount
            | Class::PatchableEntries
            | Class::Orc
            | Class::Discard
            | Class::PatchSites
            | Class::Registration
            | Class::AlternativeReplacement
            | Class::AlternativeAux
    )
}
