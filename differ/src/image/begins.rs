//! Where things begin that no symbol names: what code and data of an image refer to. So the end of an unnamed constant is
//! known, whatever it is.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};
use object::elf;
use rayon::prelude::*;

use super::code::{KERNEL, is_mask};
use super::load::{Image, Placed, Symbol};

/// Start and end of what an image's constants lie in.
struct Constants(Vec<(u64, u64)>);

impl Constants {
    fn has(&self, address: u64) -> bool {
        address >= KERNEL && self.0.iter().any(|(start, end)| (*start..*end).contains(&address))
    }
}

/// All addresses of constants that something refers to, in order; `more` are known already.
pub(super) fn begins(
    image: &Image<'_>,
    is_constant: impl Fn(u32) -> bool,
    more: impl Iterator<Item = u64>,
) -> Vec<u64> {
    let extent = |(id, placed): (usize, &Placed<'_>)| {
        let section = &placed.section;
        let holds = section.is_alloc() && !section.is_exec() && is_constant(id as u32);
        holds.then(|| (placed.address, placed.address.saturating_add(section.size)))
    };
    let constants = Constants(image.sections.iter().enumerate().filter_map(extent).collect());
    let functions = image.symbols.par_iter().filter(|s| s.kind == elf::STT_FUNC && s.size > 0);
    let mut all: Vec<u64> =
        functions.flat_map_iter(|symbol| in_code(image, symbol, &constants)).collect();
    for placed in image.sections.iter().filter(|p| p.section.is_alloc() && !p.section.is_exec()) {
        in_data(placed, &constants, &mut all);
    }
    all.extend(more.filter(|address| constants.has(*address)));
    all.par_sort_unstable();
    all.dedup();
    all
}

fn in_code(image: &Image<'_>, function: &Symbol<'_>, constants: &Constants) -> Vec<u64> {
    let code = || {
        let placed = image.sections.get(function.section as usize)?;
        let from = usize::try_from(function.address.checked_sub(placed.address)?).ok()?;
        let to = from.checked_add(usize::try_from(function.size).ok()?)?;
        placed.section.data.get(from..to)
    };
    let mut decoder =
        Decoder::with_ip(64, code().unwrap_or_default(), function.address, DecoderOptions::NONE);
    let (mut found, mut reads, mut i) = (Vec::new(), Vec::new(), Instruction::default());
    while decoder.can_decode() {
        decoder.decode_out(&mut i);
        let fields = decoder.get_constant_offsets(&i);
        // Shorter numbers are no addresses.
        if fields.displacement_size().max(fields.immediate_size()) < 4 {
            continue;
        }
        found.extend(addresses(&i).filter(|address| constants.has(*address)));
        let read = (i.memory_displacement64(), i.memory_size().size() as u64);
        if is_plain(&i) && constants.has(read.0) {
            reads.push(read);
        }
    }
    reads.sort_unstable();
    let mut end = 0;
    for (at, size) in reads {
        // What is read right behind something is its next part.
        if at > end {
            found.push(at);
        }
        end = end.max(at.saturating_add(size));
    }
    found
}

/// The addresses of an instruction at which something may begin.
fn addresses(i: &Instruction) -> impl Iterator<Item = u64> {
    let memory = (!is_plain(i)).then(|| i.memory_displacement64());
    let numbers = (0..i.op_count()).filter(|_| !is_mask(i)).filter_map(|n| i.try_immediate(n).ok());
    memory.into_iter().chain(numbers)
}

/// Whether an instruction reads so many bytes at one address, if it reads any.
fn is_plain(i: &Instruction) -> bool {
    let one = i.memory_index() == Register::None
        && matches!(i.memory_base(), Register::None | Register::RIP);
    one && i.mnemonic() != Mnemonic::Lea && i.memory_size().size() > 0
}

fn in_data(placed: &Placed<'_>, constants: &Constants, found: &mut Vec<u64>) {
    let skip = placed.address.wrapping_neg() % 8;
    let bytes = usize::try_from(skip).ok().and_then(|skip| placed.section.data.get(skip..));
    let words = bytes.unwrap_or_default().as_chunks::<8>().0;
    found.extend(words.iter().map(|w| u64::from_le_bytes(*w)).filter(|w| constants.has(*w)));
}
