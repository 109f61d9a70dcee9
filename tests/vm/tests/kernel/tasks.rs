//! Scope `task` on real kernels: two functions of which one passes something new to the other. A task with both editions
//! on its stack is told by V2's code itself.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::common::turns::{LONG, SHELL, pair_on_the_debug_kernel, turns_under_load};
use crate::common::{SAYS, SLEEPERS, check, edit, empty_directory, image, machine, marks, named};

/// The marks, and a third function that says which edition it is.
fn marks_and_more(text: &str) -> String {
    crate::common::greater_pipe_fcntl(&marks(text))
}

fn made(version: &'static str, name: &'static str) -> PathBuf {
    static MADE: Mutex<BTreeMap<(&str, &str), PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry((version, name)).or_insert_with(|| make(version, name)).clone()
}

fn directory(version: &str, name: &str) -> PathBuf {
    empty_directory("tasks", &format!("{version}-{name}"))
}

fn make(version: &str, name: &str) -> PathBuf {
    let directory = directory(version, name);
    let patch = directory.join("pipe.patch");
    let (edits, count): (fn(&str) -> String, _) =
        if name == "pair" { (marks, 2) } else { (marks_and_more, 3) };
    edit(version, "fs/pipe.c", edits, &patch);
    let update = directory.join(name);
    let plan = named(&format!("dynamos_{name}"), version, &patch, &update);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let replaced = plan.functions.iter().filter(|function| function.verdict == "changed");
    assert_eq!(replaced.count(), count);
    // Calls of other functions come to these too.
    let proposed = plan.scope.unwrap();
    assert_eq!(proposed.scope, "system", "{}", proposed.reason);
    update
}

/// Sleepers stay as they are, all others move at once, and the last to leave ends it.
fn each_task_in_its_time(version: &'static str, release: &str) {
    let update = made(version, "pair");
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            serve --count 20 --busy 2
            says rolled_back dynamos load /update/pair --scope task --timeout 1
            says nothing ls /sys/kernel/dynamos
            says stock ask edition

            says load dynamos load /update/pair --scope task --timeout 2 --on-timeout hold
            says moved ask edition
            says held dynamos status
            says fed_1 ask feed
            becomes dynamos_pair active
            says active dynamos status
            says mixed_1 mixed

            says not_back dynamos revert dynamos_pair --timeout 1
            says still ask edition
            becomes dynamos_pair active
            says back dynamos revert dynamos_pair --timeout 1 --on-timeout hold
            says back_edition ask edition
            says back_held dynamos status
            says unload dynamos unload dynamos_pair
            says fed_2 ask feed
            becomes dynamos_pair reverted
            says mixed_2 mixed

            says again dynamos enable dynamos_pair --scope task --timeout 1 --on-timeout hold
            says given_up dynamos revert dynamos_pair --timeout 240
            says given_up_edition ask edition
            says gone dynamos unload dynamos_pair
            says end ask end
            says mixed_3 mixed
            rmmod dynamos
            dmesg | grep 'dynamos: \|MIXED' | result log"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{}", results["log"]);
    check(
        results,
        &[
            ("rolled_back", "status 3\n"),
            ("rolled_back", "sleeps in pipe_read and"),
            ("nothing", "status 0\nabi\nrefusals\nversion"),
            ("stock", "status 0\n0"),
            ("load", "status 0\ndynamos_pair is loaded, but waits: task "),
            ("moved", "status 0\n1"),
            (
                "held",
                "loading (held), enabled\n  scope: task, weaker than the plan proposes (system)\n",
            ),
            ("held", "waits for 20 tasks, 20 activations:"),
            ("held", "(guest-tool) sleeps in pipe_read\n"),
            ("fed_1", "20 intact, 0 damaged"),
            ("active", "active, enabled\n  scope: task"),
            ("mixed_1", "status 0\n0"),
            ("not_back", "status 3\n"),
            ("still", "status 0\n1"),
            ("back", "status 0\ndynamos_pair is reverting (held): task "),
            ("back_edition", "status 0\n0"),
            ("back_held", "waits for 20 tasks, 20 activations:"),
            ("unload", "status 3\n"),
            ("fed_2", "40 intact, 0 damaged"),
            ("mixed_2", "status 0\n0"),
            ("again", "status 0\ndynamos_pair is loading (held): task "),
            ("given_up", "status 0\ndynamos_pair is reverted"),
            ("given_up_edition", "status 0\n0"),
            ("gone", "status 0\n"),
            ("end", "40 intact, 0 damaged"),
            ("mixed_3", "status 0\n0"),
        ],
    );
    assert!(!results["log"].contains("CPUs stopped for"), "{}", results["log"]);
}

