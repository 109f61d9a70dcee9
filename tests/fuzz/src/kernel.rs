//! A kernel made of input: memory from one address on, and addresses for names.

use dynamos_core::{Memory, Names};

/// Where the memory starts.
pub(crate) const BASE: u64 = 0xffff_ffff_8100_0000;

#[derive(Clone)]
pub(crate) struct Kernel<'a> {
    names: Vec<Vec<u64>>,
    memory: &'a [u8],
}

impl<'a> Kernel<'a> {
    /// Each 5 bytes of `names` give a symbol (by index) an address, an offset from [`BASE`].
    pub(crate) fn new(names: &[u8], memory: &'a [u8]) -> Self {
        let mut all = vec![Vec::new(); 256];
        for entry in names.as_chunks::<5>().0 {
            let [index, offset @ ..] = *entry;
            if let Some(addresses) = all.get_mut(usize::from(index)) {
                // The highest wrap around: to the module that is the strangest address of all.
                addresses.push(BASE.wrapping_add(u64::from(u32::from_le_bytes(offset))));
            }
        }
        for addresses in &mut all {
            addresses.sort_unstable();
            addresses.dedup();
        }
        Self { names: all, memory }
    }
}

impl Memory for Kernel<'_> {
    fn read(&mut self, address: u64, into: &mut [u8]) -> bool {
        let from = address
            .checked_sub(BASE)
            .and_then(|skip| self.memory.get(usize::try_from(skip).ok()?..))
            .and_then(|rest| rest.get(..into.len()));
        from.map(|from| into.copy_from_slice(from)).is_some()
    }
}

impl Names for Kernel<'_> {
    fn candidates(&self, index: u32) -> &[u64] {
        self.names.get(index as usize).map_or(&[], Vec::as_slice)
    }
}
