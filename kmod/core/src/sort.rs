//! Sorting on a kernel stack. The sort in Rust's `core` keeps up to a kilobyte on the stack in each of its recursive
//! calls (`core::slice::sort::shared::smallsort`), which overran the 16 KiB of a stock kernel.

/// Sorts in place; not stable, no recursion, no allocation. A heap sort.
pub fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, &|a, b| a < b);
}

/// Sorts in place by `key`; see [`sort`].
pub fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    sort_by(items, &|a, b| key(a) < key(b));
}

fn sort_by<T>(items: &mut [T], less: &impl Fn(&T, &T) -> bool) {
    for root in (0..items.len() / 2).rev() {
        sift(items, root, less);
    }
    for end in (1..items.len()).rev() {
        items.swap(0, end);
        if let Some(heap) = items.get_mut(..end) {
            sift(heap, 0, less);
        }
    }
}

/// Moves the item at `root` down until no child is greater.
fn sift<T>(heap: &mut [T], mut root: usize, less: &impl Fn(&T, &T) -> bool) {
    loop {
        let left = 2 * root + 1;
        let Some(mut greater) = heap.get(left) else { return };
        let mut child = left;
        if let Some(right) = heap.get(left + 1)
            && less(greater, right)
        {
            (greater, child) = (right, left + 1);
        }
        if !heap.get(root).is_some_and(|item| less(item, greater)) {
            return;
        }
        heap.swap(root, child);
        root = child;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn sorts_as_the_library_does(items: Vec<(u16, u8)>) {
            let mut expected = items.clone();
            #[allow(clippy::disallowed_methods)] // on a stack of the host
            expected.sort_unstable();
            let mut sorted = items.clone();
            sort(&mut sorted);
            prop_assert_eq!(&sorted, &expected);
            let mut by_key = items;
            sort_by_key(&mut by_key, |(number, _)| *number);
            prop_assert!(by_key.is_sorted_by_key(|(number, _)| *number));
            sort(&mut by_key);
            prop_assert_eq!(by_key, expected);
        }
    }
}