#[test]
fn each_task_in_its_time_on_6_1() {
    each_task_in_its_time("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn each_task_in_its_time_on_6_12() {
    each_task_in_its_time("6.12.107", "6.12.107+deb12-amd64");
}

/// Each end that a wait can have, with a third function; and what cannot be asked for.
fn waits_end_as_asked(version: &'static str, release: &str) {
    let (trio, pair) = (made(version, "trio"), made(version, "pair"));
    let outcome = machine(release, &[&trio, &pair])
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            serve --count 5
            # Scope function lets V2's function meet V1's: the marks tell.
            dynamos load /update/pair --scope function
            says control_fed ask feed
            says control mixed
            dynamos revert dynamos_pair --signal --timeout 240
            dynamos unload dynamos_pair
            dmesg -c >/dev/null

            ends INT dynamos_trio loading &
            says interrupted dynamos load /update/trio --scope task --timeout 300
            disappears dynamos_trio
            says interrupted_left ls /sys/kernel/dynamos
            says signal dynamos load /update/trio --scope task --timeout 240 --signal
            says signal_edition ask edition
            says fed_1 ask feed
            says killed_before dynamos status
            ends KILL dynamos_trio reverting &
            says killed dynamos revert dynamos_trio --timeout 300
            becomes dynamos_trio active
            says killed_edition ask edition
            says fed_2 ask feed
            says mixed_1 mixed

            says policy dynamos policy dynamos_trio --when 'pid == 1'
            says policy_status dynamos status
            dynamos policy dynamos_trio --default 1
            says revert dynamos revert dynamos_trio --signal --timeout 240
            dynamos policy dynamos_trio --default 0
            says by_policy dynamos enable dynamos_trio --scope task
            dynamos policy dynamos_trio --default 1
            says fed_3 ask feed

            says forced dynamos enable dynamos_trio --scope task --timeout 1 --on-timeout force-new-calls
            says forced_status dynamos status
            says forced_edition ask edition
            says over dynamos load /update/pair --scope task --replace
            says stack dynamos load /update/pair --scope task --stack
            says still dynamos status
            says fed_4 ask feed
            dynamos revert dynamos_trio --signal --timeout 240
            dynamos unload dynamos_trio

            says held dynamos load /update/trio --scope task --timeout 0 --on-timeout hold
            says system dynamos enable dynamos_trio --scope system
            says function dynamos enable dynamos_trio --scope function
            says function_status dynamos status
            says drain dynamos revert dynamos_trio --timeout 1 --on-timeout hold
            says end ask end
            becomes dynamos_trio reverted
            dynamos unload dynamos_trio
            rmmod dynamos
            grep -c dynamos /proc/modules | result left || true"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("control_fed", "5 intact, 0 damaged"),
            ("control", "status 0\n5"),
            ("interrupted", "status 130"),
            ("interrupted_left", "status 0\nabi\nrefusals\nversion"),
            ("signal", "status 0\ndynamos_trio is loaded"),
            ("signal_edition", "status 0\n1"),
            ("fed_1", "10 intact, 0 damaged"),
            ("killed_before", "active, enabled\n  scope: task"),
            ("killed", "status 137"),
            ("killed_edition", "status 0\n1"),
            ("fed_2", "15 intact, 0 damaged"),
            ("mixed_1", "status 0\n0"),
            ("policy", "status 0\n"),
            ("policy_status", "scope: function"),
            ("revert", "status 0\n"),
            ("by_policy", "status 3\n"),
            ("by_policy", "scope `task` is not possible: policies"),
            ("fed_3", "20 intact, 0 damaged"),
            ("forced", "status 0\ndynamos_trio is active"),
            ("forced_status", "scope: function"),
            ("forced_edition", "status 0\n1"),
            ("over", "scope `task` is not possible: other updates"),
            ("stack", "scope `task` is not possible: other updates"),
            ("still", "dynamos_trio for vmlinux: active, enabled"),
            ("fed_4", "25 intact, 0 damaged"),
            ("held", "is loaded, but waits"),
            ("system", "tasks are moving one by one"),
            ("function", "status 0\ndynamos_trio is active"),
            ("function_status", "scope: function"),
            ("drain", "status 0\n"),
            ("end", "25 intact, 0 damaged"),
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

#[test]
fn turns_under_load_on_6_1() {
    turns_under_load(&image("6.1.0-55-amd64"), &made("6.1.192-1", "pair"), "task");
}

#[test]
fn turns_under_load_on_6_12() {
    turns_under_load(&image("6.12.107+deb12-amd64"), &made("6.12.107", "pair"), "task");
}

/// On a kernel that watches its memory and its locks, if one has been built.
#[test]
#[ignore = "takes long; cargo test -p dynamos-vm --test kernel tasks:: -- --ignored"]
fn turns_under_load_on_the_debug_kernel() {
    let Some((image, update)) = pair_on_the_debug_kernel("tasks", marks, BTreeMap::new()) else {
        return;
    };
    turns_under_load(&image, &update, "task");
}

/// `wait_for_partner` says 1 and no longer 0 when somebody has come, and `fifo_open`, which alone calls it, knows that.
fn other_answer(text: &str) -> String {
    let text = text.replace("? -ERESTARTSYS : 0;", "? -ERESTARTSYS : 1;");
    let text = text.replace("(pipe, &pipe->w_counter))", "(pipe, &pipe->w_counter) < 0)");
    text.replace("(pipe, &pipe->r_counter))", "(pipe, &pipe->r_counter) < 0)")
}

/// Functions behind one entry: the plan proposes the scope by itself, and who sleeps in both of them keeps both.
fn functions_behind_one_are_as_one(version: &str, release: &str) {
    let directory = directory(version, "fifo");
    let (patch, update) = (directory.join("fifo.patch"), directory.join("fifo"));
    edit(version, "fs/pipe.c", other_answer, &patch);
    let plan = named("dynamos_fifo", version, &patch, &update);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let inner = |name: &str| plan.functions.iter().find(|f| f.name == name).unwrap().inner;
    assert!(inner("wait_for_partner") && !inner("fifo_open"));
    let proposed = plan.scope.unwrap();
    assert_eq!(proposed.scope, "task", "{}", proposed.reason);
    let review = std::fs::read_to_string(update.join("review.md")).unwrap();
    assert!(review.contains("**Scope `task`**: each task takes"), "{review}");
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            mkfifo /run/a /run/b /run/c
            cat /run/a >/run/from_a 2>&1 &
            sleeps_in wait_for_partner $!
            says load dynamos load /update/fifo --timeout 1 --on-timeout hold
            says held dynamos status
            cat /run/b >/run/from_b 2>&1 &
            sleeps_in wait_for_partner $!
            echo by edition 0 >/run/a
            echo by edition 1 >/run/b
            becomes dynamos_fifo active
            says active dynamos status
            cat /run/c >/run/from_c 2>&1 &
            sleeps_in wait_for_partner $!
            says revert dynamos revert dynamos_fifo --timeout 1 --on-timeout hold
            says reverting dynamos status
            echo by edition 1 too >/run/c
            becomes dynamos_fifo reverted
            result a </run/from_a
            result b </run/from_b
            result c </run/from_c
            says unload dynamos unload dynamos_fifo
            rmmod dynamos"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("load", "status 0\ndynamos_fifo is loaded, but waits: task "),
            ("held", "loading (held), enabled\n  scope: task\n  waits for 1 task, 2 activations:"),
            ("held", "(cat) sleeps in wait_for_partner\n"),
            ("active", "active, enabled\n  scope: task\n"),
            ("revert", "status 0\ndynamos_fifo is reverting (held): task "),
            ("reverting", "waits for 1 task, 2 activations:"),
            ("a", "by edition 0"),
            ("b", "by edition 1"),
            ("c", "by edition 1 too"),
            ("unload", "status 0\n"),
        ],
    );
}

