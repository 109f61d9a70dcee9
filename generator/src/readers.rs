//! Who reads a handler of a table of operations, in all of V1, and whether the slot may change under them.
//!
//! A member's readers are in sources that name the member and include the type's definition. The text decides which
//! sources to look at, libclang what they do. What cannot be proven is an obstacle, with the function's name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dynamos_differ::Object;
use dynamos_differ::compare::Slots;
use kernel_trees::{CompileCommand, Kbuild, ObjectOwner};
use rayon::prelude::*;

use crate::candidates::owner;
use crate::mentions::{Mentions, Wanted};
use crate::plan::ReaderPlan;
use crate::uses::{Handled, How, Look, Reader, Uses, tag};

/// The most objects whose sources are looked at.
const MOST: usize = 64;

/// The readers of the slots of one variable.
#[derive(Debug, Default)]
pub struct Readers {
    /// The functions of V1's objects that read one, those that have inlined a reader included.
    pub readers: Vec<ReaderPlan>,
    /// Why the slots must not be changed under them.
    pub obstacles: Vec<String>,
    /// V1's objects that hold one, as the distribution builds them.
    pub objects: BTreeMap<String, Vec<u8>>,
}

/// Finds them. `source` is the variable's own.
pub fn find(kbuild: &Kbuild, root: &Path, source: &Path, slots: &Slots) -> Result<Readers> {
    let wanted = Wanted {
        members: slots.slots.iter().map(|slot| slot.member.clone()).collect(),
        types: slots.types.iter().map(|of| tag(of).to_owned()).collect(),
    };
    let mut found = Readers::default();
    let sources = sources(kbuild, root, source, slots, &wanted)?;
    let objects = objects(kbuild, &sources)?;
    if objects.len() > MOST {
        let many = objects.len();
        found.obstacles.push(format!(
            "too many possible readers: {many} objects, at most {MOST} are looked at"
        ));
        return Ok(found);
    }
    let names: Vec<&str> = objects.keys().map(String::as_str).collect();
    let commands = kbuild.compile_commands(&names)?;
    let reader = match Reader::open() {
        Ok(reader) => reader,
        Err(why) => {
            found.obstacles.push(format!("its readers are not known: {why:#}"));
            return Ok(found);
        }
    };
    let types: BTreeSet<String> = slots.types.iter().cloned().collect();
    let members: BTreeSet<(String, String)> =
        slots.slots.iter().map(|slot| (slot.of.clone(), slot.member.clone())).collect();
    for command in &commands {
        anyhow::ensure!(!crate::interrupted(), "interrupted");
        let owner = objects.get(&command.object).cloned().unwrap_or_default();
        let uses = match reader.find_handled(command, &types, &members) {
            Ok(uses) => uses,
            Err(why) => {
                found.obstacles.push(format!("{} is not understood: {why:#}", command.source));
                continue;
            }
        };
        let null = |member: &str| {
            slots.slots.iter().any(|s| s.member == member && (s.old.is_none() || s.new.is_none()))
        };
        found.obstacles.extend(obstacles(&command.source, &uses, &members, &null));
        if !uses.handled.is_empty() {
            let bytes = crate::build::v1(command)?;
            found.readers.extend(holders(command, &bytes, &owner, &uses.handled)?);
            found.objects.insert(command.object.clone(), bytes);
        }
    }
    // A handler that nobody reads is one whose readers were not seen.
    for member in &wanted.members {
        if found.readers.iter().all(|reader| reader.member != *member) {
            found.obstacles.push(format!("no function of V1 was found to read `.{member}`"));
        }
    }
    found.readers.sort();
    found.readers.dedup();
    found.obstacles.sort();
    found.obstacles.dedup();
    Ok(found)
}

