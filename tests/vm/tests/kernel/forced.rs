//! `rmmod -f`, on real kernels, of updates that cannot go at once: those with phases, and those below another. Nobody's
//! code is taken away, and they go by themselves in the end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{
    SAYS, SLEEPERS, asked, check, edit, empty_directory, greater_pipe_fcntl, machine, named,
    refusing_pipe_read, request,
};
use dynamos_generator::{Request, Spec};

/// Emulated machines are slow, and this one shares its host.
const LONG: Duration = Duration::from_secs(900);

const SHELL: &str = r#"
fcntl() { guest-tool pipe-edition --times 50; }
# The kernel says so, after the last `forget`. Not through a pipe, whose reader would be in what is waited for.
logged() {
    for try in $(seq 600); do
        dmesg >/run/dmesg
        if grep -q "$1" /run/dmesg; then return; fi
        usleep 50000
    done
    echo "nobody logs $1"
    cat /run/dmesg
    return 1
}
forget() { dmesg -c >/run/forgotten; }
there() { says $1 ls -d /sys/module/$2; }
"#;

fn directory(version: &str, name: &str) -> PathBuf {
    empty_directory("forced", &format!("{version}-{name}"))
}

/// A read of nothing is another error in V2 than in the bridge, and the administrator says in `fs.pipe-user-pages-hard`
/// whether the transfer back refuses: a 1.
fn phased(version: &str) -> PathBuf {
    let directory = directory(version, "phased");
    let (v2, bridge) = (directory.join("v2.patch"), directory.join("bridge.patch"));
    edit(version, "fs/pipe.c", refusing_pipe_read, &v2);
    let hooks = "
static __used int dynamos_transfer(void)
{
	return 0;
}

static __used int dynamos_transfer_back(void)
{
	return READ_ONCE(pipe_user_pages_hard) == 1 ? -EPERM : 0;
}

";
    let other = |text: &str| {
        let text = refusing_pipe_read(text).replacen("return -EINVAL;", "return -ENODATA;", 1);
        let name = "static ssize_t\npipe_read(";
        text.replacen(name, &format!("{hooks}{name}"), 1)
    };
    edit(version, "fs/pipe.c", other, &bridge);
    let output = directory.join("phased");
    let v1 = Spec::parse(&format!("deb:{version}"), None).unwrap();
    let (v2, name) = (Spec::Patch(v2), Some("phased".to_owned()));
    let request_of = Request { name, bridge: Some(bridge), ..asked(v1, v2, &output) };
    let plan = request(request_of).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    output
}

/// It goes back phase by phase, as those leave who are in the edition before, and when its transfer back agrees.
fn goes_phase_by_phase(version: &str, release: &str) {
    let outcome = machine(release, &[&phased(version)])
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            refuse() {{ echo $1 >/proc/sys/fs/pipe-user-pages-hard; }}
            serve --count 5
            dynamos load /update/phased --signal --timeout 240
            says fed_1 ask feed
            refuse 1
            forget
            rmmod -f phased &
            unloads=$!
            logged 'new calls take the bridge'
            there in_v2 phased
            # Who is killed waits all the same.
            kill -9 $unloads
            usleep 1500000
            there killed phased
            says fed_2 ask feed
            logged 'hook dynamos_transfer_back answers -1'
            usleep 1500000
            there refused phased
            says refused_log grep -c 'new calls take edition 0' /run/dmesg
            refuse 0
            logged 'new calls take edition 0'
            # They sleep in the bridge.
            usleep 1500000
            there in_bridge phased
            says fed_3 ask feed
            wait $unloads || true
            logged 'phased: gone'
            there gone phased
            says log cat /run/dmesg

            # One that is held in phase 1, which nobody has entered.
            dynamos load /update/phased --timeout 0 --on-timeout hold
            says held cat /sys/kernel/dynamos/phased/state
            rmmod -f phased
            there held_gone phased
            # And with its readers in the bridge.
            dynamos load /update/phased --timeout 0 --on-timeout hold
            says fed_4 ask feed
            until grep -q '^2' /sys/kernel/dynamos/phased/phase; do usleep 50000; done
            forget
            rmmod -f phased &
            unloads=$!
            logged 'new calls take edition 0'
            there held_bridge phased
            says fed_5 ask feed
            wait $unloads
            there held_bridge_gone phased
            says end ask end
            says rmmod rmmod dynamos"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{}", results["log"]);
    let there = "status 0\n/sys/module/phased";
    check(
        results,
        &[
            ("fed_1", "5 intact, 0 damaged"),
            ("in_v2", there),
            ("killed", there),
            ("fed_2", "10 intact, 0 damaged"),
            ("refused", there),
            ("refused_log", "status 1\n0"),
            ("in_bridge", there),
            ("fed_3", "15 intact, 0 damaged"),
            ("gone", "status 1\n"),
            ("held", "loading (held)"),
            ("held_gone", "status 1\n"),
            ("fed_4", "20 intact, 0 damaged"),
            ("held_bridge", there),
            ("fed_5", "25 intact, 0 damaged"),
            ("held_bridge_gone", "status 1\n"),
            ("end", "25 intact, 0 damaged"),
            ("rmmod", "status 0"),
        ],
    );
    assert_eq!(results["log"].matches("is being unloaded by force").count(), 1);
}

