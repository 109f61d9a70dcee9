//! Builds records and kernels for tests.

use std::collections::BTreeMap;

use dynamos_abi::{
    Function, NONE, Object, Record, RecordWriter, Site, SiteKind, Symbol, function_flags,
    symbol_flags,
};

use crate::candidates::Names;
use crate::matching::Memory;

/// A site in a test: the fields that matter.
#[derive(Clone, Debug)]
pub struct S {
    pub offset: u32,
    pub len: u16,
    pub kind: SiteKind,
    pub symbol: u32,
    pub addend: i64,
    pub data: Vec<u8>,
    /// Replacements and their masked fields.
    pub alternatives: Vec<(Vec<u8>, Vec<u8>)>,
}

pub fn site(offset: u32, len: u16, kind: SiteKind) -> S {
    S { offset, len, kind, symbol: NONE, addend: 0, data: vec![], alternatives: vec![] }
}

impl S {
    pub fn of(self, symbol: u32, addend: i64) -> S {
        S { symbol, addend, ..self }
    }
    pub fn addend(self, addend: i64) -> S {
        S { addend, ..self }
    }
    pub fn data(self, data: &[u8]) -> S {
        S { data: data.to_vec(), ..self }
    }
    pub fn or(mut self, bytes: &[u8], masked: &[u8]) -> S {
        self.alternatives.push((bytes.to_vec(), masked.to_vec()));
        self
    }
}

/// Collects a record; object 0 is `vmlinux`.
pub struct Build(pub RecordWriter);

impl Build {
    pub fn new() -> Self {
        let mut writer = RecordWriter::default();
        let name = writer.str("vmlinux");
        writer.objects.push(Object { name });
        Build(writer)
    }

    pub fn symbol(&mut self, name: &str, flags: u32) -> u32 {
        let name = self.0.str(name);
        self.0.symbols.push(Symbol { name, object: 0, flags, placeholder: NONE });
        self.0.symbols.len() as u32 - 1
    }

    /// Adds a function with a symbol of its own; gives the symbol.
    pub fn function(&mut self, name: &str, flags: u32, bytes: &[u8], sites: &[S]) -> u32 {
        let symbol = self.symbol(name, symbol_flags::FUNCTION);
        self.function_of(symbol, flags, bytes, sites);
        symbol
    }

    pub fn function_of(&mut self, symbol: u32, flags: u32, bytes: &[u8], sites: &[S]) {
        let first_site = self.0.sites.len() as u32;
        for s in sites {
            let data = match s.kind {
                SiteKind::Alternative => self.0.alternatives(&s.alternatives),
                _ => self.0.bytes(&s.data),
            };
            let (offset, len, kind) = (s.offset, s.len, s.kind as u16);
            self.0.sites.push(Site { offset, len, kind, symbol: s.symbol, addend: s.addend, data });
        }
        let bytes = self.0.bytes(bytes);
        let mut addresses = [NONE; 4];
        let mut fentry = NONE;
        if flags & function_flags::REPLACE != 0 {
            addresses = [0, 1, 2, 3];
            self.0.addr_count = self.0.addr_count.max(4);
            fentry = 0;
        }
        let site_count = sites.len() as u32;
        let [clone, transition, steady, policy] = addresses;
        let parameters = self.0.str("");
        self.0.functions.push(Function {
            symbol,
            flags,
            bytes,
            first_site,
            site_count,
            fentry,
            clone,
            bridge: NONE,
            transition,
            steady,
            policy,
            counting: NONE,
            original: NONE,
            parameters,
        });
    }

    pub fn finish(self, name: &str) -> Vec<u8> {
        self.0.finish(name, "6.1.0-55-amd64", "").unwrap()
    }
}

/// Memory and kallsyms of a kernel.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    pub memory: BTreeMap<u64, Vec<u8>>,
    pub names: BTreeMap<u32, Vec<u64>>,
}

impl Kernel {
    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        self.memory.insert(address, bytes.to_vec());
    }
    pub fn name(&mut self, symbol: u32, addresses: &[u64]) {
        self.names.insert(symbol, addresses.to_vec());
    }
}

impl Memory for Kernel {
    fn read(&mut self, address: u64, into: &mut [u8]) -> bool {
        let Some((start, bytes)) = self.memory.range(..=address).next_back() else { return false };
        let skip = (address - start) as usize;
        let Some(from) = bytes.get(skip..).and_then(|rest| rest.get(..into.len())) else {
            return false;
        };
        into.copy_from_slice(from);
        true
    }
}

impl Names for Kernel {
    fn candidates(&self, index: u32) -> &[u64] {
        self.names.get(&index).map_or(&[], Vec::as_slice)
    }
}

/// Parses `bytes` and hands the record over.
pub fn with_record<T>(bytes: &[u8], act: impl FnOnce(&Record<'_>) -> T) -> T {
    act(&Record::parse(bytes).unwrap())
}

/// A `call`/`jmp` from `from` (the address of its first byte) to `to`.
pub fn branch(opcode: u8, from: u64, to: u64) -> Vec<u8> {
    let mut bytes = vec![opcode];
    bytes.extend_from_slice(&(to.wrapping_sub(from + 5) as u32).to_le_bytes());
    bytes
}
