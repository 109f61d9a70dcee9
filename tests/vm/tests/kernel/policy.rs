//! Policies on real kernels: which calls take the edition, changed while they run, and who may not change it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::common::{empty_directory, greater_pipe_fcntl, machine, pipe_update};

/// The functions that the guest scripts share. `asks NAME COMMAND…`: which edition the command's calls take.
/// `refused NAME COMMAND…`: hands the exit code and what it said to the test.
const SHELL: &str = r#"
policy() { dynamos policy dynamos_pipe "$@" >/run/policy || cat /run/policy; }
when() { policy --when "$1"; }
asks() { name=$1; shift; "$@" | result "$name"; }
edition() { guest-tool pipe-edition "$@"; }
refused() {
    name=$1; shift; code=0
    "$@" >/run/said 2>&1 || code=$?
    { echo "status $code"; cat /run/said; } | result "$name"
}
"#;

/// The scripts start hundreds of processes, on an emulated machine.
const LONG: Duration = Duration::from_secs(1200);

/// An update whose `pipe_fcntl` gives a number that is one greater; made once for all tests of a run.
fn update(version: &'static str) -> PathBuf {
    static MADE: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(version).or_insert_with(|| make_update(version)).clone()
}

fn make_update(version: &str) -> PathBuf {
    let directory = empty_directory("policy", version);
    let (update, plan) = pipe_update(version, greater_pipe_fcntl, &directory);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    assert_eq!(plan.name, "dynamos_pipe");
    update
}

#[track_caller]
fn check(results: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (name, edition) in expected {
        assert_eq!(results[*name], *edition, "{name}");
    }
}

/// Every field decides, and a change takes effect at once.
fn every_field_decides(version: &'static str, release: &str) {
    let update = update(version);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SHELL}
            cp /bin/guest-tool /run/canary
            mkdir -p /run/cgroup
            mount -t cgroup2 none /run/cgroup
            mkdir -p /run/cgroup/web/canary
            asks stock edition
            dynamos load /update/pipe --default 0
            asks loaded edition
            dynamos policy dynamos_pipe | result show_0
            policy --default 1
            asks default_1 edition

            when 'comm == "canary"'
            asks comm_other edition
            asks comm_canary /run/canary pipe-edition
            when 'comm ~ "can*"'
            asks comm_begins /run/canary pipe-edition

            when 'uid == 33'
            asks uid_root edition
            asks uid_33 guest-tool as-user 33 guest-tool pipe-edition

            when 'cgroup == "/web/canary"'
            asks cgroup_outside edition
            asks cgroup_inside sh -c 'echo $$ >/run/cgroup/web/canary/cgroup.procs; guest-tool pipe-edition'
            asks cgroup_above sh -c 'echo $$ >/run/cgroup/web/cgroup.procs; guest-tool pipe-edition'

            # of_pid NAME EXPR OPTION…: of a process with the id P, which it had before there was the policy.
            of_pid() {{
                name=$1; expression=$2; shift 2
                rm -f /run/pid /run/go
                sh -c 'echo $$ >/run/pid; while [ ! -e /run/go ]; do usleep 5000; done
                    exec guest-tool pipe-edition "$@"' sh "$@" >/run/of_pid &
                while [ ! -s /run/pid ]; do usleep 5000; done
                when "$(echo "$expression" | sed "s/P/$(cat /run/pid)/g")"
                touch /run/go
                wait
                asks $name cat /run/of_pid
            }}
            of_pid pid_same 'pid == P and tgid == P'
            asks pid_other edition
            of_pid pid_of_thread 'pid == P' --thread
            of_pid tgid_of_thread 'tgid == P and pid != P' --thread

            when 'cpu == 1'
            asks cpu_0 taskset 1 guest-tool pipe-edition
            asks cpu_1 taskset 2 guest-tool pipe-edition
            when 'cpu == 0'
            asks cpu_0_of_0 taskset 1 guest-tool pipe-edition
            asks cpu_1_of_0 taskset 2 guest-tool pipe-edition

            # The clock that counts jiffies may be a moment behind.
            now=$(sed 's/[.].*//' /proc/uptime)
            when "time >= $((now - 1)) and time < $((now + 1000))"
            asks time_now edition
            when "time < $((now - 1)) or time >= $((now + 1000))"
            asks time_else edition

            # Its `struct file` is where the kernel has its memory.
            refused pointer_said dynamos policy dynamos_pipe --function pipe_fcntl --when 'u64(arg1) >= 0xffff800000000000'
            asks pointer_above edition
            policy --function pipe_fcntl --when 'u64(arg1) < 0xffff800000000000'
            asks pointer_below edition

            policy --function pipe_fcntl --when 'cmd == 1031 and arg3 >= 65536'
            asks argument_small edition --size 8192
            asks argument_large edition --size 131072
            asks argument_none edition
            dynamos policy dynamos_pipe | result show_when
            dynamos status --json | result status

            for share in 30 100; do
                when "percent($share)"
                for round in $(seq 6); do edition; done | sort | uniq -c | result percent_$share
            done

            when 'comm == "canary"'
            dynamos revert dynamos_pipe
            asks reverted /run/canary pipe-edition
            dynamos enable dynamos_pipe
            asks enabled_canary /run/canary pipe-edition
            asks enabled_other edition
            dynamos revert dynamos_pipe
            policy --default 1
            dynamos enable dynamos_pipe
            asks enabled_default edition
            policy --when 'false'
            asks stopped edition
            dynamos unload dynamos_pipe --revert
            rmmod dynamos
            asks gone edition"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("DEBUG {}", results["pointer_said"]);
    check(
        results,
        &[
            ("stock", "0"),
            ("loaded", "0"),
            ("show_0", "* default 0"),
            ("default_1", "1"),
            ("comm_other", "0"),
            ("comm_canary", "1"),
            ("comm_begins", "1"),
            ("uid_root", "0"),
            ("uid_33", "1"),
            ("cgroup_outside", "0"),
            ("cgroup_inside", "1"),
            ("cgroup_above", "0"),
            ("pid_same", "1"),
            ("pid_other", "0"),
            ("pid_of_thread", "0"),
            ("tgid_of_thread", "1"),
            ("cpu_0", "0"),
            ("cpu_1", "1"),
            ("cpu_0_of_0", "1"),
            ("cpu_1_of_0", "0"),
            ("time_now", "1"),
            ("time_else", "0"),
            ("pointer_above", "1"),
            ("pointer_below", "0"),
            ("argument_small", "0"),
            ("argument_large", "1"),
            ("argument_none", "0"),
            ("show_when", "* when cmd == 1031 and arg3 >= 65536"),
            ("reverted", "0"),
            ("enabled_canary", "1"),
            ("enabled_other", "0"),
            ("enabled_default", "1"),
            ("stopped", "0"),
            ("gone", "0"),
        ],
    );
    assert!(results["status"].contains("arg3 >= 65536"), "{}", results["status"]);
    // No process has calls of both kinds; of 60 some are drawn and some are not.
    let share: Vec<_> = results["percent_30"].split_whitespace().collect();
    assert_eq!((share[1], share[3], share.len()), ("0", "1", 4), "{share:?}");
    assert_eq!(results["percent_100"].split_whitespace().collect::<Vec<_>>(), ["60", "1"]);
}

