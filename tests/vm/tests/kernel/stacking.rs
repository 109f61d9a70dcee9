//! Several updates of one function on real kernels: one takes the place of another at one switch, or lies over it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::{
    SAYS, check, edit, empty_directory, greater_pipe_fcntl, machine, named, refusing_pipe_read,
};

const SHELL: &str = r#"
ask() { guest-tool sleepers ask "$1"; }
fcntl() { guest-tool pipe-edition --times 50; }
"#;

/// An update with this name.
fn made(version: &str, name: &str, change: impl Fn(&str) -> String) -> PathBuf {
    let directory = empty_directory("stacking", &format!("{version}-{name}"));
    let (patch, output) = (directory.join("pipe.patch"), directory.join(name));
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
                    # Another was faster to change it again.
                    if [ $code = 2 ]; then cat /run/out_$2_$1 >>/run/odd; fi
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
            touch /run/odd
            says odd cat /run/odd
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
    let expected = [
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
    ];
    check(results, &expected);
    check_race(results);
}

/// Each command of several administrators did all that it was asked for, or was refused.
#[track_caller]
fn check_race(results: &BTreeMap<String, String>) {
    let codes: Vec<&str> = results["codes"].lines().skip(1).collect();
    assert!(!codes.is_empty() && codes.iter().all(|code| matches!(*code, "0" | "2" | "3")));
    assert!(
        results["odd"].lines().skip(1).all(|line| line.contains(", not ")),
        "{}",
        results["odd"]
    );
}

#[test]
fn takes_the_place_on_6_12() {
    takes_the_place("6.12.107", "6.12.107+deb12-amd64");
}

#[test]
fn takes_the_place_on_6_1() {
    takes_the_place("6.1.192-1", "6.1.0-55-amd64");
}

/// `pipe_fcntl` gives a number that is greater by so many.
fn greater(text: &str, by: u32) -> String {
    greater_pipe_fcntl(text).replacen("\treturn ret + 1;\n", &format!("\treturn ret + {by};\n"), 1)
}

/// The same with a function before it.
fn with_function(text: &str, function: &str) -> String {
    greater(text, 5).replacen("long pipe_fcntl(", &format!("{function}\n\nlong pipe_fcntl("), 1)
}

