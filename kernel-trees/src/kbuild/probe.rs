//! What Kbuild makes of one directory: which objects, for what, and which directories
//! it descends into.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::env::MakeEnv;
use crate::error::{Error, IoContext, Result};
use crate::run;

const PROBE: &str = include_str!("probe.mk");

/// How Kbuild comes into a directory (`need-builtin` and `need-modorder`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Visit {
    /// What is in `obj-y` goes into `vmlinux`.
    pub(crate) builtin: bool,
    /// What is in `obj-m` becomes modules.
    pub(crate) modules: bool,
}

/// One directory as Kbuild sees it. Paths are relative to the tree, and may hold `..`
/// where the makefile has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) dir: String,
    /// Objects that are linked into `vmlinux`.
    pub(crate) builtin: Vec<String>,
    /// Modules (as objects) and what they consist of; one of a single object, of itself.
    pub(crate) modules: BTreeMap<String, Vec<String>>,
    /// Members of `lib.a`.
    pub(crate) lib: Vec<String>,
    /// What other rules of the makefile make.
    pub(crate) rule: Vec<String>,
    /// Objects of programs for the build machine or for user space.
    pub(crate) host: Vec<String>,
    /// Where Kbuild goes from here.
    pub(crate) subdirs: Vec<(String, Visit)>,
}

/// Asks Kbuild about directories, about each once.
#[derive(Debug)]
pub(crate) struct Prober {
    env: MakeEnv,
    makefile: PathBuf,
    known: Mutex<HashMap<(String, Visit), Arc<Directory>>>,
}

impl Prober {
    /// A prober that keeps its makefile at `makefile`.
    pub(crate) fn new(env: MakeEnv, makefile: PathBuf) -> Result<Self> {
        if fs::read_to_string(&makefile).ok().as_deref() != Some(PROBE) {
            // Another process may do the same right now: rename, do not write in place.
            let own = makefile.with_extension(format!("mk.{}", std::process::id()));
            fs::write(&own, PROBE).at("write", &own)?;
            fs::rename(&own, &makefile).at("rename", &own)?;
        }
        Ok(Self { env, makefile, known: Mutex::default() })
    }

    fn probe(&self, dir: &str, visit: Visit) -> Result<Arc<Directory>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (dir.to_owned(), visit);
        if let Some(directory) = known().get(&key) {
            return Ok(directory.clone());
        }
        let directory = Arc::new(self.ask(dir, visit)?);
        known().insert(key, directory.clone());
        Ok(directory)
    }

    fn ask(&self, dir: &str, visit: Visit) -> Result<Directory> {
        let flag = |name: &str, on: bool| format!("{name}={}", if on { "1" } else { "" });
        let mut make = self.env.make();
        make.arg("-s").arg("-f").arg(&self.makefile).arg(format!("obj={dir}"));
        make.arg(flag("need-builtin", visit.builtin)).arg(flag("need-modorder", visit.modules));
        make.arg("dynamos-probe");
        let what = format!("the makefile of {dir}");
        let output = run::output(&mut make, &what, Path::new(dir))?;
        parse(dir, visit, &String::from_utf8_lossy(&output))
            .ok_or_else(|| Error::Kbuild { what, why: "the probe did not come to its end".into() })
    }

    /// Descends from the root into every directory that `enter` lets through.
    pub(crate) fn walk(&self, enter: &dyn Fn(&str) -> bool) -> Result<Vec<Arc<Directory>>> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let root = (".".to_owned(), Visit { builtin: true, modules: true });
        let mut next = vec![root];
        while !next.is_empty() {
            next.retain(|visit| seen.insert(visit.clone()));
            let level: Vec<Arc<Directory>> = next
                .par_iter()
                .map(|(dir, visit)| self.probe(dir, *visit))
                .collect::<Result<_>>()?;
            next = level
                .iter()
                .flat_map(|d| d.subdirs.iter())
                .filter(|(dir, _)| enter(&normalise(dir)))
                .cloned()
                .collect();
            found.extend(level);
        }
        found.sort_by(|a, b| a.dir.cmp(&b.dir));
        Ok(found)
    }
}

fn parse(dir: &str, visit: Visit, text: &str) -> Option<Directory> {
    let mut found = Directory { dir: dir.to_owned(), ..Directory::default() };
    let mut ended = false;
    let mut lists: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut members: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("dynamos:")) {
        let mut words = line.split_whitespace();
        match words.next()? {
            "end" => ended = true,
            "members" => {
                let module = words.next()?;
                let parts = words.map(|w| join(dir, w.trim_end_matches('/'))).collect();
                members.insert(module, parts);
            }
            name => {
                lists.insert(name, words.collect());
            }
        }
    }
    let list = |name: &str| lists.get(name).cloned().unwrap_or_default();
    let owned = |name: &str| list(name).into_iter().map(str::to_owned).collect::<Vec<_>>();
    // obj-y of a directory that is entered for modules only is never linked.
    if visit.builtin {
        found.builtin = owned("builtin");
    }
    if visit.modules {
        for module in list("module") {
            let parts = members.remove(module).unwrap_or_else(|| vec![module.to_owned()]);
            found.modules.insert(module.to_owned(), parts);
        }
    }
    found.lib = owned("lib");
    found.rule = owned("rule");
    found.host = list("host").into_iter().map(|h| join(dir, h)).collect();
    let (builtin, modules) = (list("builtin-dirs"), list("module-dirs"));
    found.subdirs = list("dirs")
        .into_iter()
        .map(|d| {
            (d.to_owned(), Visit { builtin: builtin.contains(&d), modules: modules.contains(&d) })
        })
        .collect();
    ended.then_some(found)
}

fn join(dir: &str, name: &str) -> String {
    if dir == "." { name.to_owned() } else { format!("{dir}/{name}") }
}

/// Removes `.` and resolves `..` in a path of the tree, by its words.
pub(crate) fn normalise(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised() {
        assert_eq!(normalise("a/b/../c/./d.o"), "a/c/d.o");
        assert_eq!(normalise("./a//b"), "a/b");
        assert_eq!(normalise("../a"), "../a");
    }

    #[test]
    fn the_probe_is_read() {
        let text = "noise\ndynamos:builtin fs/x/a.o fs/x/../y/b.o\ndynamos:module fs/x/m.o fs/x/s.o\n\
                    dynamos:members fs/x/m.o  p.o sub/q.o\ndynamos:rule fs/x/gen.o\ndynamos:host tool.o\n\
                    dynamos:builtin-dirs fs/x/d\ndynamos:module-dirs fs/x/d fs/x/e\n\
                    dynamos:dirs fs/x/d fs/x/e fs/x/f\ndynamos:end\n";
        let both = Visit { builtin: true, modules: true };
        let dir = parse("fs/x", both, text).unwrap();
        assert_eq!(dir.builtin, ["fs/x/a.o", "fs/x/../y/b.o"]);
        assert_eq!(dir.modules["fs/x/m.o"], ["fs/x/p.o", "fs/x/sub/q.o"]);
        assert_eq!(dir.modules["fs/x/s.o"], ["fs/x/s.o"]);
        assert_eq!(dir.host, ["fs/x/tool.o"]);
        let flags: Vec<_> = dir.subdirs.iter().map(|(_, v)| (v.builtin, v.modules)).collect();
        assert_eq!(flags, [(true, true), (false, true), (false, false)]);
        let modules_only = parse("fs/x", Visit { builtin: false, modules: true }, text).unwrap();
        assert!(modules_only.builtin.is_empty() && !modules_only.modules.is_empty());
        assert!(parse("fs/x", both, "dynamos:builtin a.o\n").is_none());
    }
}
