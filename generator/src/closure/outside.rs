//! What is not copied: symbols that the module loader resolves, and those of the running kernel.

use anyhow::Result;
use object::elf;

use super::Builder;
use super::flow::returns;
use crate::clones::{Piece, PieceRelocation, Placeholder, PlaceholderKind, Target};

impl Builder<'_> {
    /// A symbol that the module loader resolves. With an exported static call comes its key, if that is exported as
    /// well: objtool looks for it by name, and without it the kernel would take the call for one whose key it has to
    /// look up (`static_call_add_module`, kernel/static_call_inline.c).
    pub(super) fn import(&mut self, name: &str) -> Target {
        let first = self.closure.imports.insert(name.into());
        let key = name.strip_prefix("__SCT__").map(|base| format!("__SCK__{base}"));
        if let Some(key) = key.filter(|key| first && self.context.exported.contains(key)) {
            self.closure.imports.insert(key.clone());
            let relocation = PieceRelocation {
                offset: 0,
                kind: elf::R_X86_64_64,
                target: Target::Import(key.clone()),
                addend: 0,
            };
            // As `__ADDRESSABLE` has it; the linker drops it.
            self.closure.object.add(Piece {
                what: key,
                section: ".discard.addressable".into(),
                flags: u64::from(elf::SHF_ALLOC | elf::SHF_WRITE),
                kind: elf::SHT_PROGBITS,
                align: 8,
                bytes: vec![0; 8],
                relocations: vec![relocation],
                symbols: Vec::new(),
            });
        }
        Target::Import(name.into())
    }

    /// A symbol that V2's object does not define. `None`: refused.
    pub(super) fn outside(&mut self, name: &str, called: bool) -> Result<Option<Target>> {
        let (seen, elsewhere) = (self.context.exported, self.context.elsewhere);
        let fresh = match elsewhere.get(name) {
            None => false,
            Some(true) => true,
            Some(false) => !seen.is_of_the_owner(name)?,
        };
        if fresh || seen.is_meant_by_undefined(name)? {
            return Ok(Some(self.import(name)));
        }
        if seen.is_private(name) {
            // Matched code speaks of that one.
            self.refuse(name, "is another object's in V2, and this object's own in V1");
            return Ok(None);
        }
        let function = called || name.starts_with("__SCT__");
        let kind = if function { PlaceholderKind::Function } else { PlaceholderKind::Data };
        Ok(Some(Target::Placeholder(self.edition0(name, kind))))
    }

    /// A symbol of V2's object that the running kernel has under the name `v1_name`.
    pub(super) fn kernel(&mut self, v1_name: &str, function: bool, index: usize) -> Result<Target> {
        if self.context.exported.is_meant(v1_name)? {
            return Ok(self.import(v1_name));
        }
        let kind = if !function {
            PlaceholderKind::Data
        } else if returns(self.context.unit, index)? {
            PlaceholderKind::Function
        } else {
            PlaceholderKind::NoReturn
        };
        Ok(Target::Placeholder(self.edition0(v1_name, kind)))
    }

    pub(super) fn edition0(&mut self, v1_name: &str, kind: PlaceholderKind) -> usize {
        if let Some(&known) = self.edition0.get(v1_name) {
            return known;
        }
        // Names of the kernel must stay unique: a kprobe asks for a function by name. But objtool knows the parts
        // of a static call by their names.
        let by_name = v1_name.starts_with("__SCT__") || v1_name.starts_with("__SCK__");
        let name = if by_name { v1_name.to_string() } else { format!("edition0.{v1_name}") };
        let index = self.closure.object.placeholders.len();
        self.closure.object.placeholders.push(Placeholder { name, kind });
        self.edition0.insert(v1_name.into(), index);
        self.names.push((v1_name.into(), kind != PlaceholderKind::Data));
        if let Some(base) = v1_name.strip_prefix("__SCT__") {
            // objtool looks for the key of a static call by name.
            self.edition0(&format!("__SCK__{base}"), PlaceholderKind::Data);
        }
        index
    }
}
