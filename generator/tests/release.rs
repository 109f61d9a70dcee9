//! A whole release: what the distribution built and what we compile of the same sources give the same verdicts.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dynamos_generator::{Plan, Request, Spec, report::Reporter, run};

/// Modules of one source and of several, with changes of their own, by headers, and without any.
const PARTS: [&str; 4] = ["tls", "nbd", "cuse", "loop"];

fn report(compile: bool, output: &Path) -> Plan {
    let request = Request {
        v1: Spec::Deb("6.12.107-1".into()),
        v2: Spec::Deb("6.12.111-1".into()),
        bridge: None,
        objects: BTreeMap::new(),
        kernel: None,
        name: None,
        output: output.into(),
        report_only: true,
        compile,
        users: false,
        parts: PARTS.map(str::to_owned).into(),
        only: None,
        max_objects: usize::MAX,
        jobs: None,
        cache: None,
    };
    run(&request, &Arc::new(Reporter::new(true, false))).unwrap()
}

/// The functions that differ, by object and name.
fn functions(plan: &Plan) -> BTreeMap<(String, String), String> {
    let row = |f: &dynamos_generator::FunctionPlan| {
        ((f.object.clone(), f.name.clone()), f.verdict.clone())
    };
    plan.functions.iter().map(row).collect()
}

#[test]
#[ignore = "fetches two debug packages of 1 GB; cargo test -p dynamos-generator --test release -- --ignored"]
fn shipped_and_compiled_code_have_the_same_verdicts() {
    let scratch = tempfile::tempdir().unwrap();
    let shipped = report(false, &scratch.path().join("shipped"));
    let compiled = report(true, &scratch.path().join("compiled"));
    assert!(!functions(&shipped).is_empty());
    assert_eq!(functions(&shipped), functions(&compiled));
    let objects = |plan: &Plan| -> Vec<String> {
        plan.objects.iter().map(|object| object.object.clone()).collect()
    };
    assert_eq!(objects(&shipped), objects(&compiled));
}
