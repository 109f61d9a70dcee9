//! Hooks and phases of updates whose module is loaded later, on real kernels: they run before its `init` function does and
//! after the last of its code, and a module is never kept from coming, nor from going for longer than a hook takes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::time::Duration;

use crate::common::{SAYS, asked, check, edit, empty_directory, machine, request};
use dynamos_generator::{Plan, Request, Spec};

/// What the hooks do is in the host's name, a character for each: 1, it refuses; 2, it sleeps until there is another.
/// `disks`: how many disks the module has made with which name, which tells the edition that ran while it began.
const SHELL: &str = r#"
sys=/sys/kernel/dynamos/dynamos_loop
disks() { says $1 eval "ls /sys/block | sed -n 's/[0-9]*\$//p' | grep -E 'late|loop|both' | uniq -c"; }
state() { says $1 cat $sys/state; }
hooks() { hostname $1; }
forget() { dmesg -c >/run/forgotten; }
# The hooks that have answered since, and what.
answers() {
    dmesg >/run/dmesg
    says $1 sed -n 's/.*hook dynamos_\([a-z_]*\) answers \(.*\)/\1 \2/p' /run/dmesg
    forget
}
# When the hook runs, and somebody has waited for it for a while.
after() {
    until [ "$(cat $sys/hook)" = "$1" ]; do usleep 50000; done
    sleep 2
    hooks $2
}
"#;

/// In the host's name.
const SAY: &str = "
#include <linux/utsname.h>

static int dynamos_say(int place)
{
	char digit;

	while ((digit = READ_ONCE(init_uts_ns.name.nodename[place])) == '2')
		schedule_timeout_idle(HZ / 50);
	return digit == '1' ? -EBUSY : 0;
}
";

/// Functions with these names that answer what the host's name says.
fn hooks(names: &[&str]) -> String {
    let each = names.iter().enumerate().map(|(place, name)| {
        let negated = if name.starts_with("advance") { "!" } else { "" };
        format!(
            "
static __used int dynamos_{name}(void)
{{
	return {negated}dynamos_say({place});
}}
"
        )
    });
    SAY.to_owned() + &each.collect::<String>() + "\n"
}

