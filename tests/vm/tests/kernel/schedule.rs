//! Code that never goes quiet on real kernels: a function on the path of every context switch, one that is on the stack of
//! every task that sleeps, and one from which no task returns.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::time::Duration;

use crate::common::{SAYS, check, diff, edit, empty_directory, machine};

/// `edition`: a task that is called `switched0` sleeps, and V2's editions give it another name. `many`: the editions of ten.
const SHELL: &str = r#"
edition() {
    sh -c 'printf switched0 >/proc/self/comm; usleep 20000; read -r name </proc/$$/comm; echo "${name#switched}"'
}
many() { for try in 1 2 3 4 5 6 7 8 9 10; do edition; done | sort | uniq -c; }
ends() { sh -c 'printf switched >/proc/self/comm; exit 3'; }
"#;

/// Emulated machines are slow, and this one shares its host.
const LONG: Duration = Duration::from_secs(900);

/// What `guest-tool pipes` ends with.
const NOTHING_LOST: &str = "0 bytes lost, 0 damaged, sums equal";

const ON_6_1: [&str; 2] = ["6.1.192-1", "6.1.0-55-amd64"];
const ON_6_12: [&str; 2] = ["6.12.107", "6.12.107+deb12-amd64"];

/// An update for which `change` is done to `file` behind `begin`, where a function begins.
fn made(name: &str, version: &str, file: &str, begin: &str, change: &str) -> PathBuf {
    let directory = empty_directory("schedule", &format!("{name}-{version}"));
    let (patch, update) = (directory.join("changed.patch"), directory.join("update"));
    let changed = |text: &str| {
        let (before, after) = text.split_once(begin).unwrap();
        format!("{before}{begin}{change}{after}")
    };
    edit(version, file, changed, &patch);
    let plan = diff(&format!("deb:{version}"), patch.to_str().unwrap(), &update).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let changed = plan.functions.iter().filter(|row| row.verdict == "changed");
    let changed: Vec<_> = changed.map(|row| row.name.as_str()).collect();
    println!("{version}: {changed:?}, scope {:?}", plan.scope.unwrap().scope);
    assert!(changed.contains(&name), "{changed:?}");
    update
}

fn marked(task: &str) -> String {
    format!("\n\tif (!strncmp({task}->comm, \"switched\", 8))\n\t\t{task}->comm[8] = '1';\n")
}

/// `pick_next_task_fair`, with the run queue locked, is replaced and given back while CPUs do little else.
fn every_switch([version, release]: [&str; 2]) {
    let begin =
        "\npick_next_task_fair(struct rq *rq, struct task_struct *prev, struct rq_flags *rf)\n{\n";
    let change = "\tif (prev && !strncmp(prev->comm, \"switched\", 8))\n\t\tprev->comm[8] = '1';\n";
    let source =
        std::fs::read_to_string(crate::common::source(version).join("kernel/sched/fair.c"));
    assert_eq!(source.unwrap().matches(begin).count(), 1);
    let update = made("pick_next_task_fair", version, "kernel/sched/fair.c", begin, change);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SHELL}
            guest-tool pipes --count 4 --stop-file /run/stop --ready-file /run/ready >/run/pipes &
            while [ ! -e /run/ready ]; do usleep 20000; done
            many | result stock
            for scope in function system; do
                for round in 1 2 3; do
                    dynamos load /update/update --scope $scope --timeout 240 >/dev/null
                    many | result ${{scope}}_$round
                    dynamos policy dynamos_fair --when 'comm == "nobody"' >/dev/null
                    many | result nobody_$round
                    dynamos policy dynamos_fair --default 1 >/dev/null
                    many | result all_$round
                    dynamos revert dynamos_fair --timeout 240 >/dev/null
                    many | result reverted_$round
                    dynamos unload dynamos_fair
                done
            done
            rmmod dynamos
            touch /run/stop
            wait
            result pipes </run/pipes
            many | result end"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{release}: {}", results["pipes"]);
    check(results, &[("pipes", NOTHING_LOST)]);
    for (name, says) in results.iter().filter(|(name, _)| *name != "pipes") {
        let edition = u8::from(["function", "system", "all"].iter().any(|on| name.starts_with(on)));
        assert_eq!(says.trim(), format!("10 {edition}"), "{name}");
    }
}

