//! Which object a source file becomes, and what that object is linked into.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::probe::{Directory, normalise};
use super::{Kbuild, get_or_try_init, makefiles};
use crate::error::{Error, Result};

/// What a file of the tree is for the kernel as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// It is compiled into these objects (mostly one).
    Objects {
        /// The objects.
        objects: Vec<ObjectOwner>,
        /// Makefiles elsewhere that name the file and may compile it once more in a way
        /// not followed here (purgatory, the decompressor …).
        also_named_by: Vec<String>,
    },
    /// It is compiled, but not into an ordinary object of `vmlinux` or a module.
    NotOrdinary {
        /// Where it goes instead.
        why: String,
    },
    /// It is not part of this kernel.
    NotBuilt {
        /// The reason.
        why: String,
    },
    /// A header, or a source that others include: ask [`Kbuild::includers`].
    NotAnObjectSource,
    /// It decides *how* the kernel is built (makefiles, Kconfig, generators, unknown kinds):
    /// its effect cannot be told from single objects.
    BuildInput {
        /// What it is.
        why: String,
    },
}

/// One object and what it is linked into.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ObjectOwner {
    /// The object as Kbuild names it: `fs/ext4/mballoc.o`; may hold `..`.
    pub object: String,
    /// Where it goes.
    pub link: Link,
}

/// What an object is linked into.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// `vmlinux`.
    BuiltIn,
    /// A module.
    Module {
        /// The module's name as the kernel knows it: `snd_hda_intel`.
        name: String,
        /// Its path without the suffix: `sound/pci/hda/snd-hda-intel`.
        path: String,
    },
}

/// Parts of the tree that are built for something else than `vmlinux` and modules.
const OTHER_PROGRAMS: [(&str, &str); 8] = [
    ("arch/x86/boot/", "it is part of the boot code before the kernel proper"),
    ("arch/x86/realmode/rm/", "it is part of the real-mode blob"),
    ("arch/x86/purgatory/", "it is part of the kexec purgatory"),
    ("arch/x86/entry/vdso/", "it is part of the vDSO, which runs in user space"),
    ("arch/x86/tools/", "it is a program of the build"),
    ("drivers/firmware/efi/libstub/", "it is part of the EFI stub, which runs before the kernel"),
    ("scripts/", "it is a program of the build"),
    ("tools/", "it is a program of the build or of user space"),
];

impl Kbuild {
    /// What `source` (a path in the tree) is for this kernel.
    pub fn owner_of(&self, source: &Path) -> Result<Owner> {
        let outside = || Error::OutsideTree { path: source.to_owned() };
        let path = source.to_str().ok_or_else(outside)?;
        if path.is_empty() || path.starts_with(['/', '.']) || normalise(path) != path {
            return Err(outside());
        }
        if let Some(owner) = by_kind(path) {
            return Ok(owner);
        }
        let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
        let object = format!("{stem}.o");
        let also_named_by = self.makefiles()?.naming_elsewhere(path);
        if also_named_by.is_empty() {
            let near = self.walk_towards(path)?;
            if let found @ Owner::Objects { .. } = self.decide(&near, path, &object, Vec::new())? {
                return Ok(found);
            }
        }
        // Another directory may list it as ../x.o.
        self.decide(&self.walk_reaching(path)?, path, &object, also_named_by)
    }

    /// The ordinary objects that each of `sources` becomes, as [`Kbuild::owner_of`] tells; none for what becomes
    /// something else. For many sources all of Kbuild's directories are asked, once, which takes a minute.
    pub fn objects_of(&self, sources: &[PathBuf]) -> Result<Vec<Vec<ObjectOwner>>> {
        /// From here on asking about each costs more than asking about all there are.
        const MANY: usize = 1000;
        if sources.len() < MANY {
            let objects = |source: &PathBuf| match self.owner_of(source)? {
                Owner::Objects { objects, .. } => Ok(objects),
                _ => Ok(Vec::new()),
            };
            return sources.iter().map(objects).collect();
        }
        let all = get_or_try_init(&self.objects, || Ok(index(&self.prober.walk(&|_| true)?)))?;
        let objects = |source: &PathBuf| {
            let path = source.to_string_lossy();
            let stem = path.rsplit_once('.').filter(|_| by_kind(&path).is_none())?.0;
            all.get(&format!("{stem}.o")).cloned()
        };
        Ok(sources.iter().map(|source| objects(source).unwrap_or_default()).collect())
    }

