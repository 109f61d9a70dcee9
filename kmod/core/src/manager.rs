//! The version manager: which updates there are, what they replace, and which of them may do what.

use alloc::vec::Vec;

use dynamos_abi::{Record, function_flags};

use crate::refusal::{Name, Refusal};
use crate::resolve::{Resolved, function_name};
use crate::update::State;

/// Names an update for as long as the manager lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpdateId(u64);

/// All updates. The caller serialises its calls; none of them blocks or touches the kernel.
#[derive(Debug, Default)]
pub struct Manager {
    updates: Vec<Entry>,
    next: u64,
}

/// One update.
#[derive(Debug)]
struct Entry {
    id: UpdateId,
    name: Name,
    state: State,
    /// Whether its editions ever ran.
    has_run: bool,
    /// Addresses of the functions it replaces, sorted.
    replaces: Vec<u64>,
}

impl Manager {
    /// No updates.
    pub const fn new() -> Self {
        Manager { updates: Vec::new(), next: 0 }
    }

    /// Admits an update, which is then `Loading` and has its name to itself.
    pub fn admit<'a>(
        &mut self,
        record: &Record<'a>,
        release: &str,
    ) -> Result<UpdateId, Refusal<'a>> {
        if record.release() != release {
            return Err(Refusal::Release { wanted: record.release() });
        }
        let name = Name::new(record.name()).ok_or(Refusal::BadName { name: record.name() })?;
        if self.updates.iter().any(|entry| entry.name == name) {
            return Err(Refusal::Duplicate { update: name });
        }
        let mut replaces = Vec::new();
        let count = record.functions().len() as usize;
        replaces.try_reserve_exact(count).map_err(|_| Refusal::OutOfMemory)?;
        self.updates.try_reserve(1).map_err(|_| Refusal::OutOfMemory)?;
        let id = UpdateId(self.next);
        self.next = self.next.wrapping_add(1);
        self.updates.push(Entry { id, name, state: State::Loading, has_run: false, replaces });
        Ok(id)
    }

    /// Registers what an admitted update replaces. Nothing that another replaces may be among it.
    pub fn register<'a>(
        &mut self,
        id: UpdateId,
        record: &Record<'a>,
        resolved: &Resolved,
    ) -> Result<(), Refusal<'a>> {
        let replaced = || {
            (0u32..)
                .zip(record.functions().iter().zip(&resolved.functions))
                .filter(|(_, (function, _))| function.flags & function_flags::REPLACE != 0)
        };
        for (index, (_, address)) in replaced() {
            let taken = self.updates.iter().find(|entry| {
                entry.id != id
                    && entry.state != State::Reverted
                    && entry.replaces.binary_search(address).is_ok()
            });
            if let Some(entry) = taken {
                let function = function_name(record, index);
                return Err(Refusal::AlreadyReplaced { function, by: entry.name });
            }
        }
        let entry = self.entry(id)?;
        allowed(entry, State::Registered)?;
        entry.replaces.clear();
        for (_, (_, address)) in replaced() {
            entry.replaces.try_reserve(1).map_err(|_| Refusal::OutOfMemory)?;
            entry.replaces.push(*address);
        }
        entry.replaces.sort_unstable();
        entry.state = State::Registered;
        Ok(())
    }

    /// Moves an update on: refused if it is not where that starts, so of two who try, one is.
    pub fn advance(&mut self, id: UpdateId, to: State) -> Result<(), Refusal<'static>> {
        let entry = self.entry(id)?;
        allowed(entry, to)?;
        entry.state = to;
        entry.has_run |= to == State::Active;
        Ok(())
    }

    /// Whether an update's module may be unloaded: it is not active, and nothing keeps its code.
    pub fn may_unload<'a>(&self, id: UpdateId, record: &Record<'a>) -> Result<(), Refusal<'a>> {
        let entry =
            self.updates.iter().find(|entry| entry.id == id).ok_or(Refusal::NoSuchUpdate)?;
        allowed(entry, State::Gone)?;
        if entry.has_run && !record.pinned().is_empty() {
            return Err(Refusal::Pinned { update: entry.name, reason: record.pinned() });
        }
        Ok(())
    }

    /// Forgets an update; its module may go.
    pub fn forget<'a>(&mut self, id: UpdateId, record: &Record<'a>) -> Result<(), Refusal<'a>> {
        self.may_unload(id, record)?;
        self.updates.retain(|entry| entry.id != id);
        Ok(())
    }

    /// The update of this name.
    pub fn find(&self, name: &str) -> Option<UpdateId> {
        self.updates.iter().find(|entry| entry.name.as_str() == name).map(|entry| entry.id)
    }

    /// State of an update.
    pub fn state(&self, id: UpdateId) -> Option<State> {
        self.updates.iter().find(|entry| entry.id == id).map(|entry| entry.state)
    }

    /// All updates, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (UpdateId, Name, State)> + '_ {
        self.updates.iter().map(|entry| (entry.id, entry.name, entry.state))
    }

    fn entry(&mut self, id: UpdateId) -> Result<&mut Entry, Refusal<'static>> {
        self.updates.iter_mut().find(|entry| entry.id == id).ok_or(Refusal::NoSuchUpdate)
    }
}

/// Whether `entry` may become `to`.
fn allowed(entry: &Entry, to: State) -> Result<(), Refusal<'static>> {
    if entry.state.may_become(to) {
        return Ok(());
    }
    Err(Refusal::WrongState { update: entry.name, state: entry.state, wanted: to })
}
