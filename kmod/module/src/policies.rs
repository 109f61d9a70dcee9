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
use dynamos_core::policy::{Parameters, Program, Request, Target as Start};

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
    /// Its program, as it was written to the file: the code can be made anew.
    program: Vec<u8>,
    /// Where its code sends calls that do not take the edition.
    leave: u64,
}

/// The policies of an update, one for each function of its record.
pub(crate) struct Policies(Vec<Policy>);

/// A function that a request is for, and what it asks.
pub(crate) struct Change {
    pub(crate) function: u32,
    pub(crate) rule: Rule,
    leave: u64,
}

/// The texts of a policy.
pub(crate) struct Source {
    text: String,
    program: Vec<u8>,
}

/// What code is made for, and where it lies.
pub(crate) struct Target<'a> {
    pub(crate) record: &'a Record<'static>,
    pub(crate) addresses: &'a [u64],
    pub(crate) module: &'a Module,
    pub(crate) facts: Facts,
}

impl Policies {
    /// All calls take the editions, or none.
    pub(crate) fn new(record: &Record<'_>, take: bool) -> Result<Self, Errno> {
        let rule = if take { Rule::Always } else { Rule::Never };
        let mut policies = Vec::new();
        for _ in record.functions().iter() {
            let (source, program) = (String::new(), Vec::new());
            policies.try_push(Policy { rule, source, program, leave: 0 })?;
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
    pub(crate) fn sources(
        changes: &[Change],
        program: &Program,
        bytes: &[u8],
    ) -> Result<Vec<Source>, Errno> {
        let mut sources = Vec::new();
        for change in changes {
            let is_code = matches!(change.rule, Rule::Slot(_));
            let (text, bytes) = if is_code { (program.source(), bytes) } else { ("", &[][..]) };
            let (text, program) = (try_string(text)?, Vec::try_filled_from(bytes)?);
            sources.try_push(Source { text, program })?;
        }
        Ok(sources)
    }

    /// Whether one of them is code.
    pub(crate) fn have_code(&self) -> bool {
        self.0.iter().any(|policy| matches!(policy.rule, Rule::Slot(_)))
    }

    /// Makes the code anew that sends calls where they are not to go any more: the update lies over another now, or
    /// did when the policy was set. No call goes to the code, and nobody is in it.
    pub(crate) fn lead_to(
        &mut self,
        target: &Target<'_>,
        under: impl Fn(u32) -> Option<u64>,
    ) -> Result<(), Refused> {
        let mut code = Vec::try_filled(0u8, place::SLOT as usize)?;
        for (index, policy) in (0u32..).zip(&mut self.0) {
            let Rule::Slot(at) = policy.rule else { continue };
            let leave = target.leave(index, under(index))?;
            if policy.leave != leave {
                let program = Program::parse(&policy.program, target.facts.hz)
                    .map_err(|error| Refused::policy(format_args!("{error}")))?;
                target.write(index, &program, at, leave, &mut code)?;
                policy.leave = leave;
            }
        }
        Ok(())
    }

    /// Takes note of what is in force.
    pub(crate) fn adopt(&mut self, changes: &[Change], sources: Vec<Source>) {
        for (change, source) in changes.iter().zip(sources) {
            if let Some(policy) = self.0.get_mut(change.function as usize) {
                let (rule, leave) = (change.rule, change.leave);
                *policy = Policy { rule, source: source.text, program: source.program, leave };
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

impl Target<'_> {
    /// Where the calls of a function go that do not take the edition.
    fn leave(&self, function: u32, under: Option<u64>) -> Result<u64, Errno> {
        let own = || {
            let function = self.record.functions().get(function).ok_or(Errno::EINVAL)?;
            Ok(self.address(function.policy)? + place::LEAVE)
        };
        Ok(under.map_or_else(own, Ok)? + place::PAST_ENDBR)
    }

    fn address(&self, index: u32) -> Result<u64, Errno> {
        self.addresses.get(index as usize).copied().ok_or(Errno::EINVAL)
    }

    /// Writes the code of a policy of a function to the slot at `at`, by way of `code`.
    fn write(
        &self,
        function: u32,
        program: &Program,
        at: u64,
        leave: u64,
        code: &mut [u8],
    ) -> Result<(), Refused> {
        let function = self.record.functions().get(function).ok_or(Errno::EINVAL)?;
        let take = self.address(function.steady)? + place::PAST_ENDBR;
        let place = Place { at, take, leave, resched: self.facts.resched };
        native::generate(program, &self.facts.layout, &place, code)
            .map_err(|error| Refused::policy(format_args!("{error}")))?;
        // SAFETY: the slot is the update's, for code of this kind; no call goes there, and nobody is left in it since
        // the last change. What it leads to stays while calls go there: the update itself, or what it lies over.
        unsafe { kernel_memory::write(self.module, at, code) }?;
        Ok(())
    }
}

/// The functions that `request` is for, with what `program` means for each. `in_use` says where the calls of a
/// function go; the code is written to the slot where they do not. `under` is what a function's calls go to if not to
/// edition 0.
pub(crate) fn prepare(
    target: &Target<'_>,
    request: &Request<'_>,
    program: &Program,
    in_use: impl Fn(u32) -> [u64; 2],
    under: impl Fn(u32) -> Option<u64>,
) -> Result<Vec<Change>, Refused> {
    let record = target.record;
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
        let base = target.address(function.policy)?;
        change.leave = target.leave(change.function, under(change.function))?;
        let used = in_use(change.function);
        let mut slots = (0..place::COUNT).map(|slot| base + place::SLOTS + slot * place::SLOT);
        let at = slots.find(|slot| !used.contains(slot)).ok_or(Errno::EBUSY)?;
        change.rule = match program.start() {
            Start::Answer(true) => Rule::Always,
            Start::Answer(false) => Rule::Never,
            Start::Step(_) => {
                target.write(change.function, program, at, change.leave, &mut code)?;
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
            changes.try_push(Change { function, rule: Rule::Always, leave: 0 })?;
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
