//! An instruction as text, with names for everything it refers to.

use iced_x86::{Formatter, GasFormatter, Instruction, OpKind, SymbolResolver, SymbolResult};

use crate::compare::string_at;
use crate::decode::{Field, Insn};
use crate::load::SectionId;
use crate::model::Place;
use crate::object_file::Object;

/// The longest piece of a string that is shown.
const LONGEST: usize = 40;

/// Code with its extent: section, start, end.
pub(super) type Extent = (SectionId, u64, u64);

/// The text of an instruction of a piece of code.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// For people.
    pub text: String,
    /// The same without what moves with the code around it.
    pub key: String,
    /// Where in this piece of code it jumps to, as a section offset.
    pub target: Option<u64>,
}

/// Writes an instruction of the code at `at`.
pub(super) fn shown(object: &Object<'_>, insn: &Insn, at: Extent) -> Shown {
    if let Some(byte) = insn.raw {
        let text = format!(".byte {byte:#04x}");
        return Shown { key: text.clone(), text, target: None };
    }
    let target = insn.reference(Field::Branch).and_then(|r| inside(object, r.place, at));
    let names = |own: &dyn Fn(u64) -> String| -> Vec<(Field, String)> {
        insn.references
            .iter()
            .map(|r| match (r.field, target) {
                (Field::Branch, Some(to)) => (r.field, own(to)),
                _ => (r.field, name(object, r.place)),
            })
            .collect()
    };
    let text = |names| {
        let unclear = if insn.unclear { " (a relocation that fits no operand)" } else { "" };
        format(&insn.code, names) + unclear
    };
    Shown {
        text: text(names(&|to| format!("+{:#x}", to - at.1))),
        key: text(names(&|_| "+".to_owned())),
        target,
    }
}

/// The section offset of a place, if it lies in that code.
fn inside(object: &Object<'_>, place: Place, (section, start, end): Extent) -> Option<u64> {
    let (s, offset) = match place {
        Place::Function { function, offset } => {
            let f = object.function(function)?;
            (f.section, f.start.checked_add(offset)?)
        }
        Place::Anonymous { section, offset, .. } => (section, u64::try_from(offset).ok()?),
        _ => return None,
    };
    // A call or jump to the start is a use of the function's name.
    (s == section && (start + 1..=end).contains(&offset)).then_some(offset)
}

/// What a person would call a place: a string by its text.
pub(super) fn name(object: &Object<'_>, place: Place) -> String {
    string_at(object, place).map_or_else(|| object.describe(place), |string| quoted(&string))
}

/// A string, or its beginning.
pub(crate) fn quoted(string: &str) -> String {
    let short: String = string.chars().take(LONGEST).collect();
    let more = if short.len() < string.len() { "…" } else { "" };
    format!("\"{}{more}\"", short.escape_debug())
}

/// Writes an instruction with names for its operands.
pub(crate) fn format(code: &Instruction, names: Vec<(Field, String)>) -> String {
    let all: Vec<String> = names.iter().map(|(_, name)| name.clone()).collect();
    let mut formatter = GasFormatter::with_options(Some(Box::new(Names(names))), None);
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(false);
    options.set_rip_relative_addresses(true);
    let mut text = String::new();
    formatter.format(code, &mut text);
    for name in all {
        if !text.contains(&name) {
            text.push_str(&format!(" <{name}>"));
        }
    }
    text
}

/// Gives the operands their names.
struct Names(Vec<(Field, String)>);

impl SymbolResolver for Names {
    fn symbol(
        &mut self,
        instruction: &Instruction,
        _operand: u32,
        instruction_operand: Option<u32>,
        address: u64,
        _address_size: u32,
    ) -> Option<SymbolResult<'_>> {
        let field = match instruction.op_kind(instruction_operand?) {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => Field::Branch,
            OpKind::Memory => Field::Displacement,
            _ => Field::Immediate,
        };
        let (_, name) = self.0.iter().find(|(f, _)| *f == field)?;
        Some(SymbolResult::with_str(address, name))
    }
}
