//! The text of the tree's makefiles, where asking Kbuild is not enough: which of them
//! name a source of another directory, and which headers they force into compilations.

use std::path::Path;

use rayon::prelude::*;

use super::probe::normalise;
use crate::error::{IoContext, Result};
use crate::tree;

/// What all makefiles say.
#[derive(Debug, Default)]
pub(crate) struct Makefiles {
    /// Makefile, and a `DIR/NAME` (without suffix) that it names.
    mentions: Vec<(String, String)>,
    /// Makefile, and a source file (with suffix, without directory) that it names.
    sources: Vec<(String, String)>,
    /// Makefile, and a header it passes to `-include`.
    forced: Vec<(String, String)>,
    /// Directories whose makefile can list objects of other directories: every object's
    /// name begins with the directory's, so it takes `..`, here or in an included file.
    reaching: Vec<String>,
    /// A variable with `..` is exported, so any directory can.
    all_reaching: bool,
}

/// The directory of a path in the tree; the root is empty.
pub(crate) fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn is_relevant(rel: &Path, is_dir: bool) -> bool {
    let text = rel.to_string_lossy();
    if is_dir {
        let other_arch = text.strip_prefix("arch/").is_some_and(|a| !a.contains('/') && a != "x86");
        // `.tmp_PID` is where another process's make tries the compiler's options; it goes at any moment.
        return !other_arch
            && !text.starts_with(".tmp_")
            && !["tools", "Documentation", "samples", "include/config"].contains(&&*text);
    }
    let name = text.rsplit('/').next().unwrap_or_default();
    name.starts_with("Makefile") || name.starts_with("Kbuild") || name.ends_with(".mk")
}

impl Makefiles {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let files = tree::files(root, is_relevant)?;
        let read: Vec<Self> = files
            .par_iter()
            .map(|rel| {
                let path = root.join(rel);
                let text = std::fs::read(&path).at("read", &path)?;
                Ok(scan(&rel.to_string_lossy(), &String::from_utf8_lossy(&text)))
            })
            .collect::<Result<_>>()?;
        let mut all = Self::default();
        for one in read {
            all.mentions.extend(one.mentions);
            all.sources.extend(one.sources);
            all.forced.extend(one.forced);
            all.reaching.extend(one.reaching);
            all.all_reaching |= one.all_reaching;
        }
        Ok(all)
    }

    /// Makefiles outside the file's own directories that name it together with (at
    /// least) its last directory: `../core/dc.o`, `$(srctree)/lib/crypto/sha256.c`.
    pub(crate) fn naming_elsewhere(&self, source: &str) -> Vec<String> {
        let stem = source.rsplit_once('.').map_or(source, |(stem, _)| stem);
        let mut names: Vec<String> = self
            .mentions
            .iter()
            .filter(|(makefile, mention)| {
                let dir = dir_of(makefile);
                let own = dir.is_empty() || source.starts_with(&format!("{dir}/"));
                !own && (stem == mention || stem.ends_with(&format!("/{mention}")))
            })
            .map(|(makefile, _)| makefile.clone())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Makefiles of the file's own directories that name it as a source (`x.c`), as
    /// only special rules do.
    pub(crate) fn naming_as_source(&self, source: &str) -> Vec<String> {
        let name = source.rsplit('/').next().unwrap_or(source);
        let own = |makefile: &str| match dir_of(makefile) {
            "" => true,
            dir => source.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')),
        };
        let naming = self.sources.iter().filter(|(makefile, named)| named == name && own(makefile));
        let mut makefiles: Vec<String> = naming.map(|(makefile, _)| makefile.clone()).collect();
        makefiles.dedup();
        makefiles
    }

    /// May Kbuild list objects of other directories when it is in `dir`, or below it?
    pub(crate) fn reaches_from(&self, dir: &str) -> bool {
        let below = |r: &String| {
            r.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.all_reaching || self.reaching.iter().any(below)
    }

    /// Headers forced into the compilation of everything below a directory.
    pub(crate) fn forced(&self) -> impl Iterator<Item = (&str, &str)> {
        self.forced.iter().map(|(makefile, header)| {
            let everywhere = makefile.starts_with("scripts/") || makefile == "arch/x86/Makefile";
            (if everywhere { "" } else { dir_of(makefile) }, header.as_str())
        })
    }
}

fn scan(makefile: &str, text: &str) -> Makefiles {
    let mut found = Makefiles::default();
    let own = |what: &str| (makefile.to_owned(), what.to_owned());
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let up = line.replace("...", "").contains("..");
        let start = line.trim_start();
        if up || start.starts_with("include ") || start.starts_with("-include ") {
            found.reaching = vec![dir_of(makefile).to_owned()];
        }
        found.all_reaching |= up && start.starts_with("export");
        let mut words = line.split([' ', '\t', '=', ':', ',', ';', '"', '\'']).peekable();
        while let Some(word) = words.next() {
            if word == "-include"
                && let Some(header) = words.peek().copied().map(after_variables)
                && header.ends_with(".h")
            {
                found.forced.push(own(header));
            }
            let name = word.rsplit('/').next().unwrap_or(word);
            if [".c", ".S"].iter().any(|end| name.ends_with(end)) && !name.contains(['%', '*']) {
                found.sources.push(own(name.rsplit_once(')').map_or(name, |(_, n)| n)));
            }
            let path = normalise_mention(word);
            if let Some(stem) = path.and_then(|p| {
                p.strip_suffix(".o").or(p.strip_suffix(".c")).or(p.strip_suffix(".S"))
            }) {
                found.mentions.push(own(stem));
            }
        }
    }
    found
}

