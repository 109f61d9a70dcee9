//! What a record must be like: every index, range and string of it is looked at once, when it is read.

use crate::entry::symbol_flags;
use crate::{
    Bytes, Function, HookKind, MAX_RECORD, NONE, Record, RecordError, RelocationKind, Site,
    SiteKind, Slot, Str, Symbol, edition, function_flags,
};

impl Record<'_> {
    /// Checks all of it.
    pub(super) fn check(&self) -> Result<(), RecordError> {
        if self.strings.bytes().any(|byte| byte == 0) {
            return Err(RecordError::Value("strings"));
        }
        for (string, what) in [
            (self.name, "update name"),
            (self.release, "kernel release"),
            (self.pinned, "pin reason"),
            (self.kept, "reason for keeping data"),
        ] {
            self.check_str(string, what)?;
        }
        if self.name.len == 0 {
            return Err(RecordError::Value("update name"));
        }
        for object in self.objects.iter() {
            self.check_str(object.name, "object name")?;
        }
        for symbol in self.symbols.iter() {
            self.check_symbol(&symbol)?;
        }
        // Tables that refer to one range again and again would make the work grow with its square: no honest
        // record refers to more than it could hold, and each site belongs to one function.
        let (mut referred, mut next_site) = (0, 0);
        for site in self.sites.iter() {
            optional(site.symbol, self.symbols.len(), "site symbol")?;
            self.check_bytes(site.data, "site data")?;
            bounded(&mut referred, site.data.len)?;
        }
        for function in self.functions.iter() {
            if function.site_count != 0 && function.first_site < next_site {
                return Err(RecordError::Value("function sites"));
            }
            self.check_function(&function)?;
            bounded(&mut referred, function.bytes.len)?;
            next_site = next_site.max(function.first_site.saturating_add(function.site_count));
        }
        for relocation in self.relocations.iter() {
            within(relocation.base, self.addr_count, "relocation base")?;
            within(relocation.symbol, self.symbols.len(), "relocation symbol")?;
            RelocationKind::from_raw(relocation.kind)
                .ok_or(RecordError::Value("relocation kind"))?;
        }
        for slot in self.slots.iter() {
            self.check_slot(&slot)?;
        }
        // Not more than there are kinds: so the look for others of a kind below is short.
        if self.hooks.len() as usize > HookKind::ALL.len() + HookKind::BETWEEN_PHASES.len() {
            return Err(RecordError::Value("number of hooks"));
        }
        for hook in self.hooks.iter() {
            within(hook.function, self.addr_count, "hook function")?;
            let kind = HookKind::from_raw(hook.kind).ok_or(RecordError::Value("hook kind"))?;
            if self.hooks.iter().filter(|other| other.kind == kind as u32).count() > 1 {
                return Err(RecordError::Value("two hooks of a kind"));
            }
        }
        self.check_phases()?;
        self.check_counters()
    }

    /// All functions that are replaced have a counting handler or none has, and nothing else of the record decides then which
    /// edition a call takes.
    fn check_counters(&self) -> Result<(), RecordError> {
        optional(self.counters, self.addr_count, "counters")?;
        let counts = self.counters != NONE;
        let fits = |function: &Function| {
            [function.counting, function.original].iter().all(|addr| (*addr != NONE) == counts)
                && !(counts && function.flags & function_flags::ADAPTS != 0)
        };
        let all = self.replaced().all(|(_, function)| fits(&function));
        let empty = self.has_phases() || self.replaced().next().is_none();
        if !all || counts && (empty || !self.slots.is_empty()) {
            return Err(RecordError::Value("counting handlers"));
        }
        Ok(())
    }

    /// All functions that are replaced have a bridge edition or none has, and nothing else of the record decides then
    /// which edition a call takes.
    fn check_phases(&self) -> Result<(), RecordError> {
        let phases = self.has_phases();
        let fits = |function: &Function| {
            (function.bridge != NONE) == phases
                && !(phases && function.flags & function_flags::ADAPTS != 0)
        };
        if !self.replaced().all(|(_, function)| fits(&function)) {
            return Err(RecordError::Value("bridge editions"));
        }
        if phases && (!self.slots.is_empty() || self.replaced().next().is_none()) {
            return Err(RecordError::Value("phases"));
        }
        let between = |kind: &HookKind| self.hook(*kind).is_some();
        if !phases && HookKind::BETWEEN_PHASES.iter().any(between) {
            return Err(RecordError::Value("hooks between phases"));
        }
        for code in self.code.iter() {
            within(code.start, self.addr_count, "code start")?;
            if code.len == 0 || !matches!(code.edition, edition::BRIDGE | edition::FINAL) {
                return Err(RecordError::Value("code"));
            }
        }
        Ok(())
    }

    fn check_slot(&self, slot: &Slot) -> Result<(), RecordError> {
        within(slot.symbol, self.symbols.len(), "slot symbol")?;
        optional(slot.before, self.symbols.len(), "slot before")?;
        optional(slot.after, self.symbols.len(), "slot after")?;
        optional(slot.clone, self.addr_count, "slot clone")?;
        if !slot.offset.is_multiple_of(8) {
            return Err(RecordError::Value("slot offset"));
        }
        if slot.after != NONE && slot.clone != NONE {
            return Err(RecordError::Value("slot handler"));
        }
        Ok(())
    }

    fn check_symbol(&self, symbol: &Symbol) -> Result<(), RecordError> {
        self.check_str(symbol.name, "symbol name")?;
        optional(symbol.object, self.objects.len(), "symbol object")?;
        optional(symbol.placeholder, self.addr_count, "placeholder")?;
        if symbol.object == NONE && symbol.flags & symbol_flags::EXPORTED == 0 {
            return Err(RecordError::Value("symbol object"));
        }
        Ok(())
    }

    fn check_function(&self, function: &Function) -> Result<(), RecordError> {
        within(function.symbol, self.symbols.len(), "function symbol")?;
        self.check_bytes(function.bytes, "function bytes")?;
        if function.bytes.len == 0 {
            return Err(RecordError::Value("function bytes"));
        }
        let end = function
            .first_site
            .checked_add(function.site_count)
            .ok_or(RecordError::Index("function sites"))?;
        if end > self.sites.len() {
            return Err(RecordError::Index("function sites"));
        }
        let replaced = function.flags & function_flags::REPLACE != 0;
        self.check_str(function.parameters, "function parameters")?;
        for addr in [function.clone, function.transition, function.steady, function.policy] {
            if replaced {
                within(addr, self.addr_count, "function addresses")?;
            } else if addr != NONE {
                return Err(RecordError::Value("function addresses"));
            }
        }
        for addr in [function.counting, function.original] {
            optional(addr, self.addr_count, "counting handler")?;
            if !replaced && addr != NONE {
                return Err(RecordError::Value(
                    "counting handler of a function that is not replaced",
                ));
            }
        }
        optional(function.bridge, self.addr_count, "bridge edition")?;
        if !replaced && function.bridge != NONE {
            return Err(RecordError::Value("bridge edition of a function that is not replaced"));
        }
        if !replaced && function.flags & function_flags::ADAPTS != 0 {
            return Err(RecordError::Value("adaptation of a function that is not replaced"));
        }
        let by_call = function.counting != NONE
            || function.bridge != NONE
            || function.flags & function_flags::ADAPTS != 0;
        let unlike = function.flags & function_flags::UNLIKE_V1 != 0;
        let reshaped = function.flags & function_flags::RESHAPED != 0;
        if (unlike || reshaped) && !replaced || reshaped && by_call {
            return Err(RecordError::Value("parameters that differ"));
        }
        if replaced && function.fentry == NONE {
            return Err(RecordError::Value("fentry of a replaced function"));
        }
        if function.fentry != NONE {
            let end = function.fentry.checked_add(5).ok_or(RecordError::Value("fentry"))?;
            if end > function.bytes.len {
                return Err(RecordError::Value("fentry"));
            }
        }
        let mut last = 0;
        for site in self.sites_of(function) {
            self.check_site(&site, function, last)?;
            last = site.offset;
        }
        Ok(())
    }

    fn check_site(&self, site: &Site, function: &Function, last: u32) -> Result<(), RecordError> {
        use SiteKind::*;
        let kind = u8::try_from(site.kind)
            .ok()
            .and_then(SiteKind::from_raw)
            .ok_or(RecordError::Value("site kind"))?;
        let end = site.offset.checked_add(u32::from(site.len));
        if site.len == 0 || site.offset < last || end.is_none_or(|end| end > function.bytes.len) {
            return Err(RecordError::Value("site range"));
        }
        let len_fits = match kind {
            Abs64 | Pc64 => site.len == 8,
            Abs32 | Abs32S | Pc32 | Endbr => site.len == 4,
            Fentry | ReturnThunk => site.len == 5,
            StaticCall => site.len == 5 || site.len == 6,
            JumpLabel => site.len == 2 || site.len == 5,
            SmpLock => site.len == 1,
            Retpoline => site.len == 5 || site.len == 6,
            Alternative | Paravirt => true,
        };
        let needs_symbol = matches!(kind, Abs64 | Abs32 | Abs32S | Pc32 | Pc64);
        if !len_fits || (needs_symbol && site.symbol == NONE) {
            return Err(RecordError::Value("site"));
        }
        if kind == Alternative {
            let mut all = self.alternatives(site);
            for alternative in all.by_ref() {
                if alternative.bytes.len() > usize::from(site.len) {
                    return Err(RecordError::Value("alternative"));
                }
            }
            if !all.rest.is_empty() {
                return Err(RecordError::Truncated("alternatives"));
            }
        }
        Ok(())
    }

    fn check_str(&self, string: Str, what: &'static str) -> Result<(), RecordError> {
        let end = string.offset.checked_add(string.len).ok_or(RecordError::Index(what))?;
        let text = self.strings.get(string.offset as usize..end as usize);
        text.map(drop).ok_or(RecordError::Index(what))
    }

    fn check_bytes(&self, range: Bytes, what: &'static str) -> Result<(), RecordError> {
        let end = range.offset.checked_add(range.len).ok_or(RecordError::Index(what))?;
        self.bytes
            .get(range.offset as usize..end as usize)
            .map(drop)
            .ok_or(RecordError::Index(what))
    }
}

/// Adds to the bytes that entries refer to, which must not be more than a record can hold.
fn bounded(referred: &mut usize, len: u32) -> Result<(), RecordError> {
    *referred = referred.saturating_add(len as usize);
    if *referred > MAX_RECORD { Err(RecordError::Value("bytes referred to")) } else { Ok(()) }
}

fn within(index: u32, len: u32, what: &'static str) -> Result<(), RecordError> {
    if index < len { Ok(()) } else { Err(RecordError::Index(what)) }
}

fn optional(index: u32, len: u32, what: &'static str) -> Result<(), RecordError> {
    if index == NONE { Ok(()) } else { within(index, len, what) }
}
