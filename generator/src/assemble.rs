//! From the closures of all objects to the sources of the update module: numbers the clones and their addresses,
//! and builds the record.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use dynamos_abi::{Code, HookKind, PARKS_CPUS, symbol_flags};

use crate::closure::{self, BridgeInput, Closure, CodePiece};
use crate::counting::ObjectOf;
use crate::describe::{describe, possible_anchors, tells};
use crate::exports::{Exports, Seen};
use crate::handlers::{Addresses, Handlers, Redirected};
use crate::plan::{Escape, Refusal, SymbolPlan};
use crate::record::{Fixup, Match, RecordBuilder, SymbolKey};
use crate::running::Running;
use crate::sites::Referent;
use crate::slots::SlotInput;
use crate::unit::Unit;

/// How the plan says that the kernel's module loader finds a symbol.
const EXPORTED: &str = "exported";

/// One object with what the differ found out about it.
#[derive(Debug)]
pub struct UnitInput {
    /// Path of the object in the tree.
    pub object: String,
    /// `vmlinux` or the module it is linked into.
    pub owner: String,
    /// The `pre` build.
    pub pre: Unit,
    /// The `v2` build.
    pub v2: Unit,
    /// Functions to replace: V2's name → V1's.
    pub replaced: BTreeMap<String, String>,
    /// Changed constants that go along with the clones, by V2's name.
    pub along: BTreeSet<String>,
    /// Parameters of V1's functions that are replaced, as the record has them, where they are known.
    pub parameters: BTreeMap<String, String>,
    /// Functions, V2's and those it calls, that take any number of arguments, and how many before those.
    pub variadic: BTreeMap<String, usize>,
    /// V1's functions that take other parameters in V2, or give another result, or may, and that replaced or new functions
    /// call.
    pub reshaped: BTreeSet<String>,
    /// All that do, whoever calls them, without those that the compiler has made (`f.isra.0`).
    pub unlike: BTreeSet<String>,
    /// Functions with an adaptation handler of the update's own: V2's name → the handler's.
    pub adaptations: BTreeMap<String, String>,
    /// How the objects are found that calls work on, by V2's name of the function.
    pub objects: BTreeMap<String, ObjectOf>,
    /// Its hooks: V2's names.
    pub hooks: BTreeMap<HookKind, String>,
    /// Symbols that the running kernel has: V2's name → V1's.
    pub known: BTreeMap<String, String>,
    /// Handlers that the update writes into tables of this object.
    pub slots: Vec<SlotInput>,
    /// V1's functions that nobody may be in when handlers are written: they read one, or are one.
    pub watched: BTreeSet<String>,
    /// The bridge editions of its functions, if the update has phases.
    pub bridge: Option<BridgeInput>,
}

impl UnitInput {
    /// V2's functions that become handlers and are not, or not like that, in the running kernel.
    fn handlers(&self) -> BTreeSet<String> {
        let all = self.slots.iter().filter_map(|slot| slot.after.as_ref());
        let stays =
            |name: &String| self.known.contains_key(name) && !self.replaced.contains_key(name);
        all.filter(|name| !stays(name)).cloned().collect()
    }

    /// V1's functions that nobody may be in, or that become handlers as they are.
    fn watched(&self) -> BTreeSet<String> {
        let new = self.handlers();
        let all = self.slots.iter().filter_map(|slot| slot.after.as_ref());
        let stay = all.filter(|name| !new.contains(*name)).filter_map(|name| self.known.get(name));
        self.watched.iter().chain(stay).cloned().collect()
    }
}

/// What is packaged, and what the plan says of it.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The relocatable objects of clones, in order.
    pub clones: Vec<Vec<u8>>,
    /// The redirected functions: object and V1's name, by clone number.
    pub functions: Vec<(String, String)>,
    /// How they choose an edition.
    pub handlers: Handlers,
    /// The record.
    pub record: Vec<u8>,
    /// Bytes matched of each function, by object and name.
    pub matched: BTreeMap<(String, String), u64>,
    /// How each symbol is found.
    pub symbols: Vec<SymbolPlan>,
    /// New functions that go along, by object.
    pub added: BTreeMap<String, BTreeSet<String>>,
    /// Addresses that escape.
    pub escapes: Vec<Escape>,
    /// What stands in the way; if there is anything, the rest is incomplete.
    pub refusals: Vec<Refusal>,
    /// Names that the clones use and that neither the running kernel nor the update has, each with the part of the
    /// kernel that should: a refusal as well.
    pub missing: BTreeSet<(String, String)>,
}

