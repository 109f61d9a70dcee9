//! The files that are changed, and how one is compiled and judged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dynamos_differ::compare::Cause;
use dynamos_differ::verdict::{Comparison, DataChange, FunctionVerdict, Verdict};
use dynamos_differ::{Object, Pair};
use kernel_trees::{Cache, CompileCommand, Manifest, Prepared, SourceId, View};

use super::draw::{Kinds, Random};
use super::oracle::{Expected, Listing, base};
use super::{Row, kinds, scan};

/// How many files of each kernel are changed.
pub const PER_TREE: usize = 10;

/// What must change nothing.
pub const CHECKS: [&str; 3] = ["all lines moved", "other directory", "functions reordered"];

/// Built-in and module code of moderate size, from all over the kernel.
const TREES: [(&str, [&str; PER_TREE]); 2] = [
    (
        "6.12.107",
        [
            "fs/pipe.c",
            "fs/ext4/balloc.c",
            "ipc/msg.c",
            "kernel/kthread.c",
            "mm/mempool.c",
            "net/ipv4/igmp.c",
            "net/sctp/associola.c",
            "security/keys/keyring.c",
            "block/bio-integrity.c",
            "drivers/usb/serial/generic.c",
        ],
    ),
    (
        "6.1.192-1",
        [
            "fs/locks.c",
            "fs/ext4/mballoc.c",
            "ipc/sem.c",
            "kernel/time/hrtimer.c",
            "lib/xarray.c",
            "net/ipv4/route.c",
            "net/tipc/link.c",
            "crypto/algapi.c",
            "kernel/workqueue.c",
            "drivers/block/loop.c",
        ],
    ),
];

/// The options that the comparison needs (and the generator gives).
const FLAGS: [&str; 3] = ["-ffunction-sections", "-fdata-sections", "-save-temps=obj"];

/// How often another change is tried when one does not compile, and how often another of that kind.
const TRIES: u32 = 40;
const TRIES_OF_KIND: u32 = 5;

/// A kernel and the files of it.
pub struct Tree {
    version: &'static str,
    prepared: Prepared,
    commands: Vec<CompileCommand>,
}

/// An object and its assembly.
struct Built {
    object: Vec<u8>,
    listing: Listing,
}

impl Tree {
    /// All trees, prepared.
    pub fn all(cache: &Cache) -> Result<Vec<Self>> {
        let manifest = Manifest::builtin()?;
        let tree = |(version, files): &(&'static str, [&'static str; PER_TREE])| {
            let kernel = manifest.find(version)?;
            let image = cache.image(kernel)?;
            let prepared = cache.prepared(&SourceId::Deb(kernel), &image.config, &image.release)?;
            let objects: Vec<String> = files.iter().map(|f| f.replace(".c", ".o")).collect();
            let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
            let commands = prepared.kbuild()?.compile_commands(&objects)?;
            Ok(Self { version, prepared, commands })
        };
        TREES.iter().map(tree).collect()
    }

    /// A place in which files can be changed.
    pub fn workplace(&self) -> Result<Workplace<'_>> {
        Ok(Workplace { tree: self, view: self.prepared.view(&[])? })
    }
}

/// A view of a tree, for one worker.
pub struct Workplace<'t> {
    tree: &'t Tree,
    view: View,
}

/// A change that can be made of a file.
struct Change {
    /// The function or variable that is changed.
    of: String,
    edit: kinds::Edit,
}

/// A file under test.
struct Case<'w> {
    command: CompileCommand,
    path: PathBuf,
    name: String,
    source: &'w str,
    built: Built,
}

impl Workplace<'_> {
    /// Makes the mutations of those numbers in a file, and the checks.
    pub fn test(&self, file: usize, mutations: &[usize], seed: u64) -> Result<Vec<Row>> {
        let original = self.tree.commands.get(file).context("no such file")?;
        let command = original.in_tree(self.view.root());
        let path = self.view.root().join(&command.source);
        let source =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let build = |command: &CompileCommand| {
            build(command)?.with_context(|| format!("{} does not compile", original.source))
        };
        let built = build(&command)?;
        let name = format!("{} {}", self.tree.version, original.source);
        let case = Case { command, path, name, source: &source, built };
        let mut rows = vec![case.nothing_changed(CHECKS[1], "", &build(original)?)?];
        if let Some(moved) = case.rebuild(&format!("\n\n\n\n\n{source}"))? {
            rows.push(case.nothing_changed(CHECKS[0], "", &moved)?);
        }
        let number = mutations.first().copied().unwrap_or_default();
        rows.extend(case.reordered(&mut Random::new(seed, number))?);
        let changes = case.changes();
        let known = changes.iter().map(|change| change.edit.kind).collect();
        let mut kinds = Kinds::new(known, &mut Random::new(seed, number));
        for number in mutations {
            rows.push(case.mutation(&changes, &mut kinds, &mut Random::new(seed, *number))?);
        }
        put(&case.path, &source)?;
        Ok(rows)
    }
}

