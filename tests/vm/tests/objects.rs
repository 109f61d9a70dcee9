//! Scope `object` on real kernels: two functions of which one leaves something in a pipe for the other. A pipe that both
//! editions work on is told by V2's code itself.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::{SAYS, SLEEPERS, asked, check, edit, machine, marks, request};
use dynamos_generator::{Request, Spec};

/// `becomes NAME STATE`: waits for it. `mixed`: how often both editions met at a pipe.
const SHELL: &str = r#"
becomes() {
    for try in $(seq 1200); do
        read -r state </sys/kernel/dynamos/$1/state
        if [ "$state" = "$2" ]; then return; fi
        usleep 50000
    done
    echo "it is $state, not $2"
    return 1
}
mixed() { dmesg | grep -c MIXED || true; }
"#;

/// Emulated machines are slow, and this one shares its host.
const LONG: Duration = Duration::from_secs(900);

/// V2 says itself what `pipe_read` works on.
fn with_accessor(text: &str) -> String {
    let text = marks(text);
    let accessor = "\nstatic __used void *dynamos_object_pipe_read(struct kiocb *iocb)\n{\n\treturn iocb->ki_filp->private_data;\n}\n";
    let (before, after) = text.split_once("\nstatic ssize_t\npipe_read(struct kiocb").unwrap();
    format!("{before}{accessor}\nstatic ssize_t\npipe_read(struct kiocb{after}")
}

fn made(version: &'static str) -> PathBuf {
    static MADE: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(version).or_insert_with(|| make(version)).clone()
}

fn make(version: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("objects").join(version);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
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
    let plan = diff(BTreeMap::from([("anon_pipe_buf_release".into(), "pipe".into())]));
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
            says still ask edition
            becomes dynamos_pair active
            says back dynamos revert dynamos_pair --timeout 1 --on-timeout hold
            says back_before ask theirs
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
            ("uncounted", "waits for 20 tasks, 20 activations:"),
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
            ("back_before", "0 in edition 0, 20 in edition 1"),
            ("back_theirs", "20 in edition 0, 0 in edition 1"),
            (
                "back_held",
                "reverted (draining), not enabled\n  scope: object\n  waits for 20 tasks, 20 activations:\n",
            ),
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
