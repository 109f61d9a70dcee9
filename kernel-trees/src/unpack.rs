//! From packages to directories: the pristine source, the image, usable headers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::error::{Error, IoContext, Result};
use crate::manifest::{Kernel, Package, Part};
use crate::run;
use crate::tree::check_kernel_tree;

/// An unpacked image package.
#[derive(Debug, Clone)]
pub struct Image {
    /// The root of the unpacked package.
    pub dir: PathBuf,
    /// The bootable kernel.
    pub vmlinuz: PathBuf,
    /// The configuration the kernel was built with.
    pub config: PathBuf,
    /// Addresses and names of the kernel's symbols.
    pub system_map: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// The kernel's release.
    pub release: String,
}

impl Cache {
    /// The pristine source tree. Never write into it: prepared trees are linked to it.
    pub fn source(&self, kernel: &Kernel) -> Result<PathBuf> {
        let key = key(kernel, Part::Source)?;
        self.entry("source", &key, |partial| {
            for deb in self.fetch(kernel, Part::Source)? {
                let name = file_name(&deb);
                self.progress().phase(&format!("unpacking {name}"));
                fs::create_dir_all(partial).at("create", partial)?;
                let mut from_deb = Command::new("tar");
                from_deb.args(["-xO", "--wildcards", "./usr/src/linux-source-*.tar.xz"]);
                let mut to_dir = Command::new("tar");
                to_dir.args(["-xJ", "--strip-components=1", "--no-same-owner", "-C"]).arg(partial);
                run::pipeline(vec![deb_contents(&deb), from_deb, to_dir], &name, partial)?;
            }
            check_kernel_tree(partial)?;
            // Now, while the files are in memory.
            self.make_index(&key, partial).map(drop)
        })
    }

    /// The unpacked image: `vmlinuz`, configuration, modules.
    pub fn image(&self, kernel: &Kernel) -> Result<Image> {
        let dir = self.entry("image", &key(kernel, Part::Image)?, |partial| {
            self.unpack_part(kernel, Part::Image, partial)
        })?;
        let boot = |name: &str| dir.join("boot").join(format!("{name}-{}", kernel.release));
        let image = Image {
            vmlinuz: boot("vmlinuz"),
            config: boot("config"),
            system_map: boot("System.map"),
            modules: dir.join("lib/modules").join(&kernel.release),
            release: kernel.release.clone(),
            dir: dir.clone(),
        };
        for path in [&image.vmlinuz, &image.config, &image.system_map, &image.modules] {
            fs::metadata(path).at("find", path)?;
        }
        Ok(image)
    }

    /// The debug package's root; `usr/lib/debug` in it has `vmlinux` and the modules.
    pub fn debug(&self, kernel: &Kernel) -> Result<PathBuf> {
        self.entry("debug", &key(kernel, Part::Debug)?, |partial| {
            self.unpack_part(kernel, Part::Debug, partial)
        })
    }

    /// Where [`Cache::debug`] has it, or puts it once it is asked for.
    pub fn debug_place(&self, kernel: &Kernel) -> Result<PathBuf> {
        Ok(self.root().join("debug").join(key(kernel, Part::Debug)?))
    }

    /// A directory for `make -C DIR M=…`, without anything installed in `/usr/src`.
    pub fn headers(&self, kernel: &Kernel) -> Result<PathBuf> {
        let own =
            |root: &Path| root.join("usr/src").join(format!("linux-headers-{}", kernel.release));
        let root = self.entry("headers", &key(kernel, Part::Headers)?, |partial| {
            self.unpack_part(kernel, Part::Headers, partial)?;
            relocate_headers(&own(partial).join("Makefile"))
        })?;
        Ok(own(&root))
    }

    fn unpack_part(&self, kernel: &Kernel, part: Part, to: &Path) -> Result<()> {
        for deb in self.fetch(kernel, part)? {
            let name = file_name(&deb);
            self.progress().phase(&format!("unpacking {name}"));
            fs::create_dir_all(to).at("create", to)?;
            let mut tar = Command::new("tar");
            tar.args(["-x", "--no-same-owner", "-C"]).arg(to);
            run::pipeline(vec![deb_contents(&deb), tar], &name, to)?;
        }
        Ok(())
    }
}

/// Names an entry by its contents: the version, for people, and the packages' hashes.
pub(crate) fn key(kernel: &Kernel, part: Part) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for Package { sha256, .. } in kernel.packages(part)? {
        hasher.update(sha256.as_bytes());
    }
    let hash = hasher.finalize().to_hex();
    Ok(format!("{}-{}", kernel.version, hash.get(..12).unwrap_or_default()))
}

fn deb_contents(deb: &Path) -> Command {
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(deb);
    command
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Debian's headers have a one-line Makefile that includes the common headers' by an
/// absolute path. Make it look beside itself; all the other links are relative.
fn relocate_headers(makefile: &Path) -> Result<()> {
    let text = fs::read_to_string(makefile).at("read", makefile)?;
    let relocated = relocated_makefile(&text).ok_or_else(|| Error::Kbuild {
        what: makefile.display().to_string(),
        why: format!("expected `include /usr/src/linux-headers-…/Makefile`, found {text:?}"),
    })?;
    fs::write(makefile, relocated).at("write", makefile)
}

fn relocated_makefile(text: &str) -> Option<String> {
    let mut found = false;
    let mut out = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("include /usr/src/") {
            found = true;
            out.push_str("include $(dir $(realpath $(lastword $(MAKEFILE_LIST))))../");
            out.push_str(rest);
        } else if line.contains("/usr/src/") {
            return None;
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_makefile_is_relocated() {
        let out = relocated_makefile("include /usr/src/linux-headers-6.1.0-55-common/Makefile\n");
        assert_eq!(
            out.unwrap(),
            "include $(dir $(realpath $(lastword $(MAKEFILE_LIST))))../linux-headers-6.1.0-55-common/Makefile\n"
        );
        assert_eq!(relocated_makefile("x := /usr/src/other\ninclude /usr/src/a/Makefile\n"), None);
        assert_eq!(relocated_makefile("all:\n"), None);
    }
}
