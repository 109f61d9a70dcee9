//! Which addresses of the update stay behind in the kernel: it must not be unloaded once they may be there.
//!
//! That is every function whose address is taken, every variable whose address is, and a constant whose address code writes
//! anywhere but into its own stack frame, returns, or hands to a function that may keep it. What code reads out of a constant
//! that holds addresses of the update counts as such an address. A function that takes any number of arguments makes a text
//! of them and of the one before them, and some are known to keep nothing ([`FORGET`]).

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess,
    OpKind, Register,
};

use anyhow::Result;
use dynamos_differ::compare::frame_variables;
use object::elf;

use super::body::Body;
use super::bridge::is_of_its_own;
use super::{Builder, constant};
use crate::plan::Escape;
use crate::unit::{Field, Place, Section, Unit};

/// How many characters of a string are shown.
const TEXT_SHOWN: usize = 30;

/// What may hold the address.
#[derive(Clone, Debug, Default)]
struct Holders {
    registers: BTreeSet<Register>,
    /// It was pushed, for the next call.
    pushed: bool,
}

impl Holders {
    /// Takes over what others hold; `false`: nothing new.
    fn join(&mut self, other: &Self) -> bool {
        let before = (self.registers.len(), self.pushed);
        self.registers.extend(&other.registers);
        self.pushed |= other.pushed;
        before != (self.registers.len(), self.pushed)
    }

    /// Whether a call gets it as one of its first arguments; those in registers come first.
    fn are_handed_over(&self, first: usize) -> bool {
        self.pushed && first > ARGUMENTS.len()
            || ARGUMENTS.iter().take(first).any(|register| self.registers.contains(register))
    }
}

/// The registers of a call's arguments (System V ABI for x86-64, 3.2.3).
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// Functions of the kernel that keep no address they are given: they compare, copy or print, or keep it only as long as the
/// module's memory is there (lockdep: `lockdep_free_key_range()`).
const FORGET: [&str; 61] = [
    "__copy_to_user",
    "___ratelimit",
    "__fortify_panic",
    "__init_rwsem",
    "__init_swait_queue_head",
    "__init_waitqueue_head",
    "__memcpy",
    "__might_fault",
    "__might_resched",
    "__might_sleep",
    "__mutex_init",
    "__percpu_init_rwsem",
    "__raw_spin_lock_init",
    "__rt_mutex_init",
    "__rwlock_init",
    "__stack_chk_fail",
    "_copy_to_iter",
    "_copy_to_user",
    "bcmp",
    "copy_to_user",
    "fortify_panic",
    "init_timer_key",
    "kmemdup",
    "kmemdup_noprof",
    "kmemdup_nul",
    "kstrdup",
    "kstrdup_noprof",
    "kstrndup",
    "lockdep_init_map_type",
    "lockdep_rcu_suspicious",
    "match_string",
    "memcmp",
    "memcpy",
    "memmove",
    "print_hex_dump",
    "rcu_lockdep_assert",
    "seq_put_decimal_ll",
    "seq_put_decimal_ull",
    "seq_puts",
    "__seq_puts",
    "seq_write",
    "seq_escape_mem",
    "sized_strscpy",
    "sized_strscpy_pad",
    "strcasecmp",
    "strcat",
    "strcmp",
    "strcpy",
    "strcspn",
    "strlcat",
    "strlcpy",
    "strlen",
    "strncasecmp",
    "strncat",
    "strncmp",
    "strncpy",
    "strnlen",
    "strscpy",
    "strscpy_pad",
    "strspn",
    "sysfs_streq",
];

/// The same of all functions that begin so: those that find something by a name, and KASAN's looks.
const FORGET_ALL: [&str; 7] = [
    "__asan_",
    "crypto_alloc_",
    "crypto_has_",
    "device_property_",
    "fwnode_property_",
    "kstrto",
    "of_property_",
];