/// `a` lies at the bottom, with `pipe_read` and `pipe_fcntl`; `b` and `c` have only `pipe_fcntl`, `r` both.
fn lies_over(version: &str, release: &str) {
    let a = made(version, "a", |text| greater_pipe_fcntl(&refusing_pipe_read(text)));
    let b = made(version, "b", |text| greater(text, 2));
    let c = made(version, "c", |text| greater(text, 3));
    let r = made(version, "r", |text| greater(&refusing_pipe_read(text), 4));
    let h = made(version, "h", |text| {
        with_function(text, "static __used int dynamos_before_on(void) { return 0; }")
    });
    let t = made(version, "t", |text| {
        let adapts =
            "static __used int dynamos_adapt_pipe_fcntl(struct file *file, unsigned int cmd)";
        with_function(text, &format!("{adapts}\n{{\n\treturn cmd != 0;\n}}"))
    });
    let outcome = machine(release, &[&a, &b, &c, &r, &h, &t])
        .script(format!(
            r#"{SAYS}{SHELL}
            cp /bin/guest-tool /run/canary
            cp /bin/guest-tool /run/other
            # Of whom: neither, `other`, `canary`.
            three() {{
                echo $(fcntl) $(/run/other pipe-edition --times 50) $(/run/canary pipe-edition --times 50)
            }}
            says load_a dynamos load /update/a --scope function
            guest-tool sleepers serve --count 20 --busy 2 &
            while [ ! -S /run/sleepers ]; do usleep 20000; done
            ask asleep >/dev/null
            # Of the scope of the stronger: a's sleepers are in the way, and a stays as it is.
            says given_up dynamos load /update/b --stack --timeout 1
            says given_up_after three
            says held dynamos load /update/b --stack --timeout 0 --on-timeout hold
            says held_three three
            says held_a dynamos revert a
            says gave_up dynamos revert b
            says gave_up_three three
            says load_b dynamos enable b --stack --scope function
            says load_b_three three
            says read_b ask edition
            says status dynamos status
            says below_a dynamos revert a
            says unload_a dynamos unload a --revert
            says below_policy dynamos policy a --function pipe_fcntl --default 0
            says read_policy dynamos policy a --function pipe_read --default 1
            # What b's policy leaves goes to a.
            says when_b dynamos policy b --when 'comm == "canary"'
            says when_b_three three
            says none_b dynamos policy b --default 0
            says none_b_three three
            dynamos policy b --when 'comm == "canary"' >/run/null
            says revert_b dynamos revert b
            says revert_b_three three
            # It goes to a as a decides; b's policy was kept.
            says when_a dynamos policy a --function pipe_fcntl --when 'comm == "other"'
            says meet_a dynamos status a
            says again_b dynamos enable b --stack --scope function
            says again_b_three three
            # c over both, and b goes from below.
            says load_c dynamos load /update/c --stack --scope function
            says load_c_three three
            says status_c dynamos status c
            says none_c dynamos policy c --default 0
            says none_c_three three
            says lets_b dynamos revert b
            dynamos policy c --default 1 >/run/null
            says under_b dynamos revert b
            says under_b_three three
            says unload_b dynamos unload b
            says left_c dynamos policy c --when 'comm == "canary"'
            says left_c_three three
            says revert_c dynamos revert c
            says revert_c_three three
            # A policy that was set over another is not left leading there.
            says h dynamos load /update/h --stack
            says t dynamos load /update/t --stack
            dynamos policy a --function pipe_fcntl --default 1 >/run/null
            # Sleepers in the topmost.
            says load_r dynamos load /update/r --stack --scope function
            ask feed >/run/null
            ask asleep >/run/null
            says load_r_three three
            says drain_r dynamos revert r --timeout 0 --on-timeout hold
            says drain_r_three three
            says drain_a dynamos revert a
            says drain_back dynamos enable r
            says drain_back_three three
            says drain_again dynamos revert r --timeout 0 --on-timeout hold
            says drain_fed ask feed
            becomes r reverted
            says drained_three three
            # All of a is covered: it goes from below, and its sleepers keep its code.
            ask asleep >/run/null
            says over_r dynamos enable r --stack --scope function
            says stays_a dynamos revert a --timeout 1
            says stays_a_state cat /sys/kernel/dynamos/a/state
            says goes_a dynamos revert a --timeout 0 --on-timeout hold
            says goes_a_three three
            says alone_r dynamos revert r --timeout 0 --on-timeout hold
            says goes_fed ask feed
            becomes r reverted
            becomes a reverted
            says goes_three three
            says unload_r dynamos unload r
            # A stack whose place is taken.
            says stack_a dynamos enable a --scope function
            says stack_b dynamos load /update/b --stack --scope function
            says replace_c dynamos enable c --replace --scope function
            says replace_c_three three
            becomes b reverted
            becomes a reverted
            dynamos revert c >/run/null
            says alone_three three
            # c's policy was set over others. They are gone, and the code leads elsewhere.
            dynamos unload a >/run/null
            dynamos unload b >/run/null
            says alone_c dynamos enable c --scope function
            says alone_c_three three
            dynamos revert c >/run/null
            says end ask end
            # Administrators, under load.
            dynamos load /update/a --scope function >/run/null
            dynamos load /update/b --stack --scope function >/run/null
            rm -f /run/sleepers
            guest-tool sleepers serve --count 3 --busy 4 &
            while [ ! -S /run/sleepers ]; do usleep 20000; done
            ask asleep >/dev/null
            race() {{
                id=$1; shift
                for round in $(seq 6); do
                    code=0
                    dynamos "$@" >/run/out_$id 2>&1 || code=$?
                    echo $code
                    # Another was faster to change it again.
                    if [ $code = 2 ]; then cat /run/out_$id >>/run/odd; fi
                done >/run/code_$id
                echo done >/run/ended_$id
            }}
            race 0 enable a --stack --scope function &
            race 1 enable b --stack --scope function &
            race 2 enable c --stack --scope function &
            race 3 revert a --timeout 0 --on-timeout hold &
            race 4 revert b --timeout 0 --on-timeout hold &
            race 5 revert c --timeout 0 --on-timeout hold &
            race 6 policy b --when 'comm == "canary"' &
            while [ "$(ls /run/ended_? 2>/run/null | wc -l)" -lt 7 ]; do
                ask feed >/run/fed
                usleep 100000
            done
            says race_fed cat /run/fed
            says codes sort -u /run/code_?
            touch /run/odd
            says odd cat /run/odd
            says end_race ask end
            for try in $(seq 40); do
                for name in c b a; do
                    [ -d /sys/kernel/dynamos/$name ] || continue
                    dynamos unload $name --revert >/run/unload 2>&1 || usleep 300000
                done
            done
            says end_three three
            says gone rmmod dynamos
            dmesg | grep 'dynamos: ' | tail -n 60 | result log"#
        ))
        .timeout(Duration::from_secs(1500))
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{release}: {}\n{}", results["end_race"], results["log"]);
    let expected = [
        ("load_a", "status 0"),
        ("given_up", "status 3\n"),
        ("given_up", "in another update's edition"),
        ("given_up_after", "status 0\n1 1 1"),
        ("held", "b is loaded, but waits"),
        ("held_three", "status 0\n1 1 1"),
        ("held_a", "being switched by somebody else"),
        ("gave_up", "status 0"),
        ("gave_up_three", "status 0\n1 1 1"),
        ("load_b", "status 0"),
        ("load_b_three", "status 0\n2 2 2"),
        ("read_b", "status 0\n1"),
        ("status", "pipe_fcntl  edition 1  vmlinux  (b over a)"),
        ("status", "pipe_read   edition 1  vmlinux"),
        ("below_a", "status 3\n"),
        ("below_a", "update `b` lies over some functions of `a`"),
        ("unload_a", "update `b` lies over some functions of `a`"),
        ("below_policy", "update `b` lies over it and leaves calls of `pipe_fcntl`"),
        ("read_policy", "status 0"),
        ("when_b", "status 0"),
        ("when_b_three", "status 0\n1 1 2"),
        ("none_b_three", "status 0\n1 1 1"),
        ("revert_b", "status 0\nb is reverted"),
        ("revert_b_three", "status 0\n1 1 1"),
        ("when_a", "status 0"),
        ("when_a", "note: by these policies editions meet: weaker than the plan proposes (system)"),
        ("meet_a", "by these policies editions meet: weaker than the plan proposes (system)"),
        ("again_b", "status 0"),
        ("again_b_three", "status 0\n0 1 2"),
        ("load_c", "status 0"),
        ("load_c_three", "status 0\n3 3 3"),
        ("status_c", "(c over b over a)"),
        ("none_c", "status 0"),
        ("none_c_three", "status 0\n0 1 2"),
        ("lets_b", "update `c` lies over `b` and leaves calls to it"),
        ("under_b", "status 0\nb is reverted"),
        ("under_b_three", "status 0\n3 3 3"),
        ("unload_b", "status 0"),
        ("left_c", "status 0"),
        ("left_c_three", "status 0\n0 1 3"),
        ("revert_c", "status 0"),
        ("revert_c_three", "status 0\n0 1 0"),
        ("h", "update `h` has hooks"),
        ("t", "own adaptation handler of `pipe_fcntl`"),
        ("load_r", "status 0"),
        ("load_r_three", "status 0\n4 4 4"),
        ("drain_r", "r is reverted (draining)"),
        ("drain_r_three", "status 0\n1 1 1"),
        ("drain_a", "being switched by somebody else"),
        ("drain_back", "status 0\nr is active"),
        ("drain_back_three", "status 0\n4 4 4"),
        ("drain_again", "r is reverted (draining)"),
        ("drain_fed", "40 intact, 0 damaged"),
        ("drained_three", "status 0\n1 1 1"),
        ("over_r", "status 0"),
        ("stays_a", "status 3\n"),
        ("stays_a", "sleeps in pipe_read"),
        ("stays_a_state", "active"),
        ("goes_a", "a is reverted (draining)"),
        ("goes_a_three", "status 0\n4 4 4"),
        ("alone_r", "status 0"),
        ("goes_fed", "60 intact, 0 damaged"),
        ("goes_three", "status 0\n0 0 0"),
        ("unload_r", "status 0"),
        ("stack_a", "status 0"),
        ("stack_b", "status 0"),
        ("replace_c", "status 0"),
        ("replace_c_three", "status 0\n0 0 3"),
        ("alone_three", "status 0\n0 0 0"),
        ("alone_c", "status 0"),
        ("alone_c_three", "status 0\n0 0 3"),
        ("end", " 0 damaged"),
        ("race_fed", " 0 damaged"),
        ("end_race", " 0 damaged"),
        ("end_three", "status 0\n0 0 0"),
        ("gone", "status 0"),
    ];
    check(results, &expected);
    check_race(results);
}

#[test]
fn lies_over_on_6_12() {
    lies_over("6.12.107", "6.12.107+deb12-amd64");
}

#[test]
fn lies_over_on_6_1() {
    lies_over("6.1.192-1", "6.1.0-55-amd64");
}
