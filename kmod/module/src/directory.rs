//! `/sys/kernel/dynamos/NAME`: what is shown of an update, and the file that switches it.
//!
//! No kernel address is shown.

use core::fmt::{self, Write};

use dynamos_abi::{HookKind, Record};
use dynamos_core::{Manager, State, UpdateId};

use crate::ffi::errno::Errno;
use crate::ffi::sysfs::{Attribute, Directory};
use crate::ffi::text::{FixedText, SliceWriter};
use crate::ffi::wait;
use crate::module::STATE;
use crate::policies;
use crate::updates::{self, Entry};

/// The directory of one update.
pub(crate) struct UpdateDirectory {
    id: UpdateId,
}

impl UpdateDirectory {
    pub(crate) fn new(id: UpdateId) -> Self {
        Self { id }
    }
}

impl Directory for UpdateDirectory {
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute { name: c"state", mode: 0o444 },
        Attribute { name: c"enabled", mode: 0o600 },
        Attribute { name: c"functions", mode: 0o444 },
        Attribute { name: c"target", mode: 0o444 },
        Attribute { name: c"blockers", mode: 0o400 },
        Attribute { name: c"pinned", mode: 0o444 },
        Attribute { name: c"policy", mode: 0o600 },
        Attribute { name: c"parameters", mode: 0o444 },
        Attribute { name: c"scope", mode: 0o444 },
        Attribute { name: c"hook", mode: 0o444 },
        Attribute { name: c"phase", mode: 0o444 },
        Attribute { name: c"stack", mode: 0o444 },
    ];

    fn show(&self, attribute: usize, out: &mut SliceWriter<'_>) -> Result<(), Errno> {
        let state = STATE.lock_killable()?;
        let entry = state.registry.entry(self.id).ok_or(Errno::ENOENT)?;
        match attribute {
            0 if entry.state == State::Waiting => waiting(entry, out),
            0 => writeln!(out, "{}", word(entry.state, entry.held)),
            1 => writeln!(out, "{}", u8::from(entry.active.get())),
            2 => functions(entry, out),
            3 => target(&entry.record, out),
            4 => blockers(entry, out),
            5 => writeln!(out, "{}", entry.record.stays()),
            6 => out.write_str(core::str::from_utf8(&entry.policy).unwrap_or_default()),
            7 => parameters(&entry.record, out),
            // What it has, and what the plan proposes.
            8 => writeln!(out, "{} {}", entry.scope.as_str(), entry.proposed.as_str()),
            // The hook that runs.
            9 => writeln!(out, "{}", entry.hook.map_or("", HookKind::name)),
            10 => phase(entry, out),
            11 => stack(entry, &state.registry.manager, out),
            _ => return Err(Errno::EINVAL),
        }
        .map_err(|_| Errno::EIO)
    }

    fn store(&self, attribute: usize, input: &[u8]) -> Result<(), Errno> {
        match (attribute, input.split_first()) {
            (6, _) => updates::set_policy(self.id, input),
            // 0 or 1, and after a space options as docs/scopes.md has them.
            (1, Some((b'0', options))) => updates::set_enabled(self.id, false, options),
            (1, Some((b'1', options))) => updates::set_enabled(self.id, true, options),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn waiting(entry: &Entry, out: &mut SliceWriter<'_>) -> fmt::Result {
    let unfit = if entry.unfit { " (the one that is loaded does not fit)" } else { "" };
    writeln!(out, "waiting for module {}{unfit}", entry.waits_for)
}

/// The edition that new calls take, and the hook that says that it may not go on, or for how many milliseconds more it is
/// not to; nothing without phases.
fn phase(entry: &Entry, out: &mut SliceWriter<'_>) -> fmt::Result {
    if !entry.record.has_phases() {
        return writeln!(out);
    }
    write!(out, "{} {}", entry.phase.edition, entry.phase.not_yet.map_or("", HookKind::name))?;
    if let Some(until) = entry.phase.until_ms {
        write!(out, "{}", u128::from(until).saturating_sub(wait::now().as_millis()))?;
    }
    writeln!(out)
}

/// What a reader needs to know of a state.
fn word(state: State, held: bool) -> &'static str {
    match state {
        State::Transitioning if held => "loading (held)",
        State::Reverting if held => "reverting (held)",
        State::Draining if held => "reverted (draining)",
        State::Draining => "reverting (draining)",
        State::Loading | State::Waiting | State::Registered | State::Transitioning => "loading",
        State::Active => "active",
        State::Reverting => "reverting",
        State::Reverted | State::Gone => "reverted",
    }
}

/// The functions that are replaced, with the names of their objects.
fn replaced<'r>(
    record: &'r Record<'static>,
) -> impl Iterator<Item = (&'static str, &'static str)> + 'r {
    record.replaced().filter_map(|(_, function)| policies::names(record, &function))
}

