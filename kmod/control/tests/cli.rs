//! The command's output, and what it does to sysfs, on directories that look like sysfs.

// Helpers of tests may panic like tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Command, Output};

#[test]
fn output() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}

fn dynamos(sysfs: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_dynamos"))
        .arg("--sysfs")
        .arg(sysfs)
        .args(arguments)
        .output()
        .unwrap();
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8(text).unwrap())
}

/// A sysfs with the update `u`.
fn with_update(state: &str, enabled: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let update = dir.path().join("kernel/dynamos/u");
    std::fs::create_dir_all(&update).unwrap();
    for (file, text) in [("state", state), ("enabled", enabled), ("target", "1"), ("functions", "")]
    {
        std::fs::write(update.join(file), format!("{text}\n")).unwrap();
    }
    dir
}

#[test]
fn revert_and_enable_write_to_sysfs_and_believe_only_the_state() {
    for (command, state, wrote, wanted) in [
        ("revert", "active", "0 on_timeout=roll-back", "reverted"),
        ("enable", "reverted", "1 on_timeout=roll-back", "active"),
    ] {
        let sysfs = with_update(state, "?");
        let (code, text) = dynamos(sysfs.path(), &[command, "u"]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(&format!("u is {state}, not {wanted}")), "{text}");
        let enabled = std::fs::read_to_string(sysfs.path().join("kernel/dynamos/u/enabled"));
        assert_eq!(enabled.unwrap(), wrote);
    }
}

#[test]
fn whose_place_is_taken_is_asked_for() {
    let sysfs = with_update("reverted", "0");
    dynamos(sysfs.path(), &["enable", "u", "--replace", "--timeout", "2"]);
    let enabled = std::fs::read_to_string(sysfs.path().join("kernel/dynamos/u/enabled"));
    assert_eq!(enabled.unwrap(), "1 wait_ms=2000,replace,on_timeout=roll-back");
}

#[test]
fn lying_over_others_is_asked_for() {
    let sysfs = with_update("reverted", "0");
    dynamos(sysfs.path(), &["enable", "u", "--stack"]);
    let enabled = std::fs::read_to_string(sysfs.path().join("kernel/dynamos/u/enabled"));
    assert_eq!(enabled.unwrap(), "1 stack,on_timeout=roll-back");
    let (code, text) = dynamos(sysfs.path(), &["enable", "u", "--stack", "--replace"]);
    assert!(code == Some(2) && text.contains("cannot be used with"), "{text}");
}

#[test]
fn a_phases_least_time_is_asked_for_and_shown() {
    let sysfs = with_update("loading (held)", "1");
    let update = sysfs.path().join("kernel/dynamos/u");
    dynamos(sysfs.path(), &["enable", "u", "--phase-time", "5"]);
    let enabled = std::fs::read_to_string(update.join("enabled"));
    assert_eq!(enabled.unwrap(), "1 phase_ms=5000,on_timeout=roll-back");
    std::fs::write(update.join("enabled"), "1\n").unwrap();
    for file in ["version", "abi"] {
        std::fs::write(sysfs.path().join("kernel/dynamos").join(file), "1\n").unwrap();
    }
    for (file, shown, json) in [
        ("1 4200", "phase 1 of 2: new calls take the bridge, for 5 s more at least", "4200"),
        ("1 dynamos_advance", "the bridge; dynamos_advance says: not yet", "null"),
    ] {
        std::fs::write(update.join("phase"), format!("{file}\n")).unwrap();
        let (_, text) = dynamos(sysfs.path(), &["status"]);
        assert!(text.contains(shown), "{text}");
        let (_, text) = dynamos(sysfs.path(), &["status", "--json"]);
        assert!(text.contains(&format!("\"rest_ms\": {json}")), "{text}");
    }
}

#[test]
fn what_lies_over_what_is_shown() {
    let sysfs = with_update("active", "1");
    let update = sysfs.path().join("kernel/dynamos/u");
    std::fs::write(update.join("functions"), "vmlinux f 1\nvmlinux g 1\n").unwrap();
    std::fs::write(update.join("stack"), "vmlinux f a u\nvmlinux g u\n").unwrap();
    for file in ["version", "abi"] {
        std::fs::write(sysfs.path().join("kernel/dynamos").join(file), "1\n").unwrap();
    }
    let (_, text) = dynamos(sysfs.path(), &["status", "u"]);
    assert!(text.contains("f  edition 1  vmlinux  (u over a)\n"), "{text}");
    assert!(text.contains("g  edition 1  vmlinux\n"), "{text}");
}

#[test]
fn what_is_done_already_is_success() {
    let sysfs = with_update("reverted", "0");
    assert_eq!(
        dynamos(sysfs.path(), &["revert", "u"]),
        (Some(0), "u is reverted already\n".into())
    );
}
