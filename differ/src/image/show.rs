//! Functions of two linked images, row by row, for a person to read: instructions with names for what their operands point
//! at, and what the tables say of them that are compared.

use std::collections::BTreeSet;

use iced_x86::{Instruction, OpKind, Register};
use rayon::prelude::*;

use super::code::{Pairs, Side, branches, is_address, is_mask, same_at};
use super::content::string_at;
use super::functions::{self, FunctionVerdict, Ids, Row as Judged};
use super::load::Image;
use super::names::{Names, Target};
use super::pairing::{Id, Known};
use super::per_cpu;
use super::special::{Entry, leads_alike, puts_the_same};
use crate::decode::Field;
use crate::error::Result;
use crate::inlined::Inlined;
use crate::lines::Lines;
use crate::names::base;
use crate::show::{Code, Mark, Part, Row, Source, Sources, align, format, quoted};
use crate::verdict::Verdict;

/// A function of two images.
#[derive(Debug, Clone)]
pub struct FunctionView {
    /// What became of it.
    pub verdict: FunctionVerdict,
    /// Its code, and that which is out of its way.
    pub parts: Vec<Part>,
}

/// Of each name the functions that have it; if there are none, those that differ in what was inlined from one of it, unless
/// it `is_other`: looking for these takes as long as all the rest.
pub fn show(
    v1: &Image<'_>,
    v2: &Image<'_>,
    wanted: &[String],
    is_other: &dyn Fn(&str) -> Result<bool>,
) -> Result<Vec<Vec<FunctionView>>> {
    super::named(v1, v2, |a, b| {
        let paired = functions::paired(a, b);
        let known = Known::of(a, b, &paired.pairs);
        let (all, known) = functions::functions(a, b, paired, known)?;
        let images = Images { a, b, known };
        let of = |name: &String| match images.called(&all, name)? {
            none if none.is_empty() && !is_other(name)? => images.within(&all, name),
            found => Ok(found),
        };
        wanted.iter().map(of).collect()
    })
}

/// Whether it is the function meant: by its name, or by the one that gcc made a clone of.
fn is_called(verdict: &FunctionVerdict, name: &str) -> bool {
    let clone_of =
        |full: &str| full == name || full.strip_prefix(name).is_some_and(|r| r.starts_with('.'));
    clone_of(&verdict.name) || verdict.old_name.as_deref().is_some_and(clone_of)
}

/// Both images, and who is who in them.
struct Images<'n, 'i, 'd> {
    a: &'n Names<'i, 'd>,
    b: &'n Names<'i, 'd>,
    known: Known,
}

