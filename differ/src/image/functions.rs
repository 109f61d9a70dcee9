//! Functions of two linked images: instruction by instruction, operands by what they point at.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iced_x86::{
    Decoder, DecoderOptions, Formatter, GasFormatter, Instruction, Mnemonic, OpKind, Register,
};
use object::elf;
use rayon::prelude::*;
use serde::Serialize;

use super::content::same;
use super::load::Symbol;
use super::names::{Names, Target};
use crate::error::Result;
use crate::lines::Lines;
use crate::load::Section;
use crate::names::is_padding;
use crate::verdict::Verdict;

/// The verdict on one function of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FunctionVerdict {
    /// Its name in v2, or in v1 if it was removed.
    pub name: String,
    /// The source file it is compiled from, by DWARF; without, what the linker noted, which is empty for global
    /// symbols.
    pub file: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
}

/// Where the kernel is linked to (`__START_KERNEL_map`).
pub(super) const KERNEL: u64 = 0xffff_ffff_8000_0000;

/// A function or variable: index of its best symbol.
pub(super) type Id = u32;

/// Numbered variables that two functions would have to share.
pub(super) type Pairs = Vec<(u32, u32)>;

/// What comes of two functions: nothing differs if the variables are pairs; or what does.
type Compared = std::result::Result<Pairs, String>;

/// A function of one side, with the lines of its source if they are known.
type Lined<'n, 'i, 'd> = (&'n Names<'i, 'd>, Id, Option<&'n Lines>);

/// Compares all functions of two images. Unchanged ones are in the list too.
pub(super) fn functions(a: &Names<'_, '_>, b: &Names<'_, '_>) -> Result<Vec<FunctionVerdict>> {
    let (pairs, removed, new) = pair(a, b, is_function);
    let mut compared: Vec<Compared> =
        pairs.par_iter().map(|(x, y)| compare((a, *x, None), (b, *y, None))).collect();
    forgive_lines(a, b, &pairs, &mut compared)?;
    let mut verdicts = Vec::with_capacity(pairs.len());
    let mut known = Known::default();
    for ((x, y), result) in pairs.iter().zip(compared) {
        let result = result.and_then(|pairs| known.check(a, b, pairs));
        verdicts.push(verdict(a, *x, b, *y, result));
    }
    let alone = |names: &Names<'_, '_>, id: Id, verdict, reason: &str| {
        let (name, file) = name(names, id);
        FunctionVerdict { name, file, verdict, reason: reason.to_owned() }
    };
    verdicts.extend(removed.iter().map(|x| alone(a, *x, Verdict::Removed, "not in v2")));
    verdicts.extend(new.iter().map(|y| alone(b, *y, Verdict::New, "not in v1")));
    verdicts.sort();
    Ok(verdicts)
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
    a: &Names<'_, '_>,
    x: Id,
    b: &Names<'_, '_>,
    y: Id,
    result: std::result::Result<(), String>,
) -> FunctionVerdict {
    let ((old, _), (name, file)) = (name(a, x), name(b, y));
    let (verdict, reason) = match result {
        Ok(()) if old == name => (Verdict::Unchanged, String::new()),
        Ok(()) => (Verdict::Renamed, format!("was {old}")),
        Err(reason) => (Verdict::Changed, reason),
    };
    FunctionVerdict { name, file, verdict, reason }
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

/// One side of a comparison.
struct Side<'n, 'i, 'd> {
    names: &'n Names<'i, 'd>,
    lines: Option<&'n Lines>,
    start: u64,
    bytes: &'i [u8],
}

