//! Who includes whom: an over-approximation from the text of the tree.
//!
//! No preprocessor runs, so conditional includes count, and a header that is not found
//! beside the file that includes it counts for every file whose path ends that way.
//! What is missed here would be missed silently; so every doubt adds an edge.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::makefiles::{Makefiles, dir_of};
use super::probe::normalise;
use crate::error::{IoContext, Result};
use crate::tree;

/// The textual include graph of a tree.
#[derive(Debug, Default)]
pub(crate) struct Includes {
    /// What is behind the last `../` of an include → the places that say so.
    by_text: HashMap<String, Vec<Place>>,
    /// C and assembly sources.
    sources: Vec<String>,
    /// Directory (empty: everywhere), and a header forced into all below it.
    forced: Vec<(String, String)>,
    /// Files with an include that cannot be resolved: they may include anything.
    wild: Vec<String>,
}

#[derive(Debug)]
struct Place {
    file: String,
    /// Set when the include is quoted, for then the file's own directory comes first: the path it means there, and
    /// whether there is such a file.
    beside: Option<(String, bool)>,
}

/// What one file says.
#[derive(Debug, Default)]
struct Said {
    /// Text, and whether it was quoted.
    includes: Vec<(String, bool)>,
    /// Macros that stand for the name of a header.
    names: Vec<String>,
    /// Includes of macros.
    macros: Vec<String>,
}

/// Whether a file or directory may have to do with what is built.
pub(crate) fn is_relevant(rel: &Path, is_dir: bool) -> bool {
    let text = rel.to_string_lossy();
    if text.starts_with(".tmp_") {
        return false; // as in makefiles.rs
    }
    if is_dir {
        let other_arch = text.strip_prefix("arch/").is_some_and(|a| !a.contains('/') && a != "x86");
        return !other_arch
            && !["tools", "Documentation", "LICENSES", "include/config"].contains(&&*text);
    }
    true
}

/// Whether it is code, or may be included by some.
pub(crate) fn is_read(path: &str) -> bool {
    let extension = path.rsplit_once('.').map(|(_, e)| e);
    matches!(extension, Some("c" | "h" | "S" | "inc" | "H" | "def" | "lds" | "tbl" | "x"))
}

impl Includes {
    /// Reads the tree. `options` says whether a `CONFIG_` option is set.
    pub(crate) fn read(
        root: &Path,
        makefiles: &Makefiles,
        is_set: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        let files: Vec<String> = tree::files(root, is_relevant)?
            .into_iter()
            .map(|f| f.to_string_lossy().into_owned())
            .collect();
        let to_read: Vec<&String> = files.iter().filter(|f| is_read(f)).collect();
        let said: Vec<Said> = to_read
            .par_iter()
            .with_min_len(32)
            .map(|file| {
                let path = root.join(file);
                let text = std::fs::read(&path);
                let text = match text {
                    // A dangling symlink is nobody's header.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                    other => other.at("read", &path)?,
                };
                let mut said = scan(&text);
                // Whoever includes a symlink reads the file it points to.
                if let Ok(target) = std::fs::read_link(&path) {
                    said.includes.push((target.to_string_lossy().into_owned(), true));
                }
                Ok(said)
            })
            .collect::<Result<_>>()?;
        let mut graph = Self {
            sources: files
                .iter()
                .filter(|f| f.ends_with(".c") || f.ends_with(".S"))
                .cloned()
                .collect(),
            forced: makefiles.forced().map(|(d, h)| (d.to_owned(), h.to_owned())).collect(),
            ..Self::default()
        };
        let names: HashSet<&str> = files.iter().map(String::as_str).collect();
        let known: HashSet<&str> = said.iter().flat_map(|s| &s.names).map(String::as_str).collect();
        for (file, said) in to_read.iter().zip(&said) {
            let unset = |m: &str| m.starts_with("CONFIG_") && !is_set(m);
            if said.macros.iter().any(|m| !known.contains(m.as_str()) && !unset(m)) {
                graph.wild.push((*file).clone());
            }
            for (text, quoted) in &said.includes {
                let key = text.rsplit_once("../").map_or(text.as_str(), |(_, rest)| rest);
                let key = key.trim_start_matches("./").to_owned();
                let beside = quoted.then(|| {
                    let path = normalise(&format!("{}/{text}", dir_of(file)));
                    let exists = names.contains(path.as_str());
                    (path, exists)
                });
                graph.by_text.entry(key).or_default().push(Place { file: (*file).clone(), beside });
            }
        }
        Ok(graph)
    }

    /// Does any file include this one?
    pub(crate) fn is_included(&self, path: &str) -> bool {
        !self.direct(path, &[]).is_empty()
    }