/// How many of its arguments a function may keep; `None`: all. `variadic`: how many arguments come before any number of
/// others, of which the last is what a text is made by.
pub(super) fn may_keep(name: &str, variadic: &BTreeMap<String, usize>) -> Option<usize> {
    if FORGET.contains(&name) || FORGET_ALL.iter().any(|begin| name.starts_with(begin)) {
        return Some(0);
    }
    variadic.get(name).map(|fixed| fixed.saturating_sub(1))
}

/// Registers that a function may leave with any value (System V ABI, AMD64 supplement, 3.2.3).
const CALLER_SAVED: [Register; 9] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
];

impl Builder<'_> {
    /// Notes that the address of a function of the update is taken, be it by itself. A place within it is no function.
    pub(super) fn note_escape(&mut self, field: &Field, name: &str, owner: &str, code: bool) {
        let within = name == owner && !matches!(field.place, Place::In(_, 0));
        if code && !field.branch && !within && !name.ends_with(".cold") {
            self.closure.escapes.push(Escape {
                function: name.into(),
                at: owner.into(),
                rewritten: true,
            });
        }
    }

    /// Notes that code takes the address of a variable or constant of the update, or reads one out of a constant, and may
    /// keep it. What else is read or written in place is not used once the call is over.
    pub(super) fn note_kept(
        &mut self,
        field: &Field,
        owner: &str,
        keeps: impl FnOnce(bool) -> bool,
    ) -> Result<()> {
        let unit = self.context.unit;
        let Some(of) = section(unit, &field.place)?.filter(|of| !of.is_code()) else {
            return Ok(());
        };
        if of.bytes.is_empty() {
            return Ok(());
        }
        let (what, start, end) = match &field.place {
            Place::In(index, _) => {
                let symbol = unit.symbol(*index)?;
                (symbol.name.clone(), symbol.value, symbol.value.saturating_add(symbol.size))
            }
            Place::Raw(_, at, _) => {
                let (start, end) = constant(of, *at);
                (text(of, start, end), start, end)
            }
            Place::Elsewhere(..) => return Ok(()),
        };
        // Which is in the frame, as long as it lasts.
        if describes_frame(of, start, end) && unit.is_watched() {
            return Ok(());
        }
        let within = of.relocations.iter().filter(|at| (start..end).contains(&at.offset));
        let rewritten = within.clone().next().is_some();
        let mut holds = false;
        for relocation in within {
            holds |= match unit.place(relocation, 0)? {
                Place::In(index, _) => !self.context.known.contains_key(&unit.symbol(index)?.name),
                Place::Raw(..) => true,
                Place::Elsewhere(..) => false,
            };
        }
        if !field.address && !holds {
            return Ok(());
        }
        if of.is_writable() && field.address {
            // Nobody keeps the address of a limit of messages; the key of a lock goes with its module (lockdep).
            if is_of_its_own(&what) {
                return Ok(());
            }
            // Whoever is given the address of what can be written may link something of the kernel's to it.
        } else {
            // Whatever becomes of the address of a changed constant.
            let changed = field.address && self.context.along.contains(&what);
            if !changed && !keeps(holds) {
                return Ok(());
            }
        }
        self.closure.escapes.push(Escape { function: what, at: owner.into(), rewritten });
        Ok(())
    }
}

/// The section that a place is in, if it is in this object.
fn section<'a>(unit: &'a Unit, place: &Place) -> Result<Option<&'a Section>> {
    match place {
        Place::In(index, _) => unit.symbol(*index)?.section.map(|at| unit.section(at)).transpose(),
        Place::Raw(index, ..) => unit.section(*index).map(Some),
        Place::Elsewhere(..) => Ok(None),
    }
}

/// A nameless constant in words: the beginning of a string, or how long it is.
fn text(section: &Section, start: u64, end: u64) -> String {
    let bytes = section.bytes.get(start as usize..end as usize).unwrap_or(&[]);
    if section.flags & u64::from(elf::SHF_STRINGS) == 0 || section.entry_size > 1 {
        return format!("a constant of {} bytes", bytes.len());
    }
    let text = String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes));
    let short: String = text.chars().take(TEXT_SHOWN).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("\"{}{more}\"", short.escape_debug())
}