impl Images<'_, '_, '_> {
    fn called(&self, all: &[Judged], name: &str) -> Result<Vec<FunctionView>> {
        let found: Vec<&Judged> = all.iter().filter(|row| is_called(&row.verdict, name)).collect();
        self.views(&found)
    }

    fn within(&self, all: &[Judged], name: &str) -> Result<Vec<FunctionView>> {
        let differ =
            |row: &&Judged| matches!(row.verdict.verdict, Verdict::Changed | Verdict::Refused);
        let changed: Vec<&Judged> = all.iter().filter(differ).collect();
        let within = self.with_code_of(&changed, name)?;
        let mut views = self.views(&within)?;
        let is_there = |code: &Option<Code>| {
            code.as_ref().is_some_and(|code| code.inlined.as_deref() == Some(name))
        };
        views.retain(|view| {
            let mut rows = view.parts.iter().flat_map(|part| &part.rows);
            rows.any(|row| row.mark != Mark::Same && (is_there(&row.old) || is_there(&row.new)))
        });
        Ok(views)
    }

    /// Those that have code of an inlined function, on either side.
    fn with_code_of<'r>(&self, rows: &[&'r Judged], name: &str) -> Result<Vec<&'r Judged>> {
        let side = |names: &Names<'_, '_>, which: fn(&Ids) -> Option<Id>| {
            let inlined =
                inlined(names, rows.iter().flat_map(|row| ids(row)).filter_map(|i| which(&i)))?;
            let ranges: Vec<(u64, u64)> = inlined.of_name(name).collect();
            let has = |id: Id| {
                names.image.symbols.get(id as usize).is_some_and(|s| {
                    let end = s.address.saturating_add(s.size);
                    ranges.iter().any(|range| range.0 < end && s.address < range.1)
                })
            };
            Ok(rows.iter().map(|row| ids(row).filter_map(|i| which(&i)).any(has)).collect())
        };
        let (old, new): (Result<Vec<bool>>, Result<Vec<bool>>) =
            rayon::join(|| side(self.a, |ids| ids.0), || side(self.b, |ids| ids.1));
        let (old, new) = (old?, new?);
        let either = rows.iter().zip(old.iter().zip(&new)).filter(|(_, (x, y))| **x || **y);
        Ok(either.map(|(row, _)| *row).collect())
    }

    fn views(&self, rows: &[&Judged]) -> Result<Vec<FunctionView>> {
        let all = || rows.iter().flat_map(|row| ids(row));
        let (old, new) = rayon::join(
            || Told::of(self.a, &all().filter_map(|ids| ids.0).collect()),
            || Told::of(self.b, &all().filter_map(|ids| ids.1).collect()),
        );
        let told = (old?, new?);
        Ok(rows.par_iter().map(|row| self.view(row, &told)).collect())
    }

    fn view(&self, row: &Judged, (old, new): &(Told, Told)) -> FunctionView {
        let name = &row.verdict.name;
        let faced = |(name, code): (String, Ids)| {
            let old = code.0.map(|id| Piece::of(self.a, id, old));
            Faced::new(name, old, code.1.map(|id| Piece::of(self.b, id, new)))
        };
        let cold = row.cold.iter().map(|code| (format!("{name}, cold part"), *code));
        let all: Vec<(String, Ids)> =
            std::iter::once((name.clone(), row.code)).chain(cold).collect();
        let all: Vec<Faced<'_, '_, '_>> = all.into_iter().map(faced).collect();
        let mut known = self.known.clone();
        let mut parts = Vec::new();
        for faced in &all {
            let mut rows = faced.instructions(&all, self, &mut known);
            rows.extend(faced.entries(&all, self, &mut known));
            parts.push(Part { name: faced.name.clone(), rows });
        }
        FunctionView { verdict: row.verdict.clone(), parts }
    }
}

/// The code of a function and of what is out of its way.
fn ids(row: &Judged) -> impl Iterator<Item = Ids> {
    std::iter::once(row.code).chain(row.cold.iter().copied())
}

fn inlined(names: &Names<'_, '_>, code: impl Iterator<Item = Id>) -> Result<Inlined> {
    let units = functions::units(names, code);
    Inlined::of(&names.image.name, &names.image.debug(), &|unit| units.contains(&unit))
}

/// What debug information says of the code of one side.
struct Told {
    lines: Lines,
    sources: Sources,
    inlined: Inlined,
}

impl Told {
    fn of(names: &Names<'_, '_>, code: &BTreeSet<Id>) -> Result<Self> {
        let units = functions::units(names, code.iter().copied());
        let sources =
            Sources::of(&names.image.name, &names.image.debug(), &|unit| units.contains(&unit));
        Ok(Self {
            lines: functions::lines(names, code.iter().copied())?,
            // What has no readable line tables is shown without lines.
            sources: sources.unwrap_or_default(),
            inlined: inlined(names, code.iter().copied())?,
        })
    }
}

/// Code of one side.
struct Piece<'n, 'i, 'd> {
    side: Side<'n, 'i, 'd>,
    told: &'n Told,
    insns: Vec<Instruction>,
}

