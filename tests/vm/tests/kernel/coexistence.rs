//! Others at work on a function while an update replaces it, on real kernels: tracers, probes, BPF, perf and livepatch,
//! and what happens to the machine. `docs/coexistence.md` is the table of what is shown here.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::common::{
    SAYS, SLEEPERS, cache, empty_directory, greater_pipe_fcntl, image, kernel, machine,
    pipe_update, refusing_pipe_read,
};
use dynamos_vm::{Error, Outcome, Vm, kernel_modules, static_c};

/// `edition`: which of `pipe_fcntl` three calls take; `ask`: what `pipe_read`'s sleepers are told.
const SHELL: &str = r#"
T=/sys/kernel/tracing
[ -e $T/trace ] || mount -t tracefs tracefs $T
edition() { guest-tool pipe-edition "$@"; }
state() { cat /sys/kernel/dynamos/dynamos_pipe/state; }
"#;

/// Emulated machines are slow, and this one shares its host.
const LONG: Duration = Duration::from_secs(600);

struct Made {
    directory: PathBuf,
    update: PathBuf,
}

/// An update of `pipe_fcntl`, whose edition 1 answers a number that is one greater, and of `pipe_read`, where a read of
/// nothing is an error; and who else wants these functions. Made once for all tests of a run.
fn made(version: &'static str) -> Made {
    static MADE: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = made.entry(version).or_insert_with(|| make(version)).clone();
    Made { update: directory.join("pipe"), directory }
}

fn make(version: &str) -> PathBuf {
    let directory = empty_directory("coexistence", version);
    let change = |text: &str| greater_pipe_fcntl(&refusing_pipe_read(text));
    let (_, plan) = pipe_update(version, change, &directory);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let ours = Path::new(env!("CARGO_MANIFEST_DIR"));
    let headers = cache().headers(&kernel(version)).unwrap();
    kernel_modules(&headers, &ours.join("rivals"), &directory.join("rivals")).unwrap();
    static_c(&ours.join("probe/probe.c"), &directory.join("probe")).unwrap();
    directory
}

fn guest(version: &'static str, release: &str) -> Vm {
    let Made { directory, update } = made(version);
    machine(release, &[&update])
        .file(directory.join("probe"), "/bin/probe")
        .file(directory.join("rivals/rival.ko"), "/rival.ko")
        .file(directory.join("rivals/owner.ko"), "/owner.ko")
        .timeout(LONG)
}

