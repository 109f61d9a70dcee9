//! Phase 2: functions and data objects, and what an address or a relocation means.
//!
//! A function is the body of a symbol; gcc's `.cold` part is a function of its own, linked to
//! its parent. A relocation is normalised to a [`Place`]: which thing, and where in it; so
//! that `foo`, `.text.foo + 0` and a call resolved by the assembler all mean the same.

use std::collections::HashMap;

use object::elf;
use serde::Serialize;

use crate::load::{Definition, Elf, SectionId, SymbolId};
use crate::names;

/// A function of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FunctionId(pub u32);

/// A data object of one object file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DataId(pub u32);

/// A function: a symbol's body.
#[derive(Debug, Clone)]
pub struct Function {
    /// The symbol that names it.
    pub symbol: SymbolId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub section: SectionId,
    /// First byte in the section.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// Other symbols with the same start.
    pub aliases: Vec<SymbolId>,
    /// The part gcc moved out of the way (`NAME.cold`).
    pub cold: Option<FunctionId>,
    /// For a `.cold` part: the function it belongs to.
    pub parent: Option<FunctionId>,
}

/// A variable, table or other named piece of data.
#[derive(Debug, Clone)]
pub struct DataObject {
    /// The symbol that names it.
    pub symbol: SymbolId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub section: SectionId,
    /// First byte in the section.
    pub start: u64,
    /// One past the last byte; equal to `start` for empty objects (`lock_class_key`).
    pub end: u64,
    /// Other symbols with the same start.
    pub aliases: Vec<SymbolId>,
}

/// What an address is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Place {
    /// A symbol of another object, plus an addend.
    External {
        /// The undefined symbol.
        symbol: SymbolId,
        /// What is added to it.
        addend: i64,
    },
    /// A function of this object.
    Function {
        /// Which.
        function: FunctionId,
        /// Bytes from its start.
        offset: u64,
    },
    /// A data object of this object (the offset may lie outside: `array[i - 1]`).
    Data {
        /// Which.
        data: DataId,
        /// Bytes from its start.
        offset: i64,
    },
    /// Section content no symbol names: strings, constants, out-of-line assembly.
    Anonymous {
        /// The section.
        section: SectionId,
        /// Offset in the section.
        offset: i64,
        /// Where the content begins that is meant; the offset itself if nothing tells. `"abc"[i - 1]` is meant from
        /// the string behind it.
        from: i64,
    },
    /// A number.
    Absolute(i64),
}

/// The functions and data objects of one object.
#[derive(Debug, Default)]
pub struct Model {
    /// All functions, by id, ordered by section and offset.
    pub functions: Vec<Function>,
    /// All data objects, by id, ordered by section and offset.
    pub data: Vec<DataObject>,
    by_symbol: HashMap<SymbolId, Named>,
    functions_in: HashMap<SectionId, Vec<FunctionId>>,
    data_in: HashMap<SectionId, Vec<DataId>>,
    /// Where local labels of the compiler are in data, in order. An object has them all if it was assembled with
    /// `--keep-locals`.
    labels_in: HashMap<SectionId, Vec<u64>>,
}

#[derive(Debug, Clone, Copy)]
enum Named {
    Function(FunctionId),
    Data(DataId),
}

/// A symbol on its way to become a function or a data object.
struct Candidate {
    section: SectionId,
    start: u64,
    end: u64,
    /// Best name first: typed before untyped, global before weak before local.
    rank: (bool, u8),
    open: bool,
    symbol: SymbolId,
    name: String,
}

