//! What the running kernel refuses: each with its reason, and the kernel goes on as if nothing had been.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use crate::common::{backport, compared_byte, damaged, diff, machine, record_at};

/// The functions the guest scripts share. `refused NAME COMMAND…`: runs the command, which must end with status 3, and
/// hands what it said to the test.
const SHELL: &str = r#"
refused() {
    name=$1
    shift
    code=0
    "$@" >/run/said 2>&1 || code=$?
    { echo "status $code"; cat /run/said; } | result "$name"
}
"#;

#[test]
fn the_kernel_refuses_and_goes_on() {
    let scratch = tempfile::tempdir().unwrap();
    let patch = scratch.path().join("seccomp.patch");
    backport("6.12.107", "6.12.111", "kernel/entry/common.c", &patch);
    let good = scratch.path().join("good");
    diff("deb:6.12.107", patch.to_str().unwrap(), &good).unwrap();
    let foreign = scratch.path().join("foreign");
    diff("deb:6.1.192-1", "deb:6.1.192-2", &foreign).unwrap();

    let record = std::fs::read(good.join("source/record.bin")).unwrap();
    let flip = |offset: usize| {
        let record = record.clone();
        move |module: &mut Vec<u8>| {
            let at = record_at(module, &record) + offset;
            module[at] ^= 0xff;
        }
    };
    let dir = scratch.path();
    let files = [
        damaged(&good, dir, "truncated", |module| module.truncate(module.len() / 2)),
        damaged(&good, dir, "other_bytes", flip(compared_byte(&record))),
        damaged(&good, dir, "future", flip(8)),
        damaged(&good, dir, "shorter", flip(12)),
        damaged(&good, dir, "forged", flip(record.len() - 20)),
    ];
    let script = format!(
        "{SHELL}
        insmod /update/good/dynamos.ko wait_ms=2000
        for file in truncated other_bytes future shorter forged; do
            refused $file dynamos load /$file.ko
        done
        refused foreign dynamos load /update/foreign/update.ko
        ls /sys/kernel/dynamos | tr '\\n' ' ' | result left
        guest-tool seccomp-race | result untouched

        # A task asleep in the function, until the time limit.
        guest-tool hold-call /run/held /run/release &
        while [ ! -e /run/held ]; do usleep 10000; done
        refused asleep dynamos load /update/good --scope system
        touch /run/release
        wait
        guest-tool seccomp-race | result still_untouched

        dynamos load /update/good
        refused twice dynamos load /update/good
        rmmod dynamos_common 2>/run/said && echo gone >/run/said
        result rmmod \"$(cat /run/said)\"
        rmmod dynamos 2>/run/said && echo gone >/run/said
        result rmmod_dynamos \"$(cat /run/said)\"
        refused unload dynamos unload dynamos_common
        stat -c '%a %n' /sys/kernel/dynamos/* /sys/kernel/dynamos/dynamos_common/* | result modes
        find /sys/kernel/dynamos -type f -exec cat {{}} + | grep -cE 'ffff[0-9a-f]{{12}}' | result addresses || true
        guest-tool seccomp-race | result works
        dynamos unload dynamos_common --revert
        rmmod dynamos"
    );
    let vm = files.iter().fold(machine("6.12.107+deb12-amd64", &[&good, &foreign]), |vm, file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        vm.file(file, &format!("/{name}"))
    });
    let outcome = vm.script(script).run().unwrap();
    let result = |name: &str| outcome.results[name].as_str();
    for (name, words) in [
        ("truncated", "truncated"),
        ("other_bytes", "syscall_trace_enter"),
        ("future", "ABI version"),
        ("shorter", "record"),
        ("forged", "record"),
        ("foreign", "6.1.0-55-amd64"),
        ("asleep", "syscall_trace_enter"),
        ("twice", "already"),
        ("unload", "revert"),
    ] {
        let said = result(name);
        assert!(said.starts_with("status 3\n"), "{name}: {said}");
        assert!(said.contains(words), "{name} should say {words:?}: {said}");
    }
    assert!(!result("left").contains("dynamos_common"), "{}", result("left"));
    assert_eq!(result("untouched"), "bypassed");
    assert_eq!(result("still_untouched"), "bypassed");
    assert_eq!(result("works"), "filtered");
    assert_ne!(result("rmmod"), "gone");
    assert_ne!(result("rmmod_dynamos"), "gone");
    assert_eq!(result("addresses"), "0", "no kernel address is shown");
    let secret = ["enabled", "policy", "refusals", "blockers"];
    for line in result("modes").lines() {
        let (mode, file) = line.split_once(' ').unwrap();
        let open = mode.ends_with("44") || mode.ends_with("55");
        let name = file.rsplit('/').next().unwrap();
        assert_eq!(open, !secret.contains(&name), "{line}");
    }
}
