//! Scopes and waiting on real kernels: a function in which 1,000 tasks sleep for ever is replaced, and given back.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::common::{
    SAYS, SLEEPERS, check, empty_directory, machine, pipe_update, refusing_pipe_read,
};

/// Emulated machines are slow, and this one shares its host.
const LONG: Duration = Duration::from_secs(900);

/// An update in which a read of nothing from a pipe is an error; made once for all tests of a run.
fn update(version: &'static str) -> PathBuf {
    static MADE: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(version).or_insert_with(|| make_update(version)).clone()
}

fn make_update(version: &str) -> PathBuf {
    let directory = empty_directory("scopes", version);
    let (update, plan) = pipe_update(version, refusing_pipe_read, &directory);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let proposed = plan.scope.unwrap();
    assert_eq!(proposed.scope, "function", "{}", proposed.reason);
    let review = std::fs::read_to_string(update.join("review.md")).unwrap();
    assert!(review.contains("**Scope `function`**"), "{review}");
    update
}

/// How many sleep; `DYNAMOS_SLEEPERS` says otherwise.
fn sleepers() -> u32 {
    std::env::var("DYNAMOS_SLEEPERS").map_or(1000, |text| text.parse().unwrap())
}

/// Nothing waits for those who sleep in the function, and nothing of theirs is lost.
fn sleepers_hold_up_nothing(version: &'static str, release: &str) {
    let (update, count) = (update(version), sleepers());
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SLEEPERS}
            serve --count {count} --busy 2
            says stock ask edition
            ask watch >/dev/null
            says load dynamos load /update/pipe
            says first ask first
            says loaded ask edition
            says status dynamos status
            says fed_0 ask feed

            says rolled_back dynamos revert dynamos_pipe --timeout 2
            says still_1 ask edition
            says drain dynamos revert dynamos_pipe --timeout 1 --on-timeout hold
            says back_0 ask edition
            says draining dynamos status dynamos_pipe
            # What is refused does not count: it goes on by itself all the same.
            says phase_time dynamos revert dynamos_pipe --phase-time 5
            says json dynamos status --json
            says unload dynamos unload dynamos_pipe
            says rmmod rmmod dynamos_pipe
            says again ask edition
            says fed_1 ask feed
            becomes dynamos_pipe reverted
            says after dynamos status
            says unload_after dynamos unload dynamos_pipe
            rmmod dynamos
            says fed_2 ask feed
            says end ask end
            dmesg | grep 'dynamos: ' | result log"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{}\n{}", results["log"], results["first"]);
    let messages = |round| format!("{} intact, 0 damaged", round * count);
    check(
        results,
        &[
            ("stock", "status 0\n0"),
            ("load", "status 0\ndynamos_pipe is loaded"),
            ("loaded", "status 0\n1"),
            ("status", "active, enabled\n  scope: function\n"),
            ("fed_0", &messages(1)),
            ("rolled_back", "status 3\n"),
            ("rolled_back", "sleeps in pipe_read and"),
            ("still_1", "status 0\n1"),
            ("drain", "status 0\ndynamos_pipe is reverted (draining): task "),
            ("back_0", "status 0\n0"),
            ("draining", "reverted (draining), not enabled"),
            ("phase_time", "status 3\n"),
            ("phase_time", "the update has no phases"),
            ("draining", &format!("waits for {count} tasks, {count} activations:\n    task ")),
            ("draining", "(guest-tool) sleeps in pipe_read\n"),
            ("draining", &format!("and {} more", count - 16)),
            ("json", &format!(r#""blocking": {count}"#)),
            ("unload", "status 3\n"),
            ("unload", "sleeps in pipe_read"),
            ("rmmod", "status 1\n"),
            ("again", "status 0\n0"),
            ("fed_1", &messages(2)),
            ("after", "reverted, not enabled"),
            ("unload_after", "status 0\n"),
            ("fed_2", &messages(3)),
            ("end", &messages(3)),
        ],
    );
    assert!(!results["log"].contains("CPUs stopped for"), "{}", results["log"]);
    // The busy threads may be in the function too, just when the time is up.
    let more = |n: u32| results["rolled_back"].contains(&format!(" and {n} more"));
    assert!((count - 1..=count + 1).any(more), "{}", results["rolled_back"]);
    let (began, switched) = time_to_effect(&results["log"], &results["first"]);
    println!(
        "{release}: {count} sleepers, 2 busy threads: first call on edition 1 {began:?} after the beginning of \
         the activation, {switched:?} after the switch"
    );
    // That it is 10 ms at most is for `cargo xtask bench effect`: an emulated machine on a busy host is no place for it.
    assert!(switched <= began);
}

/// From the beginning of the activation, which registers the redirections, and from the switch to the first call on
/// the new edition.
fn time_to_effect(log: &str, first: &str) -> (Duration, Duration) {
    let seconds = |text: &str| Duration::try_from_secs_f64(text.trim().parse().unwrap()).unwrap();
    let line = log.lines().find(|line| line.contains("the beginning of the activation")).unwrap();
    let (before, after) = line.split_once(" us from the beginning of the activation at ").unwrap();
    let began = seconds(after.split_once(" s ").unwrap().0);
    let took = before.rsplit(' ').next().unwrap().parse().unwrap();
    let switched = began + Duration::from_micros(took);
    let first = seconds(first.lines().nth(1).unwrap());
    // The switch is told in whole microseconds, and there is a moment between it and the clock.
    (first.checked_sub(began).unwrap(), first.saturating_sub(switched))
}

#[test]
fn sleepers_hold_up_nothing_on_6_1() {
    sleepers_hold_up_nothing("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn sleepers_hold_up_nothing_on_6_12() {
    sleepers_hold_up_nothing("6.12.107", "6.12.107+deb12-amd64");
}

/// Scope `system` with tasks that do not leave: each end that a wait can have.
fn waits_end_as_asked(version: &'static str, release: &str) {
    let update = update(version);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SLEEPERS}
            serve --count 20
            says rolled_back dynamos load /update/pipe --scope system --timeout 1
            says nothing ls /sys/kernel/dynamos

            # Whoever is woken begins the call anew: in edition 1, then in edition 0.
            dynamos load /update/pipe
            says woken ask feed
            says not_woken dynamos revert dynamos_pipe --timeout 1
            says revert dynamos revert dynamos_pipe --signal --timeout 240
            says revert_edition ask edition
            says revert_fed ask feed
            dynamos unload dynamos_pipe

            says held dynamos load /update/pipe --scope system --timeout 0 --on-timeout hold
            says held_status dynamos status
            says held_edition ask edition
            says given_up dynamos revert dynamos_pipe
            says given_up_status dynamos status
            says held_again dynamos enable dynamos_pipe --scope system --timeout 0 --on-timeout hold
            says forced dynamos enable dynamos_pipe --timeout 0 --on-timeout force-new-calls
            says forced_edition ask edition
            says forced_status dynamos status
            says fed ask feed

            says drain dynamos revert dynamos_pipe --timeout 0 --on-timeout force-new-calls
            says drain_edition ask edition
            says resumed dynamos enable dynamos_pipe
            says resumed_edition ask edition
            says drain_again dynamos revert dynamos_pipe --timeout 0 --on-timeout hold
            says end ask end
            becomes dynamos_pipe reverted
            says unload dynamos unload dynamos_pipe

            # What is held goes on by itself when the last task leaves.
            serve --count 3
            says held_3 dynamos load /update/pipe --scope system --timeout 0 --on-timeout hold
            says end_3 ask end
            becomes dynamos_pipe active
            says went_on dynamos status
            serve --count 3
            says held_4 dynamos revert dynamos_pipe --timeout 0 --on-timeout hold
            says held_4_status dynamos status
            says held_4_edition ask edition
            says end_4 ask end
            becomes dynamos_pipe reverted
            says bad_scope dynamos enable dynamos_pipe --scope cpu
            echo '1 scope=cpu' >/sys/kernel/dynamos/dynamos_pipe/enabled 2>/run/bad || true
            says bad_raw cat /run/bad
            dynamos unload dynamos_pipe
            rmmod dynamos
            grep -c dynamos /proc/modules | result left || true"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("rolled_back", "status 3\n"),
            ("rolled_back", "given up after 1000 ms: task "),
            ("rolled_back", "sleeps in pipe_read and 19 more"),
            ("nothing", "status 0\nabi\nrefusals\nversion"),
            ("woken", "20 intact, 0 damaged"),
            ("not_woken", "status 3\n"),
            ("revert", "status 0\ndynamos_pipe is reverted"),
            ("revert_edition", "status 0\n0"),
            ("revert_fed", "40 intact, 0 damaged"),
            ("held", "status 0\ndynamos_pipe is loaded, but waits: task "),
            (
                "held_status",
                "loading (held), not enabled\n  scope: system\n  waits for 20 tasks, 20 activations:",
            ),
            ("held_edition", "status 0\n0"),
            ("given_up", "status 0\ndynamos_pipe is reverted"),
            ("given_up_status", "reverted, not enabled"),
            ("held_again", "status 0\ndynamos_pipe is loading (held): task "),
            ("forced", "status 0\ndynamos_pipe is active"),
            ("forced_edition", "status 0\n1"),
            ("forced_status", "active, enabled\n  scope: function\n"),
            ("fed", "60 intact, 0 damaged"),
            ("drain", "status 0\ndynamos_pipe is reverted (draining): task "),
            ("drain_edition", "status 0\n0"),
            ("resumed", "status 0\ndynamos_pipe is active"),
            ("resumed_edition", "status 0\n1"),
            ("drain_again", "status 0\n"),
            ("end", "60 intact, 0 damaged"),
            ("unload", "status 0\n"),
            ("held_3", "is loaded, but waits"),
            ("went_on", "active, enabled\n  scope: system\n"),
            ("held_4", "dynamos_pipe is reverting (held): task "),
            ("held_4_status", "reverting (held), enabled"),
            ("held_4_edition", "status 0\n1"),
            ("bad_scope", "it is `function`, `task`, `object` or `system`"),
            ("bad_raw", "nvalid argument"),
            ("left", "0"),
        ],
    );
}