impl Model {
    /// Finds the functions and data objects of `elf`.
    pub fn build(elf: &Elf<'_>) -> Self {
        let mut model = Self::default();
        for group in group(candidates(elf, true), elf) {
            let id = FunctionId(model.functions.len() as u32);
            for symbol in std::iter::once(group.symbol).chain(group.aliases.iter().copied()) {
                model.by_symbol.insert(symbol, Named::Function(id));
            }
            model.functions_in.entry(group.section).or_default().push(id);
            model.functions.push(Function {
                symbol: group.symbol,
                name: group.name,
                section: group.section,
                start: group.start,
                end: group.end,
                aliases: group.aliases,
                cold: None,
                parent: None,
            });
        }
        for group in group(candidates(elf, false), elf) {
            let id = DataId(model.data.len() as u32);
            for symbol in std::iter::once(group.symbol).chain(group.aliases.iter().copied()) {
                model.by_symbol.insert(symbol, Named::Data(id));
            }
            model.data_in.entry(group.section).or_default().push(id);
            model.data.push(DataObject {
                symbol: group.symbol,
                name: group.name,
                section: group.section,
                start: group.start,
                end: group.end,
                aliases: group.aliases,
            });
        }
        model.link_cold_parts(elf);
        model.note_labels(elf);
        model
    }

    fn note_labels(&mut self, elf: &Elf<'_>) {
        for symbol in elf.symbols().map(|(_, symbol)| symbol) {
            let Definition::Section(section) = symbol.definition else { continue };
            let plain =
                |s: &crate::load::Section<'_>| s.is_alloc() && !s.is_exec() && !s.is_merge();
            if is_label(symbol.name) && elf.sections.get(section.0 as usize).is_some_and(plain) {
                self.labels_in.entry(section).or_default().push(symbol.value);
            }
        }
        for labels in self.labels_in.values_mut() {
            labels.sort_unstable();
            labels.dedup();
        }
    }

    /// Where local labels are in a section of data, in order; empty if it is not known.
    pub fn labels_in(&self, section: SectionId) -> &[u64] {
        self.labels_in.get(&section).map_or(&[], Vec::as_slice)
    }

    fn link_cold_parts(&mut self, elf: &Elf<'_>) {
        let file = |f: &Function| elf.symbol(f.symbol).map_or(0, |symbol| symbol.file);
        // The part bears the name of the definition, its function perhaps that of an alias.
        let aliases = self.functions().flat_map(|(id, f)| {
            let symbols = f.aliases.iter().filter_map(|alias| elf.symbol(*alias).ok());
            symbols.map(move |symbol| ((symbol.name, symbol.file), id))
        });
        let own = self.functions().map(|(id, f)| ((f.name.as_str(), file(f)), id));
        let names: HashMap<(&str, u32), FunctionId> = aliases.chain(own).collect();
        let links: Vec<(FunctionId, FunctionId)> = self
            .functions()
            .filter_map(|(id, f)| {
                // The part is always local, its function may be global.
                let parent = cold_parent(&f.name)?;
                Some((id, *names.get(&(parent, file(f))).or_else(|| names.get(&(parent, 0)))?))
            })
            .collect();
        for (cold, parent) in links {
            if let Some(f) = self.functions.get_mut(parent.0 as usize) {
                f.cold = Some(cold);
            }
            if let Some(f) = self.functions.get_mut(cold.0 as usize) {
                f.parent = Some(parent);
            }
        }
    }

    /// All functions with their ids.
    pub fn functions(&self) -> impl Iterator<Item = (FunctionId, &Function)> {
        self.functions.iter().enumerate().map(|(i, f)| (FunctionId(i as u32), f))
    }

    /// All data objects with their ids.
    pub fn data(&self) -> impl Iterator<Item = (DataId, &DataObject)> {
        self.data.iter().enumerate().map(|(i, d)| (DataId(i as u32), d))
    }

    /// The function of that id.
    pub fn function(&self, id: FunctionId) -> Option<&Function> {
        self.functions.get(id.0 as usize)
    }

    /// The data object of that id.
    pub fn data_object(&self, id: DataId) -> Option<&DataObject> {
        self.data.get(id.0 as usize)
    }

    /// The function a reader of the source would name: the parent of a `.cold` part.
    pub fn whole(&self, id: FunctionId) -> FunctionId {
        self.function(id).and_then(|f| f.parent).unwrap_or(id)
    }