/// The run, which must end as it should.
#[track_caller]
fn run(vm: &Vm) -> Outcome {
    match vm.run() {
        Ok(outcome) => outcome,
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn check(outcome: &Outcome, expected: &[(&str, &str)]) {
    let said = |name: &str| outcome.results.get(name).map_or("nothing", String::as_str);
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(name, text)| !said(name).contains(text))
        .map(|(name, text)| format!("{name} should say {text:?}: {}\n", said(name)))
        .collect();
    assert!(wrong.is_empty(), "{}\n{}", wrong.concat(), outcome.console);
}

/// The function and graph tracers, a kprobe and a kretprobe, all at once on the function that is replaced: set up
/// before the update, set up while it is active, and there when it leaves. Each sees every call, of either edition.
fn watched_by_tracers(version: &'static str, release: &str) {
    let vm = guest(version, release).script(format!(
        r#"{SAYS}{SLEEPERS}{SHELL}
            F=$T/instances/f
            watch() {{
                echo "$1" >$F/set_ftrace_filter
                echo function >$F/current_tracer
                echo "$1" >$T/set_ftrace_filter
                echo function_graph >$T/current_tracer
                echo "p:entry $1" >$T/kprobe_events
                echo "r:return $1 ret=\$retval" >>$T/kprobe_events
                echo 1 >$T/events/kprobes/enable
            }}
            unwatch() {{
                echo 0 >$T/events/kprobes/enable
                echo >$T/kprobe_events
                echo nop >$T/current_tracer
                echo nop >$F/current_tracer
            }}
            count() {{ echo "$1 $(grep -cE "$2" "$3")"; }}
            seen() {{
                echo >$T/trace
                echo >$F/trace
                echo "edition $(edition)"
                count function ' pipe_fcntl.* <-' $F/trace
                count graph 'pipe_fcntl.*\(\)' $T/trace
                count entry 'entry: \(pipe_fcntl' $T/trace
                count return 'return: .* <- pipe_fcntl' $T/trace
                count returned_1 'ret=(65537|0x10001)' $T/trace
            }}
            mkdir $F
            watch pipe_fcntl
            says stock seen
            says load dynamos load /update/pipe
            says before seen
            unwatch
            says unwatched edition
            watch pipe_fcntl
            says after seen
            dynamos policy dynamos_pipe --default 0
            says policy_0 seen
            dynamos policy dynamos_pipe --when 'pid > 1 and uid == 0'
            says policy_1 seen
            dynamos policy dynamos_pipe --default 1
            unwatch
            # The clone has a name of its own.
            watch pipe_fcntl.clone
            says clone seen
            unwatch
            watch pipe_fcntl
            says revert dynamos revert dynamos_pipe
            says reverted seen
            says enable dynamos enable dynamos_pipe
            says enabled seen
            unwatch
            says unload dynamos unload dynamos_pipe --revert
            says unloaded edition

            # Whoever sleeps in a function whose return is hooked is found in it all the same.
            watch pipe_read
            serve --count 3
            says asleep dynamos load /update/pipe --scope system --timeout 1
            says mixed dynamos load /update/pipe --scope function
            says fed ask feed
            says asleep_1 dynamos revert dynamos_pipe --timeout 1
            says hooked grep -c 'pipe_read()' $T/trace
            unwatch
            says unhooked dynamos revert dynamos_pipe --timeout 1
            says end ask end
            wait
            says left dynamos unload dynamos_pipe --revert
            rmmod dynamos"#
    ));
    let outcome = run(&vm);
    let seen = |edition: u32, returned: u32| {
        format!(
            "status 0\nedition {edition}\nfunction 3\ngraph 3\nentry 3\nreturn 3\nreturned_1 {returned}"
        )
    };
    let (zero, one) = (seen(0, 0), seen(1, 3));
    check(
        &outcome,
        &[
            ("stock", &zero),
            ("load", "status 0\n"),
            ("before", &one),
            ("unwatched", "status 0\n1"),
            ("after", &one),
            ("policy_0", &zero),
            ("policy_1", &one),
            ("clone", &one),
            ("revert", "status 0\n"),
            ("reverted", &zero),
            ("enable", "status 0\n"),
            ("enabled", &one),
            ("unload", "status 0\n"),
            ("unloaded", "status 0\n0"),
            ("asleep", "status 3\n"),
            ("asleep", "sleeps in pipe_read and 2 more"),
            ("mixed", "status 0\n"),
            ("fed", "3 intact, 0 damaged"),
            ("asleep_1", "status 3\n"),
            ("asleep_1", "sleeps in pipe_read and 2 more"),
            ("unhooked", "sleeps in pipe_read and 2 more"),
            ("end", "3 intact, 0 damaged"),
            ("left", "status 0\n"),
        ],
    );
}

#[test]
fn watched_by_tracers_on_6_1() {
    watched_by_tracers("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn watched_by_tracers_on_6_12() {
    watched_by_tracers("6.12.107", "6.12.107+deb12-amd64");
}

/// Who changes where a function's calls go, before the update and while it is active: one of the two is refused, and
/// the other works on. Perf only watches.
fn shared_with_others(version: &'static str, release: &str) {
    // The first instruction behind the ftrace site, with and without an `endbr64` before that.
    let inside = if release.starts_with("6.1.") { 5 } else { 9 };
    let vm = guest(version, release)
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            load() {{ dynamos load /update/pipe; }}
            no_rival() {{
                echo 0 >/sys/kernel/livepatch/rival/enabled
                while [ -e /sys/kernel/livepatch/rival ]; do usleep 20000; done
                rmmod rival
            }}
            insmod /rival.ko
            while [ "$(cat /sys/kernel/livepatch/rival/transition)" != 0 ]; do usleep 20000; done
            says livepatch_first load
            says livepatch_edition edition
            says nothing ls /sys/kernel/dynamos
            no_rival
            insmod /owner.ko
            says owner_first load
            says owner_edition edition
            rmmod owner
            echo 'p:inside pipe_fcntl+{inside}' >$T/kprobe_events
            echo 1 >$T/events/kprobes/inside/enable
            says inside_first load
            echo 0 >$T/events/kprobes/inside/enable
            echo >$T/kprobe_events
            says fentry_stock probe fentry pipe_fcntl guest-tool pipe-edition
            says fentry_first probe fentry pipe_fcntl dynamos load /update/pipe
            says fexit_first probe fexit pipe_fcntl dynamos load /update/pipe
            says perf_first probe perf-kprobe pipe_fcntl sh -c 'dynamos load /update/pipe; guest-tool pipe-edition'
            says perf probe perf-kprobe pipe_fcntl guest-tool pipe-edition
            says perf_return probe perf-kretprobe pipe_fcntl guest-tool pipe-edition
            says callchain probe perf-callchain pipe_fcntl.clone guest-tool pipe-edition --times 30000
            # A kretprobe that is there before goes on while the update comes and when it leaves.
            dynamos unload dynamos_pipe --revert
            says perf_return_first probe perf-kretprobe pipe_fcntl sh -c 'guest-tool pipe-edition; dynamos load /update/pipe; guest-tool pipe-edition; dynamos revert dynamos_pipe; guest-tool pipe-edition'
            dynamos enable dynamos_pipe
            says livepatch_after insmod /rival.ko
            says livepatch_left ls /sys/kernel/livepatch
            says still_1 edition
            says owner_after insmod /owner.ko
            says still_owned edition
            says fentry_after probe fentry pipe_fcntl guest-tool pipe-edition
            says fexit_after probe fexit pipe_fcntl guest-tool pipe-edition
            # Inside of edition 0, which nobody runs.
            echo 'p:inside pipe_fcntl+{inside}' >$T/kprobe_events
            echo 1 >$T/events/kprobes/inside/enable
            says inside_edition edition
            says inside_profile cat $T/kprobe_profile
            says ftrace_off sh -c 'echo 0 >/proc/sys/kernel/ftrace_enabled'
            says revert dynamos revert dynamos_pipe
            says reverted edition
            says inside_hit cat $T/kprobe_profile
            says inside_again dynamos enable dynamos_pipe
            echo 0 >$T/events/kprobes/inside/enable
            echo >$T/kprobe_events
            # Reverted, the function is anybody's; and then theirs.
            says fentry_reverted probe fentry pipe_fcntl guest-tool pipe-edition
            insmod /rival.ko
            while [ "$(cat /sys/kernel/livepatch/rival/transition)" != 0 ]; do usleep 20000; done
            says rival_reverted edition
            says rival_enable dynamos enable dynamos_pipe
            no_rival
            says enable dynamos enable dynamos_pipe
            says end edition
            dynamos unload dynamos_pipe --revert
            rmmod dynamos"#
        ));
    let outcome = run(&vm);
    check(
        &outcome,
        &[
            ("livepatch_first", "status 3\n"),
            ("livepatch_first", "`pipe_fcntl`"),
            ("livepatch_first", "something else has changed this function (livepatch"),
            ("livepatch_edition", "status 0\n2"),
            ("nothing", "status 0\nabi\nrefusals\nversion"),
            ("owner_first", "status 3\n"),
            ("owner_first", "a kprobe): remove that first"),
            ("owner_edition", "status 0\n0"),
            ("inside_first", "status 3\n"),
            ("inside_first", "remove the kprobe"),
            ("fentry_stock", "status 0\n0\nseen 3"),
            ("fentry_first", "status 2\n"),
            ("fentry_first", "a BPF trampoline"),
            ("fexit_first", "a BPF trampoline"),
            ("perf_first", "status 0\n"),
            ("perf_first", "is loaded\n1\nseen 3"),
            ("perf", "status 0\n1\nseen 3"),
            ("perf_return_first", "status 0\n0\n"),
            ("perf_return_first", "is loaded\n1\n"),
            ("perf_return_first", "is reverted\n0\nseen 9"),
            ("perf_return", "status 0\n1\nseen 3"),
            ("callchain", "status 0\n1\nseen "),
            ("livepatch_after", "status 16\n"),
            ("still_1", "status 0\n1"),
            ("owner_after", "status 16\n"),
            ("still_owned", "status 0\n1"),
            ("fentry_after", "status 1\nBPF_RAW_TRACEPOINT_OPEN: Device or resource busy"),
            ("fexit_after", "status 1\nBPF_RAW_TRACEPOINT_OPEN: Device or resource busy"),
            ("inside_edition", "status 0\n1"),
            ("ftrace_off", "status 1\n"),
            ("revert", "status 0\n"),
            ("reverted", "status 0\n0"),
            ("inside_again", "remove the kprobe"),
            ("fentry_reverted", "status 0\n0\nseen 3"),
            ("rival_reverted", "status 0\n2"),
            ("rival_enable", "status 3\n"),
            ("rival_enable", "something else has changed this function (livepatch"),
            ("enable", "status 0\n"),
            ("end", "status 0\n1"),
        ],
    );
    let result = |name: &str| outcome.results[name].as_str();
    assert!(!result("callchain").ends_with("seen 0"), "{}", result("callchain"));
    assert!(!result("livepatch_left").contains("rival"), "{}", result("livepatch_left"));
    // Hits and misses.
    let profile = |name: &str| result(name).split_whitespace().skip(3).take(2).collect::<Vec<_>>();
    assert_eq!(profile("inside_profile"), ["0", "0"], "{}", result("inside_profile"));
    assert_eq!(profile("inside_hit"), ["3", "0"], "{}", result("inside_hit"));
}

