//! `cargo xtask bench effect`: when an update of a function that is never quiet takes effect, beside kernel livepatch in
//! the same guest.
//!
//! Instructions are counted (`-icount shift=0`): one takes a nanosecond of the guest's clocks, whatever else the host
//! does. Such a guest has one CPU.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use dynamos_vm::{Vm, static_binary, static_c};
use serde_json::{Map, Value, json};

use super::{Guest, VERSIONS};
use crate::{setup, workspace};

const SLEEPERS: u32 = 1000;
const BUSY: u32 = 8;

/// Measures on both kernels, prints the table and gives the figures: `{"kernels": {RELEASE: {…}}}`.
pub fn run() -> Result<Value> {
    setup::ensure(&setup::all())?;
    let mut kernels = Map::new();
    println!(
        "{SLEEPERS} sleepers, {BUSY} busy threads; milliseconds of the guest\n{:<40} {:>10} {:>10}",
        "", "dynamos", "livepatch"
    );
    for version in VERSIONS {
        let (release, told) = measure(version, "", "")?;
        let mut figures = figures(&told)?;
        // Where a task in the kernel gives the CPU away when another is to run, what is left is what nothing can come
        // between: while the command works, or always.
        for (command, cmdline, what) in
            [("--preemptible", "", "asked"), ("", "preempt=full", "preemptible")]
        {
            let (_, told) = measure(version, command, cmdline)?;
            for (who, late) in [("dynamos", "dynamos_late"), ("livepatch", "livepatch_late")] {
                if who == "dynamos" || command.is_empty() {
                    let key = format!("{who}_longest_delay_{what}_ms");
                    figures.insert(key, milliseconds(&told, late)?);
                }
            }
        }
        println!("{release}");
        for (what, name) in [
            ("first_call_ms", "first call on the new edition"),
            ("longest_delay_ms", "longest delay of another task meanwhile"),
            ("longest_delay_asked_ms", "the same with --preemptible"),
            ("longest_delay_preemptible_ms", "the same with preempt=full"),
        ] {
            let show = |who: &str| match figures.get(&format!("{who}_{what}")) {
                Some(value) => format!("{:.3}", value.as_f64().unwrap_or(f64::NAN)),
                None => "-".into(),
            };
            println!("  {name:<38} {:>10} {:>10}", show("dynamos"), show("livepatch"));
        }
        let show = |who: &str| figures.get(&format!("{who}_complete")).map(Value::to_string);
        println!(
            "  {:<38} {:>10} {:>10}\n  {:<38} {:>10.3}",
            "complete after 5 s",
            show("dynamos").unwrap_or_default(),
            show("livepatch").unwrap_or_default(),
            "longest delay when nothing happens",
            figures.get("quiet_longest_delay_ms").and_then(Value::as_f64).unwrap_or(f64::NAN),
        );
        kernels.insert(release, Value::Object(figures));
    }
    Ok(json!({ "sleepers": SLEEPERS, "busy": BUSY, "kernels": kernels }))
}

/// The release, and what the guest told.
///
/// `command`: options of `dynamos load`. `cmdline`: the kernel's.
fn measure(
    version: &str,
    command: &str,
    cmdline: &str,
) -> Result<(String, BTreeMap<String, String>)> {
    let guest = Guest::new(version, "effect")?;
    // A read of nothing is an error: so a call tells which edition it took.
    let change = |text: &str| match text.split_once("\npipe_read(struct kiocb") {
        Some((before, after)) => {
            let after = after.replacen("return 0;", "return -EINVAL;", 1);
            format!("{before}\npipe_read(struct kiocb{after}")
        }
        None => text.into(),
    };
    let update = guest.update("fs/pipe.c", change)?;
    let modules = guest.modules("effect")?;

    let late = guest.scratch.join("late");
    static_c(&workspace().join("xtask/bench/effect/late.c"), &late)?;

    let script = format!(
        "
        ask() {{ guest-tool sleepers ask $1; }}
        guest-tool sleepers serve --count {SLEEPERS} --busy {BUSY} &
        while [ ! -S /run/sleepers ]; do usleep 20000; done
        ask asleep
        # late NAME COMMAND…: what is late meanwhile, and for a second after.
        late() {{
            name=$1; shift
            /bin/late >/run/late &
            pid=$!
            \"$@\"
            sleep 1
            kill $pid
            wait $pid
            result ${{name}}_late </run/late
        }}
        insmod /update/dynamos.ko
        late quiet sleep 1
        ask watch
        late dynamos dynamos load /update {command}
        ask first | result dynamos_first
        sleep 4
        cat /sys/kernel/dynamos/dynamos_pipe/state | result dynamos_state
        dynamos unload dynamos_pipe --revert
        ask again
        late livepatch insmod /readpatch.ko
        ask first | result livepatch_first
        sleep 4
        cat /sys/kernel/livepatch/readpatch/transition | result livepatch_transition
        dmesg | grep -E 'dynamos: |readpatch: ' | result log
        "
    );
    let outcome = Vm::new(&guest.image)
        .file(modules.join("readpatch.ko"), "/readpatch.ko")
        .file(static_binary("dynamos", "dynamos")?, "/bin/dynamos")
        .file(static_binary("guest-tool", "guest-tool")?, "/bin/guest-tool")
        .file(late, "/bin/late")
        .file(update, "/update")
        .script(script)
        .cpus(1) // 6.1 does not bring up a second one when instructions are counted
        .icount(0)
        .append(cmdline)
        .timeout(Duration::from_secs(3600))
        .run()?;
    Ok((guest.image.release, outcome.results))
}

/// What was told, in milliseconds from the beginning of each activation.
fn figures(told: &BTreeMap<String, String>) -> Result<Map<String, Value>> {
    let said = |name: &str| {
        told.get(name).map(|text| text.trim()).with_context(|| format!("the guest told no {name}"))
    };
    let log = said("log")?;
    let line = |what: &str| {
        log.lines().find(|line| line.contains(what)).with_context(|| format!("no `{what}`: {log}"))
    };
    // `… from the beginning of the activation at 45.678 s to the switch`
    let began = line("the beginning of the activation at ")?;
    let began = began.split("activation at ").nth(1).and_then(|rest| rest.split(' ').next());
    let began: f64 = number(began)?;
    // `… readpatch: begins at 123 ns`
    let rival = line("readpatch: begins at ")?;
    let rival: f64 = number(rival.split("begins at ").nth(1).and_then(|n| n.split(' ').next()))?;
    let first = |name: &str| number(Some(said(name)?)).map(|seconds| seconds * 1e3);
    let late = |name: &str| milliseconds(told, name);
    let figures = [
        ("dynamos_first_call_ms", json!(first("dynamos_first")? - began * 1e3)),
        ("dynamos_longest_delay_ms", late("dynamos_late")?),
        ("dynamos_complete", json!(said("dynamos_state")? == "active")),
        ("livepatch_first_call_ms", json!(first("livepatch_first")? - rival / 1e6)),
        ("livepatch_longest_delay_ms", late("livepatch_late")?),
        ("livepatch_complete", json!(said("livepatch_transition")? == "0")),
        ("quiet_longest_delay_ms", late("quiet_late")?),
    ];
    Ok(figures.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// From nanoseconds.
fn milliseconds(told: &BTreeMap<String, String>, name: &str) -> Result<Value> {
    let text = told.get(name).with_context(|| format!("the guest told no {name}"))?;
    Ok(json!(number(Some(text.trim()))? / 1e6))
}

fn number(text: Option<&str>) -> Result<f64> {
    let text = text.unwrap_or_default();
    text.parse().with_context(|| format!("{text:?} is not a number"))
}
