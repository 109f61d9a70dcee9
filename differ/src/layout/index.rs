//! All type definitions of an image by hash, and the proper definitions of those that differ.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gimli::Section as _;
use rayon::prelude::*;

use super::abbreviations::{self, Abbreviation, Cursor, Sizes, Strings};
use super::embed::{self, Nesting};
use super::scan::{Found, Scanner, Sink, id_of, mix};
use super::{Named, TypeName, Types, live, read};
use crate::error::{Error, Result};
use crate::lines::Reader;

type Header<'a> = gimli::UnitHeader<Reader<'a>>;

/// The definitions of an image, each once.
pub(super) struct Index<'i, 'a> {
    name: &'i str,
    dwarf: &'i gimli::Dwarf<Reader<'a>>,
    headers: Vec<Header<'a>>,
    /// By hash of kind, name and content.
    definitions: Definitions,
    variables: Vec<Holder>,
}

/// A variable with an address, and the names (hashed) of the types that its value is made of.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    unit: u32,
    offset: u32,
    held: Vec<u64>,
}

/// What workers find.
#[derive(Default)]
struct Everything {
    definitions: Definitions,
    variables: Vec<Holder>,
}

type Definitions = HashMap<u64, Definition, BuildHasherDefault<Identity>>;

/// A definition, and the names (hashed, like [`Place::name`]) of what it holds by value.
struct Definition {
    place: Place,
    held: Vec<u64>,
}

/// Where a definition is: of all equal ones the first, so that the result depends on no thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    unit: u32,
    offset: u32,
    /// Hash of kind and name.
    name: u64,
}

/// The keys are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |h, b| mix(h, u64::from(*b)));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

impl<'i, 'a> Index<'i, 'a> {
    /// Reads all units. `name` is what errors call the image; `side` is another number for each that is compared.
    pub(super) fn build(
        name: &'i str,
        dwarf: &'i gimli::Dwarf<Reader<'a>>,
        side: u64,
    ) -> Result<Self> {
        let bad = |e: gimli::Error| Error::new(name, format_args!("DWARF: {e}"));
        let mut headers = Vec::new();
        let mut units = dwarf.units();
        while let Some(header) = units.next().map_err(bad)? {
            headers.push(header);
        }
        let next = AtomicUsize::new(0);
        let all = Mutex::new(Ok(Everything::default()));
        // One worker a thread, each with its own memory, and one merge a worker.
        (0..rayon::current_num_threads()).into_par_iter().for_each(|_| {
            let found = work(name, dwarf, side, &headers, &next);
            let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match (all.as_mut(), found) {
                (Ok(all), Ok(found)) if all.definitions.is_empty() => *all = found,
                (Ok(all), Ok(found)) => {
                    all.variables.extend(found.variables);
                    for (key, definition) in found.definitions {
                        all.definitions
                            .entry(key)
                            .and_modify(|old| old.place = old.place.min(definition.place))
                            .or_insert(definition);
                    }
                }
                (Ok(_), Err(error)) => *all = Err(error),
                // The first bad unit is the one to report, whoever met it first.
                (Err((first, _)), Err((unit, error))) if unit < *first => *all = Err((unit, error)),
                (Err(_), _) => {}
            }
        });
        let all = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Everything { definitions, mut variables } = all.map_err(|(_, error)| error)?;
        variables.sort_unstable();
        Ok(Self { name, dwarf, headers, definitions, variables })
    }

    /// The names of the types that differ between two images, hashed.
    pub(super) fn differing(&self, other: &Index<'_, '_>) -> HashSet<u64> {
        let (old, new) = (self.by_name(), other.by_name());
        let differs = |name: &u64| old.get(name) != new.get(name);
        old.keys().chain(new.keys()).copied().filter(differs).collect()
    }

    /// What the types of these names hold, and where they are defined.
    pub(super) fn nesting(&self, names: &HashSet<u64>) -> Result<Nesting> {
        Ok(Nesting::of(self.each(|name| names.contains(&name), embed::at)?))
    }

