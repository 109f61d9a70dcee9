//! An adaptive edition of a function in fair scheduling, as `docs/policies.md` tells it: chosen by the cgroup of the task
//! that calls it, changed while every CPU goes through it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::time::Duration;

use common::{SAYS, diff, edit, machine};

/// Calls of `sched_yield` for each figure.
const CALLS: u32 = 20_000;

/// Where tasks spin on `sched_yield`, each call costs them the CPU. In the edition it does not: they keep it until their
/// slice ends, as if they had spun without.
fn yields_by_cgroup(version: &str, release: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let patch = scratch.path().join("yield.patch");
    let keep_the_cpu = |text: &str| {
        let (before, after) = text.split_once("static void yield_task_fair(").unwrap();
        let (first, after) = after.split_once("\tif (unlikely(rq->nr_running == 1))\n").unwrap();
        format!("{before}static void yield_task_fair({first}\tif (rq->nr_running >= 1)\n{after}",)
    };
    edit(version, "kernel/sched/fair.c", keep_the_cpu, &patch);
    let update = scratch.path().join("yield");
    let plan = diff(&format!("deb:{version}"), patch.to_str().unwrap(), &update).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);

    let outcome = machine(release, &[&update])
        .cpus(1) // the threads are in each other's way
        .script(format!(
            r#"{SAYS}
            mkdir -p /run/cgroup
            mount -t cgroup2 none /run/cgroup
            mkdir -p /run/cgroup/spinners
            inside() {{ sh -c 'echo $$ >/run/cgroup/spinners/cgroup.procs; guest-tool yields {CALLS}' | result $1; }}
            outside() {{ guest-tool yields {CALLS} | result $1; }}
            outside stock
            says load dynamos load /update/yield --default 0
            says policy dynamos policy dynamos_fair --when 'cgroup == "/spinners"'
            inside chosen
            outside other
            # Changed under those who call it all the time.
            guest-tool yields 400000 >/run/long &
            for round in 1 2 3 4 5 6 7 8; do
                dynamos policy dynamos_fair --when "cgroup == \"/spinners\" or percent($round)" >/dev/null
                dynamos policy dynamos_fair --default $((round % 2)) >/dev/null
            done
            wait
            dynamos policy dynamos_fair --default 1 >/dev/null
            outside all
            says revert dynamos revert dynamos_fair
            inside reverted
            says unload dynamos unload dynamos_fair
            rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    let results = &outcome.results;
    for name in ["load", "policy", "revert", "unload"] {
        assert!(results[name].starts_with("status 0"), "{name}: {}", results[name]);
    }
    let switches = |name: &str| results[name].trim().parse::<u32>().unwrap();
    let names = ["stock", "chosen", "other", "all", "reverted"];
    let told = names.map(|name| format!("{name} {}", switches(name))).join(", ");
    for name in ["stock", "other", "reverted"] {
        assert!(switches(name) > CALLS / 4, "{name}: {told}");
    }
    // What is left is what a slice's end takes.
    for name in ["chosen", "all"] {
        assert!(switches(name) < CALLS / 10, "{name}: {told}");
    }
}

#[test]
fn yields_by_cgroup_on_6_1() {
    yields_by_cgroup("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn yields_by_cgroup_on_6_12() {
    yields_by_cgroup("6.12.107", "6.12.107+deb12-amd64");
}
