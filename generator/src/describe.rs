//! Functions of V1's build as the record matches them in the running kernel.

use anyhow::{Context, Result};

use crate::assemble::UnitInput;
use crate::closure;
use crate::record::Match;
use crate::sites::{Body, Reference, Referent, sites};
use crate::special::patches;
use crate::unit::{Place, Unit};

/// Names of the symbols whose addresses the match of a function gives, its own included.
pub fn tells(found: &Match) -> impl Iterator<Item = String> + '_ {
    use dynamos_abi::SiteKind::{Abs32, Abs32S, Abs64, Pc32, Pc64};
    let own = std::iter::once(found.name.clone());
    own.chain(found.sites.iter().filter_map(|site| match (&site.referent, site.kind) {
        (Some(Referent::Symbol(name)), Abs64 | Abs32 | Abs32S | Pc32 | Pc64) => Some(name.clone()),
        _ => None,
    }))
}

/// Every function of the object that can be matched and found by its name.
pub fn possible_anchors(unit: &UnitInput, index: usize) -> Vec<Match> {
    unit.pre
        .symbols
        .iter()
        .filter(|symbol| symbol.function && symbol.size > 0 && !symbol.name.contains(".cold"))
        // The kernel rewrites a static call's trampoline whenever the target changes.
        .filter(|symbol| !symbol.name.starts_with("__SCT__"))
        .filter(|symbol| {
            symbol
                .section
                .and_then(|section| unit.pre.sections.get(section))
                .is_some_and(|section| !section.is_init())
        })
        .filter_map(|symbol| describe(unit, index, &symbol.name).ok())
        .collect()
}

/// A function of the `pre` build with its sites.
pub fn describe(unit: &UnitInput, index: usize, name: &str) -> Result<Match> {
    let pre = &unit.pre;
    let symbol =
        pre.symbol(pre.find(name).with_context(|| format!("V1 has no function {name}"))?)?;
    let section = symbol.section.context("an undefined function has no body")?;
    let (start, end) = (symbol.value, symbol.value + symbol.size);
    let bytes = pre.bytes(symbol)?;
    let mut references = Vec::new();
    for field in pre.fields_in_place(section, start, end)? {
        let (referent, into) = match &field.place {
            Place::Elsewhere(name, offset) => (Referent::Symbol(name.clone()), *offset),
            Place::In(index, into) => (Referent::Symbol(pre.symbol(*index)?.name.clone()), *into),
            Place::Raw(section, at, more) => {
                let (referent, into) = nameless(pre, *section, *at)?;
                (referent, into.wrapping_add(*more))
            }
        };
        references.push(Reference {
            offset: field.offset as u32,
            kind: field.kind,
            referent,
            addend: into - field.bias,
        });
    }
    let fentry = references
        .iter()
        .find(|reference| reference.referent == Referent::Symbol("__fentry__".into()))
        .and_then(|reference| reference.offset.checked_sub(1));
    let special = patches(pre, section, start, end)?;
    let body = Body { name, bytes, references, special };
    Ok(Match {
        bridge: None,
        name: name.into(),
        owner: unit.owner.clone(),
        unit: index,
        bytes: bytes.to_vec(),
        sites: sites(&body)?,
        fentry,
        fragment: false,
        watched: false,
        replaced: None,
        adapts: false,
        reshaped: false,
        unlike: false,
        counting: None,
        parameters: String::new(),
    })
}

/// Nameless bytes: strings are compared, other sections' bytes are only known by where they are.
fn nameless(unit: &Unit, section_index: usize, at: u64) -> Result<(Referent, i64)> {
    let section = unit.section(section_index)?;
    if !section.is_writable() && !section.is_code() && !section.is_init() {
        let (start, end) = closure::constant(section, at);
        let comparable = !section.relocations.iter().any(|r| (start..end).contains(&r.offset));
        let bytes = section.bytes.get(start as usize..end as usize).unwrap_or(&[]);
        if comparable && start == at && !bytes.is_empty() && bytes.len() <= 4096 {
            let place = format!("{}+{at:#x}", section.name);
            return Ok((Referent::Content(place, bytes.to_vec()), 0));
        }
    }
    Ok((Referent::Nameless(section.name.clone(), at), 0))
}
