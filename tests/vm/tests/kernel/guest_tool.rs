//! The guest's own tool works in the guest.

use crate::common::image;
use dynamos_vm::{Vm, static_binary};

#[test]
fn kernel_bytes_are_read_and_files_verified() {
    let tool = static_binary("guest-tool", "guest-tool").unwrap();
    for release in ["6.1.0-55-amd64", "6.12.107+deb12-amd64"] {
        let outcome = Vm::new(&image(release))
            .module("ext4")
            .disk(64 << 20)
            .file(&tool, "/bin/guest-tool")
            .script(
                "mount -t ext4 /dev/vda /mnt
                guest-tool kbytes vfs_read 16 | result core
                guest-tool kbytes ext4_sync_file 16 --module ext4 | result module
                guest-tool write-load /mnt/load --stop-file /run/stop --ready-file /run/ready &
                while [ ! -e /run/ready ]; do usleep 50000; done
                touch /run/stop
                wait $!
                guest-tool verify /mnt/load | result intact
                for file in /mnt/load/load-0-*; do printf x >>$file; break; done
                if guest-tool verify /mnt/load; then result spoilt unseen; else result spoilt seen; fi",
            )
            .run()
            .unwrap();
        // Both functions begin with the traced-call site, which is a 5-byte NOP at rest. Where
        // the kernel is built for IBT an ENDBR stands before it, or the NOP the kernel puts over
        // one that nothing jumps to (`apply_seal_endbr`).
        for place in ["core", "module"] {
            let bytes = outcome.results[place].as_str();
            let after = ["f30f1efa", "660f1f00"].iter().find_map(|e| bytes.strip_prefix(e));
            assert!(after.unwrap_or(bytes).starts_with("0f1f440000"), "{release} {place}: {bytes}");
        }
        assert!(outcome.results["intact"].ends_with(" files intact"));
        assert_eq!(outcome.results["spoilt"], "seen");
    }
}
