//! Hooks of an update that refuse, that come too late, and that do not return, on real kernels: nothing is left half
//! done, and the update settles by itself in the end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::{
    SAYS, check, edit, empty_directory, greater_pipe_fcntl, machine, named, pipe_update,
};

/// Hooks that do what the administrator writes to `fs.pipe-user-pages-hard`: a decimal digit for each, the last one for
/// `before_on`. 0: it agrees, 1: it refuses, 2: it sleeps until there is another digit.
const HOOKS: &str = "
static int dynamos_say(unsigned long place)
{
	unsigned long digit;

	while ((digit = READ_ONCE(pipe_user_pages_hard) / place % 10) == 2)
		schedule_timeout_idle(HZ / 50);
	return digit ? -EBUSY : 0;
}

static __used int dynamos_before_on(void)
{
	return dynamos_say(1);
}

static __used int dynamos_after_on(void)
{
	return dynamos_say(10);
}

static __used int dynamos_before_off(void)
{
	return dynamos_say(100);
}

static __used int dynamos_after_off(void)
{
	return dynamos_say(1000);
}

";

/// An update whose `pipe_fcntl` gives a number that is one greater, with `hooks` before it.
fn made(version: &str, name: &str, hooks: &str) -> (PathBuf, dynamos_generator::Plan) {
    let directory = empty_directory("hooks", name);
    let name = "long pipe_fcntl(";
    let hooked = |text: &str| greater_pipe_fcntl(text).replacen(name, &format!("{hooks}{name}"), 1);
    pipe_update(version, hooked, &directory)
}

/// `hooks ANSWERS`: what they are to answer. `settles STATE`: until it has; the test is over if it never does.
const SHELL: &str = r#"
sys=/sys/kernel/dynamos/dynamos_pipe
hooks() { echo $1 >/proc/sys/fs/pipe-user-pages-hard; }
edition() { guest-tool pipe-edition --made 8192 | result $1; }
settles() { while [ "$(cat $sys/state)" != "$1" ] || [ -n "$(cat $sys/hook)" ]; do sleep 1; done; }
"#;

/// What was said under each name must be this alone.
#[track_caller]
fn check_alone(results: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (name, text) in expected {
        assert_eq!(results[*name].trim(), *text, "{name}\n{}", results["log"]);
    }
}