/// The update in which the module's disks are called `late`, with hooks; or with phases, whose bridge calls them `both`.
fn made(version: &str, name: &str, around: &[&str], between: &[&str]) -> (PathBuf, Plan) {
    let directory = empty_directory("late_hooks", &format!("{version}-{name}"));
    let patch = |file: &str, disks: &str, names: &[&str]| {
        let patch = directory.join(file);
        let change = |text: &str| {
            let named = text.replacen(r#""loop%d", i)"#, &format!(r#""{disks}%d", i)"#), 1);
            let before = "static int loop_add(int i)\n{";
            let hooks = if names.is_empty() { String::new() } else { hooks(names) };
            named.replacen(before, &format!("{hooks}{before}"), 1)
        };
        edit(version, "drivers/block/loop.c", change, &patch);
        patch
    };
    let v1 = Spec::parse(&format!("deb:{version}"), None).unwrap();
    let v2 = Spec::Patch(patch("v2.patch", "late", around));
    let bridge = (!between.is_empty()).then(|| patch("bridge.patch", "both", between));
    let output = directory.join("loop");
    let request_of =
        Request { name: Some("dynamos_loop".into()), bridge, ..asked(v1, v2, &output) };
    let plan = request(request_of).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    (output, plan)
}

fn hooks_of_a_module_that_comes_and_goes(version: &str, release: &str) {
    let all = ["before_on", "after_on", "before_off", "after_off"];
    let (update, plan) = made(version, "hooks", &all, &[]);
    assert_eq!(plan.hooks.len(), 4);
    let outcome = machine(release, &[&update])
        .offer("loop")
        .script(format!(
            r#"{SAYS}{SHELL}
            hooks 0000
            says load dynamos load /update/loop --timeout 2
            answers load_answers
            load-module loop
            disks on_disks
            answers on
            says status dynamos status
            rmmod loop
            answers off
            state off_state

            # What refuses leaves the module as it is, and the next one is asked again.
            hooks 1000
            load-module loop
            disks refused_disks
            state refused_state
            says refused_why cat /sys/kernel/dynamos/refusals
            rmmod loop
            state refused_gone
            answers refused
            hooks 0100
            load-module loop
            disks after_disks
            state after_state
            rmmod loop
            answers after
            # A module that goes is not asked.
            hooks 0011
            load-module loop
            disks told_disks
            rmmod loop
            state told_state
            answers told

            # One that does not return holds up a module that comes for its time only, and one that goes.
            hooks 2000
            load-module loop
            disks slow_disks
            state slow_state
            says slow_hook cat $sys/hook
            after dynamos_before_on 0000 &
            rmmod loop
            state slow_gone
            answers slow
            hooks 0200
            load-module loop
            disks slow_after_disks
            after dynamos_after_on 0000 &
            rmmod loop
            state slow_after_gone
            answers slow_after
            hooks 0020
            load-module loop
            disks slow_off_disks
            after dynamos_before_off 0000 &
            rmmod loop
            state slow_off_gone
            answers slow_off
            # Settled while its module is there, it is reverted; then it takes somebody to enable it.
            hooks 2000
            load-module loop
            hooks 0000
            becomes dynamos_loop reverted
            disks settled_disks
            rmmod loop
            says settled_again dynamos enable dynamos_loop
            load-module loop
            disks last_disks
            says unload dynamos unload dynamos_loop --revert
            rmmod loop
            says rmmod rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    let waits = "status 0\nwaiting for module loop\n";
    check(
        &outcome.results,
        &[
            ("load", "is waiting for module loop"),
            ("on_disks", "8 late"),
            ("on", "status 0\nbefore_on 0\nafter_on 0"),
            ("status", "dynamos_loop for loop: active, enabled"),
            ("off", "status 0\nbefore_off 0\nafter_off 0"),
            ("refused_disks", "8 loop"),
            ("refused_state", "waiting for module loop (the one that is loaded does not fit)"),
            ("refused_why", "hook `dynamos_before_on` of the update answers -16"),
            ("refused", "status 0\nbefore_on -16"),
            ("after_disks", "8 loop"),
            ("after_state", "waiting for module loop (the one that is loaded does not fit)"),
            ("after", "status 0\nbefore_on 0\nafter_on -16\nafter_off 0"),
            ("told_disks", "8 late"),
            ("told", "status 0\nbefore_on 0\nafter_on 0\nbefore_off -16\nafter_off -16"),
            ("slow_disks", "8 loop"),
            ("slow_state", "reverting (held)"),
            ("slow_hook", "dynamos_before_on"),
            ("slow", "status 0\nbefore_on 0\nafter_off 0"),
            ("slow_after_disks", "8 loop"),
            ("slow_after", "before_on 0\nafter_on 0\nbefore_off 0\nafter_off 0"),
            ("slow_off_disks", "8 late"),
            ("slow_off", "before_on 0\nafter_on 0\nbefore_off 0\nafter_off 0"),
            ("settled_disks", "8 loop"),
            ("settled_again", "is waiting for module loop"),
            ("last_disks", "8 late"),
            ("unload", "status 0\n"),
            ("rmmod", "status 0"),
        ],
    );
    assert_eq!(outcome.results["load_answers"].trim_end(), "status 0");
    for gone in ["off_state", "refused_gone", "told_state", "slow_gone", "slow_after_gone"] {
        assert_eq!(outcome.results[gone].trim_end(), waits.trim_end(), "{gone}");
    }
    assert_eq!(outcome.results["slow_off_gone"].trim_end(), waits.trim_end());
}

#[test]
fn hooks_of_a_module_that_comes_and_goes_on_6_1() {
    hooks_of_a_module_that_comes_and_goes("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn hooks_of_a_module_that_comes_and_goes_on_6_12() {
    hooks_of_a_module_that_comes_and_goes("6.12.107", "6.12.107+deb12-amd64");
}

fn phases_of_a_module_that_comes_and_goes(version: &str, release: &str) {
    let between = ["advance", "transfer", "advance_back", "transfer_back"];
    let (update, plan) = made(version, "phases", &[], &between);
    assert_eq!(plan.phases.len(), 4);
    let outcome = machine(release, &[&update])
        .offer("loop")
        .script(format!(
            r#"{SAYS}{SHELL}
            hooks 0000
            # Nobody has called what is just coming, nor will anybody what goes: neither takes a phase's least time.
            says load dynamos load /update/loop --timeout 2 --phase-time 3600
            load-module loop
            disks on_disks
            says status dynamos status
            answers on
            rmmod loop
            state off_state
            answers off

            # What says no leaves the module as it is.
            hooks 1000
            load-module loop
            disks not_yet_disks
            rmmod loop
            hooks 0100
            load-module loop
            disks refused_disks
            state refused_state
            rmmod loop
            state refused_gone
            answers refused
            # Where it goes the way back takes as long as it is refused.
            hooks 0001
            load-module loop
            (
                until dmesg | grep -q 'dynamos_transfer_back answers -16'; do usleep 50000; done
                sleep 2
                ls -d /sys/module/loop >/run/going
                hooks 0000
            ) &
            lets=$!
            rmmod loop
            wait $lets
            says going cat /run/going
            state back_state
            forget
            says unload dynamos unload dynamos_loop

            # Held in a phase, the module begins in that one, and goes.
            says held dynamos load /update/loop --timeout 2 --on-timeout hold
            hooks 1000
            load-module loop
            disks held_disks
            says held_status dynamos status
            hooks 0000
            becomes dynamos_loop active
            answers held_on
            rmmod loop
            state held_off
            hooks 1000
            forget
            load-module loop
            disks held_again
            rmmod loop
            state held_gone
            answers held_answers
            says unload_2 dynamos unload dynamos_loop
            says rmmod rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("load", "is waiting for module loop"),
            ("on_disks", "8 late"),
            (
                "status",
                "active, enabled\n  scope: function\n  phase 2 of 2: new calls take V2's edition",
            ),
            ("on", "status 0\ntransfer 0"),
            ("off", "status 0\ntransfer_back 0"),
            ("not_yet_disks", "8 loop"),
            ("refused_disks", "8 loop"),
            ("refused_state", "waiting for module loop (the one that is loaded does not fit)"),
            ("refused", "status 0\ntransfer -16"),
            ("going", "status 0\n/sys/module/loop"),
            ("unload", "status 0\n"),
            ("held", "is waiting for module loop"),
            ("held_disks", "8 both"),
            ("held_status", "loading (held), enabled"),
            ("held_status", "new calls take the bridge; dynamos_advance says: not yet"),
            ("held_on", "status 0\ntransfer 0"),
            ("held_again", "8 both"),
            ("unload_2", "status 0\n"),
            ("rmmod", "status 0"),
        ],
    );
    for gone in ["off_state", "refused_gone", "back_state", "held_off", "held_gone"] {
        assert_eq!(outcome.results[gone].trim_end(), "status 0\nwaiting for module loop", "{gone}");
    }
    assert_eq!(outcome.results["held_answers"].trim_end(), "status 0");
}

#[test]
fn phases_of_a_module_that_comes_and_goes_on_6_1() {
    phases_of_a_module_that_comes_and_goes("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn phases_of_a_module_that_comes_and_goes_on_6_12() {
    phases_of_a_module_that_comes_and_goes("6.12.107", "6.12.107+deb12-amd64");
}
