//! Functions of two linked images: instruction by instruction, operands by what they point at.

use std::collections::{BTreeMap, BTreeSet};

use object::elf;
use rayon::prelude::*;
use serde::Serialize;

use super::code::{Compared, compare};
use super::load::Symbol;
use super::names::Names;
use super::pairing::{Id, Known, Paired, name, pair};
use super::special;
use crate::error::Result;
use crate::lines::Lines;
use crate::load::Section;
use crate::model::cold_parent;
use crate::names::is_padding;
use crate::verdict::{Lifetime, NO_SITE, Verdict, longer_lived, never_redirected};

/// The verdict on one function of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FunctionVerdict {
    /// Its name in v2, or in v1 if it was removed.
    pub name: String,
    /// The source file it is compiled from, by DWARF; without, what the linker noted, which is empty for global
    /// symbols.
    pub file: String,
    /// Its name in v1, if it is another.
    pub old_name: Option<String>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
    /// When it runs.
    pub lifetime: Lifetime,
}

/// Pairs all functions of two images. Clones of one function (`f.constprop.0`) are numbered as it comes: they are known by
/// what they do.
pub(super) fn paired(a: &Names<'_, '_>, b: &Names<'_, '_>) -> Paired {
    pair(a, b, is_function, &|x, y| compare((a, x, None), (b, y, None)).is_ok())
}

/// The code of a function on both sides.
pub(super) type Ids = (Option<Id>, Option<Id>);

/// The verdict on a function, and where its code is.
#[derive(Debug)]
pub(super) struct Row {
    pub verdict: FunctionVerdict,
    pub code: Ids,
    /// What the compiler moved out of its way.
    pub cold: Vec<Ids>,
}

/// Compares all functions of two images. Unchanged ones are in the list too. Second: what is known then of who is who.
pub(super) fn functions(
    a: &Names<'_, '_>,
    b: &Names<'_, '_>,
    paired: Paired,
    mut known: Known,
) -> Result<(Vec<Row>, Known)> {
    let Paired { pairs, removed, new } = paired;
    let mut compared: Vec<Compared> =
        pairs.par_iter().map(|(x, y)| compare((a, *x, None), (b, *y, None))).collect();
    forgive_lines(a, b, &pairs, &mut compared)?;
    let sites = special::sites(a.image);
    let mut judged = Vec::with_capacity(pairs.len());
    for ((x, y), result) in pairs.iter().zip(compared) {
        let result = result.and_then(|pairs| known.check(a, b, &pairs));
        let obstacle = not_redirectable(a, *x, sites.as_deref());
        let row = verdict((a, *x), (b, *y), result);
        judged.push(Judged { row, obstacle, code: (Some(*x), Some(*y)), cold: Vec::new() });
    }
    let alone = |side, verdict, reason: &str, code| {
        let row = FunctionVerdict { verdict, reason: reason.to_owned(), ..plain(side) };
        Judged { row, obstacle: None, code, cold: Vec::new() }
    };
    let gone = |x: &Id| alone((a, *x), Verdict::Removed, "not in v2", (Some(*x), None));
    judged.extend(removed.iter().map(gone));
    let come = |y: &Id| alone((b, *y), Verdict::New, "not in v1", (None, Some(*y)));
    judged.extend(new.iter().map(come));
    judged.sort();
    join_cold(&mut judged);
    Ok((judged.into_iter().map(Judged::settle).collect(), known))
}

/// A verdict, and why the function could not be replaced if it has changed.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Judged {
    row: FunctionVerdict,
    obstacle: Option<String>,
    code: Ids,
    cold: Vec<Ids>,
}

impl Judged {
    fn settle(self) -> Row {
        let Self { row, obstacle, code, cold } = self;
        let verdict = match obstacle {
            Some(why) if row.verdict == Verdict::Changed => FunctionVerdict {
                verdict: Verdict::Refused,
                reason: format!("{why}; changed: {}", row.reason),
                ..row
            },
            _ => row,
        };
        Row { verdict, code, cold }
    }
}

/// Why edition 0 could not be redirected. Without a table of ftrace's sites nobody knows who has one.
fn not_redirectable(names: &Names<'_, '_>, id: Id, sites: Option<&[u64]>) -> Option<String> {
    let symbol = names.image.symbols.get(id as usize)?;
    let site = || {
        let has = sites.is_none_or(|sites| special::has_site(sites, symbol.address, symbol.size));
        (!has).then(|| NO_SITE.to_owned())
    };
    never_redirected(section(names, id)).or_else(site)
}

