//! The real addresses that the update's references to placeholders get.

use dynamos_abi::{Record, Relocation, RelocationKind};

use crate::refusal::Refusal;
use crate::resolve::names_of;

/// Addresses from `start` up to, without, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub start: u64,
    /// The one after the last.
    pub end: u64,
}

/// Bytes to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where.
    pub address: u64,
    bytes: [u8; 8],
    before: [u8; 8],
    len: usize,
}

impl Patch {
    /// What.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }

    /// What must stand there: the reference to the placeholder, as the loader wrote it.
    pub fn before(&self) -> &[u8] {
        self.before.get(..self.len).unwrap_or(&self.before)
    }
}

/// Computes one relocation (psABI, table 4.9).
///
/// `symbols` are the resolved symbols, `addresses` the array that accompanies the record, `writable` the
/// update's own sections: nothing else is ever written.
pub fn relocate<'a>(
    record: &Record<'a>,
    relocation: &Relocation,
    symbols: &[Option<u64>],
    addresses: &[u64],
    writable: &[Range],
) -> Result<Patch, Refusal<'a>> {
    let (symbol, object) = names_of(record, relocation.symbol);
    let kind =
        RelocationKind::from_raw(relocation.kind).ok_or(Refusal::Record("relocation kind"))?;
    let base = addresses.get(relocation.base as usize);
    let place = base
        .and_then(|base| base.checked_add(u64::from(relocation.offset)))
        .ok_or(Refusal::OutsideUpdate { symbol })?;
    let len = kind.size();
    let end = place.checked_add(len as u64).ok_or(Refusal::OutsideUpdate { symbol })?;
    if !writable.iter().any(|range| range.start <= place && end <= range.end) {
        return Err(Refusal::OutsideUpdate { symbol });
    }
    let placeholder = record.symbols().get(relocation.symbol).map(|symbol| symbol.placeholder);
    let placeholder = placeholder.and_then(|index| addresses.get(index as usize));
    let placeholder = *placeholder.ok_or(Refusal::Record("a relocation without a placeholder"))?;
    let real = symbols
        .get(relocation.symbol as usize)
        .copied()
        .flatten()
        .ok_or(Refusal::NoSymbol { symbol, object })?;
    let addend = relocation.addend.cast_unsigned();
    let (value, fits, kind_name) = field(kind, real.wrapping_add(addend), place);
    if !fits {
        return Err(Refusal::TooFar { symbol, kind: kind_name });
    }
    let (before, _, _) = field(kind, placeholder.wrapping_add(addend), place);
    Ok(Patch { address: place, bytes: value.to_le_bytes(), before: before.to_le_bytes(), len })
}

/// What a field at `place` holds that refers to `target`, whether it fits, and what such a field is called.
fn field(kind: RelocationKind, target: u64, place: u64) -> (u64, bool, &'static str) {
    let relative = target.wrapping_sub(place);
    match kind {
        RelocationKind::Abs64 => (target, true, "64"),
        RelocationKind::Pc64 => (relative, true, "PC64"),
        RelocationKind::Pc32 => (relative, is_i32(relative), "PC32"),
        RelocationKind::Abs32 => (target, u32::try_from(target).is_ok(), "32"),
        RelocationKind::Abs32S => (target, is_i32(target), "32S"),
    }
}

