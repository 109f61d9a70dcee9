//! Builds the record: what must be in memory before the update may be installed, and what to write where.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use dynamos_abi::{
    Code, Function, Hook, HookKind, NONE, Object, RecordWriter, Relocation, RelocationKind, Site,
    Slot, Symbol, function_flags, symbol_flags,
};

use crate::sites::{Referent, SiteDraft};

/// A function to match, with its sites.
#[derive(Clone, Debug)]
pub struct Match {
    /// Linker's name.
    pub name: String,
    /// `vmlinux` or the module that holds it.
    pub owner: String,
    /// Source object, which tells apart symbols of one name.
    pub unit: usize,
    /// The bytes of the `pre` build.
    pub bytes: Vec<u8>,
    /// Its sites.
    pub sites: Vec<SiteDraft>,
    /// Offset of its `call __fentry__`.
    pub fentry: Option<u32>,
    /// A part that the compiler moved away: found only through the function it belongs to.
    pub fragment: bool,
    /// Nobody may be in it when handlers are written.
    pub watched: bool,
    /// Addresses of clone, transition handler, steady handler and policies, for a function that is replaced.
    pub replaced: Option<[u32; 4]>,
    /// Address of its bridge edition, if it has one.
    pub bridge: Option<u32>,
    /// Whether its steady handler asks an adaptation handler of the update.
    pub adapts: bool,
    /// Whether its parameters or its result differ from V1's, or may.
    pub reshaped: bool,
    /// Whether code that was compiled for V1's must not call it.
    pub unlike: bool,
    /// Addresses of its counting handler, and of the way on in edition 0 from there.
    pub counting: Option<[u32; 2]>,
    /// Its parameters as the record has them (see [`dynamos_abi::Function`]).
    pub parameters: String,
}

/// A place in the update that refers to a placeholder.
#[derive(Clone, Debug)]
pub struct Fixup {
    /// Address index of the piece that holds the field.
    pub base: u32,
    /// Offset in the piece.
    pub offset: u32,
    /// `R_X86_64_*`.
    pub kind: u32,
    /// Addend.
    pub addend: i64,
}

/// Collects the parts of a record; symbols are shared by name, owner and unit.
#[derive(Debug, Default)]
pub struct RecordBuilder {
    writer: RecordWriter,
    objects: BTreeMap<String, u32>,
    symbols: BTreeMap<SymbolKey, u32>,
}

/// What makes a symbol of the kernel one and the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SymbolKey {
    /// Linker's name, or a made-up one for nameless bytes.
    pub name: String,
    /// `vmlinux`, a module, or `None` for what any part of the kernel may export.
    pub owner: Option<String>,
    /// The source object that speaks of it: local symbols of one name are different in each. `None` for
    /// exported ones.
    pub unit: Option<usize>,
}

impl RecordBuilder {
    fn object(&mut self, name: &str) -> u32 {
        if let Some(&known) = self.objects.get(name) {
            return known;
        }
        let index = self.writer.objects.len() as u32;
        let name_ref = self.writer.str(name);
        self.writer.objects.push(Object { name: name_ref });
        self.objects.insert(name.into(), index);
        index
    }

    /// The symbol with this key; `flags` are added to it.
    pub fn symbol(&mut self, key: &SymbolKey, flags: u32) -> u32 {
        let index = match self.symbols.get(key) {
            Some(&known) => known,
            None => {
                let object = key.owner.as_deref().map_or(NONE, |owner| self.object(owner));
                let name = self.writer.str(&key.name);
                let index = self.writer.symbols.len() as u32;
                self.writer.symbols.push(Symbol { name, object, flags: 0, placeholder: NONE });
                self.symbols.insert(key.clone(), index);
                index
            }
        };
        if let Some(symbol) = self.writer.symbols.get_mut(index as usize) {
            symbol.flags |= flags;
        }
        index
    }

