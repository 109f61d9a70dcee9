//! Phase 3: the special sections: tables that tie something to a place in a function.
//!
//! An entry belongs to the function that its *site* (the first relocation of the entry) points
//! into. Sizes are those of Linux 6.1 to 6.12 on x86-64 and are checked against where the
//! relocations really are: a table that does not fit is not guessed at but [`Class::Unknown`].

use std::collections::BTreeMap;

use serde::Serialize;

use crate::load::{Elf, Relocation, Section, SectionId};
use crate::model::{FunctionId, Model, Place};

/// What kind of table a section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// `__bug_table`: `struct bug_entry`, include/asm-generic/bug.h.
    BugTable,
    /// `__ex_table`: `struct exception_table_entry`, arch/x86/include/asm/extable.h.
    ExceptionTable,
    /// `.altinstructions`: `struct alt_instr`, arch/x86/include/asm/alternative.h.
    Alternatives,
    /// `.altinstr_replacement`: code an alternative puts in.
    AlternativeReplacement,
    /// `.altinstr_aux`: out-of-line code of `static_cpu_has()`.
    AlternativeAux,
    /// `__jump_table`: `struct jump_entry`, include/linux/jump_label.h.
    JumpTable,
    /// `.static_call_sites`: `struct static_call_site` (written by objtool).
    StaticCallSites,
    /// `.retpoline_sites`, `.return_sites`, `.call_sites`, `.ibt_endbr_seal` (by objtool).
    PatchSites,
    /// `.smp_locks`.
    SmpLocks,
    /// `.parainstructions` (6.1): `struct paravirt_patch_site`.
    Paravirt,
    /// `__mcount_loc`: the ftrace sites.
    Mcount,
    /// `__patchable_function_entries`: where the call padding is.
    PatchableEntries,
    /// `runtime_ptr_*`, `runtime_shift_*` (6.12): constants patched once, at boot.
    RuntimeConstant,
    /// `.orc_unwind_ip` and `.orc_unwind` (by objtool).
    Orc,
    /// `_error_injection_whitelist`: functions that `fail_function` may override.
    ErrorInjection,
    /// `_kprobe_blacklist`.
    KprobeBlacklist,
    /// `.kcfi_traps`, `.cfi_sites`.
    Kcfi,
    /// `.discard.*`: read by objtool, dropped by the linker.
    Discard,
    /// Pointers to whole functions that the kernel reads by section: exports, init calls,
    /// tracepoints, parameters.
    Registration,
    /// Not known to us.
    Unknown,
}

/// One entry of a special section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The kind of table.
    pub class: Class,
    /// The section.
    pub section: SectionId,
    /// Offset of the entry in the section.
    pub offset: u64,
    /// Size of the entry.
    pub size: u64,
    /// The function it belongs to.
    pub function: FunctionId,
    /// The place in that function (offset from its start).
    pub site: u64,
    /// How many bytes of the function the entry describes; 0 if just the place.
    pub site_len: u64,
    /// For [`Class::Alternatives`]: the replacement (section, offset, length).
    pub replacement: Option<(SectionId, u64, u64)>,
}

impl Entry {
    /// The entry's bytes, unrelocated.
    pub fn bytes<'e>(&self, elf: &'e Elf<'_>) -> &'e [u8] {
        elf.sections
            .get(self.section.0 as usize)
            .and_then(|s| s.bytes(self.offset, self.size))
            .unwrap_or(&[])
    }

    /// The entry's relocations (offsets are those in the section).
    pub fn relocations<'e>(&self, elf: &'e Elf<'_>) -> &'e [Relocation] {
        elf.sections
            .get(self.section.0 as usize)
            .map_or(&[], |s| s.relocations_in(self.offset, self.offset + self.size))
    }
}

/// The entries of all special sections, by function.
#[derive(Debug, Default)]
pub struct Special {
    /// All entries, by section and offset.
    pub entries: Vec<Entry>,
    by_function: BTreeMap<FunctionId, Vec<usize>>,
}

impl Special {
    /// Reads the special sections of `elf`.
    pub fn build(elf: &Elf<'_>, model: &Model) -> Self {
        let mut special = Self::default();
        for (id, section) in elf.sections() {
            // objtool works the unwinder's tables out from the code.
            let Some(class) = class_of(section).filter(|class| *class != Class::Orc) else {
                continue;
            };
            special.read(elf, model, id, section, class);
        }
        for (index, entry) in special.entries.iter().enumerate() {
            special.by_function.entry(entry.function).or_default().push(index);
        }
        special
    }

