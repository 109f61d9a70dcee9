//! Reports on many objects: what a header change reaches, and that a report goes on where it was broken off.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use crate::common::{asked, edit, request};
use dynamos_generator::{Outcome, Plan, Request, Spec};

const VERSION: &str = "6.1.192-1";

fn report(patch: &Path, output: &Path, jobs: usize, report_only: bool) -> Plan {
    let (v1, v2) = (Spec::Deb(VERSION.into()), Spec::Patch(patch.into()));
    request(Request { report_only, jobs: Some(jobs), ..asked(v1, v2, output) }).unwrap()
}

/// Objects that the change reaches, and those that it does not.
fn reached(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
    let names = |compared: bool| {
        let of = plan.objects.iter().filter(|object| (object.functions > 0) == compared);
        of.map(|object| object.object.as_str()).collect()
    };
    (names(true), names(false))
}

#[test]
fn a_cold_part_moves_along() {
    let scratch = tempfile::tempdir().unwrap();
    let patch = scratch.path().join("change.patch");
    let say = |text: &str| text.replace("\"mounted filesystem", "\"has mounted filesystem");
    edit(VERSION, "fs/ext4/super.c", say, &patch);
    let plan = report(&patch, &scratch.path().join("update"), 2, false);
    assert_eq!(plan.outcome, Outcome::Update, "{:?}", plan.refusals);
    let cold = plan.symbols.iter().find(|symbol| symbol.name.contains(".cold"));
    assert_eq!(cold, None, "a clone must not go on in edition 0");
}

#[test]
fn a_declaration_reaches_nothing_and_a_constant_its_users() {
    let scratch = tempfile::tempdir().unwrap();
    let patch = scratch.path().join("change.patch");
    let add = |text: &str| {
        text.replacen(
            "struct ext4_free_data {",
            "int ext4_fresh(int a);\nstruct ext4_free_data {",
            1,
        )
    };
    edit(VERSION, "fs/ext4/mballoc.h", add, &patch);
    let plan = report(&patch, &scratch.path().join("declaration"), 2, false);
    assert_eq!(plan.outcome, Outcome::NoChange);
    let (hit, missed) = reached(&plan);
    assert!(hit.is_empty() && missed.contains(&"fs/ext4/mballoc.o"), "{hit:?} {missed:?}");

    let constant = |text: &str| {
        text.replace(
            "#define MB_DEFAULT_MAX_TO_SCAN\t\t200",
            "#define MB_DEFAULT_MAX_TO_SCAN\t\t201",
        )
    };
    edit(VERSION, "fs/ext4/mballoc.h", constant, &patch);
    let output = scratch.path().join("constant");
    let plan = report(&patch, &output, 1, true);
    let (hit, missed) = reached(&plan);
    assert_eq!(hit, ["fs/ext4/mballoc.o"]);
    assert!(missed.len() > 1, "{missed:?}");
    assert!(plan.functions.iter().any(|function| function.name == "ext4_mb_init"));

    // From the journal, and with another number of threads, the same bytes.
    let again = scratch.path().join("again");
    report(&patch, &again, 8, true);
    let read = |directory: &Path| std::fs::read(directory.join("plan.json")).unwrap();
    assert_eq!(read(&output), read(&again));
}