    /// Adds a function to match. `key` says which symbol a site's referent is, and its flags.
    pub fn function(
        &mut self,
        function: &Match,
        key: &dyn Fn(&Referent) -> Result<(SymbolKey, u32)>,
    ) -> Result<()> {
        let own = SymbolKey {
            name: function.name.clone(),
            owner: Some(function.owner.clone()),
            unit: Some(function.unit),
        };
        let symbol = self.symbol(&own, symbol_flags::FUNCTION);
        let bytes = self.writer.bytes(&function.bytes);
        let first_site = self.writer.sites.len() as u32;
        for site in &function.sites {
            self.site(site, key)?;
        }
        let mut flags = 0;
        if function.replaced.is_some() {
            flags |= function_flags::REPLACE;
        }
        if function.adapts {
            flags |= function_flags::ADAPTS;
        }
        if function.reshaped {
            flags |= function_flags::RESHAPED;
        }
        if function.unlike {
            flags |= function_flags::UNLIKE_V1;
        }
        if function.fragment {
            flags |= function_flags::FRAGMENT;
        }
        if function.watched {
            flags |= function_flags::WATCHED;
        }
        let [clone, transition, steady, policy] = function.replaced.unwrap_or([NONE; 4]);
        let [counting, original] = function.counting.unwrap_or([NONE; 2]);
        let parameters = self.writer.str(&function.parameters);
        self.writer.functions.push(Function {
            symbol,
            flags,
            bytes,
            first_site,
            site_count: function.sites.len() as u32,
            fentry: function.fentry.unwrap_or(NONE),
            clone,
            bridge: function.bridge.unwrap_or(NONE),
            transition,
            steady,
            policy,
            counting,
            original,
            parameters,
        });
        Ok(())
    }

    fn site(
        &mut self,
        site: &SiteDraft,
        key: &dyn Fn(&Referent) -> Result<(SymbolKey, u32)>,
    ) -> Result<()> {
        let symbol = match &site.referent {
            Some(referent) => {
                let (key, flags) = key(referent)?;
                self.symbol(&key, flags)
            }
            None => NONE,
        };
        let data = match &site.referent {
            Some(Referent::Content(_, bytes)) => self.writer.bytes(bytes),
            _ => self.writer.alternatives(&site.alternatives),
        };
        self.writer.sites.push(Site {
            offset: site.offset,
            len: site.len,
            kind: site.kind as u16,
            symbol,
            addend: site.addend,
            data,
        });
        Ok(())
    }

    /// Says that the update needs the address of a symbol: its placeholder and the fields to write.
    pub fn need(
        &mut self,
        key: &SymbolKey,
        flags: u32,
        placeholder: u32,
        fixups: &[Fixup],
    ) -> Result<()> {
        let symbol = self.symbol(key, flags | symbol_flags::NEEDED);
        if let Some(entry) = self.writer.symbols.get_mut(symbol as usize) {
            entry.placeholder = placeholder;
        }
        for fixup in fixups {
            // A PLT32 to a symbol that is linked without a PLT is a PC32 (x86-64 psABI, 4.4.1).
            let kind = if fixup.kind == object::elf::R_X86_64_PLT32 {
                RelocationKind::Pc32 as u32
            } else {
                fixup.kind
            };
            RelocationKind::from_raw(kind)
                .with_context(|| format!("{}: relocation of unknown type {kind}", key.name))?;
            self.writer.relocations.push(Relocation {
                base: fixup.base,
                offset: fixup.offset,
                kind,
                symbol,
                addend: fixup.addend,
            });
        }
        Ok(())
    }

    /// Adds a handler that is written into a table: at most one of `after`, of the running kernel, and `clone`, an
    /// address of the update.
    pub fn slot(
        &mut self,
        table: &SymbolKey,
        offset: u32,
        before: Option<&SymbolKey>,
        after: Option<&SymbolKey>,
        clone: Option<u32>,
    ) {
        let symbol = self.symbol(table, symbol_flags::NEEDED);
        let mut function = |key: Option<&SymbolKey>| {
            key.map_or(NONE, |key| self.symbol(key, symbol_flags::FUNCTION))
        };
        let (before, after) = (function(before), function(after));
        let clone = clone.unwrap_or(NONE);
        self.writer.slots.push(Slot { symbol, offset, before, after, clone });
    }

    /// Adds a piece of an edition's code.
    pub fn code(&mut self, code: Code) {
        self.writer.code.push(code);
    }

    /// Says where the use counters of objects are.
    pub fn counters(&mut self, address: u32) {
        self.writer.counters = Some(address);
    }

    /// Adds a hook: an address of the update.
    pub fn hook(&mut self, kind: HookKind, function: u32) {
        self.writer.hooks.push(Hook { kind: kind as u32, function });
    }

    /// Encodes the record.
    pub fn finish(
        mut self,
        name: &str,
        release: &str,
        pinned: &str,
        kept: &str,
        addr_count: u32,
    ) -> Result<Vec<u8>> {
        self.writer.kept(kept);
        self.writer.addr_count = addr_count;
        self.writer.finish(name, release, pinned).context("the record is not consistent")
    }
}