fn hooks_refuse_and_do_not_return(version: &str, release: &str) {
    let (update, plan) = made(version, release, HOOKS);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let names: Vec<&str> = plan.hooks.iter().map(|hook| hook.name.as_str()).collect();
    assert_eq!(
        names,
        ["dynamos_before_on", "dynamos_after_on", "dynamos_before_off", "dynamos_after_off"]
    );
    let review = std::fs::read_to_string(update.join("review.md")).unwrap();
    assert!(review.contains("- `dynamos_before_off` in `fs/pipe.o`"), "{review}");
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SHELL}
            hook() {{ cat $sys/hook | result $1; }}
            load() {{ dynamos load /update/pipe "$@"; }}
            revert() {{ dynamos revert dynamos_pipe "$@"; }}
            enable() {{ dynamos enable dynamos_pipe "$@"; }}

            hooks 1
            says refuses load
            edition refuses_edition
            ls /sys/module | grep -c dynamos_pipe | result refuses_module || true
            hooks 10
            says fails_after load
            edition fails_after_edition
            ls /sys/module | grep -c dynamos_pipe | result fails_after_module || true

            hooks 2
            says stuck_before_on load --timeout 1
            edition stuck_before_on_edition
            hook stuck_before_on_hook
            says stuck_before_on_status dynamos status dynamos_pipe
            says stuck_before_on_unload dynamos unload dynamos_pipe
            says stuck_before_on_rmmod rmmod dynamos_pipe
            hooks 0
            settles reverted
            says enable enable
            edition enabled_edition
            says revert revert

            hooks 20
            says stuck_after_on enable --timeout 1
            edition stuck_after_on_edition
            says stuck_after_on_status dynamos status dynamos_pipe
            says stuck_after_on_again enable
            hooks 0
            settles reverted
            says enable_after enable
            edition enabled_after_edition

            hooks 200
            says stuck_before_off revert --timeout 1
            edition stuck_before_off_edition
            hook stuck_before_off_hook
            hooks 0
            settles active
            hooks 100
            says refuses_revert revert --on-timeout hold
            edition refuses_revert_edition
            hooks 200
            says held revert --timeout 1 --on-timeout hold
            edition held_edition
            hooks 0
            settles reverted
            edition settled_edition

            enable
            hooks 2000
            says stuck_after_off revert --timeout 1
            edition stuck_after_off_edition
            says stuck_after_off_rmmod rmmod dynamos_pipe
            hooks 1000
            settles reverted
            hooks 0
            ps | grep -c '[d]ynamos_hook' | result threads || true
            says unload dynamos unload dynamos_pipe
            rmmod dynamos
            dmesg | grep dynamos: | result log"#
        ))
        .timeout(Duration::from_secs(1200))
        .run()
        .unwrap();
    let results = &outcome.results;
    let log = &results["log"];
    check_alone(
        results,
        &[
            ("refuses_edition", "0"),
            ("fails_after_edition", "0"),
            ("stuck_before_on_edition", "0"),
            ("enabled_edition", "1"),
            ("stuck_after_on_edition", "0"),
            ("enabled_after_edition", "1"),
            ("stuck_before_off_edition", "1"),
            ("refuses_revert_edition", "1"),
            ("held_edition", "1"),
            ("settled_edition", "0"),
            ("stuck_after_off_edition", "0"),
            ("refuses_module", "0"),
            ("fails_after_module", "0"),
            ("threads", "0"),
            ("stuck_before_on_hook", "dynamos_before_on"),
            ("stuck_before_off_hook", "dynamos_before_off"),
        ],
    );
    let busy = "answers -16 (EBUSY)";
    for (name, status, said) in [
        ("refuses", 3, format!("hook `dynamos_before_on` of the update {busy}")),
        ("fails_after", 3, format!("hook `dynamos_after_on` of the update {busy}")),
        ("stuck_before_on", 3, "hook `dynamos_before_on` has not returned".into()),
        ("stuck_before_on", 3, "it is reverting (held)".into()),
        ("stuck_before_on_status", 0, "waits for hook dynamos_before_on".into()),
        ("stuck_before_on_unload", 3, "hook `dynamos_before_on` has not returned".into()),
        ("enable", 0, "is active".into()),
        ("revert", 0, "is reverted".into()),
        ("stuck_after_on", 3, "hook `dynamos_after_on` has not returned".into()),
        ("stuck_after_on_status", 0, "reverted (draining)".into()),
        ("stuck_after_on_status", 0, "(dynamos_hook) sleeps in hook dynamos_after_on".into()),
        ("stuck_after_on_again", 3, "cannot become active".into()),
        ("enable_after", 0, "is active".into()),
        ("stuck_before_off", 3, "hook `dynamos_before_off` has not returned".into()),
        ("refuses_revert", 3, format!("hook `dynamos_before_off` of the update {busy}")),
        ("held", 0, "is reverting (held): hook dynamos_before_off has not returned".into()),
        ("stuck_after_off", 3, "hook `dynamos_after_off` has not returned".into()),
        ("unload", 0, "is unloaded".into()),
    ] {
        let text = &results[name];
        let told = text.starts_with(&format!("status {status}\n")) && text.contains(&said);
        assert!(told, "{name}: {text}\n{log}");
    }
    for name in ["stuck_before_on_rmmod", "stuck_after_off_rmmod"] {
        assert!(!results[name].starts_with("status 0"), "{name}: {}", results[name]);
    }
    assert!(log.contains("hook `dynamos_after_off` of the update answers -16"), "{log}");
}

