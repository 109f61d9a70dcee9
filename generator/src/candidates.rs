//! From changed files to the objects that may differ: what Kbuild makes of a source, and who includes a header.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kernel_trees::{Kbuild, Link, ObjectOwner, Owner};
use rayon::prelude::*;

use crate::changes::{Role, role};
use crate::input::Input;
use crate::plan::{IgnoredFile, Refusal};

/// An object to compare.
#[derive(Clone, Debug, Default, Hash)]
pub struct Candidate {
    /// `vmlinux`, or the module it is linked into.
    pub owner: String,
    /// Changed files that made it a candidate.
    pub because: BTreeSet<String>,
}

/// What the changed files lead to.
#[derive(Debug, Default)]
pub struct Candidates {
    /// Objects to compare, by path in the tree.
    pub objects: BTreeMap<String, Candidate>,
    /// Files that do not matter, with the reason.
    pub ignored: Vec<IgnoredFile>,
    /// Files that cannot be dealt with.
    pub refusals: Vec<Refusal>,
}

/// Finds the objects. More than `limit` are refused, with the headers that lead to them.
pub fn find(kbuild: &Kbuild, input: &Input, limit: usize) -> Result<Candidates> {
    let mut found = Candidates::default();
    let mut included: Vec<PathBuf> = Vec::new();
    for (path, content) in &input.changes {
        let name = path.display().to_string();
        match role(path) {
            Role::Irrelevant(reason) => found.ignore(&name, reason),
            Role::Kconfig => found.refuse(
                &name,
                "changes how the kernel is configured, and the running kernel's configuration is fixed",
                "leave the change of the configuration out of V2",
            ),
            Role::BuildRule if only_the_version(input, path)? => {
                found.ignore(&name, "changes only the version number");
            }
            Role::BuildRule => found.refuse(
                &name,
                "changes how the kernel is built, so both sides would not be built in one context",
                "leave the change of the build rule out of V2",
            ),
            Role::Generated => found.refuse(
                &name,
                "sources or tables are generated from it, in ways that are not followed",
                "leave this file out of V2, or restart the machine with the new kernel",
            ),
            Role::Rust if input.has_rust()? => found.refuse(
                &name,
                "is part of a kernel that is built with Rust, whose code is not compared",
                "leave this file out of V2",
            ),
            Role::Rust => found.ignore(&name, "this configuration is without Rust"),
            Role::Header => included.push(path.clone()),
            Role::Source => {
                let exists = input.v1_root.join(path).is_file();
                let deleted = content.is_none();
                if let Some(owner) = found.source(kbuild, path, exists, deleted)? {
                    included.push(owner);
                }
            }
        }
    }
    if !included.is_empty() {
        found.includers(kbuild, &included, limit)?;
    }
    Ok(found)
}

impl Candidates {
    /// Leaves only objects of these parts of the kernel, if any are named.
    pub fn only_of(&mut self, parts: &[String]) -> Result<()> {
        let parts: BTreeSet<String> = parts.iter().map(|part| part.replace('-', "_")).collect();
        if let Some(part) =
            parts.iter().find(|part| self.objects.values().all(|o| o.owner != **part))
        {
            bail!(
                "--part {part}: no object of it is reached by the changes (a part is `vmlinux`, or a module's name \
                 without .ko)"
            );
        }
        if !parts.is_empty() {
            self.objects.retain(|_, candidate| parts.contains(&candidate.owner));
        }
        Ok(())
    }

    fn ignore(&mut self, path: &str, reason: &str) {
        self.ignored.push(IgnoredFile { path: path.into(), reason: reason.into() });
    }

    fn refuse(&mut self, name: &str, reason: &str, remedy: &str) {
        self.refusals.push(Refusal::new(name, reason, remedy));
    }

