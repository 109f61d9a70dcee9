//! The control command against a real kernel, as far as it goes without dynamos.ko.

// Helpers of tests may panic like tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use crate::common::image;
use dynamos_vm::{Vm, static_binary};
use std::path::Path;
use std::process::Command;

/// An object with this `.modinfo`, which no kernel takes: it has no `struct module`.
fn module(path: &Path, info: &str) {
    let source = path.with_extension("s");
    std::fs::write(&source, format!(".section .modinfo,\"a\"\n.ascii \"{info}\"\n")).unwrap();
    let status = Command::new("as").arg("-o").arg(path).arg(&source).status().unwrap();
    assert!(status.success());
}

/// What the command printed and its exit code, as `try` below gives them.
#[track_caller]
fn check(results: &std::collections::BTreeMap<String, String>, name: &str, code: &str, says: &str) {
    let result = &results[name];
    assert!(result.contains(says), "{name}: {result}");
    assert!(result.ends_with(&format!("\nexit {code}")), "{name}: {result}");
}

#[test]
fn refusals_of_the_kernel_are_explained() {
    let update = tempfile::tempdir().unwrap();
    module(&update.path().join("update.ko"), r"name=update\0depends=dynamos\0");
    module(&update.path().join("other.ko"), r"name=other\0depends=\0");
    let beside = tempfile::tempdir().unwrap();
    module(&beside.path().join("update.ko"), r"name=update\0depends=dynamos\0");
    module(&beside.path().join("dynamos.ko"), r"name=dynamos\0depends=\0");
    let sum = blake3::hash(&std::fs::read(beside.path().join("update.ko")).unwrap());
    std::fs::write(beside.path().join("b3sums"), format!("{sum}  update.ko\n")).unwrap();

    let outcome = Vm::new(&image("6.1.0-55-amd64"))
        .file(static_binary("dynamos", "dynamos").unwrap(), "/bin/dynamos")
        .file(update.path(), "/update")
        .file(beside.path(), "/beside")
        .script(
            r#"try() {
                name=$1; shift
                { "$@" 2>&1 && code=0 || code=$?; echo "exit $code"; } | result "$name"
            }
            try list dynamos list
            try nothing dynamos load /update/update.ko
            try sums dynamos load /update
            try other dynamos load /update/other.ko
            try beside dynamos load /beside
            sysctl -q kernel.modules_disabled=1
            try disabled dynamos load /beside --timeout 20
            printf x >>/beside/update.ko
            try spoilt dynamos load /beside"#,
        )
        .run()
        .unwrap();
    let results = &outcome.results;
    check(results, "list", "0", "dynamos.ko is not loaded");
    check(results, "nothing", "2", "there is no /update/dynamos.ko; put it there");
    check(results, "sums", "2", "cannot read /update/b3sums");
    check(results, "other", "3", "it does not depend on dynamos.ko");
    check(results, "beside", "3", "does not take /beside/dynamos.ko: it is damaged, or was built");
    check(results, "disabled", "3", "kernel.modules_disabled is 1");
    check(results, "spoilt", "3", "/beside/update.ko is not the file");
}
