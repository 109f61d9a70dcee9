//! A security fix as a canary, as `docs/policies.md` tells it: first for one cgroup, then for a share, then for all. A
//! real fix of a stock kernel, made by the real tool.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use crate::common::{SAYS, backport, diff, machine};
use dynamos_vm::static_c;

/// CVE-2026-89603: a process that is held at the entry of a system call escapes the seccomp filter it then gets.
#[test]
fn a_fix_of_seccomp_begins_in_one_cgroup() {
    let scratch = tempfile::tempdir().unwrap();
    let patch = scratch.path().join("CVE-2026-89603.patch");
    backport("6.12.107", "6.12.111", "kernel/entry/common.c", &patch);
    let update = scratch.path().join("seccomp");
    let plan = diff("deb:6.12.107", patch.to_str().unwrap(), &update).unwrap();
    assert_eq!(plan.scope.unwrap().scope, "function");

    let probe = scratch.path().join("probe");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/probe/probe.c");
    static_c(source.as_ref(), &probe).unwrap();

    let outcome = machine("6.12.107+deb12-amd64", &[&update])
        .file(&probe, "/bin/probe")
        .script(format!(
            r#"{SAYS}
            mkdir -p /run/cgroup
            mount -t cgroup2 none /run/cgroup
            mkdir -p /run/cgroup/web/canary
            inside() {{ sh -c 'echo $$ >/run/cgroup/web/canary/cgroup.procs; guest-tool seccomp-race'; }}
            outside() {{ guest-tool seccomp-race; }}
            policy() {{ dynamos policy dynamos_common "$@" >/dev/null; }}

            # One function alone is switched before it is redirected; who has it already is told all the same.
            says busy probe fexit syscall_trace_enter dynamos load /update/seccomp
            says nothing ls /sys/kernel/dynamos
            says stock_inside inside
            says load dynamos load /update/seccomp --default 0
            says loaded_inside inside
            policy --when 'cgroup == "/web/canary"'
            says canary_inside inside
            says canary_outside outside
            says shown dynamos policy dynamos_common
            # The share is of processes: with all of them everybody has it, the canary too.
            policy --when 'cgroup == "/web/canary" or percent(0)'
            says none_outside outside
            policy --when 'cgroup == "/web/canary" or percent(100)'
            says all_outside outside
            says all_inside inside
            policy --default 1
            says default_outside outside
            # Something looks wrong: back at once, then out.
            policy --default 0
            says back_inside inside
            says revert dynamos revert dynamos_common
            says unload dynamos unload dynamos_common
            rmmod dynamos
            says end outside"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    for (name, says) in [
        ("busy", "something else has changed this function"),
        ("nothing", "status 0\nabi\nrefusals\nversion"),
        ("stock_inside", "bypassed"),
        ("load", "status 0\n"),
        ("loaded_inside", "bypassed"),
        ("canary_inside", "filtered"),
        ("canary_outside", "bypassed"),
        ("shown", r#"cgroup == "/web/canary""#),
        ("none_outside", "bypassed"),
        ("all_outside", "filtered"),
        ("all_inside", "filtered"),
        ("default_outside", "filtered"),
        ("back_inside", "bypassed"),
        ("revert", "status 0\n"),
        ("unload", "status 0\n"),
        ("end", "bypassed"),
    ] {
        let said = &outcome.results[name];
        assert!(said.contains(says), "{name} should say {says:?}: {said}");
    }
}
