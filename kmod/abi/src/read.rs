//! Reading a record: everything is checked by [`Record::parse`], so the accessors cannot fail.

mod check;

use core::marker::PhantomData;

use crate::entry::Field;
use crate::{
    ABI, Alternative, Bytes, Code, Function, Hook, HookKind, MAGIC, MAX_RECORD, NONE, Object,
    Relocation, Site, Slot, Str, Symbol, function_flags,
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
    kept: Str,
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
        let (name, release, pinned, kept) = (
            take(&mut cursor, "header")?,
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
            kept,
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

    /// Why the update must stay as it is once it has run, or empty: something may run its code, or follow its references.
    pub fn pinned(&self) -> &'a str {
        self.str(self.pinned)
    }

    /// Why its module must stay loaded once it has run, or empty: for that reason, or something may look at its data.
    pub fn stays(&self) -> &'a str {
        let pinned = self.pinned();
        if pinned.is_empty() { self.str(self.kept) } else { pinned }
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

    /// Whether a function is replaced whose callers in another edition would call it wrongly.
    pub fn is_reshaped(&self) -> bool {
        self.replaced().any(|(_, function)| function.flags & function_flags::RESHAPED != 0)
    }

    /// The first of the functions replaced that tasks leave unseen ([`crate::LEAVES_UNSEEN`]).
    pub fn leaves_unseen(&self) -> Option<&'a str> {
        self.first_of(&crate::LEAVES_UNSEEN)
    }

    /// The first of the functions replaced that CPUs stay in ([`crate::PARKS_CPUS`]).
    pub fn parks_cpus(&self) -> Option<&'a str> {
        self.first_of(&crate::PARKS_CPUS)
    }

    fn first_of(&self, names: &[&str]) -> Option<&'a str> {
        let mut replaced = self.replaced().filter_map(|(_, function)| {
            self.symbols().get(function.symbol).map(|symbol| self.str(symbol.name))
        });
        replaced.find(|name| names.contains(name))
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
