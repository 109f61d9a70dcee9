//! Boots the stock kernels: what everything else in the VM stands on.

mod common;

use common::image;
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
        .script("echo I hang; sleep 1000")
        .timeout(Duration::from_secs(15))
        .run()
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("I hang"));

    let error = Vm::new(&image(KERNELS[0])).script("reboot -f").run().unwrap_err();
    assert!(matches!(error, Error::Vanished { .. }), "{error}");
}
