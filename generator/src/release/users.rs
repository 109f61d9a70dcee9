//! Who uses what differs in types, in a whole release: read are the sources that say the name of a member or enumerator
//! that differs, of the parts of the kernel that have the type.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};
use kernel_trees::CompileCommand;
use rayon::prelude::*;

use super::Journal;
use crate::candidates::Candidates;
use crate::input::Input;
use crate::layouts;
use crate::plan::{LayoutKey, LayoutPlan, MemberSide, Plan};
use crate::reach::tokens;
use crate::report::Reporter;
use crate::uses::Reader;

/// The types that each object's source may use.
pub type Readers = BTreeMap<String, BTreeSet<LayoutKey>>;

/// What a source must say to be read because of a type.
#[derive(Default)]
struct Words<'p> {
    /// Behind `.` or `->`, or as an argument of its own: macros are given members.
    members: BTreeMap<&'p str, BTreeSet<LayoutKey>>,
    /// Anywhere.
    enumerators: BTreeMap<&'p str, BTreeSet<LayoutKey>>,
}

/// Looks through the sources of all candidates. `seen`: which parts of the kernel have a changed type.
pub fn readers(
    found: &Candidates,
    seen: &BTreeMap<LayoutKey, BTreeSet<String>>,
    input: &Input,
    plan: &Plan,
) -> Result<Readers> {
    let mut words = Words::default();
    for row in plan.layouts.iter().filter(|row| row.verdict == "changed") {
        for member in row.members.iter().filter(|member| member.change != ["moved"]) {
            for side in member.old.iter().chain(&member.new) {
                let (list, name) = match side {
                    MemberSide::Member { name, .. } => (&mut words.members, name),
                    MemberSide::Enumerator { name, .. } => (&mut words.enumerators, name),
                };
                let last = name.rsplit('.').next().unwrap_or(name);
                list.entry(last).or_default().insert(row.key());
            }
        }
    }
    let objects: Vec<_> = found.objects.iter().collect();
    let read: Vec<Option<(String, BTreeSet<LayoutKey>)>> = objects
        .par_iter()
        .map(|(object, candidate)| {
            ensure!(!crate::interrupted(), "interrupted");
            let Some(stem) = object.strip_suffix(".o") else { return Ok(None) };
            let source = format!("{stem}.c");
            let path = Path::new(&source);
            let changed = input.changes.get(path).and_then(Option::as_ref);
            let mut all = BTreeSet::new();
            for file in [Some(input.v1_root.join(path)), changed.cloned()].into_iter().flatten() {
                // A source that is generated is not in the tree.
                let Ok(text) = std::fs::read(&file) else { continue };
                words.said(&String::from_utf8_lossy(&text), &mut all);
            }
            all.retain(|key| seen.get(key).is_some_and(|parts| parts.contains(&candidate.owner)));
            Ok((!all.is_empty()).then(|| ((*object).clone(), all)))
        })
        .collect::<Result<_>>()?;
    Ok(read.into_iter().flatten().collect())
}

impl Words<'_> {
    /// Adds the types that a text may use. Comments count too.
    fn said(&self, text: &str, types: &mut BTreeSet<LayoutKey>) {
        let mut before = ["", ""];
        let mut all = text.lines().flat_map(tokens).peekable();
        while let Some(token) = all.next() {
            let access = before[1] == "." || before == ["-", ">"];
            // As in `container_of(p, struct s, member)` and `kfree_rcu(p, member)`.
            let argument = before[1] == "," && matches!(all.peek(), Some(&(")" | ",")));
            if (access || argument)
                && let Some(keys) = self.members.get(token)
            {
                types.extend(keys.iter().cloned());
            }
            if let Some(keys) = self.enumerators.get(token) {
                types.extend(keys.iter().cloned());
            }
            before = [before[1], token];
        }
    }
}

/// A source that is to be read.
struct Source<'a> {
    /// What the journal calls it.
    name: String,
    command: &'a CompileCommand,
    /// The types it may use.
    types: &'a BTreeSet<LayoutKey>,
}

impl Source<'_> {
    /// The rows of the types.
    fn rows<'r>(&self, all: &'r BTreeMap<LayoutKey, LayoutPlan>) -> Vec<&'r LayoutPlan> {
        self.types.iter().filter_map(|key| all.get(key)).collect()
    }
}

