//! Handlers in tables of operations of the running kernel: what stands in each slot, and what is to.
//!
//! A slot has no redirection that could decide call by call. It is written while all CPUs are stopped and no task is in
//! a function that reads it, and back in the same way.

use alloc::vec::Vec;

use dynamos_abi::{NONE, Record, Slot, symbol_flags};

use crate::insn::ENDBR;
use crate::matching::Memory;
use crate::refusal::Refusal;
use crate::resolve::{Resolved, names_of};

/// A slot in memory: 8 bytes that are written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Where it is, a multiple of 8.
    pub address: u64,
    /// What stands there while edition 0 runs.
    pub before: u64,
    /// What stands there while the editions run.
    pub after: u64,
}

/// Bytes of a slot.
const SIZE: usize = 8;

/// The words of a record's slots. Each must hold what V1 has there, and what is to stand there must be fit to be called.
pub fn words<'a>(
    record: &Record<'a>,
    resolved: &Resolved,
    addresses: &[u64],
    memory: &mut dyn Memory,
) -> Result<Vec<Word>, Refusal<'a>> {
    let mut words: Vec<Word> = Vec::new();
    words.try_reserve_exact(record.slots().len() as usize).map_err(|_| Refusal::OutOfMemory)?;
    for slot in record.slots().iter() {
        let (table, object) = names_of(record, slot.symbol);
        let word = word(record, &slot, resolved, addresses, memory)?;
        let mut now = [0; SIZE];
        if !memory.read(word.address, &mut now) || u64::from_le_bytes(now) != word.before {
            return Err(Refusal::HandlerDiffers { table, object });
        }
        if words.iter().any(|other| other.address == word.address) {
            return Err(Refusal::Record("two slots at one place"));
        }
        words.push(word);
    }
    Ok(words)
}

fn word<'a>(
    record: &Record<'a>,
    slot: &Slot,
    resolved: &Resolved,
    addresses: &[u64],
    memory: &mut dyn Memory,
) -> Result<Word, Refusal<'a>> {
    let address_of = |symbol: u32| -> Result<u64, Refusal<'a>> {
        let per_cpu = record
            .symbols()
            .get(symbol)
            .is_none_or(|symbol| symbol.flags & symbol_flags::PER_CPU != 0);
        let address = resolved.symbols.get(symbol as usize).copied().flatten();
        address.filter(|_| !per_cpu).ok_or(Refusal::Record("slot symbol"))
    };
    let place = address_of(slot.symbol)?.checked_add(u64::from(slot.offset));
    let address = place.filter(|place| place.is_multiple_of(SIZE as u64));
    let before = if slot.before == NONE { 0 } else { address_of(slot.before)? };
    let after = if slot.after != NONE {
        enterable(record, slot.after, address_of(slot.after)?, memory)?
    } else if slot.clone != NONE {
        *addresses.get(slot.clone as usize).ok_or(Refusal::Record("slot clone"))?
    } else {
        0
    };
    match address {
        Some(address) if before != after => Ok(Word { address, before, after }),
        _ => Err(Refusal::Record("slot")),
    }
}

/// The address of a function of the running kernel, if it may be called by a pointer there. The kernel overwrites the
/// `endbr64` of functions whose address it does not take (`apply_seal_endbr`, arch/x86/kernel/alternative.c).
fn enterable<'a>(
    record: &Record<'a>,
    symbol: u32,
    address: u64,
    memory: &mut dyn Memory,
) -> Result<u64, Refusal<'a>> {
    let function = record.functions().iter().find(|function| function.symbol == symbol);
    let function = function.ok_or(Refusal::Record("slot handler that is not matched"))?;
    let built = record.bytes(function.bytes).starts_with(&ENDBR);
    let mut now = [0; ENDBR.len()];
    if built && (!memory.read(address, &mut now) || now != ENDBR) {
        let (function, object) = names_of(record, symbol);
        return Err(Refusal::Sealed { function, object });
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Build, Kernel, with_record};

    const TABLE: u64 = 0xffff_ffff_c010_0000;
    const OLD: u64 = 0xffff_ffff_c000_1000;
    const STOCK: u64 = 0xffff_ffff_c000_2000;
    const CLONE: u64 = 0xffff_ffff_c020_0000;

    /// A table with V1's handler at 8; `after` gives the fields of the slot.
    fn slot(build: &mut Build, change: impl FnOnce(&mut Slot, u32)) {
        let table = build.symbol("ops", 0);
        let old = build.symbol("old", symbol_flags::FUNCTION);
        let stock = build.function("stock", 0, &[&ENDBR[..], &[0xc3]].concat(), &[]);
        build.0.addr_count = 1;
        let mut slot = Slot { symbol: table, offset: 8, before: old, after: NONE, clone: NONE };
        change(&mut slot, stock);
        build.0.slots.push(slot);
    }

    fn found(
        change: impl FnOnce(&mut Slot, u32),
        prepare: impl FnOnce(&mut Kernel),
    ) -> Result<Vec<Word>, String> {
        let mut build = Build::new();
        slot(&mut build, change);
        let mut kernel = Kernel::default();
        kernel.put(TABLE, &[[0; 8], OLD.to_le_bytes()].concat());
        kernel.put(STOCK, &[&ENDBR[..], &[0xc3]].concat());
        prepare(&mut kernel);
        let symbols = vec![Some(TABLE), Some(OLD), Some(STOCK)];
        let resolved = Resolved { symbols, functions: vec![STOCK], traced: vec![] };
        with_record(&build.finish("update"), |record| {
            words(record, &resolved, &[CLONE], &mut kernel).map_err(|refusal| refusal.to_string())
        })
    }

    #[test]
    fn a_slot_goes_to_the_update_to_the_kernel_or_to_null() {
        let word = |after| Ok(vec![Word { address: TABLE + 8, before: OLD, after }]);
        assert_eq!(found(|slot, _| slot.clone = 0, |_| ()), word(CLONE));
        assert_eq!(found(|slot, stock| slot.after = stock, |_| ()), word(STOCK));
        assert_eq!(found(|_, _| (), |_| ()), word(0));
    }

    #[test]
    fn what_somebody_else_has_changed_is_refused() {
        for other in [0, STOCK] {
            let text = found(
                |slot, _| slot.clone = 0,
                |kernel| kernel.put(TABLE, &[[0; 8], other.to_le_bytes()].concat()),
            );
            assert!(text.unwrap_err().contains("`ops`"));
        }
    }

    #[test]
    fn a_handler_that_would_trap_is_refused() {
        let sealed = |kernel: &mut Kernel| kernel.put(STOCK, &[0x0f, 0x1f, 0x40, 0x00, 0xc3]);
        let text = found(|slot, stock| slot.after = stock, sealed).unwrap_err();
        assert!(text.contains("`stock`"), "{text}");
    }

    #[test]
    fn a_slot_that_makes_no_sense_is_refused() {
        assert!(found(|slot, _| slot.before = NONE, |_| ()).is_err());
        assert!(found(|slot, _| slot.after = slot.before, |_| ()).is_err());
        let mut build = Build::new();
        slot(&mut build, |slot, _| slot.offset = 4);
        assert!(build.0.finish("update", "6.1", "").is_err());
    }
}
