//! Built files instead of sources: objects, modules, images, and directories of them. They are compared and
//! reported; no update can be made of them, for it takes the sources to compile the clones.

mod explain;
mod find;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use dynamos_differ::image::{self, Image};
use dynamos_differ::layout::LayoutChange;
use dynamos_differ::map::Mapping;
use dynamos_differ::verdict::Verdict;
use dynamos_differ::{Object, Pair};
use rayon::prelude::*;

pub use explain::explain;
pub use find::{Files, files, is_built, is_elf};

use crate::layouts;
use crate::output::Output;
use crate::plan::{
    DataPlan, FunctionPlan, Kernels, LayoutPlan, ObjectPlan, Outcome, Plan, Refusal,
};
use crate::report::Reporter;
use crate::run::Request;
use crate::verdicts::{self, data_change, data_verdict, function_verdict};

/// A part of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Only {
    /// Types.
    Layouts,
    /// Functions and data.
    Functions,
}

/// What was found out about one pair of files.
#[derive(Debug, Default)]
struct Found {
    functions: Vec<FunctionPlan>,
    data: Vec<DataPlan>,
    layouts: Vec<LayoutPlan>,
    notes: Vec<String>,
    compared: usize,
    /// Sections differ, of which notes tell and no row does.
    sections: bool,
}

/// Compares built files and writes the report.
pub fn run(request: &Request, reporter: &Reporter) -> Result<Plan> {
    reporter.phase("provide", "looking for built files");
    let output = Output::begin(&request.output)?;
    let old = find::files(&request.v1, request.cache.as_deref(), "V1")?;
    let new = find::files(&request.v2, request.cache.as_deref(), "V2")?;
    let pairs = pairs(&old, &new)?;
    let mut plan = Plan {
        kernels: Kernels { v1: request.v1.label(), v2: request.v2.label(), ..Kernels::default() },
        ..Plan::default()
    };
    for (here, there, side) in [(&old, &new, "V1"), (&new, &old, "V2")] {
        for name in here.keys().filter(|name| !there.contains_key(*name)) {
            plan.notes.push(format!("`{name}` is only in {side}, and was not compared"));
        }
    }
    reporter.phase("compare", &format!("comparing {} pairs of files", pairs.len()));
    let single = pairs.len() == 1;
    let done = AtomicUsize::new(0);
    let results: Vec<(String, Result<Option<Found>>)> = pairs
        .par_iter()
        .map(|(name, old, new)| {
            anyhow::ensure!(!crate::interrupted(), "interrupted");
            let shown = if name.is_empty() { file_name(new) } else { (*name).to_owned() };
            let found = compare(&shown, old, new, request.only);
            reporter.progress(done.fetch_add(1, Ordering::Relaxed) + 1, pairs.len());
            Ok((shown, found))
        })
        .collect::<Result<_>>()?;
    let (mut skipped, mut sections) = (0, false);
    for (name, found) in results {
        match found {
            Ok(Some(found)) => {
                sections |= found.sections;
                add(&mut plan, &name, found);
            }
            Ok(None) => skipped += 1,
            Err(error) if single => return Err(error),
            Err(error) => plan.refusals.push(Refusal::new(
                name,
                format!("cannot be compared: {error:#}"),
                "give a file of the same architecture, whole and with its debug information in it",
            )),
        }
    }
    plan.notes
        .push(format!("{skipped} of {} pairs are identical or only link others", pairs.len()));
    finish(&mut plan, sections);
    reporter.phase("write", "writing the report");
    output.finish(&plan, ("", None))?;
    reporter.end();
    Ok(plan)
}

/// What is on both sides: its name, and where it is.
fn pairs<'f>(old: &'f Files, new: &'f Files) -> Result<Vec<(&'f str, &'f PathBuf, &'f PathBuf)>> {
    let pairs: Vec<(&str, &PathBuf, &PathBuf)> =
        old.iter().filter_map(|(name, path)| Some((name.as_str(), path, new.get(name)?))).collect();
    if pairs.is_empty() {
        bail!(
            "no object, module or image is on both sides ({} in V1, {} in V2): give two files, or two directories \
             with the same layout",
            old.len(),
            new.len()
        );
    }
    Ok(pairs)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "file".into(), |name| name.to_string_lossy().into_owned())
}