/// Reads the sources, and adds what they say to the plan's types. While libclang, of which there is one, looks at a
/// source, others are preprocessed.
pub fn find(
    readers: &Readers,
    commands: &[&CompileCommand],
    v2: &Path,
    journal: &Journal,
    jobs: Option<usize>,
    reporter: &Reporter,
    plan: &mut Plan,
) -> Result<()> {
    let reader = Reader::open();
    let bare: BTreeMap<LayoutKey, LayoutPlan> =
        plan.layouts.iter().map(|row| (row.key(), layouts::without_users(row))).collect();
    let sources = commands.iter().filter_map(|command| {
        let types = readers.get(&command.object)?;
        Some(Source { name: format!("users of {}", command.object), command, types })
    });
    let sources: Vec<Source<'_>> = sources.collect();
    let read = journal.each(
        jobs,
        reporter,
        &sources,
        |source| &source.name,
        |source| Ok((source.command, source.rows(&bare))),
        |source| {
            let layouts = source.rows(&bare).into_iter().cloned().collect();
            let mut part = Plan { layouts, ..Plan::default() };
            layouts::read_users(part.layouts.iter_mut().collect(), source.command, v2, &reader);
            Ok(part)
        },
    )?;
    let mut rows: BTreeMap<LayoutKey, &mut LayoutPlan> =
        plan.layouts.iter_mut().map(|row| (row.key(), row)).collect();
    for found in read.into_values().flat_map(|part| part.layouts) {
        if let Some(row) = rows.get_mut(&found.key()) {
            layouts::add_users(row, found);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn a_source_says_a_member_where_it_accesses_one() {
        let key = LayoutKey::default();
        let words = Words {
            members: [("fresh", [key.clone()].into())].into(),
            enumerators: [("LAST", [key].into())].into(),
        };
        let said = |text: &str| {
            let mut types = BTreeSet::new();
            words.said(text, &mut types);
            !types.is_empty()
        };
        assert!(said("return s->fresh;") && said("s . fresh = 1;") && said("s\n\t->fresh++;"));
        assert!(said("int a[LAST];") && said("kfree_rcu(s, fresh);"));
        assert!(said("list_for_each_entry(s, head,\n\tfresh, more)"));
        assert!(!said("int fresh = a > fresh;") && !said("s->fresher") && !said("\"->fresh\""));
    }

    /// A source of two functions that use what differs in two types.
    const SOURCE: &str = "struct inner { long a, b; }; struct outer { struct inner in; };\n\
        void kfree(const void *); long read_it(struct inner *i) { return i->b; }\n\
        void drop_it(struct outer *o) { kfree(o); }\n";

    #[test]
    fn users_are_known_only_for_the_rows_they_were_looked_for() {
        crate::uses::tests::open();
        let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [&v1, &v2] {
            std::fs::write(root.path().join("a.c"), SOURCE).unwrap();
        }
        let command = CompileCommand {
            object: "a.o".into(),
            source: "a.c".into(),
            compiler: "gcc".into(),
            args: vec!["-w".into()],
            cwd: v1.path().into(),
        };
        let member = crate::plan::MemberPlan {
            name: "b".into(),
            change: vec!["resized".into()],
            old: Some(MemberSide::Member {
                name: "b".into(),
                offset: 8,
                bit: None,
                size: 8,
                type_name: "long int".into(),
            }),
            new: None,
        };
        // What a part of the kernel knows of a type that holds this one is not what another one does.
        let row = |holders: &[&str]| LayoutPlan {
            kind: "struct".into(),
            name: "inner".into(),
            object: "m".into(),
            verdict: "changed".into(),
            reason: "b resized".into(),
            defined_in: "a.c".into(),
            members: vec![member.clone()],
            embedded_in: holders
                .iter()
                .map(|name| crate::plan::EmbedderPlan { name: (*name).into(), chain: Vec::new() })
                .collect(),
            users: Vec::new(),
            users_unknown: Vec::new(),
            created_by: Vec::new(),
            freed_by: Vec::new(),
            live: Vec::new(),
            liveness: "unknown".into(),
        };
        let readers = Readers::from([("a.o".to_owned(), BTreeSet::from([row(&[]).key()]))]);
        let cache = tempfile::tempdir().unwrap();
        let journal = Journal::open(cache.path(), v1.path(), "diff", "shipped").unwrap();
        let quiet = Reporter::new(true, false);
        let freed = |row: LayoutPlan| {
            let mut plan = Plan { layouts: vec![row], ..Plan::default() };
            find(&readers, &[&command], v2.path(), &journal, Some(1), &quiet, &mut plan).unwrap();
            let row = plan.layouts.remove(0);
            assert_eq!(row.users_unknown, Vec::<String>::new());
            let users: Vec<_> = row.users.iter().map(|u| (&*u.function, &*u.how)).collect();
            assert_eq!(users, [("read_it", "read")]);
            row.freed_by.into_iter().map(|call| call.function).collect::<Vec<_>>()
        };
        for _ in 0..2 {
            assert_eq!(freed(row(&[])), Vec::<String>::new());
            assert_eq!(freed(row(&["struct outer"])), ["drop_it"]);
        }
    }
}