    fn read(
        &mut self,
        elf: &Elf<'_>,
        model: &Model,
        id: SectionId,
        section: &Section<'_>,
        class: Class,
    ) {
        let fixed = entry_size(class, section);
        let class = match (class, fixed) {
            (Class::Discard | Class::Registration | Class::Unknown, _) | (_, Some(_)) => class,
            // Code, which has no entries: it belongs to the entry of `.altinstructions` that names it, or to the
            // jump that leads to it.
            (Class::AlternativeReplacement | Class::AlternativeAux, None) => class,
            (_, None) => Class::Unknown,
        };
        for (offset, size) in extents(section, fixed) {
            let Some(first) = section.relocations_in(offset, offset + size).first() else {
                continue;
            };
            let Place::Function { function, offset: site } =
                model.resolve(elf, first.symbol, first.addend)
            else {
                continue;
            };
            let mut entry = Entry {
                class,
                section: id,
                offset,
                size,
                function,
                site,
                site_len: 0,
                replacement: None,
            };
            describe(elf, section, &mut entry);
            self.entries.push(entry);
        }
    }

    /// The entries that belong to a function (not those of its `.cold` part).
    pub fn of(&self, function: FunctionId) -> impl Iterator<Item = &Entry> {
        self.by_function
            .get(&function)
            .into_iter()
            .flatten()
            .filter_map(|index| self.entries.get(*index))
    }
}

/// The extents of the entries: fixed size, or from one relocation to the next.
fn extents(section: &Section<'_>, fixed: Option<u64>) -> Vec<(u64, u64)> {
    if let Some(size) = fixed {
        return (0..section.size / size).map(|i| (i * size, size)).collect();
    }
    let starts: Vec<u64> = section.relocations.iter().map(|r| r.offset).collect();
    let ends = starts.iter().skip(1).copied().chain(std::iter::once(section.size));
    starts.iter().zip(ends).map(|(start, end)| (*start, end - start)).collect()
}

/// Length fields, and the replacement of an alternative.
fn describe(elf: &Elf<'_>, section: &Section<'_>, entry: &mut Entry) {
    let byte = |at: u64| section.bytes(entry.offset + at, 1).and_then(|b| b.first()).copied();
    match entry.class {
        Class::Alternatives => {
            entry.site_len = byte(entry.size - 2).unwrap_or(0).into();
            let len = byte(entry.size - 1).unwrap_or(0).into();
            let relocation = section.relocations_in(entry.offset + 4, entry.offset + 8).first();
            if let Some(r) = relocation
                && let Ok(symbol) = elf.symbol(r.symbol)
                && let Some(section) = symbol.section()
                && let Ok(at) = u64::try_from((symbol.value as i64).wrapping_add(r.addend))
            {
                entry.replacement = Some((section, at, len));
            }
        }
        Class::Paravirt => entry.site_len = byte(9).unwrap_or(0).into(),
        Class::JumpTable => entry.site_len = 1,
        _ => {}
    }
}

/// The class of a section; `None` for plain code, data and what is not loaded.
pub fn class_of(section: &Section<'_>) -> Option<Class> {
    let name = section.name;
    if name.starts_with(".discard") {
        return Some(Class::Discard);
    }
    if !section.is_alloc() {
        return None;
    }
    Some(match name {
        "__bug_table" => Class::BugTable,
        "__ex_table" => Class::ExceptionTable,
        ".altinstructions" => Class::Alternatives,
        ".altinstr_replacement" => Class::AlternativeReplacement,
        ".altinstr_aux" => Class::AlternativeAux,
        "__jump_table" => Class::JumpTable,
        ".static_call_sites" => Class::StaticCallSites,
        ".retpoline_sites" | ".return_sites" | ".call_sites" | ".ibt_endbr_seal" => {
            Class::PatchSites
        }
        ".smp_locks" => Class::SmpLocks,
        ".parainstructions" => Class::Paravirt,
        "__mcount_loc" => Class::Mcount,
        "__patchable_function_entries" => Class::PatchableEntries,
        ".orc_unwind" | ".orc_unwind_ip" | ".orc_header" => Class::Orc,
        "_error_injection_whitelist" => Class::ErrorInjection,
        "_kprobe_blacklist" => Class::KprobeBlacklist,
        ".kcfi_traps" | ".cfi_sites" => Class::Kcfi,
        _ if name.starts_with("runtime_ptr_") || name.starts_with("runtime_shift_") => {
            Class::RuntimeConstant
        }
        _ if section.is_exec() || is_plain_data(name) => return None,
        _ if is_registration(name) => Class::Registration,
        _ => Class::Unknown,
    })
}

