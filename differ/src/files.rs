//! The source files that a linked file's local symbols come from, as the linker notes them (`STT_FILE`), and which file of
//! one side is which of the other.

use std::collections::{BTreeMap, HashSet};

/// The files of one side; the first stands for none.
#[derive(Debug)]
pub(crate) struct Files<'d> {
    names: Vec<&'d str>,
    /// Names of the symbols of each.
    symbols: Vec<HashSet<&'d str>>,
}

impl<'d> Files<'d> {
    /// The files of these names, with the symbols (number of the file, name).
    pub(crate) fn new(
        names: &[&'d str],
        symbols: impl Iterator<Item = (u32, &'d str)>,
    ) -> Files<'d> {
        let mut files = Files { names: names.to_vec(), symbols: vec![HashSet::new(); names.len()] };
        for (file, name) in symbols {
            if let Some(of_file) = files.symbols.get_mut(file as usize) {
                of_file.insert(name);
            }
        }
        files
    }

    fn by_name(&self) -> BTreeMap<&'d str, Vec<usize>> {
        let mut names: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, name) in self.names.iter().enumerate().skip(1) {
            names.entry(name).or_default().push(number);
        }
        names
    }

    fn common(&self, file: usize, other: &Files<'_>, of_other: usize) -> usize {
        match (self.symbols.get(file), other.symbols.get(of_other)) {
            (Some(x), Some(y)) => x.iter().filter(|name| y.contains(**name)).count(),
            _ => 0,
        }
    }
}

/// Numbers the files of both sides: those with the same number are taken for the same file. Number 0 is for symbols of
/// no file. Files of one name are told apart by their order or, where that does not work out, by the symbols they hold.
pub(crate) fn number(a: &Files<'_>, b: &Files<'_>) -> (Vec<u64>, Vec<u64>) {
    let (in_a, in_b) = (a.by_name(), b.by_name());
    let mut numbers = (vec![0; a.names.len()], vec![0; b.names.len()]);
    let mut next = 1;
    let give = |list: &mut Vec<u64>, file: usize, number: u64| {
        if let Some(slot) = list.get_mut(file) {
            *slot = number;
        }
    };
    for (name, old) in &in_a {
        let mut new = in_b.get(name).cloned().unwrap_or_default();
        let same_count = old.len() == new.len();
        for file in old {
            give(&mut numbers.0, *file, next);
            let found = if same_count {
                Some(0)
            } else {
                // The most common symbols; of equals the first.
                let common = |i: &usize| new.get(*i).map_or(0, |other| a.common(*file, b, *other));
                (0..new.len()).max_by_key(|i| (common(i), std::cmp::Reverse(*i)))
            };
            if let Some(found) = found.filter(|i| *i < new.len()) {
                give(&mut numbers.1, new.remove(found), next);
            }
            next += 1;
        }
    }
    for number in numbers.1.iter_mut().skip(1).filter(|n| **n == 0) {
        *number = next;
        next += 1;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_go_by_order_or_by_their_symbols() {
        let one = Files::new(&["", "a.c", "b.c", "a.c"], [(1, "f"), (3, "g")].into_iter());
        let same = Files::new(&["", "a.c", "a.c", "b.c"], [(1, "x"), (2, "y")].into_iter());
        let (of_one, of_same) = number(&one, &same);
        assert_eq!((of_one[1], of_one[3], of_one[2]), (of_same[1], of_same[2], of_same[3]));
        assert_eq!((of_one[0], of_same[0]), (0, 0));
        let more =
            Files::new(&["", "a.c", "a.c", "a.c"], [(1, "new"), (2, "f"), (3, "g")].into_iter());
        let (of_one, of_more) = number(&one, &more);
        assert_eq!((of_one[1], of_one[3]), (of_more[2], of_more[3]));
        assert!(!of_one.contains(&of_more[1]), "a file that is new");
    }
}
