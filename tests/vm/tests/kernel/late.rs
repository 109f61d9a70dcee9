//! Updates of modules that are loaded later, on real kernels: in effect before their `init` runs, and gone with them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::time::Duration;

use crate::common::{SAYS, check, compared_byte, damaged, diff, edit, machine, named, record_at};

/// `disks`: how many disks the module has made that have the new name, and the old one.
const SHELL: &str = r#"
disks() { ls /sys/block | sed -n 's/[0-9]*$//p' | grep -E 'late|loop' | uniq -c; }
state() { cat /sys/kernel/dynamos/dynamos_loop/state; }
"#;

/// The module makes its disks while it begins: so their names tell which edition ran then.
fn follows_its_module(version: &str, release: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let patch = scratch.path().join("loop.patch");
    let rename = |text: &str| text.replacen(r#""loop%d", i)"#, r#""late%d", i)"#, 1);
    edit(version, "drivers/block/loop.c", rename, &patch);
    let update = scratch.path().join("loop");
    let plan = diff(&format!("deb:{version}"), patch.to_str().unwrap(), &update).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let unfit = unfit(&update, scratch.path());

    let outcome = machine(release, &[&update])
        .offer("loop")
        .file(&unfit, "/unfit.ko")
        .script(format!(
            r#"{SAYS}{SHELL}
            says load dynamos load /update/loop
            says status dynamos status
            # It is updated, and cannot begin: more partitions than disks may have.
            says fails load-module loop max_part=1000
            says failed_state state
            dmesg | grep 'dynamos_loop: ' | result failed_log
            load-module loop
            says first disks
            says active dynamos status
            rmmod loop
            says gone state
            load-module loop
            says second disks

            # Reverted by hand it stays so; switched on while the module is there, it holds it.
            says revert dynamos revert dynamos_loop
            rmmod loop
            says reverted state
            load-module loop
            says old disks
            says enable dynamos enable dynamos_loop
            says held rmmod loop
            # By force it goes all the same, and the update waits for it.
            says forced rmmod -f loop
            says forced_state state
            load-module loop
            says forced_disks disks
            dynamos revert dynamos_loop
            rmmod loop
            says again dynamos enable dynamos_loop
            load-module loop
            says third disks
            rmmod loop
            says policy dynamos policy dynamos_loop --default 0
            says unload dynamos unload dynamos_loop

            # One that does not fit leaves the module as it is.
            says unfit dynamos load /unfit.ko
            load-module loop
            says unfit_disks disks
            says unfit_state state
            says unfit_why cat /sys/kernel/dynamos/refusals
            rmmod loop
            says unfit_gone state
            says unfit_revert dynamos revert dynamos_loop
            load-module loop
            says unfit_reverted state
            dynamos unload dynamos_loop

            # One that never had to wait for it.
            rmmod loop
            load-module loop
            says there dynamos load /update/loop
            says there_disks disks
            says there_forced rmmod -f loop
            says there_state state
            load-module loop
            says there_again disks
            says there_revert dynamos revert dynamos_loop
            dynamos unload dynamos_loop
            rmmod dynamos
            rmmod loop
            load-module loop
            says last disks
            grep -c dynamos /proc/modules | result left || true"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    for (name, says) in [
        ("load", "status 0\ndynamos_loop is loaded, and is waiting for module loop"),
        ("status", "dynamos_loop for loop: waiting for module loop, not enabled"),
        ("fails", "nvalid argument"),
        ("failed_state", "status 0\nwaiting for module loop"),
        ("failed_log", "dynamos_loop: active"),
        ("failed_log", "dynamos_loop: reverted"),
        ("first", "8 late"),
        ("active", "dynamos_loop for loop: active, enabled"),
        ("gone", "status 0\nwaiting for module loop"),
        ("second", "8 late"),
        ("revert", "status 0\ndynamos_loop is reverted"),
        ("reverted", "status 0\nreverted"),
        ("old", "8 loop"),
        ("enable", "status 0\ndynamos_loop is active"),
        ("held", "status 1\n"),
        ("forced", "status 0"),
        ("forced_state", "status 0\nwaiting for module loop"),
        ("forced_disks", "8 late"),
        ("again", "status 0\ndynamos_loop is waiting for module loop"),
        ("third", "8 late"),
        ("policy", "status 3\n"),
        ("unload", "status 0\n"),
        ("unfit", "status 0\n"),
        ("unfit_disks", "8 loop"),
        ("unfit_state", "waiting for module loop (the one that is loaded does not fit)"),
        ("unfit_why", "`loop_add` of `loop` is not the one compared"),
        ("unfit_gone", "status 0\nwaiting for module loop"),
        ("unfit_reverted", "status 0\nreverted"),
        ("there_disks", "8 loop"),
        ("there_forced", "status 0"),
        ("there_state", "status 0\nwaiting for module loop"),
        ("there_again", "8 late"),
        ("there_revert", "status 0\ndynamos_loop is reverted"),
        ("last", "8 loop"),
        ("left", "0"),
    ] {
        let said = &outcome.results[name];
        assert!(said.contains(says), "{name} should say {says:?}: {said}");
    }
    assert_eq!(outcome.results["unfit_gone"], "status 0\nwaiting for module loop");
    assert_eq!(outcome.results["there"], "status 0\ndynamos_loop is loaded");
}

/// The update with a byte that no running kernel has.
fn unfit(update: &Path, into: &Path) -> std::path::PathBuf {
    let record = std::fs::read(update.join("source/record.bin")).unwrap();
    damaged(update, into, "unfit", |module| {
        let at = record_at(module, &record) + compared_byte(&record);
        module[at] ^= 0xff;
    })
}

#[test]
fn follows_its_module_on_6_1() {
    follows_its_module("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn follows_its_module_on_6_12() {
    follows_its_module("6.12.107", "6.12.107+deb12-amd64");
}

/// One that came with its module is replaced, or lain over, by one that is loaded later and holds the module.
fn the_next_one_comes_while_the_module_is_there(version: &str, release: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let made = |name: &str, prefix: &str| {
        let (patch, update) =
            (scratch.path().join(format!("{name}.patch")), scratch.path().join(name));
        let shown =
            format!("sysfs_emit(buf, \"{prefix}%llu\\n\", (unsigned long long)lo->lo_offset)");
        let change = |text: &str| text.replacen(&shown.replace(prefix, ""), &shown, 1);
        edit(version, "drivers/block/loop.c", change, &patch);
        let plan = named(name, version, &patch, &update);
        assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
        update
    };
    let (first, next) = (made("first", "first "), made("next", "next "));
    let outcome = machine(release, &[&first, &next])
        .offer("loop")
        .script(format!(
            r#"{SAYS}{SHELL}
            dd if=/dev/zero of=/run/file bs=64k count=1 2>/dev/null
            used() {{ load-module loop; losetup -o 512 /dev/loop0 /run/file; }}
            unused() {{ losetup -d /dev/loop0; rmmod loop; }}
            offset() {{ cat /sys/block/loop0/loop/offset; }}
            state() {{ cat /sys/kernel/dynamos/$1/state; }}
            dynamos load /update/first >/dev/null
            used
            says first offset
            says alone dynamos load /update/next
            for how in replace stack; do
                says ${{how}} dynamos load /update/next --$how
                says ${{how}}_next offset
                says ${{how}}_below state first
                losetup -d /dev/loop0
                says ${{how}}_holds rmmod loop
                losetup -o 512 /dev/loop0 /run/file
                says ${{how}}_revert dynamos revert next
                says ${{how}}_left offset
                dynamos unload next
                unused
                # What was replaced stays so; what was below goes with its module.
                says ${{how}}_waits state first
                dynamos unload first --revert >/dev/null
                dynamos load /update/first >/dev/null
                used
                says ${{how}}_again offset
            done
            # By force it goes in spite of that, the topmost first, and both wait; but only one can come with it.
            dynamos load /update/next --stack >/dev/null
            losetup -d /dev/loop0
            says forced rmmod -f loop
            says forced_first state first
            says forced_next state next
            used
            says both offset
            says both_next state next
            dynamos revert next
            dynamos unload next
            unused
            dynamos unload first --revert
            says gone rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("first", "status 0\nfirst 512"),
            ("alone", "is already replaced by update `first`"),
            ("replace", "status 0\nnext is loaded"),
            ("replace_next", "status 0\nnext 512"),
            ("replace_below", "status 0\nreverted"),
            ("replace_holds", "status 1"),
            ("replace_revert", "status 0"),
            ("replace_left", "status 0\n512"),
            ("replace_waits", "status 0\nreverted"),
            ("replace_again", "status 0\nfirst 512"),
            ("stack", "status 0\nnext is loaded"),
            ("stack_next", "status 0\nnext 512"),
            ("stack_below", "status 0\nactive"),
            ("stack_holds", "status 1"),
            ("stack_revert", "status 0"),
            ("stack_left", "status 0\nfirst 512"),
            ("stack_waits", "status 0\nwaiting for module loop"),
            ("stack_again", "status 0\nfirst 512"),
            ("forced", "status 0"),
            ("forced_first", "status 0\nwaiting for module loop"),
            ("forced_next", "status 0\nwaiting for module loop"),
            ("both", "status 0\nfirst 512"),
            ("both_next", "waiting for module loop"),
            ("gone", "status 0"),
        ],
    );
}

#[test]
fn the_next_one_comes_while_the_module_is_there_on_6_1() {
    the_next_one_comes_while_the_module_is_there("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn the_next_one_comes_while_the_module_is_there_on_6_12() {
    the_next_one_comes_while_the_module_is_there("6.12.107", "6.12.107+deb12-amd64");
}

/// A timer of the update's, which never ends, so that its code must stay.
fn ticks(text: &str) -> String {
    const TIMER: &str = "#include <linux/timer.h>\n\
        static void dynamos_tick(struct timer_list *timer);\n\
        static DEFINE_TIMER(dynamos_timer, dynamos_tick);\n\
        static void dynamos_tick(struct timer_list *timer)\n\
        {\n\
        \tmod_timer(&dynamos_timer, jiffies + 1);\n\
        }\n\n";
    let begins = "static int loop_add(int i)\n{\n";
    assert_eq!(text.matches(begins).count(), 1);
    let begun = format!("{TIMER}{begins}\tmod_timer(&dynamos_timer, jiffies + 1);\n");
    text.replacen(begins, &begun, 1).replacen(r#""loop%d", i)"#, r#""late%d", i)"#, 1)
}

/// What must stay goes on running when the module has gone, or holds it once it is reverted.
fn stays_when_its_module_goes(version: &str, release: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let patch = scratch.path().join("loop.patch");
    edit(version, "drivers/block/loop.c", ticks, &patch);
    let [gone, held] = ["gone", "held"].map(|name| {
        let update = scratch.path().join(name);
        let plan = named(name, version, &patch, &update);
        assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
        update
    });
    let outcome = machine(release, &[&gone, &held])
        .offer("loop")
        .script(format!(
            r#"{SAYS}{SHELL}
            says gone_waits dynamos load /update/gone
            load-module loop
            says gone_disks disks
            says gone_rmmod rmmod loop
            says gone_state cat /sys/kernel/dynamos/gone/state
            says gone_again dynamos enable gone
            load-module loop
            says gone_after disks
            rmmod loop

            says held_waits dynamos load /update/held
            load-module loop
            says held_disks disks
            says held_revert dynamos revert held
            says held_rmmod rmmod loop
            says held_forced rmmod -f loop
            load-module loop
            says held_after disks
            says held_again dynamos enable held
            rmmod loop
            sleep 2
            says held_state cat /sys/kernel/dynamos/held/state"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("gone_waits", "is waiting for module loop"),
            ("gone_disks", "8 late"),
            ("gone_rmmod", "status 0"),
            ("gone_state", "status 0\nreverted"),
            ("gone_again", "must stay mapped"),
            ("gone_after", "8 loop"),
            ("held_waits", "is waiting for module loop"),
            ("held_disks", "8 late"),
            ("held_revert", "status 0\nheld is reverted"),
            ("held_rmmod", "status 1"),
            ("held_forced", "status 0"),
            ("held_after", "8 loop"),
            ("held_again", "must stay mapped"),
            ("held_state", "status 0\nreverted"),
        ],
    );
}

#[test]
fn stays_when_its_module_goes_on_6_1() {
    stays_when_its_module_goes("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn stays_when_its_module_goes_on_6_12() {
    stays_when_its_module_goes("6.12.107", "6.12.107+deb12-amd64");
}

/// An update of two modules waits for both, whichever comes first.
fn waits_for_both(version: &str, release: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let one = |file: &str, old: &str, new: &str| {
        let patch = scratch.path().join("one.patch");
        edit(version, file, |text| text.replacen(old, new, 1), &patch);
        std::fs::read_to_string(patch).unwrap()
    };
    let loops = one("drivers/block/loop.c", r#""loop%d", i)"#, r#""late%d", i)"#);
    let rams = one("drivers/block/brd.c", r#""ram%d", i)"#, r#""rom%d", i)"#);
    let (patch, update) = (scratch.path().join("both.patch"), scratch.path().join("both"));
    std::fs::write(&patch, loops + &rams).unwrap();
    let plan = named("dynamos_both", version, &patch, &update);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let outcome = machine(release, &[&update])
        .offer("loop")
        .offer("brd")
        .script(format!(
            r#"{SAYS}
            disks() {{ ls /sys/block | sed -n 's/[0-9]*$//p' | grep -E 'late|loop|ram|rom' | uniq -c; }}
            state() {{ cat /sys/kernel/dynamos/dynamos_both/state; }}
            says load dynamos load /update/both
            load-module loop
            says one state
            load-module brd
            says both state
            says both_disks disks
            says held rmmod loop
            rmmod brd
            says without state
            rmmod loop
            load-module brd
            says other state
            load-module loop
            says all state
            says all_disks disks
            rmmod loop
            says gone state
            says refusals cat /sys/kernel/dynamos/refusals
            dynamos revert dynamos_both
            dynamos unload dynamos_both
            rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("load", "status 0\ndynamos_both is loaded, and is waiting for module "),
            ("both", "status 0\nactive"),
            ("both_disks", "8 loop\n"),
            ("both_disks", "16 rom"),
            ("held", "status 1"),
            ("all", "status 0\nactive"),
            ("all_disks", "8 late\n"),
            ("all_disks", "16 ram"),
        ],
    );
    // And none that does not fit.
    for (name, module) in [("one", "brd"), ("without", "brd"), ("other", "loop"), ("gone", "loop")]
    {
        let says = format!("status 0\nwaiting for module {module}");
        assert_eq!(outcome.results[name], says, "{name}");
    }
    assert_eq!(outcome.results["refusals"].trim_end(), "status 0");
}

#[test]
fn waits_for_both_on_6_1() {
    waits_for_both("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn waits_for_both_on_6_12() {
    waits_for_both("6.12.107", "6.12.107+deb12-amd64");
}

/// Two functions that change together, in a module that others need and that runs at once.
#[test]
fn ext4_is_updated_before_it_begins() {
    let scratch = tempfile::tempdir().unwrap();
    let update = scratch.path().join("ext4");
    diff("deb:6.1.192-1", "deb:6.1.192-2", &update).unwrap();
    let outcome = machine("6.1.0-55-amd64", &[&update])
        .offer("ext4")
        .disk(64 << 20)
        .script(
            "dynamos load /update/ext4 | result load
            load-module ext4
            dynamos status | result status
            mount -t ext4 /dev/vda /mnt
            for round in 1 2 3; do
                dd if=/dev/zero of=/mnt/file bs=64k count=8 conv=fsync 2>/dev/null
                echo 3 >/proc/sys/vm/drop_caches
            done
            umount /mnt
            rmmod ext4
            dynamos status | result after
            dynamos unload dynamos_mballoc
            rmmod dynamos",
        )
        .run()
        .unwrap();
    let result = |name: &str| outcome.results[name].as_str();
    assert!(result("load").contains("is waiting for module ext4"), "{}", result("load"));
    let status = result("status");
    assert!(status.contains("active, enabled\n  scope: system\n"), "{status}");
    assert!(result("after").contains("waiting for module ext4"), "{}", result("after"));
}