/// Whether it is KASAN's description of a frame.
fn describes_frame(section: &Section, start: u64, end: u64) -> bool {
    let bytes = section.bytes.get(start as usize..end as usize).unwrap_or(&[]);
    let text = bytes.strip_suffix(&[0]).and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(frame_variables).is_some()
}

/// The question that [`Body::keeps`] follows.
struct Way<'w> {
    unit: &'w Unit,
    /// The instruction that takes the address.
    taking: &'w Instruction,
    deep: bool,
    may_keep: &'w dyn Fn(&str) -> Option<usize>,
}

impl Body {
    /// Whether the address in the field at this offset of the section may be kept, or what is read there. `deep`: what is
    /// read by way of the address counts like it. `may_keep`: see [`may_keep`].
    pub(super) fn keeps(
        &self,
        unit: &Unit,
        at: u64,
        deep: bool,
        may_keep: &dyn Fn(&str) -> Option<usize>,
    ) -> bool {
        let Some((_, taking)) = self.instructions.range(..=at).next_back() else { return true };
        if writes_outside_of_the_frame(taking) && taking.op1_kind() != OpKind::Register {
            return true;
        }
        let mut holders = Holders::default();
        // Places of the frame that may hold it too: what is read from there counts as the address, and whoever is called
        // may be given the place.
        let mut spilled = BTreeSet::new();
        match taking.op0_kind() {
            OpKind::Register if writes_op0(taking) => {
                holders.registers.insert(taking.op0_register().full_register());
            }
            OpKind::Memory if is_own(taking) && writes_op0(taking) => {
                spilled.insert(taking.memory_displacement64());
            }
            _ if taking.mnemonic() == Mnemonic::Push => holders.pushed = true,
            // Compared.
            _ => return false,
        }
        let way = Way { unit, taking, deep, may_keep };
        loop {
            let before = spilled.len();
            if self.follow(&way, &holders, &mut spilled) {
                return true;
            }
            if spilled.len() == before {
                return false;
            }
        }
    }

    /// Follows every way through the function from behind the instruction that takes it; `true`: one on them keeps it.
    fn follow(&self, way: &Way<'_>, holders: &Holders, spilled: &mut BTreeSet<u64>) -> bool {
        let mut entered: BTreeMap<u64, Holders> = BTreeMap::new();
        let mut queue = vec![(way.taking.next_ip(), holders.clone())];
        while let Some((at, mut holders)) = queue.pop() {
            let Some(instruction) = self.instructions.get(&at) else { continue };
            if let Some(known) = entered.get_mut(&at) {
                if !known.join(&holders) {
                    continue;
                }
                holders.join(known);
            } else {
                entered.insert(at, holders.clone());
            }
            if self.hands_over(way, instruction, &holders, spilled) {
                return true;
            }
            let Some(after) = step(instruction, way.deep, holders, spilled) else { return true };
            if after.registers.is_empty() && !after.pushed && spilled.is_empty() {
                continue;
            }
            // Where it goes is not known, or is not looked at: it may be kept there.
            let Some(ways) = self.ways(way.unit, instruction) else { return true };
            queue.extend(ways.into_iter().map(|way| (way, after.clone())));
        }
        false
    }

