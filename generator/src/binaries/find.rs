//! Which built files a side has, and which belong together.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kernel_trees::{Cache, Manifest};

use crate::input::Spec;

/// Files of one side, by the name they have on both.
pub type Files = BTreeMap<String, PathBuf>;

/// A directory with objects of programs that run while the kernel is built.
const HOST: [&str; 3] = ["scripts", "tools", "usr"];

/// Whether a file is ELF, whatever its name.
pub fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

/// Whether a directory is to be compared by what was built in it, and not as sources.
pub fn is_built(directory: &Path) -> bool {
    let signs = ["vmlinux", "vmlinux.o", "vmlinux.a", "built-in.a", "modules.order"];
    let sources = kernel_trees::check_kernel_tree(directory).is_ok();
    signs.iter().any(|sign| directory.join(sign).is_file())
        || !sources && below(directory).is_ok_and(|files| !files.is_empty())
}

/// All files of a side.
pub fn files(spec: &Spec, cache: Option<&Path>, which: &str) -> Result<Files> {
    match spec {
        // A single file has no name in common with the other side.
        Spec::Binary(path) => Ok([(String::new(), path.clone())].into()),
        Spec::Built(path) => below(path),
        Spec::DebDbg(version) => {
            let (version, wanted) = package(version);
            let manifest = Manifest::builtin()?;
            let root = Cache::open(cache)?
                .debug(manifest.find(version)?)
                .with_context(|| format!("{which}: debug package of {version}"))?;
            let mut files = below(&root.join("usr/lib/debug"))?;
            if let Some(wanted) = wanted {
                files.retain(|name, _| name.rsplit('/').next() == Some(wanted));
                if files.is_empty() {
                    bail!("{which}: the debug package of {version} has no {wanted}");
                }
            }
            Ok(files)
        }
        other => bail!(
            "{which} is a {}, and the other side is built files: give sources twice or built files twice",
            other.label()
        ),
    }
}

/// The version of `VERSION` or `VERSION/FILE`, and the file if only one is wanted.
fn package(named: &str) -> (&str, Option<&str>) {
    named.split_once('/').map_or((named, None), |(version, file)| (version, Some(file)))
}

/// The objects of a directory; if there are none, its modules and images.
fn below(root: &Path) -> Result<Files> {
    let (mut objects, mut linked) = (Files::new(), Files::new());
    let mut queue = vec![PathBuf::new()];
    while let Some(directory) = queue.pop() {
        let path = root.join(&directory);
        let entries =
            fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", path.display()))?;
            let kind = entry.file_type()?;
            let relative = directory.join(entry.file_name());
            let host = HOST.iter().any(|host| relative == Path::new(host));
            if kind.is_dir() && !host {
                queue.push(relative);
            } else if kind.is_file() {
                let Some(name) = relative.to_str() else { continue };
                match class(name) {
                    Some(Class::Object) => objects.insert(name.to_owned(), entry.path()),
                    Some(Class::Linked) => linked.insert(common_name(name), entry.path()),
                    None => None,
                };
            }
        }
    }
    Ok(if objects.is_empty() { linked } else { objects })
}

enum Class {
    Object,
    Linked,
}

fn class(path: &str) -> Option<Class> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if name == "vmlinux" || name.starts_with("vmlinux-") {
        return Some(Class::Linked);
    }
    if name.starts_with('.') || name.starts_with("vmlinux.") {
        return None;
    }
    if name.ends_with(".ko") || name.ends_with(".ko.debug") {
        return Some(Class::Linked);
    }
    (name.ends_with(".o") && !name.ends_with(".mod.o")).then_some(Class::Object)
}

/// A path without the kernel's release in it: `vmlinux`, `kernel/fs/ext4/ext4.ko`.
fn common_name(path: &str) -> String {
    let path = path.trim_end_matches(".debug");
    let name = path.rsplit('/').next().unwrap_or(path);
    if name.starts_with("vmlinux-") {
        return "vmlinux".to_owned();
    }
    let below =
        path.strip_prefix("lib/modules/").or_else(|| path.split_once("/lib/modules/").map(|p| p.1));
    match below.and_then(|rest| rest.split_once('/')) {
        Some((_release, rest)) => rest.to_owned(),
        None => path.to_owned(),
    }
}

/// Whether Kbuild made the object of other objects (`ld -r`), which are compared themselves.
pub fn is_composite(object: &Path) -> bool {
    let Some(name) = object.file_name().and_then(|n| n.to_str()) else { return false };
    let Ok(file) = File::open(object.with_file_name(format!(".{name}.cmd"))) else { return false };
    let mut line = String::new();
    // The first line is the command.
    let read = BufReader::new(file).take(1 << 16).read_line(&mut line);
    read.is_ok() && line.contains(" -r -o ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_package_is_named_by_version_and_perhaps_file() {
        let named = |text: &str| match Spec::parse(text, None).unwrap() {
            Spec::DebDbg(named) => named,
            other => panic!("{text} is {other:?}"),
        };
        let (whole, one) = (named("deb-dbg:6.12.107-1"), named("deb-dbg:6.12.107-1/ext4.ko"));
        assert_eq!(package(&whole), ("6.12.107-1", None));
        assert_eq!(package(&one), ("6.12.107-1", Some("ext4.ko")));
        let spec = Spec::DebDbg(one);
        assert!(spec.is_built() && spec.label() == "deb-dbg:6.12.107-1/ext4.ko");
        // A version that is not known is said before anything is fetched.
        let cache = tempfile::tempdir().unwrap();
        let error = files(&Spec::DebDbg("5.10.1".into()), Some(cache.path()), "V1").unwrap_err();
        assert!(error.to_string().contains("5.10.1"), "{error:#}");
    }

    #[test]
    fn names_lose_the_release() {
        assert_eq!(common_name("boot/vmlinux-6.12.107+deb12-amd64"), "vmlinux");
        assert_eq!(
            common_name("lib/modules/6.1.0-55-amd64/kernel/fs/ext4/ext4.ko"),
            "kernel/fs/ext4/ext4.ko"
        );
        assert_eq!(common_name("usr/lib/debug/lib/modules/6.1/kernel/a.ko.debug"), "kernel/a.ko");
        assert_eq!(common_name("a/b.ko"), "a/b.ko");
    }

    #[test]
    fn what_is_linked_from_objects_is_no_object() {
        let object = |path| matches!(class(path), Some(Class::Object));
        assert!(object("fs/ext4/mballoc.o"));
        assert!(!object("fs/ext4/ext4.mod.o") && !object("vmlinux.o") && !object(".tmp_x.o"));
        assert!(matches!(class("fs/ext4/ext4.ko"), Some(Class::Linked)));
    }
}
