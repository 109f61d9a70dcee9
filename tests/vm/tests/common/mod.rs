//! Where the tests' kernels come from.

use dynamos_vm::Image;
use std::path::Path;

/// The stock kernel `release`, from a directory of unpacked image packages.
pub fn image(release: &str) -> Image {
    let Some(root) = std::env::var_os("DYNAMOS_IMAGES") else {
        panic!("DYNAMOS_IMAGES must name a directory of unpacked image packages");
    };
    std::fs::read_dir(Path::new(&root))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| Image::in_root(&entry.path(), release))
        .find(|image| image.vmlinuz.exists())
        .unwrap_or_else(|| panic!("no {release} in {}", root.display()))
}
