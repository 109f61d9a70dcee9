//! Updates with phases, on real kernels: pipes whose readers leave pages in the ring (docs/phases.md), and phases that
//! do not end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{
    SAYS, asked, check, edit, empty_directory, machine, named, refusing_pipe_read, request,
};
use dynamos_generator::{Plan, Request, Spec};

/// Emulated machines are slow, and this one shares its host.
const LONG: Duration = Duration::from_secs(900);

const SHELL: &str = r#"
ask() { guest-tool sleepers ask "$1"; }
"#;

fn directory(version: &str, name: &str) -> PathBuf {
    empty_directory("phases", &format!("{version}-{name}"))
}

fn made(version: &str, v2: &Path, bridge: &Path, name: &str, output: &Path) -> Plan {
    let v1 = Spec::parse(&format!("deb:{version}"), None).unwrap();
    let v2 = Spec::parse(v2.to_str().unwrap(), None).unwrap();
    let (name, bridge) = (Some(name.to_owned()), Some(bridge.to_owned()));
    let plan = request(Request { name, bridge, ..asked(v1, v2, output) }).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    plan
}

/// The example: `tests/vm/pipes/SERIES`.
fn pipes(version: &str, series: &str, directory: &Path) -> PathBuf {
    let patches = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipes").join(series);
    let update = directory.join("pipes");
    let (v2, bridge) = (patches.join("late-release.patch"), patches.join("bridge.patch"));
    let plan = made(version, &v2, &bridge, "dynamos_pipes", &update);
    assert_eq!(plan.phases.len(), 4);
    assert_eq!(plan.phases[0].functions, ["pipe_poll", "pipe_read", "pipe_write"]);
    assert_eq!(plan.scope.unwrap().scope, "function");
    assert!(plan.escapes.is_empty(), "{:?}", plan.escapes);
    let review = std::fs::read_to_string(update.join("review.md")).unwrap();
    assert!(review.contains("## Phases"), "{review}");
    assert!(review.contains("carries state back to V1's meaning"), "{review}");
    update
}

fn no_byte_is_lost(version: &str, series: &str, release: &str) {
    let directory = directory(version, "load");
    let update = pipes(version, series, &directory);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SHELL}
            guest-tool pipes --stop-file /run/stop --ready-file /run/ready >/run/pipes.out 2>&1 &
            pipes=$!
            while [ ! -e /run/ready ]; do usleep 50000; done
            says load dynamos load /update/pipes --timeout 240
            says active dynamos status
            sleep 2
            says policy dynamos policy dynamos_pipes --default 0
            says forced dynamos revert dynamos_pipes --on-timeout force-new-calls
            says revert dynamos revert dynamos_pipes --timeout 240
            says reverted dynamos status
            sleep 1
            says scope dynamos enable dynamos_pipes --scope system
            # The bridge takes all calls for a while: held, interrupted, and waited for.
            says rests dynamos enable dynamos_pipes --phase-time 3600 --timeout 20 --on-timeout hold
            says resting dynamos status
            says resting_json dynamos status --json
            says gives_up dynamos revert dynamos_pipes --timeout 240
            (
                until grep -q ' [0-9]' /sys/kernel/dynamos/dynamos_pipes/phase; do usleep 20000; done
                killall -INT dynamos
            ) &
            interrupts=$!
            says interrupted dynamos enable dynamos_pipes --phase-time 3600 --timeout 240
            wait $interrupts
            becomes dynamos_pipes reverted
            says enable dynamos enable dynamos_pipes --phase-time 2 --timeout 240
            sleep 1
            says revert_2 dynamos revert dynamos_pipes --timeout 240
            says unload dynamos unload dynamos_pipes
            touch /run/stop
            wait $pipes
            result bytes </run/pipes.out
            dmesg | grep 'dynamos: ' | result log"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{}\n{}", results["log"], results["bytes"]);
    check(
        results,
        &[
            ("load", "status 0\ndynamos_pipes is loaded"),
            (
                "active",
                "active, enabled\n  scope: function\n  phase 2 of 2: new calls take V2's edition",
            ),
            ("active", "edition 2"),
            ("policy", "status 3\n"),
            ("policy", "in each all calls take the same edition"),
            ("forced", "cannot be forced"),
            ("revert", "status 0\ndynamos_pipes is reverted"),
            ("reverted", "reverted, not enabled"),
            ("scope", "the update has phases"),
            (
                "rests",
                "status 0\ndynamos_pipes is loading (held): phase 1 of 2: new calls take the bridge, for 3",
            ),
            ("resting", "phase 1 of 2: new calls take the bridge, for 3"),
            ("resting", " s more at least\n"),
            ("resting_json", r#""rest_ms": 3"#),
            ("gives_up", "status 0\n"),
            ("interrupted", "status 130"),
            ("enable", "status 0\n"),
            ("revert_2", "status 0\n"),
            ("unload", "status 0\n"),
            ("bytes", "0 bytes lost, 0 damaged, sums equal"),
            ("log", "hook dynamos_transfer_back answers 0"),
        ],
    );
    let takes = |what: &str| results["log"].matches(&format!("new calls take {what}")).count();
    assert_eq!([takes("the bridge"), takes("V2's"), takes("edition 0")], [6, 2, 4]);
}

