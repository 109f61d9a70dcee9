//! Handlers in a table of operations, written into stock kernels while the table is in use.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use crate::common::{SAYS, edit, machine, named};

/// ext4's table for mounted file systems, a constant: one handler is new, one goes, and one is a function that is there.
/// No line moves: ext4 hands some line numbers on.
fn other_handlers(text: &str) -> String {
    let table = "static const struct super_operations ext4_sops = {";
    let new = "static int ext4_show_name(struct seq_file *seq, struct dentry *root) \
        { seq_puts(seq, \"dynamos\"); return 0; } ";
    let handlers = "\t.show_devname = ext4_show_name, .show_path = ext4_show_options,\n";
    text.replacen("\t.show_options\t= ext4_show_options,\n", handlers, 1).replacen(
        table,
        &format!("{new}{table}"),
        1,
    )
}

/// Whoever reads the options of an ext4 sleeps.
fn slow_options(text: &str) -> String {
    let call = "return _ext4_show_options(seq, root->d_sb, 0);";
    text.replacen(call, &format!("schedule_timeout_interruptible(600 * HZ); {call}"), 1)
}

/// `name`: what stands for the device; `path`: what for the directory; `options`: whether ext4's own are shown.
const SHELL: &str = r#"
seen() { cat /proc/self/mountinfo /proc/mounts >/run/seen; lines /run/seen; }
# Of each line of ext4: the root or device, and all from the type on, without what is the same in both.
lines() { sed -n 's/^[0-9].* 254:[0-9]* \([^ ]*\) .* - ext4/I \1/p; s/^\([^ ]*\) .mnt ext4/M \1/p' "$1" | sort -u; }
mounted() { mount -t ext4 -o nobarrier /dev/vda /mnt; }
state() { cat /sys/kernel/dynamos/dynamos_ops/state; }
"#;

fn handlers_change(version: &str, release: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let made = |name: &str, change: &dyn Fn(&str) -> String| {
        let patch = scratch.path().join(format!("{name}.patch"));
        edit(version, "fs/ext4/super.c", change, &patch);
        let update = scratch.path().join(name);
        (named(&format!("dynamos_{name}"), version, &patch, &update), update)
    };
    let (plan, ops) = made("ops", &other_handlers);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let [table] = plan.slots.as_slice() else { panic!("{:?}", plan.slots) };
    assert!(table.written && table.obstacles.is_empty());
    assert_eq!(table.name, "ext4_sops");
    for reader in ["show_vfsmnt", "show_mountinfo"] {
        assert!(table.readers.iter().any(|found| found.function == reader), "{reader}");
    }
    assert_eq!(plan.scope.unwrap().scope, "system");
    let (plan, slow) = made("slow", &slow_options);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);

    let outcome = machine(release, &[&ops, &slow])
        .offer("ext4")
        .disk(64 << 20)
        .script(format!(
            r#"{SAYS}{SHELL}
            # What the update itself takes from other modules must be there.
            load-module ext4
            rmmod ext4
            says default dynamos load /update/ops --default 0
            # Before its module: nobody has seen the table yet.
            says early dynamos load /update/ops
            load-module ext4
            mounted
            seen | result early
            umount /mnt
            rmmod ext4
            says gone state
            load-module ext4
            mounted
            seen | result again
            dynamos revert dynamos_ops
            seen | result stock
            # ext4_fill_super hands names to functions that may keep them (__ext4_error does): it is here to stay.
            says unload dynamos unload dynamos_ops

            # While it is in use, by whoever reads the table without end.
            while [ ! -e /run/stop ]; do cat /proc/self/mountinfo /proc/mounts; done >/run/read &
            for round in $(seq 5); do
                dynamos enable dynamos_ops
                seen | result "on_$round"
                dynamos revert dynamos_ops
                seen | result "off_$round"
            done
            touch /run/stop
            wait
            lines /run/read | result read

            # What it cannot do, it says.
            says scope dynamos enable dynamos_ops --scope function
            dynamos enable dynamos_ops
            says policy dynamos policy dynamos_ops --default 0
            says force dynamos revert dynamos_ops --on-timeout force-new-calls
            says held rmmod ext4
            dynamos revert dynamos_ops

            # A reader that sleeps in V1's handler is waited for.
            dynamos load /update/slow
            cat /proc/mounts >/dev/null &
            reader=$!
            sleeps_in ext4_show_options $reader
            says blocked dynamos enable dynamos_ops --timeout 1
            kill $reader
            wait
            dynamos revert dynamos_slow
            dynamos unload dynamos_slow
            seen | result between
            says after dynamos enable dynamos_ops
            seen | result after
            dynamos revert dynamos_ops
            seen | result last
            umount /mnt
            rmmod ext4
            says end state"#
        ))
        .timeout(Duration::from_secs(900))
        .run()
        .unwrap();
    let results = &outcome.results;
    let (old, new) = (
        ["I / /dev/vda rw,nobarrier", "M /dev/vda rw,relatime,nobarrier 0 0"],
        ["I ,nobarrier dynamos rw", "M dynamos rw,relatime 0 0"],
    );
    let seen = |name: &str| results[name].trim().lines().map(str::to_owned).collect::<Vec<_>>();
    let rounds = (1..=5).map(|round| (format!("on_{round}"), format!("off_{round}")));
    let (mut on, mut off): (Vec<_>, Vec<_>) = rounds.unzip();
    on.extend(["early", "again", "after"].map(Into::into));
    off.extend(["stock", "between", "last"].map(Into::into));
    on.iter().for_each(|name| assert_eq!(seen(name), new, "{name}"));
    off.iter().for_each(|name| assert_eq!(seen(name), old, "{name}"));
    // Each line is one call of a reader: it found all handlers of one side.
    let mut both = [old, new].concat();
    both.sort_unstable();
    let mut read = seen("read");
    read.sort_unstable();
    assert_eq!(read, both);
    assert_eq!(results["gone"].trim(), "status 0\nwaiting for module ext4");
    assert_eq!(results["end"].trim(), "status 0\nreverted");
    assert!(results["held"].contains("can't unload module 'ext4'"));
    for (name, why) in [
        ("scope", "its scope is `system`"),
        ("default", "all calls share them"),
        ("policy", "all calls share them"),
        ("force", "cannot be forced on new calls only"),
        ("blocked", "sleeps in show_vfsmnt"),
        ("unload", "it must stay mapped once it has run"),
    ] {
        assert!(results[name].starts_with("status 3"), "{name}: {}", results[name]);
        assert!(results[name].contains(why), "{name}: {}", results[name]);
    }
}

#[test]
fn a_table_in_use_has_other_handlers_on_6_12() {
    handlers_change("6.12.107", "6.12.107+deb12-amd64");
}

#[test]
fn a_table_in_use_has_other_handlers_on_6_1() {
    handlers_change("6.1.192-1", "6.1.0-55-amd64");
}
