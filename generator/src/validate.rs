//! Re-reads the module that was made and checks it, as if somebody else had made it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use dynamos_abi::{NONE, Record, function_flags, symbol_flags};
use object::read::elf::{ElfFile64, FileHeader as _, SectionHeader as _};
use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, elf,
};

use crate::clones::{ADDRS_SECTION, PLACEHOLDER_SECTION};

/// Sections of a module that the kernel's loader (`kernel/module/main.c`, `find_module_sections`,
/// `module_finalize` of x86) or `dynamos.ko` knows what to do with, beside plain code and data.
const KNOWN_SECTIONS: [&str; 41] = [
    ".altinstr_aux",
    ".altinstr_replacement",
    ".altinstructions",
    ".BTF",
    ".call_sites",
    ".comment",
    ".data..read_mostly",
    ".dynamos.addrs",
    ".dynamos.jump_table",
    ".dynamos.record",
    ".dynamos.static_call_sites",
    ".exit.data",
    ".fini_array", // KASAN's, of the C part of the update; the kernel runs the other one
    ".gnu.linkonce.this_module",
    ".ibt_endbr_seal",
    ".init.data",
    ".init_array",
    ".modinfo",
    ".note.GNU-stack",
    ".note.Linux",
    ".note.gnu.build-id",
    ".note.gnu.property",
    ".orc_header",
    ".orc_unwind",
    ".orc_unwind_ip",
    ".parainstructions",
    ".plt",
    ".printk_index",
    ".retpoline_sites",
    ".return_sites",
    ".shstrtab",
    ".smp_locks",
    ".strtab",
    ".symtab",
    "__bug_table",
    "__dyndbg",
    "__ex_table",
    "__mcount_loc",
    "__param",
    "__patchable_function_entries",
    "__versions",
];
const KNOWN_PREFIXES: [&str; 9] =
    [".text", ".init", ".exit", ".data", ".rodata", ".bss", ".rela", ".static_call", ".codetag"];

/// What the module must agree with.
#[derive(Debug)]
pub struct Expected<'a> {
    /// Name of the module.
    pub name: &'a str,
    /// `uname -r` of the kernel.
    pub release: &'a str,
    /// The record as it was written.
    pub record: &'a [u8],
    /// Names in the kernel's `Module.symvers`.
    pub exported: &'a BTreeSet<String>,
}

/// Checks the module in `ko`.
pub fn validate(ko: &[u8], expected: &Expected<'_>) -> Result<()> {
    let file: ElfFile64<'_, LittleEndian> =
        ElfFile64::parse(ko).context("the module is not a 64-bit ELF file")?;
    ensure!(
        file.elf_header().e_type(LittleEndian) == elf::ET_REL
            && file.elf_header().e_machine(LittleEndian) == elf::EM_X86_64,
        "the module is not a relocatable x86-64 object"
    );
    let sections: BTreeMap<&str, object::SectionIndex> = file
        .sections()
        .filter_map(|section| Some((section.name().ok()?, section.index())))
        .collect();
    check_modinfo(&file, expected)?;
    let known = |name: &&&str| {
        KNOWN_SECTIONS.contains(name)
            || KNOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    if let Some(unknown) = sections.keys().find(|name| !known(name)) {
        bail!("the module has a section {unknown} that neither the loader nor dynamos.ko knows");
    }
    ensure!(
        !sections.contains_key("__jump_table") && !sections.contains_key(".static_call_sites"),
        "the loader would use static keys or static calls before their addresses are known"
    );
    check_record(&file, expected)?;
    check_relocations(&file, expected)
}

fn check_modinfo(file: &ElfFile64<'_, LittleEndian>, expected: &Expected<'_>) -> Result<()> {
    let modinfo = file
        .section_by_name(".modinfo")
        .context("the module has no .modinfo")?
        .data()
        .context(".modinfo cannot be read")?;
    let entries: Vec<&str> = modinfo
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok())
        .collect();
    let value =
        |key: &str| entries.iter().find_map(|entry| entry.strip_prefix(key)?.strip_prefix('='));
    let vermagic = value("vermagic").context("the module has no vermagic")?;
    ensure!(
        vermagic.split(' ').next() == Some(expected.release),
        "the module is for kernel {vermagic}, not for {}",
        expected.release
    );
    ensure!(value("name") == Some(expected.name), "the module has another name");
    ensure!(
        value("depends").is_some_and(|depends| depends.split(',').any(|name| name == "dynamos")),
        "the module does not depend on dynamos.ko"
    );
    Ok(())
}

