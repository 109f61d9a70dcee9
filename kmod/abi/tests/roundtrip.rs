//! A record reads back as it was written, and no damage to it is read as something else than an error or a
//! record that is safe to walk.
#![cfg(feature = "write")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::field_reassign_with_default)]

use dynamos_abi::*;
use proptest::prelude::*;

fn sample() -> Vec<u8> {
    let mut writer = RecordWriter::default();
    writer.addr_count = 4;
    let object = Object { name: writer.str("ext4") };
    writer.objects.push(object);
    let name = writer.str("ext4_mb_init_group");
    writer.symbols.push(Symbol {
        name,
        object: 0,
        flags: symbol_flags::FUNCTION,
        placeholder: NONE,
    });
    let data = writer.alternatives(&[(vec![0xe8, 0, 0, 0, 0], vec![1]), (vec![0x90], vec![])]);
    let none = writer.bytes(&[]);
    writer.sites.push(site(4, 5, SiteKind::Fentry, NONE, none));
    writer.sites.push(site(10, 6, SiteKind::Alternative, NONE, data));
    writer.sites.push(site(20, 4, SiteKind::Pc32, 0, none));
    let bytes = writer.bytes(&[0x90; 32]);
    let parameters = writer.str("(file:u64)");
    writer.functions.push(Function {
        symbol: 0,
        flags: function_flags::REPLACE,
        bytes,
        first_site: 0,
        site_count: 3,
        fentry: 4,
        clone: 0,
        bridge: NONE,
        transition: 1,
        steady: 2,
        policy: 3,
        counting: NONE,
        original: NONE,
        parameters,
    });
    writer.relocations.push(Relocation {
        base: 3,
        offset: 8,
        kind: RelocationKind::Pc32 as u32,
        symbol: 0,
        addend: -4,
    });
    writer.slots.push(Slot { symbol: 0, offset: 16, before: 0, after: NONE, clone: 0 });
    writer.hooks.push(Hook { kind: HookKind::AfterOn as u32, function: 3 });
    writer.finish("update", "6.1.0-55-amd64", "").unwrap()
}

/// A record's beginning: a symbol, and a function of it that is only matched.
fn with_symbol() -> (RecordWriter, Function) {
    let mut writer = RecordWriter::default();
    let object = Object { name: writer.str("vmlinux") };
    writer.objects.push(object);
    let (name, bytes) = (writer.str("f"), writer.bytes(&[0x90; 8]));
    writer.symbols.push(Symbol { name, object: 0, flags: 1, placeholder: NONE });
    let function = Function {
        symbol: 0,
        flags: 0,
        bytes,
        first_site: 0,
        site_count: 0,
        fentry: NONE,
        clone: NONE,
        bridge: NONE,
        transition: NONE,
        steady: NONE,
        policy: NONE,
        counting: NONE,
        original: NONE,
        parameters: Str { offset: 0, len: 0 },
    };
    (writer, function)
}

/// The same with a clone and handlers, at the first four addresses.
fn replaced(function: Function) -> Function {
    Function { fentry: 0, clone: 0, transition: 1, steady: 2, policy: 3, ..function }
}

fn site(offset: u32, len: u16, kind: SiteKind, symbol: u32, data: Bytes) -> Site {
    Site { offset, len, kind: kind as u16, symbol, addend: -4, data }
}

/// Reads all that can be reached.
fn walk(record: &Record<'_>) -> usize {
    let mut seen = record.name().len() + record.release().len() + record.pinned().len();
    for function in record.functions().iter() {
        seen += record.bytes(function.bytes).len();
        for site in record.sites_of(&function) {
            seen += record.alternatives(&site).count() + record.bytes(site.data).len();
        }
    }
    seen + record.symbols().iter().map(|symbol| record.str(symbol.name).len()).sum::<usize>()
}

