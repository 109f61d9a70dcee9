//! `--explain NAME`: a function or a type of both sides, side by side.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use dynamos_differ::image::{self, Image};
use dynamos_differ::show::{self, Code, Mark, Part, Row, Source, Sources, TypeView};
use dynamos_differ::verdict::{FunctionVerdict, Verdict};
use dynamos_differ::{Comparison, Object, Pair};
use kernel_trees::CompileCommand;
use rayon::prelude::*;

use crate::build::Built;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that runs.
    V1,
    /// The one that should.
    V2,
}

/// Everything of one name.
#[derive(Debug)]
pub struct Explained {
    /// The name asked for.
    pub name: String,
    /// What has it.
    pub finds: Vec<Find>,
}

impl Explained {
    /// For a name that nothing has.
    pub fn nothing(name: &str) -> Self {
        Explained { name: name.into(), finds: Vec::new() }
    }
}

/// A function or type of an object.
#[derive(Debug)]
pub struct Find {
    /// What it is, where, and what became of it.
    pub title: String,
    /// Whether the two sides differ.
    pub differs: bool,
    /// Two columns.
    pub lines: Vec<Line>,
}

/// A line of two columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How the two sides differ; a line of source says nothing about that.
    pub mark: Mark,
    /// Whether this is source code (or a heading) around which instructions are shown.
    pub source: bool,
    /// V1's column.
    pub old: String,
    /// V2's column.
    pub new: String,
}

/// Gives the text of a source file (relative to the tree) of a side.
pub type ReadSource<'a> = dyn Fn(Side, &Path) -> Option<String> + Sync + 'a;

/// Finds each name in the objects, as a function, as what was inlined into a changed one, or as a type.
pub fn explain(
    commands: &[CompileCommand],
    built: &[Built],
    names: &[String],
    read: &ReadSource<'_>,
) -> Result<Vec<Explained>> {
    let pairs: Vec<_> = commands.iter().zip(built).collect();
    let found: Vec<Vec<Vec<Find>>> = pairs
        .par_iter()
        .map(|(command, built)| object(&command.object, &built.v1, &built.v2, names, read))
        .collect::<Result<_>>()?;
    Ok(merged(names, found))
}

/// What all objects have under each name.
pub fn merged(names: &[String], found: Vec<Vec<Vec<Find>>>) -> Vec<Explained> {
    let mut all: Vec<Explained> = names.iter().map(|name| Explained::nothing(name)).collect();
    for finds in found {
        for (explained, finds) in all.iter_mut().zip(finds) {
            // One type is in many objects: once is enough.
            for find in finds {
                if !explained.finds.iter().any(|f| f.title == find.title && f.lines == find.lines) {
                    explained.finds.push(find);
                }
            }
        }
    }
    all
}

/// What two builds of an object have under each name.
pub fn object(
    object: &str,
    v1: &[u8],
    v2: &[u8],
    names: &[String],
    read: &ReadSource<'_>,
) -> Result<Vec<Vec<Find>>> {
    let v1 = Object::parse(v1, &format!("{object} (V1)"))?;
    let v2 = Object::parse(v2, &format!("{object} (V2)"))?;
    pair(object, &v1, &v2, names, read)
}

/// The same of objects that were read.
pub fn pair(
    object: &str,
    v1: &Object<'_>,
    v2: &Object<'_>,
    names: &[String],
    read: &ReadSource<'_>,
) -> Result<Vec<Vec<Find>>> {
    let comparison = Pair::compare(v1, v2)?;
    let mut files = Files { read, known: BTreeMap::new() };
    let mut all = Vec::new();
    for name in names {
        let functions: Vec<&FunctionVerdict> =
            comparison.functions.iter().filter(|f| is_called(f, name)).collect();
        let mut finds = show_functions(object, (v1, v2), &comparison, &functions, &mut files);
        if finds.is_empty() {
            let types = show::types(v1, v2, name)?;
            finds.extend(types.iter().map(|view| type_lines(view, &mut files)));
        }
        all.push(finds);
    }
    Ok(all)
}

/// What two linked images have under each name. Of the sources there are only lines.
pub fn images(
    name: &str,
    v1: &Image<'_>,
    v2: &Image<'_>,
    names: &[String],
) -> Result<Vec<Vec<Find>>> {
    let mut files = Files { read: &|_, _| None, known: BTreeMap::new() };
    // Types have names of their own.
    let stripped = [v1, v2].into_iter().any(|image| image.symbols.is_empty());
    let types = RefCell::new(BTreeMap::new());
    let has_type = |wanted: &str| {
        let found = show::types_of_images(v1, v2, wanted)?;
        let any = !found.is_empty();
        types.borrow_mut().insert(wanted.to_owned(), found);
        Ok(any)
    };
    let functions = if stripped {
        names.iter().map(|name| has_type(name).map(|_| Vec::new())).collect()
    } else {
        image::show(v1, v2, names, &has_type)
    };
    let functions = functions?;
    let types = types.into_inner();
    let mut all = Vec::new();
    for (wanted, views) in names.iter().zip(functions) {
        let mut finds = Vec::new();
        for view in views {
            let verdict = &view.verdict;
            let within = crate::binaries::within(name, &verdict.file);
            let title = title(&verdict.name, &within, verdict.verdict, &verdict.reason);
            finds.push(function_find(title, verdict.verdict, &view.parts, &mut files));
        }
        if finds.is_empty() {
            let types = types.get(wanted).into_iter().flatten();
            finds.extend(types.map(|view| type_lines(view, &mut files)));
        }
        if finds.is_empty() && stripped {
            bail!("{name}: one side is stripped (no symbol table): functions cannot be told apart");
        }
        all.push(finds);
    }
    Ok(all)
}

