//! What became of the members and enumerators of a type.

use serde::Serialize;

use super::{Definition, Enumerator, Member};

/// What became of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberChange {
    /// Its name; in v1, if it was renamed.
    pub name: String,
    /// `added`, `removed`, `renamed`, `moved`, `resized`, `retyped`: all that apply.
    pub changes: Vec<&'static str>,
    /// The member in v1.
    pub old: Option<Member>,
    /// The member in v2.
    pub new: Option<Member>,
}

/// What became of an enumerator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnumeratorChange {
    /// Its name; in v1, if it was renamed.
    pub name: String,
    /// `added`, `removed`, `renamed` or `enumerator changed` (its value).
    pub change: &'static str,
    /// The enumerator in v1.
    pub old: Option<Enumerator>,
    /// The enumerator in v2.
    pub new: Option<Enumerator>,
}

/// What is on both sides under one name; then what only its place tells to be the same thing under another; then
/// what came and went. Padding has no name, and where it is follows from the others.
pub(super) fn members(old: &Definition, new: &Definition) -> Vec<MemberChange> {
    let named = |list: &[Member]| -> Vec<Member> {
        list.iter().filter(|m| !m.name.is_empty()).cloned().collect()
    };
    let same_place = |x: &Member, y: &Member| {
        (x.bit_offset, x.bit_size, x.bitfield, &x.type_name)
            == (y.bit_offset, y.bit_size, y.bitfield, &y.type_name)
    };
    let pairs = pair(&named(&old.members), &named(&new.members), |m| &m.name, same_place);
    let change = |(old, new): (Option<Member>, Option<Member>)| {
        let changes: Vec<&'static str> = match (&old, &new) {
            (None, _) => vec!["added"],
            (_, None) => vec!["removed"],
            (Some(x), Some(y)) => [
                (x.name != y.name, "renamed"),
                (x.bit_offset != y.bit_offset, "moved"),
                (x.bit_size != y.bit_size, "resized"),
                (x.type_name != y.type_name || x.bitfield != y.bitfield, "retyped"),
            ]
            .iter()
            .filter(|test| test.0)
            .map(|test| test.1)
            .collect(),
        };
        let name = old.as_ref().or(new.as_ref()).map(|m| m.name.clone()).unwrap_or_default();
        MemberChange { name, changes, old, new }
    };
    pairs.into_iter().map(change).filter(|c| !c.changes.is_empty()).collect()
}

/// Likewise for an enum.
pub(super) fn enumerators(old: &Definition, new: &Definition) -> Vec<EnumeratorChange> {
    let same = |x: &Enumerator, y: &Enumerator| x.value == y.value;
    let pairs = pair(&old.enumerators, &new.enumerators, |e| &e.name, same);
    pairs
        .into_iter()
        .filter_map(|(old, new)| {
            let change = match (&old, &new) {
                (None, _) => "added",
                (_, None) => "removed",
                (Some(x), Some(y)) if x.name != y.name => "renamed",
                (Some(x), Some(y)) if x.value != y.value => "enumerator changed",
                _ => return None,
            };
            let name = old.as_ref().or(new.as_ref()).map(|e| e.name.clone()).unwrap_or_default();
            Some(EnumeratorChange { name, change, old, new })
        })
        .collect()
}

/// Pairs by name, then the left over by `alike`, if only one of each side is.
fn pair<T: Clone>(
    old: &[T],
    new: &[T],
    name: impl Fn(&T) -> &str,
    alike: impl Fn(&T, &T) -> bool,
) -> Vec<(Option<T>, Option<T>)> {
    let gone: Vec<&T> = old.iter().filter(|x| !new.iter().any(|y| name(x) == name(y))).collect();
    let come: Vec<&T> = new.iter().filter(|y| !old.iter().any(|x| name(x) == name(y))).collect();
    let only = |list: &[&T], wanted: &T| -> Option<T> {
        let mut found = list.iter().filter(|other| alike(wanted, other));
        let first = found.next()?;
        found.next().is_none().then(|| (*first).clone())
    };
    let renamed = |x: &T| only(&come, x).filter(|y| only(&gone, y).is_some());
    let mut pairs = Vec::new();
    for x in old {
        let same = new.iter().find(|y| name(x) == name(y)).cloned();
        pairs.push((Some(x.clone()), same.or_else(|| renamed(x))));
    }
    for y in come.iter().copied() {
        if only(&gone, y).is_none_or(|x| renamed(&x).is_none()) {
            pairs.push((None, Some(y.clone())));
        }
    }
    pairs
}