/// Sections whose content is C objects without any meaning of their own.
pub fn is_plain_data(name: &str) -> bool {
    const PREFIXES: &[&str] = &[
        ".data",
        ".bss",
        ".rodata",
        ".init.data",
        ".init.rodata",
        ".init.bss",
        ".exit.data",
        ".ref.data",
        ".ref.rodata",
        ".meminit.data",
        ".meminit.rodata",
        ".note",
        ".gnu.linkonce.this_module",
        ".tdata",
        ".tbss",
    ];
    PREFIXES
        .iter()
        .any(|p| name.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// Sections that make something known to the kernel (include/asm-generic/vmlinux.lds.h): they
/// hold pointers to whole functions, which stay right when the function is redirected.
fn is_registration(name: &str) -> bool {
    const NAMES: &[&str] = &[
        ".export_symbol",
        "__ksymtab_strings",
        "__param",
        "__modver",
        ".modinfo",
        "__dyndbg",
        "__dyndbg_classes",
        "__tracepoints",
        "__tracepoints_ptrs",
        "__tracepoints_strings",
        "__tracepoint_str",
        "_ftrace_events",
        "_ftrace_eval_map",
        "_ftrace_annotated_branch",
        "_ftrace_branch",
        "__bpf_raw_tp_map",
        "__syscalls_metadata",
        "__trace_printk_fmt",
        ".printk_index",
        ".BTF_ids",
        ".BTF",
        ".init.setup",
        ".lsm_info.init",
        ".early_lsm_info.init",
        ".con_initcall.init",
        ".security_initcall.init",
        ".static_call_tramp_key",
        "___srcu_struct_ptrs",
        "alloc_tags",
        ".apicdrivers",
        "__earlycon_table",
        ".kunit_test_suites",
        ".init.ramfs",
        ".tracedata",
        "__kcrctab",
        ".builtin_fw",
        ".x86_cpu_dev.init",
        ".x86_intel_mid_dev.init",
    ];
    const PREFIXES: &[&str] =
        &["___ksymtab", "__ksymtab", "___kcrctab", ".initcall", ".pci_fixup", ".exitcall"];
    const SUFFIXES: &[&str] = &["_of_table", "_acpi_probe_table", "_sched_class"];
    NAMES.contains(&name)
        || PREFIXES.iter().any(|p| name.starts_with(p))
        || SUFFIXES.iter().any(|s| name.ends_with(s))
}

/// The entry size of which every multiple is the start of an entry with a relocation, as the
/// table needs it.
fn entry_size(class: Class, section: &Section<'_>) -> Option<u64> {
    // (size, offsets of the fields that must have a relocation)
    let shapes: &[(u64, &[u64])] = match class {
        Class::BugTable => &[(12, &[0, 4]), (8, &[0])],
        Class::ExceptionTable => &[(12, &[0, 4])],
        Class::Alternatives => &[(14, &[0, 4]), (12, &[0, 4])],
        Class::JumpTable => &[(16, &[0, 4, 8])],
        Class::StaticCallSites => &[(8, &[0, 4])],
        Class::PatchSites | Class::SmpLocks | Class::RuntimeConstant => &[(4, &[0])],
        Class::Paravirt | Class::ErrorInjection => &[(16, &[0])],
        Class::Mcount | Class::PatchableEntries | Class::KprobeBlacklist => &[(8, &[0])],
        Class::Kcfi => &[(4, &[0])],
        _ => return None,
    };
    shapes.iter().find(|(size, fields)| fits(section, *size, fields)).map(|(size, _)| *size)
}

fn fits(section: &Section<'_>, size: u64, fields: &[u64]) -> bool {
    let count = section.size / size;
    section.size.is_multiple_of(size)
        && section.relocations.len() as u64 == count * fields.len() as u64
        && section.relocations.chunks(fields.len()).zip(0..count).all(|(relocations, entry)| {
            relocations.iter().zip(fields).all(|(r, field)| r.offset == entry * size + field)
        })
}
