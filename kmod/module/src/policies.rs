//! The policies of one update: which calls of each function take its edition.
//!
//! A policy is code in one of the function's two slots; the other slot is where the next one is written, while calls
//! go on by the one in force. Which one that is, the redirection knows.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use dynamos_abi::policy as place;
use dynamos_abi::{Function, Record, function_flags};
use dynamos_core::policy::native::{self, Place};
use dynamos_core::policy::{Parameters, Program, Request, Target};

use crate::ffi::errno::Errno;
use crate::ffi::kernel_memory;
use crate::ffi::memory::{TryVec, try_string};
use crate::ffi::modules::Module;
use crate::ffi::policy::Facts;
use crate::ffi::text::FixedText;
use crate::refused::Refused;

/// How much of the policies is kept for reading: within a page.
const SHOWN: usize = 4000;

/// Which calls of a function take the edition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// All.
    Always,
    /// None.
    Never,
    /// Those that the code in the slot at this address lets.
    Slot(u64),
}

/// The policy of a function.
pub(crate) struct Policy {
    rule: Rule,
    /// The expression of a [`Rule::Slot`].
    source: String,
}

/// The policies of an update, one for each function of its record.
pub(crate) struct Policies(Vec<Policy>);

/// A function that a request is for, and what it asks.
pub(crate) struct Change {
    pub(crate) function: u32,
    pub(crate) rule: Rule,
}

impl Policies {
    /// All calls take the editions, or none.
    pub(crate) fn new(record: &Record<'_>, take: bool) -> Result<Self, Errno> {
        let rule = if take { Rule::Always } else { Rule::Never };
        let mut policies = Vec::new();
        for _ in record.functions().iter() {
            policies.try_push(Policy { rule, source: String::new() })?;
        }
        Ok(Self(policies))
    }

    /// Which calls of a function take the edition.
    pub(crate) fn rule(&self, function: u32) -> Rule {
        self.0.get(function as usize).map_or(Rule::Always, |policy| policy.rule)
    }

    /// Whether of every function that is replaced both editions may run at a time.
    pub(crate) fn let_editions_mix(&self, record: &Record<'_>) -> bool {
        let mut all = record.replaced().peekable();
        all.peek().is_some()
            && all.all(|(index, function)| {
                function.flags & function_flags::ADAPTS != 0 || self.rule(index) != Rule::Always
            })
    }

    /// The sources for `changes`, made before anything changes.
    pub(crate) fn sources(changes: &[Change], program: &Program) -> Result<Vec<String>, Errno> {
        let mut sources = Vec::new();
        for change in changes {
            let source = if matches!(change.rule, Rule::Slot(_)) { program.source() } else { "" };
            sources.try_push(try_string(source)?)?;
        }
        Ok(sources)
    }

    /// Takes note of what is in force.
    pub(crate) fn adopt(&mut self, changes: &[Change], sources: Vec<String>) {
        for (change, source) in changes.iter().zip(sources) {
            if let Some(policy) = self.0.get_mut(change.function as usize) {
                *policy = Policy { rule: change.rule, source };
            }
        }
    }

    /// Room for what [`Policies::write`] writes.
    pub(crate) fn room() -> Result<Vec<u8>, Errno> {
        let mut room = Vec::new();
        room.try_reserve_exact(SHOWN).map_err(|_| Errno::ENOMEM)?;
        Ok(room)
    }

    /// What is in force, for people: `OBJECT FUNCTION POLICY` a line, or `* POLICY` if it is the same for all; whole
    /// lines, as many as there is [`Policies::room`] for. Nothing is allocated: there is no way back from here.
    pub(crate) fn write(&self, record: &Record<'_>, text: &mut Vec<u8>) {
        let mut add = |line: &[u8]| {
            let fits = line.len() <= text.capacity() - text.len();
            fits && text.try_extend(line).is_ok()
        };
        let shown = |(index, function): (u32, Function)| {
            let adapts = function.flags & function_flags::ADAPTS != 0;
            self.0.get(index as usize).map(|policy| Shown { policy, adapts })
        };
        let first = record.replaced().next().and_then(shown);
        let all_same = record.replaced().all(|entry| shown(entry) == first);
        if let Some(first) = first.filter(|_| all_same) {
            add(FixedText::<1200>::new(format_args!("* {first}\n")).as_bytes());
            return;
        }
        for (index, function) in record.replaced() {
            let (object, name) = names(record, &function).unwrap_or_default();
            let Some(policy) = shown((index, function)) else { continue };
            let line = FixedText::<1800>::new(format_args!("{object} {name} {policy}\n"));
            if line.is_cut() || !add(line.as_bytes()) {
                break;
            }
        }
    }
}