    /// The function that a symbol names.
    pub fn function_of_symbol(&self, symbol: SymbolId) -> Option<FunctionId> {
        match self.by_symbol.get(&symbol) {
            Some(Named::Function(id)) => Some(*id),
            _ => None,
        }
    }

    /// The data object that a symbol names.
    pub fn data_of_symbol(&self, symbol: SymbolId) -> Option<DataId> {
        match self.by_symbol.get(&symbol) {
            Some(Named::Data(id)) => Some(*id),
            _ => None,
        }
    }

    /// The data objects of a section, by offset.
    pub fn data_in(&self, section: SectionId) -> &[DataId] {
        self.data_in.get(&section).map_or(&[], Vec::as_slice)
    }

    /// The functions of a section, by offset.
    pub fn functions_in(&self, section: SectionId) -> &[FunctionId] {
        self.functions_in.get(&section).map_or(&[], Vec::as_slice)
    }

    /// What `symbol + addend` is, `addend` being free of any PC-relative correction.
    pub fn resolve(&self, elf: &Elf<'_>, symbol: SymbolId, addend: i64) -> Place {
        let Ok(sym) = elf.symbol(symbol) else { return Place::External { symbol, addend } };
        let section = match sym.definition {
            Definition::Undefined | Definition::Common => {
                return Place::External { symbol, addend };
            }
            Definition::Absolute => {
                return Place::Absolute((sym.value as i64).wrapping_add(addend));
            }
            Definition::Section(section) => section,
        };
        match self.by_symbol.get(&symbol) {
            Some(Named::Data(data)) => return Place::Data { data: *data, offset: addend },
            Some(Named::Function(function)) => {
                if let Some(f) = self.function(*function)
                    && let Ok(offset) = u64::try_from(addend)
                    && offset <= f.end - f.start
                {
                    return Place::Function { function: *function, offset };
                }
            }
            None => {}
        }
        let place = self.at(section, (sym.value as i64).wrapping_add(addend));
        match place {
            // In a section of constants that are merged gas keeps a label that something is added to (adjust_reloc_syms).
            Place::Anonymous { section, offset, .. } if is_label(sym.name) => {
                Place::Anonymous { section, offset, from: sym.value as i64 }
            }
            _ => place,
        }
    }

    /// What is at an offset of a section.
    pub fn at(&self, section: SectionId, address: i64) -> Place {
        let from = self.label_before(section, address).unwrap_or(address);
        let anonymous = Place::Anonymous { section, offset: address, from };
        if let Some(ids) = self.functions_in.get(&section) {
            return self.function_at(ids, address).unwrap_or(anonymous);
        }
        let Some(ids) = self.data_in.get(&section) else { return anonymous };
        // gas turns `local + n` into `section + n`; with -fdata-sections the section has but
        // one object, so that even an address outside of it is known to mean that object.
        if let [data] = ids.as_slice()
            && let Some(object) = self.data_object(*data)
            && object.start == 0
        {
            return Place::Data { data: *data, offset: address };
        }
        let Ok(unsigned) = u64::try_from(address) else { return anonymous };
        let after =
            ids.partition_point(|id| self.data_object(*id).is_some_and(|d| d.start <= unsigned));
        let found = after.checked_sub(1).and_then(|i| ids.get(i)).copied();
        match found.and_then(|id| Some((id, self.data_object(id)?))) {
            Some((data, object)) if unsigned < object.end.max(object.start + 1) => {
                Place::Data { data, offset: (unsigned - object.start) as i64 }
            }
            _ => anonymous,
        }
    }

    fn label_before(&self, section: SectionId, address: i64) -> Option<i64> {
        let labels = self.labels_in(section);
        let address = u64::try_from(address).ok()?;
        let behind = labels.partition_point(|label| *label <= address);
        labels.get(behind.checked_sub(1)?).and_then(|label| i64::try_from(*label).ok())
    }

