//! The updates that are registered: loading, reverting, enabling again and letting go.
//!
//! An operation takes the update's [`Work`] out of the registry and puts it back at its end: whoever comes
//! meanwhile is refused, and nothing is locked while it waits for tasks. What is shown of the update stands
//! apart from that.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::time::Duration;

use dynamos_abi::{Record, function_flags};
use dynamos_core::policy::{Program, Request};
use dynamos_core::{Blockers, Budget, Limits, Manager, Range, Refusal, State, Update, UpdateId};

use crate::directory::UpdateDirectory;
use crate::ffi::errno::Errno;
use crate::ffi::memory::{TryVec, try_box};
use crate::ffi::modules::Module;
use crate::ffi::stacks::ALWAYS_ACTIVE;
use crate::ffi::sysfs::{Dir, Directory};
use crate::ffi::text::printable;
use crate::ffi::update::{ActiveFlag, Descriptor, Handle};
use crate::ffi::{kernel, log, policy, wait};
use crate::layer::{KernelLayer, check_addresses, sections};
use crate::module::{Root, STATE, refuse};
use crate::names;
use crate::refused::Refused;

/// All updates.
pub(crate) struct Registry {
    manager: Manager,
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
    /// The update's own sections.
    ranges: Vec<Range>,
    pub(crate) state: State,
    /// Who holds up the switch that is going on.
    pub(crate) blockers: Blockers,
    /// Not there while an operation has it.
    work: Option<Box<Work>>,
    directory: Option<Dir<UpdateDirectory>>,
    /// The policies, as its file shows them.
    pub(crate) policy: Vec<u8>,
}

/// What an operation works with.
struct Work {
    update: Update<'static>,
    layer: KernelLayer,
}

impl Registry {
    pub(crate) const fn new() -> Self {
        Self { manager: Manager::new(), entries: Vec::new() }
    }

