//! The `newc` archive format of an initramfs (`Documentation/driver-api/early-userspace/
//! buffer-format.rst` in the kernel).
//!
//! Own writer, because the guest needs `/dev/console` before anything runs in it, and a device
//! node in an archive needs no root on the host.

/// Type bits of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A directory. Parents come first; the kernel does not create them.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// A regular file with permission bits `mode`.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, REGULAR | (mode & 0o7777), (0, 0), content);
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// A character device.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// The archive, ended as the kernel wants it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries, // inode: distinct, or the kernel takes files for hard links
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // mtime
            content.len() as u32,
            0, // major and minor of the device that holds the file
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // checksum: only in the "070702" format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_reads_what_we_write() {
        let mut archive = Archive::default();
        archive.directory("dir");
        archive.file("dir/odd length", 0o644, b"abc");
        archive.file("empty", 0o755, b"");
        archive.symlink("link", "dir/odd length");
        archive.character_device("console", 5, 1);
        let bytes = archive.finish();

        let mut cpio = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio is installed");
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());

        let listing = String::from_utf8(output.stdout).unwrap();
        let seen: Vec<(&str, &str)> =
            listing.lines().map(|l| (&l[..10], l.split_once("1970 ").unwrap().1)).collect();
        assert_eq!(
            seen,
            [
                ("drwxr-xr-x", "dir"),
                ("-rw-r--r--", "dir/odd length"),
                ("-rwxr-xr-x", "empty"),
                ("lrwxrwxrwx", "link -> dir/odd length"),
                ("crw-------", "console"),
            ]
        );
    }
}