    fn function_at(&self, ids: &[FunctionId], address: i64) -> Option<Place> {
        let address = u64::try_from(address).ok()?;
        let after =
            ids.partition_point(|id| self.function(*id).is_some_and(|f| f.start <= address));
        let id = *ids.get(after.checked_sub(1)?)?;
        let f = self.function(id)?;
        // The end counts too: a return address or range end may point there.
        (address <= f.end).then(|| Place::Function { function: id, offset: address - f.start })
    }
}

/// Whether it is a label of the compiler's, no name of the source's.
fn is_label(name: &str) -> bool {
    name.starts_with(".L")
}

/// `foo` for `foo.cold` and `foo.cold.3`.
pub(crate) fn cold_parent(name: &str) -> Option<&str> {
    let (parent, rest) = name.rsplit_once(".cold")?;
    let numbered = rest.strip_prefix('.').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    (rest.is_empty() || numbered).then_some(parent)
}

fn candidates(elf: &Elf<'_>, exec: bool) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (id, symbol) in elf.symbols() {
        let Some(section_id) = symbol.section() else { continue };
        let Ok(section) = elf.section(section_id) else { continue };
        let typed = match symbol.kind {
            elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_OBJECT | elf::STT_TLS => true,
            elf::STT_NOTYPE => false,
            _ => continue,
        };
        if !section.is_alloc()
            || section.is_exec() != exec
            || symbol.name.is_empty()
            || is_label(symbol.name)
            || exec && names::is_padding(symbol.name)
        {
            continue;
        }
        let binding = match symbol.binding {
            elf::STB_GLOBAL => 0,
            elf::STB_WEAK => 1,
            _ => 2,
        };
        found.push(Candidate {
            section: section_id,
            start: symbol.value,
            end: symbol.value + symbol.size,
            rank: (!typed, binding),
            open: symbol.size == 0 && (!typed || exec),
            symbol: id,
            name: symbol.name.to_owned(),
        });
    }
    found
}

struct Group {
    section: SectionId,
    start: u64,
    end: u64,
    symbol: SymbolId,
    name: String,
    aliases: Vec<SymbolId>,
}

/// Joins symbols of one address; a symbol without a size (assembly) reaches to the next one.
fn group(mut found: Vec<Candidate>, elf: &Elf<'_>) -> Vec<Group> {
    found.sort_by(|a, b| {
        (a.section, a.start, a.rank, &a.name, a.symbol)
            .cmp(&(b.section, b.start, b.rank, &b.name, b.symbol))
    });
    let mut groups: Vec<(Group, bool)> = Vec::new();
    for c in found {
        if let Some((last, open)) = groups.last_mut()
            && last.section == c.section
        {
            if last.start == c.start {
                last.aliases.push(c.symbol);
                *open &= c.open;
                last.end = last.end.max(c.end);
                continue;
            }
            // A label inside a sized function or object is no thing of its own.
            if c.open && c.start < last.end {
                continue;
            }
        }
        groups.push((
            Group {
                section: c.section,
                start: c.start,
                end: c.end,
                symbol: c.symbol,
                name: c.name,
                aliases: Vec::new(),
            },
            c.open,
        ));
    }
    let next: Vec<Option<(SectionId, u64)>> = groups
        .iter()
        .skip(1)
        .map(|(g, _)| Some((g.section, g.start)))
        .chain(std::iter::once(None))
        .collect();
    for ((group, open), next) in groups.iter_mut().zip(next) {
        if *open {
            let size = elf.section(group.section).map_or(group.end, |s| s.size);
            group.end = match next {
                Some((section, start)) if section == group.section => start,
                _ => size,
            };
        }
    }
    groups.into_iter().map(|(g, _)| g).collect()
}

#[cfg(test)]
mod tests {
    use super::cold_parent;

    #[test]
    fn cold_parts_know_their_parent() {
        assert_eq!(cold_parent("foo.cold"), Some("foo"));
        assert_eq!(cold_parent("foo.isra.0.cold.12"), Some("foo.isra.0"));
        assert_eq!(cold_parent("foo.colder"), None);
        assert_eq!(cold_parent("foo"), None);
    }
}
