//! gcc's clones of functions (`f.isra.0`), whose numbers say nothing.

use std::collections::BTreeMap;
use std::hash::Hash;

use super::{Correlation, Side, fingerprint};
use crate::model::FunctionId;
use crate::names::base;
use crate::queues::Queues;

/// A function that may be a clone.
struct Clone<'o> {
    id: FunctionId,
    name: &'o str,
    /// Which clone suffixes it has.
    kind: String,
    /// Its body ([`fingerprint`]).
    body: u64,
}

impl Correlation {
    /// gcc's clones of functions: equal bodies first, then equal names, then what is left over
    /// as the only one of its kind.
    pub(super) fn clones(&mut self, a: &Side<'_, '_>, b: &Side<'_, '_>) {
        let groups_a = self.clone_groups(a, true);
        let groups_b = self.clone_groups(b, false);
        for (text, of_a) in &groups_a {
            let Some(of_b) = groups_b.get(text) else { continue };
            let (of_a, of_b) = (&known(a, of_a), &known(b, of_b));
            self.pair_clones(of_a, of_b, |clone| (clone.kind.as_str(), clone.body));
            self.pair_clones(of_a, of_b, |clone| clone.body);
            self.pair_clones(of_a, of_b, |clone| clone.name);
            self.only_ones_left(of_a, of_b);
        }
    }

    /// Pairs those with the same key, in order.
    fn pair_clones<'c, K: Eq + Hash>(
        &mut self,
        of_a: &'c [Clone<'_>],
        of_b: &'c [Clone<'_>],
        key: impl Fn(&'c Clone<'_>) -> K,
    ) {
        let mut queues = Queues::of(of_b.iter().map(|y| (key(y), y.id)));
        for x in of_a.iter().filter(|x| !self.functions.contains_key(&x.id)).collect::<Vec<_>>() {
            let found = queues.first(&key(x), |y| self.functions_back.contains_key(&y));
            if let Some(y) = found {
                self.pair_functions(x.id, y);
            }
        }
    }

    /// Pairs what is left over as the only one of its kind.
    fn only_ones_left(&mut self, of_a: &[Clone<'_>], of_b: &[Clone<'_>]) {
        let mut left: BTreeMap<&str, [Vec<FunctionId>; 2]> = BTreeMap::new();
        for x in of_a.iter().filter(|x| !self.functions.contains_key(&x.id)) {
            left.entry(&x.kind).or_default()[0].push(x.id);
        }
        for y in of_b.iter().filter(|y| !self.functions_back.contains_key(&y.id)) {
            left.entry(&y.kind).or_default()[1].push(y.id);
        }
        for sides in left.into_values() {
            if let [[x], [y]] = sides.each_ref().map(Vec::as_slice) {
                self.pair_functions(*x, *y);
            }
        }
    }

    /// Functions in no pair yet, by the name the programmer wrote.
    fn clone_groups(
        &self,
        object: &Side<'_, '_>,
        first: bool,
    ) -> BTreeMap<(String, u64), Vec<FunctionId>> {
        let pairs = if first { &self.functions } else { &self.functions_back };
        let mut groups: BTreeMap<(String, u64), Vec<FunctionId>> = BTreeMap::new();
        for (id, f) in object.model.functions() {
            if !pairs.contains_key(&id) && f.parent.is_none() {
                let home = object.home(f.symbol);
                groups.entry((base(&f.name).text, home)).or_default().push(id);
            }
        }
        groups
    }
}

fn known<'o>(object: &'o Side<'_, '_>, ids: &[FunctionId]) -> Vec<Clone<'o>> {
    let clone = |id: &FunctionId| {
        let name = &object.function(*id)?.name;
        Some(Clone { id: *id, name, kind: base(name).clone, body: fingerprint(object, *id) })
    };
    ids.iter().filter_map(clone).collect()
}