#[test]
fn every_switch_on_6_1() {
    every_switch(ON_6_1);
}

#[test]
fn every_switch_on_6_12() {
    every_switch(ON_6_12);
}

/// `schedule` is on the stack of each task that sleeps: it is replaced at once, and given back as they wake.
fn every_stack([version, release]: [&str; 2]) {
    let begin = "\nasmlinkage __visible void __sched schedule(void)\n{\n\tstruct task_struct *tsk = current;\n";
    let update = made("schedule", version, "kernel/sched/core.c", begin, &marked("tsk"));
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SHELL}
            says stock many
            says system dynamos load /update/update --scope system --timeout 1
            says nothing ls /sys/kernel/dynamos
            guest-tool pipes --count 4 --stop-file /run/stop --ready-file /run/ready >/run/pipes &
            pipes=$!
            while [ ! -e /run/ready ]; do usleep 20000; done
            says load dynamos load /update/update --scope function
            says loaded many
            # Asleep in V2's edition until it is told to end.
            sleep 100000 &
            sleeper=$!
            sleeps_in schedule $sleeper
            says back dynamos revert dynamos_core --timeout 1
            says still many
            says drain dynamos revert dynamos_core --timeout 1 --on-timeout hold
            says drained many
            says status dynamos status dynamos_core
            says unload dynamos unload dynamos_core
            says again dynamos enable dynamos_core
            says again_edition many
            says force dynamos revert dynamos_core --timeout 0 --on-timeout force-new-calls
            says forced many
            touch /run/stop
            wait $pipes
            says pipes cat /run/pipes
            # Whoever still sleeps in V2's edition, the sleeper among them, is woken and goes on in edition 0.
            says woken dynamos revert dynamos_core --timeout 1 --on-timeout hold --signal
            # No signal wakes RCU-tasks' thread: who waits for it does, as an instance of the tracer that ends.
            tracing=/sys/kernel/tracing
            [ -e $tracing/events ] || mount -t tracefs tracefs $tracing
            mkdir $tracing/instances/other
            cd $tracing/instances/other
            echo schedule_timeout >set_ftrace_filter
            for try in $(seq 120); do
                [ "$(cat /sys/kernel/dynamos/dynamos_core/state)" != reverted ] || break
                echo function >current_tracer
                echo nop >current_tracer
                usleep 500000
            done
            cd /
            rmdir $tracing/instances/other
            says woken_state cat /sys/kernel/dynamos/dynamos_core/state
            says slept cat /proc/$sleeper/comm
            says gone dynamos unload dynamos_core
            says end many"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{release}: {}\n{}", results["pipes"], results["status"]);
    check(
        results,
        &[
            ("system", "status 3\n"),
            ("system", "sleeps in schedule"),
            ("nothing", "status 0\nabi\nrefusals\nversion"),
            ("load", "status 0\n"),
            ("back", "status 3\n"),
            ("drain", "status 0\ndynamos_core is reverted (draining): task "),
            ("status", ") sleeps in schedule\n"),
            ("unload", "status 3\n"),
            ("again", "status 0\n"),
            ("force", "status 0\n"),
            ("pipes", NOTHING_LOST),
            ("woken", "status 0\ndynamos_core is reverted"),
            ("woken_state", "status 0\nreverted"),
            ("slept", "status 0\nsleep"),
            ("gone", "status 0\n"),
        ],
    );
    for (name, edition) in [
        ("stock", 0),
        ("loaded", 1),
        ("still", 1),
        ("drained", 0),
        ("again_edition", 1),
        ("forced", 0),
        ("end", 0),
    ] {
        let said = results[name].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(said, format!("status 0 10 {edition}"), "{name}");
    }
}

#[test]
fn every_stack_on_6_1() {
    every_stack(ON_6_1);
}

#[test]
fn every_stack_on_6_12() {
    every_stack(ON_6_12);
}

