//! Which source file a symbol is from, numbered alike on both sides.

use crate::files::{self, Files};
use crate::load::SymbolId;
use crate::object_file::Object;

/// Numbers of the source files of both sides' symbols. All are 0 where each side is compiled from one source.
pub(super) struct Homes(pub(super) Vec<u64>, pub(super) Vec<u64>);

impl Homes {
    pub(super) fn of(a: &Object<'_>, b: &Object<'_>) -> Homes {
        let (of_a, of_b) = (&a.elf.files, &b.elf.files);
        if of_a.len() <= 2 && of_b.len() <= 2 {
            return Homes(vec![0; of_a.len()], vec![0; of_b.len()]);
        }
        let (of_a, of_b) = files::number(&noted_files(a), &noted_files(b));
        Homes(of_a, of_b)
    }
}

fn noted_files<'d>(object: &Object<'d>) -> Files<'d> {
    let symbols = object.elf.symbols.iter().map(|symbol| (symbol.file, symbol.name));
    Files::new(&object.elf.files, symbols)
}

/// One of the objects. A module is linked from several sources, whose static functions may have one name.
pub(super) struct Side<'s, 'd> {
    pub(super) object: &'s Object<'d>,
    pub(super) homes: &'s [u64],
}

impl<'d> std::ops::Deref for Side<'_, 'd> {
    type Target = Object<'d>;

    fn deref(&self) -> &Object<'d> {
        self.object
    }
}

impl Side<'_, '_> {
    /// The number of the source that a symbol is from; 0 for global symbols.
    pub(super) fn home(&self, symbol: SymbolId) -> u64 {
        let file = self.elf.symbol(symbol).map_or(0, |symbol| symbol.file);
        self.homes.get(file as usize).copied().unwrap_or(0)
    }
}