#[test]
fn shared_with_others_on_6_1() {
    shared_with_others("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn shared_with_others_on_6_12() {
    shared_with_others("6.12.107", "6.12.107+deb12-amd64");
}

/// CPUs come and go while editions are switched; the machine is suspended, is locked down, and reboots.
fn machine_changes(version: &'static str, release: &str) {
    let ended = guest(version, release)
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            cpu=/sys/devices/system/cpu/cpu1/online
            suspend() {{
                echo "$1" >/sys/power/pm_test
                echo mem >/sys/power/state
            }}
            serve --count 0 --busy 2
            while [ ! -e /run/stop ]; do
                echo 0 >$cpu
                echo 1 >$cpu
                echo >>/run/hotplugs
                usleep 100000
            done &
            plugger=$!
            for round in 1 2; do
                scope=$([ $((round % 2)) = 0 ] && echo function || echo system)
                dynamos load /update/pipe --scope $scope --timeout 240 >/dev/null
                edition
                dynamos policy dynamos_pipe --when 'cpu < 2' >/dev/null
                edition
                dynamos revert dynamos_pipe --timeout 240 >/dev/null
                edition
                dynamos unload dynamos_pipe >/dev/null
            done >/run/rounds
            touch /run/stop
            wait $plugger
            tr -d '\n' </run/rounds | result rounds
            wc -l </run/hotplugs | result hotplugs
            echo 0 >$cpu
            says one_cpu dynamos load /update/pipe --scope system
            echo 1 >$cpu
            says two_cpus edition

            echo 0 >/sys/module/suspend/parameters/pm_test_delay
            for test in freezer devices platform processors core; do
                says suspend_$test suspend $test
            done
            says woken edition
            says busy ask end
            dynamos unload dynamos_pipe --revert >/dev/null
            # Half way: held, and then a command that waits. Freezing wakes the sleepers, so either may come to its end.
            serve --count 3
            says held dynamos load /update/pipe --scope system --timeout 0 --on-timeout hold
            says suspend_held suspend processors
            says end ask end
            becomes dynamos_pipe active
            says held_edition edition
            dynamos unload dynamos_pipe --revert >/dev/null
            serve --count 3
            dynamos load /update/pipe --scope system --timeout 120 >/run/waiter 2>&1 &
            waiter=$!
            until dynamos status 2>/dev/null | grep -q 'waits for'; do usleep 20000; done
            says suspend_waiter suspend processors
            says end_waiter ask end
            wait $waiter && says waiter cat /run/waiter
            says waiter_edition edition

            # Locked down: what is there goes on, and nothing comes in.
            mount -t securityfs securityfs /sys/kernel/security
            echo integrity >/sys/kernel/security/lockdown
            says locked_policy dynamos policy dynamos_pipe --when 'uid == 0'
            says locked_revert dynamos revert dynamos_pipe
            says locked_edition edition
            says locked_enable dynamos enable dynamos_pipe
            says locked_edition_1 edition
            dynamos unload dynamos_pipe --revert
            says locked_load dynamos load /update/pipe
            rmmod dynamos
            says locked_dynamos dynamos load /update/pipe
            says locked_left edition
            reboot -f"#
        ))
        .run();
    let outcome = begun_anew(ended);
    check(
        &outcome,
        &[
            ("rounds", "110110"),
            ("one_cpu", "status 0\n"),
            ("two_cpus", "status 0\n1"),
            ("suspend_freezer", "status 0"),
            ("suspend_devices", "status 0"),
            ("suspend_platform", "status 0"),
            ("suspend_processors", "status 0"),
            ("suspend_core", "status 0"),
            ("woken", "status 0\n1"),
            ("busy", " intact, 0 damaged"),
            ("held", "is loaded, but waits"),
            ("suspend_held", "status 0"),
            ("end", " intact, 0 damaged"),
            ("held_edition", "status 0\n1"),
            ("suspend_waiter", "status 0"),
            ("end_waiter", " intact, 0 damaged"),
            ("waiter", "dynamos_pipe is loaded"),
            ("waiter_edition", "status 0\n1"),
            ("locked_policy", "status 0\n"),
            ("locked_revert", "status 0\n"),
            ("locked_edition", "status 0\n0"),
            ("locked_enable", "status 0\n"),
            ("locked_edition_1", "status 0\n1"),
            ("locked_load", "status 3\n"),
            ("locked_load", "the kernel is locked down (integrity)"),
            ("locked_dynamos", "the kernel is locked down (integrity)"),
            ("locked_left", "status 0\n0"),
        ],
    );
    assert!(outcome.results["hotplugs"].parse::<u32>().unwrap() > 1);
    assert!(outcome.console.contains("reboot: Restarting system"), "{}", outcome.console);
}

