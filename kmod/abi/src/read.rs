//! Reading a record: everything is checked by [`Record::parse`], so the accessors cannot fail.

use core::marker::PhantomData;

use crate::entry::{Field, symbol_flags};
use crate::{
    ABI, Alternative, Bytes, Code, Function, Hook, HookKind, MAGIC, MAX_RECORD, NONE, Object,
    Relocation, RelocationKind, Site, SiteKind, Slot, Str, Symbol, edition, function_flags,
};

/// Why a block of bytes is no record that this side understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Too short, too long or not starting with [`MAGIC`].
    NotARecord,
    /// Made for another version of the format (the record's version).
    Version(u32),
    /// The record ends before something it refers to (what).
    Truncated(&'static str),
    /// An index points past its table (which field).
    Index(&'static str),
    /// An entry holds a value that makes no sense (which field).
    Value(&'static str),
}

impl core::fmt::Display for RecordError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotARecord => write!(f, "not a DynAMOS record"),
            Self::Version(v) => {
                write!(f, "record has ABI version {v}, this side speaks {ABI}: rebuild the update")
            }
            Self::Truncated(what) => write!(f, "record is truncated: {what}"),
            Self::Index(what) => write!(f, "record is corrupt: {what} points past its table"),
            Self::Value(what) => write!(f, "record is corrupt: {what} has an impossible value"),
        }
    }
}

impl core::error::Error for RecordError {}

/// A checked table of entries.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a, T> {
    bytes: &'a [u8],
    entry: PhantomData<T>,
}

#[allow(private_bounds)] // `Field` is how entries are encoded, no concern of a reader.
impl<'a, T: Field + Copy> Table<'a, T> {
    /// Number of entries.
    pub fn len(&self) -> u32 {
        (self.bytes.len() / T::SIZE) as u32
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Entry `index`.
    pub fn get(&self, index: u32) -> Option<T> {
        let start = (index as usize).checked_mul(T::SIZE)?;
        T::read(&mut self.bytes.get(start..)?)
    }

    /// All entries, in order.
    pub fn iter(self) -> impl Iterator<Item = T> + 'a
    where
        T: 'a,
    {
        let len = self.len();
        self.range(0, len)
    }

    /// `count` entries from `first`; fewer if the table ends.
    pub fn range(self, first: u32, count: u32) -> impl Iterator<Item = T> + 'a
    where
        T: 'a,
    {
        (first..first.saturating_add(count)).map_while(move |index| self.get(index))
    }
}

/// A checked record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    strings: &'a str,
    bytes: &'a [u8],
    name: Str,
    release: Str,
    pinned: Str,
    addr_count: u32,
    counters: u32,
    objects: Table<'a, Object>,
    symbols: Table<'a, Symbol>,
    functions: Table<'a, Function>,
    sites: Table<'a, Site>,
    relocations: Table<'a, Relocation>,
    slots: Table<'a, Slot>,
    code: Table<'a, Code>,
    hooks: Table<'a, Hook>,
}

impl<'a> Record<'a> {
    /// Reads and checks a record.
    pub fn parse(whole: &'a [u8]) -> Result<Self, RecordError> {
        if whole.len() > MAX_RECORD {
            return Err(RecordError::NotARecord);
        }
        let mut cursor = whole.strip_prefix(&MAGIC).ok_or(RecordError::NotARecord)?;
        let version: u32 = take(&mut cursor, "header")?;
        if version != ABI {
            return Err(RecordError::Version(version));
        }
        let total: u32 = take(&mut cursor, "header")?;
        if total as usize != whole.len() {
            return Err(RecordError::Truncated("total length"));
        }
        let (name, release, pinned) = (
            take(&mut cursor, "header")?,
            take(&mut cursor, "header")?,
            take(&mut cursor, "header")?,
        );
        let addr_count = take(&mut cursor, "header")?;
        let counters = take(&mut cursor, "header")?;
        let record = Record {
            name,
            release,
            pinned,
            addr_count,
            counters,
            strings: core::str::from_utf8(block(whole, &mut cursor, 1, "strings")?)
                .map_err(|_| RecordError::Value("strings"))?,
            bytes: block(whole, &mut cursor, 1, "bytes")?,
            objects: table(whole, &mut cursor, "objects")?,
            symbols: table(whole, &mut cursor, "symbols")?,
            functions: table(whole, &mut cursor, "functions")?,
            sites: table(whole, &mut cursor, "sites")?,
            relocations: table(whole, &mut cursor, "relocations")?,
            slots: table(whole, &mut cursor, "slots")?,
            code: table(whole, &mut cursor, "code")?,
            hooks: table(whole, &mut cursor, "hooks")?,
        };
        record.check()?;
        Ok(record)
    }

