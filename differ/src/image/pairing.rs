//! Which function or variable of one image is which of the other.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::code::Pairs;
use super::load::Symbol;
use super::names::Names;
use crate::load::Section;
use crate::queues::Queues;

/// A function or variable: index of its best symbol.
pub(super) type Id = u32;

/// What kind of symbol is wanted.
pub(super) type Wanted = fn(&Symbol<'_>, &Section<'_>) -> bool;

/// All functions or variables of two images.
pub(super) struct Paired {
    pub pairs: Vec<(Id, Id)>,
    pub removed: Vec<Id>,
    pub new: Vec<Id>,
}

/// What a symbol is called, and the source it is from.
pub(super) fn name(names: &Names<'_, '_>, id: Id) -> (String, String) {
    let Some(symbol) = names.image.symbols.get(id as usize) else { return Default::default() };
    (symbol.name.to_owned(), names.source(symbol).to_owned())
}

/// All wanted symbols of an image, by identity: one for each address.
fn all(names: &Names<'_, '_>, wanted: Wanted) -> BTreeMap<u64, Vec<Id>> {
    let mut at: BTreeMap<(u32, u64), Id> = BTreeMap::new();
    let symbols = &names.image.symbols;
    for (id, symbol) in symbols.iter().enumerate() {
        let section = names.image.sections.get(symbol.section as usize);
        if symbol.size == 0 || !section.is_some_and(|s| wanted(symbol, &s.section)) {
            continue;
        }
        let rank = |id: Id| symbols.get(id as usize).map(|s| (!s.global, s.name));
        let best = at.entry((symbol.section, symbol.address)).or_insert(id as Id);
        if rank(id as Id) < rank(*best) {
            *best = id as Id;
        }
    }
    let mut all: BTreeMap<u64, Vec<Id>> = BTreeMap::new();
    for id in at.into_values() {
        if let Some(identity) = names.identities.get(id as usize) {
            all.entry(identity.hash).or_default().push(id);
        }
    }
    all
}

/// Pairs symbols by identity; of several with one identity those that are `alike`, then those of one name, then the others
/// by order.
pub(super) fn pair(
    a: &Names<'_, '_>,
    b: &Names<'_, '_>,
    wanted: Wanted,
    alike: &dyn Fn(Id, Id) -> bool,
) -> Paired {
    /// Each of one side may have to be compared with each of the other.
    const MOST: usize = 4096;
    let (old, mut new) = (all(a, wanted), all(b, wanted));
    let (mut pairs, mut removed) = (Vec::new(), Vec::new());
    let one_name = |x: Id, y: Id| match (a.known(x), b.known(y)) {
        (Some((_, s)), Some((_, t))) => s.name == t.name,
        _ => false,
    };
    let numbered = |xs: &[Id]| xs.iter().all(|x| a.known(*x).is_some_and(|(i, _)| i.numbered));
    for (hash, mut xs) in old {
        let mut ys = new.remove(&hash).unwrap_or_default();
        if (2..=MOST).contains(&xs.len().saturating_mul(ys.len())) && numbered(&xs) {
            take(&mut xs, &mut ys, &mut pairs, &|x, y| one_name(x, y) && alike(x, y));
            take(&mut xs, &mut ys, &mut pairs, alike);
        }
        take_by_name((a, &mut xs), (b, &mut ys), &mut pairs);
        let rest = xs.len().min(ys.len());
        pairs.extend(xs.drain(..rest).zip(ys.drain(..rest)));
        removed.extend(xs);
        if !ys.is_empty() {
            new.insert(hash, ys);
        }
    }
    pairs.sort_unstable();
    let mut new: Vec<Id> = new.into_values().flatten().collect();
    removed.sort_unstable();
    new.sort_unstable();
    Paired { pairs, removed, new }
}

/// Moves those of both that go together.
fn take(
    xs: &mut Vec<Id>,
    ys: &mut Vec<Id>,
    pairs: &mut Vec<(Id, Id)>,
    together: &dyn Fn(Id, Id) -> bool,
) {
    xs.retain(|x| match ys.iter().position(|y| together(*x, *y)) {
        Some(at) => {
            pairs.push((*x, ys.remove(at)));
            false
        }
        None => true,
    });
}

/// Moves those of both that have one name, in order.
fn take_by_name(
    (a, xs): (&Names<'_, '_>, &mut Vec<Id>),
    (b, ys): (&Names<'_, '_>, &mut Vec<Id>),
    pairs: &mut Vec<(Id, Id)>,
) {
    let mut taken = HashSet::new();
    let mut named =
        Queues::of(ys.iter().filter_map(|y| b.known(*y).map(|(_, symbol)| (symbol.name, *y))));
    xs.retain(|x| {
        let name = a.known(*x).map_or("", |(_, symbol)| symbol.name);
        let found = named.first(&name, |y| taken.contains(&y));
        if let Some(y) = found {
            taken.insert(y);
            pairs.push((*x, y));
        }
        found.is_none()
    });
    ys.retain(|y| !taken.contains(y));
}

/// Which function, and which numbered variable, of one side is which of the other: functions as they are paired, variables as
/// the functions compared so far have it. By address, for one place may have several symbols.
#[derive(Default, Clone)]
pub(super) struct Known {
    forth: HashMap<u64, u64>,
    back: HashMap<u64, u64>,
}

impl Known {
    /// Knows functions.
    pub(super) fn of(a: &Names<'_, '_>, b: &Names<'_, '_>, functions: &[(Id, Id)]) -> Self {
        let mut known = Self::default();
        for (x, y) in functions {
            if let (Some((_, s)), Some((_, t))) = (a.known(*x), b.known(*y)) {
                known.forth.insert(s.address, t.address);
                known.back.insert(t.address, s.address);
            }
        }
        known
    }

    /// Whether all pairs are as they are known to be; those that nobody knows are, from now on.
    pub(super) fn check(
        &mut self,
        a: &Names<'_, '_>,
        b: &Names<'_, '_>,
        pairs: &Pairs,
    ) -> std::result::Result<(), String> {
        for (x, y) in pairs {
            let (Some((_, s)), Some((_, t))) = (a.known(*x), b.known(*y)) else {
                return Err("uses a symbol that is not there".to_owned());
            };
            let forth = *self.forth.entry(s.address).or_insert(t.address);
            let back = *self.back.entry(t.address).or_insert(s.address);
            if forth != t.address || back != s.address {
                let (old, new) = (name(a, *x).0, name(b, *y).0);
                return Err(format!("uses {new} where it used {old}, which is another one"));
            }
        }
        Ok(())
    }

    /// Whether functions that are pointed to are known as pairs.
    pub(super) fn agrees(&self, a: &Names<'_, '_>, b: &Names<'_, '_>, pairs: &Pairs) -> bool {
        pairs.iter().all(|(x, y)| match (a.known(*x), b.known(*y)) {
            (Some((_, s)), Some((_, t))) => self.forth.get(&s.address) == Some(&t.address),
            _ => false,
        })
    }
}
