//! The update's static keys and static calls: which key each entry means, and how the code was before.

use alloc::vec::Vec;
use core::ops::Range;

use dynamos_abi::Record;
use dynamos_core::sort;

use crate::ffi::errno::Errno;
use crate::ffi::kernel_memory;
use crate::ffi::late_sections::LateSections;
use crate::ffi::log;
use crate::ffi::memory::TryVec;
use crate::ffi::modules::{Module, RangeKind};

/// `struct jump_entry`: `s32 code, s32 target, s64 key`, each relative to itself.
const JUMP_ENTRY: usize = 16;
/// `struct static_call_site`: `s32 addr, s32 key`, each relative to itself.
const CALL_SITE: usize = 8;
/// Flags in the low bits of a key: `STATIC_CALL_SITE_FLAGS`; a jump entry's are the branch and "init".
const FLAGS: u64 = 3;
/// The longest instruction patched: a static call's `jcc`.
const LONGEST: usize = 6;
/// What a static branch that is not taken is built as (`x86_nops`).
const NOPS: [&[u8]; 2] = [&[0x66, 0x90], &[0x0f, 0x1f, 0x44, 0x00, 0x00]];

/// Both tables of one update.
pub(crate) struct LateTables {
    jumps: Range<u64>,
    calls: Range<u64>,
    installed: Option<LateSections>,
    /// What to put back: the kernel sorts the tables and patches the code, and takes the code to be as it was
    /// built when it is given the tables again (`jump_label_add_module`).
    before: Vec<Saved>,
}

/// Bytes of the update as they were before the kernel was given the tables.
struct Saved {
    address: u64,
    bytes: [u8; JUMP_ENTRY],
    len: usize,
}

/// The addresses of placeholders, sorted, with those of what they stand for.
pub(crate) struct Placeholders(Vec<(u64, Option<u64>)>);

impl Placeholders {
    /// Of `record`, whose symbols are at `symbols`.
    pub(crate) fn new(
        record: &Record<'_>,
        addresses: &[u64],
        symbols: &[Option<u64>],
    ) -> Result<Self, Errno> {
        let mut all = Vec::new();
        for (symbol, real) in record.symbols().iter().zip(symbols) {
            if let Some(address) = addresses.get(symbol.placeholder as usize) {
                all.try_push((*address, *real))?;
            }
        }
        sort(&mut all);
        Ok(Self(all))
    }

    /// What the placeholder at `address` stands for; `None` where there is no placeholder.
    fn find(&self, address: u64) -> Option<Option<u64>> {
        let at = self.0.binary_search_by_key(&address, |(placeholder, _)| *placeholder).ok()?;
        self.0.get(at).map(|(_, real)| *real)
    }
}

impl LateTables {
    /// The tables in these places of the update.
    pub(crate) fn new(jumps: Range<u64>, calls: Range<u64>) -> Self {
        Self { jumps, calls, installed: None, before: Vec::new() }
    }

    /// Whether the kernel has the tables.
    pub(crate) fn are_installed(&self) -> bool {
        self.installed.is_some()
    }

    /// Gives the tables to the kernel. The relocations are written; none of the code runs.
    pub(crate) fn install(
        &mut self,
        module: &Module,
        placeholders: &Placeholders,
    ) -> Result<(), Errno> {
        if self.installed.is_some() {
            return Err(Errno::EEXIST);
        }
        self.restore(module)?; // What could not be put back the last time.
        let outcome = self
            .save(module)
            .and_then(|()| self.check_jumps(placeholders))
            .and_then(|()| self.resolve_calls(module, placeholders))
            .and_then(|()| {
                // SAFETY: entries are whole; their code is in the update, which is not redirected to; no key
                // is a placeholder; the update holds its targets and itself while this is installed.
                unsafe { LateSections::install(module, self.jumps.clone(), self.calls.clone()) }
            });
        match outcome {
            Ok(sections) => {
                self.installed = Some(sections);
                Ok(())
            }
            Err(error) => {
                self.put_back(module);
                Err(error)
            }
        }
    }

    /// Takes the tables back and puts the code into the state it was built in. None of it runs.
    pub(crate) fn remove(&mut self, module: &Module) {
        self.installed = None;
        self.put_back(module);
    }

    /// Keeps both tables, and the code that each entry names.
    fn save(&mut self, module: &Module) -> Result<(), Errno> {
        let ranges = module.ranges();
        for (table, size) in [(&self.jumps, JUMP_ENTRY), (&self.calls, CALL_SITE)] {
            if !(table.end.saturating_sub(table.start)).is_multiple_of(size as u64) {
                return Err(Errno::EINVAL);
            }
            for entry in table.clone().step_by(size) {
                let mut saved = Saved { address: entry, bytes: [0; JUMP_ENTRY], len: size };
                saved.read()?;
                self.before.try_push(saved)?;
                let code = relative(entry, i64::from(read_i32(entry)?));
                if ranges.kind_of(code, 1) != Some(RangeKind::Text) {
                    return Err(Errno::EINVAL);
                }
                let room = usize::try_from(ranges.text().end - code).unwrap_or(LONGEST);
                let mut saved =
                    Saved { address: code, bytes: [0; JUMP_ENTRY], len: LONGEST.min(room) };
                saved.read()?;
                let bytes = saved.bytes.get(..saved.len).unwrap_or_default();
                let built = match size {
                    JUMP_ENTRY => branch_as_built(entry, code, bytes)?,
                    _ => call_as_built(bytes),
                };
                // The kernel would find what it does not expect, and stop at it (`__jump_label_patch`).
                saved.len = built.ok_or(Errno::EBUSY).inspect_err(|_| {
                    log::error(format_args!(
                        "the code of an update is not as it was built where a static branch or call is: remove the \
                         kprobe that is there"
                    ));
                })?;
                self.before.try_push(saved)?;
            }
        }
        Ok(())
    }

