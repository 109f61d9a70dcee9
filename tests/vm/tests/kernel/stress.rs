//! A short `cargo xtask stress`: an update comes and goes under load, on a kernel that watches itself if one has been
//! built, and everything that can fail while it is loaded fails once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dynamos_generator::{Request, Spec};
use dynamos_vm::{Image, Outcome, Vm, stress};
use kernel_trees::BuiltKernel;

const VERSION: &str = "6.12.107";

/// A kernel, and the update for it.
struct Subject {
    image: Image,
    update: PathBuf,
    /// How many functions it replaces.
    functions: usize,
    /// Whether the kernel looks for leaks.
    watched: bool,
}

impl Subject {
    /// On the debug kernel.
    fn on(built: &BuiltKernel, scratch: &Path) -> Self {
        let (vmlinuz, modules_dir) = (built.vmlinuz(), built.modules());
        let image = Image { vmlinuz, modules_dir, release: built.release().into() };
        Self::make(image, Some(built.build_dir()), scratch)
    }

    /// On the debug kernel where the cache has it, else on Debian's own: to build one takes longer than all tests.
    fn on_what_there_is(scratch: &Path) -> Self {
        match crate::common::cache().debug_kernel_if_built(&crate::common::kernel(VERSION)).unwrap()
        {
            Some(built) => Self::on(&built, scratch),
            None => Self::make(crate::common::image("6.12.107+deb12-amd64"), None, scratch),
        }
    }

    fn make(image: Image, build: Option<PathBuf>, scratch: &Path) -> Self {
        let update = scratch.join("update");
        let (v1, v2) = (Spec::Deb(VERSION.into()), Spec::Patch(stress::patch()));
        let watched = build.is_some();
        let plan = crate::common::request(Request {
            kernel: build.map(|dir| dir.to_str().unwrap().into()),
            name: Some(stress::UPDATE.into()),
            ..crate::common::asked(v1, v2, &update)
        })
        .unwrap();
        assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
        let changed = plan.functions.iter().filter(|function| function.verdict == "changed");
        Self { image, update, functions: changed.count(), watched }
    }

    /// Rounds under load; the machine must not report anything.
    fn comes_and_goes(&self, rounds: u32) {
        let vm = stress::rounds(&self.image, &self.update, self.functions, rounds).unwrap();
        let told = self.figures(vm, "stress");
        assert_eq!(told["rounds"], rounds);
        assert_eq!(told["bytes_lost"], 0);
        for load in told["loads"].as_array().unwrap() {
            assert_ne!(load["operations"], 0, "{load}");
        }
    }

    /// Runs the machine, which must not report anything, and gives the figures it told. One at a time: each of them
    /// takes all the CPU there is.
    fn figures(&self, vm: Vm, what: &str) -> serde_json::Value {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let Outcome { results, .. } = vm.run().unwrap();
        let leaks = results.get("leaks").map(|leaks| leaks.trim());
        assert_eq!(leaks, self.watched.then_some("0"));
        serde_json::from_str(&results[what]).unwrap()
    }
}

/// The debug kernel, built if it is not in the cache.
fn debug_kernel() -> BuiltKernel {
    let progress = Arc::new(kernel_trees::Stderr::default());
    crate::common::cache()
        .with_progress(progress)
        .debug_kernel(&crate::common::kernel(VERSION))
        .unwrap()
}

#[test]
fn an_update_comes_and_goes_under_load() {
    let scratch = tempfile::tempdir().unwrap();
    Subject::on_what_there_is(scratch.path()).comes_and_goes(3);
}

#[test]
#[ignore = "builds a debug kernel (20 minutes); cargo test -p dynamos-vm --test kernel stress:: -- --ignored"]
fn an_update_comes_and_goes_on_a_kernel_that_watches() {
    let scratch = tempfile::tempdir().unwrap();
    Subject::on(&debug_kernel(), scratch.path()).comes_and_goes(15);
}

#[test]
#[ignore = "builds a debug kernel (20 minutes); cargo test -p dynamos-vm --test kernel stress:: -- --ignored"]
fn a_load_fails_at_every_point_and_leaves_no_trace() {
    let scratch = tempfile::tempdir().unwrap();
    let subject = Subject::on(&debug_kernel(), scratch.path());
    let options = "--own --stage load";
    let vm =
        stress::faults(&subject.image, &subject.update, None, subject.functions, options).unwrap();
    let told = subject.figures(vm, "faults");
    assert_eq!(told["fault_failures"], 0, "{told}");
    assert!(told["fault_points"].as_u64().unwrap() > 30, "{told}");
}
