//! A whole release as the distribution built it: modules and image of both kernels are in its packages with debug
//! information, so that nothing is compiled. What belongs to which source is told by DWARF.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use dynamos_differ::image::{self, Image, ImageData};
use dynamos_differ::verdict::{DataChange, DataVerdict, Verdict};
use dynamos_differ::{Object, Pair};

use super::Journal;
use crate::binaries::{Files, by_kind, files};
use crate::candidates::{Candidate, Candidates};
use crate::input::Spec;
use crate::layouts;
use crate::plan::{DataPlan, LayoutKey, ObjectPlan, Plan, Refusal};
use crate::report::Reporter;
use crate::verdicts::{self, FunctionRow, data_change};

/// From so many objects on it takes less time to fetch 2 GB of packages than to compile them all.
const WORTH_IT: usize = 500;

/// What the modules are linked with beside their sources: it says for which kernel they are.
const GENERATED: [&str; 2] = [".mod.c", "module-common.c"];

/// Sections of the image that do not outlast the start, or only tell modules and tools what there is.
const NOT_STATE: [&str; 9] = [
    "__dyndbg",
    ".init",
    "__ksymtab",
    "__kcrctab",
    "__param",
    "__modver",
    ".orc_",
    "__bug_table",
    ".BTF",
];

/// The built files of both kernels, by the part of the kernel they are: `vmlinux`, or a module.
#[derive(Debug)]
pub struct Shipped {
    v1: BTreeMap<String, (String, PathBuf)>,
    v2: BTreeMap<String, (String, PathBuf)>,
}

/// The candidates of a part of the kernel, by object.
type Asked<'a> = BTreeMap<&'a str, &'a Candidate>;

/// A part of the kernel on both sides.
#[derive(Hash)]
struct Part<'a> {
    owner: &'a str,
    /// Its path among the distribution's files.
    name: &'a str,
    old: &'a Path,
    new: &'a Path,
}

/// The functions of an object; by default, of one that the built files say nothing of.
#[derive(Debug, Default)]
struct Count {
    source: String,
    functions: usize,
    changed: usize,
}

/// What is left to do when the distribution's builds are compared.
#[derive(Debug, Default)]
pub struct Rest {
    /// The objects that are in none of them.
    pub missing: BTreeSet<String>,
    /// Which parts of the kernel have a type that differs.
    pub seen: BTreeMap<LayoutKey, BTreeSet<String>>,
}

impl Shipped {
    /// Provides them, if both sides are of the distribution and there is much to compare.
    pub fn open(
        sides: [&Spec; 2],
        objects: usize,
        cache: Option<&Path>,
        reporter: &Reporter,
    ) -> Result<Option<Shipped>> {
        let [Spec::Deb(v1), Spec::Deb(v2)] = sides else { return Ok(None) };
        if objects < WORTH_IT {
            return Ok(None);
        }
        reporter.phase("provide", "providing the distribution's own builds");
        let side = |version: &String, which| {
            let found = files(&Spec::DebDbg(version.clone()), cache, which)
                .context("--compile does without the distribution's builds")?;
            Ok::<_, anyhow::Error>(by_owner(found))
        };
        Ok(Some(Shipped { v1: side(v1, "V1")?, v2: side(v2, "V2")? }))
    }