#[test]
fn no_byte_is_lost_on_6_1() {
    no_byte_is_lost("6.1.192-1", "6.1", "6.1.0-55-amd64");
}

#[test]
fn no_byte_is_lost_on_6_12() {
    no_byte_is_lost("6.12.107", "6.12", "6.12.107+deb12-amd64");
}

/// The same change without its bridge, and each call by itself: who sleeps in V2's `pipe_read` is not woken by V1's
/// `pipe_write`. So the test above has something to find.
fn bytes_are_lost_without_the_bridge(version: &str, series: &str, release: &str) {
    let directory = directory(version, "alone");
    let update = directory.join("pipes");
    let patches = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipes").join(series);
    let plan = named("dynamos_pipes", version, &patches.join("late-release.patch"), &update);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    assert_eq!(plan.scope.unwrap().scope, "system");
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SHELL}
            guest-tool sleepers serve --count 3 --patience 20 &
            while [ ! -S /run/sleepers ]; do usleep 20000; done
            ask asleep
            says load dynamos load /update/pipes --scope function
            says fed ask feed
            says fed_2 ask feed
            says revert dynamos revert dynamos_pipes --timeout 1 --on-timeout force-new-calls
            says lost ask feed
            says end ask end
            becomes dynamos_pipes reverted
            dynamos unload dynamos_pipes

            guest-tool pipes --stop-file /run/stop --ready-file /run/ready --patience 20 >/run/pipes.out 2>&1 &
            pipes=$!
            while [ ! -e /run/ready ]; do usleep 50000; done
            says load_2 dynamos load /update/pipes --scope function
            sleep 2
            says revert_2 dynamos revert dynamos_pipes --timeout 1 --on-timeout force-new-calls
            sleep 2
            touch /run/stop
            wait $pipes || true
            result bytes </run/pipes.out"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("load", "status 0\n"),
            ("fed", "3 intact, 0 damaged"),
            ("fed_2", "6 intact, 0 damaged"),
            ("revert", "reverted (draining): task "),
            ("lost", "all is read"),
            ("load_2", "status 0\n"),
            ("revert_2", "status 0\n"),
            ("bytes", "stuck: "),
        ],
    );
    println!("{}", outcome.results["bytes"]);
    assert!(!outcome.results["bytes"].contains(" 0 bytes lost"), "{}", outcome.results["bytes"]);
}

#[test]
fn bytes_are_lost_without_the_bridge_on_6_1() {
    bytes_are_lost_without_the_bridge("6.1.192-1", "6.1", "6.1.0-55-amd64");
}

#[test]
fn bytes_are_lost_without_the_bridge_on_6_12() {
    bytes_are_lost_without_the_bridge("6.12.107", "6.12", "6.12.107+deb12-amd64");
}