impl<'n, 'i, 'd> Side<'n, 'i, 'd> {
    fn new((names, id, lines): Lined<'n, 'i, 'd>) -> Self {
        let symbol = names.image.symbols.get(id as usize);
        let (start, size) = symbol.map_or((0, 0), |s| (s.address, s.size));
        let bytes = names.bytes(start);
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len());
        Self { names, lines, start, bytes: bytes.get(..size).unwrap_or(bytes) }
    }

    /// Whether a number is the source line of the instruction at an address.
    fn is_line(&self, number: u64, address: u64) -> bool {
        let lines = self.lines.into_iter().flat_map(|lines| lines.at_address(address));
        let start = self.start;
        lines.filter(|(from, _)| *from >= start).any(|(_, line)| line == number)
    }

    fn show(&self, instruction: &Instruction) -> String {
        if instruction.is_invalid() {
            return "bytes that are no instruction".to_owned();
        }
        let mut text = String::new();
        GasFormatter::new().format(instruction, &mut text);
        match address_in(instruction) {
            Some(address) => format!("`{text}` ({})", self.names.describe(address)),
            None => format!("`{text}`"),
        }
    }
}

/// The address that a person would want explained.
fn address_in(instruction: &Instruction) -> Option<u64> {
    if branches(instruction) {
        Some(instruction.near_branch_target())
    } else if instruction.is_ip_rel_memory_operand() {
        Some(instruction.ip_rel_memory_address())
    } else {
        let immediates =
            (0..instruction.op_count()).filter_map(|i| instruction.try_immediate(i).ok());
        let mut numbers = immediates.chain([instruction.memory_displacement64()]);
        numbers.find(|number| *number >= KERNEL && *number < u64::MAX - 0xff_ffff)
    }
}

fn branches(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::NearBranch64
}

fn compare(x: Lined<'_, '_, '_>, y: Lined<'_, '_, '_>) -> Compared {
    let (a, b) = (Side::new(x), Side::new(y));
    let mut pairs = Pairs::new();
    let (mut old, mut new) = (decoder(&a), decoder(&b));
    let (mut i, mut j) = (Instruction::default(), Instruction::default());
    loop {
        match (old.can_decode(), new.can_decode()) {
            (false, false) => return Ok(pairs),
            (true, true) => {}
            _ => return Err(format!("{} bytes of code became {}", a.bytes.len(), b.bytes.len())),
        }
        old.decode_out(&mut i);
        new.decode_out(&mut j);
        let same = instruction(&a, (&i, &old), &b, (&j, &new), &mut pairs);
        if !same {
            let at = i.ip().wrapping_sub(a.start);
            return Err(format!("at +{at:#x}: {} became {}", a.show(&i), b.show(&j)));
        }
    }
}

fn decoder<'i>(side: &Side<'_, 'i, '_>) -> Decoder<'i> {
    Decoder::with_ip(64, side.bytes, side.start, DecoderOptions::NONE)
}