#[test]
fn reads_back() {
    let bytes = sample();
    let record = Record::parse(&bytes).unwrap();
    assert_eq!(
        (record.name(), record.release(), record.addr_count()),
        ("update", "6.1.0-55-amd64", 4)
    );
    let function = record.functions().get(0).unwrap();
    let kinds: Vec<u16> = record.sites_of(&function).map(|site| site.kind).collect();
    assert_eq!(kinds, [6, 9, 4]);
    let site = record.sites().get(1).unwrap();
    let alternatives: Vec<_> = record.alternatives(&site).collect();
    assert_eq!(alternatives.len(), 2);
    assert_eq!(alternatives[0].masked, [1]);
    assert_eq!(record.relocations().get(0).unwrap().addend, -4);
    let slot = record.slots().get(0).unwrap();
    assert_eq!((slot.offset, slot.before, slot.after, slot.clone), (16, 0, NONE, 0));
    assert_eq!(record.hook(HookKind::AfterOn), Some(3));
    assert_eq!(record.hook(HookKind::BeforeOn), None);
}

#[test]
fn hooks_are_one_of_a_kind_and_lead_somewhere() {
    let hook = |kind, function| Hook { kind, function };
    for (hooks, fits) in [
        (vec![hook(1, 0), hook(2, 0), hook(3, 0), hook(4, 0)], true),
        (vec![hook(0, 0)], false),
        (vec![hook(5, 0)], false), // it has no phases
        (vec![hook(9, 0)], false),
        (vec![hook(1, 1)], false),
        (vec![hook(1, NONE)], false),
        (vec![hook(1, 0), hook(1, 0)], false),
        (vec![hook(1, 0); 5], false),
    ] {
        let mut writer = RecordWriter::default();
        (writer.addr_count, writer.hooks) = (1, hooks.clone());
        assert_eq!(writer.finish("update", "6.1", "").is_ok(), fits, "{hooks:?}");
    }
}

#[test]
fn a_slot_that_leads_nowhere_is_refused() {
    let good = Slot { symbol: 0, offset: 16, before: 0, after: NONE, clone: 0 };
    for slot in [
        Slot { symbol: 1, ..good },
        Slot { symbol: NONE, ..good },
        Slot { offset: 12, ..good },
        Slot { before: 1, ..good },
        Slot { after: 1, clone: NONE, ..good },
        Slot { clone: 1, ..good },
        Slot { after: 0, ..good },
    ] {
        let mut writer = RecordWriter::default();
        writer.addr_count = 1;
        let object = Object { name: writer.str("vmlinux") };
        writer.objects.push(object);
        let name = writer.str("ops");
        writer.symbols.push(Symbol { name, object: 0, flags: 0, placeholder: NONE });
        writer.slots.push(slot);
        assert!(writer.finish("update", "6.1", "").is_err(), "{slot:?}");
    }
}

/// A record of two functions that are replaced, each with the bridge edition given.
fn phased(
    bridges: [u32; 2],
    flags: u32,
    code: &[Code],
    slots: bool,
) -> Result<Vec<u8>, RecordError> {
    let (mut writer, anchor) = with_symbol();
    writer.addr_count = 4;
    for bridge in bridges {
        writer.functions.push(Function { flags, bridge, ..replaced(anchor) });
    }
    writer.code.extend(code);
    if slots {
        writer.slots.push(Slot { symbol: 0, offset: 0, before: 0, after: NONE, clone: NONE });
    }
    writer.finish("update", "6.1", "")
}

#[test]
fn phases_are_of_all_functions_or_of_none() {
    let code = Code { start: 0, len: 8, edition: edition::BRIDGE };
    let other = Code { edition: edition::FINAL, ..code };
    let replace = function_flags::REPLACE;
    let bytes = phased([0, 1], replace, &[code, other], false).unwrap();
    let record = Record::parse(&bytes).unwrap();
    assert!(record.has_phases());
    assert_eq!(record.code().get(1), Some(other));
    assert!(!Record::parse(&phased([NONE; 2], replace, &[], false).unwrap()).unwrap().has_phases());
    let adapts = replace | function_flags::ADAPTS;
    for (what, bridges, flags, code, slots) in [
        ("one has no bridge", [0, NONE], replace, vec![code], false),
        ("bridges without code", [0, 0], replace, vec![], false),
        ("code without bridges", [NONE; 2], replace, vec![code], false),
        ("a bridge that leads nowhere", [0, 4], replace, vec![code], false),
        ("code that leads nowhere", [0, 1], replace, vec![Code { start: 4, ..code }], false),
        ("no code", [0, 1], replace, vec![Code { len: 0, ..code }], false),
        ("code of edition 0", [0, 1], replace, vec![Code { edition: 0, ..code }], false),
        ("another edition", [0, 1], replace, vec![Code { edition: 3, ..code }], false),
        ("an adaptation handler", [0, 1], adapts, vec![code], false),
        ("handlers in tables", [0, 1], replace, vec![code], true),
    ] {
        assert!(phased(bridges, flags, &code, slots).is_err(), "{what}");
    }
}