#[test]
fn waits_end_as_asked_on_6_1() {
    waits_end_as_asked("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn waits_end_as_asked_on_6_12() {
    waits_end_as_asked("6.12.107", "6.12.107+deb12-amd64");
}

/// Back and forth many times while pipes are busy and tasks sleep in them: the update's code is taken away from under
/// nobody, and no byte is lost.
fn back_and_forth(version: &'static str, release: &str) {
    const ROUNDS: u32 = 12;
    let update = update(version);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SLEEPERS}
            serve --count 30 --busy 4
            for round in $(seq {ROUNDS}); do
                dynamos load /update/pipe >/dev/null
                ask feed >/dev/null
                dynamos revert dynamos_pipe --signal --timeout 240 >/dev/null
                ask asleep >/dev/null
                dynamos enable dynamos_pipe >/dev/null
                dynamos revert dynamos_pipe --timeout 0 --on-timeout hold >/dev/null
                ask feed >/dev/null
                becomes dynamos_pipe reverted
                dynamos unload dynamos_pipe
                rmmod dynamos
            done
            says end ask end"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let end = &outcome.results["end"];
    println!("{release}: {end}");
    assert!(end.contains(&format!("{} intact, 0 damaged", ROUNDS * 2 * 30)), "{end}");
}

#[test]
fn back_and_forth_on_6_1() {
    back_and_forth("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn back_and_forth_on_6_12() {
    back_and_forth("6.12.107", "6.12.107+deb12-amd64");
}

/// Unloaded by force while tasks sleep in it, an update gives calls to edition 0 and goes when the last task has left.
fn forced_to_go(version: &'static str, release: &str) {
    let update = update(version);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SLEEPERS}
            serve --count 3
            dynamos load /update/pipe
            ask feed >/dev/null
            ask asleep
            says before ask edition
            rmmod -f dynamos_pipe &
            for try in $(seq 2400); do
                says during ask edition
                case $(cat /run/said) in 0) break ;; esac
                usleep 50000
            done
            # Who is killed waits all the same, and calls do not go back to the edition.
            kill -9 $!
            usleep 2000000
            says killed ask edition
            says there ls -d /sys/module/dynamos_pipe
            says fed ask feed
            wait $! || true
            says gone ls -d /sys/module/dynamos_pipe
            says after ask edition
            says end ask end
            rmmod dynamos
            dmesg | grep -c 'by force' | result told"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("before", "status 0\n1"),
            ("during", "status 0\n0"),
            ("killed", "status 0\n0"),
            ("there", "status 0\n"),
            ("fed", "6 intact, 0 damaged"),
            ("gone", "status 1\n"),
            ("after", "status 0\n0"),
            ("end", "6 intact, 0 damaged"),
        ],
    );
    assert_eq!(outcome.results["told"].trim(), "1");
}

#[test]
fn forced_to_go_on_6_1() {
    forced_to_go("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn forced_to_go_on_6_12() {
    forced_to_go("6.12.107", "6.12.107+deb12-amd64");
}
