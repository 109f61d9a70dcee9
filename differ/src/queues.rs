//! What waits for a partner, by what the two must have in common. To find one takes no longer the more there are.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Things in order, by key. One thing may wait under several keys.
#[derive(Debug)]
pub(crate) struct Queues<K, T> {
    waiting: HashMap<K, VecDeque<T>>,
}

impl<K: Eq + Hash, T: Copy> Queues<K, T> {
    /// Things that wait, in this order.
    pub(crate) fn of(things: impl Iterator<Item = (K, T)>) -> Self {
        let mut waiting: HashMap<K, VecDeque<T>> = HashMap::new();
        for (key, thing) in things {
            waiting.entry(key).or_default().push_back(thing);
        }
        Self { waiting }
    }

    /// The first one of that key that is not taken. What is taken stays so, and is not looked at again.
    pub(crate) fn first(&mut self, key: &K, is_taken: impl Fn(T) -> bool) -> Option<T> {
        let queue = self.waiting.get_mut(key)?;
        while queue.front().is_some_and(|thing| is_taken(*thing)) {
            queue.pop_front();
        }
        queue.front().copied()
    }
}