    /// Name of the update, which is the name of its module.
    pub fn name(&self) -> &'a str {
        self.str(self.name)
    }

    /// Release of the kernel it was made for (`uname -r`).
    pub fn release(&self) -> &'a str {
        self.str(self.release)
    }

    /// Why the update's code must stay mapped once it has run, or empty.
    pub fn pinned(&self) -> &'a str {
        self.str(self.pinned)
    }

    /// Number of addresses that must accompany the record.
    pub fn addr_count(&self) -> u32 {
        self.addr_count
    }

    /// The objects touched.
    pub fn objects(&self) -> Table<'a, Object> {
        self.objects
    }

    /// The symbols spoken of.
    pub fn symbols(&self) -> Table<'a, Symbol> {
        self.symbols
    }

    /// The functions to match.
    pub fn functions(&self) -> Table<'a, Function> {
        self.functions
    }

    /// The functions that are replaced, with their indices.
    pub fn replaced(&self) -> impl Iterator<Item = (u32, Function)> + use<'a> {
        let replaced = |function: &Function| function.flags & function_flags::REPLACE != 0;
        (0u32..).zip(self.functions.iter()).filter(move |(_, function)| replaced(function))
    }

    /// The sites of all functions.
    pub fn sites(&self) -> Table<'a, Site> {
        self.sites
    }

    /// The sites of one function, sorted by offset.
    pub fn sites_of(&self, function: &Function) -> impl Iterator<Item = Site> + 'a {
        self.sites.range(function.first_site, function.site_count)
    }

    /// The fields of the update to be written.
    pub fn relocations(&self) -> Table<'a, Relocation> {
        self.relocations
    }

    /// The slots that hold other handlers while the editions run.
    pub fn slots(&self) -> Table<'a, Slot> {
        self.slots
    }

    /// The code of each edition; empty without phases.
    pub fn code(&self) -> Table<'a, Code> {
        self.code
    }

    /// Whether calls go by way of bridge editions, in phases.
    pub fn has_phases(&self) -> bool {
        !self.code.is_empty()
    }

    /// Address of the use counters ([`crate::counters`]), if it says which object the calls of each function work on.
    pub fn counters(&self) -> Option<u32> {
        (self.counters != NONE).then_some(self.counters)
    }

    /// The hooks: at most one of each kind.
    pub fn hooks(&self) -> Table<'a, Hook> {
        self.hooks
    }

    /// Address of the hook of this kind.
    pub fn hook(&self, kind: HookKind) -> Option<u32> {
        let mut hooks = self.hooks.iter();
        hooks.find(|hook| hook.kind == kind as u32).map(|hook| hook.function)
    }

    /// The text of a string.
    pub fn str(&self, string: Str) -> &'a str {
        let start = string.offset as usize;
        self.strings.get(start..start.saturating_add(string.len as usize)).unwrap_or("")
    }

    /// The bytes of a range.
    pub fn bytes(&self, range: Bytes) -> &'a [u8] {
        let start = range.offset as usize;
        self.bytes.get(start..start.saturating_add(range.len as usize)).unwrap_or(&[])
    }

    /// The replacements of an [`SiteKind::Alternative`] site.
    pub fn alternatives(&self, site: &Site) -> Alternatives<'a> {
        Alternatives { rest: self.bytes(site.data) }
    }

    fn check(&self) -> Result<(), RecordError> {
        if self.strings.bytes().any(|byte| byte == 0) {
            return Err(RecordError::Value("strings"));
        }
        for (string, what) in [
            (self.name, "update name"),
            (self.release, "kernel release"),
            (self.pinned, "pin reason"),
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

/// Iterates over the replacements of an alternative site.
#[derive(Clone, Copy, Debug)]
pub struct Alternatives<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Alternatives<'a> {
    type Item = Alternative<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&[len, masks], rest) = self.rest.split_first_chunk::<2>()?;
        let (bytes, rest) = rest.split_at_checked(usize::from(len))?;
        let (masked, rest) = rest.split_at_checked(usize::from(masks))?;
        if masked.iter().any(|&offset| usize::from(offset) + 4 > bytes.len()) {
            return None;
        }
        self.rest = rest;
        Some(Alternative { bytes, masked })
    }
}

fn take<T: Field>(cursor: &mut &[u8], what: &'static str) -> Result<T, RecordError> {
    T::read(cursor).ok_or(RecordError::Truncated(what))
}

/// Takes an (offset, count) pair from `cursor`; the bytes of `count` entries of `size` bytes each.
fn block<'a>(
    whole: &'a [u8],
    cursor: &mut &[u8],
    size: usize,
    what: &'static str,
) -> Result<&'a [u8], RecordError> {
    let (offset, count): (u32, u32) = (take(cursor, "header")?, take(cursor, "header")?);
    let len = (count as usize).checked_mul(size).ok_or(RecordError::Truncated(what))?;
    let end = (offset as usize).checked_add(len).ok_or(RecordError::Truncated(what))?;
    whole.get(offset as usize..end).ok_or(RecordError::Truncated(what))
}

fn table<'a, T: Field>(
    whole: &'a [u8],
    cursor: &mut &[u8],
    what: &'static str,
) -> Result<Table<'a, T>, RecordError> {
    Ok(Table { bytes: block(whole, cursor, T::SIZE, what)?, entry: PhantomData })
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
