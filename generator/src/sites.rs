//! The sites of a function: where the linker, the loader and the kernel itself write into its code, so that
//! everything else can be compared byte by byte with what runs.

use dynamos_abi::SiteKind;
use iced_x86::{Decoder, DecoderOptions};
use object::elf;

/// What a field in a function refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Referent {
    /// A symbol, defined in this object or elsewhere.
    Symbol(String),
    /// Nameless read-only bytes (strings, constants), which the running kernel must hold as well: a name made up of
    /// where they are, and the bytes.
    Content(String, Vec<u8>),
    /// Nameless bytes that are not compared: the section that holds them and the offset in it.
    Nameless(String, u64),
}

/// A relocation in a function, relative to it.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Offset of the field in the function.
    pub offset: u32,
    /// `R_X86_64_*`.
    pub kind: u32,
    /// What it refers to.
    pub referent: Referent,
    /// Addend relative to the referent's start.
    pub addend: i64,
}

/// An entry of a special section about a function.
#[derive(Clone, Debug)]
pub enum Special {
    /// Alternatives may replace `len` bytes at `at`.
    Alternative { at: u32, len: u8, replacement: Vec<u8>, masked: Vec<u8> },
    /// A static key's jump at `at` to `addend` in `target` (`None`: in the function itself).
    Jump { at: u32, target: Option<String>, addend: i64 },
    /// A `lock` prefix at `at`.
    Lock { at: u32 },
    /// A paravirtual call of `len` bytes at `at`.
    Paravirt { at: u32, len: u8 },
}

/// One function of the `pre` build.
#[derive(Clone, Debug)]
pub struct Body<'a> {
    /// Linker's name.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its relocations, and the branches that the assembler resolved because their target is in the same section:
    /// their bytes are fixed, but they tell where the target is.
    pub references: Vec<Reference>,
    /// Entries of special sections about it.
    pub special: Vec<Special>,
}

/// A site before symbols have indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteDraft {
    /// Offset in the function.
    pub offset: u32,
    /// Length in bytes.
    pub len: u16,
    /// What it is.
    pub kind: SiteKind,
    /// What it refers to.
    pub referent: Option<Referent>,
    /// See [`SiteKind`].
    pub addend: i64,
    /// Replacements of an alternative site.
    pub alternatives: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a function cannot be matched against the running kernel.
#[derive(Debug, thiserror::Error)]
#[error("{function}+{offset:#x}: {what}")]
pub struct Unmatchable {
    /// The function.
    pub function: String,
    /// Where in it.
    pub offset: u32,
    /// What is there.
    pub what: String,
}

/// Where an indirect branch may go to (CET-IBT).
pub const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// Order of the registers in instruction encodings.
const REGISTERS: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// The sites of a function, sorted by offset; an alternative comes before what lies inside it.
pub fn sites(body: &Body<'_>) -> Result<Vec<SiteDraft>, Unmatchable> {
    let mut sites = Vec::new();
    for reference in &body.references {
        sites.push(reference_site(body, reference)?);
    }
    for special in &body.special {
        sites.push(special_site(body, special)?);
    }
    landing_pads(body, &mut sites);
    let rank = |kind| match kind {
        SiteKind::Alternative => 0,
        SiteKind::Paravirt => 1,
        other => 2 + other as u8,
    };
    sites.sort_by_key(|site| (site.offset, rank(site.kind)));
    merge(sites, body)
}

fn draft(offset: u32, len: u16, kind: SiteKind) -> SiteDraft {
    SiteDraft { offset, len, kind, referent: None, addend: 0, alternatives: Vec::new() }
}