    /// Deals with a changed `.c` or `.S` file; gives it back if other sources include it.
    fn source(
        &mut self,
        kbuild: &Kbuild,
        path: &Path,
        exists: bool,
        deleted: bool,
    ) -> Result<Option<PathBuf>> {
        let name = path.display().to_string();
        if !exists {
            self.refuse(
                &name,
                "is a new source file; a live update replaces functions of objects that the kernel has",
                "put what it adds into a source file that the kernel is built from",
            );
            return Ok(None);
        }
        let owner = kbuild.owner_of(path).with_context(|| format!("asking Kbuild about {name}"))?;
        match owner {
            Owner::Objects { objects, also_named_by } => {
                if deleted {
                    self.refuse(
                        &name,
                        "is deleted in V2",
                        "keep the file, and what others use of it",
                    );
                } else if path.extension().is_some_and(|extension| extension == "S") {
                    self.refuse(
                        &name,
                        "is written in assembly, whose functions have no ftrace sites and no debug information",
                        "restart the machine with the new kernel",
                    );
                } else {
                    for object in objects {
                        self.add(object.object, &object.link, &name);
                    }
                    if !also_named_by.is_empty() {
                        let places = also_named_by.join(", ");
                        self.ignore(&name, &format!("is perhaps compiled once more by {places}; that copy is not covered"));
                    }
                }
            }
            Owner::NotOrdinary { why } => {
                self.refuse(
                    &name,
                    &format!("{why}, where calls cannot be redirected"),
                    "restart the machine with the new kernel",
                );
            }
            Owner::NotBuilt { why } => self.ignore(&name, &why),
            Owner::BuildInput { why } => {
                self.refuse(&name, &why, "leave this file out of V2");
            }
            Owner::NotAnObjectSource => return Ok(Some(path.into())),
        }
        Ok(None)
    }

    fn add(&mut self, object: String, link: &Link, because: &str) {
        let candidate = self.objects.entry(object).or_default();
        candidate.owner = owner(link);
        candidate.because.insert(because.into());
    }

    /// Adds every object whose sources may include one of the changed files.
    fn includers(&mut self, kbuild: &Kbuild, changed: &[PathBuf], limit: usize) -> Result<()> {
        let includers: Vec<Vec<PathBuf>> = changed
            .par_iter()
            .map(|header| {
                anyhow::ensure!(!crate::interrupted(), "interrupted");
                Ok(kbuild.includers(std::slice::from_ref(header))?)
            })
            .collect::<Result<_>>()?;
        let sources: BTreeSet<&PathBuf> = includers.iter().flatten().collect();
        let sources: Vec<PathBuf> = sources.into_iter().cloned().collect();
        let objects: BTreeMap<&PathBuf, Vec<ObjectOwner>> =
            sources.iter().zip(kbuild.objects_of(&sources)?).collect();
        let mut all = BTreeMap::new();
        for (header, sources) in changed.iter().zip(&includers) {
            let name = header.display().to_string();
            let mut count = 0;
            for source in sources {
                let assembly = source.extension().is_some_and(|extension| extension == "S");
                for object in objects.get(source).into_iter().flatten() {
                    count += 1;
                    all.entry(object.object.clone())
                        .or_insert_with(|| (object.link.clone(), assembly, name.clone()));
                }
            }
            if count == 0 {
                self.ignore(&name, "no source that this configuration builds includes it");
            }
        }
        if all.len() > limit {
            let list: Vec<&str> = all.keys().map(String::as_str).collect();
            let headers: Vec<String> =
                changed.iter().map(|path| path.display().to_string()).collect();
            self.refuse(
                &headers.join(", "),
                &format!(
                    "may change any of {} objects that include it: {}",
                    list.len(),
                    list.join(" ")
                ),
                "compare them all with --max-objects, or leave the header out of V2",
            );
            return Ok(());
        }
        for (object, (link, assembly, because)) in all {
            if assembly {
                self.refuse(
                    &because,
                    &format!(
                        "{object}, written in assembly, includes it, and assembly is not compared"
                    ),
                    "leave the header out of V2",
                );
            } else {
                self.add(object, &link, &because);
            }
        }
        Ok(())
    }
}

/// What an object is linked into: `vmlinux`, or a module.
pub fn owner(link: &Link) -> String {
    match link {
        Link::BuiltIn => "vmlinux".into(),
        Link::Module { name, .. } => name.clone(),
    }
}

/// Whether the top Makefile differs only in the lines that make up the version.
fn only_the_version(input: &Input, path: &Path) -> Result<bool> {
    let Some(new) = input.changes.get(path).and_then(Option::as_ref) else { return Ok(false) };
    let version = |line: &&str| {
        !["VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION", "NAME"]
            .iter()
            .any(|key| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(" =")))
    };
    let rest = |file: &Path| -> Result<Vec<String>> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.lines().filter(version).map(Into::into).collect())
    };
    Ok(path == Path::new("Makefile") && rest(&input.v1_root.join(path))? == rest(new)?)
}