/// Whether `value` is a sign-extended 32-bit number.
fn is_i32(value: u64) -> bool {
    i32::try_from(value.cast_signed()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamos_abi::{NONE, RecordWriter, Symbol, symbol_flags};

    const WRITABLE: [Range; 1] =
        [Range { start: 0xffff_ffff_c000_0000, end: 0xffff_ffff_c000_1000 }];
    const BASE: u64 = WRITABLE[0].start;

    fn with<T>(check: impl FnOnce(&Record<'_>) -> T) -> T {
        let mut writer = RecordWriter::default();
        let name = writer.str("target");
        let flags = symbol_flags::EXPORTED;
        writer.symbols.push(Symbol { name, object: NONE, flags, placeholder: 0 });
        writer.addr_count = 1;
        let bytes = writer.finish("update", "6.1", "").unwrap();
        check(&Record::parse(&bytes).unwrap())
    }

    fn one(kind: RelocationKind, offset: u32, symbol: u64) -> Result<Vec<u8>, String> {
        let relocation = Relocation { base: 0, offset, kind: kind as u32, symbol: 0, addend: -4 };
        with(|record| {
            relocate(record, &relocation, &[Some(symbol)], &[BASE], &WRITABLE)
                .map(|patch| {
                    assert_eq!(patch.address, BASE + u64::from(offset));
                    assert_eq!(patch.before().len(), patch.bytes().len());
                    patch.bytes().to_vec()
                })
                .map_err(|refusal| refusal.to_string())
        })
    }

    #[test]
    fn computes_each_kind() {
        let near = BASE + 0x100;
        assert_eq!(one(RelocationKind::Pc32, 0x10, near).unwrap(), 0xecu32.to_le_bytes());
        assert_eq!(one(RelocationKind::Pc64, 0x10, near).unwrap(), 0xecu64.to_le_bytes());
        assert_eq!(one(RelocationKind::Abs64, 0, near).unwrap(), (near - 4).to_le_bytes());
        assert_eq!(one(RelocationKind::Abs32S, 0, near).unwrap(), (near as u32 - 4).to_le_bytes());
        assert_eq!(one(RelocationKind::Abs32, 0, 0x104).unwrap(), 0x100u32.to_le_bytes());
    }

    #[test]
    fn what_stood_there_refers_to_the_placeholder() {
        let kind = RelocationKind::Pc32 as u32;
        let relocation = Relocation { base: 0, offset: 0x10, kind, symbol: 0, addend: -4 };
        with(|record| {
            let patch = relocate(record, &relocation, &[Some(BASE)], &[BASE], &WRITABLE).unwrap();
            // The placeholder is at BASE.
            assert_eq!(patch.before(), (-0x14i32).to_le_bytes());
        });
        let bytes = {
            let mut writer = RecordWriter::default();
            let name = writer.str("target");
            let flags = symbol_flags::EXPORTED;
            writer.symbols.push(Symbol { name, object: NONE, flags, placeholder: NONE });
            writer.finish("update", "6.1", "").unwrap()
        };
        let record = Record::parse(&bytes).unwrap();
        let refusal = relocate(&record, &relocation, &[Some(BASE)], &[BASE], &WRITABLE);
        assert!(matches!(refusal, Err(Refusal::Record(_))));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (kind, symbol) in [
            (RelocationKind::Pc32, 0xffff_8880_0000_0000),
            (RelocationKind::Abs32, BASE),
            (RelocationKind::Abs32S, 0xffff_8880_0000_0000),
            (RelocationKind::Abs32S, 0x8000_0004),
        ] {
            let text = one(kind, 0, symbol).unwrap_err();
            assert!(text.contains("cannot reach `target`"), "{text}");
        }
    }

    #[test]
    fn only_the_update_is_written() {
        assert!(one(RelocationKind::Abs64, 0xff8, BASE).is_ok());
        for offset in [0xff9, 0x1000, u32::MAX] {
            let text = one(RelocationKind::Abs64, offset, BASE).unwrap_err();
            assert!(text.contains("outside the update"), "{text}");
        }
    }

    #[test]
    fn an_unresolved_symbol_is_refused() {
        let relocation = Relocation {
            base: 0,
            offset: 0,
            kind: RelocationKind::Abs64 as u32,
            symbol: 0,
            addend: 0,
        };
        with(|record| {
            let refusal = relocate(record, &relocation, &[None], &[BASE], &WRITABLE).unwrap_err();
            assert!(matches!(refusal, Refusal::NoSymbol { symbol: "target", .. }));
            let refusal = relocate(record, &relocation, &[], &[], &WRITABLE).unwrap_err();
            assert!(matches!(refusal, Refusal::OutsideUpdate { .. }));
        });
    }
}