#[test]
fn the_future_and_the_foreign_are_refused() {
    let mut bytes = sample();
    bytes[8] = 99;
    assert_eq!(Record::parse(&bytes).unwrap_err(), RecordError::Version(99));
    assert_eq!(Record::parse(b"\x7fELF").unwrap_err(), RecordError::NotARecord);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample();
    for len in 0..bytes.len() {
        assert!(Record::parse(&bytes[..len]).is_err(), "length {len}");
    }
}

#[test]
fn functions_do_not_share_sites() {
    let (mut writer, anchor) = with_symbol();
    let data = writer.bytes(&[]);
    writer.sites.push(site(0, 4, SiteKind::Endbr, NONE, data));
    let function = Function { site_count: 1, ..anchor };
    writer.functions.extend([function, function]);
    let error = writer.finish("update", "6.1", "").unwrap_err();
    assert_eq!(error, RecordError::Value("function sites"));
}

/// A record of one function that is replaced, with these addresses of counters, counting handler and way to edition 0.
fn counted(
    counters: Option<u32>,
    counting: u32,
    original: u32,
    flags: u32,
) -> Result<Vec<u8>, RecordError> {
    let (mut writer, anchor) = with_symbol();
    (writer.addr_count, writer.counters) = (7, counters);
    let function = if flags & function_flags::REPLACE != 0 { replaced(anchor) } else { anchor };
    writer.functions.push(Function { flags, counting, original, ..function });
    writer.finish("update", "6.1", "")
}

#[test]
fn all_functions_count_or_none_does() {
    const REPLACE: u32 = function_flags::REPLACE;
    let record = counted(Some(6), 4, 5, REPLACE).unwrap();
    assert_eq!(Record::parse(&record).unwrap().counters(), Some(6));
    let record = counted(None, NONE, NONE, REPLACE).unwrap();
    assert_eq!(Record::parse(&record).unwrap().counters(), None);
    let half = Err(RecordError::Value("counting handlers"));
    assert_eq!(counted(Some(6), NONE, NONE, REPLACE), half);
    assert_eq!(counted(Some(6), 4, NONE, REPLACE), half);
    assert_eq!(counted(None, 4, 5, REPLACE), half);
    assert_eq!(counted(Some(6), 4, 5, REPLACE | function_flags::ADAPTS), half);
    assert_eq!(counted(Some(6), NONE, NONE, 0), half);
    assert!(counted(Some(7), 4, 5, REPLACE).is_err() && counted(Some(6), 7, 5, REPLACE).is_err());
    assert!(counted(None, 4, 5, 0).is_err());
}

#[test]
fn parameters_that_differ_bar_a_choice_by_call() {
    const RESHAPED: u32 = function_flags::RESHAPED;
    const REPLACE: u32 = function_flags::REPLACE;
    let whole = counted(None, NONE, NONE, REPLACE | RESHAPED).unwrap();
    assert!(Record::parse(&whole).unwrap().is_reshaped());
    let same = counted(None, NONE, NONE, REPLACE).unwrap();
    assert!(!Record::parse(&same).unwrap().is_reshaped());
    let refused = Err(RecordError::Value("parameters that differ"));
    assert_eq!(counted(Some(6), 4, 5, REPLACE | RESHAPED), refused);
    let adapts = REPLACE | RESHAPED | function_flags::ADAPTS;
    assert_eq!(counted(None, NONE, NONE, adapts), refused);
    assert_eq!(counted(None, NONE, NONE, RESHAPED), refused);
    let code = Code { start: 0, len: 8, edition: edition::BRIDGE };
    assert_eq!(phased([0, 1], REPLACE | RESHAPED, &[code], false), refused);
}

proptest! {
    #[test]
    fn damage_is_refused_or_harmless(at in 0usize..400, value: u8, more in 0usize..400, other: u8) {
        let mut bytes = sample();
        let len = bytes.len();
        bytes[at % len] = value;
        bytes[more % len] = other;
        if let Ok(record) = Record::parse(&bytes) {
            walk(&record);
        }
    }
}
