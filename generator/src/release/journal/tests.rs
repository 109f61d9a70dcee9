//! What a journal keeps, and what it does with what it cannot use.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Mutex;

use anyhow::bail;

use super::*;

/// An item: its name, and what its part is made of.
type Item = (&'static str, u32);

const ITEMS: [Item; 4] = [("vmlinux", 1), ("a/b", 2), ("a%b", 3), ("c", 4)];

/// A journal of its own, and the items that were found out about.
struct Bench {
    cache: tempfile::TempDir,
    asked: Mutex<Vec<Item>>,
}

impl Bench {
    fn new() -> Self {
        Self { cache: tempfile::tempdir().unwrap(), asked: Mutex::default() }
    }

    fn journal(&self) -> Journal {
        Journal::open(self.cache.path(), Path::new("v1"), "diff", "compiled").unwrap()
    }

    /// A part that tells which item it is of.
    fn part(&self, item: &Item) -> Plan {
        self.asked.lock().unwrap().push(*item);
        Plan { notes: vec![format!("{} {}", item.0, item.1)], ..Plan::default() }
    }

    fn run(&self, journal: &Journal, items: &[Item], jobs: usize) -> Vec<(String, Vec<String>)> {
        let quiet = Reporter::new(true, false);
        let found = journal
            .each(Some(jobs), &quiet, items, |i| i.0, |i| Ok(i.1), |i| Ok(self.part(i)))
            .unwrap();
        found.into_iter().map(|(name, part)| (name.to_owned(), part.notes)).collect()
    }

    /// The items found out about since this was asked last.
    fn asked(&self) -> BTreeSet<Item> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let set: BTreeSet<Item> = asked.iter().copied().collect();
        assert_eq!(set.len(), asked.len(), "twice in one run");
        set
    }
}

fn of(items: &[Item]) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<_> =
        items.iter().map(|i| (i.0.to_owned(), vec![format!("{} {}", i.0, i.1)])).collect();
    all.sort();
    all
}

#[test]
fn what_was_found_is_not_found_out_again() {
    let bench = Bench::new();
    assert_eq!(bench.run(&bench.journal(), &ITEMS[..2], 1), of(&ITEMS[..2]));
    assert_eq!(bench.asked(), BTreeSet::from_iter(ITEMS[..2].iter().copied()));
    // Another run goes on from there.
    assert_eq!(bench.run(&bench.journal(), &ITEMS, 8), of(&ITEMS));
    assert_eq!(bench.asked(), BTreeSet::from_iter(ITEMS[2..].iter().copied()));
    assert_eq!(bench.run(&bench.journal(), &ITEMS, 1), of(&ITEMS));
    assert_eq!(bench.asked(), BTreeSet::new());
}

#[test]
fn a_part_is_of_what_it_was_made_of() {
    let bench = Bench::new();
    let journal = bench.journal();
    assert_eq!(bench.run(&journal, &[("c", 1)], 1), of(&[("c", 1)]));
    // Neither that of another one, nor in its place.
    for made_of in [2, 1, 2] {
        assert_eq!(bench.run(&journal, &[("c", made_of)], 1), of(&[("c", made_of)]));
    }
    assert_eq!(bench.asked(), BTreeSet::from([("c", 1), ("c", 2)]));
    // What is made of several does not run together.
    let entry = |name: &str, made_of: [&str; 2]| journal.entry(name, &made_of);
    assert_ne!(entry("c", ["ab", "c"]), entry("c", ["a", "bc"]));
    assert_ne!(entry("ca", ["b", "c"]), entry("c", ["ab", "c"]));
}

#[test]
fn comparisons_have_journals_of_their_own() {
    let bench = Bench::new();
    let open = |v1: &str, diff, how| {
        Journal::open(bench.cache.path(), Path::new(v1), diff, how).unwrap().directory
    };
    let mut all = BTreeSet::from([bench.journal().directory]);
    for (v1, diff, how) in
        [("v2", "diff", "compiled"), ("v1", "other", "compiled"), ("v1", "diff", "shipped")]
    {
        assert!(all.insert(open(v1, diff, how)), "{v1} {diff} {how}");
    }
    assert!(!all.insert(open("v1", "diff", "compiled")));
}

#[test]
fn what_was_broken_off_is_kept_as_far_as_it_came() {
    let bench = Bench::new();
    let quiet = Reporter::new(true, false);
    let failed = bench.journal().each(
        Some(1),
        &quiet,
        &ITEMS,
        |i| i.0,
        |i| Ok(i.1),
        |i| if i.0 == "c" { bail!("cannot be read") } else { Ok(bench.part(i)) },
    );
    assert_eq!(failed.unwrap_err().to_string(), "cannot be read");
    assert_eq!(bench.asked(), BTreeSet::from_iter(ITEMS[..3].iter().copied()));
    assert_eq!(bench.run(&bench.journal(), &ITEMS, 1), of(&ITEMS));
    assert_eq!(bench.asked(), BTreeSet::from([("c", 4)]));
}

#[test]
fn what_a_killed_writer_left_is_in_nobody_s_way() {
    let bench = Bench::new();
    let journal = bench.journal();
    // A file that was never moved into its place: half of what is to be said.
    fs::write(journal.directory.join(".tmpAbCdEf"), b"{\"schema\":1,\"outc").unwrap();
    assert_eq!(bench.run(&journal, &ITEMS, 8), of(&ITEMS));
    bench.asked();
    fs::write(journal.directory.join(".tmpGhIjKl"), b"").unwrap();
    assert_eq!(bench.run(&journal, &ITEMS, 8), of(&ITEMS));
    assert_eq!(bench.asked(), BTreeSet::new());
}

#[test]
fn a_damaged_entry_is_found_out_again() {
    let bench = Bench::new();
    let journal = bench.journal();
    let item = [("c", 4)];
    bench.run(&journal, &item, 1);
    let path = journal.entry("c", &4_u32);
    let whole = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    // `c 4` is a text in it: with another number it would be as good a file.
    let text = whole.windows(3).position(|bytes| bytes == b"c 4").unwrap();
    let damages = [
        Vec::new(),
        whole[..1].to_vec(),
        whole[..blake3::OUT_LEN].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        [&whole[..], b" "].concat(),
        flipped(0),
        flipped(text + 2),
        whole[blake3::OUT_LEN..].to_vec(),
        vec![0; whole.len()],
    ];
    bench.asked();
    for damaged in damages {
        fs::write(&path, &damaged).unwrap();
        assert_eq!(bench.run(&journal, &item, 1), of(&item), "{damaged:?}");
        assert_eq!(bench.asked(), BTreeSet::from(item), "{damaged:?}");
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn many_write_one_journal() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(bench.run(&bench.journal(), &ITEMS, 4), of(&ITEMS)));
        }
    });
    bench.asked.lock().unwrap().clear();
    assert_eq!(bench.run(&bench.journal(), &ITEMS, 4), of(&ITEMS));
    assert_eq!(bench.asked(), BTreeSet::new());
}