fn reference_site(body: &Body<'_>, reference: &Reference) -> Result<SiteDraft, Unmatchable> {
    let error =
        |what: String| Unmatchable { function: body.name.into(), offset: reference.offset, what };
    let at = |delta: u32| {
        reference
            .offset
            .checked_sub(delta)
            .ok_or_else(|| error("relocation before its opcode".into()))
    };
    let byte = |offset: u32| body.bytes.get(offset as usize).copied().unwrap_or(0);
    if let Referent::Symbol(name) = &reference.referent {
        if name == "__fentry__" {
            return Ok(draft(at(1)?, 5, SiteKind::Fentry));
        }
        if name == "__x86_return_thunk" {
            return Ok(draft(at(1)?, 5, SiteKind::ReturnThunk));
        }
        if name.starts_with("__SCT__") {
            // A conditional tail call has two opcode bytes.
            let jcc = reference.offset >= 2
                && byte(reference.offset - 2) == 0x0f
                && byte(reference.offset - 1) & 0xf0 == 0x80;
            let opcode = if jcc { 2 } else { 1 };
            let mut site = draft(at(opcode)?, 4 + opcode as u16, SiteKind::StaticCall);
            site.referent = Some(reference.referent.clone());
            return Ok(site);
        }
        if let Some(register) = name.strip_prefix("__x86_indirect_thunk_") {
            let register = REGISTERS
                .iter()
                .position(|known| *known == register)
                .ok_or_else(|| error(format!("unknown indirect-branch thunk {name}")))?;
            return Ok(retpoline(reference, register, &byte));
        }
    }
    let (kind, len) = match reference.kind {
        elf::R_X86_64_64 => (SiteKind::Abs64, 8),
        elf::R_X86_64_32 => (SiteKind::Abs32, 4),
        elf::R_X86_64_32S => (SiteKind::Abs32S, 4),
        elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => (SiteKind::Pc32, 4),
        elf::R_X86_64_PC64 => (SiteKind::Pc64, 8),
        other => return Err(error(format!("relocation of unknown type {other}"))),
    };
    let mut site = draft(reference.offset, len, kind);
    site.referent = Some(reference.referent.clone());
    site.addend = reference.addend;
    Ok(site)
}

/// The site starts at the instruction, prefix included: `patch_retpoline` rewrites all of it.
fn retpoline(reference: &Reference, register: usize, byte: &dyn Fn(u32) -> u8) -> SiteDraft {
    let field = reference.offset;
    let mut start = field.saturating_sub(1);
    if byte(start) & 0xf0 == 0x80 && start > 0 && byte(start - 1) == 0x0f {
        start -= 1; // jcc rel32 has two opcode bytes
    }
    // -mindirect-branch-cs-prefix, for the registers whose direct branch needs a REX prefix.
    if register >= 8 && start > 0 && byte(start - 1) == 0x2e {
        start -= 1;
    }
    let mut site = draft(start, (field + 4 - start) as u16, SiteKind::Retpoline);
    site.addend = register as i64;
    site
}

fn special_site(body: &Body<'_>, special: &Special) -> Result<SiteDraft, Unmatchable> {
    Ok(match special {
        Special::Alternative { at, len, replacement, masked } => {
            let mut site = draft(*at, u16::from(*len), SiteKind::Alternative);
            site.alternatives = vec![(replacement.clone(), masked.clone())];
            site
        }
        Special::Jump { at, target, addend } => {
            let opcode = body.bytes.get(*at as usize).copied().unwrap_or(0);
            let len = match opcode {
                0xeb | 0x66 => 2,
                0xe9 | 0x0f => 5,
                other => {
                    return Err(Unmatchable {
                        function: body.name.into(),
                        offset: *at,
                        what: format!("a static key's jump starts with the byte {other:#04x}"),
                    });
                }
            };
            let mut site = draft(*at, len, SiteKind::JumpLabel);
            site.referent = target.clone().map(Referent::Symbol);
            site.addend = *addend;
            site
        }
        Special::Lock { at } => draft(*at, 1, SiteKind::SmpLock),
        Special::Paravirt { at, len } => draft(*at, u16::from(*len), SiteKind::Paravirt),
    })
}

/// `endbr64` shows only in the code.
fn landing_pads(body: &Body<'_>, sites: &mut Vec<SiteDraft>) {
    let mut decoder = Decoder::with_ip(64, body.bytes, 0, DecoderOptions::NONE);
    while decoder.can_decode() {
        let offset = decoder.decode().ip() as u32;
        if body.bytes.get(offset as usize..).is_some_and(|code| code.starts_with(&ENDBR64)) {
            sites.push(draft(offset, 4, SiteKind::Endbr));
        }
    }
}