/// `OBJECT FUNCTION (NAME:TYPE …)` a line, without the last where they are not known; whole lines, as above.
fn parameters(record: &Record<'static>, out: &mut SliceWriter<'_>) -> fmt::Result {
    for (_, function) in record.replaced() {
        let (object, name) = policies::names(record, &function).unwrap_or_default();
        let types = record.str(function.parameters);
        let line = FixedText::<1200>::new(format_args!("{object} {name} {types}\n"));
        if line.is_cut() || line.as_bytes().len() > out.room() {
            break;
        }
        out.write_str(core::str::from_utf8(line.as_bytes()).unwrap_or_default())?;
    }
    Ok(())
}

/// `OBJECT FUNCTION EDITION` a line; whole lines, as many as fit in a page.
fn functions(entry: &Entry, out: &mut SliceWriter<'_>) -> fmt::Result {
    let edition = entry.active.edition();
    for (object, function) in replaced(&entry.record) {
        let line = FixedText::<640>::new(format_args!("{object} {function} {edition}\n"));
        if line.is_cut() || line.as_bytes().len() > out.room() {
            break;
        }
        out.write_str(core::str::from_utf8(line.as_bytes()).unwrap_or_default())?;
    }
    Ok(())
}

/// `OBJECT FUNCTION UPDATE …` a line: the updates that have editions of it, the lowest first; whole lines, as above.
fn stack(entry: &Entry, manager: &Manager, out: &mut SliceWriter<'_>) -> fmt::Result {
    for (index, function) in entry.record.replaced() {
        let (object, name) = policies::names(&entry.record, &function).unwrap_or_default();
        let Some(address) = entry.functions.get(index as usize) else { break };
        let line =
            FixedText::<1200>::new(format_args!("{object} {name}{}\n", Names(manager, *address)));
        if line.is_cut() || line.as_bytes().len() > out.room() {
            break;
        }
        out.write_str(core::str::from_utf8(line.as_bytes()).unwrap_or_default())?;
    }
    Ok(())
}

/// The updates that have editions of the function at an address, each after a space.
struct Names<'a>(&'a Manager, u64);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.editions(self.1).try_for_each(|(_, name, _)| write!(f, " {name}"))
    }
}

/// The objects that hold replaced functions, each once.
fn target(record: &Record<'static>, out: &mut SliceWriter<'_>) -> fmt::Result {
    for (at, (object, _)) in replaced(record).enumerate() {
        let before = replaced(record).take(at).any(|(other, _)| other == object);
        if !before {
            write!(out, "{}{object}", if at == 0 { "" } else { "," })?;
        }
    }
    writeln!(out)
}

/// How many tasks hold up the switch, with how many activations, then the first of them a line.
fn blockers(entry: &Entry, out: &mut SliceWriter<'_>) -> fmt::Result {
    if entry.blockers.count() == 0 {
        return Ok(());
    }
    write!(out, "{}", entry.blockers.lines(&entry.record))
}