/// What of a source forbids to change the slots. `null`: whether a member is NULL on one side.
fn obstacles(
    source: &str,
    uses: &Uses,
    members: &BTreeSet<(String, String)>,
    null: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    found.extend(uses.unknown.iter().map(|what| format!("{source} is not understood: {what}")));
    for access in &uses.accesses {
        let whole = access.member.is_empty();
        let slot = members.contains(&(access.of.clone(), access.member.clone()));
        let what = match access.how {
            How::Copy if whole => "copies all of a",
            How::Sizeof if whole => "uses the size of a, and may copy it:",
            How::Write | How::ReadWrite if slot => "writes the handler of a",
            How::Address | How::Asm if slot => "takes the address of the handler of a",
            _ => continue,
        };
        let (function, of, line) = (&access.function, &access.of, access.at.line);
        found.push(format!("{function} ({source}:{line}) {what} {of}"));
    }
    for handled in &uses.handled {
        let Handled { function, member, line, look, .. } = handled;
        let calls = uses.handled.iter().any(|other| {
            (&other.function, &other.of, &other.member) == (function, &handled.of, member)
                && other.look == Look::GuardedCall
        });
        let what = match look {
            Look::Kept => "keeps the value of",
            Look::Call if null(member) => {
                "calls without a test of its own, where it may become NULL,"
            }
            Look::Test if !calls => "tests, without a call behind the test,",
            _ => continue,
        };
        found.push(format!("{function} ({source}:{line}) {what} `.{member}`"));
    }
    found
}

/// The functions of V1's object that hold a reader's code.
fn holders(
    command: &CompileCommand,
    bytes: &[u8],
    owner: &str,
    handled: &BTreeSet<Handled>,
) -> Result<Vec<ReaderPlan>> {
    let mut by_function: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for handled in handled {
        by_function.entry(&handled.function).or_default().insert(&handled.member);
    }
    let object = Object::parse(bytes, &command.object)?;
    let mut rows = Vec::new();
    for (reader, members) in by_function {
        for function in object.holders(reader)? {
            let via = (function.split('.').next() != Some(reader)).then(|| reader.to_owned());
            rows.extend(members.iter().map(|member| ReaderPlan {
                function: function.clone(),
                object: command.object.clone(),
                owner: owner.to_owned(),
                member: (*member).to_owned(),
                inlined: via.clone(),
            }));
        }
    }
    Ok(rows)
}

/// The sources of V1 that may read a slot or copy a table: those that see the type and speak of the member, or include
/// something that does.
fn sources(
    kbuild: &Kbuild,
    root: &Path,
    source: &Path,
    slots: &Slots,
    wanted: &Wanted,
) -> Result<BTreeSet<PathBuf>> {
    let defined: Vec<PathBuf> =
        slots.defined_in.iter().map(|file| PathBuf::from(file.trim_start_matches("./"))).collect();
    anyhow::ensure!(!defined.is_empty(), "nothing says where {:?} are defined", slots.types);
    let mut seeing: BTreeSet<PathBuf> = [source.to_path_buf()].into();
    // Whoever sees the slot sees the type that has it; all of these headers, or one is enough.
    for file in &defined {
        seeing.extend(kbuild.includers(std::slice::from_ref(file))?);
    }
    let headers = headers(root)?;
    let texts: Vec<(&PathBuf, Mentions)> = seeing
        .par_iter()
        .map(|path| (path, false))
        .chain(headers.par_iter().map(|path| (path, true)))
        .map(|(path, header)| {
            let bytes = match std::fs::read(root.join(path)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                other => other.with_context(|| format!("cannot read {}", path.display()))?,
            };
            Ok((path, Mentions::of(&String::from_utf8_lossy(&bytes), wanted, header)))
        })
        .collect::<Result<_>>()?;
    let pointers: BTreeSet<&String> =
        texts.iter().flat_map(|(_, mentions)| &mentions.pointers).collect();
    let mut found: BTreeSet<PathBuf> = [source.to_path_buf()].into();
    for (path, mentions) in &texts {
        if !mentions.concern(&pointers) {
            continue;
        }
        if seeing.contains(*path) {
            found.insert((*path).clone());
        }
        if path.extension().is_none_or(|extension| extension != "S") {
            let includers = kbuild.includers(std::slice::from_ref(*path))?;
            found.extend(includers.into_iter().filter(|path| seeing.contains(path)));
        }
    }
    Ok(found)
}