fn add(plan: &mut Plan, name: &str, found: Found) {
    plan.objects.push(ObjectPlan {
        object: name.to_owned(),
        source: String::new(),
        owner: String::new(),
        because: Vec::new(),
        functions: found.compared,
        changed: found.functions.iter().filter(|f| f.verdict == "changed").count(),
        reached: None,
    });
    plan.functions.extend(found.functions);
    plan.data.extend(found.data);
    plan.layouts.extend(found.layouts);
    plan.notes.extend(found.notes.into_iter().map(|note| format!("{name}: {note}")));
}

/// Sorts, and says of each change of a type only once where it was seen. `sections`: some differ, without a row.
fn finish(plan: &mut Plan, sections: bool) {
    plan.settle();
    let mut seen = BTreeSet::new();
    plan.layouts.retain(|layout| seen.insert(layout.key()));
    let rows = plan.functions.len() + plan.data.len() + plan.layouts.len();
    let differs = rows > 0 || sections;
    plan.outcome = match plan.outcome {
        Outcome::Refused => Outcome::Refused,
        _ if differs => Outcome::Differs,
        _ => Outcome::NoChange,
    };
}

/// Compares one pair of files; nothing if there is nothing to compare.
fn compare(name: &str, old: &Path, new: &Path, only: Option<Only>) -> Result<Option<Found>> {
    let failed = |path: &Path| format!("cannot read {}", path.display());
    if identical(old, new).with_context(|| failed(new))? || find::is_composite(new) {
        return Ok(None);
    }
    by_kind(
        name,
        (old, new),
        |old, new| images(name, old, new, only),
        |old, new| objects(name, old, new, only),
    )
    .map(Some)
}