/// The kernel that is to run the update.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// What it exports to every module.
    pub exported: &'a Exports,
    /// All its names.
    pub running: &'a Running,
}

/// Assembles an update for the kernel `release`, to be called `name`.
pub fn assemble(
    units: &[UnitInput],
    kernel: Kernel<'_>,
    name: &str,
    release: &str,
) -> Result<Assembly> {
    let seen: Vec<Seen<'_>> = units
        .iter()
        .map(|unit| Seen::new(kernel.exported, kernel.running, &unit.owner, &unit.pre))
        .collect();
    let phases = units.iter().any(|unit| unit.bridge.is_some());
    let handlers = Handlers { phases, ..Handlers::default() };
    let mut assembly = Assembly { handlers, ..Assembly::default() };
    let closures = closures(units, &seen, &mut assembly)?;
    let clone_addrs: u32 = closures.iter().map(|closure| closure.object.addrs.len() as u32).sum();
    let mut recorder = Recorder {
        builder: RecordBuilder::default(),
        running: kernel.running,
        assembly,
        base: 0,
        number: 0,
        first_handler: clone_addrs,
    };
    for (index, ((unit, closure), seen)) in units.iter().zip(&closures).zip(&seen).enumerate() {
        recorder.unit(index, unit, closure, seen)?;
        recorder.base += closure.object.addrs.len() as u32;
    }
    let Recorder { mut builder, mut assembly, .. } = recorder;
    if let Some(counters) = assembly.handlers.counters(clone_addrs) {
        builder.counters(counters);
    }
    // The loader finds them; `dynamos.ko` must know whom the update calls.
    for import in assembly.symbols.iter().filter(|symbol| symbol.found_by == EXPORTED) {
        let key = SymbolKey { name: import.name.clone(), owner: None, unit: None };
        builder.symbol(&key, symbol_flags::EXPORTED | symbol_flags::IMPORTED);
    }
    if assembly.refusals.is_empty() {
        let first = |rewritten: bool| {
            let escape = assembly.escapes.iter().find(|escape| escape.rewritten == rewritten);
            escape.map_or_else(String::new, |Escape { function, at, .. }| {
                format!("address of {function} escapes at {at}")
            })
        };
        let (pinned, kept) = (first(true), first(false));
        let addresses = clone_addrs + assembly.handlers.addresses();
        assembly.record = builder.finish(name, release, &pinned, &kept, addresses)?;
        // An object that is there for its new functions may have none that is used.
        let all = closures.iter().filter(|closure| !closure.object.pieces.is_empty());
        assembly.clones = all.map(|closure| closure.object.write()).collect::<Result<_>>()?;
    }
    Ok(assembly)
}

