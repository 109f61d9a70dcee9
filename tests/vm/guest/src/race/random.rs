//! Choices that a seed makes again.

use super::model::What;

/// Steele, Lea and Flood's SplitMix64.
pub struct Random(u64);

impl Random {
    /// The choices of one of those who race.
    pub fn new(seed: u64, who: u32) -> Random {
        // Not the next numbers of another.
        Random(Random(seed ^ u64::from(who) << 32).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number that is less than `count`.
    pub fn below(&mut self, count: u64) -> u64 {
        self.next() % count.max(1)
    }

    /// Something to do. An update must be loaded and reverted again and again for the rest to be possible.
    pub fn what(&mut self) -> What {
        let takes = self.below(2) == 1;
        match self.below(16) {
            0..=3 => What::Load { takes },
            4 | 5 => What::Revert,
            6 | 7 => What::Enable,
            8 | 9 => What::Unload { revert: false },
            10 => What::Unload { revert: true },
            11 | 12 => What::Policy { takes, code: self.below(2) == 1 },
            _ => What::Edition,
        }
    }
}
