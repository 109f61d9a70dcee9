//! Whether operations that overlapped could have been done one after the other.
//!
//! The search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993), with Lowe's memory: what has been
//! done and where that leads is looked at once, in whatever order it was done.

use std::collections::HashSet;
use std::hash::Hash;

/// What takes effect at one instant.
pub trait Point {
    /// What it changes, or sees.
    type State: Copy + Eq + Hash;

    /// The state after it; `None` where it cannot be.
    fn take(&self, state: Self::State) -> Option<Self::State>;
}

/// An operation, from a moment to another.
pub struct Operation<P> {
    pub begin: u64,
    pub end: u64,
    /// What it may have done: one of these, each of which is points in order.
    pub ways: Vec<Vec<P>>,
}

/// How far the search got.
#[derive(Debug)]
pub struct Stuck<S> {
    /// The most points that can follow each other: the operation of each, and the state after it.
    pub taken: Vec<(usize, S)>,
    /// The operations of which one would have to go on then.
    pub next: Vec<usize>,
}

/// How far an operation has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Progress {
    Waits,
    Within { way: u8, next: u8 },
    Done,
}

struct Search<'a, P: Point> {
    operations: &'a [Operation<P>],
    progress: Vec<Progress>,
    taken: Vec<(usize, P::State)>,
    seen: HashSet<(Vec<Progress>, P::State)>,
    best: Stuck<P::State>,
}

/// Whether there is an order of the operations in which one that ended before another began comes first, and each
/// point can follow the one before, from the state `first` on.
pub fn check<P: Point>(
    operations: &[Operation<P>],
    first: P::State,
) -> Result<(), Stuck<P::State>> {
    let mut search = Search {
        operations,
        progress: vec![Progress::Waits; operations.len()],
        taken: Vec::new(),
        seen: HashSet::new(),
        best: Stuck { taken: Vec::new(), next: Vec::new() },
    };
    if search.goes_on(first) { Ok(()) } else { Err(search.best) }
}

impl<P: Point> Search<'_, P> {
    /// Whether the rest can follow `state`.
    fn goes_on(&mut self, state: P::State) -> bool {
        let candidates = self.candidates();
        if candidates.is_empty() {
            return true;
        }
        if !self.seen.insert((self.progress.clone(), state)) {
            return false;
        }
        if self.taken.len() > self.best.taken.len() || self.best.next.is_empty() {
            self.best = Stuck { taken: self.taken.clone(), next: candidates.clone() };
        }
        candidates.into_iter().any(|index| self.goes_on_with(index, state))
    }

    /// Those that no other one which is still to come has ended before.
    fn candidates(&self) -> Vec<usize> {
        let left = || {
            let all = self.operations.iter().zip(&self.progress).enumerate();
            all.filter(|(_, (_, progress))| **progress != Progress::Done)
        };
        let Some(first_end) = left().map(|(_, (operation, _))| operation.end).min() else {
            return Vec::new();
        };
        let may_come = left().filter(|(_, (operation, _))| operation.begin <= first_end);
        may_come.map(|(index, _)| index).collect()
    }

    /// Whether the rest can follow `state` where the next point is of this operation.
    fn goes_on_with(&mut self, index: usize, state: P::State) -> bool {
        let (Some(operation), Some(before)) =
            (self.operations.get(index), self.progress.get(index).copied())
        else {
            return false;
        };
        for (way, points) in (0..).zip(&operation.ways) {
            let next = match before {
                Progress::Waits => 0,
                Progress::Within { way: chosen, next } if chosen == way => next,
                _ => continue,
            };
            let Some(after) = points.get(usize::from(next)).and_then(|point| point.take(state))
            else {
                continue;
            };
            let next = next + 1;
            let is_last = usize::from(next) == points.len();
            self.note(index, if is_last { Progress::Done } else { Progress::Within { way, next } });
            self.taken.push((index, after));
            if self.goes_on(after) {
                return true;
            }
            self.taken.pop();
        }
        self.note(index, before);
        false
    }

    fn note(&mut self, index: usize, progress: Progress) {
        if let Some(noted) = self.progress.get_mut(index) {
            *noted = progress;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is written and read.
    enum Register {
        Write(u32),
        Read(u32),
    }

    impl Point for Register {
        type State = u32;

        fn take(&self, state: u32) -> Option<u32> {
            match *self {
                Register::Write(value) => Some(value),
                Register::Read(value) => (value == state).then_some(state),
            }
        }
    }

    use Register::{Read, Write};

    fn one(begin: u64, end: u64, point: Register) -> Operation<Register> {
        Operation { begin, end, ways: vec![vec![point]] }
    }

    #[test]
    fn what_overlaps_may_come_in_either_order() {
        let read = |value| [one(0, 10, Write(1)), one(5, 15, Read(value))];
        assert!(check(&read(0), 0).is_ok());
        assert!(check(&read(1), 0).is_ok());
        let stuck = check(&read(2), 0).unwrap_err();
        assert_eq!((stuck.taken, stuck.next), (vec![(0, 1)], vec![1]), "nobody wrote that");
    }

    #[test]
    fn what_ended_before_comes_first() {
        let old = [one(0, 10, Write(1)), one(11, 12, Read(0))];
        assert!(check(&old, 0).is_err(), "a lost write");
        let back = [one(0, 30, Write(1)), one(1, 2, Read(1)), one(3, 4, Read(0))];
        assert!(check(&back, 0).is_err(), "the new value, then the old one");
        let forth = [one(0, 30, Write(1)), one(1, 2, Read(0)), one(3, 4, Read(1))];
        assert!(check(&forth, 0).is_ok());
    }

    #[test]
    fn two_points_may_have_others_between_them() {
        let ways = || vec![vec![Read(7)], vec![Write(1), Write(2)]];
        let with = |first, second| {
            [
                Operation { begin: 0, end: 30, ways: ways() },
                one(1, 2, Read(first)),
                one(3, 4, Read(second)),
            ]
        };
        assert!(check(&with(1, 2), 0).is_ok());
        assert!(check(&with(0, 1), 0).is_ok());
        assert!(check(&with(2, 1), 0).is_err(), "in the wrong order");
        assert!(check(&with(7, 7), 7).is_ok(), "the other way");
    }

    #[test]
    fn an_operation_that_nothing_explains_is_found() {
        let operations = [one(0, 1, Write(1)), Operation { begin: 2, end: 3, ways: Vec::new() }];
        let stuck = check(&operations, 0).unwrap_err();
        assert_eq!((stuck.taken, stuck.next), (vec![(0, 1)], vec![1]));
    }
}
