//! Static keys and static calls that a module owns whose function is replaced: they reach the clone, at whatever moment
//! they are switched.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use crate::common::{SAYS, diff, edit, empty_directory, machine};

/// A tracepoint of ext4 is a key and a call of ext4's. V2 tells it another number than V1 does, so what is traced shows
/// which edition came by.
fn keys_of_a_module_reach_the_clone(version: &str, release: &str) {
    let directory = empty_directory("keys", version);
    let (patch, update) = (directory.join("fsync.patch"), directory.join("fsync"));
    let call = "trace_ext4_sync_file_enter(file, datasync);";
    let other = "trace_ext4_sync_file_enter(file, datasync | 2);";
    edit(version, "fs/ext4/fsync.c", |text| text.replacen(call, other, 1), &patch);
    let plan = diff(&format!("deb:{version}"), patch.to_str().unwrap(), &update).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let outcome = machine(release, &[&update])
        .offer("ext4")
        .disk(64 << 20)
        .script(format!(
            r#"{SAYS}
            tracing=/sys/kernel/tracing
            [ -e $tracing/events ] || mount -t tracefs tracefs $tracing
            key() {{ echo $1 >$tracing/events/ext4/ext4_sync_file_enter/enable; }}
            # What is traced of a file that is written out.
            seen() {{
                echo >$tracing/trace
                dd if=/dev/zero of=/mnt/file bs=1k count=1 conv=fsync 2>/dev/null
                sed -n 's/.*ext4_sync_file_enter: .*datasync \([0-9]\).*/\1/p' $tracing/trace
            }}
            mounted() {{ load-module ext4; mount -t ext4 /dev/vda /mnt; }}
            gone() {{ umount /mnt; rmmod ext4; }}
            mkdir -p /mnt
            mounted
            says stock_off seen
            key 1
            says stock_on seen
            # Switched on before, while it is active, and while it is not.
            dynamos load /update/fsync
            says loaded_on seen
            key 0
            says loaded_off seen
            key 1
            says loaded_again seen
            dynamos revert dynamos_fsync
            says reverted_on seen
            key 0
            dynamos enable dynamos_fsync
            says enabled_off seen
            key 1
            says enabled_on seen
            dynamos unload dynamos_fsync --revert
            says unloaded_on seen
            key 0
            gone
            # And of a module that comes and goes.
            dynamos load /update/fsync
            for round in 1 2; do
                mounted
                says "late_off_$round" seen
                key 1
                says "late_on_$round" seen
                key 0
                gone
            done
            dynamos unload dynamos_fsync
            says end rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    for (name, seen) in [
        ("stock_off", ""),
        ("stock_on", "0"),
        ("loaded_on", "2"),
        ("loaded_off", ""),
        ("loaded_again", "2"),
        ("reverted_on", "0"),
        ("enabled_off", ""),
        ("enabled_on", "2"),
        ("unloaded_on", "0"),
        ("late_off_1", ""),
        ("late_on_1", "2"),
        ("late_off_2", ""),
        ("late_on_2", "2"),
        ("end", ""),
    ] {
        assert_eq!(
            outcome.results[name].trim_end(),
            format!("status 0\n{seen}").trim_end(),
            "{name}"
        );
    }
}

#[test]
fn keys_of_a_module_reach_the_clone_on_6_1() {
    keys_of_a_module_reach_the_clone("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn keys_of_a_module_reach_the_clone_on_6_12() {
    keys_of_a_module_reach_the_clone("6.12.107", "6.12.107+deb12-amd64");
}
