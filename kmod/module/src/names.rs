//! Collects what kallsyms has under the names of a record.

use alloc::vec::Vec;
use core::ffi::CStr;

use dynamos_abi::{NONE, Record, symbol_flags};
use dynamos_core::{Candidates, Range, sort};

use crate::ffi::errno::Errno;
use crate::ffi::memory::TryVec;
use crate::ffi::symbols::{self, Query};
use crate::ffi::text::printable;
use crate::refused::Refused;

/// The candidates for all symbols of `record`, but for those in `updates`: an update has placeholders of the
/// names it refers to, and clones of the names it replaces.
pub(crate) fn collect(
    record: &Record<'static>,
    updates: &[Range],
) -> Result<Candidates<'static>, Refused> {
    let mut candidates = Candidates::new(record)?;
    let mut strings = Vec::new();
    for symbol in record.symbols().iter() {
        if symbol.flags & symbol_flags::ANONYMOUS != 0 {
            continue;
        }
        // Whoever exports a symbol, the loader takes it from there.
        let any = symbol.object == NONE || symbol.flags & symbol_flags::EXPORTED != 0;
        let owner = record.objects().get(symbol.object).filter(|_| !any);
        let owner = owner.map_or("", |object| record.str(object.name));
        strings.try_push((c_string(owner)?, c_string(record.str(symbol.name))?))?;
    }
    sort(&mut strings);
    strings.dedup();
    let mut queries = Vec::new();
    for (object, name) in &strings {
        queries.try_push(Query { object: as_c_str(object)?, name: as_c_str(name)? })?;
    }
    for found in symbols::find_all(&queries)? {
        let Some(query) = queries.get(found.query) else { continue };
        let placeholder =
            updates.iter().any(|range| range.start <= found.address && found.address < range.end);
        if !placeholder {
            candidates.offer(printable(query.object), printable(query.name), found.address);
        }
    }
    Ok(candidates.finish()?)
}

/// `text` with a zero byte at its end, for the kernel.
pub(crate) fn c_string(text: &str) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::try_filled_from(text.as_bytes())?;
    bytes.try_push(0)?;
    Ok(bytes)
}

/// What [`c_string`] made.
pub(crate) fn as_c_str(bytes: &[u8]) -> Result<&CStr, Errno> {
    CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::EINVAL)
}
