//! Alternatives: instructions that the kernel replaced at boot or on load, if the CPU has a feature.
//!
//! `apply_alternatives` (`arch/x86/kernel/alternative.c`) leaves the original with its NOPs made longer
//! (`optimize_nops`), or copies one replacement, moves its relative targets and fills up with NOPs.

use dynamos_abi::{Alternative, SiteKind};

use super::{Matcher, Mismatch, Sink, Sites, Span, What, kind_of};
use crate::insn::{self, CALL, INT3, JMP8, JMP32, NOP};

/// The most bytes that the kernel replaces: the length is a `u8`.
const MAX_LEN: usize = 255;

impl Matcher<'_, '_> {
    /// Matches the alternatives that start at `span`, which is as long as the longest of them: 6.12 treats
    /// nested ones as equally long (`apply_alternatives`: "find the max padding").
    pub(super) fn alternative(
        &mut self,
        span: Span,
        group: Sites,
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), Mismatch> {
        let inner = Sites { without: Some(span.start), ..group };
        // Once without listening: what a form that does not fit gives is no address.
        let original = self.original(span, inner, depth, &mut |_, _| {});
        if let Err(cause) = original
            && matches!(cause.what, What::Budget | What::Record(_))
        {
            return Err(cause);
        }
        // `call clear_page_orig` and `call clear_page_erms` differ in the target only: if it may be a
        // replacement, the target is not that of the original.
        match (original, self.any_replacement(span, group)?) {
            (_, true) => Ok(()),
            (Ok(()), false) => self.original(span, inner, depth, sink),
            (Err(cause), false) => Err(match cause.what {
                What::Byte => Mismatch { what: What::Form("an alternative"), ..cause },
                _ => cause,
            }),
        }
    }

