//! The updates that are registered: loading, reverting, enabling again and letting go.
//!
//! An operation takes the update's [`Work`] out of the registry and puts it back at its end: whoever comes
//! meanwhile is refused, and nothing is locked while it waits for tasks. What is shown of the update stands
//! apart from that.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::time::Duration;

use dynamos_abi::{HookKind, Record};
use dynamos_core::{
    Blockers, Manager, OnTimeout, Options, Over, Phase, Range, Refusal, Scope, State, Update,
    UpdateId,
};

use crate::checks::{check_addresses, sections};
use crate::directory::UpdateDirectory;
use crate::ffi::errno::Errno;
use crate::ffi::memory::{TryVec, try_box};
use crate::ffi::modules::Module;
use crate::ffi::sysfs::{Dir, Directory};
use crate::ffi::text::printable;
use crate::ffi::update::{ActiveFlag, Descriptor, Handle};
use crate::ffi::{kernel, log, wait};
use crate::layer::KernelLayer;
use crate::module::{Root, STATE, refuse};
use crate::names;
use crate::policies::Policies;
use crate::refused::Refused;
use crate::work::{CALLS_DIFFER, CALLS_SHARE_HANDLERS, PHASES_DECIDE, Work};

/// All updates.
pub(crate) struct Registry {
    pub(crate) manager: Manager,
    entries: Vec<Entry>,
}

/// One update.
pub(crate) struct Entry {
    id: UpdateId,
    handle: Handle,
    /// In the update's module, like all that is borrowed for `'static` here: nothing of it is used after
    /// [`unregister`].
    pub(crate) record: Record<'static>,
    pub(crate) active: ActiveFlag,
    /// Where the record's functions are, once that is known.
    pub(crate) functions: Vec<u64>,
    /// The update's own sections.
    ranges: Vec<Range>,
    pub(crate) state: State,
    /// What is, or was, waited for.
    pub(crate) scope: Scope,
    /// The weakest scope that the plan calls safe.
    pub(crate) proposed: Scope,
    /// The module that it waits, or waited, for; empty if none.
    pub(crate) waits_for: &'static str,
    /// That is there, and does not fit.
    pub(crate) unfit: bool,
    /// Who holds up the switch that is going on, or is held.
    pub(crate) blockers: Blockers,
    /// It waits for tasks to leave, or for a hook to return, and no command waits with it.
    pub(crate) held: bool,
    /// The hook that has not returned yet.
    pub(crate) hook: Option<HookKind>,
    /// Where it is, if it has phases.
    pub(crate) phase: Phase,
    /// Not there while an operation has it.
    work: Option<Box<Work>>,
    /// That is [`look`].
    looked_at: bool,
    directory: Option<Dir<UpdateDirectory>>,
    /// The policies, as its file shows them.
    pub(crate) policy: Vec<u8>,
}

impl Registry {
    pub(crate) const fn new() -> Self {
        Self { manager: Manager::new(), entries: Vec::new() }
    }

