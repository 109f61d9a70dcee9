//! Whether a task is in the code to be switched.

use crate::relocate::Range;
use crate::sort::sort_by_key;

/// Where a stack touches code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Index of the frame, 0 is the innermost.
    pub frame: usize,
    /// Index of the range.
    pub range: usize,
}

/// The innermost return address of `trace` that lies in one of `ranges` (sorted and disjoint, as
/// [`normalise`] leaves them).
///
/// Both ends count. A call as a function's last instruction (of one that does not return) leaves the function's
/// end as return address; taking a neighbour's first byte for it only delays the switch.
pub fn first_touch(trace: &[u64], ranges: &[Range]) -> Option<Touch> {
    trace.iter().enumerate().find_map(|(frame, &address)| {
        let range = ranges.partition_point(|range| range.end < address);
        let inside = ranges.get(range).is_some_and(|range| range.start <= address);
        inside.then_some(Touch { frame, range })
    })
}

/// How many activations of that code `trace` shows: return addresses that lie in one of `ranges`. One that `calls_another`
/// is no activation beside the one right inside of it: a handler that counts, and waits for the edition it has called.
pub fn activations(trace: &[u64], ranges: &[Range], calls_another: impl Fn(u64) -> bool) -> u32 {
    let (mut count, mut inside) = (0u32, false);
    for &address in trace {
        let touched = first_touch(&[address], ranges).is_some();
        count = count.saturating_add(u32::from(touched && !(inside && calls_another(address))));
        inside = touched;
    }
    count
}

/// Sorts ranges for [`first_touch`]; `false` if two overlap or one is empty or turned round.
pub fn normalise(ranges: &mut [Range]) -> bool {
    sort_by_key(ranges, |range| range.start);
    ranges.iter().all(|range| range.start < range.end)
        && ranges.windows(2).all(|pair| matches!(pair, [a, b] if a.end <= b.start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RANGES: [Range; 3] = [
        Range { start: 0x100, end: 0x200 },
        Range { start: 0x300, end: 0x310 },
        Range { start: 0x310, end: 0x400 },
    ];

    #[test]
    fn both_ends_count() {
        let touch = |address| first_touch(&[address], &RANGES).map(|touch| touch.range);
        assert_eq!(touch(0xff), None);
        assert_eq!(touch(0x100), Some(0));
        assert_eq!(touch(0x200), Some(0));
        assert_eq!(touch(0x201), None);
        assert_eq!(touch(0x310), Some(1));
        assert_eq!(touch(0x311), Some(2));
        assert_eq!(touch(u64::MAX), None);
    }

    #[test]
    fn every_frame_is_an_activation() {
        let none = |_| false;
        assert_eq!(activations(&[1, 0x305, 0x150, 0x155], &RANGES, none), 3);
        assert_eq!(activations(&[1, 0x500], &RANGES, none), 0);
    }

    #[test]
    fn a_handler_and_what_it_called_are_one_activation() {
        let handler = |address| address == 0x150;
        assert_eq!(activations(&[1, 0x305, 0x150, 2], &RANGES, handler), 1);
        // What it called is not watched.
        assert_eq!(activations(&[1, 0x150, 2], &RANGES, handler), 1);
        assert_eq!(activations(&[0x305, 0x150, 0x305, 0x150, 1, 0x150], &RANGES, handler), 3);
    }

    #[test]
    fn the_innermost_frame_is_named() {
        let touch = first_touch(&[1, 0x305, 0x150], &RANGES);
        assert_eq!(touch, Some(Touch { frame: 1, range: 1 }));
    }

    #[test]
    fn overlaps_are_refused() {
        let mut ranges = RANGES;
        ranges.reverse();
        assert!(normalise(&mut ranges));
        assert_eq!(ranges, RANGES);
        ranges[1].start = 0x1ff;
        assert!(!normalise(&mut ranges));
        assert!(!normalise(&mut [Range { start: 5, end: 5 }]));
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_search(trace in proptest::collection::vec(0u64..0x500, 0..6)) {
            let plain = trace.iter().position(|at| {
                RANGES.iter().any(|range| range.start <= *at && *at <= range.end)
            });
            prop_assert_eq!(first_touch(&trace, &RANGES).map(|touch| touch.frame), plain);
        }
    }
}
