//! Functions of two linked images: instruction by instruction, operands by what they point at.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use object::elf;
use rayon::prelude::*;
use serde::Serialize;

use super::code::{Compared, Pairs, compare};
use super::load::Symbol;
use super::names::Names;
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

/// A function or variable: index of its best symbol.
pub(super) type Id = u32;

/// Compares all functions of two images. Unchanged ones are in the list too.
pub(super) fn functions(a: &Names<'_, '_>, b: &Names<'_, '_>) -> Result<Vec<FunctionVerdict>> {
    let (pairs, removed, new) = pair(a, b, is_function);
    let mut compared: Vec<Compared> =
        pairs.par_iter().map(|(x, y)| compare((a, *x, None), (b, *y, None))).collect();
    forgive_lines(a, b, &pairs, &mut compared)?;
    let sites = special::sites(a.image);
    let mut judged = Vec::with_capacity(pairs.len());
    let mut known = Known::default();
    for ((x, y), result) in pairs.iter().zip(compared) {
        let result = result.and_then(|pairs| known.check(a, b, pairs));
        let obstacle = not_redirectable(a, *x, sites.as_deref());
        judged.push(Judged { row: verdict((a, *x), (b, *y), result), obstacle });
    }
    let alone = |side, verdict, reason: &str| {
        let row = FunctionVerdict { verdict, reason: reason.to_owned(), ..plain(side) };
        Judged { row, obstacle: None }
    };
    judged.extend(removed.iter().map(|x| alone((a, *x), Verdict::Removed, "not in v2")));
    judged.extend(new.iter().map(|y| alone((b, *y), Verdict::New, "not in v1")));
    judged.sort();
    join_cold(&mut judged);
    Ok(judged.into_iter().map(Judged::settle).collect())
}

/// A verdict, and why the function could not be replaced if it has changed.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Judged {
    row: FunctionVerdict,
    obstacle: Option<String>,
}

impl Judged {
    fn settle(self) -> FunctionVerdict {
        let Self { row, obstacle } = self;
        match obstacle {
            Some(why) if row.verdict == Verdict::Changed => FunctionVerdict {
                verdict: Verdict::Refused,
                reason: format!("{why}; changed: {}", row.reason),
                ..row
            },
            _ => row,
        }
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
fn lines(names: &Names<'_, '_>, functions: impl Iterator<Item = Id>) -> Result<Lines> {
    let address = |id: Id| Some(names.image.symbols.get(id as usize)?.address);
    let units: BTreeSet<usize> =
        functions.filter_map(|id| names.units.of_code(address(id)?)).collect();
    Lines::of(&names.image.name, &names.image.debug(), &|unit| units.contains(&unit))
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

/// What a symbol is called, and the source it is from.
pub(super) fn name(names: &Names<'_, '_>, id: Id) -> (String, String) {
    let Some(symbol) = names.image.symbols.get(id as usize) else { return Default::default() };
    (symbol.name.to_owned(), names.source(symbol).to_owned())
}

/// Which numbered variable of one side is which of the other, as the functions compared so far have it.
#[derive(Default)]
struct Known {
    forth: HashMap<u32, u32>,
    back: HashMap<u32, u32>,
}

impl Known {
    fn check(
        &mut self,
        a: &Names<'_, '_>,
        b: &Names<'_, '_>,
        pairs: Pairs,
    ) -> std::result::Result<(), String> {
        for (x, y) in pairs {
            let (forth, back) =
                (*self.forth.entry(x).or_insert(y), *self.back.entry(y).or_insert(x));
            if forth != y || back != x {
                return Err(format!(
                    "uses {} where it used {}, which other functions know as another variable",
                    name(b, y).0,
                    name(a, x).0
                ));
            }
        }
        Ok(())
    }
}

/// What kind of symbol is wanted.
pub(super) type Wanted = fn(&Symbol<'_>, &Section<'_>) -> bool;

fn is_function(symbol: &Symbol<'_>, section: &Section<'_>) -> bool {
    let code = section.is_exec() && !section.is_nobits();
    symbol.kind == elf::STT_FUNC && code && !is_padding(symbol.name)
}

/// All wanted symbols of an image, by identity: one for each address.
fn all(names: &Names<'_, '_>, wanted: Wanted) -> BTreeMap<u64, Vec<Id>> {
    let mut at: BTreeMap<(u32, u64), Id> = BTreeMap::new();
    let symbols = &names.image.symbols;
    for (id, symbol) in symbols.iter().enumerate() {
        let section = names.image.sections.get(symbol.section as usize);
        if symbol.size == 0 || !section.is_some_and(|s| wanted(symbol, &s.section)) {
            continue;
        }
        let rank = |id: Id| symbols.get(id as usize).map(|s| (!s.global, s.name));
        let best = at.entry((symbol.section, symbol.address)).or_insert(id as Id);
        if rank(id as Id) < rank(*best) {
            *best = id as Id;
        }
    }
    let mut all: BTreeMap<u64, Vec<Id>> = BTreeMap::new();
    for id in at.into_values() {
        if let Some(identity) = names.identities.get(id as usize) {
            all.entry(identity.hash).or_default().push(id);
        }
    }
    all
}

/// Pairs symbols by identity; of several with one identity those of one name, then the others by order.
#[allow(clippy::type_complexity)] // pairs, removed, new
pub(super) fn pair(
    a: &Names<'_, '_>,
    b: &Names<'_, '_>,
    wanted: Wanted,
) -> (Vec<(Id, Id)>, Vec<Id>, Vec<Id>) {
    let (old, mut new) = (all(a, wanted), all(b, wanted));
    let (mut pairs, mut removed) = (Vec::new(), Vec::new());
    for (hash, mut xs) in old {
        let mut ys = new.remove(&hash).unwrap_or_default();
        xs.retain(|x| {
            let same = ys.iter().position(|y| name(a, *x).0 == name(b, *y).0);
            match same {
                Some(at) => pairs.push((*x, ys.remove(at))),
                None => return true,
            }
            false
        });
        let rest = xs.len().min(ys.len());
        pairs.extend(xs.drain(..rest).zip(ys.drain(..rest)));
        removed.extend(xs);
        if !ys.is_empty() {
            new.insert(hash, ys);
        }
    }
    pairs.sort_unstable();
    let mut new: Vec<Id> = new.into_values().flatten().collect();
    removed.sort_unstable();
    new.sort_unstable();
    (pairs, removed, new)
}
