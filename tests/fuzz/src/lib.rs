//! What the fuzz targets do with their input. An input may be refused; nothing may panic, hang
//! or take memory out of proportion.
//!
//! Inputs of `differ` and `unit` are object files, those of `image` linked ones. `dwarf` and `matcher` build theirs from framed
//! parts ([`frame`]), so that a mutation reaches what is meant instead of the ELF around it.

mod explain;
mod kernel;
mod types;

use std::collections::BTreeSet;

use dynamos_abi::Record;
use dynamos_core::{Budget, Range};
use dynamos_differ::image::{self, Image};
use dynamos_differ::parameters;
use dynamos_differ::show::Sources;
use dynamos_differ::{Object, Pair};
#[cfg(feature = "unit")]
use dynamos_generator::Unit;
use object::write;

use crate::kernel::Kernel;

/// A target: its name, which is that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("differ", differ),
    ("image", image),
    ("dwarf", dwarf),
    #[cfg(feature = "unit")]
    ("unit", unit),
    ("record", record),
    ("matcher", matcher),
];

/// The object that others are compared with.
pub const REFERENCE: &[u8] = include_bytes!("../reference.o");

/// The differ's loader and everything after it: an object against itself, and both ways against
/// another. What differs is shown, too.
pub fn differ(data: &[u8]) {
    let Ok(object) = Object::parse(data, "input.o") else { return };
    let Ok(reference) = Object::parse(REFERENCE, "reference.o") else { return };
    for (v1, v2) in [(&object, &object), (&reference, &object), (&object, &reference)] {
        if let Ok(comparison) = Pair::compare(v1, v2) {
            explain::differences(v1, v2, &comparison);
            let _ = comparison.by_unit(v1, v2);
        }
    }
    asked(&object, object.model.functions().map(|(_, f)| f.name.clone()).take(64).collect());
}

/// What is asked of an object besides: the parameters of these functions.
fn asked(object: &Object<'_>, functions: BTreeSet<String>) {
    let _ = parameters::signatures(&object.elf, &functions);
    let _ = parameters::variadic(&object.elf);
}

/// The image that others are compared with.
pub const IMAGE: &[u8] = include_bytes!("../reference.image");

/// The loader of linked images and everything after it, like `differ`.
pub fn image(data: &[u8]) {
    let Ok(image) = Image::parse(data, "input") else { return };
    let Ok(reference) = Image::parse(IMAGE, "reference") else { return };
    for (v1, v2) in [(&image, &image), (&reference, &image), (&image, &reference)] {
        let _ = image::contents(v1, v2);
        let _ = image::layouts(v1, v2);
    }
}

/// The DWARF sections of a `dwarf` input, in order.
pub const DWARF: [&str; 8] = [
    ".debug_abbrev",
    ".debug_info",
    ".debug_line",
    ".debug_str",
    ".debug_line_str",
    ".debug_rnglists",
    ".debug_addr",
    ".debug_str_offsets",
];

/// DWARF as the differ reads it: types, lines, inlined functions, parameters. Both readers of types must say the same of
/// two objects. The sections come without relocations, which the differ's target has.
pub fn dwarf(data: &[u8]) {
    let Some(bytes) = with_sections(&parts(data)) else { return };
    let Ok(object) = Object::parse(&bytes, "input.o") else { return };
    let Ok(reference) = Object::parse(REFERENCE, "reference.o") else { return };
    for (v1, v2) in [(&object, &object), (&reference, &object), (&object, &reference)] {
        types::readers_agree(v1, v2);
        explain::types(v1, v2, "thing");
    }
    let _ = dynamos_differ::layout::producers(&object.elf);
    let _ = Sources::load(&object.elf);
    asked(&object, ["pick", "rare", "switched", "twice", "call"].map(str::to_owned).into());
    for (id, section) in object.elf.sections() {
        if let Ok(lines) = object.lines() {
            let _ = lines.first(id, section.size / 2);
        }
        let _ = object.inlined_at(id, section.size / 2);
    }
}

/// An object of those sections and a little code.
fn with_sections(parts: &[&[u8]]) -> Option<Vec<u8>> {
    let mut object = write::Object::new(
        object::BinaryFormat::Elf,
        object::Architecture::X86_64,
        object::Endianness::Little,
    );
    let text = object.section_id(write::StandardSection::Text);
    object.append_section_data(text, &[0x90; 64], 16);
    for (name, part) in DWARF.iter().zip(parts) {
        let section =
            object.add_section(Vec::new(), name.as_bytes().to_vec(), object::SectionKind::Debug);
        object.append_section_data(section, part, 1);
    }
    object.write().ok()
}

/// The generator's loader, and what it asks an object.
#[cfg(feature = "unit")]
pub fn unit(data: &[u8]) {
    let Ok(unit) = Unit::parse(data, "input.o") else { return };
    for (index, section) in unit.sections.iter().enumerate() {
        for relocation in &section.relocations {
            let _ = unit.place(relocation, 0);
        }
        if section.is_code() {
            let _ = unit.fields(index, 0, section.bytes.len() as u64);
        }
    }
    // Each asks for the whole section if it likes; the generator asks for few.
    for symbol in unit.symbols.iter().take(64) {
        let _ = unit.find(&symbol.name);
        let _ = unit.bytes(symbol);
        if let Some(section) = symbol.section {
            let _ = unit.covering(section, symbol.value);
            let end = symbol.value.saturating_add(symbol.size);
            let _ = unit.fields(section, symbol.value, end);
        }
    }
}

/// The reader of records: what it accepts, every accessor must be able to give.
pub fn record(data: &[u8]) {
    let Ok(record) = Record::parse(data) else { return };
    let _ = (record.name(), record.release(), record.pinned());
    for object in record.objects().iter() {
        let _ = record.str(object.name);
    }
    for symbol in record.symbols().iter() {
        let _ = record.str(symbol.name);
    }
    for function in record.functions().iter() {
        let _ = record.bytes(function.bytes);
        for site in record.sites_of(&function) {
            record.alternatives(&site).for_each(drop);
        }
    }
}

/// Run-pre matching of a record with a kernel's memory: parts are the record, the names
/// ([`Kernel::new`]) and the memory.
pub fn matcher(data: &[u8]) {
    let parts = parts(data);
    let [bytes, names, memory] = parts.as_slice() else { return };
    let Ok(record) = Record::parse(bytes) else { return };
    let mut kernel = Kernel::new(names, memory);
    let names = kernel.clone();
    let Ok(resolved) =
        dynamos_core::resolve(&record, &names, &mut kernel, &mut Budget::new(1 << 22))
    else {
        return;
    };
    // What was proven must be so: as many addresses as functions, each readable.
    assert_eq!(resolved.functions.len(), record.functions().len() as usize);
    let addresses = vec![kernel::BASE; record.addr_count().min(1 << 16) as usize];
    let writable = [Range { start: kernel::BASE, end: kernel::BASE + (1 << 20) }];
    for relocation in record.relocations().iter() {
        let _ =
            dynamos_core::relocate(&record, &relocation, &resolved.symbols, &addresses, &writable);
    }
}

/// Puts parts together to an input, each with its length in front.
pub fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&(part.len() as u32).to_le_bytes());
        all.extend_from_slice(part);
    }
    all
}

/// The parts of an input; one that ends early is as long as it is.
fn parts(mut data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (part, rest) = rest.split_at(length.min(rest.len()));
        parts.push(part);
        data = rest;
    }
    parts
}