fn instruction(
    a: &Side<'_, '_, '_>,
    (i, old): (&Instruction, &Decoder<'_>),
    b: &Side<'_, '_, '_>,
    (j, new): (&Instruction, &Decoder<'_>),
    pairs: &mut Pairs,
) -> bool {
    let raw = |side: &Side<'_, '_, '_>, i: &Instruction| {
        let at = i.ip().wrapping_sub(side.start) as usize;
        (at, at + i.len())
    };
    let ((from, to), (from_b, to_b)) = (raw(a, i), raw(b, j));
    let (Some(x), Some(y)) = (a.bytes.get(from..to), b.bytes.get(from_b..to_b)) else {
        return false;
    };
    if i.code() != j.code() || x.len() != y.len() {
        return false;
    }
    if i.is_invalid() {
        return x == y;
    }
    let (fields, others) = (old.get_constant_offsets(i), new.get_constant_offsets(j));
    if fields.displacement_offset() != others.displacement_offset()
        || fields.immediate_offset() != others.immediate_offset()
        || fields.displacement_size() != others.displacement_size()
        || fields.immediate_size() != others.immediate_size()
    {
        return false;
    }
    let field = |at: usize| {
        let within = |start: usize, size: usize| (start..start + size).contains(&at);
        within(fields.displacement_offset(), fields.displacement_size())
            || within(fields.immediate_offset(), fields.immediate_size())
            || within(fields.immediate_offset2(), fields.immediate_size2())
    };
    // Everything but numbers must be equal as it is.
    if x != y && x.iter().zip(y).enumerate().any(|(at, (p, q))| p != q && !field(at)) {
        return false;
    }
    let width = i.memory_size().size();
    if branches(i) {
        let (p, q) = (i.near_branch_target(), j.near_branch_target());
        let inside = |side: &Side<'_, '_, '_>, target: u64| {
            let offset = target.wrapping_sub(side.start);
            (offset < side.bytes.len() as u64).then_some(offset)
        };
        return match (inside(a, p), inside(b, q)) {
            (None, None) => {
                same(a.names, p, b.names, q, 0, pairs) || same_aside(a.names, p, b.names, q, pairs)
            }
            (p, q) => p == q,
        };
    }
    if i.is_ip_rel_memory_operand() {
        let (p, q) = (i.ip_rel_memory_address(), j.ip_rel_memory_address());
        let width = if i.mnemonic() == Mnemonic::Lea { 0 } else { width };
        if !same(a.names, p, b.names, q, width, pairs) {
            return false;
        }
    } else if fields.displacement_size() >= 4 {
        let (p, q) = (i.memory_displacement64(), j.memory_displacement64());
        let plain = i.memory_base() == Register::None && i.memory_index() == Register::None;
        let width = if plain { width } else { 0 };
        if !number(a, p, b, q, width, pairs) {
            return false;
        }
    } else if i.memory_displacement64() != j.memory_displacement64() {
        return false;
    }
    // A mask may look like an address.
    let mask =
        matches!(i.mnemonic(), Mnemonic::Test | Mnemonic::And | Mnemonic::Or | Mnemonic::Xor);
    (0..i.op_count()).all(|operand| match i.try_immediate(operand) {
        Ok(p) if mask => j.try_immediate(operand).is_ok_and(|q| p == q),
        Ok(p) => j.try_immediate(operand).is_ok_and(|q| {
            number(a, p, b, q, 0, pairs) || a.is_line(p, i.ip()) && b.is_line(q, j.ip())
        }),
        Err(_) => true,
    })
}

/// Whether two jumps lead to the same code that no symbol names: the kernel's `static_cpu_has` moves its test of a
/// bit out of the way, to `.altinstr_aux`, from where it jumps back.
fn same_aside(a: &Names<'_, '_>, p: u64, b: &Names<'_, '_>, q: u64, pairs: &mut Pairs) -> bool {
    const LONGEST: usize = 64;
    let side = |names, start| -> Option<Side<'_, '_, '_>> {
        let Target::Anonymous(section) = Names::at(names, start) else { return None };
        let code = names.image.sections.get(section as usize)?.section.is_exec();
        let bytes: &[u8] = names.bytes(start);
        code.then_some(Side {
            names,
            lines: None,
            start,
            bytes: bytes.get(..LONGEST).unwrap_or(bytes),
        })
    };
    let (Some(a), Some(b)) = (side(a, p), side(b, q)) else { return false };
    let (mut old, mut new) = (decoder(&a), decoder(&b));
    while old.can_decode() && new.can_decode() {
        let (i, j) = (old.decode(), new.decode());
        let known = matches!(i.mnemonic(), Mnemonic::Test | Mnemonic::Jne | Mnemonic::Jmp);
        if !known || !instruction(&a, (&i, &old), &b, (&j, &new), pairs) {
            return false;
        }
        if i.mnemonic() == Mnemonic::Jmp {
            return true;
        }
    }
    false
}

/// Whether two numbers mean the same: equal, unless they are addresses in the images.
fn number(
    a: &Side<'_, '_, '_>,
    p: u64,
    b: &Side<'_, '_, '_>,
    q: u64,
    width: usize,
    pairs: &mut Pairs,
) -> bool {
    // Small numbers may be offsets of per-CPU variables, which start at 0; equal ones are taken for equal.
    let small = p < 1 << 31 && q < 1 << 31;
    (small && p == q) || same(a.names, p, b.names, q, width, pairs)
}
