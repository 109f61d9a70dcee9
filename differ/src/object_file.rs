//! An object with everything that later phases ask of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use crate::compare::counts;
use crate::decode::{self, Body, Field};
use crate::error::Result;
use crate::inlined::Inlined;
use crate::lines::Lines;
use crate::load::{Elf, Relocation, SectionId};
use crate::model::{DataId, Function, FunctionId, Model, Place};
use crate::special::{Class, Entry, Special};

/// A relocatable object, understood.
#[derive(Debug)]
pub struct Object<'d> {
    /// The file as it is.
    pub elf: Elf<'d>,
    /// Its functions and data objects.
    pub model: Model,
    /// Its special sections.
    pub special: Special,
    bodies: Vec<Body>,
    lines: OnceLock<Result<Lines>>,
    inlined: OnceLock<Result<Inlined>>,
    referrers: OnceLock<Referrers>,
}

/// Who refers to what.
#[derive(Debug, Default)]
pub struct Referrers {
    /// For each data object: the functions whose code, or whose entries in special sections, refer to it.
    pub functions_of_data: HashMap<DataId, BTreeSet<FunctionId>>,
    /// For each data object: the data objects that point to it.
    pub data_of_data: HashMap<DataId, BTreeSet<DataId>>,
    /// For each function: the functions whose code refers to it. A `.cold` part counts as its function.
    pub callers: HashMap<FunctionId, BTreeSet<FunctionId>>,
    /// Functions whose address is taken, by code or data.
    pub address_taken: BTreeSet<FunctionId>,
    /// Section offsets something refers to: where anonymous content begins.
    pub boundaries: HashMap<SectionId, Vec<u64>>,
}

impl<'d> Object<'d> {
    /// Reads an object. `name` is what errors and reports call it.
    pub fn parse(data: &'d [u8], name: &str) -> Result<Self> {
        let elf = Elf::parse(data, name)?;
        let model = Model::build(&elf);
        let special = Special::build(&elf, &model);
        let bodies = model
            .functions()
            .map(|(id, f)| {
                let sites: Vec<(u64, u64)> = special
                    .of(id)
                    .filter(|e| e.site_len > 0)
                    .map(|e| (f.start + e.site, f.start + e.site + e.site_len))
                    .collect();
                let pinned = |at: u64| sites.iter().any(|(s, e)| (*s..*e).contains(&at));
                decode::decode(&elf, &model, f.section, (f.start, f.end), &pinned)
            })
            .collect();
        Ok(Self {
            elf,
            model,
            special,
            bodies,
            lines: OnceLock::new(),
            inlined: OnceLock::new(),
            referrers: OnceLock::new(),
        })
    }

    /// A function.
    pub fn function(&self, id: FunctionId) -> Option<&Function> {
        self.model.function(id)
    }

    /// The function with that name.
    pub fn function_by_name(&self, name: &str) -> Option<FunctionId> {
        self.model.functions().find(|(_, f)| f.name == name).map(|(id, _)| id)
    }

    /// The decoded instructions of a function, without its padding and its `.cold` part.
    pub fn body(&self, id: FunctionId) -> &Body {
        static EMPTY: Body = Body { insns: Vec::new() };
        self.bodies.get(id.0 as usize).unwrap_or(&EMPTY)
    }

    /// The bytes of a function, unrelocated.
    pub fn function_bytes(&self, id: FunctionId) -> &[u8] {
        self.function(id)
            .and_then(|f| {
                self.elf.sections.get(f.section.0 as usize)?.bytes(f.start, f.end - f.start)
            })
            .unwrap_or(&[])
    }

    /// The relocations inside a function; offsets are those in the section.
    pub fn function_relocations(&self, id: FunctionId) -> &[Relocation] {
        self.function(id)
            .and_then(|f| {
                Some(self.elf.sections.get(f.section.0 as usize)?.relocations_in(f.start, f.end))
            })
            .unwrap_or(&[])
    }

    /// Entries of the special sections that belong to a function.
    pub fn special_entries(&self, id: FunctionId) -> impl Iterator<Item = &Entry> {
        self.special.of(id)
    }

    /// Where the `call __fentry__` of a function is (offset from its start), if it has one.
    pub fn fentry_offset(&self, id: FunctionId) -> Option<u64> {
        if let Some(entry) = self.special.of(id).find(|e| e.class == Class::Mcount) {
            return Some(entry.site);
        }
        let f = self.function(id)?;
        let insn = self.body(id).insns.iter().take(2).find(|insn| {
            insn.is_call()
                && matches!(
                    insn.reference(Field::Branch).map(|r| r.place),
                    Some(Place::External { symbol, .. })
                        if self.elf.symbol(symbol).is_ok_and(|s| s.name == "__fentry__")
                )
        })?;
        Some(insn.offset - f.start)
    }

    /// The line table; read when first asked for.
    pub fn lines(&self) -> Result<&Lines> {
        self.lines.get_or_init(|| Lines::load(&self.elf)).as_ref().map_err(Clone::clone)
    }

    /// Whether the address of a function is taken (and not only called).
    pub fn is_address_taken(&self, id: FunctionId) -> bool {
        self.referrers().address_taken.contains(&id)
    }