    /// The variables with an address that hold one of these types.
    pub(super) fn variables(
        &self,
        names: &HashSet<u64>,
        place: &(dyn Fn(u64) -> live::Place + Sync),
    ) -> Result<live::Variables> {
        let holds = |holder: &&Holder| holder.held.iter().any(|held| names.contains(held));
        let found: Vec<&Holder> = self.variables.iter().filter(holds).collect();
        let units = found.chunk_by(|a, b| a.unit == b.unit).filter_map(|holders| {
            let unit = holders.first()?.unit;
            Some((unit, holders.iter().map(|h| gimli::UnitOffset(h.offset as usize)).collect()))
        });
        let read = |dwarf: &_, unit: &_, offsets| live::at(dwarf, unit, offsets, place);
        Ok(live::Variables::of(self.units(units.collect(), read)?))
    }

    /// These names and those of all types that hold one of them, to any depth.
    pub(super) fn reached(&self, names: &HashSet<u64>) -> HashSet<u64> {
        let mut holders: HashMap<u64, Vec<u64>> = HashMap::new();
        for definition in self.definitions.values() {
            for held in &definition.held {
                holders.entry(*held).or_default().push(definition.place.name);
            }
        }
        let (mut reached, mut left) = (names.clone(), names.iter().copied().collect::<Vec<_>>());
        while let Some(name) = left.pop() {
            for holder in holders.get(&name).into_iter().flatten() {
                if reached.insert(*holder) {
                    left.push(*holder);
                }
            }
        }
        reached
    }

    fn by_name(&self) -> HashMap<u64, Vec<u64>> {
        let mut names: HashMap<u64, Vec<u64>> = HashMap::new();
        for (key, definition) in &self.definitions {
            names.entry(definition.place.name).or_default().push(*key);
        }
        names.values_mut().for_each(|keys| keys.sort_unstable());
        names
    }

    /// Reads the definitions whose name's hash is wanted.
    pub(super) fn read(&self, wanted: impl Fn(u64) -> bool) -> Result<Types> {
        let mut types = Types::new();
        for (name, definition) in self.each(wanted, read::at)?.into_iter().flatten() {
            types.entry(name).or_default().insert(definition);
        }
        Ok(types)
    }

    /// Reads the definitions of these types, each with the place in the source where it is.
    pub(super) fn named(&self, types: &[TypeName]) -> Result<Vec<Named>> {
        let bad = |e: gimli::Error| Error::new(self.name, format_args!("DWARF: {e}"));
        let names: HashSet<u64> =
            types.iter().map(id_of).collect::<gimli::Result<_>>().map_err(bad)?;
        let one = |dwarf: &_, unit: &_, offset| {
            let source = embed::source(dwarf, unit, offset)?;
            let found = read::at(dwarf, unit, vec![offset])?.into_iter();
            let named = |(name, definition)| Named { name, definition, source: source.clone() };
            Ok(found.map(named).collect::<Vec<_>>())
        };
        let found = self.each(
            |name| names.contains(&name),
            |dwarf, unit, offsets| {
                let all: gimli::Result<Vec<_>> =
                    offsets.into_iter().map(|offset| one(dwarf, unit, offset)).collect();
                all
            },
        )?;
        // Of another name by chance of its hash.
        let wanted = found.into_iter().flatten().flatten().filter(|n| types.contains(&n.name));
        Ok(wanted.collect())
    }

    /// Reads the definitions whose name's hash is wanted, unit by unit, in the order of the units.
    fn each<T: Send>(
        &self,
        wanted: impl Fn(u64) -> bool,
        read: impl Fn(&gimli::Dwarf<Reader<'a>>, &gimli::Unit<Reader<'a>>, Offsets) -> gimli::Result<T>
        + Sync,
    ) -> Result<Vec<T>> {
        let mut places: Vec<Place> =
            self.definitions.values().map(|d| d.place).filter(|p| wanted(p.name)).collect();
        places.sort_unstable();
        let units = places.chunk_by(|a, b| a.unit == b.unit).filter_map(|places| {
            let unit = places.first()?.unit;
            Some((unit, places.iter().map(|p| gimli::UnitOffset(p.offset as usize)).collect()))
        });
        self.units(units.collect(), read)
    }