#[test]
fn every_field_decides_on_6_12() {
    every_field_decides("6.12.107", "6.12.107+deb12-amd64");
}

#[test]
fn every_field_decides_on_6_1() {
    every_field_decides("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let update = update("6.12.107");
    let outcome = machine("6.12.107+deb12-amd64", &[&update])
        .script(format!(
            r#"{SHELL}
            dynamos load /update/pipe
            when 'comm == "canary"'
            refused field dynamos policy dynamos_pipe --when 'nice > 3'
            refused value dynamos policy dynamos_pipe --when 'pid == -1'
            refused syntax dynamos policy dynamos_pipe --when 'pid =='
            refused cgroup dynamos policy dynamos_pipe --when 'cgroup == "/none"'
            refused absent dynamos policy dynamos_pipe --when 'arg4 == 1'
            refused wide dynamos policy dynamos_pipe --when 'u64(arg2) == 1'
            refused function dynamos policy dynamos_pipe --function pipe_read --when 'pid == 1'
            refused update dynamos policy dynamos_none --default 0
            refused edition dynamos policy dynamos_pipe --default 2
            refused both dynamos policy dynamos_pipe --default 0 --when true
            ids=$(seq -s , 1 64)
            refused long dynamos policy dynamos_pipe --when "pid in {{$ids}}"
            for bytes in '' 'x' '\000\000DYP1' '\000\000DYP1\001\000\000\000'; do
                printf "$bytes" >/run/raw # busybox's printf does not say why a write fails
                refused "raw_${{#bytes}}" sh -c 'cat /run/raw >/sys/kernel/dynamos/dynamos_pipe/policy'
            done
            head -c 4096 /dev/urandom >/run/noise
            refused noise sh -c 'cat /run/noise >/sys/kernel/dynamos/dynamos_pipe/policy'
            user() {{ name=$1; shift; refused "$name" guest-tool as-user 1000 "$@"; }}
            user user_policy dynamos policy dynamos_pipe --default 0
            user user_show dynamos policy dynamos_pipe
            user user_revert dynamos revert dynamos_pipe
            user user_unload dynamos unload dynamos_pipe --revert
            user user_load dynamos load /update/pipe/update.ko
            user user_write sh -c 'echo 0 >/sys/kernel/dynamos/dynamos_pipe/enabled'
            user user_raw sh -c 'echo 0 >/sys/kernel/dynamos/dynamos_pipe/policy'
            user user_status dynamos status
            dynamos policy dynamos_pipe | result after
            dynamos status dynamos_pipe | head -n 3 | result state
            dynamos unload dynamos_pipe --revert
            user user_load_new dynamos load /update/pipe
            ls /sys/kernel/dynamos | grep -c dynamos_pipe | result user_loaded || true
            rmmod dynamos"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    assert_eq!(results["user_loaded"], "0");
    for (name, status, says) in [
        ("field", 2, "nice"),
        ("value", 2, "never is"),
        ("syntax", 2, "a number"),
        ("cgroup", 2, "/none"),
        ("absent", 2, "3 arguments"),
        ("wide", 2, "64 bits of `arg2`"),
        ("function", 3, "does not replace `pipe_read`"),
        ("update", 2, "dynamos_none"),
        ("edition", 2, "0..=1"),
        ("both", 2, "cannot be used with"),
        ("long", 3, "use fewer conditions"),
        ("raw_1", 1, "Invalid argument"),
        ("raw_12", 1, "Invalid argument"),
        ("raw_28", 1, "Invalid argument"),
        ("noise", 1, "Invalid argument"),
        ("user_policy", 2, "only root may"),
        ("user_show", 2, "only root may"),
        ("user_revert", 2, "only root may"),
        ("user_unload", 2, "only root may"),
        ("user_load", 3, "already"),
        ("user_load_new", 2, "only root may"),
        ("user_write", 1, "ermission denied"),
        ("user_raw", 1, "ermission denied"),
        ("user_status", 2, "only root may"), // `enabled` is root's to read
    ] {
        let said = &results[name];
        assert!(said.starts_with(&format!("status {status}\n")), "{name}: {said}");
        assert!(said.contains(says), "{name} should say {says:?}: {said}");
    }
    assert_eq!(results["after"], r#"* when comm == "canary""#);
    assert!(results["state"].contains("active"), "{}", results["state"]);
}

/// Many administrators at once: what they did and saw is what one after the other can have done (`guest-tool race` looks
/// for the order, and nobody dies), and what is left obeys the next one.
fn administrators_race(version: &'static str, release: &str) {
    let update = update(version);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SHELL}
            race() {{ guest-tool race /update/pipe --name dynamos_pipe --operations 20 --rest 500 --seed $1; }}
            race 1 >/run/race # The first to load it loads dynamos.ko too.
            result race_1 </run/race
            race 2 >/run/race
            result race_2 </run/race
            dynamos load /update/pipe
            when 'uid == 7'
            asks zero edition
            asks seven guest-tool as-user 7 guest-tool pipe-edition
            policy --default 1
            asks one edition --times 500
            dynamos unload dynamos_pipe --revert
            asks gone edition
            rmmod dynamos
            grep -c dynamos /proc/modules | result left || true"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    let races = [&results["race_1"], &results["race_2"]];
    for race in races {
        println!("{race}");
        // 6 at once, and the 12 operations of the one who comes last.
        assert!(race.starts_with("linearizable: 132 operations\n"), "{race}");
    }
    for kind in ["load", "revert", "enable", "unload", "policy", "edition"] {
        let lines = races.into_iter().flat_map(|race| race.lines());
        let of_kind = lines.filter_map(|line| line.strip_prefix(kind)?.split_once(" of "));
        let done: u32 = of_kind.map(|(done, _)| done.trim().parse::<u32>().unwrap()).sum();
        assert!(done > 0, "no {kind} was done: {races:?}");
    }
    check(results, &[("one", "1"), ("zero", "0"), ("seven", "1"), ("gone", "0"), ("left", "0")]);
}

#[test]
fn administrators_race_on_6_12() {
    administrators_race("6.12.107", "6.12.107+deb12-amd64");
}

#[test]
fn administrators_race_on_6_1() {
    administrators_race("6.1.192-1", "6.1.0-55-amd64");
}