/// Reads a pair of files, and gives them to the one that can deal with linked images, or with relocatable objects.
pub fn by_kind<T>(
    name: &str,
    (old, new): (&Path, &Path),
    images: impl FnOnce(&Image<'_>, &Image<'_>) -> Result<T>,
    objects: impl FnOnce(&Object<'_>, &Object<'_>) -> Result<T>,
) -> Result<T> {
    let open = |path: &Path| {
        Mapping::open(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (x, y) = (open(old)?, open(new)?);
    let names = (format!("{name} (V1)"), format!("{name} (V2)"));
    match (image::is_linked(x.bytes(), &names.0)?, image::is_linked(y.bytes(), &names.1)?) {
        (true, true) => {
            images(&Image::parse(x.bytes(), &names.0)?, &Image::parse(y.bytes(), &names.1)?)
        }
        (false, false) => {
            objects(&Object::parse(x.bytes(), &names.0)?, &Object::parse(y.bytes(), &names.1)?)
        }
        _ => bail!("{name}: one side is a linked image, the other a relocatable object"),
    }
}

/// Compares contents without keeping them.
fn identical(old: &Path, new: &Path) -> std::io::Result<bool> {
    let (mut old, mut new) = (File::open(old)?, File::open(new)?);
    if old.metadata()?.len() != new.metadata()?.len() {
        return Ok(false);
    }
    let (mut x, mut y) = (vec![0; 1 << 17], vec![0; 1 << 17]);
    loop {
        let count = old.read(&mut x)?;
        let (Some(x), Some(y)) = (x.get(..count), y.get_mut(..count)) else { return Ok(false) };
        if count == 0 {
            return Ok(true);
        }
        match new.read_exact(y) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        if x != y {
            return Ok(false);
        }
    }
}

fn images(name: &str, old: &Image<'_>, new: &Image<'_>, only: Option<Only>) -> Result<Found> {
    for (image, side) in [(old, "V1"), (new, "V2")] {
        if image.symbols.is_empty() && only != Some(Only::Layouts) {
            bail!("{name}: {side} is stripped (no symbol table): functions cannot be told apart");
        }
    }
    let mut found = Found::default();
    let contents = match only {
        Some(Only::Layouts) => None,
        _ => Some(image::contents(old, new)?),
    };
    let (functions, data) = contents.map_or_else(Default::default, |c| (c.functions, c.data));
    let layouts = match only {
        Some(Only::Functions) => Ok((Vec::new(), None)),
        _ => image::layouts(old, new),
    };
    found.compared = functions.len();
    for function in functions.into_iter().filter(|f| f.verdict != Verdict::Unchanged) {
        let object = within(name, &function.file);
        found.functions.push(FunctionPlan {
            name: function.old_name.unwrap_or(function.name),
            object,
            verdict: function_verdict(without_update(function.verdict, true)).to_owned(),
            reason: function.reason,
            matched_bytes: 0,
            adapted_by: None,
            works_on: None,
            inner: false,
            reshaped: false,
        });
    }
    found.data.extend(data.into_iter().filter_map(|data| {
        Some(DataPlan {
            object: within(name, &data.file),
            verdict: data_change(data.change)?.to_owned(),
            name: data.name,
            reason: data.reason,
            ..DataPlan::default()
        })
    }));
    let (layouts, unknown) = layouts?;
    found.layouts(name, &layouts, unknown);
    let comment = |i: &Image<'_>| compilers(i.section(".comment").map(|s| &*s.section.data));
    found.compilers(&comment(old), &comment(new));
    Ok(found)
}

/// What cannot be redirected or copied has changed all the same; no update is made here.
fn without_update(verdict: Verdict, in_v1: bool) -> Verdict {
    match (verdict, in_v1) {
        (Verdict::Refused, true) => Verdict::Changed,
        (Verdict::Refused, false) => Verdict::New,
        (other, _) => other,
    }
}

/// What a person calls a part of an image.
pub fn within(name: &str, file: &str) -> String {
    if file.is_empty() { name.to_owned() } else { format!("{name} ({file})") }
}

fn objects(name: &str, old: &Object<'_>, new: &Object<'_>, only: Option<Only>) -> Result<Found> {
    for (object, side) in [(old, "V1"), (new, "V2")] {
        if object.elf.symbols.len() <= 1 && !object.elf.sections.is_empty() {
            bail!("{name}: {side} is stripped (no symbol table): functions cannot be told apart");
        }
    }
    let mut comparison = Pair::compare(old, new)?;
    match only {
        Some(Only::Layouts) => {
            comparison.functions.clear();
            comparison.data.clear();
            comparison.retyped.clear();
            comparison.sections.clear();
        }
        Some(Only::Functions) => {
            comparison.layouts.clear();
            comparison.layouts_unknown = None;
        }
        None => {}
    }
    let mut found = Found { compared: comparison.functions.len(), ..Found::default() };
    for function in comparison.functions.iter().filter(|f| f.verdict != Verdict::Unchanged) {
        let verdict = without_update(function.verdict, function.v1.is_some());
        found.functions.push(FunctionPlan {
            name: function.old_name.clone().unwrap_or_else(|| function.name.clone()),
            object: name.to_owned(),
            verdict: function_verdict(verdict).to_owned(),
            reason: function.reason.clone(),
            matched_bytes: 0,
            adapted_by: None,
            works_on: None,
            inner: false,
            reshaped: false,
        });
    }
    for data in &comparison.data {
        if let Some(row) = data_verdict(data, name) {
            found.data.push(row);
        }
    }
    let retyped = comparison.retyped.iter();
    found
        .data
        .extend(retyped.filter_map(|variable| verdicts::retyped(&comparison, variable, name)));
    found.sections = !comparison.sections.is_empty();
    found.layouts(name, &comparison.layouts, comparison.layouts_unknown);
    for section in &comparison.sections {
        found.notes.push(format!("section {}: {}", section.section, section.reason));
    }
    let comment = |o: &Object<'_>| compilers(o.elf.section_by_name(".comment").map(|s| &*s.1.data));
    found.compilers(&comment(old), &comment(new));
    Ok(found)
}

impl Found {
    fn layouts(&mut self, name: &str, changes: &[LayoutChange], unknown: Option<String>) {
        self.layouts.extend(changes.iter().map(|layout| layouts::row(layout, name, &|_| false)));
        self.notes.extend(unknown.map(|why| format!("layouts are unknown: {why}")));
    }

    fn compilers(&mut self, old: &BTreeSet<String>, new: &BTreeSet<String>) {
        if old != new {
            let list = |all: &BTreeSet<String>| match all.len() {
                0 => "unknown".to_owned(),
                _ => all.iter().cloned().collect::<Vec<_>>().join(", "),
            };
            self.notes.push(format!(
                "the compilers differ ({} and {}), so code may differ for no other reason",
                list(old),
                list(new)
            ));
        }
    }
}

/// The compilers that `.comment` names.
fn compilers(comment: Option<&[u8]>) -> BTreeSet<String> {
    let texts = comment.unwrap_or(&[]).split(|b| *b == 0).filter(|text| !text.is_empty());
    texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}
