//! The entries of special sections that belong to a function, on both sides.

use super::function::{Code, Side};
use super::text::{name, shown};
use super::{Mark, Row, align};
use crate::compare::{Comparer, Table};
use crate::decode;
use crate::model::Place;
use crate::special::{Class, Entry};

/// Those that are compared, faced as they are compared.
pub(super) fn rows(
    comparer: &Comparer<'_, '_>,
    x: &Side<'_, '_>,
    y: &Side<'_, '_>,
) -> Vec<Row<Code>> {
    let tables = comparer.tables(x.id, y.id);
    tables.iter().flat_map(|table| table_rows(comparer, table, x, y)).collect()
}

fn table_rows(
    comparer: &Comparer<'_, '_>,
    table: &Table<'_>,
    x: &Side<'_, '_>,
    y: &Side<'_, '_>,
) -> Vec<Row<Code>> {
    let keys = |side: &Side<'_, '_>, list: &[&Entry]| -> Vec<String> {
        list.iter().map(|entry| told(side, entry, false)).collect()
    };
    let pairs = if table.old.len() == table.new.len() {
        (0..table.old.len()).map(|i| (Some(i), Some(i))).collect()
    } else {
        align(&keys(x, &table.old), &keys(y, &table.new))
    };
    let code = |side: &Side<'_, '_>, entry: &Entry| {
        let text = format!("{}: {}", table.section, told(side, entry, true));
        side.line(side.at.1.saturating_add(entry.site), text)
    };
    pairs
        .into_iter()
        .map(|(i, j)| {
            let old = i.and_then(|i| table.old.get(i)).copied();
            let new = j.and_then(|j| table.new.get(j)).copied();
            let mark = match (old, new) {
                (Some(old), Some(new)) if comparer.entry(old, new).is_ok() => Mark::Same,
                (Some(_), Some(_)) => Mark::Differs,
                (Some(_), None) => Mark::Removed,
                _ => Mark::Added,
            };
            Row { mark, old: old.map(|e| code(x, e)), new: new.map(|e| code(y, e)) }
        })
        .collect()
}

/// What an entry says: what it refers to, and its other bytes. Without `places`, without what moves with the code.
fn told(side: &Side<'_, '_>, entry: &Entry, places: bool) -> String {
    let (object, mut words) = (side.object, Vec::new());
    let bytes = entry.bytes(&object.elf);
    let mut at = 0;
    for r in entry.relocations(&object.elf) {
        let offset = r.offset.saturating_sub(entry.offset);
        words.extend(plain(entry, bytes, at, offset));
        at = offset.saturating_add(r.width());
        // Shown as code, below.
        if entry.replacement.is_some() && offset == 4 {
            continue;
        }
        words.push(match object.model.resolve(&object.elf, r.symbol, r.addend) {
            Place::Function { function, offset } if side.id == Some(function) => {
                if places {
                    format!("+{offset:#x}")
                } else {
                    "+".to_owned()
                }
            }
            other => name(object, other),
        });
    }
    words.extend(plain(entry, bytes, at, entry.size));
    words.extend(replacement(side, entry));
    words.join(", ")
}

/// The bytes of an entry from one place to another, if there are any that say something.
fn plain(entry: &Entry, bytes: &[u8], from: u64, to: u64) -> Option<String> {
    let range = usize::try_from(from).ok()?..usize::try_from(to).ok()?;
    let bytes = bytes.get(range)?;
    if let (Class::BugTable, [a, b, c, d]) = (entry.class, bytes) {
        let (line, flags) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
        return Some(format!("line {line}, flags {flags:#x}"));
    }
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.iter().any(|byte| *byte != 0).then(|| hex.join(" "))
}

/// The code that an alternative puts in.
fn replacement(side: &Side<'_, '_>, entry: &Entry) -> Option<String> {
    let (section, start, len) = entry.replacement?;
    let (object, end) = (side.object, start.saturating_add(len));
    let body = decode::decode(&object.elf, &object.model, section, (start, end), &|_| true);
    let extent = (section, start, end);
    let code: Vec<String> =
        body.insns.iter().map(|insn| shown(object, insn, extent).text).collect();
    Some(if code.is_empty() { "nothing".to_owned() } else { code.join("; ") })
}