impl Case<'_> {
    fn rebuild(&self, source: &str) -> Result<Option<Built>> {
        put(&self.path, source)?;
        build(&self.command)
    }

    fn compare(&self, built: &Built) -> Result<Comparison> {
        let v1 = Object::parse(&self.built.object, &self.name)?;
        let v2 = Object::parse(&built.object, &self.name)?;
        Ok(Pair::compare(&v1, &v2)?)
    }

    fn row(&self, kind: &str, function: &str, verdict: &str, detail: String) -> Row {
        let owned = str::to_owned;
        Row {
            file: self.name.clone(),
            function: owned(function),
            kind: owned(kind),
            verdict: owned(verdict),
            detail,
        }
    }

    fn nothing_changed(&self, check: &str, function: &str, built: &Built) -> Result<Row> {
        let comparison = self.compare(built)?;
        let said = Said::of(&comparison, &built.listing);
        let detail = match (said.is_empty(), comparison.is_unchanged()) {
            (true, true) => String::new(),
            (true, false) => format!("{:?} {:?}", comparison.sections, comparison.layouts),
            (false, _) => Said::reasons(&comparison),
        };
        let verdict = if detail.is_empty() { "right" } else { "spurious" };
        Ok(self.row(check, function, verdict, detail))
    }

    /// Swaps two neighbouring functions that do not know each other.
    fn reordered(&self, random: &mut Random) -> Result<Option<Row>> {
        let tokens = scan::tokens(self.source);
        let functions = scan::functions(self.source, &tokens);
        let mut swaps = Vec::new();
        for (one, two) in functions.iter().zip(functions.iter().skip(1)) {
            let part = |range| self.source.get::<std::ops::Range<usize>>(range).unwrap_or_default();
            let (x, gap, y) = (
                part(one.extent.clone()),
                part(one.extent.end..two.extent.start),
                part(two.extent.clone()),
            );
            let apart = !x.contains(two.name) && !y.contains(one.name) && !gap.contains(';');
            if apart && ![x, gap, y].iter().any(|text| text.contains("\n#")) {
                let (head, tail) =
                    (part(0..one.extent.start), part(two.extent.end..self.source.len()));
                swaps.push((
                    format!("{head}{y}{gap}{x}{tail}"),
                    format!("{} {}", two.name, one.name),
                ));
            }
        }
        while !swaps.is_empty() {
            let (source, names) = swaps.swap_remove(random.below(swaps.len()));
            if let Some(built) = self.rebuild(&source)? {
                return self.nothing_changed(CHECKS[2], &names, &built).map(Some);
            }
        }
        Ok(None)
    }

    /// All changes that can be made.
    fn changes(&self) -> Vec<Change> {
        let tokens = scan::tokens(self.source);
        let functions = scan::functions(self.source, &tokens);
        let of_functions = functions.iter().flat_map(|function| {
            let edits = kinds::edits(self.source, &tokens, function, &functions);
            edits.into_iter().map(|edit| Change { of: function.name.to_owned(), edit })
        });
        let of_variables = kinds::variables(self.source, &tokens, &functions);
        of_functions.chain(of_variables.into_iter().map(|(of, edit)| Change { of, edit })).collect()
    }

    /// Makes one of the changes, of the kind whose turn it is.
    fn mutation(&self, changes: &[Change], kinds: &mut Kinds, random: &mut Random) -> Result<Row> {
        let mut tries = 0;
        for kind in kinds.in_turn() {
            kinds.tried(kind);
            let changes: Vec<&Change> = changes.iter().filter(|c| c.edit.kind == kind).collect();
            let names: BTreeSet<&str> = changes.iter().map(|change| change.of.as_str()).collect();
            let names: Vec<&str> = names.into_iter().collect();
            for _ in 0..TRIES_OF_KIND {
                let Some(name) = names.get(random.below(names.len())) else { break };
                let of_name: Vec<_> = changes.iter().filter(|c| c.of == *name).collect();
                let Some(change) = of_name.get(random.below(of_name.len())) else { break };
                let Some(source) = change.edit.apply(self.source) else { continue };
                tries += 1;
                if let Some(built) = self.rebuild(&source)? {
                    let before = self.source.get(..change.edit.start).unwrap_or_default();
                    let line = before.matches('\n').count() + 1;
                    return self.judge(&built, kind, name, line);
                }
            }
            if tries >= TRIES {
                break;
            }
        }
        anyhow::bail!("{}: {tries} changes tried, and none compiles", self.name)
    }

    fn judge(&self, built: &Built, kind: &str, function: &str, line: usize) -> Result<Row> {
        let expected = self.built.listing.differences(&built.listing);
        let comparison = self.compare(built)?;
        let said = Said::of(&comparison, &built.listing);
        let join =
            |set: Vec<&String>| set.into_iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let missed = join(
            expected
                .functions
                .difference(&said.0.functions)
                .chain(expected.data.difference(&said.0.data))
                .collect(),
        );
        let at_most = self.built.listing.differences_at_most(&built.listing).functions;
        let extra = join(
            said.0
                .functions
                .difference(&expected.functions)
                .filter(|name| !at_most.contains(*name) && !taken_along(name, &comparison))
                .chain(said.0.data.difference(&expected.data))
                .collect(),
        );
        let (verdict, detail) = if !missed.is_empty() {
            ("missed", format!("line {line}: {missed}"))
        } else if !extra.is_empty() {
            ("spurious", format!("line {line}: {extra}: {}", Said::reasons(&comparison)))
        } else if expected.is_empty() {
            ("no effect", String::new())
        } else {
            ("right", String::new())
        };
        Ok(self.row(kind, function, verdict, detail))
    }
}

