//! Data objects that no aligned pair of instructions refers to: by what they hold.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::{Correlation, Side};
use crate::compare::{is_read_only, line_mask, string_at};
use crate::model::{DataId, FunctionId, Place};
use crate::names::{base, is_numbered};
use crate::object_file::Object;
use crate::queues::Queues;

/// Data objects by the name the programmer wrote, and by source.
pub(super) type Groups = BTreeMap<(String, u64), Vec<DataId>>;

/// What a data object holds: size, bytes but for lines, and what it points to.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Content<'o> {
    size: u64,
    bytes: Option<Cow<'o, [u8]>>,
    targets: Vec<String>,
}

/// A data object and what it holds.
type Held<'o> = (DataId, Option<Content<'o>>);

/// How the target of a pointer is told.
pub(super) type Told<'t> = &'t dyn Fn(Place) -> String;

impl Correlation {
    /// Numbered objects that no aligned pair of instructions refers to: equal content first,
    /// then what is the only one left and has a user in common.
    pub(super) fn data_left_over(&mut self, a: &Side<'_, '_>, b: &Side<'_, '_>) {
        let left_a = self.left_over(a, true);
        let left_b = self.left_over(b, false);
        for (text, of_a) in &left_a {
            let Some(of_b) = left_b.get(text) else { continue };
            let held = self.held_by_text((a, of_a), (b, of_b));
            self.pair_equal((a, &held.0), (b, &held.1));
            let held = self.held_by_place((a, of_a), (b, of_b));
            self.pair_equal((a, &held.0), (b, &held.1));
            let rest_a: Vec<_> = of_a.iter().filter(|x| !self.data.contains_key(x)).collect();
            let rest_b: Vec<_> = of_b.iter().filter(|y| !self.data_back.contains_key(y)).collect();
            if let ([x], [y]) = (rest_a.as_slice(), rest_b.as_slice())
                && self.share_users((a, **x), (b, **y))
            {
                self.pair_data(**x, **y);
            }
        }
    }

    fn held_by_text<'a, 'b>(
        &self,
        (a, of_a): (&'a Object<'_>, &[DataId]),
        (b, of_b): (&'b Object<'_>, &[DataId]),
    ) -> (Vec<Held<'a>>, Vec<Held<'b>>) {
        let pair_of = |x: DataId| self.data.get(&x).copied();
        let paired = |y: DataId| self.data_back.contains_key(&y).then_some(y);
        let (told_a, told_b) = (by_text(a, &pair_of), by_text(b, &paired));
        (self.held(a, of_a, &told_a, true), self.held(b, of_b, &told_b, false))
    }

    fn held_by_place<'a, 'b>(
        &self,
        (a, of_a): (&'a Object<'_>, &[DataId]),
        (b, of_b): (&'b Object<'_>, &[DataId]),
    ) -> (Vec<Held<'a>>, Vec<Held<'b>>) {
        let (told_a, told_b) = (by_place(a), by_place(b));
        (self.held(a, of_a, &told_a, true), self.held(b, of_b, &told_b, false))
    }