fn check_record(file: &ElfFile64<'_, LittleEndian>, expected: &Expected<'_>) -> Result<()> {
    let section = file.section_by_name(".dynamos.record").context("the module has no record")?;
    let bytes = section.data().context("the record cannot be read")?;
    ensure!(bytes == expected.record, "the record in the module is not the one that was written");
    let record = Record::parse(bytes)?;
    ensure!(
        record.name() == expected.name && record.release() == expected.release,
        "the record is for another update"
    );
    let addrs = file.section_by_name(ADDRS_SECTION).context("the module has no addresses")?;
    let targets: BTreeMap<u64, object::SymbolIndex> = addrs
        .relocations()
        .filter_map(|(offset, relocation)| match relocation.target() {
            RelocationTarget::Symbol(symbol) => Some((offset, symbol)),
            _ => None,
        })
        .collect();
    ensure!(
        addrs.size() == u64::from(record.addr_count()) * 8
            && targets.len() == record.addr_count() as usize,
        "the record counts {} addresses, the module has {} bytes of them with {} relocations",
        record.addr_count(),
        addrs.size(),
        targets.len()
    );
    let section_of = |addr: u32| -> Result<String> {
        let symbol = targets.get(&(u64::from(addr) * 8)).context("an address has no relocation")?;
        let symbol = file.symbol_by_index(*symbol)?;
        let section = symbol.section_index().context("an address is not in the module")?;
        Ok(file.section_by_index(section)?.name()?.to_string())
    };
    for function in record.functions().iter().filter(|f| f.flags & function_flags::REPLACE != 0) {
        for addr in [function.clone, function.steady, function.transition, function.policy] {
            let section = section_of(addr)?;
            ensure!(section.starts_with(".text"), "a clone or handler lies in {section}");
        }
    }
    for symbol in record.symbols().iter().filter(|symbol| symbol.placeholder != NONE) {
        let section = section_of(symbol.placeholder)?;
        let function = symbol.flags & symbol_flags::FUNCTION != 0;
        ensure!(
            (section == PLACEHOLDER_SECTION) == function,
            "the placeholder of {} lies in {section}",
            record.str(symbol.name)
        );
    }
    check_covered(file, &record, &targets)
}

/// Every reference to a placeholder must be one that the record says will be rewritten: a field that keeps the
/// placeholder's address would send the kernel into a trap.
fn check_covered(
    file: &ElfFile64<'_, LittleEndian>,
    record: &Record<'_>,
    addrs: &BTreeMap<u64, object::SymbolIndex>,
) -> Result<()> {
    let place = |symbol: object::SymbolIndex| -> Result<(usize, u64)> {
        let symbol = file.symbol_by_index(symbol)?;
        Ok((symbol.section_index().context("an address is not in the module")?.0, symbol.address()))
    };
    let addr_section =
        file.section_by_name(ADDRS_SECTION).context("the module has no addresses")?;
    let addends: BTreeMap<u64, i64> = addr_section
        .relocations()
        .map(|(offset, relocation)| (offset, relocation.addend()))
        .collect();
    let address = |index: u32| -> Result<(usize, u64)> {
        let offset = u64::from(index) * 8;
        let (section, value) = place(*addrs.get(&offset).context("an address has no relocation")?)?;
        let addend = addends.get(&offset).copied().unwrap_or(0);
        Ok((section, value.wrapping_add_signed(addend)))
    };
    let mut placeholders = BTreeMap::new();
    for symbol in record.symbols().iter().filter(|symbol| symbol.placeholder != NONE) {
        placeholders.insert(address(symbol.placeholder)?, record.str(symbol.name));
    }
    let mut covered = BTreeSet::new();
    for relocation in record.relocations().iter() {
        let (section, start) = address(relocation.base)?;
        covered.insert((section, start + u64::from(relocation.offset)));
    }
    for section in file.sections() {
        let name = section.name().unwrap_or("");
        // dynamos.ko translates these by the placeholder's address itself; the addresses are how it knows them;
        // code placement tables never hold a placeholder's contents.
        if matches!(name, ".dynamos.static_call_sites" | ADDRS_SECTION)
            || is_about_placeholders(name)
            || !is_loaded(&section)
        {
            continue;
        }
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(symbol) = relocation.target() else { continue };
            let Ok(target) = place(symbol) else { continue };
            if let Some(name_of) = placeholders.get(&target)
                && !covered.contains(&(section.index().0, offset))
            {
                bail!(
                    "{name}+{offset:#x} refers to the placeholder of {name_of}, and no record tells of it"
                );
            }
        }
    }
    Ok(())
}

/// Tables that objtool makes for the placeholders' own code.
fn is_about_placeholders(section: &str) -> bool {
    matches!(section, ".orc_unwind_ip" | ".return_sites" | ".ibt_endbr_seal" | ".call_sites")
}

fn is_loaded(section: &object::read::elf::ElfSection64<'_, '_, LittleEndian>) -> bool {
    section.elf_section_header().sh_flags(LittleEndian) & u64::from(elf::SHF_ALLOC) != 0
}

/// Every symbol a relocation names is defined here in a section that is kept, or exported by the kernel.
fn check_relocations(file: &ElfFile64<'_, LittleEndian>, expected: &Expected<'_>) -> Result<()> {
    for section in file.sections().filter(is_loaded) {
        let name = section.name().unwrap_or("");
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                bail!("{name}+{offset:#x}: a relocation without a symbol");
            };
            let symbol = file.symbol_by_index(index)?;
            let symbol_name = symbol.name().unwrap_or("");
            if symbol.is_undefined() && !symbol.is_weak() {
                ensure!(
                    expected.exported.contains(symbol_name),
                    "{name}+{offset:#x} refers to {symbol_name}, which the kernel does not export"
                );
            }
            let in_init = |name: &str| name.starts_with(".init") || name.starts_with(".exit");
            if let Some(target) = symbol.section_index() {
                let target = file.section_by_index(target)?;
                let target_name = target.name().unwrap_or("");
                let discarded =
                    target_name.starts_with(".discard") || (in_init(target_name) && is_clone(name));
                ensure!(
                    !discarded,
                    "{name}+{offset:#x} refers to {target_name}, which is gone after loading"
                );
            }
        }
    }
    Ok(())
}

/// Sections that hold the clones' code and data (not the module's own start and exit).
fn is_clone(section: &str) -> bool {
    section.starts_with(".text.") || section.starts_with(".rodata") || section.starts_with(".data")
}