impl<'n, 'i, 'd> Piece<'n, 'i, 'd> {
    fn of(names: &'n Names<'i, 'd>, id: Id, told: &'n Told) -> Self {
        let side = Side::new((names, id, Some(&told.lines)));
        let insns = side.decoder().into_iter().collect();
        Self { side, told, insns }
    }

    /// Which instruction is at an address, and how far into it.
    fn position(&self, address: u64) -> Option<(usize, u64)> {
        self.side.inside(address)?;
        let index = self.insns.partition_point(|i| i.ip() <= address).checked_sub(1)?;
        Some((index, address.wrapping_sub(self.insns.get(index)?.ip())))
    }

    /// What a person would call an address; `plain`: without what says nothing of what it is.
    fn name(&self, address: u64, plain: bool) -> String {
        if self.side.inside(address).is_some_and(|offset| offset > 0) {
            return if plain { "+".to_owned() } else { self.offset(address) };
        }
        let names = self.side.names;
        match names.at(address) {
            Target::Symbol(id, offset) if plain => {
                let name = names.known(id).map_or("?", |(_, symbol)| symbol.name);
                let base = base(name);
                // Numbers of the compiler, and offsets of its parts, move by themselves.
                format!("{}{}+{offset:#x}", base.text, base.clone)
            }
            Target::Anonymous(id) if !names.executable(id) => match string_at(names, address) {
                Some(text) if !text.is_empty() => quoted(&String::from_utf8_lossy(text)),
                _ if plain || names.writable(id) => names.describe(address),
                _ => {
                    let bytes = names.bytes(address);
                    let bytes = bytes.get(..names.unnamed(address, 1).min(8)).unwrap_or_default();
                    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    let section = names.image.sections.get(id as usize);
                    format!("{}:{{{}}}", section.map_or("?", |s| s.section.name), hex.join(" "))
                }
            },
            _ => names.describe(address),
        }
    }

    fn offset(&self, address: u64) -> String {
        format!("+{:#x}", address.wrapping_sub(self.side.start))
    }

    /// The fields of an instruction that are addresses.
    fn addresses(&self, i: &Instruction) -> Vec<(Field, u64)> {
        if i.is_invalid() {
            return Vec::new();
        }
        if branches(i) {
            return vec![(Field::Branch, i.near_branch_target())];
        }
        let names = self.side.names;
        let number = |number: u64, field| {
            let there = names.at(number) != Target::Number;
            there && (is_address(number) || self.side.is_offset(number, i.ip(), field))
        };
        let mut found = Vec::new();
        let in_memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        if in_memory {
            let at = i.memory_displacement64();
            let of_cpu = i.memory_segment() == Register::GS
                && i.memory_displ_size() >= 4
                && matches!(names.at(at), Target::Symbol(..));
            if i.is_ip_rel_memory_operand() || of_cpu || number(at, per_cpu::Field::Displacement) {
                found.push((Field::Displacement, at));
            }
        }
        let immediates = (0..i.op_count()).filter_map(|n| i.try_immediate(n).ok());
        let immediates =
            immediates.filter(|n| !is_mask(i) && number(*n, per_cpu::Field::Immediate));
        found.extend(immediates.map(|n| (Field::Immediate, n)));
        found
    }

    fn text(&self, i: &Instruction, plain: bool) -> String {
        if i.is_invalid() {
            let from = usize::try_from(i.ip().wrapping_sub(self.side.start)).unwrap_or(usize::MAX);
            let bytes = self.side.bytes.get(from..from.saturating_add(i.len())).unwrap_or_default();
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:#04x}")).collect();
            return format!(".byte {}", hex.join(","));
        }
        let names = self.addresses(i).into_iter();
        format(i, names.map(|(field, address)| (field, self.name(address, plain))).collect())
    }

    fn keys(&self) -> Vec<String> {
        self.insns.iter().map(|i| self.text(i, true)).collect()
    }

