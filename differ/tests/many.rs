//! Hundreds of thousands of numbered names: what is compared with each of its kind would take hours.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fmt::Write;
use std::process::Command;

use dynamos_differ::image::{self, Image};
use dynamos_differ::verdict::{DataChange, Verdict};
use dynamos_differ::{Object, Pair};

const MANY: u32 = 200_000;

/// The one that differs.
const ONE: u32 = 150_000;

/// An object and an image of it: `s.N` holds N and `f.constprop.N` returns it, but for one; the numbers of `s` begin with `first`.
fn build(first: u32, one: u32) -> (Vec<u8>, Vec<u8>) {
    let mut text = String::new();
    for number in 0..MANY {
        let value = if number == ONE { one } else { number };
        let (s, f) = (number + first, number);
        writeln!(
            text,
            ".data\n.type s.{s}, @object\n.size s.{s}, 4\ns.{s}: .long {value}\n\
             .text\n.type f.constprop.{f}, @function\n.size f.constprop.{f}, 6\n\
             f.constprop.{f}: mov ${value}, %eax\nret"
        )
        .unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("many.s"), text).unwrap();
    for command in ["as many.s -o many.o", "ld -e 0 -Ttext=0xffffffff81000000 many.o -o many"] {
        let mut words = command.split(' ');
        let mut program = Command::new(words.next().unwrap());
        assert!(program.current_dir(&dir).args(words).status().unwrap().success(), "{command}");
    }
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    (read("many.o"), read("many"))
}

#[test]
fn numbered_names_of_objects_are_paired_by_what_they_are() {
    let (v1, v2) = (build(0, ONE).0, build(1, MANY).0);
    let (a, b) = (Object::parse(&v1, "v1.o").unwrap(), Object::parse(&v2, "v2.o").unwrap());
    let compared = Pair::compare(&a, &b).unwrap();
    let data = compared.data.iter().filter(|d| d.change != DataChange::Unchanged);
    let data: Vec<_> = data.map(|d| (d.name.as_str(), d.change)).collect();
    assert_eq!(data, [("s.150001", DataChange::Changed)]);
    let functions = compared.functions.iter().filter(|f| f.verdict != Verdict::Unchanged);
    let functions: Vec<_> = functions.map(|f| (f.name.as_str(), f.old_name.as_deref())).collect();
    assert_eq!(functions, [("f.constprop.150000", None)]);
    assert_eq!(compared.functions.len(), MANY as usize);
}

#[test]
fn numbered_names_of_images_are_paired_by_name_where_they_are_many() {
    let (v1, v2) = (build(0, ONE).1, build(0, MANY).1);
    let (a, b) = (Image::parse(&v1, "v1").unwrap(), Image::parse(&v2, "v2").unwrap());
    let contents = image::contents(&a, &b).unwrap();
    let data: Vec<_> = contents.data.iter().map(|d| (d.name.as_str(), d.change)).collect();
    assert_eq!(data, [("s.150000", DataChange::Changed)]);
    let functions = contents.functions.iter().filter(|f| f.verdict != Verdict::Unchanged);
    let functions: Vec<_> = functions.map(|f| (f.name.as_str(), f.verdict)).collect();
    assert_eq!(functions, [("f.constprop.150000", Verdict::Changed)]);
    assert_eq!(contents.functions.len(), MANY as usize);
}