    /// The files that may include `path` directly, if `changed` are files too.
    fn direct<'a>(&'a self, path: &str, changed: &[String]) -> Vec<&'a str> {
        let mut found = Vec::new();
        let mut suffix = Some(path);
        while let Some(text) = suffix {
            for place in self.by_text.get(text).into_iter().flatten() {
                if may_mean(place, path, changed) {
                    found.push(place.file.as_str());
                }
            }
            suffix = text.split_once('/').map(|(_, rest)| rest);
        }
        found
    }

    /// All sources that may include one of `changed`, directly or not; sorted.
    pub(crate) fn sources_including(&self, changed: &[String]) -> Vec<String> {
        let mut reached: HashSet<&str> = HashSet::new();
        let mut sources: BTreeSet<&str> = BTreeSet::new();
        let mut queue: Vec<&str> = changed.iter().map(String::as_str).collect();
        queue.extend(self.wild.iter().map(String::as_str));
        for start in &self.wild {
            sources.extend(Some(start.as_str()).filter(|s| is_source(s)));
        }
        while let Some(path) = queue.pop() {
            for (dir, header) in &self.forced {
                if path == header || path.ends_with(&format!("/{header}")) {
                    let below = |s: &&String| dir.is_empty() || s.starts_with(&format!("{dir}/"));
                    sources.extend(self.sources.iter().filter(below).map(String::as_str));
                }
            }
            for file in self.direct(path, changed) {
                if reached.insert(file) {
                    if is_source(file) {
                        sources.insert(file);
                    }
                    queue.push(file);
                }
            }
        }
        sources.into_iter().map(str::to_owned).collect()
    }

    /// For tests and messages: files whose includes cannot be followed.
    pub(crate) fn wild(&self) -> &[String] {
        &self.wild
    }
}

fn is_source(path: &str) -> bool {
    path.ends_with(".c") || path.ends_with(".S")
}

/// A quoted include means the file beside the including one, if there is one. (With the
/// `-iquote`-free command lines of Kbuild that is the first place looked at.) A changed file may be a new one, which
/// takes another one's place.
fn may_mean(place: &Place, path: &str, changed: &[String]) -> bool {
    let Some((beside, exists)) = &place.beside else { return true };
    beside == path || !(*exists || changed.contains(beside))
}

fn scan(text: &[u8]) -> Said {
    let mut said = Said::default();
    for line in text.split(|b| *b == b'\n') {
        let line = line.trim_ascii_start();
        if let Some(directive) = line.strip_prefix(b"#") {
            scan_directive(directive.trim_ascii_start(), &mut said);
        } else if line.contains(&b'.') {
            scan_assembly(line, &mut said);
        }
    }
    said
}

fn scan_directive(directive: &[u8], said: &mut Said) {
    if let Some(rest) = directive.strip_prefix(b"include") {
        let rest = rest.strip_prefix(b"_next").unwrap_or(rest);
        let rest = String::from_utf8_lossy(rest);
        let what = skip_comments(&rest);
        match header_name(what) {
            Some(name) => said.includes.push(name),
            None if what.is_empty() => {}
            None => {
                let end = what.find(|c: char| !c.is_alphanumeric() && c != '_');
                said.macros.push(what.get(..end.unwrap_or(what.len())).unwrap_or(what).to_owned());
            }
        }
    } else if let Some(rest) = directive.strip_prefix(b"define") {
        let rest = String::from_utf8_lossy(rest);
        let mut words = rest.trim_start().splitn(2, [' ', '\t']);
        let name = words.next().unwrap_or_default();
        let value = words.next().unwrap_or_default().trim();
        if name == "TRACE_INCLUDE_FILE" {
            // Read again through #include TRACE_INCLUDE(TRACE_INCLUDE_FILE).
            said.includes.push((format!("{value}.h"), false));
        } else if name.starts_with("TRACE_INCLUDE(") {
            said.names.push("TRACE_INCLUDE".to_owned());
        } else if let Some((header, quoted)) = header_name(value)
            && [".h", ".c", ".inc", ".S"].iter().any(|end| header.ends_with(end))
        {
            said.names.push(name.to_owned());
            said.includes.push((header, quoted));
        }
    }
}

/// `.include "x"` and `.incbin "x"`, also inside a C string.
fn scan_assembly(line: &[u8], said: &mut Said) {
    let text = String::from_utf8_lossy(line);
    for word in [".include", ".incbin"] {
        if let Some((_, rest)) = text.split_once(word) {
            let rest = rest.trim_start().trim_start_matches(['\\', '"']);
            if let Some(end) = rest.find(['"', '\\'])
                && let Some(name) = rest.get(..end).filter(|n| !n.is_empty())
            {
                said.includes.push((name.to_owned(), true));
            }
        }
    }
}

fn skip_comments(text: &str) -> &str {
    let mut text = text.trim();
    while let Some((_, rest)) = text.strip_prefix("/*").and_then(|t| t.split_once("*/")) {
        text = rest.trim_start();
    }
    text
}