    /// What there is to say of a place.
    fn line(&self, address: u64, text: String) -> Code {
        let start = self.side.start;
        let source = self.told.sources.at_address(address).filter(|(from, _)| *from >= start);
        Code {
            offset: address.wrapping_sub(start),
            text,
            source: source.map(|(_, source): (u64, Source)| source),
            inlined: self.told.inlined.at_address(address).map(str::to_owned),
        }
    }

    fn entries(&self) -> &[Entry] {
        self.side.names.entries.within(self.side.start, self.side.bytes.len())
    }

    /// What an entry says.
    fn told(&self, entry: &Entry, plain: bool) -> String {
        let mut words = Vec::new();
        words.extend(entry.leads.map(|to| format!("to {}", self.name(to, plain))));
        words.extend(entry.key.map(|key| format!("key {}", self.name(key, plain))));
        words.push(format!("flags {:#x}", entry.number));
        if let Some((at, len)) = entry.replacement {
            let aside = self.side.aside(at, len);
            let code = Piece { insns: aside.decoder().into_iter().collect(), side: aside, ..*self };
            let code: Vec<String> = code.insns.iter().map(|i| code.text(i, plain)).collect();
            words.push(if code.is_empty() { "nothing".to_owned() } else { code.join("; ") });
        }
        format!("{}: {}", entry.table(), words.join(", "))
    }
}

/// A part of a function on both sides.
struct Faced<'n, 'i, 'd> {
    name: String,
    old: Option<Piece<'n, 'i, 'd>>,
    new: Option<Piece<'n, 'i, 'd>>,
    /// The instructions that face each other.
    pairs: Vec<(Option<usize>, Option<usize>)>,
    /// By the instruction of the old side.
    partner: Vec<Option<usize>>,
}

impl<'n, 'i, 'd> Faced<'n, 'i, 'd> {
    fn new(name: String, old: Option<Piece<'n, 'i, 'd>>, new: Option<Piece<'n, 'i, 'd>>) -> Self {
        let keys =
            |piece: &Option<Piece<'_, '_, '_>>| piece.as_ref().map(Piece::keys).unwrap_or_default();
        let (x, y) = (keys(&old), keys(&new));
        let pairs = align(&x, &y);
        let mut partner = vec![None; x.len()];
        for (i, j) in &pairs {
            if let Some(place) = i.and_then(|i| partner.get_mut(i)) {
                *place = *j;
            }
        }
        Self { name, old, new, pairs, partner }
    }