    fn put_back(&mut self, module: &Module) {
        if let Err(error) = self.restore(module) {
            log::error(format_args!("static branches of an update are not as built yet: {error}"));
        }
    }

    /// Puts back what was kept. What cannot be put back stays noted, and the tables are not given again before it is.
    fn restore(&mut self, module: &Module) -> Result<(), Errno> {
        let mut result = Ok(());
        self.before.retain(|saved| {
            let bytes = saved.bytes.get(..saved.len).unwrap_or_default();
            // SAFETY: what stood there when the module was loaded, where nothing runs.
            let written = unsafe { kernel_memory::write(module, saved.address, bytes) };
            written.inspect_err(|error| result = Err(*error)).is_err()
        });
        result
    }

    /// Checks that the relocations have left no jump entry with a placeholder as its key.
    fn check_jumps(&self, placeholders: &Placeholders) -> Result<(), Errno> {
        for entry in self.jumps.clone().step_by(JUMP_ENTRY) {
            let place = entry.wrapping_add(8);
            let mut key = [0; 8];
            kernel_memory::read(place, &mut key)?;
            let key = relative(place, i64::from_le_bytes(key)) & !FLAGS;
            if placeholders.find(key).is_some() {
                return Err(Errno::EINVAL);
            }
        }
        Ok(())
    }

    /// Gives each static call its real key. objtool writes the table after the record was made, so the record
    /// does not list these fields. Where the key is not exported, it writes the trampoline's address instead,
    /// and the kernel finds the key by that (`static_call_add_module`): both may be placeholders.
    fn resolve_calls(&self, module: &Module, placeholders: &Placeholders) -> Result<(), Errno> {
        for entry in self.calls.clone().step_by(CALL_SITE) {
            let place = entry.wrapping_add(4);
            let key = relative(place, i64::from(read_i32(place)?));
            let Some(real) = placeholders.find(key & !FLAGS) else { continue };
            let real = real.filter(|real| real & FLAGS == 0).ok_or(Errno::EINVAL)?;
            let field = (real | (key & FLAGS)).wrapping_sub(place).cast_signed();
            let field = i32::try_from(field).map_err(|_| Errno::EINVAL)?;
            // SAFETY: the key field of an entry of the table, which the kernel does not have yet.
            unsafe { kernel_memory::write(module, place, &field.to_le_bytes()) }?;
        }
        Ok(())
    }
}

impl Saved {
    fn read(&mut self) -> Result<(), Errno> {
        let bytes = self.bytes.get_mut(..self.len).ok_or(Errno::EINVAL)?;
        kernel_memory::read(self.address, bytes)
    }
}

/// How long the instruction of a static branch is, if it is what the compiler and objtool have made of it: a NOP, or a jump to
/// where `entry` says.
fn branch_as_built(entry: u64, code: u64, bytes: &[u8]) -> Result<Option<usize>, Errno> {
    if let Some(nop) = NOPS.into_iter().find(|nop| bytes.starts_with(nop)) {
        return Ok(Some(nop.len()));
    }
    let (len, distance) = match *bytes {
        [0xeb, distance, ..] => (2, i64::from(distance.cast_signed())),
        [0xe9, a, b, c, d, ..] => (5, i64::from(i32::from_le_bytes([a, b, c, d]))),
        _ => return Ok(None),
    };
    let target = entry.wrapping_add(4);
    let target = relative(target, i64::from(read_i32(target)?));
    let goes_to = relative(code.wrapping_add(len), distance);
    Ok((goes_to == target).then_some(len as usize))
}

/// How long the instruction of a static call is, if it is one: a call, or a jump at a function's end.
fn call_as_built(bytes: &[u8]) -> Option<usize> {
    match *bytes {
        [0xe8 | 0xe9, ..] => Some(5),
        [0x0f, 0x80..=0x8f, ..] => Some(6),
        _ => None,
    }
    .filter(|len| *len <= bytes.len())
}

fn read_i32(address: u64) -> Result<i32, Errno> {
    let mut bytes = [0; 4];
    kernel_memory::read(address, &mut bytes)?;
    Ok(i32::from_le_bytes(bytes))
}

/// What a relative field at `place` refers to.
fn relative(place: u64, field: i64) -> u64 {
    place.wrapping_add(field.cast_unsigned())
}
