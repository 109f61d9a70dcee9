//! What is drawn: numbers, and of the kinds of changes that a file allows each in its turn.

use std::collections::BTreeSet;

/// The kinds of changes that a file allows. Some, like a side effect more, can be made at every line, others at few.
pub struct Kinds(Vec<(&'static str, u32)>);

impl Kinds {
    /// In an order of chance.
    pub fn new(kinds: BTreeSet<&'static str>, random: &mut Random) -> Self {
        let mut kinds: Vec<_> = kinds.into_iter().map(|kind| (kind, 0)).collect();
        for end in (1..kinds.len()).rev() {
            kinds.swap(end, random.below(end + 1));
        }
        Self(kinds)
    }

    /// All of them, those first that were tried least often.
    pub fn in_turn(&self) -> Vec<&'static str> {
        let mut kinds: Vec<_> = self.0.iter().collect();
        kinds.sort_by_key(|(_, tried)| *tried);
        kinds.into_iter().map(|(kind, _)| *kind).collect()
    }

    /// Notes that a kind was tried, whether that came to something or not.
    pub fn tried(&mut self, kind: &str) {
        let found = self.0.iter_mut().find(|(known, _)| *known == kind);
        found.into_iter().for_each(|(_, tried)| *tried += 1);
    }
}

/// Numbers that only depend on the seed and the number of the mutation (`SplitMix64`).
pub struct Random(u64);

impl Random {
    /// Those of one mutation.
    pub fn new(seed: u64, number: usize) -> Self {
        let mut random = Self(seed.wrapping_mul(0x0100_0000_01b3) ^ number as u64);
        random.next();
        Self(random.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const KINDS: [&str; 4] = ["a", "b", "c", "d"];

    fn drawn(seed: u64, count: usize, possible: impl Fn(&str) -> bool) -> Vec<&'static str> {
        let mut kinds = Kinds::new(KINDS.into(), &mut Random::new(seed, 7));
        let mut drawn = Vec::new();
        for _ in 0..count {
            for kind in kinds.in_turn() {
                kinds.tried(kind);
                if possible(kind) {
                    drawn.push(kind);
                    break;
                }
            }
        }
        drawn
    }

    #[test]
    fn every_kind_has_its_turn() {
        for seed in 0..20 {
            let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
            for kind in drawn(seed, 9, |_| true) {
                *counts.entry(kind).or_default() += 1;
            }
            assert!(
                counts.len() == 4 && counts.values().all(|n| (2..=3).contains(n)),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_made_takes_no_turn_from_the_others() {
        let drawn = drawn(3, 6, |kind| kind != "b");
        for kind in ["a", "c", "d"] {
            assert_eq!(drawn.iter().filter(|other| **other == kind).count(), 2, "{drawn:?}");
        }
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(drawn(1, 12, |_| true), drawn(1, 12, |_| true));
        let first: BTreeSet<&str> = (0..20).map(|seed| drawn(seed, 1, |_| true)[0]).collect();
        assert_eq!(first, KINDS.into());
    }
}