    fn instructions(
        &self,
        all: &[Self],
        images: &Images<'_, '_, '_>,
        known: &mut Known,
    ) -> Vec<Row<Code>> {
        let of = |piece: &'_ Option<Piece<'_, '_, '_>>, index: Option<usize>| {
            piece.as_ref()?.insns.get(index?).copied()
        };
        let code = |piece: &Option<Piece<'_, '_, '_>>, i: Option<Instruction>| {
            let (piece, i) = (piece.as_ref()?, i?);
            Some(piece.line(i.ip(), piece.text(&i, false)))
        };
        let mut rows = Vec::new();
        for (i, j) in &self.pairs {
            let (i, j) = (of(&self.old, *i), of(&self.new, *j));
            let same = i.zip(j).is_some_and(|(i, j)| self.same(all, images, known, (&i, &j)));
            rows.push(row(same, code(&self.old, i), code(&self.new, j)));
        }
        rows
    }

    /// Whether two instructions mean the same. A jump does if its targets face each other, however far away they are.
    fn same(
        &self,
        all: &[Self],
        images: &Images<'_, '_, '_>,
        known: &mut Known,
        (i, j): (&Instruction, &Instruction),
    ) -> bool {
        let (Some(old), Some(new)) = (&self.old, &self.new) else { return false };
        if branches(i) && branches(j) {
            let (p, q) = (i.near_branch_target(), j.near_branch_target());
            if let Some(same) = faces(all, p, q) {
                return same && i.mnemonic() == j.mnemonic();
            }
        }
        let mut pairs = Pairs::new();
        same_at(&old.side, i.ip(), &new.side, j.ip(), &mut pairs)
            && known.check(images.a, images.b, &pairs).is_ok()
    }

    fn entries(
        &self,
        all: &[Self],
        images: &Images<'_, '_, '_>,
        known: &mut Known,
    ) -> Vec<Row<Code>> {
        let list = |piece: &Option<Piece<'_, '_, '_>>| {
            piece.as_ref().map(|piece| piece.entries().to_vec()).unwrap_or_default()
        };
        let keys = |piece: &Option<Piece<'_, '_, '_>>, list: &[Entry]| -> Vec<String> {
            let told = |entry| piece.as_ref().map(|piece| piece.told(entry, true));
            list.iter().filter_map(told).collect()
        };
        let (x, y) = (list(&self.old), list(&self.new));
        let kinds = |list: &[Entry]| list.iter().map(|entry| entry.class).collect::<Vec<_>>();
        let pairs = if kinds(&x) == kinds(&y) {
            (0..x.len()).map(|at| (Some(at), Some(at))).collect()
        } else {
            align(&keys(&self.old, &x), &keys(&self.new, &y))
        };
        let code = |piece: &Option<Piece<'_, '_, '_>>, entry: Option<&Entry>| {
            let (piece, entry) = (piece.as_ref()?, entry?);
            Some(piece.line(entry.site, piece.told(entry, false)))
        };
        let mut rows = Vec::new();
        for (i, j) in pairs {
            let (i, j) = (i.and_then(|i| x.get(i)), j.and_then(|j| y.get(j)));
            let same = i.zip(j).is_some_and(|pair| self.same_entry(all, images, known, pair));
            rows.push(row(same, code(&self.old, i), code(&self.new, j)));
        }
        rows
    }

    fn same_entry(
        &self,
        all: &[Self],
        images: &Images<'_, '_, '_>,
        known: &mut Known,
        (x, y): (&Entry, &Entry),
    ) -> bool {
        let (Some(old), Some(new)) = (&self.old, &self.new) else { return false };
        let mut pairs = Pairs::new();
        let faced = |p: Option<u64>, q: Option<u64>| faces(all, p?, q?);
        x.class == y.class
            && x.number == y.number
            && faces(all, x.site, y.site) == Some(true)
            && faced(x.leads, y.leads)
                .unwrap_or_else(|| leads_alike(&old.side, x.leads, &new.side, y.leads, &mut pairs))
            && leads_alike(&old.side, x.key, &new.side, y.key, &mut pairs)
            && puts_the_same(&old.side, x, &new.side, y, &mut pairs)
            && known.check(images.a, images.b, &pairs).is_ok()
    }
}

fn row(same: bool, old: Option<Code>, new: Option<Code>) -> Row<Code> {
    let mark = match (&old, &new) {
        (Some(_), Some(_)) if same => Mark::Same,
        (Some(_), Some(_)) => Mark::Differs,
        (Some(_), None) => Mark::Removed,
        _ => Mark::Added,
    };
    Row { mark, old, new }
}

/// Whether two addresses face each other; nothing if neither is in the code that is shown.
fn faces(all: &[Faced<'_, '_, '_>], p: u64, q: u64) -> Option<bool> {
    let mut parts = all.iter().enumerate();
    let old = parts.find_map(|(at, faced)| Some((at, faced.old.as_ref()?.position(p)?)));
    let mut parts = all.iter().enumerate();
    let new = parts.find_map(|(at, faced)| Some((at, faced.new.as_ref()?.position(q)?)));
    match (old, new) {
        (None, None) => None,
        // The beginning is what the name stands for.
        (Some((x, (0, 0))), Some((y, (0, 0)))) => Some(x == y),
        (Some((x, (i, into))), Some((y, (j, other)))) => {
            let partner = all.get(x).and_then(|faced| faced.partner.get(i).copied().flatten());
            Some(x == y && into == other && partner == Some(j))
        }
        _ => Some(false),
    }
}
