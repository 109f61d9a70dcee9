//! Where a kernel's files are.

use std::path::{Path, PathBuf};

/// A bootable kernel with its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The compressed kernel QEMU starts.
    pub vmlinuz: PathBuf,
    /// `lib/modules/RELEASE`: the directory that holds `kernel/` and `modules.builtin`.
    pub modules_dir: PathBuf,
    /// What `uname -r` says in it.
    pub release: String,
}

impl Image {
    /// The kernel `release` in the tree of an unpacked Debian image package.
    #[must_use]
    pub fn in_root(root: &Path, release: &str) -> Image {
        Image {
            vmlinuz: root.join("boot").join(format!("vmlinuz-{release}")),
            modules_dir: root.join("lib/modules").join(release),
            release: release.to_owned(),
        }
    }
}