#[test]
fn goes_phase_by_phase_on_6_1() {
    goes_phase_by_phase("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn goes_phase_by_phase_on_6_12() {
    goes_phase_by_phase("6.12.107", "6.12.107+deb12-amd64");
}

/// `pipe_fcntl` gives a number that is greater by so many, and with `read` a read of nothing is an error.
fn made(version: &str, directory: &Path, name: &str, by: u32, read: bool) -> PathBuf {
    let (patch, output) = (directory.join(format!("{name}.patch")), directory.join(name));
    let change = |text: &str| {
        let text = if read { refusing_pipe_read(text) } else { text.to_owned() };
        let more = format!("\treturn ret + {by};\n");
        greater_pipe_fcntl(&text).replacen("\treturn ret + 1;\n", &more, 1)
    };
    edit(version, "fs/pipe.c", change, &patch);
    let plan = named(name, version, &patch, &output);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    output
}

/// `a` lies below `b`, which covers a part of it, or `r`, which covers all.
fn goes_from_below(version: &str, release: &str) {
    let directory = directory(version, "stack");
    let a = made(version, &directory, "a", 1, true);
    let b = made(version, &directory, "b", 2, false);
    let r = made(version, &directory, "r", 4, true);
    let outcome = machine(release, &[&a, &b, &r])
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            dynamos load /update/a --scope function
            serve --count 5
            dynamos load /update/b --stack --scope function
            forget
            rmmod -f a &
            unloads=$!
            logged 'cannot go yet: update `b` lies over'
            usleep 1500000
            there covered a
            says covered_read ask edition
            says covered_fcntl fcntl
            says covered_status dynamos status b
            says back_b dynamos revert b
            # From now on calls take edition 0; those who sleep in it are waited for.
            logged 'a: draining'
            says uncovered_read ask edition
            says uncovered_fcntl fcntl
            there uncovered a
            says fed_1 ask feed
            wait $unloads
            there gone a
            says again_b dynamos enable b
            says again_b_fcntl fcntl
            dynamos unload b --revert

            # All of its calls are taken by another but some, then all.
            dynamos load /update/a --scope function
            ask feed >/run/null
            dynamos load /update/r --stack --scope function
            says some dynamos policy r --when 'comm == "canary"'
            forget
            rmmod -f a &
            unloads=$!
            logged 'cannot go yet: update `r` lies over'
            usleep 1500000
            there lets_through a
            says lets_through_fcntl fcntl
            says all dynamos policy r --default 1
            logged 'a: draining'
            usleep 1500000
            there sleeps a
            says sleeps_fcntl fcntl
            says fed_2 ask feed
            wait $unloads
            there sleeps_gone a
            says alone_r dynamos status r
            says alone_r_fcntl fcntl
            ask feed >/run/null
            says back_r dynamos revert r --timeout 0 --on-timeout hold
            says back_r_fcntl fcntl
            says fed_3 ask feed
            says end ask end
            until dynamos unload r >/run/null 2>&1; do usleep 100000; done
            says rmmod rmmod dynamos"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    let there = "status 0\n/sys/module/a";
    check(
        results,
        &[
            ("covered", there),
            ("covered_read", "status 0\n1"),
            ("covered_fcntl", "status 0\n2"),
            ("covered_status", "(b over a)"),
            ("back_b", "status 0\nb is reverted"),
            ("uncovered_read", "status 0\n0"),
            ("uncovered_fcntl", "status 0\n0"),
            ("uncovered", there),
            ("fed_1", "5 intact, 0 damaged"),
            ("gone", "status 1\n"),
            ("again_b", "status 0\n"),
            ("again_b_fcntl", "status 0\n2"),
            ("some", "status 0\n"),
            ("lets_through", there),
            ("lets_through_fcntl", "status 0\n1"),
            ("all", "status 0\n"),
            ("sleeps", there),
            ("sleeps_fcntl", "status 0\n4"),
            ("fed_2", "15 intact, 0 damaged"),
            ("sleeps_gone", "status 1\n"),
            ("alone_r", "pipe_fcntl  edition 1  vmlinux\n"),
            ("alone_r_fcntl", "status 0\n4"),
            ("back_r", "status 0\n"),
            ("back_r_fcntl", "status 0\n0"),
            ("fed_3", "25 intact, 0 damaged"),
            ("end", "25 intact, 0 damaged"),
            ("rmmod", "status 0"),
        ],
    );
}

#[test]
fn goes_from_below_on_6_1() {
    goes_from_below("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn goes_from_below_on_6_12() {
    goes_from_below("6.12.107", "6.12.107+deb12-amd64");
}