/// What the differ says, in the oracle's terms.
struct Said(Expected);

impl Said {
    /// `listing` knows which names are of one function.
    fn of(comparison: &Comparison, listing: &Listing) -> Self {
        let functions = comparison.functions.iter().filter(|f| differs(f));
        let functions = functions.map(|f| listing.function(&f.name).to_owned());
        let data = comparison.data.iter().filter(|d| d.change != DataChange::Unchanged);
        Self(Expected {
            functions: functions.collect(),
            data: data.map(|d| base(&d.name).to_owned()).collect(),
        })
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn reasons(comparison: &Comparison) -> String {
        let functions = comparison.functions.iter().filter(|f| differs(f));
        let data = comparison.data.iter().filter(|d| d.change != DataChange::Unchanged);
        let reasons: Vec<String> = functions
            .map(|f| format!("{}: {}", f.name, f.reason))
            .chain(data.map(|d| format!("{}: {}", d.name, d.reason)))
            .collect();
        reasons.join("; ")
    }
}

fn differs(function: &FunctionVerdict) -> bool {
    !matches!(function.verdict, Verdict::Unchanged | Verdict::Renamed)
}

/// Puts a file's content in place. The old file belongs to the prepared tree as well.
fn put(path: &Path, source: &str) -> Result<()> {
    fs::remove_file(path)
        .and_then(|()| fs::write(path, source))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Compiles; `None` if the compiler does not like the source.
fn build(command: &CompileCommand) -> Result<Option<Built>> {
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let object = dir.path().join("out.o");
    let mut compiler = command.compile_to(&object, &FLAGS);
    let output = compiler.output().with_context(|| format!("cannot start {}", command.compiler))?;
    if !output.status.success() {
        return Ok(None);
    }
    let assembly = fs::read(dir.path().join("out.s")).context("the compiler left no assembly")?;
    let listing = Listing::parse(&String::from_utf8_lossy(&assembly));
    Ok(Some(Built { object: fs::read(&object)?, listing }))
}

/// Whether a function whose own code is what it was counts as changed because one that it calls changed and cannot be
/// redirected, which is as it should be.
fn taken_along(name: &str, comparison: &Comparison) -> bool {
    let calls_along = |reason: &str| {
        comparison.functions.iter().filter(|callee| callee.along).any(|callee| {
            reason == format!("calls {}, which changed and has no ftrace site", callee.name)
        })
    };
    comparison
        .functions
        .iter()
        .any(|f| f.name == *name && f.cause == Some(Cause::Callee) && calls_along(&f.reason))
}