/// Compares what differs once more, knowing which source line each instruction is of: a number that is its own line
/// (`ASSERT_RTNL`, `ext4_error`) is no difference.
fn forgive_lines(
    a: &Names<'_, '_>,
    b: &Names<'_, '_>,
    pairs: &[(Id, Id)],
    compared: &mut [Compared],
) -> Result<()> {
    let differing: Vec<(Id, Id)> = pairs
        .iter()
        .zip(compared.iter())
        .filter(|(_, compared)| compared.is_err())
        .map(|(pair, _)| *pair)
        .collect();
    let (old, new) = rayon::join(
        || lines(a, differing.iter().map(|pair| pair.0)),
        || lines(b, differing.iter().map(|pair| pair.1)),
    );
    let (old, new) = (old?, new?);
    pairs.par_iter().zip(compared.par_iter_mut()).filter(|(_, c)| c.is_err()).for_each(
        |((x, y), compared)| *compared = compare((a, *x, Some(&old)), (b, *y, Some(&new))),
    );
    Ok(())
}

/// The lines of the units that functions are from.
pub(super) fn lines(names: &Names<'_, '_>, functions: impl Iterator<Item = Id>) -> Result<Lines> {
    let units = units(names, functions);
    Lines::of(&names.image.name, &names.image.debug(), &|unit| units.contains(&unit))
}

/// The numbers of the units that functions are from.
pub(super) fn units(names: &Names<'_, '_>, functions: impl Iterator<Item = Id>) -> BTreeSet<usize> {
    let address = |id: Id| Some(names.image.symbols.get(id as usize)?.address);
    functions.filter_map(|id| names.units.of_code(address(id)?)).collect()
}

fn verdict(
    old: (&Names<'_, '_>, Id),
    new: (&Names<'_, '_>, Id),
    result: std::result::Result<(), String>,
) -> FunctionVerdict {
    let (before, same) = (name(old.0, old.1).0, plain(new));
    let was = (before != same.name).then(|| before.clone());
    let outlives = longer_lived(section(old.0, old.1), section(new.0, new.1));
    let lifetime = Lifetime::of_both(plain(old).lifetime, same.lifetime);
    let (verdict, reason) = match (outlives, result) {
        (Some(why), _) => (Verdict::Refused, why),
        (None, Ok(())) if was.is_none() => (Verdict::Unchanged, String::new()),
        (None, Ok(())) => (Verdict::Renamed, format!("was {before}")),
        (None, Err(reason)) => (Verdict::Changed, reason),
    };
    FunctionVerdict { old_name: was, verdict, reason, lifetime, ..same }
}

/// An unchanged function.
fn plain((names, id): (&Names<'_, '_>, Id)) -> FunctionVerdict {
    let (name, file) = name(names, id);
    FunctionVerdict {
        name,
        file,
        old_name: None,
        verdict: Verdict::Unchanged,
        reason: String::new(),
        lifetime: Lifetime::of_section(section(names, id)),
    }
}

fn section<'d>(names: &Names<'_, 'd>, id: Id) -> &'d str {
    let symbol = names.image.symbols.get(id as usize);
    symbol.and_then(|s| names.image.sections.get(s.section as usize)).map_or("", |s| s.section.name)
}

/// Counts what the compiler moved out of a function's way (`f.cold`) as a part of it.
fn join_cold(judged: &mut Vec<Judged>) {
    let at: BTreeMap<(&str, &str), usize> = judged
        .iter()
        .enumerate()
        .map(|(index, Judged { row, .. })| ((row.name.as_str(), row.file.as_str()), index))
        .collect();
    let mut parts = BTreeMap::new();
    for (index, Judged { row, .. }) in judged.iter().enumerate() {
        let Some(name) = cold_parent(&row.name) else { continue };
        // Without DWARF a global function is of no file, but its parts are.
        let of = at.get(&(name, row.file.as_str())).or_else(|| at.get(&(name, "")));
        if let Some(of) = of {
            parts.insert(index, *of);
        }
    }
    let same = |row: &FunctionVerdict| matches!(row.verdict, Verdict::Unchanged | Verdict::Renamed);
    for (part, of) in &parts {
        let code = judged.get(*part).map(|part| part.code);
        if let Some(of) = judged.get_mut(*of) {
            of.cold.extend(code);
        }
        let Some(Judged { row, .. }) = judged.get(*part).filter(|part| !same(&part.row)) else {
            continue;
        };
        let reason = format!("its part out of the way ({}): {}", row.name, row.reason);
        if let Some(Judged { row, .. }) = judged.get_mut(*of).filter(|of| same(&of.row)) {
            (row.verdict, row.reason) = (Verdict::Changed, reason);
        }
    }
    let mut index = 0..;
    judged.retain(|_| index.next().is_none_or(|index| !parts.contains_key(&index)));
}

fn is_function(symbol: &Symbol<'_>, section: &Section<'_>) -> bool {
    let code = section.is_exec() && !section.is_nobits();
    symbol.kind == elf::STT_FUNC && code && !is_padding(symbol.name)
}