    fn decide(
        &self,
        directories: &[Arc<Directory>],
        path: &str,
        object: &str,
        also_named_by: Vec<String>,
    ) -> Result<Owner> {
        let is = |name: &String| {
            // As an object, or as the assembly that headers are made from.
            let name = name.strip_suffix(".s").map_or(name.clone(), |stem| format!("{stem}.o"));
            name.ends_with(".o") && normalise(&name) == object
        };
        let objects = owners(directories, object);
        if !objects.is_empty() {
            let followed = |makefile: &String| {
                let dir = makefiles::dir_of(makefile);
                directories.iter().any(|d| normalise(&d.dir) == dir && lists(d, object))
            };
            let also_named_by = also_named_by.into_iter().filter(|m| !followed(m)).collect();
            return Ok(Owner::Objects { objects, also_named_by });
        }
        if let Some((_, why)) = OTHER_PROGRAMS.iter().find(|(start, _)| path.starts_with(start)) {
            return Ok(Owner::NotOrdinary { why: (*why).to_owned() });
        }
        if let Some(d) = directories.iter().find(|d| d.host.iter().any(is)) {
            let why = format!("it is a program that the makefile of {} builds and runs", d.dir);
            return Ok(Owner::NotOrdinary { why });
        }
        if let Some(d) = directories.iter().find(|d| d.lib.iter().any(is)) {
            let why = format!(
                "it is in {}/lib.a, from which the linker takes what is referred to",
                d.dir
            );
            return Ok(Owner::NotOrdinary { why });
        }
        if let Some(d) = directories.iter().find(|d| d.rule.iter().any(is)) {
            let why = format!("a rule of its own in the makefile of {} builds it", d.dir);
            return Ok(Owner::NotOrdinary { why });
        }
        let mut named_by = also_named_by;
        named_by.extend(self.makefiles()?.naming_as_source(path));
        if !named_by.is_empty() {
            let by = named_by.join(", ");
            return Ok(Owner::NotOrdinary { why: format!("it is built by a rule in {by}") });
        }
        if self.includes()?.is_included(path) {
            return Ok(Owner::NotAnObjectSource);
        }
        let why = format!("no makefile that this configuration descends into lists {object}");
        Ok(Owner::NotBuilt { why })
    }
}

fn lists(directory: &Directory, object: &str) -> bool {
    let parts = directory.builtin.iter().chain(directory.modules.values().flatten());
    parts.into_iter().any(|part| normalise(part) == object)
}

/// All places where an object is linked, sorted.
fn owners(directories: &[Arc<Directory>], object: &str) -> Vec<ObjectOwner> {
    let mut owners = Vec::new();
    for directory in directories {
        for part in directory.builtin.iter().filter(|part| normalise(part) == object) {
            owners.push(ObjectOwner { object: part.clone(), link: Link::BuiltIn });
        }
        for (module, parts) in &directory.modules {
            for part in parts.iter().filter(|part| normalise(part) == object) {
                let path = normalise(module.strip_suffix(".o").unwrap_or(module));
                let name = path.rsplit('/').next().unwrap_or_default().replace('-', "_");
                owners
                    .push(ObjectOwner { object: part.clone(), link: Link::Module { name, path } });
            }
        }
    }
    owners.sort();
    owners.dedup();
    owners
}

