//! Several updates of one function on real kernels: one takes the place of another at one switch.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{SAYS, edit, greater_pipe_fcntl, machine, named, refusing_pipe_read};

const SHELL: &str = r#"
ask() { guest-tool sleepers ask "$1"; }
fcntl() { guest-tool pipe-edition --times 50; }
becomes() {
    for try in $(seq 600); do
        read -r state <"/sys/kernel/dynamos/$1/state"
        if [ "$state" = "$2" ]; then return; fi
        usleep 50000
    done
    echo "$1 is $state, not $2"
    return 1
}
"#;

/// An update with this name.
fn made(version: &str, name: &str, change: impl Fn(&str) -> String) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stacking").join(version);
    std::fs::create_dir_all(&directory).unwrap();
    let (patch, output) = (directory.join(format!("{name}.patch")), directory.join(name));
    let _ = std::fs::remove_dir_all(&output);
    edit(version, "fs/pipe.c", change, &patch);
    let plan = named(name, version, &patch, &output);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    output
}

/// `a` replaces `pipe_fcntl` and `pipe_read`, `b` only `pipe_fcntl`.
fn takes_the_place(version: &str, release: &str) {
    let a = made(version, "a", |text| greater_pipe_fcntl(&refusing_pipe_read(text)));
    let b = made(version, "b", greater_pipe_fcntl);
    let outcome = machine(release, &[&a, &b])
        .script(format!(
            r#"{SAYS}{SHELL}
            says load_a dynamos load /update/a --scope function
            guest-tool sleepers serve --count 20 --busy 2 &
            while [ ! -S /run/sleepers ]; do usleep 20000; done
            ask asleep >/dev/null
            says read_a ask edition
            says fcntl_a fcntl
            says alone dynamos load /update/b
            # Of the scope of the stronger: a's sleepers are in the way, and a stays as it is.
            says given_up dynamos load /update/b --replace --timeout 1
            says still_a ask edition
            says status_a dynamos status
            says held dynamos load /update/b --replace --timeout 0 --on-timeout hold
            says held_read ask edition
            says held_fcntl fcntl
            says busy_a dynamos revert a
            says gave_up dynamos revert b
            says back_a ask edition
            dynamos unload b >/dev/null
            dynamos policy a --function pipe_read --when 'pid > 0' >/dev/null
            says policy_a ask edition
            says replace dynamos load /update/b --replace --scope function
            says read_b ask edition
            says fcntl_b fcntl
            says both dynamos status
            says unload_a dynamos unload a
            says enable_a dynamos enable a
            says fed ask feed
            says end ask end
            becomes a reverted
            says unloaded_a dynamos unload a
            says revert_b dynamos revert b
            says fcntl_0 fcntl
            says again_a dynamos load /update/a --scope function
            says enable_b dynamos enable b --replace --scope function
            says enable_a_back dynamos enable a --replace --scope function
            # Four administrators, under load.
            rm -f /run/sleepers
            guest-tool sleepers serve --count 3 --busy 4 &
            while [ ! -S /run/sleepers ]; do usleep 20000; done
            ask asleep >/dev/null
            race() {{
                for round in $(seq 8); do
                    code=0
                    dynamos "$1" "$2" $3 >/run/out_$2_$1 2>&1 || code=$?
                    echo $code
                done
            }}
            race enable a "--replace --scope function" >/run/code_0 &
            race enable b "--replace --scope function" >/run/code_1 &
            race revert a "--timeout 0 --on-timeout hold" >/run/code_2 &
            race revert b "--timeout 0 --on-timeout hold" >/run/code_3 &
            while [ "$(cat /run/code_? | wc -l)" -lt 32 ]; do
                ask feed >/run/fed
                usleep 100000
            done
            says fed_race cat /run/fed
            says codes sort -u /run/code_0 /run/code_1 /run/code_2 /run/code_3
            says end_race ask end
            for name in a b; do
                for try in $(seq 20); do
                    dynamos unload $name --revert >/run/unload 2>&1 && break
                    usleep 500000
                done
            done
            says fcntl_end fcntl
            says gone rmmod dynamos
            dmesg | grep 'dynamos: ' | tail -n 40 | result log"#
        ))
        .timeout(Duration::from_secs(900))
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{release}: {}\n{}", results["end_race"], results["log"]);
    for (name, text) in [
        ("load_a", "status 0\n"),
        ("read_a", "status 0\n1"),
        ("fcntl_a", "status 0\n1"),
        ("alone", "is already replaced by update `a`: give --replace"),
        ("given_up", "status 3\n"),
        ("given_up", "in another update's edition"),
        ("still_a", "status 0\n1"),
        ("status_a", "a for vmlinux: active, enabled"),
        ("held", "b is loaded, but waits"),
        ("held_read", "status 0\n1"),
        ("held_fcntl", "status 0\n1"),
        ("busy_a", "being switched by somebody else"),
        ("gave_up", "status 0\n"),
        ("back_a", "status 0\n1"),
        ("policy_a", "status 0\n1"),
        ("replace", "status 0\n"),
        ("read_b", "status 0\n0"),
        ("fcntl_b", "status 0\n1"),
        ("both", "a for vmlinux: reverted (draining), not enabled"),
        ("both", "b for vmlinux: active, enabled"),
        ("unload_a", "status 3\n"),
        ("enable_a", "is draining, and cannot become active"),
        ("fed", "20 intact, 0 damaged"),
        ("end", "20 intact, 0 damaged"),
        ("unloaded_a", "status 0\n"),
        ("revert_b", "status 0\nb is reverted"),
        ("fcntl_0", "status 0\n0"),
        ("again_a", "status 0\n"),
        ("enable_b", "status 0\nb is active"),
        ("enable_a_back", "status 0\na is active"),
        ("fed_race", " 0 damaged"),
        ("end_race", " 0 damaged"),
        ("fcntl_end", "status 0\n0"),
        ("gone", "status 0"),
    ] {
        assert!(results[name].contains(text), "{name} should say {text:?}: {}", results[name]);
    }
    // Each command did all that it was asked for, or was refused.
    let codes: Vec<&str> = results["codes"].lines().skip(1).collect();
    assert!(!codes.is_empty() && codes.iter().all(|code| matches!(*code, "0" | "3")), "{codes:?}");
}

#[test]
fn takes_the_place_on_6_12() {
    takes_the_place("6.12.107", "6.12.107+deb12-amd64");
}

#[test]
fn takes_the_place_on_6_1() {
    takes_the_place("6.1.192-1", "6.1.0-55-amd64");
}
