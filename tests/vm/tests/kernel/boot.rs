//! Boots the stock kernels: what everything else in the VM stands on.

use crate::common::image;
use dynamos_vm::{Error, Vm};
use std::time::Duration;

const KERNELS: [&str; 2] = ["6.1.0-55-amd64", "6.12.107+deb12-amd64"];

#[test]
fn both_kernels_mount_ext4_and_give_results() {
    for release in KERNELS {
        let outcome = Vm::new(&image(release))
            .module("ext4")
            .disk(64 << 20)
            .script(
                r#"mount -t ext4 /dev/vda /mnt
                result release "$(uname -r)"
                printf 'two\nlines \\n' | result text
                df -T /mnt | grep ext4
                echo "BUG: from a script is no report""#,
            )
            .run()
            .unwrap();
        assert_eq!(outcome.results["release"], release);
        assert_eq!(outcome.results["text"], "two\nlines \\n");
        assert_eq!(outcome.status, Some(0));
        assert!(outcome.reports.is_empty());
        println!("{release}: {:?}", outcome.elapsed);
    }
}

#[test]
fn a_failing_script_gives_its_status() {
    let vm = Vm::new(&image(KERNELS[0])).script("echo before; (exit 7); echo after");
    let error = vm.run().unwrap_err();
    assert!(matches!(error, Error::Status { status: 7, expected: 0, .. }), "{error}");
    let console = &error.outcome().unwrap().console;
    assert!(console.contains("before") && !console.contains("after"));
    vm.expect_status(7).run().unwrap();
}

#[test]
fn a_kernel_fault_fails_the_run() {
    let error = Vm::new(&image(KERNELS[1]))
        .script("echo c >/proc/sysrq-trigger; sleep 60")
        .run()
        .unwrap_err();
    let Error::Reported { reports, .. } = &error else { panic!("{error}") };
    assert!(reports.iter().any(|r| r.contains("sysrq_handle_crash")), "{error}");
}

#[test]
fn a_hang_and_a_reboot_are_told_apart() {
    let error = Vm::new(&image(KERNELS[0]))
        .script("sleep 1000")
        .timeout(Duration::from_secs(1))
        .run()
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");

    let error = Vm::new(&image(KERNELS[0])).script("reboot -f").run().unwrap_err();
    assert!(matches!(error, Error::Vanished { .. }), "{error}");
}

/// Debian bug 1154101, fixed in 6.1.192-2: the oops is what the run is for.
#[test]
fn an_expected_oops_is_no_failure_and_a_missing_one_is() {
    let vm = Vm::new(&image(KERNELS[0])).module("ext4").disk(64 << 20);
    let outcome = vm
        .clone()
        .script(
            // fsync writes in the process itself; `sync` would leave it to a kernel thread, and
            // wait for ever for that to come back from its oops. It takes a write that finds its
            // group's buddy pages dropped, which the first drop does not always bring about.
            "mount -t ext4 /dev/vda /mnt
            n=0
            while dd if=/dev/zero of=/mnt/$n bs=4k count=1 conv=fsync 2>/dev/null; do
                echo 3 >/proc/sys/vm/drop_caches
                n=$((n + 1))
                [ $n -lt 100 ]
            done
            result writes $n",
        )
        .expect_oops("ext4_mb_load_buddy_gfp")
        .run()
        .unwrap();
    println!("oops after {} writes", outcome.results["writes"]);
    assert!(outcome.reports[0].title.starts_with("BUG: kernel NULL pointer dereference"));

    let error = vm.script("true").expect_oops("no such thing").run().unwrap_err();
    assert!(matches!(error, Error::NoReport { .. }), "{error}");
}

#[test]
fn counting_instructions_works_too() {
    let outcome = Vm::new(&image(KERNELS[1])).icount(0).script("result done yes").run().unwrap();
    assert_eq!(outcome.results["done"], "yes");
}