/// All objects of `directories`, by their path without `..`.
fn index(directories: &[Arc<Directory>]) -> HashMap<String, Vec<ObjectOwner>> {
    let mut names: BTreeMap<String, Vec<Arc<Directory>>> = BTreeMap::new();
    for directory in directories {
        let parts = directory.builtin.iter().chain(directory.modules.values().flatten());
        for name in parts.map(|part| normalise(part)).collect::<BTreeSet<_>>() {
            names.entry(name).or_default().push(directory.clone());
        }
    }
    names.into_iter().map(|(name, at)| (name.clone(), owners(&at, &name))).collect()
}

/// What can be said from the name alone. `None`: a C or assembly source.
fn by_kind(path: &str) -> Option<Owner> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let not_built = |why: &str| Some(Owner::NotBuilt { why: why.to_owned() });
    let build_input = |why: &str| Some(Owner::BuildInput { why: why.to_owned() });
    let mut parts = path.split('/');
    if let (Some("arch"), Some(arch), Some(_)) = (parts.next(), parts.next(), parts.next())
        && arch != "x86"
    {
        return not_built("it belongs to another architecture");
    }
    let makefile = ["Makefile", "Kbuild", "Kconfig"].iter().any(|m| name.starts_with(m));
    if makefile || name.ends_with(".mk") {
        return build_input("it is a makefile or a configuration description");
    }
    if ["Documentation/", "LICENSES/", "debian/"].iter().any(|d| path.starts_with(d))
        || !path.contains('/') && name.chars().all(|c| c.is_ascii_uppercase())
    {
        return not_built("it is documentation");
    }
    if name.ends_with(".lds.S") {
        let why = "it is a linker script".to_owned();
        return Some(Owner::NotOrdinary { why });
    }
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("c" | "S") => None,
        Some("h" | "inc") => Some(Owner::NotAnObjectSource),
        Some("rst" | "txt" | "yaml" | "md" | "svg" | "dts" | "dtsi" | "gitignore" | "mailmap") => {
            not_built("the kernel's code does not come from it")
        }
        Some("rs") => build_input("it is Rust, whose objects are not looked at"),
        _ => build_input("it is of a kind that may generate sources"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for path in
            ["fs/Makefile", "Makefile", "fs/Kconfig", "a/b.tbl", "scripts/x.pl", "lib/x.c_shipped"]
        {
            assert!(matches!(by_kind(path), Some(Owner::BuildInput { .. })), "{path}");
        }
        for path in
            ["Documentation/x.c", "MAINTAINERS", "arch/arm/mm/x.c", "arch/arm/a.h", "a/.gitignore"]
        {
            assert!(matches!(by_kind(path), Some(Owner::NotBuilt { .. })), "{path}");
        }
        for path in ["fs/a.c", "arch/x86/a.S", "arch/Kconfig.c/x.c"] {
            assert!(by_kind(path).is_none() || path.starts_with("arch/K"), "{path}");
        }
        assert_eq!(by_kind("include/linux/a.h"), Some(Owner::NotAnObjectSource));
        assert!(matches!(
            by_kind("arch/x86/kernel/vmlinux.lds.S"),
            Some(Owner::NotOrdinary { .. })
        ));
    }

    #[test]
    fn an_object_may_be_in_two_modules() {
        let mut dir = Directory { dir: "d".into(), ..Directory::default() };
        dir.modules.insert("d/a-b.o".into(), vec!["d/x.o".into()]);
        dir.modules.insert("d/c.o".into(), vec!["d/../d/x.o".into(), "d/c0.o".into()]);
        let found = owners(&[dir.clone().into()], "d/x.o");
        assert_eq!(found.len(), 2);
        let module = |n: &str, p: &str| Link::Module { name: n.into(), path: p.into() };
        assert!(found.iter().any(|o| o.link == module("a_b", "d/a-b")));
        assert!(found.iter().any(|o| o.object == "d/../d/x.o" && o.link == module("c", "d/c")));
        assert!(owners(&[dir.into()], "d/c.o").is_empty()); // c.o is the composite, c0.o its part
    }
}
