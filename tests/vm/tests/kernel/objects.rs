//! Scope `object` on real kernels: two functions of which one leaves something in a pipe for the other. A pipe that both
//! editions work on is told by V2's code itself.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::common::turns::{LONG, SHELL, pair_on_the_debug_kernel, turns_under_load};
use crate::common::{
    SAYS, SLEEPERS, asked, check, edit, empty_directory, image, machine, marks, request,
};
use dynamos_generator::{Request, Spec};

/// V2 says itself what `pipe_read` works on.
fn with_accessor(text: &str) -> String {
    let text = marks(text);
    let accessor = "\nstatic __used void *dynamos_object_pipe_read(struct kiocb *iocb)\n{\n\treturn iocb->ki_filp->private_data;\n}\n";
    let (before, after) = text.split_once("\nstatic ssize_t\npipe_read(struct kiocb").unwrap();
    format!("{before}{accessor}\nstatic ssize_t\npipe_read(struct kiocb{after}")
}

fn objects() -> BTreeMap<String, String> {
    BTreeMap::from([("anon_pipe_buf_release".into(), "pipe".into())])
}

fn made(version: &'static str) -> PathBuf {
    static MADE: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(version).or_insert_with(|| make(version)).clone()
}

fn make(version: &str) -> PathBuf {
    let directory = empty_directory("objects", version);
    let patch = directory.join("pipe.patch");
    edit(version, "fs/pipe.c", with_accessor, &patch);
    let update = directory.join("pair");
    let diff = |objects: BTreeMap<String, String>| {
        let v1 = Spec::parse(&format!("deb:{version}"), None).unwrap();
        let v2 = Spec::parse(patch.to_str().unwrap(), None).unwrap();
        let name = Some("dynamos_pair".into());
        request(Request { name, objects, ..asked(v1, v2, &update) }).unwrap()
    };
    let lacks = diff(BTreeMap::new());
    assert_eq!(lacks.refusals.len(), 1, "{:?}", lacks.refusals);
    assert!(lacks.refusals[0].name == "anon_pipe_buf_release");
    let plan = diff(objects());
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let works_on = |name: &str| {
        let found = plan.functions.iter().find(|function| function.name == name).unwrap();
        found.works_on.clone().unwrap()
    };
    assert_eq!(works_on("pipe_read"), "what `dynamos_object_pipe_read` returns");
    assert_eq!(works_on("anon_pipe_buf_release"), "its parameter `pipe`");
    let proposed = plan.scope.unwrap();
    assert_eq!(proposed.scope, "object", "{}", proposed.reason);
    update
}

/// Calls that began before are waited for; then each pipe has its own moment.
fn each_pipe_in_its_time(version: &'static str, release: &str) {
    let update = made(version);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            serve --count 20 --busy 2
            # No counter knows those who sleep there already.
            says rolled_back dynamos load /update/pair --timeout 1
            says nothing ls /sys/kernel/dynamos
            says stock ask edition

            says load dynamos load /update/pair --timeout 1 --on-timeout hold
            says uncounted dynamos status
            says none_yet ask edition
            says fed_1 ask feed
            # Now they are counted, and hold their own pipes only.
            until_edition 1
            says moved ask edition
            says theirs_1 ask theirs
            says held dynamos status
            says fed_2 ask feed-one
            says theirs_2 ask theirs
            says fed_3 ask feed
            becomes dynamos_pair active
            says active dynamos status
            says mixed_1 mixed

            says not_back dynamos revert dynamos_pair --timeout 1
            becomes dynamos_pair active
            says still ask edition
            says back dynamos revert dynamos_pair --timeout 1 --on-timeout hold
            # All calls are counted, so each sleeper holds its own pipe only.
            until_edition 0
            says back_before ask theirs
            says back_new ask edition
            says fed_4 ask feed
            # No object is of edition 1 any more, but those who sleep in edition 0 came there by the update's code.
            becomes dynamos_pair "reverted (draining)"
            says back_edition ask edition
            says back_theirs ask theirs
            says back_held dynamos status
            says unload dynamos unload dynamos_pair
            says fed_5 ask feed
            becomes dynamos_pair reverted
            says mixed_2 mixed
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
            ("uncounted", "loading (held), enabled\n  scope: object\n"),
            ("uncounted", "(guest-tool) sleeps in pipe_read\n"),
            ("none_yet", "status 0\n0"),
            ("fed_1", "20 intact, 0 damaged"),
            ("moved", "status 0\n1"),
            ("theirs_1", "20 in edition 0, 0 in edition 1"),
            ("held", "(guest-tool) sleeps in pipe_read\n"),
            ("fed_2", "21 intact, 0 damaged"),
            ("theirs_2", "19 in edition 0, 1 in edition 1"),
            ("fed_3", "41 intact, 0 damaged"),
            ("active", "active, enabled\n  scope: object"),
            ("mixed_1", "status 0\n0"),
            ("not_back", "status 3\n"),
            ("still", "status 0\n1"),
            ("back", "status 0\ndynamos_pair is reverting (held): task "),
            ("fed_4", "61 intact, 0 damaged"),
            ("back_edition", "status 0\n0"),
            ("back_new", "status 0\n0"),
            ("back_before", "0 in edition 0, 20 in edition 1"),
            ("back_theirs", "20 in edition 0, 0 in edition 1"),
            ("back_held", "reverted (draining), not enabled\n  scope: object\n  waits for 2"),
            ("back_held", "(guest-tool) sleeps in pipe_read\n"),
            ("unload", "status 3\n"),
            ("fed_5", "81 intact, 0 damaged"),
            ("mixed_2", "status 0\n0"),
            ("gone", "status 0\n"),
            ("end", "81 intact, 0 damaged"),
            ("mixed_3", "status 0\n0"),
        ],
    );
    assert!(!results["log"].contains("CPUs stopped for"), "{}", results["log"]);
}