    /// Whether an instruction gives the address to somebody who may keep it: who called this function, or a function.
    fn hands_over(
        &self,
        way: &Way<'_>,
        instruction: &Instruction,
        holders: &Holders,
        spilled: &BTreeSet<u64>,
    ) -> bool {
        if self.returns(instruction) {
            return holders.registers.contains(&Register::RAX);
        }
        let field = self.field_in(instruction);
        let calls = match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => true,
            FlowControl::UnconditionalBranch => field.is_some(),
            FlowControl::IndirectBranch => true,
            _ => false,
        };
        if !calls {
            return false;
        }
        let name = field.and_then(|field| match &field.place {
            Place::Elsewhere(name, _) => Some(name.as_str()),
            Place::In(index, _) => way.unit.symbols.get(*index).map(|symbol| symbol.name.as_str()),
            Place::Raw(..) => None,
        });
        match name.and_then(way.may_keep) {
            Some(first) => holders.are_handed_over(first),
            None => holders.are_handed_over(usize::MAX) || !spilled.is_empty(),
        }
    }

    /// Whether it ends the function: with retpolines it is a jump to what does.
    fn returns(&self, instruction: &Instruction) -> bool {
        let thunk = |field: &Field| matches!(&field.place, Place::Elsewhere(name, _) if name == "__x86_return_thunk");
        match instruction.flow_control() {
            FlowControl::Return => true,
            FlowControl::UnconditionalBranch => self.field_in(instruction).is_some_and(thunk),
            _ => false,
        }
    }

    /// Where it may go on in this function; `None`: not known.
    fn ways(&self, unit: &Unit, instruction: &Instruction) -> Option<Vec<u64>> {
        let field = self.field_in(instruction);
        let elsewhere = field.is_some();
        let in_section = |field: &Field| section(unit, &field.place).ok().flatten();
        let parted = field.and_then(in_section).is_some_and(Section::is_code);
        let next = instruction.next_ip();
        match instruction.flow_control() {
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch if parted => None,
            FlowControl::UnconditionalBranch if elsewhere => Some(Vec::new()),
            FlowControl::UnconditionalBranch => Some(vec![instruction.near_branch_target()]),
            FlowControl::ConditionalBranch if elsewhere => Some(vec![next]),
            FlowControl::ConditionalBranch => Some(vec![next, instruction.near_branch_target()]),
            FlowControl::Return | FlowControl::Exception => Some(Vec::new()),
            FlowControl::IndirectBranch => None,
            _ => Some(vec![next]),
        }
    }
}

/// What holds the address after an instruction; `None`: it is kept.
fn step(
    instruction: &Instruction,
    deep: bool,
    mut holders: Holders,
    spilled: &mut BTreeSet<u64>,
) -> Option<Holders> {
    let operands = 0..instruction.op_count();
    let registers = operands.filter(|operand| instruction.op_kind(*operand) == OpKind::Register);
    let moved =
        registers.filter(|operand| *operand > 0 || !writes_op0(instruction)).any(|operand| {
            holders.registers.contains(&instruction.op_register(operand).full_register())
        });
    let stored = moved || is_string(instruction) && holders.registers.contains(&Register::RAX);
    if stored && writes_outside_of_the_frame(instruction) {
        return None;
    }
    let own = is_own(instruction).then(|| instruction.memory_displacement64());
    if let Some(place) = own.filter(|_| moved && instruction.op0_kind() == OpKind::Memory) {
        spilled.insert(place);
    }
    if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
        holders.registers.retain(|register| !CALLER_SAVED.contains(register));
        holders.pushed = false;
        return Some(holders);
    }
    holders.pushed |= moved && instruction.mnemonic() == Mnemonic::Push;
    let lea = instruction.mnemonic() == Mnemonic::Lea;
    let based = [instruction.memory_base(), instruction.memory_index()];
    let based = based.iter().any(|register| holders.registers.contains(&register.full_register()));
    let computed = based && (lea || deep);
    let reloaded = !lea && own.is_some_and(|place| spilled.contains(&place));
    let takes_over = moved || computed || reloaded;
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE);
    for used in info.used_registers() {
        let register = used.register().full_register();
        let written = matches!(
            used.access(),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        );
        if written && takes_over {
            holders.registers.insert(register);
        } else if used.access() == OpAccess::Write {
            holders.registers.remove(&register);
        }
    }
    Some(holders)
}

/// Whether its memory operand is in the function's own frame.
fn is_own(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
        && instruction.memory_base() == Register::RSP
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None
}

fn writes_outside_of_the_frame(instruction: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    info.used_memory().iter().any(|memory| {
        let written = !matches!(
            memory.access(),
            OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess
        );
        written && memory.base() != Register::RSP
    })
}

fn writes_op0(instruction: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let access = factory.info(instruction).op0_access();
    !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
}

/// `stos` writes what is in `rax` without naming it.
fn is_string(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Stosb | Mnemonic::Stosd | Mnemonic::Stosq | Mnemonic::Stosw
    )
}