    /// Reads entries, unit by unit.
    fn units<T: Send>(
        &self,
        units: Vec<(u32, Offsets)>,
        read: impl Fn(&gimli::Dwarf<Reader<'a>>, &gimli::Unit<Reader<'a>>, Offsets) -> gimli::Result<T>
        + Sync,
    ) -> Result<Vec<T>> {
        let bad = |e: gimli::Error| Error::new(self.name, format_args!("DWARF: {e}"));
        let found = units.into_par_iter().filter_map(|(number, offsets)| {
            let header = self.headers.get(number as usize)?;
            let unit = self.dwarf.unit(*header).map_err(bad);
            Some(unit.and_then(|unit| read(self.dwarf, &unit, offsets).map_err(bad)))
        });
        found.collect()
    }
}

/// Where entries are in a unit.
pub(super) type Offsets = Vec<gimli::UnitOffset>;

/// Notes the definitions of a unit.
struct Noting<'n> {
    all: &'n mut Everything,
    unit: u32,
}

impl Sink for Noting<'_> {
    fn note(&mut self, found: &Found) -> bool {
        let place = Place { unit: self.unit, offset: found.offset, name: found.id() };
        match self.all.definitions.get_mut(&found.key()) {
            Some(known) => known.place = known.place.min(place),
            None => {
                self.all.definitions.insert(found.key(), Definition { place, held: Vec::new() });
                return true;
            }
        }
        false
    }

    fn holds(&mut self, found: &Found, held: Vec<u64>) {
        if let Some(known) = self.all.definitions.get_mut(&found.key()) {
            known.held = held;
        }
    }

    fn variable(&mut self, offset: u32, held: Vec<u64>) {
        self.all.variables.push(Holder { unit: self.unit, offset, held });
    }
}

/// Reads units until there is none left; fails with the number of the bad unit.
fn work(
    name: &str,
    dwarf: &gimli::Dwarf<Reader<'_>>,
    side: u64,
    headers: &[Header<'_>],
    next: &AtomicUsize,
) -> std::result::Result<Everything, (usize, Error)> {
    let mut all = Everything::default();
    let mut scanner = Scanner::default();
    let mut tables = HashMap::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(header) = headers.get(number) else { return Ok(all) };
        let mut noting = Noting { all: &mut all, unit: number as u32 };
        scan((name, dwarf, side), header, &mut scanner, &mut tables, &mut noting)
            .map_err(|e| (number, e))?;
    }
}

/// Tables that were read, by place and shape. Units share them after link-time optimisation.
type Tables = HashMap<(usize, Sizes), Vec<Option<Abbreviation>>>;

fn scan(
    (name, dwarf, side): (&str, &gimli::Dwarf<Reader<'_>>, u64),
    header: &Header<'_>,
    scanner: &mut Scanner,
    tables: &mut Tables,
    sink: &mut impl Sink,
) -> Result<()> {
    let bad = |e: gimli::Error| Error::new(name, format_args!("DWARF: {e}"));
    let info = dwarf.debug_info.reader().slice();
    let Some(start) = header.offset().as_debug_info_offset() else { return Ok(()) };
    let end = start.0.saturating_add(header.length_including_self());
    let data = info.get(start.0..end).filter(|data| data.len() < u32::MAX as usize);
    let data = data.ok_or_else(|| Error::new(name, "DWARF: a unit is truncated or beyond 4 GB"))?;
    let encoding = header.encoding();
    let sizes = Sizes {
        address: encoding.address_size,
        offset: encoding.format.word_size(),
        version: encoding.version,
    };
    let cursor = Cursor { data, at: header.size_of_header(), sizes };
    let abbrev = dwarf.debug_abbrev.reader().slice();
    let at = header.debug_abbrev_offset().0;
    if tables.len() > 64 {
        tables.clear();
    }
    let table = match tables.entry((at, sizes)) {
        std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::hash_map::Entry::Vacant(entry) => {
            let bytes = abbrev.get(at..).unwrap_or(&[]);
            entry.insert(abbreviations::table(bytes, sizes).map_err(bad)?)
        }
    };
    let (base, split) = abbreviations::root(cursor, table).map_err(bad)?;
    if split {
        return Err(Error::new(
            name,
            "split DWARF: the types are in a .dwo file; build without -gsplit-dwarf",
        ));
    }
    let strings = Strings {
        str: dwarf.debug_str.reader().slice(),
        line_str: dwarf.debug_line_str.reader().slice(),
        str_offsets: dwarf.debug_str_offsets.reader().slice(),
        base: base.unwrap_or(0),
        unit: start.0 as u64,
        side,
    };
    scanner.scan(cursor, table, &strings, sink).map_err(bad)
}