    /// Compares them, and adds what is found to the plan.
    pub fn judge(
        &self,
        found: &Candidates,
        journal: &Journal,
        jobs: Option<usize>,
        reporter: &Reporter,
        plan: &mut Plan,
    ) -> Result<Rest> {
        let mut owners: BTreeMap<&str, Asked<'_>> = BTreeMap::new();
        for (object, candidate) in &found.objects {
            owners.entry(&candidate.owner).or_default().insert(object, candidate);
        }
        let mut parts: Vec<Part<'_>> = owners.keys().filter_map(|owner| self.part(owner)).collect();
        let missing = found
            .objects
            .iter()
            .filter(|(_, candidate)| self.part(&candidate.owner).is_none())
            .map(|(object, _)| object.clone())
            .collect();
        // The largest first, so that none is left to one thread in the end.
        parts.sort_by_key(|part| (std::cmp::Reverse(size(part.new)), part.owner));
        reporter.phase("compare", &format!("comparing {} parts of the kernel", parts.len()));
        let judged = journal.each(
            jobs,
            reporter,
            &parts,
            |part| part.owner,
            |part| Ok((part, [built(part.old)?, built(part.new)?], asked(&owners, part)?)),
            |part| {
                one(part, asked(&owners, part)?).with_context(|| format!("comparing {}", part.name))
            },
        )?;
        let mut seen: BTreeMap<LayoutKey, BTreeSet<String>> = BTreeMap::new();
        for (owner, mut part) in judged {
            part.layouts.retain(|row| {
                let parts = seen.entry(row.key()).or_default();
                parts.insert(owner.to_owned());
                parts.len() == 1
            });
            plan.absorb(part);
        }
        plan.notes.push(format!(
            "{} parts of the kernel were compared as the distribution built them, each side with its own \
             configuration and compiler; a change of a type is told of the first part that has it; --users looks for \
             its users",
            parts.len()
        ));
        Ok(Rest { missing, seen })
    }

    fn part<'a>(&'a self, owner: &'a str) -> Option<Part<'a>> {
        let ((name, old), (_, new)) = (self.v1.get(owner)?, self.v2.get(owner)?);
        Some(Part { owner, name, old, new })
    }
}

/// The name of a module is that of its file, with underscores.
fn by_owner(files: Files) -> BTreeMap<String, (String, PathBuf)> {
    let owner = |name: &str| {
        let file = name.rsplit('/').next().unwrap_or(name);
        file.strip_suffix(".ko").map_or_else(|| file.to_owned(), |stem| stem.replace('-', "_"))
    };
    files.into_iter().map(|(name, path)| (owner(&name), (name, path))).collect()
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |data| data.len())
}

fn asked<'o, 'a>(owners: &'o BTreeMap<&str, Asked<'a>>, part: &Part<'_>) -> Result<&'o Asked<'a>> {
    owners.get(part.owner).context("a part nobody asked for")
}

/// What tells a file from another one that may take its place: packages are unpacked once, so this is enough.
fn built(path: &Path) -> Result<(u64, SystemTime)> {
    let data = path.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    Ok((data.len(), data.modified()?))
}

/// What there is to say of one part.
fn one(part: &Part<'_>, candidates: &Asked<'_>) -> Result<Plan> {
    by_kind(
        part.name,
        (part.old, part.new),
        |old, new| linked(part, candidates, old, new),
        |old, new| module(part, candidates, old, new),
    )
}

/// The object that Kbuild makes of a source.
fn object_of(source: &str) -> String {
    match source.rsplit_once('.') {
        Some((stem, "c" | "S" | "rs")) => format!("{stem}.o"),
        _ => source.to_owned(),
    }
}

