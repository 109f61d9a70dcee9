//! `cargo xtask bench redirect`: what a redirected call costs, beside kernel livepatch in the same guest.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dynamos_vm::{Vm, static_binary};
use serde_json::{Map, Value, json};

use super::{Guest, VERSIONS};
use crate::setup;

/// Calls that `callbench.c` makes for each figure.
const CALLS: f64 = 1000.0;
/// The most instructions that a call may take beside its own: redirected, with a policy, and after the revert.
const MOST: [(&str, f64); 3] = [("dynamos", 5.0), ("policy", 40.0), ("reverted", 0.0)];
/// What the function answers, and what it is to answer.
const OLD: &str = "\treturn (MSEC_PER_SEC / HZ) * j;\n";
const NEW: &str = "\treturn (MSEC_PER_SEC / HZ) * j + 1;\n";

/// Measures on both kernels, prints the table and gives the figures:
/// `{"kernels": {RELEASE: {"plain_instructions_per_call": …}}}`. More than [`MOST`] is an error: every run gives the same.
pub fn run() -> Result<Value> {
    setup::ensure(&setup::all())?;
    let mut kernels = Map::new();
    println!(
        "{:<24} {:>7} {:>10} {:>8} {:>8} {:>8} {:>8}",
        "instructions per call", "plain", "livepatch", "dynamos", "extra", "policy", "extra"
    );
    for version in VERSIONS {
        let (release, costs) = measure(version)?;
        let cost = |what: &str| costs.get(what).copied().unwrap_or(f64::NAN);
        println!(
            "{release:<24} {:>7.1} {:>10.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
            cost("plain"),
            cost("livepatch"),
            cost("dynamos"),
            cost("dynamos") - cost("plain"),
            cost("policy"),
            cost("policy") - cost("plain")
        );
        for (what, most) in MOST {
            let extra = (cost(what) - cost("plain")).round();
            ensure!(extra <= most, "{release}, {what}: {extra} extra instructions, not {most}");
        }
        let figures = [
            ("plain", "plain"),
            ("livepatch", "livepatch"),
            ("dynamos", "dynamos"),
            ("dynamos_policy", "policy"),
            ("reverted", "reverted"),
        ]
        .map(|(key, what)| (format!("{key}_instructions_per_call"), json!(cost(what))));
        kernels.insert(release, Value::Object(figures.into_iter().collect()));
    }
    Ok(json!({ "kernels": kernels }))
}

/// The release and, for each state of the function, the instructions a call takes.
fn measure(version: &str) -> Result<(String, BTreeMap<String, f64>)> {
    let guest = Guest::new(version, "redirect")?;
    // As the livepatch does.
    let change = |text: &str| text.replacen(OLD, NEW, 1);
    let update = guest.update("kernel/time/time.c", change)?;
    let modules = guest.modules("redirect")?;

    let script = "
        count() {
            insmod /callbench.ko label=$1
            rmmod callbench
            dmesg | grep \"callbench: $1 \" | sed 's/.*callbench: [a-z]* \\([0-9]*\\) .*/\\1/' | result $1
        }
        count plain
        insmod /callpatch.ko
        while [ $(cat /sys/kernel/livepatch/callpatch/transition) != 0 ]; do usleep 100000; done
        count livepatch
        echo 0 >/sys/kernel/livepatch/callpatch/enabled
        while [ -e /sys/kernel/livepatch/callpatch ]; do usleep 100000; done
        rmmod callpatch
        dynamos load /update
        count dynamos
        # Two terms, of the dearest kinds, and both are asked: the root's cgroup, and nearly everybody.
        dynamos policy dynamos_time --when 'cgroup == 1 and percent(99.9999)'
        count policy
        dynamos unload dynamos_time --revert
        count reverted";
    let outcome = Vm::new(&guest.image)
        .file(modules.join("callbench.ko"), "/callbench.ko")
        .file(modules.join("callpatch.ko"), "/callpatch.ko")
        .file(static_binary("dynamos", "dynamos")?, "/bin/dynamos")
        .file(update, "/update")
        .script(script)
        .cpus(1) // 6.1 does not bring up a second one when instructions are counted
        .icount(0)
        .timeout(Duration::from_secs(600))
        .run()?;
    let mut costs = BTreeMap::new();
    for (what, cycles) in &outcome.results {
        let cycles: f64 = cycles.trim().parse().with_context(|| format!("{what}: {cycles:?}"))?;
        costs.insert(what.clone(), cycles / CALLS);
    }
    ensure!(costs.len() == 5, "the guest gave {} of 5 figures", costs.len());
    Ok((guest.image.release, costs))
}