fn closures(
    units: &[UnitInput],
    seen: &[Seen<'_>],
    assembly: &mut Assembly,
) -> Result<Vec<Closure>> {
    // New globals of one object may be what another uses.
    let mut fresh: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for unit in units {
        let defined = unit.v2.symbols.iter().filter(|s| s.global && s.section.is_some());
        for symbol in defined.filter(|symbol| !unit.known.contains_key(&symbol.name)) {
            fresh.entry(symbol.name.clone()).or_default().insert(&unit.owner);
        }
    }
    let mut wanted = BTreeSet::new();
    let closures = loop {
        let closures = close_all(units, seen, &fresh, &wanted)?;
        let used: BTreeSet<String> = closures
            .iter()
            .flat_map(|closure| closure.imports.iter().filter(|name| fresh.contains_key(*name)))
            .cloned()
            .collect();
        // What they bring along may use more.
        if used.is_subset(&wanted) {
            break closures;
        }
        wanted.extend(used);
    };
    for (unit, closure) in units.iter().zip(&closures) {
        assembly
            .functions
            .extend(closure.replaced.iter().map(|name| (unit.object.clone(), name.clone())));
        assembly.handlers.functions.extend(closure.handlers.iter().cloned());
        assembly.added.insert(unit.object.clone(), closure.added.clone());
        assembly.escapes.extend(closure.escapes.iter().cloned());
        assembly.refusals.extend(closure.refusals.iter().cloned());
        let outside = closure.imports.iter().filter(|name| !fresh.contains_key(*name));
        assembly.symbols.extend(outside.map(|import| SymbolPlan {
            name: import.clone(),
            owner: "any".into(),
            found_by: EXPORTED.into(),
        }));
    }
    Ok(closures)
}

fn close_all(
    units: &[UnitInput],
    seen: &[Seen<'_>],
    fresh: &BTreeMap<String, BTreeSet<&str>>,
    wanted: &BTreeSet<String>,
) -> Result<Vec<Closure>> {
    let mut first_clone = 0;
    let mut closures = Vec::new();
    for (unit, seen) in units.iter().zip(seen) {
        let elsewhere = fresh
            .iter()
            .map(|(name, owners)| (name.clone(), owners.contains(unit.owner.as_str())))
            .collect();
        let closure = closure::close(&closure::Known {
            unit: &unit.v2,
            replaced: &unit.replaced,
            known: &unit.known,
            along: &unit.along,
            variadic: &unit.variadic,
            adaptations: &unit.adaptations,
            objects: &unit.objects,
            hooks: &unit.hooks,
            handlers: &unit.handlers(),
            exported: seen,
            elsewhere: &elsewhere,
            wanted,
            first_clone,
            bridge: unit.bridge.as_ref(),
            phases: units.iter().any(|unit| unit.bridge.is_some()),
        })
        .with_context(|| format!("clones of {}", unit.object))?;
        first_clone += closure.replaced.len();
        closures.push(closure);
    }
    Ok(closures)
}

struct Recorder<'a> {
    builder: RecordBuilder,
    running: &'a Running,
    assembly: Assembly,
    /// First address index of the current object.
    base: u32,
    /// Number of the next clone.
    number: u32,
    /// First address index of the handlers.
    first_handler: u32,
}

impl Recorder<'_> {
    fn unit(
        &mut self,
        index: usize,
        unit: &UnitInput,
        closure: &Closure,
        seen: &Seen<'_>,
    ) -> Result<()> {
        let mut matches = Vec::new();
        let clones = closure.replaced.iter().zip(&closure.clone_addrs).zip(&closure.handlers);
        for ((name, clone), Redirected { adapts, .. }) in clones {
            let Addresses { steady, transition, policy, counting } =
                self.assembly.handlers.addresses_of(self.first_handler, self.number);
            self.number += 1;
            let addrs = [self.base + clone, transition, steady, policy];
            let from = matches.len();
            self.replaced(index, unit, name, addrs, *adapts, &mut matches);
            let bridge = closure.bridge_addrs.get(name).map(|addr| self.base + addr);
            if self.assembly.handlers.phases && bridge.is_none() {
                self.refuse(
                    name,
                    "the bridge has no edition of it",
                    "give it one in the file of --bridge",
                );
            }
            let mut these = matches.iter_mut().skip(from);
            if let Some(found) = these.find(|found| found.replaced.is_some()) {
                (found.bridge, found.counting) = (bridge, counting);
            }
        }
        self.watched(index, unit, &mut matches);
        let anchors = self.anchors(index, unit, closure, &matches)?;
        matches.extend(anchors);
        for found in &matches {
            if found.replaced.is_some() {
                let key = (unit.object.clone(), found.name.clone());
                self.assembly.matched.insert(key, found.bytes.len() as u64);
            }
            self.builder.function(found, &|referent| symbol_key(referent, index, unit, seen))?;
        }
        for need in &closure.needs {
            self.check(unit, &need.name)?;
            let key = own_key(&need.name, index, unit);
            let shift = |fixup: &Fixup| Fixup { base: fixup.base + self.base, ..fixup.clone() };
            let fixups: Vec<Fixup> = need.fixups.iter().map(shift).collect();
            let mut flags = if need.function { symbol_flags::FUNCTION } else { 0 };
            if is_per_cpu(&unit.pre, &need.name) {
                flags |= symbol_flags::PER_CPU;
            }
            self.builder.need(&key, flags, need.placeholder + self.base, &fixups)?;
        }
        for CodePiece { start, len, edition } in &closure.code {
            self.builder.code(Code { start: start + self.base, len: *len, edition: *edition });
        }
        for (kind, addr) in &closure.hook_addrs {
            self.builder.hook(*kind, self.base + addr);
        }
        self.slots(index, unit, closure)
    }

    /// Matches the functions that nobody may be in when handlers are written. Code that is gone after boot is in nobody's
    /// way.
    fn watched(&mut self, index: usize, unit: &UnitInput, matches: &mut Vec<Match>) {
        for name in unit.watched() {
            let section = |name: &String| {
                let symbol = unit.pre.symbols.get(unit.pre.find(name)?)?;
                unit.pre.sections.get(symbol.section?)
            };
            match section(&name).filter(|section| section.is_init()) {
                Some(section) if section.name.contains(".exit") => {
                    let reason =
                        "reads a handler that differs, and runs only while its module ends";
                    self.refuse(&name, reason, "change the fix so that it leaves the handler");
                    continue;
                }
                Some(_) => continue,
                None => {}
            }
            // Else it is replaced, and there already.
            if matches.iter().all(|found| found.name != name) {
                matches.extend(self.described(index, unit, &name));
                self.fragments(index, unit, &name, matches);
            }
            let part = format!("{name}.cold");
            let parts = |found: &&mut Match| found.name == name || found.name.starts_with(&part);
            matches.iter_mut().filter(parts).for_each(|found| found.watched = true);
        }
    }

    /// A function of V1 with its sites; refused if it cannot be matched.
    fn described(&mut self, index: usize, unit: &UnitInput, name: &str) -> Option<Match> {
        let found = describe(unit, index, name);
        found
            .map_err(|error| {
                self.refuse(name, &format!("{error:#}"), "report this as a bug of dynamos-diff");
            })
            .ok()
    }

    /// Says which handlers are to be written.
    fn slots(&mut self, index: usize, unit: &UnitInput, closure: &Closure) -> Result<()> {
        let key = |name: &str| own_key(name, index, unit);
        for slot in &unit.slots {
            let table = key(&slot.table);
            let before = slot.before.as_ref().map(|name| key(name));
            let (after, clone) = match &slot.after {
                None => (None, None),
                Some(name) => match closure.handler_addrs.get(name) {
                    Some(addr) => (None, Some(self.base + addr)),
                    None => (unit.known.get(name).map(|name| key(name)), None),
                },
            };
            self.builder.slot(&table, slot.offset, before.as_ref(), after.as_ref(), clone);
        }
        Ok(())
    }

    /// What V1's object neither defines nor refers to must be elsewhere in the running kernel. What it refers to is
    /// there, perhaps exported in a namespace: matching gives its address.
    fn check(&mut self, unit: &UnitInput, name: &str) -> Result<()> {
        let owner = &unit.owner;
        let known = unit.pre.symbols.iter().any(|symbol| symbol.name == name);
        if !known && self.running.has(owner, name)? == Some(false) {
            self.assembly.missing.insert((owner.clone(), name.into()));
            self.refuse(
                name,
                &format!(
                    "{} uses it, and neither {owner} of the running kernel nor this update has it, nor is it exported to \
                     all modules",
                    unit.object
                ),
                "make the update together with the change that adds it",
            );
        }
        Ok(())
    }

    /// The function and its fragments.
    fn replaced(
        &mut self,
        index: usize,
        unit: &UnitInput,
        name: &str,
        addrs: [u32; 4],
        adapts: bool,
        matches: &mut Vec<Match>,
    ) {
        if let Some(found) = self.described(index, unit, name) {
            if found.fentry.is_none() {
                self.refuse(
                    name,
                    "has no ftrace site (notrace, noinstr or inlined everywhere), so calls of it cannot be \
                     redirected",
                    "change its callers instead",
                );
                return;
            }
            if PARKS_CPUS.contains(&name) {
                self.refuse(
                    name,
                    "a CPU that is taken offline stays in it, so that nobody can tell when it is left",
                    "it needs a reboot: leave it out",
                );
                return;
            }
            let parameters = unit.parameters.get(&found.name).cloned().unwrap_or_default();
            let reshaped = unit.reshaped.contains(&found.name);
            let unlike = unit.unlike.contains(&found.name);
            matches.push(Match {
                replaced: Some(addrs),
                adapts,
                reshaped,
                unlike,
                parameters,
                ..found
            });
        }
        self.fragments(index, unit, name, matches);
    }

    /// The parts of a function that the compiler moved away.
    fn fragments(&mut self, index: usize, unit: &UnitInput, name: &str, matches: &mut Vec<Match>) {
        for fragment in unit.pre.fragments(name) {
            let found = self.described(index, unit, &fragment.name);
            matches.extend(found.map(|found| Match { fragment: true, ..found }));
        }
    }

    /// Unchanged functions to match as well, because they tell where a symbol is that a clone needs.
    fn anchors(
        &mut self,
        index: usize,
        unit: &UnitInput,
        closure: &Closure,
        matches: &[Match],
    ) -> Result<Vec<Match>> {
        let mut told: BTreeSet<String> = matches.iter().flat_map(tells).collect();
        let mut anchors: Vec<Match> = Vec::new();
        let mut described: Option<Vec<Match>> = None;
        let tables: BTreeSet<&String> = unit.slots.iter().map(|slot| &slot.table).collect();
        for name in closure.needs.iter().map(|need| &need.name).chain(tables) {
            let mut found_by = "matched code refers to it";
            if !told.contains(name) {
                let candidates = described.get_or_insert_with(|| possible_anchors(unit, index));
                let of_need =
                    |found: &&Match| found.name == *name || tells(found).any(|told| told == *name);
                let best = candidates
                    .iter()
                    .filter(of_need)
                    .min_by_key(|found| (found.bytes.len(), found.name.clone()));
                match best {
                    Some(anchor) => {
                        told.extend(tells(anchor));
                        anchors.push(anchor.clone());
                    }
                    None => found_by = "unique by name",
                }
            }
            self.assembly.symbols.push(SymbolPlan {
                name: name.clone(),
                owner: unit.owner.clone(),
                found_by: found_by.into(),
            });
        }
        anchors.sort_by(|a, b| a.name.cmp(&b.name));
        anchors.dedup_by(|a, b| a.name == b.name);
        anchors.retain(|anchor| matches.iter().all(|known| known.name != anchor.name));
        Ok(anchors)
    }

    fn refuse(&mut self, name: &str, reason: &str, remedy: &str) {
        self.assembly.refusals.push(Refusal::new(name, reason, remedy));
    }
}