/// The headers of x86 in a tree, and what else is included.
fn headers(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut queue = vec![PathBuf::new()];
    while let Some(directory) = queue.pop() {
        let path = root.join(&directory);
        for entry in
            std::fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))?
        {
            let entry = entry?;
            let name = directory.join(entry.file_name());
            let other = name.starts_with("arch")
                && name.components().count() == 2
                && !name.ends_with("x86");
            let kind = entry.file_type()?;
            let skipped =
                ["tools", "Documentation", "scripts", "samples", "include/config", ".git"];
            if kind.is_dir() && !other && !skipped.iter().any(|skip| name == Path::new(skip)) {
                queue.push(name);
            } else if name.extension().is_some_and(|e| e == "h" || e == "inc") {
                found.push(name);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The objects that are built from the sources, each with what it is linked into.
fn objects(kbuild: &Kbuild, sources: &BTreeSet<PathBuf>) -> Result<BTreeMap<String, String>> {
    let sources: Vec<PathBuf> =
        sources.iter().filter(|path| path.extension().is_some_and(|e| e == "c")).cloned().collect();
    let all = kbuild.objects_of(&sources)?;
    let named = |object: ObjectOwner| (object.object, owner(&object.link));
    Ok(all.into_iter().flatten().map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uses::{Access, Place};

    fn handled(looks: &[(&str, Look)]) -> BTreeSet<Handled> {
        let one = |(line, (function, look)): (u32, &(&str, Look))| Handled {
            function: (*function).into(),
            of: "struct ops".into(),
            member: "x".into(),
            look: *look,
            line,
        };
        (1..).zip(looks).map(one).collect()
    }

    fn found(uses: &Uses, null: bool) -> Vec<String> {
        let members = BTreeSet::from([("struct ops".to_owned(), "x".to_owned())]);
        obstacles("a.c", uses, &members, &|_| null)
    }

    #[test]
    fn a_test_with_its_call_is_none() {
        let handled = handled(&[("f", Look::Test), ("f", Look::GuardedCall)]);
        assert_eq!(found(&Uses { handled, ..Uses::default() }, true), Vec::<String>::new());
    }

    #[test]
    fn a_call_without_a_test_is_one_where_the_slot_may_be_null() {
        let uses = Uses { handled: handled(&[("f", Look::Call)]), ..Uses::default() };
        assert!(found(&uses, false).is_empty());
        let text = found(&uses, true).remove(0);
        assert!(text.starts_with("f (a.c:1) calls without a test"), "{text}");
    }

    #[test]
    fn cached_answers_and_values_are() {
        let handled = handled(&[("f", Look::Test), ("g", Look::GuardedCall), ("h", Look::Kept)]);
        let all = found(&Uses { handled, ..Uses::default() }, true);
        assert!(all.iter().any(|text| text.starts_with("f (a.c:1) tests, without a call")));
        assert!(all.iter().any(|text| text.starts_with("h (a.c:3) keeps the value of `.x`")));
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn copies_writes_and_what_is_not_understood_are() {
        let access = |member: &str, how| Access {
            of: "struct ops".into(),
            member: member.into(),
            how,
            function: "f".into(),
            at: Place { file: "a.c".into(), line: 7, extent: (0, 1) },
        };
        for (access, why) in [
            (access("", How::Copy), "f (a.c:7) copies all of a struct ops"),
            (access("", How::Sizeof), "uses the size"),
            (access("x", How::Write), "writes the handler"),
            (access("x", How::Address), "takes the address"),
        ] {
            let uses = Uses { accesses: [access].into(), ..Uses::default() };
            assert!(found(&uses, true).iter().any(|text| text.contains(why)), "{why}");
        }
        for (member, how) in [("", How::Initialise), ("x", How::Initialise), ("y", How::Write)] {
            let uses = Uses { accesses: [access(member, how)].into(), ..Uses::default() };
            assert!(found(&uses, true).is_empty(), "{member} {how:?}");
        }
        let uses = Uses { unknown: vec!["a.c:3: what?".into()], ..Uses::default() };
        assert!(found(&uses, true).remove(0).contains("is not understood"));
    }
}