/// Several entries of `.altinstructions` may be about one place (`ALTERNATIVE_2`): one site with all of them.
/// What lies in an alternative, a paravirtual call or a static key's jump holds for the original instructions
/// only; other sites that overlap cannot be told apart when they are matched.
fn merge(sites: Vec<SiteDraft>, body: &Body<'_>) -> Result<Vec<SiteDraft>, Unmatchable> {
    let mut merged: Vec<SiteDraft> = Vec::with_capacity(sites.len());
    let mut jump_end = 0;
    for site in sites {
        if site.kind == SiteKind::JumpLabel {
            jump_end = end(&site);
        } else if site.offset < jump_end {
            continue; // the jump's own field: its target may have no bytes in memory at all
        }
        let same = merged.iter_mut().rev().find(|known| {
            site.kind == SiteKind::Alternative
                && known.kind == SiteKind::Alternative
                && known.offset == site.offset
        });
        match same {
            Some(known) => {
                known.len = known.len.max(site.len);
                known.alternatives.extend(site.alternatives);
            }
            None => merged.push(site),
        }
    }
    let mut covered = 0;
    let encloses = |kind| matches!(kind, SiteKind::Alternative | SiteKind::Paravirt);
    for site in merged.iter().filter(|site| !encloses(site.kind)) {
        if site.offset < covered {
            return Err(Unmatchable {
                function: body.name.into(),
                offset: site.offset,
                what: "two patch sites overlap".into(),
            });
        }
        covered = end(site);
    }
    Ok(merged)
}

fn end(site: &SiteDraft) -> u32 {
    site.offset + u32::from(site.len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body<'a>(bytes: &'a [u8], references: Vec<Reference>, special: Vec<Special>) -> Body<'a> {
        Body { name: "f", bytes, references, special }
    }

    fn reference(offset: u32, name: &str) -> Reference {
        Reference {
            offset,
            kind: elf::R_X86_64_PLT32,
            referent: Referent::Symbol(name.into()),
            addend: -4,
        }
    }

    fn kinds(sites: &[SiteDraft]) -> Vec<(u32, u16, SiteKind)> {
        sites.iter().map(|site| (site.offset, site.len, site.kind)).collect()
    }

    #[test]
    fn entry_and_return() {
        // endbr64; call __fentry__; call g (same section); jmp __x86_return_thunk
        let bytes =
            [0xf3, 0x0f, 0x1e, 0xfa, 0xe8, 0, 0, 0, 0, 0xe8, 0xed, 0, 0, 0, 0xe9, 0, 0, 0, 0, 0xcc];
        let references = vec![
            reference(5, "__fentry__"),
            reference(10, "g"),
            reference(15, "__x86_return_thunk"),
        ];
        let sites = sites(&body(&bytes, references, vec![])).unwrap();
        use SiteKind::*;
        assert_eq!(
            kinds(&sites),
            [(0, 4, Endbr), (4, 5, Fentry), (10, 4, Pc32), (14, 5, ReturnThunk)]
        );
        assert_eq!(sites[2].referent, Some(Referent::Symbol("g".into())));
        assert_eq!(sites[2].addend, -4);
    }

    #[test]
    fn retpolines_with_their_prefixes() {
        type Case = (&'static [u8], u32, &'static str, (u32, u16));
        let cases: [Case; 4] = [
            (&[0xe8, 0, 0, 0, 0], 1, "rax", (0, 5)),
            (&[0x2e, 0xe8, 0, 0, 0, 0], 2, "r11", (0, 6)),
            (&[0x0f, 0x84, 0, 0, 0, 0], 2, "rdx", (0, 6)),
            (&[0x2e, 0xe9, 0, 0, 0, 0], 2, "rax", (1, 5)),
        ];
        for (bytes, field, register, (offset, len)) in cases {
            let name = format!("__x86_indirect_thunk_{register}");
            let found = sites(&body(bytes, vec![reference(field, &name)], vec![])).unwrap();
            assert_eq!(kinds(&found), [(offset, len, SiteKind::Retpoline)], "{register}");
        }
    }

    #[test]
    fn alternatives_of_one_place_become_one_site() {
        let alternative = |len: u8, byte: u8| Special::Alternative {
            at: 0,
            len,
            replacement: vec![byte],
            masked: vec![],
        };
        let special = vec![alternative(3, 0x90), alternative(5, 0xcc)];
        let found = sites(&body(&[0x90; 8], vec![], special)).unwrap();
        assert_eq!(kinds(&found), [(0, 5, SiteKind::Alternative)]);
        assert_eq!(found[0].alternatives.len(), 2);
    }

    #[test]
    fn overlapping_sites_are_refused() {
        let special = vec![Special::Lock { at: 2 }];
        let error = sites(&body(&[0x90; 8], vec![reference(1, "x")], special)).unwrap_err();
        assert!(error.to_string().contains("overlap"), "{error}");
    }
}
