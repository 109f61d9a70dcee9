//! An adaptive edition of a function in fair scheduling, as `docs/policies.md` tells it: chosen by the cgroup of the task
//! that calls it, and changed while every task goes through it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use crate::common::{SAYS, diff, edit, machine};

/// Calls of `sched_yield` for each figure.
const CALLS: u32 = 200;

/// In 6.1 a task that yields keeps its place in the order: it has the CPU again as soon as the others are a little ahead.
/// Later kernels have it give up the rest of its slice. So does the edition, for the spinners of one cgroup.
#[test]
fn yields_cost_a_slice_in_one_cgroup() {
    let (version, release) = ("6.1.192-1", "6.1.0-55-amd64");
    let scratch = tempfile::tempdir().unwrap();
    let patch = scratch.path().join("yield.patch");
    let forfeit = |text: &str| {
        let (before, after) = text.split_once("static void yield_task_fair(").unwrap();
        let slice = "\tse->vruntime += sched_slice(cfs_rq, se);\n\tset_skip_buddy(se);\n";
        let after = after.replacen("\tset_skip_buddy(se);\n", slice, 1);
        format!("{before}static void yield_task_fair({after}")
    };
    edit(version, "kernel/sched/fair.c", forfeit, &patch);
    let update = scratch.path().join("yield");
    let plan = diff(&format!("deb:{version}"), patch.to_str().unwrap(), &update).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);

    let outcome = machine(release, &[&update])
        // The threads are in each other's way, and every run gives the same.
        .cpus(1)
        .icount(0)
        .script(format!(
            r#"{SAYS}
            mkdir -p /run/cgroup
            mount -t cgroup2 none /run/cgroup
            mkdir -p /run/cgroup/spinners
            inside() {{ sh -c 'echo $$ >/run/cgroup/spinners/cgroup.procs; guest-tool yields {CALLS}' | result $1; }}
            outside() {{ guest-tool yields {CALLS} | result $1; }}
            inside stock
            says load dynamos load /update/yield --default 0
            says policy dynamos policy dynamos_fair --when 'cgroup == "/spinners"'
            inside chosen
            outside other
            # Changed under those who call it all the time.
            guest-tool yields 20000 >/run/long &
            for round in 1 2 3 4; do
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
    let cost = |name: &str| results[name].trim().parse::<u32>().unwrap();
    let told = ["stock", "chosen", "other", "all", "reverted"].map(|name| (name, cost(name)));
    for (name, cost) in told {
        // A slice is some milliseconds, a call some thousand instructions of a nanosecond.
        let slices = matches!(name, "chosen" | "all");
        assert_eq!(cost > CALLS / 2, slices, "{name}: {told:?}");
    }
    println!("milliseconds: {told:?}");
}
