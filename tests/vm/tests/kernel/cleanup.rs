//! A process that is told to end leaves no guest and no file behind.

// Helpers of tests may panic like tests.
#![allow(clippy::unwrap_used)]

use crate::common::image;
use dynamos_vm::Vm;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Not a test: what the other tests start and end. It runs until it is ended.
#[test]
#[ignore = "the tests of this file run it"]
fn victim() {
    let outcome = Vm::new(&image("6.1.0-55-amd64")).script("sleep 100000").run();
    panic!("the guest ended: {outcome:?}");
}

/// Starts this program as the victim, with its temporary files in `dir`.
fn start_victim(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "cleanup::victim"])
        .env("TMPDIR", dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The processes that name `dir` in their command line.
fn guests(dir: &Path) -> usize {
    let dir = dir.to_str().unwrap();
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|cmdline| String::from_utf8_lossy(cmdline).contains(dir))
        .count()
}

/// Waits for what is sure to come; a minute is for a machine with much else to do.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..600 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("waited in vain until {what}");
}

fn end_by(signal: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut victim = start_victim(dir.path());
    wait_until("the guest runs", || {
        assert_eq!(victim.try_wait().unwrap(), None, "the victim ended by itself");
        guests(dir.path()) == 1
    });
    let pid = victim.id().to_string();
    let status = Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
    assert!(status.success());
    victim.wait().unwrap();
    wait_until("the guest is gone", || guests(dir.path()) == 0);
    dir
}

#[test]
fn interrupted_or_terminated_it_removes_everything() {
    for signal in ["INT", "TERM"] {
        let dir = end_by(signal);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "after {signal}");
    }
}

#[test]
fn killed_it_takes_the_guest_along() {
    end_by("KILL");
}
