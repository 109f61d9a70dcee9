//! What kallsyms has under the names of a record.

use alloc::vec::Vec;

use dynamos_abi::{NONE, Record, Symbol, symbol_flags};

use crate::refusal::Refusal;
use crate::sort::sort;

/// Addresses by name.
pub trait Names {
    /// The addresses that kallsyms has for the name of symbol `index`, in the symbol's object or, if it is
    /// exported, in any; each once, in ascending order.
    fn candidates(&self, index: u32) -> &[u64];
}

/// Collects candidates while the kernel walks its symbols, once for all symbols of a record.
pub struct Candidates<'a> {
    record: Record<'a>,
    /// Symbols with names, sorted by name.
    by_name: Vec<(&'a str, u32)>,
    found: Vec<(u32, u64)>,
    /// Where each symbol's addresses are in `addresses`, once finished.
    ranges: Vec<(usize, usize)>,
    addresses: Vec<u64>,
    failed: bool,
}

/// The most candidates one record may have: more than there are symbols in a kernel.
const MAX_FOUND: usize = 1 << 20;

impl<'a> Candidates<'a> {
    /// Prepares to collect for `record`.
    pub fn new(record: &Record<'a>) -> Result<Self, Refusal<'a>> {
        let mut by_name = Vec::new();
        let count = record.symbols().len() as usize;
        by_name.try_reserve_exact(count).map_err(|_| Refusal::OutOfMemory)?;
        for (index, symbol) in (0u32..).zip(record.symbols().iter()) {
            if symbol.flags & symbol_flags::ANONYMOUS == 0 {
                by_name.push((record.str(symbol.name), index));
            }
        }
        sort(&mut by_name);
        Ok(Candidates {
            record: *record,
            by_name,
            found: Vec::new(),
            ranges: Vec::new(),
            addresses: Vec::new(),
            failed: false,
        })
    }

    /// Takes one symbol of the kernel; `object` is `vmlinux` or a module's name.
    pub fn offer(&mut self, object: &str, name: &str, address: u64) {
        let first = self.by_name.partition_point(|(known, _)| *known < name);
        for at in first.. {
            let Some(&(known, index)) = self.by_name.get(at) else { break };
            if known != name {
                break;
            }
            let wanted =
                self.record.symbols().get(index).is_some_and(|symbol| self.is_in(&symbol, object));
            if !wanted {
                continue;
            }
            if self.found.len() >= MAX_FOUND || self.found.try_reserve(1).is_err() {
                self.failed = true;
                return;
            }
            self.found.push((index, address));
        }
    }

    /// Whether `symbol` may be in `object`.
    fn is_in(&self, symbol: &Symbol, object: &str) -> bool {
        let any = symbol.object == NONE || symbol.flags & symbol_flags::EXPORTED != 0;
        let owner = self.record.objects().get(symbol.object);
        any || owner.is_some_and(|owner| self.record.str(owner.name) == object)
    }

    /// Ends the collection.
    pub fn finish(mut self) -> Result<Self, Refusal<'a>> {
        if self.failed {
            return Err(Refusal::OutOfMemory);
        }
        sort(&mut self.found);
        self.found.dedup();
        let count = self.record.symbols().len();
        self.ranges.try_reserve_exact(count as usize).map_err(|_| Refusal::OutOfMemory)?;
        self.addresses.try_reserve_exact(self.found.len()).map_err(|_| Refusal::OutOfMemory)?;
        let mut found = self.found.iter().peekable();
        for index in 0..count {
            let start = self.addresses.len();
            while let Some((_, address)) = found.next_if(|(symbol, _)| *symbol == index) {
                self.addresses.push(*address);
            }
            self.ranges.push((start, self.addresses.len()));
        }
        Ok(self)
    }
}

impl Names for Candidates<'_> {
    fn candidates(&self, index: u32) -> &[u64] {
        let range = self.ranges.get(index as usize);
        range.and_then(|&(start, end)| self.addresses.get(start..end)).unwrap_or(&[])
    }
}