    /// The update `id`.
    pub(crate) fn entry(&self, id: UpdateId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    pub(crate) fn entry_mut(&mut self, id: UpdateId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// Takes those that leave at the switch of `id`, or that it hangs together with: all of them or none.
    pub(crate) fn take_with(
        &mut self,
        id: UpdateId,
        over: Over,
    ) -> Result<Vec<(UpdateId, Box<Work>)>, Refused> {
        let group = if over == Over::Stack { self.manager.group(id)? } else { Vec::new() };
        let takes = if over == Over::Stack { &group } else { self.manager.takes(id) };
        let mut taken = Vec::new();
        taken.try_reserve_exact(takes.len()).map_err(|_| Errno::ENOMEM)?;
        let mut all = self.entries.iter().filter(|entry| takes.contains(&entry.id));
        if all.any(|entry| entry.work.is_none()) {
            return Err(Refused::InProgress);
        }
        for entry in self.entries.iter_mut().filter(|entry| takes.contains(&entry.id)) {
            if let Some(work) = entry.work.take() {
                taken.try_push((entry.id, work))?; // There is room.
            }
        }
        Ok(taken)
    }

    /// The sections of all updates.
    pub(crate) fn sections(&self) -> Result<Vec<Range>, Errno> {
        let mut all = Vec::new();
        for entry in &self.entries {
            all.try_extend(&entry.ranges)?;
        }
        Ok(all)
    }
}

/// Takes in the update of `module`, and makes its editions run.
pub(crate) fn load(descriptor: &Descriptor<'static>, module: Module) -> Result<(), Refused> {
    let record = check(descriptor, &module)?;
    let ranges = sections(&module.ranges())?;
    let active = descriptor.active()?;
    let name = names::c_string(record.name())?;
    let options = Options::parse(descriptor.options()).map_err(Refused::Options)?;
    if !record.slots().is_empty() && !descriptor.takes_by_default() {
        return Err(Refused::policy(format_args!("{CALLS_SHARE_HANDLERS}")));
    }
    if record.is_reshaped() && !descriptor.takes_by_default() {
        return Err(Refused::policy(format_args!("{CALLS_DIFFER}")));
    }
    if record.has_phases() && !descriptor.takes_by_default() {
        return Err(Refused::policy(format_args!("{PHASES_DECIDE}")));
    }
    let id = {
        let registry = &mut STATE.lock().registry;
        registry.entries.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let id = registry.manager.admit(&record, printable(kernel::release()))?;
        let proposed = descriptor.proposed_scope();
        registry.entries.try_push(Entry {
            id,
            handle: descriptor.handle(),
            record,
            active,
            functions: Vec::new(),
            ranges,
            state: State::Loading,
            scope: options.scope.unwrap_or(proposed),
            proposed,
            waits_for: "",
            unfit: false,
            blockers: Blockers::default(),
            held: false,
            hook: None,
            phase: Phase::default(),
            work: None,
            looked_at: false,
            directory: None,
            policy: Vec::new(),
        })?;
        id
    };
    let result = begin(id, record, descriptor, module, names::as_c_str(&name)?, options);
    if result.is_err() {
        // Not with the lock held: a reader of the directory may be waiting for it.
        let directory = take_directory(id);
        drop(directory);
        forget(id);
    }
    result
}

/// Checks all that an update says of itself.
fn check(descriptor: &Descriptor<'static>, module: &Module) -> Result<Record<'static>, Refused> {
    let record = Record::parse(descriptor.record()).map_err(Refused::Record)?;
    let name = record.name();
    if name != printable(module.name()) {
        return Err(Refused::Descriptor("the record is that of another module"));
    }
    if Root::ATTRIBUTES.iter().any(|attribute| printable(attribute.name) == name) {
        return Err(Refusal::BadName { name }.into());
    }
    if !check_addresses(&record, descriptor.addresses(), &module.ranges(), descriptor.active()?) {
        return Err(Refused::Descriptor("its addresses or handlers do not fit the record"));
    }
    Ok(record)
}

/// The first activation. On failure nothing is left of it, unless the kernel does not let go of a redirection:
/// then the update is kept, and says so.
fn begin(
    id: UpdateId,
    record: Record<'static>,
    descriptor: &Descriptor<'static>,
    module: Module,
    name: &CStr,
    options: Options,
) -> Result<(), Refused> {
    let layer = KernelLayer::new(id, record, descriptor, module)?;
    let proposed = descriptor.proposed_scope();
    let mut work = try_box(Work::new(Update::new(&record)?, layer, proposed, options))?;
    let mut policy = Policies::room()?;
    work.layer.write_policies(&mut policy);
    let parent = STATE.lock().root.as_ref().map(Dir::as_parent).ok_or(Errno::ENODEV)?;
    let directory = Dir::inside(parent, name, UpdateDirectory::new(id))?;
    if let Some(entry) = STATE.lock().registry.entry_mut(id) {
        entry.directory = Some(directory);
        entry.policy = policy;
    }
    let result = work.start(id, &options);
    if result.is_err() && !work.is_left() {
        if !work.layer.stays() {
            give_back_others(&mut work);
            return result;
        }
        work.be_reverted(id);
    }
    give_back(id, work);
    if let Err(refused) = result {
        refuse(name, format_args!("{refused}"));
    }
    Ok(())
}

/// Makes the update's editions run, or edition 0, as the options in `input` say. Whoever comes while another does this
/// is refused.
pub(crate) fn set_enabled(id: UpdateId, enabled: bool, input: &[u8]) -> Result<(), Errno> {
    operate(id, |work| {
        let options = &Options::parse(input).map_err(Refused::Options)?;
        match (work.update.state(), enabled) {
            (State::Active | State::Waiting, true) | (State::Reverted | State::Gone, false) => {
                Ok(())
            }
            (State::Reverted | State::Gone, true) => work.again(id, options),
            (State::Transitioning, true) => work.go_on(id, options),
            (State::Draining | State::Reverting, true) => work.resume(id, options),
            (_, true) => {
                let (update, state) = (work.update.name(), work.update.state());
                Err(Refusal::WrongState { update, state, wanted: State::Active }.into())
            }
            (_, false) => work.revert(id, options),
        }
    })
}

/// Decides which calls take the editions, by what was written. Whoever comes while another does this is refused.
pub(crate) fn set_policy(id: UpdateId, input: &[u8]) -> Result<(), Errno> {
    operate(id, |work| work.set_policy(id, input))
}

/// Does an operation, and tells why it is refused.
fn operate(id: UpdateId, act: impl FnOnce(&mut Work) -> Result<(), Refused>) -> Result<(), Errno> {
    let (record, work) = loop {
        let mut state = STATE.lock_killable()?;
        let entry = state.registry.entry_mut(id).ok_or(Errno::ENOENT)?;
        // A look is over soon.
        if entry.work.is_some() || !entry.looked_at {
            let work = entry.work.take();
            // From here on a command waits with it.
            entry.held &= work.is_none();
            break (entry.record, work);
        }
        drop(state);
        wait::sleep(A_MOMENT)?;
    };
    let result = match work {
        None => Err(Refused::InProgress),
        Some(mut work) => {
            let result = act(&mut work);
            give_back(id, work);
            result
        }
    };
    result.map_err(|refused| {
        if let Ok(name) = names::c_string(record.name()) {
            refuse(names::as_c_str(&name).unwrap_or_default(), format_args!("{refused}"));
        }
        refused.errno()
    })
}

/// How often whoever is held is looked at: as often as a command that waits long does.
pub(crate) const LOOKS: Duration = Duration::from_millis(500);
/// When what failed for a reason that passes is tried again.
const LATER: Duration = Duration::from_secs(10);
/// How many looks at what does not go pass between two lines in the log: a minute.
const LOOKS_BETWEEN_LINES: u32 = 120;
/// How long to wait for a look to end.
const A_MOMENT: Duration = Duration::from_millis(5);

/// Goes on with each update that is held, if it can. Called by one work item.
pub(crate) fn look() {
    let mut after = None;
    while let Some((id, mut work)) = take_held(after) {
        let waits = work.update.state() == State::Waiting;
        if let Err(refused) = if waits { work.begin_late(id) } else { work.look(id) } {
            log::error(format_args!("{}: {refused}", work.update.name()));
            let passing = refused.is_passing();
            if let Some(entry) = STATE.lock().registry.entry_mut(id) {
                entry.unfit = waits && !passing;
            }
            if passing {
                wait::look_later(LATER);
            }
        }
        // After this nothing of the update is used here: its module may go.
        give_back(id, work);
        after = Some(id);
    }
}

/// The next update that is held and that no operation has.
fn take_held(after: Option<UpdateId>) -> Option<(UpdateId, Box<Work>)> {
    let entries = &mut STATE.lock().registry.entries;
    let held = entries.iter_mut().filter(|entry| {
        (entry.held || entry.state == State::Waiting && !entry.unfit)
            && entry.work.is_some()
            && after.is_none_or(|after| after < entry.id)
    });
    let entry = held.min_by_key(|entry| entry.id)?;
    entry.looked_at = true;
    entry.work.take().map(|work| (entry.id, work))
}

/// Calls `act` with each update that `wanted` chooses, when no operation has it; the caller may be a module that comes
/// or goes.
pub(crate) fn each(
    wanted: impl Fn(&Entry) -> bool,
    mut act: impl FnMut(&mut Work, UpdateId) -> Result<(), Refused>,
) {
    let mut after = None;
    loop {
        let (id, record, work) = {
            let entries = &mut STATE.lock().registry.entries;
            let chosen = entries
                .iter_mut()
                .filter(|entry| after.is_none_or(|after| after < entry.id) && wanted(entry));
            let Some(entry) = chosen.min_by_key(|entry| entry.id) else { return };
            (entry.id, entry.record, entry.work.take())
        };
        let Some(mut work) = work else {
            // Operations end, and none of them waits for modules.
            wait::pause(A_MOMENT);
            continue;
        };
        let result = act(&mut work, id);
        let unfit = result.as_ref().is_err_and(|refused| !refused.is_passing());
        if let (Err(refused), Ok(name)) = (result, names::c_string(record.name())) {
            refuse(names::as_c_str(&name).unwrap_or_default(), format_args!("{refused}"));
        }
        if let Some(entry) = STATE.lock().registry.entry_mut(id) {
            entry.unfit = unfit;
        }
        give_back(id, work);
        after = Some(id);
    }
}

/// Lets an update go, whose module is being unloaded.
pub(crate) fn unregister(handle: Handle) {
    let id = {
        let registry = &STATE.lock().registry;
        registry.entries.iter().find(|entry| entry.handle == handle).map(|entry| entry.id)
    };
    let Some(id) = id else { return };
    // Waits for whoever is switching the update by a file of it. Nobody comes after by that way, but a look may be going
    // on, or another module may come or go.
    let directory = take_directory(id);
    drop(directory);
    while let Some(mut work) = take_when_given_back(id) {
        if !see_off(id, &mut work) {
            // Those above need what operations on it work with, to give it back its redirections.
            give_back(id, work);
            wait::pause(LOOKS);
            continue;
        }
        give_back_others(&mut work);
        if work.update.state() != State::Gone {
            let _ = work.update.discard(&mut work.layer); // Nothing is left that could fail.
        }
        log::info(format_args!("{}: gone", work.update.name()));
        break;
    }
    forget(id);
}

/// Reverts an update whose module is being unloaded by force: the reference that an active update has of its module is
/// not asked for then.
///
/// Its code goes when this returns. So it does not before nothing leads there, be it never: nobody but the one who
/// unloads waits for it, and calls take edition 0 from the end of the first wait on. `false`: another update lies over it.
fn see_off(id: UpdateId, work: &mut Work) -> bool {
    // Handlers cannot be taken back from some calls only, nor calls between functions of one edition.
    let record = work.update.record();
    let all = !record.slots().is_empty() || record.is_reshaped();
    let on_timeout = match (all, work.update.has_phases()) {
        (true, _) => OnTimeout::RollBack,
        (_, true) => OnTimeout::Hold, // One phase after the other, as far as it gets.
        _ => OnTimeout::ForceNewCalls,
    };
    let mut options = Options { on_timeout, ..Options::default() };
    let mut tries = 0_u32;
    let first = work.must_go();
    while !matches!(
        work.update.state(),
        State::Loading | State::Waiting | State::Registered | State::Reverted | State::Gone
    ) {
        if first && tries == 0 {
            log::error(format_args!("{}: is being unloaded by force", work.update.name()));
        }
        let result = match work.update.state() {
            // Who is waited for was told when it began to drain.
            State::Draining => work.look(id),
            _ => work.revert(id, &options),
        };
        if let Err(refused) = result {
            use Refusal::{Covered, LetsThrough};
            let covered = matches!(refused, Refused::Decision(Covered { .. } | LetsThrough { .. }));
            if tries.is_multiple_of(LOOKS_BETWEEN_LINES) && (first || !covered) {
                log::error(format_args!("{}: cannot go yet: {refused}", work.update.name()));
            }
            if covered {
                return false;
            }
        }
        if work.update.state() == State::Draining && !work.layer.replacing.lies_over() {
            give_back_others(work);
        }
        // Looks from now on: who is being killed would not be let wait there, and spin here.
        options.wait_ms = Some(0);
        if tries > 0 {
            wait::pause(LOOKS);
        }
        tries = tries.saturating_add(1);
    }
    true
}

/// What operations work with, when nobody has it: whoever does uses what goes with the update's module.
fn take_when_given_back(id: UpdateId) -> Option<Box<Work>> {
    loop {
        {
            let mut state = STATE.lock();
            let entry = state.registry.entry_mut(id)?;
            if entry.work.is_some() {
                return entry.work.take();
            }
        }
        wait::pause(A_MOMENT);
    }
}

fn take_directory(id: UpdateId) -> Option<Dir<UpdateDirectory>> {
    STATE.lock().registry.entry_mut(id).and_then(|entry| entry.directory.take())
}

/// Lets go of the updates whose place was, or was not, taken.
fn give_back_others(work: &mut Work) {
    for (id, other) in core::mem::take(&mut work.layer.replacing.others) {
        give_back(id, other);
    }
}

/// Ends an operation.
pub(crate) fn give_back(id: UpdateId, mut work: Box<Work>) {
    // While it is between two states, those it takes the place of are its own; so are those it lies over until they
    // have their redirections back.
    let replacing = &mut work.layer.replacing;
    match work.update.state() {
        State::Transitioning | State::Reverting => {}
        State::Draining if replacing.lies_over() => {}
        State::Active | State::Draining => give_back_others(&mut work),
        _ => {
            replacing.lie_alone();
            give_back_others(&mut work);
        }
    }
    if let Some(entry) = STATE.lock().registry.entry_mut(id) {
        entry.scope = work.update.scope();
        entry.held = work.update.is_held();
        entry.blockers = Blockers::default();
        if work.update.state() == State::Waiting && !entry.looked_at {
            // The module may have come before this was to be seen.
            wait::look_later(LOOKS);
        }
        entry.looked_at = false;
        if entry.held {
            entry.blockers = *work.update.blockers();
            wait::look_later(LOOKS);
        }
        entry.work = Some(work);
    }
}

/// Removes every trace of an update.
fn forget(id: UpdateId) {
    let entry = {
        let registry = &mut STATE.lock().registry;
        let at = registry.entries.iter().position(|entry| entry.id == id);
        let entry = at.map(|at| registry.entries.swap_remove(at));
        if let Some(entry) = &entry
            && let Err(refusal) = registry.manager.forget(id, &entry.record)
        {
            log::error(format_args!("{}: {refusal}", entry.record.name()));
            registry.manager.lose(id); // Its code goes all the same.
        }
        entry
    };
    drop(entry);
}

/// Notes the phase of an update, for whoever reads its files.
pub(crate) fn show_phase(id: UpdateId, phase: Phase) {
    if let Some(entry) = STATE.lock().registry.entry_mut(id) {
        entry.phase = phase;
    }
}

/// Notes which hook of an update is running, for whoever reads its files.
pub(crate) fn show_hook(id: UpdateId, hook: Option<HookKind>) {
    if let Some(entry) = STATE.lock().registry.entry_mut(id) {
        entry.hook = hook;
    }
}

/// Notes where an update is, for whoever reads its files.
pub(crate) fn show_progress(id: UpdateId, state: State, blockers: &Blockers) {
    if let Some(entry) = STATE.lock().registry.entry_mut(id) {
        // It has gone on.
        entry.held &= entry.state == state;
        entry.state = state;
        entry.blockers = *blockers;
    }
}
