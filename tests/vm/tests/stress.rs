//! A short `cargo xtask stress`: on a kernel that watches itself, an update comes and goes under load, and
//! everything that can fail while it is loaded fails once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dynamos_generator::{Request, Spec};
use dynamos_vm::{Image, Outcome, Vm, stress};

const VERSION: &str = "6.12.107";

/// The debug kernel, built if it is not in the cache, the update for it, and how many functions that replaces.
fn subject(scratch: &Path) -> (Image, PathBuf, usize) {
    let progress = Arc::new(kernel_trees::Stderr::default());
    let built = common::cache().with_progress(progress).debug_kernel(&common::kernel(VERSION));
    let built = built.unwrap();
    let update = scratch.join("update");
    let (v1, v2) = (Spec::Deb(VERSION.into()), Spec::Patch(stress::patch()));
    let plan = common::request(Request {
        kernel: Some(built.build_dir().to_str().unwrap().into()),
        name: Some(stress::UPDATE.into()),
        ..common::asked(v1, v2, &update)
    })
    .unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let changed = plan.functions.iter().filter(|function| function.verdict == "changed").count();
    let image = Image {
        vmlinuz: built.vmlinuz(),
        modules_dir: built.modules(),
        release: built.release().into(),
    };
    (image, update, changed)
}

/// Runs the machine, which must not report anything, and gives the figures it told. One at a time: each of them
/// takes all the CPU there is.
fn figures(vm: Vm, what: &str) -> serde_json::Value {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Outcome { results, .. } = vm.run().unwrap();
    assert_eq!(results["leaks"].trim(), "0");
    serde_json::from_str(&results[what]).unwrap()
}

#[test]
#[ignore = "builds a debug kernel (20 minutes); cargo test -p dynamos-vm --test stress -- --ignored"]
fn an_update_comes_and_goes_under_load() {
    let scratch = tempfile::tempdir().unwrap();
    let (image, update, functions) = subject(scratch.path());
    let told = figures(stress::rounds(&image, &update, functions, 15).unwrap(), "stress");
    assert_eq!(told["rounds"], 15);
    assert_eq!(told["bytes_lost"], 0);
    for load in told["loads"].as_array().unwrap() {
        assert_ne!(load["operations"], 0, "{load}");
    }
}

#[test]
#[ignore = "builds a debug kernel (20 minutes); cargo test -p dynamos-vm --test stress -- --ignored"]
fn a_load_fails_at_every_point_and_leaves_no_trace() {
    let scratch = tempfile::tempdir().unwrap();
    let (image, update, functions) = subject(scratch.path());
    let vm = stress::faults(&image, &update, functions, "--own --stage load").unwrap();
    let told = figures(vm, "faults");
    assert_eq!(told["fault_failures"], 0, "{told}");
    assert!(told["fault_points"].as_u64().unwrap() > 30, "{told}");
}