/// Whether it is the function meant: by its name, by the one that gcc made a clone of, or as where that was inlined.
fn is_called(function: &FunctionVerdict, name: &str) -> bool {
    let clone_of =
        |full: &str| full == name || full.strip_prefix(name).is_some_and(|r| r.starts_with('.'));
    clone_of(&function.name)
        || function.old_name.as_deref().is_some_and(clone_of)
        || function.inlined.as_deref() == Some(name)
}

fn show_functions(
    object: &str,
    (v1, v2): (&Object<'_>, &Object<'_>),
    comparison: &Comparison,
    functions: &[&FunctionVerdict],
    files: &mut Files<'_>,
) -> Vec<Find> {
    if functions.is_empty() {
        return Vec::new();
    }
    // Without line tables it is shown without lines.
    let sources = [v1, v2].map(|o| Sources::load(&o.elf).ok());
    let [lines1, lines2] = [&sources[0], &sources[1]].map(Option::as_ref);
    let show = |of: &&FunctionVerdict| {
        let parts = show::function((v1, lines1), (v2, lines2), comparison, of);
        function_find(title(&of.name, object, of.verdict, &of.reason), of.verdict, &parts, files)
    };
    functions.iter().map(show).collect()
}

fn title(name: &str, within: &str, verdict: Verdict, reason: &str) -> String {
    let colon = if reason.is_empty() { "" } else { ": " };
    format!("{name} in {within}: {}{colon}{reason}", format!("{verdict:?}").to_lowercase())
}

fn function_find(title: String, verdict: Verdict, parts: &[Part], files: &mut Files<'_>) -> Find {
    Find {
        title,
        differs: !matches!(verdict, Verdict::Unchanged | Verdict::Renamed),
        lines: parts.iter().flat_map(|part| part_lines(part, files)).collect(),
    }
}

/// The lines of source files.
struct Files<'a> {
    read: &'a ReadSource<'a>,
    known: BTreeMap<(bool, String), Vec<String>>,
}

impl Files<'_> {
    fn line(&mut self, side: Side, source: &Source) -> String {
        let read = self.read;
        let lines =
            self.known.entry((side == Side::V1, source.file.clone())).or_insert_with(|| {
                let text = read(side, Path::new(&source.file)).unwrap_or_default();
                text.lines()
                    .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                    .collect()
            });
        let index = usize::try_from(source.line).unwrap_or(usize::MAX).wrapping_sub(1);
        lines.get(index).cloned().unwrap_or_default()
    }
}

fn part_lines(part: &Part, files: &mut Files<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    let heading =
        |text: &str| Line { mark: Mark::Same, source: true, old: text.into(), new: text.into() };
    lines.push(heading(&part.name));
    let (mut at_old, mut at_new) = (None, None);
    for Row { mark, old, new } in &part.rows {
        let mut head = |side, code: &Option<Code>, at: &mut Option<Source>| {
            let Some(code) = code else { return String::new() };
            if code.source == *at {
                return String::new();
            }
            at.clone_from(&code.source);
            let Some(source) = &code.source else { return String::new() };
            let inlined =
                code.inlined.as_ref().map_or(String::new(), |f| format!(" ({f}, inlined)"));
            format!("{}:{}{inlined} {}", source.file, source.line, files.line(side, source))
        };
        let (old_head, new_head) =
            (head(Side::V1, old, &mut at_old), head(Side::V2, new, &mut at_new));
        if !(old_head.is_empty() && new_head.is_empty()) {
            lines.push(Line { mark: Mark::Same, source: true, old: old_head, new: new_head });
        }
        let column = |code: &Option<Code>| {
            code.as_ref().map_or(String::new(), |c| format!("{:6x}  {}", c.offset, c.text))
        };
        lines.push(Line { mark: *mark, source: false, old: column(old), new: column(new) });
    }
    lines
}

fn type_lines(view: &TypeView, files: &mut Files<'_>) -> Find {
    let mut lines = Vec::new();
    let mut source = |side, source: &Option<Source>| {
        source.as_ref().map_or(String::new(), |source| {
            let text = files.line(side, source);
            format!("{}:{} {text}", source.file, source.line).trim_end().to_owned()
        })
    };
    let (old, new) = (source(Side::V1, &view.sources.0), source(Side::V2, &view.sources.1));
    if !(old.is_empty() && new.is_empty()) {
        lines.push(Line { mark: Mark::Same, source: true, old, new });
    }
    let size = |size: Option<u64>| size.map_or("not there".into(), |size| format!("{size} bytes"));
    let mark = if view.sizes.0 == view.sizes.1 { Mark::Same } else { Mark::Differs };
    lines.push(Line { mark, source: false, old: size(view.sizes.0), new: size(view.sizes.1) });
    for Row { mark, old, new } in &view.rows {
        let column = |line: &Option<show::MemberLine>| {
            line.as_ref().map_or(String::new(), |l| {
                format!("{:>10}  {} {}", l.place, l.type_name, l.name).trim_end().to_owned()
            })
        };
        lines.push(Line { mark: *mark, source: false, old: column(old), new: column(new) });
    }
    let word = if view.differs { "changed" } else { "unchanged" };
    Find { title: format!("{}: {word}", view.name), differs: view.differs, lines }
}