    /// What those hold that are in no pair yet.
    fn held<'o>(
        &self,
        object: &'o Object<'_>,
        ids: &[DataId],
        told: Told<'_>,
        first: bool,
    ) -> Vec<Held<'o>> {
        let pairs = if first { &self.data } else { &self.data_back };
        let left = ids.iter().filter(|id| !pairs.contains_key(id));
        left.map(|id| (*id, content(object, *id, told))).collect()
    }

    /// Pairs those of equal content, in order, if some function uses both, or none uses either.
    fn pair_equal(
        &mut self,
        (a, of_a): (&Object<'_>, &[Held<'_>]),
        (b, of_b): (&Object<'_>, &[Held<'_>]),
    ) {
        let mut numbers = HashMap::new();
        let mut waiting = Vec::new();
        for (y, content) in of_b {
            let next = numbers.len();
            let number = *numbers.entry(content).or_insert(next);
            waiting.extend(users(b, *y).into_iter().map(|user| ((number, user), *y)));
        }
        let mut queues = Queues::of(waiting.into_iter());
        for (x, content) in of_a {
            let Some(number) = numbers.get(content) else { continue };
            let twins = users(a, *x).into_iter().filter_map(|user| {
                let user = self.partner(user)?;
                queues.first(&(*number, user), |y| self.data_back.contains_key(&y))
            });
            if let Some(y) = twins.min() {
                self.pair_data(*x, y);
            }
        }
    }

    /// What a user of v1 is in v2; nobody is nobody.
    fn partner(&self, user: Option<FunctionId>) -> Option<Option<FunctionId>> {
        match user {
            None => Some(None),
            Some(f) => self.functions.get(&f).map(|g| Some(*g)),
        }
    }

    /// Whether some function uses both, or none uses either.
    fn share_users(&self, (a, x): (&Object<'_>, DataId), (b, y): (&Object<'_>, DataId)) -> bool {
        let of_b = users(b, y);
        users(a, x).into_iter().filter_map(|user| self.partner(user)).any(|g| of_b.contains(&g))
    }

    /// Data objects in no pair yet.
    pub(super) fn left_over(&self, object: &Side<'_, '_>, first: bool) -> Groups {
        let pairs = if first { &self.data } else { &self.data_back };
        let mut groups = Groups::new();
        for (id, d) in object.model.data().filter(|(id, _)| !pairs.contains_key(id)) {
            groups.entry((base(&d.name).text, object.home(d.symbol))).or_default().push(id);
        }
        groups
    }
}

/// The functions that use a data object; one that is none if there are no users.
fn users(object: &Object<'_>, id: DataId) -> Vec<Option<FunctionId>> {
    match object.referrers().functions_of_data.get(&id) {
        None => vec![None],
        Some(all) => all.iter().copied().map(Some).collect(),
    }
}

/// What a data object holds.
pub(super) fn content<'o>(
    object: &'o Object<'_>,
    id: DataId,
    told: Told<'_>,
) -> Option<Content<'o>> {
    let d = object.model.data_object(id)?;
    let section = object.elf.sections.get(d.section.0 as usize)?;
    let targets = section
        .relocations_in(d.start, d.end)
        .iter()
        .map(|r| told(object.model.resolve(&object.elf, r.symbol, r.addend)))
        .collect();
    let size = d.end.saturating_sub(d.start);
    let mask = line_mask(object, id);
    let bytes = section.bytes(d.start, size).map(|bytes| match mask.is_empty() {
        true => Cow::Borrowed(bytes),
        false => bytes.iter().zip(0..).map(|(byte, at)| byte & !mask.at(at)).collect(),
    });
    Some(Content { size, bytes, targets })
}

/// Tells places by where they are.
pub(super) fn by_place<'o>(object: &'o Object<'_>) -> impl Fn(Place) -> String + 'o {
    |place| base(&object.describe(place)).text
}

/// Tells strings, and numbered constants that are texts, by what they say (`__func__` is the name of many); other objects by
/// their `pair`, if they have one.
fn by_text<'o>(
    object: &'o Object<'_>,
    pair: &'o dyn Fn(DataId) -> Option<DataId>,
) -> impl Fn(Place) -> String + 'o {
    move |place| {
        if let Some(text) = string_at(object, place) {
            return format!("{text:?}");
        }
        let name = by_place(object)(place);
        let Place::Data { data, .. } = place else { return name };
        match (pair(data), text(object, data)) {
            (Some(pair), _) => format!("{name} of pair {}", pair.0),
            (None, Some(text)) => format!("{name} {text:?}"),
            (None, None) => name,
        }
    }
}

/// The text in a numbered constant.
fn text<'o>(object: &'o Object<'_>, id: DataId) -> Option<Cow<'o, str>> {
    let d = object.model.data_object(id)?;
    let wanted = is_numbered(&d.name) && is_read_only(object, d.section);
    let section = object.elf.sections.get(d.section.0 as usize).filter(|_| wanted)?;
    let bytes = section.bytes(d.start, d.end.saturating_sub(d.start))?;
    Some(String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next()?))
}