/// `do_exit`, in which tasks are that no list has any more, comes and goes while threads end all the time, and can be
/// preempted there.
fn no_return([version, release]: [&str; 2]) {
    let begin = "\nvoid __noreturn do_exit(long code)\n{\n\tstruct task_struct *tsk = current;\n\tint group_dead;\n";
    let change = "\n\tif (!strncmp(tsk->comm, \"switched\", 8))\n\t\tcode = tsk->signal->group_exit_code = 42 << 8;\n";
    let update = made("do_exit", version, "kernel/exit.c", begin, change);
    let outcome = machine(release, &[&update])
        .append("preempt=full")
        .script(format!(
            r#"{SAYS}{SHELL}
            says stock ends
            for scope in system task object; do
                says $scope dynamos load /update/update --scope $scope
            done
            says nothing ls /sys/kernel/dynamos
            guest-tool exits --stop-file /run/stop >/run/exits &
            says load dynamos load /update/update --scope function
            says loaded ends
            dynamos revert dynamos_exit --timeout 240
            dynamos unload dynamos_exit
            for round in $(seq 12); do
                dynamos load /update/update --scope function >/dev/null
                code=0
                ends || code=$?
                [ $code = 42 ]
                dynamos revert dynamos_exit --timeout 240 >/dev/null
                dynamos unload dynamos_exit
            done
            says enable_load dynamos load /update/update --scope function
            says revert dynamos revert dynamos_exit --timeout 240
            says stronger dynamos enable dynamos_exit --scope system
            says reverted ends
            says unload dynamos unload dynamos_exit
            rmmod dynamos
            touch /run/stop
            wait
            says exits cat /run/exits"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{release}: {} threads have ended", results["exits"]);
    check(
        results,
        &[
            ("stock", "status 3"),
            ("system", "tasks are in `do_exit` where no look at their stacks shows it"),
            ("nothing", "status 0\nabi\nrefusals\nversion"),
            ("load", "status 0\n"),
            ("loaded", "status 42"),
            ("enable_load", "status 0\n"),
            ("revert", "status 0\n"),
            ("stronger", "use --scope function"),
            ("reverted", "status 3"),
            ("unload", "status 0\n"),
        ],
    );
    for scope in ["system", "task", "object", "stronger"] {
        assert!(!results[scope].starts_with("status 0"), "{scope}: {}", results[scope]);
    }
    let ended: u64 = results["exits"].trim_start_matches("status 0\n").trim().parse().unwrap();
    assert!(ended > 100, "{ended}");
}

#[test]
fn no_return_on_6_1() {
    no_return(ON_6_1);
}

#[test]
fn no_return_on_6_12() {
    no_return(ON_6_12);
}

/// A thread that ends sleeps in `proc_flush_pid` when it has left every list: the update stays until it wakes.
fn off_every_list([version, release]: [&str; 2]) {
    let begin = "\nvoid proc_flush_pid(struct pid *pid)\n{\n";
    let change = "\tif (!strncmp(current->comm, \"switched\", 8))\n\t\tschedule_timeout_uninterruptible(20 * HZ);\n";
    let update = made("proc_flush_pid", version, "fs/proc/base.c", begin, change);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SHELL}
            says load dynamos load /update/update --scope function
            guest-tool exit-once switched
            says waits dynamos revert dynamos_base --timeout 2
            says drain dynamos revert dynamos_base --timeout 1 --on-timeout hold
            says unload dynamos unload dynamos_base
            becomes dynamos_base reverted
            dynamos unload dynamos_base
            rmmod dynamos
            # Memory that was the update's is used again.
            guest-tool exit-once switched"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("load", "status 0\n"),
            ("waits", "status 3\n"),
            ("waits", "(switched) sleeps in proc_flush_pid"),
            ("drain", "status 0\ndynamos_base is reverted (draining): task "),
            ("unload", "status 3\n"),
        ],
    );
}

#[test]
fn off_every_list_on_6_1() {
    off_every_list(ON_6_1);
}

#[test]
fn off_every_list_on_6_12() {
    off_every_list(ON_6_12);
}