/// A symbol that is the unit's own, or that this unit alone speaks of.
fn own_key(name: &str, index: usize, unit: &UnitInput) -> SymbolKey {
    SymbolKey { name: name.to_owned(), owner: Some(unit.owner.clone()), unit: Some(index) }
}

/// The symbol of the running kernel that a site speaks of, and what is known of it.
fn symbol_key(
    referent: &Referent,
    index: usize,
    unit: &UnitInput,
    seen: &Seen<'_>,
) -> Result<(SymbolKey, u32)> {
    let own = |name: &str| own_key(name, index, unit);
    Ok(match referent {
        Referent::Symbol(name) if seen.is_meant(name)? => {
            (SymbolKey { name: name.clone(), owner: None, unit: None }, symbol_flags::EXPORTED)
        }
        Referent::Symbol(name) => {
            let per_cpu = if is_per_cpu(&unit.pre, name) { symbol_flags::PER_CPU } else { 0 };
            (own(name), per_cpu)
        }
        Referent::Content(place, _) => (own(place), symbol_flags::ANONYMOUS),
        Referent::Nameless(section, at) => {
            (own(&format!("{section}+{at:#x}")), symbol_flags::ANONYMOUS)
        }
    })
}

fn is_per_cpu(unit: &Unit, name: &str) -> bool {
    unit.find(name)
        .and_then(|index| unit.symbols.get(index)?.section)
        .and_then(|section| unit.sections.get(section))
        .is_some_and(|section| section.name.contains("percpu"))
}

#[cfg(test)]
mod tests;