#[test]
fn hooks_refuse_and_do_not_return_on_6_1() {
    hooks_refuse_and_do_not_return("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn hooks_refuse_and_do_not_return_on_6_12() {
    hooks_refuse_and_do_not_return("6.12.107", "6.12.107+deb12-amd64");
}

/// Ctrl-C while a hook runs: the command ends, but not where something is taken back, and the update is settled by itself.
fn hooks_are_interrupted(version: &str, release: &str) {
    let (update, plan) = made(version, &format!("{release}-interrupted"), HOOKS);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SHELL}
            state() {{ says $1 cat $sys/state; }}
            # The one that waits for a hook; nobody has a time limit that ends before the test does.
            interrupted() {{
                name=$1; hook=$2; shift 2
                (
                    until [ "$(cat $sys/hook 2>/run/null)" = "$hook" ]; do usleep 20000; done
                    killall -INT dynamos
                ) &
                interrupts=$!
                says $name "$@" --timeout 900
                wait $interrupts
            }}

            hooks 2
            interrupted before_on dynamos_before_on dynamos load /update/pipe
            edition before_on_edition
            state before_on_state
            hooks 0
            settles reverted
            hooks 2
            interrupted before_on_again dynamos_before_on dynamos enable dynamos_pipe
            edition before_on_again_edition
            hooks 0
            settles reverted

            hooks 20
            interrupted after_on dynamos_after_on dynamos enable dynamos_pipe
            edition after_on_edition
            hooks 0
            settles reverted
            dynamos enable dynamos_pipe

            hooks 200
            interrupted before_off dynamos_before_off dynamos revert dynamos_pipe
            edition before_off_edition
            state before_off_state
            hooks 0
            settles active
            # Who waits is rolled back, whatever was to be at its end.
            hooks 200
            interrupted hold dynamos_before_off dynamos revert dynamos_pipe --on-timeout hold
            edition hold_edition
            hooks 0
            settles active

            hooks 2000
            (
                until [ "$(cat $sys/hook)" = dynamos_after_off ]; do usleep 20000; done
                killall -INT dynamos
                sleep 3
                pidof dynamos >/run/patient || true
                hooks 0
            ) &
            lets=$!
            says after_off dynamos revert dynamos_pipe --timeout 900
            state after_off_state
            wait $lets
            says patient cat /run/patient
            says unload dynamos unload dynamos_pipe
            rmmod dynamos
            dmesg | grep dynamos: | result log"#
        ))
        .timeout(Duration::from_secs(1200))
        .run()
        .unwrap();
    let results = &outcome.results;
    let log = &results["log"];
    check_alone(
        results,
        &[
            ("before_on_edition", "0"),
            ("before_on_again_edition", "0"),
            ("after_on_edition", "0"),
            ("before_off_edition", "1"),
            ("hold_edition", "1"),
        ],
    );
    for name in ["before_on_again", "after_on", "before_off", "hold", "after_off"] {
        assert!(results[name].starts_with("status 130"), "{name}: {}\n{log}", results[name]);
    }
    assert!(!results["before_on"].starts_with("status 0\n"), "{}\n{log}", results["before_on"]);
    check(
        results,
        &[
            ("before_on_state", "status 0\nreverting (held)"),
            ("before_off_state", "status 0\nactive"),
            ("after_off_state", "status 0\nreverted"),
            ("unload", "status 0\n"),
        ],
    );
    assert!(
        results["patient"].trim() != "status 0",
        "it has not waited: {}\n{log}",
        results["patient"]
    );
}

