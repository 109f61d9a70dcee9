//! All type definitions of an image by hash, and the proper definitions of those that differ.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gimli::Section as _;
use rayon::prelude::*;

use super::abbreviations::{self, Abbreviation, Cursor, Sizes, Strings};
use super::scan::{Found, Scanner, mix};
use super::{Types, read};
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
}

type Definitions = HashMap<u64, Place, BuildHasherDefault<Identity>>;

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
    /// Reads all units. `name` is what errors call the image.
    pub(super) fn build(name: &'i str, dwarf: &'i gimli::Dwarf<Reader<'a>>) -> Result<Self> {
        let bad = |e: gimli::Error| Error::new(name, format_args!("DWARF: {e}"));
        let mut headers = Vec::new();
        let mut units = dwarf.units();
        while let Some(header) = units.next().map_err(bad)? {
            headers.push(header);
        }
        let next = AtomicUsize::new(0);
        let all = Mutex::new(Ok(Definitions::default()));
        // One worker a thread, each with its own memory, and one merge a worker.
        (0..rayon::current_num_threads()).into_par_iter().for_each(|_| {
            let found = work(name, dwarf, &headers, &next);
            let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match (all.as_mut(), found) {
                (Ok(all), Ok(found)) if all.is_empty() => *all = found,
                (Ok(all), Ok(found)) => {
                    for (key, place) in found {
                        note(all, key, place);
                    }
                }
                (Ok(_), Err(error)) => *all = Err(error),
                // The first bad unit is the one to report, whoever met it first.
                (Err((first, _)), Err((unit, error))) if unit < *first => *all = Err((unit, error)),
                (Err(_), _) => {}
            }
        });
        let all = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let definitions = all.map_err(|(_, error)| error)?;
        Ok(Self { name, dwarf, headers, definitions })
    }

    /// The definitions of the types that differ between two images.
    pub(super) fn differing(&self, other: &Index<'_, '_>) -> Result<(Types, Types)> {
        let (old, new) = (self.by_name(), other.by_name());
        let differs = |name: &u64| old.get(name) != new.get(name);
        let names: std::collections::HashSet<u64> =
            old.keys().chain(new.keys()).copied().filter(differs).collect();
        let (old, new) = rayon::join(
            || self.read(|name| names.contains(&name)),
            || other.read(|name| names.contains(&name)),
        );
        Ok((old?, new?))
    }

    fn by_name(&self) -> HashMap<u64, Vec<u64>> {
        let mut names: HashMap<u64, Vec<u64>> = HashMap::new();
        for (key, place) in &self.definitions {
            names.entry(place.name).or_default().push(*key);
        }
        names.values_mut().for_each(|keys| keys.sort_unstable());
        names
    }

    /// Reads the definitions whose name's hash is wanted.
    pub(super) fn read(&self, wanted: impl Fn(u64) -> bool) -> Result<Types> {
        let mut places: Vec<Place> =
            self.definitions.values().filter(|p| wanted(p.name)).copied().collect();
        places.sort_unstable();
        let units: Vec<&[Place]> = places.chunk_by(|a, b| a.unit == b.unit).collect();
        let found = units
            .into_par_iter()
            .map(|places| {
                let bad = |e: gimli::Error| Error::new(self.name, format_args!("DWARF: {e}"));
                let header = places.first().and_then(|p| self.headers.get(p.unit as usize));
                let Some(header) = header else { return Ok(Vec::new()) };
                let unit = self.dwarf.unit(*header).map_err(bad)?;
                let offsets = places.iter().map(|p| gimli::UnitOffset(p.offset as usize));
                read::at(self.dwarf, &unit, offsets).map_err(bad)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut types = Types::new();
        for (name, definition) in found.into_iter().flatten() {
            types.entry(name).or_default().insert(definition);
        }
        Ok(types)
    }
}

fn note(all: &mut Definitions, key: u64, place: Place) {
    all.entry(key).and_modify(|old| *old = (*old).min(place)).or_insert(place);
}

/// Reads units until there is none left; fails with the number of the bad unit.
fn work(
    name: &str,
    dwarf: &gimli::Dwarf<Reader<'_>>,
    headers: &[Header<'_>],
    next: &AtomicUsize,
) -> std::result::Result<Definitions, (usize, Error)> {
    let mut all = Definitions::default();
    let mut scanner = Scanner::default();
    let mut tables = HashMap::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(header) = headers.get(number) else { return Ok(all) };
        let found = |found: Found| {
            let id = mix(found.kind as u64, found.name);
            let place = Place { unit: number as u32, offset: found.offset, name: id };
            note(&mut all, mix(id, found.content), place);
        };
        scan(name, dwarf, header, &mut scanner, &mut tables, found).map_err(|e| (number, e))?;
    }
}

/// Tables that were read, by place and shape. Units share them after link-time optimisation.
type Tables = HashMap<(usize, Sizes), Vec<Option<Abbreviation>>>;

fn scan(
    name: &str,
    dwarf: &gimli::Dwarf<Reader<'_>>,
    header: &Header<'_>,
    scanner: &mut Scanner,
    tables: &mut Tables,
    found: impl FnMut(Found),
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
        base: base.unwrap_or(if sizes.offset == 8 { 16 } else { 8 }),
        unit: start.0 as u64,
    };
    scanner.scan(cursor, table, &strings, found).map_err(bad)
}
