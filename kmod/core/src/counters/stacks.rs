//! What a stack tells of calls that are counted, and of those that are not.

use crate::relocate::Range;
use crate::stack::first_touch;

/// Where a counted call returns to: the place behind the call of an edition, in a counting handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The return address.
    pub address: u64,
    /// Index of the function.
    pub function: u32,
    /// Which edition was called.
    pub edition: bool,
}

/// The innermost frame of a call that no counter knows, or that may be deciding which edition to take; `trace` is innermost
/// first.
///
/// `ranges` is the code of the edition that is left, with what handlers come from and all of the update's code (as
/// [`crate::normalise`] leaves them); `handlers` lies in it; `labels` are sorted by address.
///
/// A counted call of a function has one frame of it, and the handler's label behind that. So of frames in that code without
/// another between them only one may come before a label: what is further in might have been called by the function
/// and have come by another handler, before there were counting ones. Where a function of the update calls one that is its own
/// this says more than is so, and what is waited for takes longer.
pub fn uncounted(
    trace: &[u64],
    ranges: &[Range],
    handlers: Range,
    labels: &[Label],
) -> Option<usize> {
    let is_label =
        |address: u64| labels.binary_search_by_key(&address, |label| label.address).is_ok();
    // Those that no label has been seen behind.
    let (mut first, mut open) = (0, 0u32);
    for (frame, &address) in trace.iter().enumerate() {
        if is_label(address) {
            if open > 1 {
                return Some(first);
            }
            open = 0;
        } else if first_touch(&[address], &[handlers]).is_some() {
            return Some(if open > 0 { first } else { frame });
        } else if first_touch(&[address], ranges).is_some() {
            if open == 0 {
                first = frame;
            }
            open = open.saturating_add(1);
        } else if open > 0 {
            return Some(first);
        }
    }
    (open > 0).then_some(first)
}

/// How many counted calls of an edition `trace` shows, and the function of the innermost; `labels` are sorted by address.
pub fn calls_of(edition: bool, trace: &[u64], labels: &[Label]) -> (u32, Option<u32>) {
    trace.iter().fold((0, None), |(count, function), address| {
        let found = labels.binary_search_by_key(address, |label| label.address);
        match found.ok().and_then(|at| labels.get(at)) {
            Some(label) if label.edition == edition => {
                (u32::saturating_add(count, 1), function.or(Some(label.function)))
            }
            _ => (count, function),
        }
    })
}