    /// Who refers to what; computed when first asked for.
    pub fn referrers(&self) -> &Referrers {
        self.referrers.get_or_init(|| collect_referrers(self))
    }

    /// The function inlined at a place, the innermost one; none for the function's
    /// own code.
    pub fn inlined_at(&self, section: SectionId, offset: u64) -> Option<String> {
        let inlined = self.inlined.get_or_init(|| Inlined::load(&self.elf)).as_ref().ok()?;
        inlined.at(section, offset).map(str::to_owned)
    }

    /// The functions that hold code of the function `name`: its own bodies and parts, and those that inline it.
    pub fn holders(&self, name: &str) -> Result<BTreeSet<String>> {
        let inlined = Inlined::load(&self.elf)?;
        let inside = |f: &Function| {
            let (start, end) = (
                crate::lines::address(f.section, f.start),
                crate::lines::address(f.section, f.end),
            );
            inlined.is_within(name, start, end)
        };
        let own = |f: &Function| f.name.split('.').next() == Some(name);
        let all = self.model.functions().map(|(_, f)| f);
        Ok(all.filter(|f| own(f) || inside(f)).map(|f| f.name.clone()).collect())
    }

    /// Whether a piece of code is nothing but no-operations and traps.
    pub(crate) fn is_padding(&self, section: SectionId, start: u64, end: u64) -> bool {
        let none = |_| false;
        let body = decode::decode(&self.elf, &self.model, section, (start, end), &none);
        body.insns.is_empty()
    }

    /// The section an id means, for callers that hold a valid id.
    pub fn section_name(&self, id: SectionId) -> &str {
        self.elf.sections.get(id.0 as usize).map_or("", |s| s.name)
    }

    /// How a person would call a place.
    pub fn describe(&self, place: Place) -> String {
        let with = |name: &str, offset: i64| match offset {
            0 => name.to_owned(),
            o if o < 0 => format!("{name}-{:#x}", o.unsigned_abs()),
            o => format!("{name}+{o:#x}"),
        };
        match place {
            Place::External { symbol, addend } => {
                with(self.elf.symbol(symbol).map_or("?", |s| s.name), addend)
            }
            Place::Function { function, offset } => {
                with(self.function(function).map_or("?", |f| &f.name), offset as i64)
            }
            Place::Data { data, offset } => {
                with(self.model.data_object(data).map_or("?", |d| &d.name), offset)
            }
            Place::Anonymous { section, offset, .. } => with(self.section_name(section), offset),
            Place::Absolute(value) => format!("{value:#x}"),
        }
    }
}

fn collect_referrers(object: &Object<'_>) -> Referrers {
    let mut all = Referrers::default();
    let mut note = |place: Place, call: bool| match place {
        Place::Anonymous { section, from: offset, .. } => {
            if let Ok(offset) = u64::try_from(offset) {
                all.boundaries.entry(section).or_default().push(offset);
            }
        }
        Place::Function { function, offset: 0 } if !call => {
            all.address_taken.insert(function);
        }
        _ => {}
    };
    for (id, f) in object.model.functions() {
        for insn in &object.body(id).insns {
            for reference in &insn.references {
                let branch = reference.field == Field::Branch;
                note(reference.place, branch);
                if let Place::Function { function, .. } = reference.place {
                    let whole = |id| object.function(id).and_then(|f| f.parent).unwrap_or(id);
                    let (from, to) = (whole(id), whole(function));
                    if from != to {
                        all.callers.entry(to).or_default().insert(from);
                    }
                }
                if let Place::Data { data, .. } = reference.place {
                    all.functions_of_data.entry(data).or_default().insert(f.parent.unwrap_or(id));
                }
            }
        }
    }
    for (section_id, section) in object.elf.sections() {
        if !section.is_alloc() || section.is_exec() {
            continue;
        }
        let plain = crate::special::class_of(section).is_none();
        for r in &section.relocations {
            let place = object.model.resolve(&object.elf, r.symbol, r.addend);
            if let Place::Anonymous { section, from: offset, .. } = place
                && let Ok(offset) = u64::try_from(offset)
            {
                all.boundaries.entry(section).or_default().push(offset);
            }
            if plain && let Place::Function { function, offset: 0 } = place {
                all.address_taken.insert(function);
            }
            if let Place::Data { data, .. } = place
                && let Place::Data { data: from, .. } = object.model.at(section_id, r.offset as i64)
            {
                all.data_of_data.entry(data).or_default().insert(from);
            }
        }
    }
    for entry in &object.special.entries {
        // A branch on a static key names it nowhere else.
        for r in entry.relocations(&object.elf).iter().filter(|_| counts(entry.class)) {
            let place = object.model.resolve(&object.elf, r.symbol, r.addend);
            if let Place::Data { data, .. } = place {
                all.functions_of_data
                    .entry(data)
                    .or_default()
                    .insert(object.model.whole(entry.function));
            }
        }
        if let Some((section, offset, len)) = entry.replacement {
            all.boundaries.entry(section).or_default().extend([offset, offset + len]);
        }
    }
    for list in all.boundaries.values_mut() {
        list.sort_unstable();
        list.dedup();
    }
    all
}