/// `"x"` or `<x>` at the beginning; true if quoted.
fn header_name(text: &str) -> Option<(String, bool)> {
    let (close, quoted) = match text.chars().next()? {
        '"' => ('"', true),
        '<' => ('>', false),
        _ => return None,
    };
    let (name, _) = text.get(1..)?.split_once(close)?;
    (!name.is_empty()).then(|| (name.to_owned(), quoted))
}

/// The changed paths as the graph names them.
pub(crate) fn as_names(changed: &[PathBuf]) -> Vec<String> {
    changed.iter().map(|p| normalise(&p.to_string_lossy())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn graph(files: &[(&str, &str)]) -> Includes {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let makefiles = Makefiles::read(dir.path()).unwrap();
        Includes::read(dir.path(), &makefiles, &|o| o == "CONFIG_SET").unwrap()
    }

    fn including(graph: &Includes, changed: &str) -> Vec<String> {
        graph.sources_including(&[changed.to_owned()])
    }

    #[test]
    fn includes_are_followed_to_the_sources() {
        let graph = graph(&[
            ("include/linux/a.h", "#  include <linux/b.h>\n"),
            ("include/linux/b.h", ""),
            ("fs/x.c", "#include <linux/a.h>\n"),
            ("fs/y.c", "\t#\tinclude /* why */ \"../net/part.c\"\n"),
            ("net/part.c", "#include \"local.h\"\n"),
            ("net/local.h", ""),
            ("fs/local.h", ""),
            ("fs/z.c", "#include \"local.h\"\n"),
            ("mm/far.c", "#include \"local.h\"\n"), // by some -I: could be either
            ("kernel/asm.S", ".include \"net/local.h\"\n"),
        ]);
        assert_eq!(including(&graph, "include/linux/b.h"), ["fs/x.c"]);
        assert_eq!(
            including(&graph, "net/local.h"),
            ["fs/y.c", "kernel/asm.S", "mm/far.c", "net/part.c"]
        );
        assert_eq!(including(&graph, "fs/local.h"), ["fs/z.c", "mm/far.c"]);
        assert_eq!(including(&graph, "net/part.c"), ["fs/y.c"]);
        assert!(graph.is_included("net/part.c") && !graph.is_included("fs/x.c"));
        // A new header that takes the place of another one.
        assert_eq!(including(&graph, "mm/local.h"), ["mm/far.c"]);
    }

    #[test]
    fn a_symlink_includes_what_it_points_to() {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["include/uapi", "include/dt", "drivers"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        fs::write(dir.path().join("include/uapi/codes.h"), "").unwrap();
        std::os::unix::fs::symlink("../uapi/codes.h", dir.path().join("include/dt/other.h"))
            .unwrap();
        fs::write(dir.path().join("drivers/a.c"), "#include <dt/other.h>\n").unwrap();
        let makefiles = Makefiles::read(dir.path()).unwrap();
        let graph = Includes::read(dir.path(), &makefiles, &|_| false).unwrap();
        assert_eq!(including(&graph, "include/uapi/codes.h"), ["drivers/a.c"]);
    }

    #[test]
    fn macros_are_followed_or_taken_for_anything() {
        let graph = graph(&[
            (
                "include/trace/define_trace.h",
                "#define TRACE_INCLUDE(s) x(s)\n#include TRACE_INCLUDE(F)\n",
            ),
            ("drivers/t/trace.h", "#define TRACE_INCLUDE_FILE other\n"),
            ("drivers/t/other.h", ""),
            ("drivers/t/t.c", "#include \"trace.h\"\n"),
            ("drivers/m.c", "#define WHAT <linux/w.h>\n#include WHAT\n"),
            ("include/linux/w.h", ""),
            ("drivers/off.c", "#include CONFIG_FILE\n"),
            ("drivers/wild.c", "#include SOMETHING(1)\n"),
            ("drivers/set.c", "#include CONFIG_SET\n"),
        ]);
        assert_eq!(
            including(&graph, "drivers/t/other.h"),
            ["drivers/set.c", "drivers/t/t.c", "drivers/wild.c"]
        );
        assert!(including(&graph, "include/linux/w.h").contains(&"drivers/m.c".to_owned()));
        assert_eq!(graph.wild(), ["drivers/set.c", "drivers/wild.c"]);
    }

    #[test]
    fn forced_headers_reach_everything_below() {
        let graph = graph(&[
            ("scripts/Makefile.lib", "c = -include $(srctree)/include/linux/compiler_types.h\n"),
            ("drivers/d/Makefile", "ccflags-y += -include $(srctree)/drivers/d/force.h\n"),
            ("include/linux/compiler_types.h", "#include <linux/inner.h>\n"),
            ("include/linux/inner.h", ""),
            ("drivers/d/force.h", ""),
            ("drivers/d/a.c", ""),
            ("fs/b.c", ""),
        ]);
        assert_eq!(including(&graph, "drivers/d/force.h"), ["drivers/d/a.c"]);
        assert_eq!(including(&graph, "include/linux/inner.h"), ["drivers/d/a.c", "fs/b.c"]);
    }
}