/// Phases that wait for tasks asleep for ever, for a predicate, and that a transfer refuses.
fn phases_that_do_not_end(version: &str, series: &str, release: &str) {
    let directory = directory(version, "waits");
    let update = pipes(version, series, &directory);
    let v2 = directory.join("v2.patch");
    edit(version, "fs/pipe.c", refusing_pipe_read, &v2);
    let simple = |name: &str, hooks: &str| {
        let bridge = directory.join(format!("{name}.patch"));
        let other = |text: &str| {
            let text = refusing_pipe_read(text).replacen("return -EINVAL;", "return -ENODATA;", 1);
            text.replacen(
                "static ssize_t\npipe_read(",
                &format!("{hooks}static ssize_t\npipe_read("),
                1,
            )
        };
        edit(version, "fs/pipe.c", other, &bridge);
        let output = directory.join(name);
        made(version, &v2, &bridge, &format!("dynamos_{name}"), &output);
        output
    };
    let hook = |name: &str, value: &str| {
        format!("static __used int dynamos_{name}(void)\n{{\n\treturn {value};\n}}\n\n")
    };
    let never = simple("never", &hook("advance", "0"));
    let refuses = simple("refuses", &(hook("transfer", "-EPERM") + &hook("transfer_back", "0")));
    // As long as the administrator says so in `fs.pipe-user-pages-hard`, as a number of its own for each hook.
    let sleeps = |name: &str, number: u32| {
        let hook = hook(name, "0");
        let sleeps =
            format!("{{\n\twhile (READ_ONCE(pipe_user_pages_hard) == {number})\n\t\tmsleep(20);\n");
        format!("#include <linux/delay.h>\n{}", hook.replacen("{\n", &sleeps, 1))
    };
    let sleepy = simple("sleepy", &(sleeps("transfer", 1) + &sleeps("transfer_back", 2)));
    let outcome = machine(release, &[&update, &never, &refuses, &sleepy])
        .script(format!(
            r#"{SAYS}{SHELL}
            guest-tool sleepers serve --count 20 &
            while [ ! -S /run/sleepers ]; do usleep 20000; done
            ask asleep
            says back dynamos load /update/pipes --timeout 1
            says none dynamos list
            says held dynamos load /update/pipes --timeout 1 --on-timeout hold
            says status dynamos status dynamos_pipes
            says json dynamos status --json
            says given_up dynamos revert dynamos_pipes --timeout 10
            says enable_held dynamos enable dynamos_pipes --timeout 1 --on-timeout hold
            says fed_1 ask feed
            ask asleep
            becomes dynamos_pipes 2 phase
            says status_2 dynamos status dynamos_pipes
            says fed_2 ask feed
            becomes dynamos_pipes active
            ask asleep
            says stays dynamos revert dynamos_pipes --timeout 1
            says still dynamos status dynamos_pipes
            says held_back dynamos revert dynamos_pipes --timeout 1 --on-timeout hold
            says resumed dynamos enable dynamos_pipes
            says held_again dynamos revert dynamos_pipes --timeout 1 --on-timeout hold
            says fed_3 ask feed
            ask asleep
            becomes dynamos_pipes 0 phase
            says draining dynamos status dynamos_pipes
            says fed_4 ask feed
            becomes dynamos_pipes reverted
            ask asleep
            says signal dynamos enable dynamos_pipes --signal --timeout 240
            says signal_back dynamos revert dynamos_pipes --signal --timeout 240
            says fed_5 ask feed
            says end ask end
            says unload dynamos unload dynamos_pipes
            says never dynamos load /update/never --timeout 1
            says never_held dynamos load /update/never --timeout 1 --on-timeout hold
            says never_status dynamos status dynamos_never
            says replace dynamos load /update/pipes --replace
            says never_back dynamos revert dynamos_never
            says unload_never dynamos unload dynamos_never
            says refuses dynamos load /update/refuses --timeout 10
            says left dynamos list
            # A transfer that sleeps for as long as it likes, either way.
            hard() {{ echo $1 >/proc/sys/fs/pipe-user-pages-hard; }}
            hard 1
            says asleep dynamos load /update/sleepy --timeout 1 --on-timeout hold
            says asleep_status dynamos status dynamos_sleepy
            says asleep_unload dynamos unload dynamos_sleepy
            says asleep_rmmod rmmod dynamos_sleepy
            hard 0
            becomes dynamos_sleepy active
            hard 2
            says asleep_back dynamos revert dynamos_sleepy --timeout 1 --on-timeout hold
            says asleep_back_status dynamos status dynamos_sleepy
            says asleep_back_unload dynamos unload dynamos_sleepy
            hard 0
            becomes dynamos_sleepy reverted
            says sleepy_unload dynamos unload dynamos_sleepy
            dmesg | grep 'dynamos: ' | result log"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{}", results["log"]);
    check(
        results,
        &[
            ("back", "status 3\n"),
            ("back", "sleeps in pipe_read and 19 more"),
            ("none", "no update is loaded"),
            (
                "held",
                "status 0\ndynamos_pipes is loaded, but waits: phase 1 of 2: new calls take the bridge; task ",
            ),
            ("status", "loading (held), enabled"),
            ("status", "phase 1 of 2: new calls take the bridge\n  waits for 20 tasks"),
            ("status", "(guest-tool) sleeps in pipe_read"),
            ("json", r#""phase": 1"#),
            ("given_up", "status 0\ndynamos_pipes is reverted"),
            ("enable_held", "status 0\ndynamos_pipes is loading (held): phase 1 of 2"),
            ("fed_1", "20 intact, 0 damaged"),
            ("status_2", "phase 2 of 2: new calls take V2's edition\n  waits for "),
            ("fed_2", "40 intact, 0 damaged"),
            ("stays", "status 3\n"),
            ("still", "active, enabled"),
            ("held_back", "reverting (held): phase 1 of 2: new calls take the bridge; task "),
            ("resumed", "status 0\ndynamos_pipes is active"),
            ("fed_3", "60 intact, 0 damaged"),
            ("draining", "reverted (draining), not enabled"),
            ("fed_4", "80 intact, 0 damaged"),
            ("signal", "status 0\ndynamos_pipes is active"),
            ("signal_back", "status 0\ndynamos_pipes is reverted"),
            ("end", "100 intact, 0 damaged"),
            ("unload", "status 0\n"),
            ("never", "status 3\n"),
            ("never", "hook `dynamos_advance` of the update does not say that it may go on"),
            ("never_held", "status 0\n"),
            ("never_held", "dynamos_advance says: not yet"),
            ("never_status", "loading (held), enabled"),
            ("replace", "status 3\n"),
            ("never_back", "status 0\n"),
            ("unload_never", "status 0\n"),
            ("refuses", "status 3\n"),
            ("refuses", "hook `dynamos_transfer` of the update answers -1 (EPERM)"),
            ("left", "no update is loaded"),
            ("asleep", "status 0\n"),
            ("asleep", "hook dynamos_transfer has not returned"),
            ("asleep_status", "loading (held), enabled"),
            ("asleep_status", "waits for hook dynamos_transfer, which has not returned"),
            ("asleep_unload", "status 3\n"),
            ("asleep_rmmod", "status 1\n"),
            ("asleep_back", "status 0\n"),
            ("asleep_back", "hook dynamos_transfer_back has not returned"),
            ("asleep_back_status", "waits for hook dynamos_transfer_back, which has not returned"),
            ("asleep_back_unload", "status 3\n"),
            ("sleepy_unload", "status 0\n"),
        ],
    );
}

#[test]
fn phases_that_do_not_end_on_6_1() {
    phases_that_do_not_end("6.1.192-1", "6.1", "6.1.0-55-amd64");
}

#[test]
fn phases_that_do_not_end_on_6_12() {
    phases_that_do_not_end("6.12.107", "6.12", "6.12.107+deb12-amd64");
}