fn module(
    part: &Part<'_>,
    candidates: &Asked<'_>,
    old: &Object<'_>,
    new: &Object<'_>,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut comparison = Pair::compare(old, new)?;
    // The number of a type, filled in when the module was linked (resolve_btfids).
    let type_number = |data: &DataVerdict| {
        data.name.starts_with("__BTF_ID__") && data.change == DataChange::Changed
    };
    comparison.data.retain(|data| !is_for_the_loader(&data.name) && !type_number(data));
    comparison.retyped.retain(|variable| {
        !is_for_the_loader(&variable.name) && !variable.name.starts_with("__UNIQUE_ID_")
    });
    let own = Candidate { owner: part.owner.to_owned(), ..Candidate::default() };
    for (source, comparison) in comparison.by_unit(old, new)? {
        if GENERATED.iter().any(|end| source.ends_with(end)) {
            continue;
        }
        let object = if source.is_empty() { part.name.to_owned() } else { object_of(&source) };
        let candidate = candidates.get(object.as_str());
        if candidate.is_none() && comparison.is_unchanged() && comparison.layouts_unknown.is_none()
        {
            continue;
        }
        let alone = verdicts::replace_nothing([&comparison]);
        let candidate: &Candidate = candidate.map_or(&own, |candidate| candidate);
        verdicts::rows((&object, &source), candidate, &comparison, alone, &mut plan);
        // What is of no source is no object.
        if source.is_empty() {
            plan.objects.pop();
        }
    }
    let told: BTreeSet<String> = plan.objects.iter().map(|row| row.object.clone()).collect();
    let untold = candidates.iter().filter(|(object, _)| !told.contains(**object));
    plan.objects.extend(untold.map(|(object, of)| row(object, of, Count::default())));
    Ok(plan)
}

/// The row of a candidate.
fn row(object: &str, candidate: &Candidate, count: Count) -> ObjectPlan {
    let Count { source, functions, changed } = count;
    ObjectPlan {
        object: object.to_owned(),
        source,
        owner: candidate.owner.clone(),
        because: candidate.because.iter().cloned().collect(),
        functions,
        changed,
        reached: None,
    }
}

/// Whether a name is of what ties modules together by version, and follows from what is compared.
fn is_for_the_loader(name: &str) -> bool {
    const PREFIXES: [&str; 3] = ["__crc_", "__kstrtab", "____versions"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn linked(
    part: &Part<'_>,
    candidates: &Asked<'_>,
    old: &Image<'_>,
    new: &Image<'_>,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let contents = image::contents(old, new)?;
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for function in &contents.functions {
        let count = counts.entry(object_of(&function.file)).or_default();
        count.source.clone_from(&function.file);
        count.functions += 1;
        count.changed += usize::from(function.verdict == Verdict::Changed);
    }
    for function in &contents.functions {
        let object = object_of(&function.file);
        let row = FunctionRow {
            name: function.old_name.as_ref().unwrap_or(&function.name),
            verdict: function.verdict,
            reason: function.reason.clone(),
            lifetime: function.lifetime,
            in_v1: function.verdict != Verdict::New,
            inner: false,
        };
        let alone = counts.get(&object).is_none_or(|count| count.changed == 0);
        row.tell(if object.is_empty() { part.name } else { &object }, alone, &mut plan);
    }
    contents.data.into_iter().for_each(|data| variable(part, data, &mut plan));
    for (object, candidate) in candidates {
        let count = counts.remove(*object).unwrap_or_default();
        plan.objects.push(row(object, candidate, count));
    }
    let (types, unknown) = image::layouts(old, new)?;
    plan.layouts.extend(types.iter().map(|layout| layouts::row(layout, part.name, &|_| false)));
    if let Some(why) = unknown {
        let reason = format!("layouts cannot be compared: {why}");
        plan.refusals.push(Refusal::new(part.name, reason, "build with debug information"));
    }
    Ok(plan)
}

/// The row of a variable of the image, and the refusal if it is one that the running kernel goes on with.
fn variable(part: &Part<'_>, data: ImageData, plan: &mut Plan) {
    if NOT_STATE.iter().any(|section| data.section.starts_with(section)) {
        return;
    }
    let object = object_of(&data.file);
    let Some(verdict) = data_change(data.change) else { return };
    if matches!(verdict, "changed" | "resized") {
        let reason =
            format!("{verdict}: {}; the running kernel's copy is not touched yet", data.reason);
        plan.refusals.push(Refusal::of_state(&data.name, &reason));
    }
    plan.data.push(DataPlan {
        name: data.name,
        object: if object.is_empty() { part.name.to_owned() } else { object },
        verdict: verdict.into(),
        reason: data.reason,
        ..DataPlan::default()
    });
}

#[cfg(test)]
mod tests;