#[test]
fn each_pipe_in_its_time_on_6_1() {
    each_pipe_in_its_time("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn each_pipe_in_its_time_on_6_12() {
    each_pipe_in_its_time("6.12.107", "6.12.107+deb12-amd64");
}

/// Each end that a wait can have, and other scopes with the same update.
fn waits_end_as_asked(version: &'static str, release: &str) {
    let update = made(version);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            serve --count 5 --busy 2
            ends INT dynamos_pair loading &
            says interrupted dynamos load /update/pair --timeout 300
            disappears dynamos_pair
            says interrupted_left ls /sys/kernel/dynamos
            says signal dynamos load /update/pair --timeout 240 --signal
            says signal_edition ask edition
            says fed_1 ask feed
            ends KILL dynamos_pair reverting &
            says killed dynamos revert dynamos_pair --timeout 300
            becomes dynamos_pair active
            says killed_edition ask edition
            says fed_2 ask feed
            says mixed_1 mixed

            says policy dynamos policy dynamos_pair --when 'pid == 1'
            says policy_status dynamos status
            dynamos policy dynamos_pair --default 1
            says revert dynamos revert dynamos_pair --signal --timeout 240
            dynamos policy dynamos_pair --default 0
            says by_policy dynamos enable dynamos_pair --scope object
            dynamos policy dynamos_pair --default 1

            dynamos enable dynamos_pair --timeout 0 --on-timeout hold
            says as_system dynamos enable dynamos_pair --scope system
            says as_task dynamos enable dynamos_pair --scope task
            says forced dynamos enable dynamos_pair --timeout 1 --on-timeout force-new-calls
            says forced_status dynamos status
            says forced_edition ask edition
            dynamos revert dynamos_pair --signal --timeout 240
            fed_until dynamos_pair reverted

            # The same update in other scopes, which do not count.
            says task dynamos enable dynamos_pair --scope task --timeout 240 --signal
            says task_status dynamos status
            dynamos revert dynamos_pair --signal --timeout 240
            dynamos enable dynamos_pair --scope object --timeout 240 --signal
            says last_edition ask edition
            # Editions meet where new calls were forced.
            dmesg -c >/dev/null
            fed_until dynamos_pair active
            dynamos revert dynamos_pair --timeout 0 --on-timeout hold
            fed_until dynamos_pair reverted
            says mixed_2 mixed
            says end ask end
            dynamos unload dynamos_pair
            rmmod dynamos
            grep -c dynamos /proc/modules | result left || true"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("interrupted", "status 130"),
            ("interrupted_left", "status 0\nabi\nrefusals\nversion"),
            ("signal", "status 0\ndynamos_pair is loaded"),
            ("signal_edition", "status 0\n1"),
            ("fed_1", "5 intact, 0 damaged"),
            ("killed", "status 137"),
            ("killed_edition", "status 0\n1"),
            ("fed_2", "10 intact, 0 damaged"),
            ("policy", "status 0\n"),
            ("policy_status", "scope: function"),
            ("revert", "status 0\n"),
            ("by_policy", "status 3\n"),
            ("by_policy", "scope `object` is not possible: policies"),
            ("mixed_1", "status 0\n0"),
            ("as_system", "objects are moving one by one"),
            ("as_task", "objects are moving one by one"),
            ("forced", "status 0\ndynamos_pair is active"),
            ("forced_status", "scope: function"),
            ("forced_edition", "status 0\n1"),
            ("task", "status 0\ndynamos_pair is active"),
            ("task_status", "scope: task, weaker than the plan proposes (object)"),
            ("last_edition", "status 0\n1"),
            ("mixed_2", "status 0\n0"),
            ("end", " intact, 0 damaged"),
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
    turns_under_load(&image("6.1.0-55-amd64"), &made("6.1.192-1"), "object");
}

#[test]
fn turns_under_load_on_6_12() {
    turns_under_load(&image("6.12.107+deb12-amd64"), &made("6.12.107"), "object");
}

/// On a kernel that watches its memory and its locks, if one has been built.
#[test]
#[ignore = "takes long; cargo test -p dynamos-vm --test kernel objects:: -- --ignored"]
fn turns_under_load_on_the_debug_kernel() {
    let Some((image, update)) = pair_on_the_debug_kernel("objects", with_accessor, objects())
    else {
        return;
    };
    turns_under_load(&image, &update, "object");
}
