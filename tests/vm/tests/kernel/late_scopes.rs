//! Scopes in which tasks or objects move one by one, of a module that is loaded later, on real kernels: what stays counted or
//! is in an older edition keeps neither the module nor the update.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::{SAYS, asked, check, edit, machine, request};
use dynamos_generator::{Request, Spec};

const SHELL: &str = r#"
state() { cat /sys/kernel/dynamos/dynamos_loop/state; }
"#;

/// Which edition showed it: the first number is the offset, the second the size limit.
fn tell_edition(text: &str) -> String {
    let mut text = text.to_owned();
    for what in ["lo_offset", "lo_sizelimit"] {
        let shown = format!("sysfs_emit(buf, \"%llu\\n\", (unsigned long long)lo->{what})");
        assert_eq!(text.matches(&shown).count(), 1);
        text = text.replace(&shown, &shown.replace("%llu", "%llu by V2"));
    }
    text
}

/// Scopes in which tasks or objects move one by one, of a module that comes later: nobody is to move then, and a revert
/// finds everybody where they belong.
fn moves_singly_in_a_module_that_comes(version: &str, release: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let (patch, update) = (scratch.path().join("loop.patch"), scratch.path().join("loop"));
    edit(version, "drivers/block/loop.c", tell_edition, &patch);
    let works_on = |name: &str| (format!("loop_attr_do_show_{name}"), "d".to_owned());
    let (v1, v2) = (Spec::Deb(version.into()), Spec::Patch(patch));
    let plan = request(Request {
        objects: BTreeMap::from(["offset", "sizelimit"].map(works_on)),
        ..asked(v1, v2, &update)
    });
    assert!(plan.as_ref().unwrap().refusals.is_empty(), "{:?}", plan.unwrap().refusals);
    let outcome = machine(release, &[&update])
        .offer("loop")
        .script(format!(
            r#"{SAYS}{SHELL}
            dd if=/dev/zero of=/run/file bs=64k count=1 2>/dev/null
            shown() {{ cat /sys/block/loop0/loop/offset /sys/block/loop0/loop/sizelimit; }}
            used() {{ load-module loop; losetup -o 512 /dev/loop0 /run/file; }}
            for scope in task object; do
                says ${{scope}}_waits dynamos load /update/loop --scope $scope
                used
                says ${{scope}}_on shown
                says ${{scope}}_status dynamos status
                # Somebody is in them all the time, but nobody for long.
                rm -f /run/stop
                (while [ ! -e /run/stop ]; do shown >/dev/null; done) &
                says ${{scope}}_revert dynamos revert dynamos_loop
                says ${{scope}}_off shown
                says ${{scope}}_enable dynamos enable dynamos_loop --scope $scope
                says ${{scope}}_again shown
                says ${{scope}}_both dynamos status
                dynamos revert dynamos_loop
                touch /run/stop
                wait
                losetup -d /dev/loop0
                rmmod loop
                # And the same module, once more.
                dynamos enable dynamos_loop --scope $scope
                used
                says ${{scope}}_last shown
                losetup -d /dev/loop0
                rmmod loop
                says ${{scope}}_gone state
                dynamos unload dynamos_loop
            done
            rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    for scope in ["task", "object"] {
        for (name, says) in [
            ("waits", "status 0\ndynamos_loop is loaded, and is waiting for module loop"),
            ("on", "status 0\n512 by V2\n0 by V2"),
            ("status", "dynamos_loop for loop: active, enabled\n"),
            ("status", &format!("  scope: {scope}")),
            ("revert", "status 0\ndynamos_loop is reverted"),
            ("off", "status 0\n512\n0"),
            ("enable", "status 0\ndynamos_loop is active"),
            ("again", "status 0\n512 by V2\n0 by V2"),
            ("both", &format!("  scope: {scope}")),
            ("last", "status 0\n512 by V2\n0 by V2"),
            ("gone", "status 0\nwaiting for module loop"),
        ] {
            let said = &outcome.results[&format!("{scope}_{name}")];
            assert!(said.contains(says), "{scope}_{name} should say {says:?}: {said}");
        }
    }
}

#[test]
fn moves_singly_in_a_module_that_comes_on_6_1() {
    moves_singly_in_a_module_that_comes("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn moves_singly_in_a_module_that_comes_on_6_12() {
    moves_singly_in_a_module_that_comes("6.12.107", "6.12.107+deb12-amd64");
}

/// A task that dies in a call stays counted. Its object goes back all the same, and so does its module, which is updated when
/// it comes again.
fn a_count_left_behind_keeps_nothing(version: &str, release: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let (patch, update) = (scratch.path().join("loop.patch"), scratch.path().join("loop"));
    let dies = |text: &str| {
        let begins = "\tstruct loop_device *lo;\n\tint id, ret;\n";
        let (before, after) = text.split_once("static int loop_control_get_free(").unwrap();
        let (name, body) = after.split_once('{').unwrap();
        let death =
            "\n\tif (!strcmp(current->comm, \"busybox-dies\"))\n\t\t*(volatile int *)NULL = 1;\n";
        let body = body.replacen(begins, &format!("{begins}{death}"), 1);
        assert!(body.contains(death));
        format!("{before}static int loop_control_get_free({name}{{{body}")
    };
    edit(version, "drivers/block/loop.c", dies, &patch);
    let works_on = ("loop_control_ioctl".to_owned(), "file".to_owned());
    let (v1, v2) = (Spec::Deb(version.into()), Spec::Patch(patch));
    let objects = BTreeMap::from([works_on]);
    let plan = request(Request { objects, ..asked(v1, v2, &update) }).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let outcome = machine(release, &[&update])
        .offer("loop")
        .expect_oops("NULL pointer dereference")
        .panic_on_oops(false)
        .script(format!(
            r#"{SAYS}{SHELL}
            cp /bin/busybox /run/busybox-dies
            dynamos load /update/loop --scope object
            load-module loop
            says dies /run/busybox-dies losetup -f
            says active dynamos status
            says lives losetup -f
            says goes rmmod loop
            says gone state
            load-module loop
            says again dynamos status
            says lives_again losetup -f
            says dies_again /run/busybox-dies losetup -f
            says back dynamos revert dynamos_loop --timeout 120
            says lives_in_0 losetup -f
            says enable dynamos enable dynamos_loop --scope object --timeout 120
            says dies_enabled /run/busybox-dies losetup -f
            says unload dynamos unload dynamos_loop --revert
            says goes_again rmmod loop
            rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("active", "dynamos_loop for loop: active, enabled\n  scope: object"),
            ("lives", "status 0\n/dev/loop0"),
            ("goes", "status 0"),
            ("gone", "status 0\nwaiting for module loop"),
            ("again", "dynamos_loop for loop: active, enabled\n  scope: object"),
            ("lives_again", "status 0\n/dev/loop0"),
            ("back", "status 0\ndynamos_loop is reverted"),
            ("lives_in_0", "status 0\n/dev/loop0"),
            ("enable", "status 0\ndynamos_loop is active"),
            ("unload", "status 0\n"),
            ("goes_again", "status 0"),
        ],
    );
    for dies in ["dies", "dies_again", "dies_enabled"] {
        assert!(!outcome.results[dies].contains("status 0"), "{}", outcome.results[dies]);
    }
}

#[test]
fn a_count_left_behind_keeps_nothing_on_6_1() {
    a_count_left_behind_keeps_nothing("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn a_count_left_behind_keeps_nothing_on_6_12() {
    a_count_left_behind_keeps_nothing("6.12.107", "6.12.107+deb12-amd64");
}