    /// Whether `span` holds one of the replacements of the alternatives that start there.
    fn any_replacement(&mut self, span: Span, group: Sites) -> Result<bool, Mismatch> {
        let record = self.record;
        for index in group.next..group.end {
            let Some(site) = record.sites().get(index) else { break };
            if site.offset as usize != span.start {
                break;
            }
            if kind_of(&site) != Some(SiteKind::Alternative) {
                continue;
            }
            for alternative in record.alternatives(&site) {
                if !self.budget.spend(span.end.saturating_sub(span.start).saturating_add(1)) {
                    return Err(self.mismatch(span.start, What::Budget));
                }
                if self.replacement(span, &alternative) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Matches the original instructions: NOPs may have become other NOPs of the same length in all.
    fn original(
        &mut self,
        span: Span,
        mut sites: Sites,
        depth: u32,
        sink: &mut Sink<'_>,
    ) -> Result<(), Mismatch> {
        let depth = depth.saturating_add(1);
        let mut at = span.start;
        while at < span.end {
            let Some(len) = insn::length(self.expected(Span { start: at, ..span })) else {
                // What cannot be decoded must be equal, and so must all that follows.
                return self.range(Span { start: at, ..span }, sites, depth, sink);
            };
            let stop = at.saturating_add(len);
            if self.site_before(&mut sites, stop) {
                let (stop, inner) = self.sites_before(&mut sites, stop)?;
                self.range(Span { start: at, end: stop }, inner, depth, sink)?;
                at = stop;
                continue;
            }
            let nops = self.nops_from(at, span.end, &mut sites);
            let stop = nops.unwrap_or(stop);
            let part = Span { start: at, end: stop };
            if nops.is_none() || !insn::all_nops(self.running(part)) {
                self.equal(part)?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Whether a site starts before `stop`.
    fn site_before(&self, sites: &mut Sites, stop: usize) -> bool {
        self.peek(sites).is_some_and(|start| start < stop)
    }

    /// Takes all groups that start before `stop`, which moves to the end of the last.
    fn sites_before(
        &mut self,
        sites: &mut Sites,
        mut stop: usize,
    ) -> Result<(usize, Sites), Mismatch> {
        let mut taken = *sites;
        while self.site_before(sites, stop) {
            let Some((span, _)) = self.take_group(sites)? else { break };
            stop = stop.max(span.end);
        }
        taken.end = sites.next;
        Ok((stop, taken))
    }

    /// End of the run of NOPs in the `pre` build's bytes that starts at `at` and holds no site.
    fn nops_from(&self, at: usize, end: usize, sites: &mut Sites) -> Option<usize> {
        let mut stop = at;
        while let Some(len) = insn::nop(self.expected(Span { start: stop, end })) {
            let next = stop.saturating_add(len);
            if self.site_before(sites, next) {
                break;
            }
            stop = next;
        }
        (stop > at).then_some(stop)
    }

    /// Whether `span` holds `alternative`, filled up with NOPs.
    fn replacement(&self, span: Span, alternative: &Alternative<'_>) -> bool {
        let running = self.running(span);
        let mut buffer = [NOP; MAX_LEN];
        let (Some(wanted), true) =
            (buffer.get_mut(..running.len()), alternative.bytes.len() <= running.len())
        else {
            return false;
        };
        for (byte, from) in wanted.iter_mut().zip(alternative.bytes) {
            *byte = *from;
        }
        let dropped = is_dropped_call(self.expected(span), alternative);
        replaced(wanted, alternative.masked, running) || dropped && insn::all_nops(running)
    }
}

/// `alt_replace_call` (6.12): a paravirtual call of `nop_func` is replaced by nothing.
fn is_dropped_call(original: &[u8], alternative: &Alternative<'_>) -> bool {
    matches!(original, [0xff, 0x15, _, _, _, _])
        && matches!(alternative.bytes, [CALL, _, _, _, _])
        && alternative.masked == [1]
}

/// Whether `running` is `wanted`, instruction by instruction, but for masked fields and the form of NOPs.
fn replaced(wanted: &[u8], masked: &[u8], running: &[u8]) -> bool {
    let is_masked = |start: usize, end: usize| {
        masked.iter().any(|&field| {
            let field = usize::from(field);
            field < end && start < field.saturating_add(4)
        })
    };
    let same = |start: usize, end: usize| {
        (start..end)
            .all(|at| is_masked(at, at.saturating_add(1)) || wanted.get(at) == running.get(at))
    };
    let mut at = 0;
    while at < wanted.len() {
        let rest = wanted.get(at..).unwrap_or(&[]);
        let Some(len) = insn::length(rest) else { return same(at, wanted.len()) };
        let stop = at.saturating_add(len);
        let run = nop_run(wanted, at);
        if run > at {
            if !running.get(at..run).is_some_and(insn::all_nops) {
                return false;
            }
            at = run;
        } else if same(at, stop) {
            at = stop;
        } else if rest.first() == Some(&JMP32) && is_masked(at, stop) {
            match shortened(wanted, running, at) {
                Some(stop) => at = stop,
                None => return false,
            }
        } else {
            return false;
        }
    }
    true
}

/// End of the NOPs in `bytes` from `at`.
fn nop_run(bytes: &[u8], mut at: usize) -> usize {
    while let Some(len) = bytes.get(at..).and_then(insn::nop) {
        at = at.saturating_add(len);
    }
    at
}

/// A `jmp rel32` that became a `jmp rel8`: with NOPs after it (6.1, `recompute_jump`) or `int3` (6.12,
/// `__apply_relocation`). The end of what it explains.
fn shortened(wanted: &[u8], running: &[u8], at: usize) -> Option<usize> {
    let end = at.checked_add(5)?;
    match running.get(at..end)? {
        [JMP8, _, INT3, INT3, INT3] => Some(end),
        [JMP8, ..] => {
            let run = nop_run(wanted, end);
            running.get(at.checked_add(2)?..run).is_some_and(insn::all_nops).then_some(run)
        }
        _ => None,
    }
}