/// What is behind the last variable and the last `../`: `$(srctree)/lib/a.c` → `lib/a.c`.
fn after_variables(word: &str) -> &str {
    let word = word.rsplit_once(')').map_or(word, |(_, rest)| rest);
    let word = word.rsplit_once("../").map_or(word, |(_, rest)| rest);
    word.trim_start_matches(['/', '.'])
}

/// A mention counts when it has a directory that is not below the makefile's own.
fn normalise_mention(word: &str) -> Option<&str> {
    let leads_away = word.contains("../") || word.contains(")/");
    let path = after_variables(word);
    (leads_away && path.contains('/') && !path.contains('%') && normalise(path) == path)
        .then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mentions_of_other_directories_are_found() {
        let text = "$(obj)/sha256.o: $(srctree)/lib/crypto/sha256.c FORCE\n# ../x/commented.o\n\
                    foo-y += ../core/dc.o sub/own.o plain.o\nCFLAGS += -include $(srctree)/include/linux/hidden.h\n";
        let makefiles = scan("arch/x86/purgatory/Makefile", text);
        let by = |source: &str| makefiles.naming_elsewhere(source);
        assert_eq!(by("lib/crypto/sha256.c"), ["arch/x86/purgatory/Makefile"]);
        assert_eq!(by("drivers/display/core/dc.c"), ["arch/x86/purgatory/Makefile"]);
        for other in ["x/commented.c", "lib/sha256.c", "sub/own.c", "arch/x86/purgatory/sha256.c"] {
            assert!(by(other).is_empty(), "{other}");
        }
        assert_eq!(makefiles.naming_as_source("arch/x86/purgatory/sha256.c").len(), 1);
        assert!(makefiles.naming_as_source("lib/crypto/sha256.c").is_empty());
        assert!(makefiles.reaches_from("arch/x86") && makefiles.reaches_from("arch/x86/purgatory"));
        assert!(!makefiles.reaches_from("arch/x86/purg") && !makefiles.reaches_from("fs"));
        assert!(scan("a/Makefile", "export X := ../y\n").reaches_from("fs"));
        assert!(scan("a/Makefile", "include $(src)/y.mk\n").reaches_from("a"));
        assert!(!scan("a/Makefile", "# ../y\nobj-y += a.o ...\n").reaches_from("a"));
        let forced: Vec<_> = makefiles.forced().collect();
        assert_eq!(forced, [("arch/x86/purgatory", "include/linux/hidden.h")]);
    }
}