#[test]
fn functions_behind_one_are_as_one_on_6_1() {
    functions_behind_one_are_as_one("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn functions_behind_one_are_as_one_on_6_12() {
    functions_behind_one_are_as_one("6.12.107", "6.12.107+deb12-amd64");
}

/// It says so each time that a kernel thread runs it.
fn telling_worker(text: &str) -> String {
    const BEGINS: &str = "\tcpus_read_lock();\n\t/* Check processors";
    assert_eq!(text.matches(BEGINS).count(), 1);
    text.replacen(BEGINS, &format!("\tpr_info(\"EDITION 1\\n\");\n{BEGINS}"), 1)
}

/// Kernel threads make no system calls: they move when they are looked at. (On 6.1 gcc would compile an init function
/// of that source otherwise.)
#[test]
fn kernel_threads_move() {
    let (version, release) = ("6.12.107", "6.12.107+deb12-amd64");
    let directory = directory(version, "worker");
    let (patch, update) = (directory.join("vmstat.patch"), directory.join("worker"));
    edit(version, "mm/vmstat.c", telling_worker, &patch);
    let plan = named("dynamos_worker", version, &patch, &update);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SHELL}
            # Once a second.
            told() {{
                for try in $(seq 200); do
                    if dmesg | grep -q "EDITION 1"; then echo told; return; fi
                    usleep 50000
                done
            }}
            says load dynamos load /update/worker --scope task
            says status dynamos status
            says before told
            says revert dynamos revert dynamos_worker
            dmesg -c >/dev/null
            sleep 5
            dmesg | grep -c EDITION | result after || true
            says again dynamos enable dynamos_worker --scope task
            says told_again told
            dynamos revert dynamos_worker
            dynamos unload dynamos_worker
            rmmod dynamos"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("load", "status 0\ndynamos_worker is loaded"),
            ("status", "active, enabled\n  scope: task"),
            ("before", "told"),
            ("revert", "status 0\ndynamos_worker is reverted"),
            ("again", "status 0\ndynamos_worker is active"),
            ("told_again", "told"),
        ],
    );
    assert_eq!(outcome.results["after"].trim(), "0");
}
