//! Special sections: tables whose entries are about places in code and must go where the code goes.

use anyhow::{Context, Result, bail, ensure};

use crate::unit::{Place, Section, Unit};

/// What to do with a table that refers to code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    /// Entries go with the code; this many relocations belong to each.
    Entries(usize),
    /// About something else than code at this place (exports, initcalls, parameters): stays behind.
    StaysBehind,
}

/// One entry of a table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Section of the table.
    pub section: usize,
    /// Where the entry starts.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
}

/// Classifies a section by its name; `None` if it is unknown.
///
/// Numbers of relocations: `struct alt_instr`, `bug_entry`, `exception_table_entry`, `jump_entry`,
/// `paravirt_patch_site` and the `ANNOTATE_*` macros of 6.1 and 6.12.
fn classify(name: &str) -> Option<Table> {
    use Table::{Entries, StaysBehind};
    let stays = [
        ".export_symbol",
        "___ksymtab",
        ".init",
        ".exit",
        ".initcall",
        ".con_initcall",
        "__param",
        ".modinfo",
        ".discard.addressable",
        ".discard.sym",
        ".printk_index",
        "__patchable_function_entries",
        ".rela",
        ".note",
        ".BTF",
        "_ftrace_events",
        "__tracepoint",
        "_kprobe_blacklist",
        "_error_injection_whitelist",
        "__syscalls_metadata",
        ".data",
        ".rodata",
        ".bss",
        ".ref",
        "_kprobe",
    ];
    Some(match name {
        ".altinstructions" | "__bug_table" | "__ex_table" => Entries(2),
        "__jump_table" => Entries(3),
        ".smp_locks" | ".parainstructions" | "__mcount_loc" => Entries(1),
        _ if name.starts_with("__mcount_loc") => Entries(1),
        _ if stays.iter().any(|prefix| name.starts_with(prefix)) => StaysBehind,
        // A variable, alone in its section so that the linker puts the classes in order.
        _ if name.ends_with("_sched_class") => StaysBehind,
        _ if name.starts_with(".discard.") => Entries(1),
        _ => return None,
    })
}

/// Entries of all tables that are about the code between `start` and `end` of section `code`.
///
/// An unknown table that refers to the code is an error: nobody can say what it would take to move it.
pub fn entries_about(unit: &Unit, code: usize, start: u64, end: u64) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    for (index, table) in unit.sections.iter().enumerate() {
        if !table.is_loaded() && !table.name.starts_with(".discard") || table.is_code() {
            continue;
        }
        let refers = |position: usize| -> Result<bool> {
            let relocation = table.relocations.get(position).context("no such relocation")?;
            let symbol = unit.symbol(relocation.symbol)?;
            let at = (symbol.value as i64).wrapping_add(relocation.addend);
            Ok(symbol.section == Some(code) && (start as i64..end as i64).contains(&at))
        };
        match classify(&table.name) {
            Some(Table::StaysBehind) => {}
            Some(Table::Entries(per_entry)) => {
                let size = entry_size(table, per_entry)?;
                let count = table.relocations.len() / per_entry;
                for number in 0..count {
                    // The first relocation of every entry says which code it is about.
                    if refers(number * per_entry)? {
                        let start = number as u64 * size;
                        found.push(Entry { section: index, start, end: start + size });
                    }
                }
            }
            None => {
                for position in 0..table.relocations.len() {
                    if refers(position)? {
                        bail!("section {} is unknown and refers to it", table.name);
                    }
                }
            }
        }
    }
    Ok(found)
}

/// Bytes of an entry, given how many relocations each has.
fn entry_size(table: &Section, per_entry: usize) -> Result<u64> {
    let count = (table.relocations.len() / per_entry) as u64;
    let len = table.bytes.len() as u64;
    ensure!(
        table.relocations.len().is_multiple_of(per_entry) && count > 0 && len.is_multiple_of(count),
        "section {} has {} relocations in {len} bytes, which is no table of entries with {per_entry} each",
        table.name,
        table.relocations.len()
    );
    let size = len / count;
    for (position, relocation) in table.relocations.iter().enumerate() {
        let entry = (position / per_entry) as u64;
        ensure!(
            (entry * size..(entry + 1) * size).contains(&relocation.offset),
            "section {}: relocations and entries do not line up at {:#x}",
            table.name,
            relocation.offset
        );
    }
    Ok(size)
}

/// What the boot-time patching of a function may do to it, for the function's sites.
pub fn patches(
    unit: &Unit,
    code: usize,
    start: u64,
    end: u64,
) -> Result<Vec<crate::sites::Special>> {
    use crate::sites::Special;
    let mut patches = Vec::new();
    for entry in entries_about(unit, code, start, end)? {
        let table = unit.section(entry.section)?;
        let bytes = table
            .bytes
            .get(entry.start as usize..entry.end as usize)
            .context("an entry reaches past its table")?;
        let relocations: Vec<_> = table
            .relocations
            .iter()
            .filter(|relocation| (entry.start..entry.end).contains(&relocation.offset))
            .collect();
        let address = |position: usize| -> Result<(usize, u64)> {
            let relocation = relocations.get(position).context("an entry lacks a relocation")?;
            let symbol = unit.symbol(relocation.symbol)?;
            let section = symbol.section.context("an entry refers to another object")?;
            let at = (symbol.value as i64).wrapping_add(relocation.addend);
            Ok((section, u64::try_from(at)?))
        };
        let at = (address(0)?.1 - start) as u32;
        let last = |back: usize| bytes.len().checked_sub(back).and_then(|i| bytes.get(i)).copied();
        match table.name.as_str() {
            ".altinstructions" => {
                let (len, replacement_len) =
                    (last(2).context("short entry")?, last(1).context("short entry")?);
                let (section, from) = address(1)?;
                let (replacement, masked) = if replacement_len == 0 {
                    Default::default()
                } else {
                    replacement(unit, section, from, u64::from(replacement_len))?
                };
                patches.push(Special::Alternative { at, len, replacement, masked });
            }
            ".parainstructions" => {
                // struct paravirt_patch_site: u8 *instr; u8 type; u8 len; padding
                let len = bytes.get(9).copied().context("short entry")?;
                patches.push(Special::Paravirt { at, len });
            }
            ".smp_locks" => patches.push(Special::Lock { at }),
            "__jump_table" => {
                let (section, to) = address(1)?;
                let jump = if section == code && (start..end).contains(&to) {
                    Special::Jump { at, target: None, addend: (to - start) as i64 }
                } else {
                    match unit.covering(section, to) {
                        Some((symbol, into)) => Special::Jump {
                            at,
                            target: Some(unit.symbol(symbol)?.name.clone()),
                            addend: into as i64,
                        },
                        None => bail!("a static key jumps to a place without a name"),
                    }
                };
                patches.push(jump);
            }
            _ => {}
        }
    }
    Ok(patches)
}

/// Bytes of a replacement and the offsets of the 4-byte fields in it that depend on where it ends up.
fn replacement(unit: &Unit, section: usize, from: u64, len: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    let bytes = unit
        .section(section)?
        .bytes
        .get(from as usize..(from + len) as usize)
        .context("a replacement reaches past its section")?
        .to_vec();
    let mut masked = Vec::new();
    for field in unit.fields(section, from, from + len)? {
        let named = !matches!(field.place, Place::Raw(..)) || field.resolved;
        ensure!(
            named || field.kind != object::elf::R_X86_64_64,
            "an 8-byte field in a replacement"
        );
        masked.push(field.offset as u8);
    }
    Ok((bytes, masked))
}