#[test]
fn hooks_are_interrupted_on_6_1() {
    hooks_are_interrupted("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn hooks_are_interrupted_on_6_12() {
    hooks_are_interrupted("6.12.107", "6.12.107+deb12-amd64");
}

/// An update with hooks neither takes the place of another nor leaves at its switch, and none of them is called.
fn hooks_are_for_a_switch_of_their_own(version: &str, release: &str) {
    let (update, plan) = made(version, &format!("{release}-replace"), HOOKS);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let directory = update.parent().unwrap();
    let (patch, other) = (directory.join("other.patch"), directory.join("other"));
    edit(version, "fs/pipe.c", greater_pipe_fcntl, &patch);
    let plan = named("other", version, &patch, &other);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let outcome = machine(release, &[&update, &other])
        .script(format!(
            r#"{SAYS}
            called() {{ dmesg | grep -c 'hook dynamos_.* answers' >/run/called || true; says $1 cat /run/called; }}
            # Where there is none, nobody's place is taken.
            says alone dynamos load /update/pipe --replace
            called called_alone
            says taken dynamos load /update/other --replace
            says taken_status dynamos status
            says taken_stack dynamos load /update/other --stack
            called called_taken
            dynamos unload dynamos_pipe --revert
            called called_gone
            dynamos load /update/other
            says takes dynamos load /update/pipe --replace
            says takes_status dynamos status
            dynamos revert other
            dynamos load /update/pipe
            dynamos revert dynamos_pipe
            dynamos enable other
            called called_before
            says enable dynamos enable dynamos_pipe --replace
            says enable_status dynamos status
            called called_after
            # The other way round as well.
            dynamos revert other
            dynamos enable dynamos_pipe
            says enable_other dynamos enable other --replace
            says enable_other_status dynamos status
            for name in dynamos_pipe other; do dynamos unload $name --revert; done
            rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(1200))
        .run()
        .unwrap();
    let results = &outcome.results;
    let says = "update `dynamos_pipe` has hooks, which are for a switch of its own alone";
    for name in ["taken", "taken_stack", "takes", "enable", "enable_other"] {
        check(results, &[(name, "status 3\n"), (name, says)]);
    }
    check(
        results,
        &[
            ("alone", "status 0\n"),
            ("called_alone", "status 0\n2"),
            ("taken_status", "dynamos_pipe for vmlinux: active, enabled"),
            ("called_taken", "status 0\n2"),
            ("called_gone", "status 0\n4"),
            ("takes_status", "other for vmlinux: active, enabled"),
            ("called_before", "status 0\n8"),
            ("enable_status", "dynamos_pipe for vmlinux: reverted, not enabled"),
            ("enable_status", "other for vmlinux: active, enabled"),
            ("called_after", "status 0\n8"),
            ("enable_other_status", "dynamos_pipe for vmlinux: active, enabled"),
            ("enable_other_status", "other for vmlinux: reverted, not enabled"),
        ],
    );
    for absent in ["taken_status", "takes_status"] {
        assert_eq!(results[absent].matches(" for vmlinux: ").count(), 1, "{}", results[absent]);
    }
}

#[test]
fn hooks_are_for_a_switch_of_their_own_on_6_1() {
    hooks_are_for_a_switch_of_their_own("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn hooks_are_for_a_switch_of_their_own_on_6_12() {
    hooks_are_for_a_switch_of_their_own("6.12.107", "6.12.107+deb12-amd64");
}

#[test]
fn a_hook_that_does_not_fit_is_refused() {
    for (name, from, to, why) in [
        ("parameters", "before_on(void)", "before_on(int nid)", "takes parameters"),
        ("returns", "__used int dynamos_after_on", "__used long dynamos_after_on", "return an int"),
        ("unused", "__used int dynamos_after_off", "int dynamos_after_off", "left it out"),
        ("name", "dynamos_before_off", "dynamos_before_revert", "there is none of this name"),
    ] {
        let (update, plan) = made("6.1.192-1", name, &HOOKS.replace(from, to));
        let told: Vec<_> = plan.refusals.iter().map(|refusal| refusal.reason.as_str()).collect();
        assert!(told.len() == 1 && told[0].contains(why), "{name}: {told:?}");
        assert!(!update.join("update.ko").exists());
    }
}
