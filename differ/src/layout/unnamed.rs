//! Enums without a name: constants, each of which counts for itself.

use std::collections::BTreeMap;

use super::{
    Definition, Enumerator, EnumeratorChange, LayoutChange, LayoutKind, LayoutVerdict, TypeName,
    Types,
};

/// What a report calls the enum that begins with this enumerator.
pub(super) fn name(first: &str) -> String {
    format!("of {first}")
}

/// Whether that is the name of an enum that has none.
pub(super) fn is_one(name: &TypeName) -> bool {
    first_of(name).is_some()
}

/// The first enumerator of an enum that has no name.
pub(super) fn first_of(name: &TypeName) -> Option<&str> {
    name.name.strip_prefix("of ").filter(|_| name.kind == LayoutKind::Enum)
}

/// An enumerator by its value, and where it is.
type Values<'t> = BTreeMap<i128, (&'t TypeName, &'t Definition, &'t Enumerator)>;

/// Those of whose enumerators both sides have one with another value. What comes and goes shows in its users.
pub(super) fn compare(old: &Types, new: &Types) -> Vec<LayoutChange> {
    let (of_old, of_new) = (values(old, new), values(new, old));
    let mut changes: BTreeMap<&TypeName, LayoutChange> = BTreeMap::new();
    for (enumerator, x) in &of_old {
        let Some(y) = of_new.get(enumerator) else { continue };
        let gone = x.iter().find(|(value, _)| !y.contains_key(value));
        let come = y.iter().find(|(value, _)| !x.contains_key(value));
        let (Some((_, (name, before, x))), Some((_, (_, after, y)))) = (gone, come) else {
            continue;
        };
        let change = changes.entry(name).or_insert_with(|| LayoutChange {
            kind: name.kind,
            name: name.name.clone(),
            verdict: LayoutVerdict::Changed,
            old: vec![(*before).clone()],
            new: vec![(*after).clone()],
            members: Vec::new(),
            enumerators: Vec::new(),
            defined_in: None,
            embedded_in: Vec::new(),
            instances: Vec::new(),
        });
        change.enumerators.push(EnumeratorChange {
            name: (*enumerator).to_owned(),
            change: "enumerator changed",
            old: Some((*x).clone()),
            new: Some((*y).clone()),
        });
    }
    changes.into_values().collect()
}

/// The enumerators of a side's enums that the other side has not like that.
fn values<'t>(types: &'t Types, others: &Types) -> BTreeMap<&'t str, Values<'t>> {
    let mut found: BTreeMap<&str, Values<'t>> = BTreeMap::new();
    for (name, definitions) in types.iter().filter(|(name, _)| is_one(name)) {
        let others = others.get(name);
        let is_old = |of: &&Definition| others.is_some_and(|others| others.contains(*of));
        for definition in definitions.iter().filter(|of| !is_old(of)) {
            for e in &definition.enumerators {
                let place = (name, definition, e);
                found.entry(&e.name).or_default().entry(e.value).or_insert(place);
            }
        }
    }
    found
}
