//! Writing a record.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::entry::Field;
use crate::{
    ABI, Bytes, Code, Function, Hook, MAGIC, NONE, Object, Record, RecordError, Relocation, Site,
    Slot, Str, Symbol,
};

/// Collects a record's entries and encodes them.
#[derive(Clone, Debug, Default)]
pub struct RecordWriter {
    strings: String,
    known: BTreeMap<String, Str>,
    kept: String,
    bytes: Vec<u8>,
    /// The objects touched.
    pub objects: Vec<Object>,
    /// The symbols spoken of.
    pub symbols: Vec<Symbol>,
    /// The functions to match.
    pub functions: Vec<Function>,
    /// The sites of all functions.
    pub sites: Vec<Site>,
    /// The fields of the update to be written.
    pub relocations: Vec<Relocation>,
    /// The slots to be written.
    pub slots: Vec<Slot>,
    /// The code of each edition, if there are phases.
    pub code: Vec<Code>,
    /// The hooks.
    pub hooks: Vec<Hook>,
    /// Number of addresses that accompany the record.
    pub addr_count: u32,
    /// Address of the use counters of objects, if there are any.
    pub counters: Option<u32>,
}

impl RecordWriter {
    /// Adds a string, once.
    pub fn str(&mut self, text: &str) -> Str {
        if let Some(&known) = self.known.get(text) {
            return known;
        }
        let added = Str { offset: self.strings.len() as u32, len: text.len() as u32 };
        self.strings.push_str(text);
        self.known.insert(text.into(), added);
        added
    }

    /// Adds raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Bytes {
        let added = Bytes { offset: self.bytes.len() as u32, len: bytes.len() as u32 };
        self.bytes.extend_from_slice(bytes);
        added
    }

    /// Adds the encoding of an alternative site's replacements: `(bytes, offsets of masked 4-byte fields)`.
    pub fn alternatives(&mut self, all: &[(Vec<u8>, Vec<u8>)]) -> Bytes {
        let mut encoded = Vec::new();
        for (bytes, masked) in all {
            encoded.push(bytes.len() as u8);
            encoded.push(masked.len() as u8);
            encoded.extend_from_slice(bytes);
            encoded.extend_from_slice(masked);
        }
        self.bytes(&encoded)
    }

    /// Says why the update's data must stay mapped once it has run.
    pub fn kept(&mut self, reason: &str) {
        self.kept = String::from(reason);
    }

    /// Encodes the record and reads it back: what this returns, [`Record::parse`] accepts.
    pub fn finish(
        mut self,
        name: &str,
        release: &str,
        pinned: &str,
    ) -> Result<Vec<u8>, RecordError> {
        let kept = core::mem::take(&mut self.kept);
        let fixed = [name, release, pinned, &kept].map(|text| self.str(text));
        let strings = self.strings.clone().into_bytes();
        let blocks = [
            (strings.len(), strings),
            (self.bytes.len(), self.bytes.clone()),
            (self.objects.len(), encode(&self.objects)),
            (self.symbols.len(), encode(&self.symbols)),
            (self.functions.len(), encode(&self.functions)),
            (self.sites.len(), encode(&self.sites)),
            (self.relocations.len(), encode(&self.relocations)),
            (self.slots.len(), encode(&self.slots)),
            (self.code.len(), encode(&self.code)),
            (self.hooks.len(), encode(&self.hooks)),
        ];
        let header = MAGIC.len() + 4 + 4 + fixed.len() * Str::SIZE + 4 + 4 + blocks.len() * 8;
        let total = blocks.iter().fold(header, |sum, (_, block)| sum + block.len());

        let mut out = Vec::with_capacity(total);
        out.extend_from_slice(&MAGIC);
        ABI.write(&mut out);
        (total as u32).write(&mut out);
        fixed.iter().for_each(|string| string.write(&mut out));
        self.addr_count.write(&mut out);
        self.counters.unwrap_or(NONE).write(&mut out);
        let mut offset = header;
        for (count, block) in &blocks {
            (offset as u32).write(&mut out);
            (*count as u32).write(&mut out);
            offset += block.len();
        }
        blocks.iter().for_each(|(_, block)| out.extend_from_slice(block));
        Record::parse(&out)?;
        Ok(out)
    }
}

fn encode<T: Field>(entries: &[T]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * T::SIZE);
    entries.iter().for_each(|entry| entry.write(&mut out));
    out
}