    /// The update `id`.
    pub(crate) fn entry(&self, id: UpdateId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    fn entry_mut(&mut self, id: UpdateId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// The sections of all updates.
    fn sections(&self) -> Result<Vec<Range>, Errno> {
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
    let id = {
        let registry = &mut STATE.lock().registry;
        registry.entries.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let id = registry.manager.admit(&record, printable(kernel::release()))?;
        let (handle, state, blockers) = (descriptor.handle(), State::Loading, Blockers::default());
        let (work, directory, policy) = (None, None, Vec::new());
        let entry =
            Entry { id, handle, record, active, ranges, state, blockers, work, directory, policy };
        registry.entries.try_push(entry)?;
        id
    };
    let result = begin(id, record, descriptor, module, names::as_c_str(&name)?);
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
) -> Result<(), Refused> {
    let layer = KernelLayer::new(id, record, descriptor, module)?;
    let mut work = try_box(Work { update: Update::new(&record)?, layer })?;
    let policy = work.layer.policy_text()?;
    let parent = STATE.lock().root.as_ref().map(Dir::as_parent).ok_or(Errno::ENODEV)?;
    let directory = Dir::inside(parent, name, UpdateDirectory::new(id))?;
    if let Some(entry) = STATE.lock().registry.entry_mut(id) {
        entry.directory = Some(directory);
        entry.policy = policy;
    }
    let result = work.start(id);
    if result.is_err() && work.update.state() != State::Reverting {
        return result;
    }
    give_back(id, work);
    if let Err(refused) = result {
        refuse(name, format_args!("{refused}"));
    }
    Ok(())
}

impl Work {
    /// Matches and activates. On failure nothing of it is left in the kernel, unless the update is `Reverting`.
    fn start(&mut self, id: UpdateId) -> Result<(), Refused> {
        let result = self.try_start(id);
        if result.is_err() && matches!(self.update.state(), State::Loading | State::Registered) {
            // Only what it pinned is left: letting that go does not fail.
            let _ = self.update.discard(&mut self.layer);
        }
        result
    }

    fn try_start(&mut self, id: UpdateId) -> Result<(), Refused> {
        let record = *self.update.record();
        refuse_always_active(&record)?;
        self.update.pin(&mut self.layer)?;
        let updates = STATE.lock().registry.sections()?;
        let candidates = names::collect(&record, &updates)?;
        self.update.prepare(&mut self.layer, &candidates, &mut { Budget::LOAD })?;
        drop(candidates);
        let resolved = self.update.resolved().ok_or(Errno::EIO)?;
        self.layer.adopt(resolved)?;
        {
            let manager = &mut STATE.lock().registry.manager;
            manager.register(id, &record, resolved)?;
            manager.advance(id, State::Transitioning)?;
        }
        let (addresses, writable) = (self.layer.addresses(), self.layer.writable()?);
        let result = self.update.activate(&mut self.layer, addresses, &writable, limits());
        self.follow(id);
        result?;
        let switch = self.layer.last_switch();
        log::info(format_args!(
            "{}: active; {} stacks checked, all CPUs stopped for {} us",
            self.update.name(),
            switch.tasks,
            switch.pause.as_micros()
        ));
        Ok(())
    }

    /// Goes back to edition 0 and lets go of everything.
    fn revert(&mut self, id: UpdateId) -> Result<(), Refused> {
        if self.update.state() == State::Active {
            STATE.lock().registry.manager.advance(id, State::Reverting)?;
        }
        let result = self.update.revert(&mut self.layer, limits());
        self.follow(id);
        result?;
        self.layer.release();
        let switch = self.layer.last_switch();
        log::info(format_args!(
            "{}: reverted; {} stacks checked, all CPUs stopped for {} us",
            self.update.name(),
            switch.tasks,
            switch.pause.as_micros()
        ));
        Ok(())
    }

    /// Activates once more, after a revert.
    fn again(&mut self, id: UpdateId) -> Result<(), Refused> {
        let record = *self.update.record();
        let update = Update::new(&record)?;
        STATE.lock().registry.manager.restart(id, &record)?;
        self.update = update;
        let ready = self.layer.hold().and_then(|()| self.layer.forget_references());
        let result = ready.map_err(Refused::Kernel).and_then(|()| self.start(id));
        if result.is_err() && self.update.state() != State::Reverting {
            self.layer.release();
            let registry = &mut STATE.lock().registry;
            let _ = registry.manager.give_up(id); // It can be: it was not switched.
            if let Some(entry) = registry.entry_mut(id) {
                entry.state = State::Reverted;
            }
        }
        result
    }

    /// Sets the policies that `input` asks for.
    fn set_policy(&mut self, id: UpdateId, input: &[u8]) -> Result<(), Refused> {
        let state = self.update.state();
        let live = match state {
            State::Active => true,
            State::Reverted => false,
            _ => {
                let (update, wanted) = (self.update.name(), State::Active);
                return Err(Refusal::WrongState { update, state, wanted }.into());
            }
        };
        let request =
            Request::parse(input).map_err(|error| Refused::policy(format_args!("{error}")))?;
        let program = Program::parse(request.program, policy::facts()?.hz)
            .map_err(|error| Refused::policy(format_args!("{error}")))?;
        self.layer.set_policy(&request, &program, live)?;
        let (name, function) = (self.update.name(), request.function.unwrap_or("all functions"));
        log::info(format_args!("{name}: policy of {function}: {}", program.source()));
        let text = self.layer.policy_text()?;
        if let Some(entry) = STATE.lock().registry.entry_mut(id) {
            entry.policy = text;
        }
        Ok(())
    }

    /// Brings the version manager to the state that the update has reached.
    fn follow(&self, id: UpdateId) {
        let state = self.update.state();
        let manager = &mut STATE.lock().registry.manager;
        if manager.state(id) == Some(state) {
            return;
        }
        if let Err(refusal) = manager.advance(id, state) {
            log::error(format_args!("{}: {refusal}", self.update.name()));
        }
    }
}

/// Functions that are always on some stack which the check of all stacks does not see.
fn refuse_always_active(record: &Record<'static>) -> Result<(), Refused> {
    for function in record.functions().iter() {
        let Some(symbol) = record.symbols().get(function.symbol) else { continue };
        let name = record.str(symbol.name);
        if function.flags & function_flags::REPLACE != 0
            && ALWAYS_ACTIVE.iter().any(|always| printable(always) == name)
        {
            return Err(Refused::AlwaysRuns(name));
        }
    }
    Ok(())
}

fn limits() -> Limits {
    Limits { wait_ms: kernel::wait_ms(), ..Limits::default() }
}

/// Makes the update's editions run, or edition 0. Whoever comes while another does this is refused.
pub(crate) fn set_enabled(id: UpdateId, enabled: bool) -> Result<(), Errno> {
    let (record, work) = {
        let mut state = STATE.lock_killable()?;
        let entry = state.registry.entry_mut(id).ok_or(Errno::ENOENT)?;
        (entry.record, entry.work.take())
    };
    let result = match work {
        None => Err(Refused::InProgress),
        Some(mut work) => {
            let result = match (work.update.state(), enabled) {
                (State::Active, true) | (State::Reverted | State::Gone, false) => Ok(()),
                (State::Reverted | State::Gone, true) => work.again(id),
                (_, true) => {
                    let (update, state) = (work.update.name(), work.update.state());
                    Err(Refusal::WrongState { update, state, wanted: State::Active }.into())
                }
                (_, false) => work.revert(id),
            };
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

/// Decides which calls take the editions, by what was written. Whoever comes while another does this is refused.
pub(crate) fn set_policy(id: UpdateId, input: &[u8]) -> Result<(), Errno> {
    let (record, work) = {
        let mut state = STATE.lock_killable()?;
        let entry = state.registry.entry_mut(id).ok_or(Errno::ENOENT)?;
        (entry.record, entry.work.take())
    };
    let result = match work {
        None => Err(Refused::InProgress),
        Some(mut work) => {
            let result = work.set_policy(id, input);
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

/// Lets an update go, whose module is being unloaded.
pub(crate) fn unregister(handle: Handle) {
    let id = {
        let registry = &STATE.lock().registry;
        registry.entries.iter().find(|entry| entry.handle == handle).map(|entry| entry.id)
    };
    let Some(id) = id else { return };
    // Waits for whoever is switching the update by a file of it; nobody comes after.
    let directory = take_directory(id);
    drop(directory);
    let work = STATE.lock().registry.entry_mut(id).and_then(|entry| entry.work.take());
    if let Some(mut work) = work {
        // The reference that an active update has of its module keeps us from getting here; a forced unloading
        // does not ask for references, and the code goes when this returns.
        while matches!(work.update.state(), State::Active | State::Reverting) {
            log::error(format_args!("{}: unloaded by force, reverting", work.update.name()));
            if work.revert(id).is_err() {
                let _ = wait::sleep(Duration::from_millis(500));
            }
        }
        let _ = work.update.discard(&mut work.layer); // Nothing is left that could fail.
        log::info(format_args!("{}: gone", work.update.name()));
    }
    forget(id);
}

fn take_directory(id: UpdateId) -> Option<Dir<UpdateDirectory>> {
    STATE.lock().registry.entry_mut(id).and_then(|entry| entry.directory.take())
}

/// Ends an operation.
fn give_back(id: UpdateId, work: Box<Work>) {
    if let Some(entry) = STATE.lock().registry.entry_mut(id) {
        entry.blockers = Blockers::default();
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
        }
        entry
    };
    drop(entry);
}

/// Notes where an update is, for whoever reads its files.
pub(crate) fn show_progress(id: UpdateId, state: State, blockers: &Blockers) {
    if let Some(entry) = STATE.lock().registry.entry_mut(id) {
        entry.state = state;
        entry.blockers = *blockers;
    }
}
