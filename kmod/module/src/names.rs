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
    // All names in one piece of memory: there are hundreds.
    let (mut names, mut places) = (Vec::new(), Vec::new());
    for symbol in record.symbols().iter() {
        if symbol.flags & symbol_flags::ANONYMOUS != 0 {
            continue;
        }
        // Whoever exports a symbol, the loader takes it from there.
        let any = symbol.object == NONE || symbol.flags & symbol_flags::EXPORTED != 0;
        let owner = record.objects().get(symbol.object).filter(|_| !any);
        let owner = owner.map_or("", |object| record.str(object.name));
        let object = add_c_string(&mut names, owner)?;
        places.try_push((object, add_c_string(&mut names, record.str(symbol.name))?))?;
    }
    let name_at = |at: usize| {
        let bytes = names.get(at..).unwrap_or_default();
        CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::EINVAL)
    };
    let mut queries = Vec::new();
    for (object, name) in places {
        queries.try_push(Query { object: name_at(object)?, name: name_at(name)? })?;
    }
    sort(&mut queries);
    queries.dedup();
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
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(text.len() + 1).map_err(|_| Errno::ENOMEM)?;
    add_c_string(&mut bytes, text)?;
    Ok(bytes)
}

/// Appends that, and gives where it begins.
fn add_c_string(bytes: &mut Vec<u8>, text: &str) -> Result<usize, Errno> {
    let at = bytes.len();
    bytes.try_extend(text.as_bytes())?;
    bytes.try_push(0)?;
    Ok(at)
}

/// What [`c_string`] made.
pub(crate) fn as_c_str(bytes: &[u8]) -> Result<&CStr, Errno> {
    CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::EINVAL)
}
