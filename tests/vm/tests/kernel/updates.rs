//! The main job on real kernels: an update made by the tool changes what the running kernel does, and goes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use crate::common::{backport, diff, machine, named};
use dynamos_generator::Plan;

/// Names of the functions with a verdict.
fn with_verdict(plan: &Plan, verdict: &str) -> Vec<String> {
    let functions = plan.functions.iter().filter(|function| function.verdict == verdict);
    functions.map(|function| function.name.clone()).collect()
}

/// Debian bug 1154101, in a module.
#[test]
fn ext4_stops_to_oops() {
    let scratch = tempfile::tempdir().unwrap();
    let update = scratch.path().join("ext4");
    let plan = diff("deb:6.1.192-1", "deb:6.1.192-2", &update).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    assert_eq!(with_verdict(&plan, "changed"), ["ext4_mb_init_group", "ext4_mb_load_buddy_gfp"]);

    let outcome = machine("6.1.0-55-amd64", &[&update])
        .module("ext4")
        .disk(256 << 20)
        .script(
            "mount -t ext4 /dev/vda /mnt
            bytes() { guest-tool kbytes ext4_mb_load_buddy_gfp 890 --module ext4; }
            bytes | result before
            guest-tool write-load /mnt/load --stop-file /run/stop --ready-file /run/ready &
            writer=$!
            while [ ! -e /run/ready ]; do usleep 50000; done
            dynamos load /update/ext4
            bytes | result during
            for round in 1 2 3 4 5; do
                dd if=/dev/zero of=/mnt/file bs=64k count=8 conv=fsync 2>/dev/null
                echo 3 >/proc/sys/vm/drop_caches
            done
            touch /run/stop
            wait $writer
            guest-tool verify /mnt/load | result verify
            dynamos status --json | result status
            dynamos revert dynamos_mballoc
            bytes | result after
            dynamos unload dynamos_mballoc
            rmmod dynamos
            grep -c dynamos /proc/modules | result left || true",
        )
        .run()
        .unwrap();
    let result = |name: &str| outcome.results[name].as_str();
    assert!(result("verify").ends_with(" files intact"), "{}", result("verify"));
    assert!(result("status").contains(r#""state": "active""#), "{}", result("status"));
    assert_ne!(result("before"), result("during"));
    assert_eq!(result("before"), result("after"));
    assert_eq!(result("left"), "0");
}

/// CVE-2026-89603, in the kernel proper, with a static key and a static call in the function replaced.
#[test]
fn seccomp_cannot_be_bypassed_any_more() {
    let scratch = tempfile::tempdir().unwrap();
    let patch = scratch.path().join("CVE-2026-89603.patch");
    backport("6.12.107", "6.12.111", "kernel/entry/common.c", &patch);
    let update = scratch.path().join("seccomp");
    let plan = diff("deb:6.12.107", patch.to_str().unwrap(), &update).unwrap();
    assert_eq!(with_verdict(&plan, "changed"), ["syscall_trace_enter"]);

    let outcome = machine("6.12.107+deb12-amd64", &[&update])
        .script(
            "events=/sys/kernel/tracing/events/raw_syscalls/sys_enter/enable
            [ -e $events ] || mount -t tracefs tracefs /sys/kernel/tracing
            guest-tool kbytes syscall_trace_enter 357 | result before
            guest-tool seccomp-race | result stock
            dynamos load /update/seccomp
            guest-tool seccomp-race | result updated
            # The static key of the tracepoint and its static call reach the clone.
            echo 1 >$events
            guest-tool seccomp-race | result traced
            echo 0 >$events
            # The clone has a name of its own: a kprobe finds the kernel's function.
            echo 'p:probe syscall_trace_enter' >/sys/kernel/tracing/kprobe_events
            echo >/sys/kernel/tracing/kprobe_events
            head -n 100 /sys/kernel/tracing/trace | grep -c 'sys_enter: NR' | result events
            dynamos revert dynamos_common
            guest-tool kbytes syscall_trace_enter 357 | result after
            guest-tool seccomp-race | result reverted
            dynamos enable dynamos_common
            guest-tool seccomp-race | result again
            dynamos unload dynamos_common --revert
            rmmod dynamos",
        )
        .run()
        .unwrap();
    let result = |name: &str| outcome.results[name].as_str();
    assert_eq!(result("stock"), "bypassed");
    assert_eq!(result("updated"), "filtered");
    assert_eq!(result("traced"), "filtered");
    assert_eq!(result("reverted"), "bypassed");
    assert_eq!(result("again"), "filtered");
    assert_eq!(result("before"), result("after"));
    assert!(result("events").parse::<u32>().unwrap() > 10, "the clone fires its tracepoint");
}

/// Two updates live side by side and go in any order.
#[test]
fn two_updates_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let made = |name: &str, file: &str| {
        let patch = scratch.path().join(format!("{name}.patch"));
        backport("6.12.107", "6.12.111", file, &patch);
        let output = scratch.path().join(name);
        assert_eq!(named(name, "6.12.107", &patch, &output).name, name);
        output
    };
    let seccomp = made("fix_seccomp", "kernel/entry/common.c");
    let prctl = made("fix_prctl", "kernel/sys.c");
    let outcome = machine("6.12.107+deb12-amd64", &[&seccomp, &prctl])
        .script(
            "dynamos load /update/fix_seccomp
            dynamos load /update/fix_prctl
            dynamos list | result both
            dynamos revert fix_seccomp
            dynamos list | result one
            guest-tool seccomp-race | result race
            dynamos unload fix_seccomp
            dynamos unload fix_prctl --revert
            rmmod dynamos
            # Whoever loads at the same time finds dynamos.ko missing too.
            for round in 1 2 3; do
                dynamos load /update/fix_seccomp &
                code=0; dynamos load /update/fix_prctl || code=$?
                wait $! || code=$?
                echo $code >>/run/raced
                dynamos list >>/run/raced
                dynamos unload fix_seccomp --revert
                dynamos unload fix_prctl --revert
                rmmod dynamos
            done
            result raced </run/raced",
        )
        .run()
        .unwrap();
    let states = |name: &str| {
        let lines = outcome.results[name].lines();
        lines.map(|line| line.split_whitespace().nth(1).unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(states("both"), ["active", "active"]);
    let mut one = states("one");
    one.sort();
    assert_eq!(one, ["active", "reverted"]);
    assert_eq!(outcome.results["race"], "bypassed");
    let raced = &outcome.results["raced"];
    assert_eq!(raced.lines().filter(|line| *line == "0").count(), 3, "{raced}");
    assert_eq!(raced.matches(" active").count(), 6, "{raced}");
}