/// The functions that `request` is for, with what `program` means for each. `in_use` says where the calls of a
/// function go; the code is written to the slot where they do not.
pub(crate) fn prepare(
    record: &Record<'static>,
    request: &Request<'_>,
    program: &Program,
    addresses: &[u64],
    module: &Module,
    facts: &Facts,
    in_use: impl Fn(u32) -> [u64; 2],
) -> Result<Vec<Change>, Refused> {
    let mut changes = select(record, request)?;
    if let (Some(name), true) = (request.function, changes.is_empty()) {
        return Err(Refused::policy(format_args!(
            "the update does not replace `{name}`: `dynamos status` lists what it does"
        )));
    }
    if let (Some(name), true) = (request.function, changes.len() > 1) {
        return Err(Refused::policy(format_args!(
            "`{name}` is in several objects: say which, as OBJECT:FUNCTION"
        )));
    }
    let mut code = Vec::try_filled(0u8, place::SLOT as usize)?;
    for change in &mut changes {
        let function = record.functions().get(change.function).ok_or(Errno::EINVAL)?;
        check_arguments(record, &function, program)?;
        let address = |index: u32| addresses.get(index as usize).copied().ok_or(Errno::EINVAL);
        let (base, steady) = (address(function.policy)?, address(function.steady)?);
        let used = in_use(change.function);
        let mut slots = (0..place::COUNT).map(|slot| base + place::SLOTS + slot * place::SLOT);
        let at = slots.find(|slot| !used.contains(slot)).ok_or(Errno::EBUSY)?;
        change.rule = match program.start() {
            Target::Answer(true) => Rule::Always,
            Target::Answer(false) => Rule::Never,
            Target::Step(_) => {
                let place = Place {
                    at,
                    take: steady + place::PAST_ENDBR,
                    leave: base + place::LEAVE + place::PAST_ENDBR,
                    resched: facts.resched,
                };
                native::generate(program, &facts.layout, &place, &mut code)
                    .map_err(|error| Refused::policy(format_args!("{error}")))?;
                // SAFETY: the slot is the update's, for code of this kind; no call goes there, and nobody is
                // left in it since the last change.
                unsafe { kernel_memory::write(module, at, &code) }?;
                Rule::Slot(at)
            }
        };
    }
    Ok(changes)
}

fn select(record: &Record<'static>, request: &Request<'_>) -> Result<Vec<Change>, Errno> {
    let mut changes = Vec::new();
    for (function, entry) in record.replaced() {
        let (object, name) = names(record, &entry).unwrap_or_default();
        if request.selects(object, name) {
            changes.try_push(Change { function, rule: Rule::Always })?;
        }
    }
    Ok(changes)
}

/// The control command checks it too; but whoever writes the file may be another.
fn check_arguments(
    record: &Record<'_>,
    function: &Function,
    program: &Program,
) -> Result<(), Refused> {
    let Some(parameters) = Parameters::parse(record.str(function.parameters)) else {
        return Ok(());
    };
    match parameters.first_misuse(program) {
        None => Ok(()),
        Some(field) => Err(Refused::policy(format_args!(
            "`{}` has no {} of the type that is compared",
            names(record, function).unwrap_or_default().1,
            field.name()
        ))),
    }
}

/// The names of a function's object and of itself.
pub(crate) fn names<'r>(record: &Record<'r>, function: &Function) -> Option<(&'r str, &'r str)> {
    let symbol = record.symbols().get(function.symbol)?;
    let object = record.objects().get(symbol.object)?;
    Some((record.str(object.name), record.str(symbol.name)))
}

/// A policy as it is asked for.
#[derive(Clone, Copy)]
struct Shown<'a> {
    policy: &'a Policy,
    /// Whether the update's own adaptation handler is asked then.
    adapts: bool,
}

impl PartialEq for Shown<'_> {
    fn eq(&self, other: &Self) -> bool {
        // Slots differ, each function has its own.
        let kind = |rule: Rule| match rule {
            Rule::Always => 1,
            Rule::Never => 0,
            Rule::Slot(_) => 2,
        };
        kind(self.policy.rule) == kind(other.policy.rule)
            && self.policy.source == other.policy.source
            && self.adapts == other.adapts
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.policy.rule {
            Rule::Always => f.write_str("default 1")?,
            Rule::Never => return f.write_str("default 0"),
            Rule::Slot(_) => {
                f.write_str("when ")?;
                f.write_str(&self.policy.source)?;
            }
        }
        f.write_str(if self.adapts { ", and the update's adaptation handler agrees" } else { "" })
    }
}
