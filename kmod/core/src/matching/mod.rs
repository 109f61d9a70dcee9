//! Run-pre matching: whether the code in memory is the `pre` build's.
//!
//! Outside its sites a function must be equal byte for byte. At a site only what the linker, the loader or the
//! kernel makes of it is accepted, each form as the kernel's source writes it (cited in `patched.rs` and
//! `alternative.rs`). A field that refers to a symbol gives the symbol's address (Ksplice's idea).

mod alternative;
mod patched;
#[cfg(test)]
mod tests;

use core::fmt;

use dynamos_abi::{Function, NONE, Record, Site, SiteKind};

use crate::budget::Budget;
use crate::insn;

/// Reads the kernel's memory.
pub trait Memory {
    /// Fills `into` from `address`; `false` if it is not mapped.
    fn read(&mut self, address: u64, into: &mut [u8]) -> bool;
}

/// A function that is in memory what the `pre` build has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// What its ftrace site calls, if something traces it.
    pub traced: Option<u64>,
}

/// Why bytes in memory are not those of the `pre` build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A byte outside all sites differs.
    Byte,
    /// The ftrace site holds something else than a NOP or a call.
    Fentry,
    /// A site holds none of the forms that the kernel gives it (which site).
    Form(&'static str),
    /// A static key's jump goes elsewhere.
    Target,
    /// What a field refers to has other contents.
    Data,
    /// What a field refers to cannot be read.
    Unmapped,
    /// The function itself cannot be read.
    Unreadable,
    /// The record's sites make no sense here.
    Record(&'static str),
    /// The record asks for more work than an honest one.
    Budget,
}

/// Where and why a function is not the `pre` build's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Offset in the function.
    pub offset: u32,
    /// Byte of the `pre` build there.
    pub expected: u8,
    /// Byte in memory there.
    pub found: u8,
    /// What is wrong.
    pub what: What,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { offset, expected, found, what } = *self;
        write!(f, "at +{offset:#x} ")?;
        match what {
            What::Byte => write!(f, "the build has {expected:02x}, the kernel {found:02x}")?,
            What::Fentry => write!(f, "the ftrace site holds neither a NOP nor a call")?,
            What::Form(site) => write!(f, "{site} has a form that the kernel does not make")?,
            What::Target => write!(f, "a static key's jump goes to another place")?,
            What::Data => write!(f, "the data referred to has other contents")?,
            What::Unmapped => write!(f, "the data referred to cannot be read")?,
            What::Unreadable => write!(f, "its code cannot be read")?,
            What::Record(what) => write!(f, "the record is wrong: {what}")?,
            What::Budget => write!(f, "the record asks for too much work")?,
        }
        if matches!(what, What::Byte | What::Fentry | What::Form(_)) && expected != found {
            match found {
                insn::INT3 => write!(f, "; it is a breakpoint: remove the kprobe")?,
                insn::JMP32 if what == What::Byte => {
                    write!(f, "; it is a jump: remove the kprobe, if one is there")?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Takes the addresses that fields give: symbol index, value.
pub(crate) type Sink<'s> = dyn FnMut(u32, u64) + 's;

/// Checks that `running`, the bytes at `address`, are what the kernel made of `function`.
///
/// `derived` gets the address of every symbol that a field refers to. It means nothing if the function does
/// not match.
pub fn match_function(
    record: &Record<'_>,
    function: &Function,
    address: u64,
    running: &[u8],
    memory: &mut dyn Memory,
    budget: &mut Budget,
    derived: &mut dyn FnMut(u32, u64),
) -> Result<Matched, Mismatch> {
    let expected = record.bytes(function.bytes);
    let mut matcher =
        Matcher { record, expected, running, address, memory, budget, matched: Matched::default() };
    if expected.len() != running.len() {
        return Err(matcher.mismatch(0, What::Record("length")));
    }
    let sites = Sites {
        next: function.first_site,
        end: function.first_site.saturating_add(function.site_count),
        without: None,
    };
    matcher.range(Span { start: 0, end: expected.len() }, sites, 0, derived)?;
    Ok(matcher.matched)
}

/// How deep sites may be nested: an alternative, one in its original, and a field in that.
const MAX_DEPTH: u32 = 4;

/// Part of a function.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
}

/// Sites by index, sorted by offset.
#[derive(Clone, Copy, Debug)]
struct Sites {
    next: u32,
    end: u32,
    /// Alternatives that start here are not counted: they are being matched.
    without: Option<usize>,
}

impl Sites {
    fn ignores(&self, site: &Site) -> bool {
        self.without == Some(site.offset as usize) && kind_of(site) == Some(SiteKind::Alternative)
    }
}

struct Matcher<'r, 'm> {
    record: &'m Record<'r>,
    expected: &'r [u8],
    running: &'m [u8],
    address: u64,
    memory: &'m mut dyn Memory,
    budget: &'m mut Budget,
    matched: Matched,
}

impl Matcher<'_, '_> {
    /// Matches `span`, whose sites are `sites`.
    fn range(
        &mut self,
        span: Span,
        mut sites: Sites,
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), Mismatch> {
        let mut at = span.start;
        while let Some((outer, inner)) = self.take_group(&mut sites)? {
            if outer.start < at || outer.end > span.end {
                return Err(self.mismatch(outer.start, What::Record("sites overlap")));
            }
            self.equal(Span { start: at, end: outer.start })?;
            self.site(outer, inner, depth, sink)?;
            at = outer.end;
        }
        self.equal(Span { start: at, end: span.end })
    }

    /// Takes the next site and those nested in it from `sites`: the span of the longest that starts there, and
    /// all of them.
    fn take_group(&mut self, sites: &mut Sites) -> Result<Option<(Span, Sites)>, Mismatch> {
        let Some(start) = self.peek(sites) else { return Ok(None) };
        let group = *sites;
        let mut end = start;
        while let Some(site) = self.site_at(sites) {
            let offset = site.offset as usize;
            if offset != start && offset >= end {
                break;
            }
            if !self.budget.spend(1) {
                return Err(self.mismatch(start, What::Budget));
            }
            let site_end = offset.saturating_add(usize::from(site.len));
            if offset != start && site_end > end {
                return Err(self.mismatch(offset, What::Record("sites overlap")));
            }
            if !sites.ignores(&site) {
                end = end.max(site_end);
            }
            sites.next = sites.next.saturating_add(1);
        }
        Ok(Some((Span { start, end }, Sites { end: sites.next, ..group })))
    }

    /// Start of the next site that counts; skips those that do not.
    fn peek(&self, sites: &mut Sites) -> Option<usize> {
        loop {
            let site = self.site_at(sites)?;
            if !sites.ignores(&site) {
                return Some(site.offset as usize);
            }
            sites.next = sites.next.saturating_add(1);
        }
    }

    /// The next site.
    fn site_at(&self, sites: &Sites) -> Option<Site> {
        if sites.next < sites.end { self.record.sites().get(sites.next) } else { None }
    }

    /// The site that decides a group: the longest at its start; of equals an alternative, then a paravirtual
    /// call, then whatever comes first.
    fn outermost(&self, span: Span, group: Sites) -> Option<(u32, Site, SiteKind)> {
        let rank = |kind| match kind {
            SiteKind::Alternative => 3,
            SiteKind::Paravirt => 2,
            SiteKind::Abs64
            | SiteKind::Abs32
            | SiteKind::Abs32S
            | SiteKind::Pc32
            | SiteKind::Pc64 => 0,
            _ => 1,
        };
        let mut best: Option<(u32, Site, SiteKind)> = None;
        for index in group.next..group.end {
            let site = self.record.sites().get(index)?;
            if site.offset as usize != span.start {
                break;
            }
            let kind = kind_of(&site)?;
            if group.ignores(&site) {
                continue;
            }
            let better = best.is_none_or(|(_, other, other_kind)| {
                (site.len, rank(kind)) > (other.len, rank(other_kind))
            });
            if better {
                best = Some((index, site, kind));
            }
        }
        best
    }

    /// Matches one group of sites.
    fn site(
        &mut self,
        span: Span,
        group: Sites,
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), Mismatch> {
        let Some((index, site, kind)) = self.outermost(span, group) else {
            return Err(self.mismatch(span.start, What::Record("site kind")));
        };
        if depth >= MAX_DEPTH {
            return Err(self.mismatch(span.start, What::Record("sites nested too deep")));
        }
        match kind {
            SiteKind::Alternative => self.alternative(span, group, depth, sink),
            SiteKind::Paravirt => self.paravirt(span, group, index, depth, sink),
            SiteKind::Abs64
            | SiteKind::Abs32
            | SiteKind::Abs32S
            | SiteKind::Pc32
            | SiteKind::Pc64 => {
                if group.end.saturating_sub(group.next) != 1 {
                    return Err(self.mismatch(span.start, What::Record("sites overlap")));
                }
                self.field(&site, kind, sink)
            }
            // A field inside (the relative target) is part of the form.
            _ => self.patched(span, &site, kind, sink),
        }
    }

    /// Matches bytes that nothing rewrites.
    fn equal(&mut self, span: Span) -> Result<(), Mismatch> {
        if !self.budget.spend(span.end.saturating_sub(span.start)) {
            return Err(self.mismatch(span.start, What::Budget));
        }
        let (expected, running) = (self.expected(span), self.running(span));
        if expected == running {
            return Ok(());
        }
        let same = expected.iter().zip(running).take_while(|(a, b)| a == b).count();
        Err(self.mismatch(span.start.saturating_add(same), What::Byte))
    }

    /// Takes the address of the symbol that a field refers to and checks what is there.
    fn field(&mut self, site: &Site, kind: SiteKind, sink: &mut Sink<'_>) -> Result<(), Mismatch> {
        let start = site.offset as usize;
        let bytes = self.running(Span { start, end: start.saturating_add(usize::from(site.len)) });
        let Some(value) = field_value(bytes, kind) else {
            return Err(self.mismatch(start, What::Record("field length")));
        };
        let place = match kind {
            SiteKind::Pc32 | SiteKind::Pc64 => self.address.wrapping_add(u64::from(site.offset)),
            _ => 0,
        };
        let symbol = value.wrapping_add(place).wrapping_sub(site.addend.cast_unsigned());
        let data = self.record.bytes(site.data);
        self.data_at(symbol, data, start)?;
        sink(site.symbol, symbol);
        Ok(())
    }

    /// Checks that memory at `address` equals `data`.
    fn data_at(&mut self, address: u64, data: &[u8], offset: usize) -> Result<(), Mismatch> {
        if !self.budget.spend(data.len()) {
            return Err(self.mismatch(offset, What::Budget));
        }
        let mut buffer = [0; 64];
        let mut at = address;
        for expected in data.chunks(buffer.len()) {
            let Some(found) = buffer.get_mut(..expected.len()) else { break };
            if !self.memory.read(at, found) {
                return Err(self.mismatch(offset, What::Unmapped));
            }
            if *found != *expected {
                return Err(self.mismatch(offset, What::Data));
            }
            at = at.wrapping_add(expected.len() as u64);
        }
        Ok(())
    }

    fn expected(&self, span: Span) -> &'_ [u8] {
        self.expected.get(span.start..span.end).unwrap_or(&[])
    }

    fn running(&self, span: Span) -> &'_ [u8] {
        self.running.get(span.start..span.end).unwrap_or(&[])
    }

    fn mismatch(&self, offset: usize, what: What) -> Mismatch {
        Mismatch {
            offset: offset as u32,
            expected: self.expected.get(offset).copied().unwrap_or(0),
            found: self.running.get(offset).copied().unwrap_or(0),
            what,
        }
    }
}

/// The kind of a site; a parsed record has no other.
fn kind_of(site: &Site) -> Option<SiteKind> {
    SiteKind::from_raw(u8::try_from(site.kind).ok()?)
}

/// A field's value, extended to 64 bits as its kind says (psABI: `R_X86_64_32` zero-, the others sign-extended).
fn field_value(bytes: &[u8], kind: SiteKind) -> Option<u64> {
    Some(match kind {
        SiteKind::Abs64 | SiteKind::Pc64 => u64::from_le_bytes(*bytes.first_chunk()?),
        SiteKind::Abs32 => u64::from(u32::from_le_bytes(*bytes.first_chunk()?)),
        _ => i64::from(i32::from_le_bytes(*bytes.first_chunk()?)).cast_unsigned(),
    })
}

/// Whether a site names a symbol.
fn symbol_of(site: &Site) -> Option<u32> {
    (site.symbol != NONE).then_some(site.symbol)
}