#[test]
fn machine_changes_on_6_1() {
    machine_changes("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn machine_changes_on_6_12() {
    machine_changes("6.12.107", "6.12.107+deb12-amd64");
}

/// What a machine did that ended where it would begin anew.
fn begun_anew(ended: Result<Outcome, Error>) -> Outcome {
    match ended {
        Err(Error::Vanished { outcome, .. }) => *outcome,
        Err(error) => panic!("{error}"),
        Ok(outcome) => panic!("it did not begin anew: {:?}", outcome.results),
    }
}

/// Another kernel is begun while an update is active: it is the stock one, takes the update as the first did, and begins
/// anew with it active.
fn another_kernel(version: &'static str, release: &str) {
    let vmlinuz = image(release).vmlinuz;
    let vm = guest(version, release)
        .file(vmlinuz, "/vmlinuz")
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            second() {{
                says second_modules grep -c dynamos /proc/modules
                says second_stock edition
                says second_load dynamos load /update/pipe
                says second edition
            }}
            if grep -q second /proc/cmdline; then second; reboot -f; fi
            says load dynamos load /update/pipe
            says first edition
            cd /
            mkdir -p /run/next/dev /run/next/proc /run/next/sys /run/next/run /run/next/tmp /run/next/mnt
            cp -a bin sbin etc modules update init script /run/next
            cd /run/next
            find . | cpio -o -H newc >/run/initrd 2>/dev/null
            probe kexec /vmlinuz /run/initrd "$(cat /proc/cmdline) second""#
        ));
    let outcome = begun_anew(vm.run());
    check(
        &outcome,
        &[
            ("load", "status 0\n"),
            ("first", "status 0\n1"),
            ("second_modules", "status 1\n0"),
            ("second_stock", "status 0\n0"),
            ("second_load", "status 0\n"),
            ("second", "status 0\n1"),
        ],
    );
    assert!(outcome.console.contains("kexec_core: Starting new kernel"), "{}", outcome.console);
    assert!(outcome.console.contains("reboot: Restarting system"), "{}", outcome.console);
}

#[test]
fn another_kernel_on_6_1() {
    another_kernel("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn another_kernel_on_6_12() {
    another_kernel("6.12.107", "6.12.107+deb12-amd64");
}
