//! The version manager: which updates there are, what they replace, and which of them may do what.

mod calls;
#[cfg(test)]
mod calls_tests;
mod stacks;
#[cfg(test)]
mod stacks_tests;

use alloc::vec::Vec;

use dynamos_abi::Record;

use calls::Calls;
pub use stacks::Leaving;

use crate::refusal::{Name, Refusal};
use crate::resolve::{Resolved, function_name};
use crate::sort::sort;
use crate::update::{Over, State};

/// Names an update for as long as the manager lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpdateId(u64);

/// All updates. The caller serialises its calls; none of them blocks or touches the kernel.
#[derive(Debug, Default)]
pub struct Manager {
    updates: Vec<Entry>,
    next: u64,
    /// How many updates were registered, ever.
    registered: u64,
}

/// One update.
#[derive(Debug)]
struct Entry {
    id: UpdateId,
    name: Name,
    state: State,
    /// Whether its code ever ran: an edition, or a hook.
    has_run: bool,
    /// Addresses of the functions it replaces, sorted. None once another has taken its place.
    replaces: Vec<u64>,
    /// Its place among those that replace the same function: the greatest lies on top.
    order: u64,
    /// The updates that leave at its switch.
    takes: Vec<UpdateId>,
    /// Whether it leaves calls to what is below: by a policy, or an adaptation handler.
    leaves: bool,
    /// Whether it comes and goes with a module, which it does not hold.
    follows: bool,
    /// Whose functions it replaces, or refers to.
    objects: Vec<Name>,
    /// Whom it calls, and who may not call it.
    calls: Calls,
}

impl Manager {
    /// No updates.
    pub const fn new() -> Self {
        Manager { updates: Vec::new(), next: 0, registered: 0 }
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
        let mut objects = Vec::new();
        for object in record.objects().iter() {
            let object = record.str(object.name);
            push(&mut objects, Name::new(object).ok_or(Refusal::BadName { name: object })?)?;
        }
        self.updates.try_reserve(1).map_err(|_| Refusal::OutOfMemory)?;
        let id = UpdateId(self.next);
        self.next = self.next.wrapping_add(1);
        self.updates.push(Entry {
            id,
            name,
            state: State::Loading,
            has_run: false,
            replaces,
            order: 0,
            takes: Vec::new(),
            leaves: false,
            follows: false,
            objects,
            calls: Calls::default(),
        });
        Ok(id)
    }

    /// Registers what an admitted update replaces: on top of all others, if `over` allows for others. On a refusal
    /// nothing has changed.
    pub fn register<'a>(
        &mut self,
        id: UpdateId,
        record: &Record<'a>,
        resolved: &Resolved,
        over: Over,
    ) -> Result<(), Refusal<'a>> {
        let replaced = || {
            record
                .replaced()
                .filter_map(|(index, _)| Some((index, resolved.functions.get(index as usize)?)))
        };
        if over == Over::Nothing {
            for (index, address) in replaced() {
                let taken = self.updates.iter().find(|entry| {
                    entry.id != id && entry.holds() && entry.replaces.binary_search(address).is_ok()
                });
                if let Some(entry) = taken {
                    let function = function_name(record, index);
                    return Err(Refusal::AlreadyReplaced { function, by: entry.name });
                }
            }
        }
        let mut replaces = Vec::new();
        for (_, address) in replaced() {
            push(&mut replaces, *address)?;
        }
        sort(&mut replaces);
        let group = self.connected(&replaces, id)?;
        let entry = self.entry(id)?;
        allowed(entry, State::Registered)?;
        // The order in which modules come would decide who lies over whom.
        if entry.follows && !group.is_empty() {
            return Err(Refusal::FollowsModule { update: entry.name });
        }
        self.may_be_joined(&group)?;
        self.holds_for(id, &group)?;
        let calls = Calls::of(record, resolved)?;
        self.check_calls(id, &calls, record, &group, over == Over::Replace)?;
        self.registered = self.registered.wrapping_add(1);
        let order = self.registered;
        let entry = self.entry(id)?;
        entry.takes = if over == Over::Replace { group } else { Vec::new() };
        entry.replaces = replaces;
        entry.calls = calls;
        entry.order = order;
        entry.state = State::Registered;
        Ok(())
    }

    /// Has an update wait for a module that is not loaded, or for another one, once the first is there. Nothing is known
    /// yet of what it replaces.
    pub fn await_target(&mut self, id: UpdateId) -> Result<(), Refusal<'static>> {
        let entry = self.entry(id)?;
        if entry.state != State::Waiting {
            allowed(entry, State::Waiting)?;
        }
        entry.state = State::Waiting;
        entry.follows = true;
        Ok(())
    }

    /// Moves an update on: refused if it is not where that starts, so of two who try, one is.
    ///
    /// The first and the last move have conditions of their own: [`Manager::register`], [`Manager::forget`].
    pub fn advance(&mut self, id: UpdateId, to: State) -> Result<(), Refusal<'static>> {
        let entry = self.entry(id)?;
        if matches!(entry.state, State::Loading | State::Waiting) || to == State::Gone {
            return Err(Refusal::WrongState { update: entry.name, state: entry.state, wanted: to });
        }
        allowed(entry, to)?;
        entry.state = to;
        entry.has_run |= to == State::Active;
        Ok(())
    }

    /// Moves an update on to where one operation has taken it, by way of what lies between: where a hook says no, that
    /// is more than one step. `has_run`: its code has.
    pub fn follow(
        &mut self,
        id: UpdateId,
        to: State,
        has_run: bool,
    ) -> Result<(), Refusal<'static>> {
        let entry = self.entry(id)?;
        entry.has_run |= has_run;
        if entry.state == to {
            return Ok(()); // In phases editions run on the way.
        }
        // What is given up as if it had not been may have run all the same, where a redirection failed after calls had
        // come by it.
        let given_up = to == State::Registered;
        if has_run && entry.state == State::Transitioning && to != State::Active && !given_up {
            self.advance(id, State::Active)?;
        }
        let entry = self.entry(id)?;
        if entry.state == State::Active && !matches!(to, State::Active | State::Reverting) {
            self.advance(id, State::Reverting)?;
        }
        if self.entry(id)?.state == to { Ok(()) } else { self.advance(id, to) }
    }

    /// Begins anew with an update that was reverted: it is `Loading`, and is to be matched again.
    ///
    /// Not so where its code must stay: something may still be running it, which must not be written to.
    pub fn restart<'a>(&mut self, id: UpdateId, record: &Record<'a>) -> Result<(), Refusal<'a>> {
        let entry = self.entry(id)?;
        if entry.state != State::Reverted {
            let (update, state) = (entry.name, entry.state);
            return Err(Refusal::WrongState { update, state, wanted: State::Loading });
        }
        if entry.has_run && !record.pinned().is_empty() {
            return Err(Refusal::Pinned { update: entry.name, reason: record.pinned() });
        }
        entry.replaces.clear();
        entry.takes.clear();
        entry.state = State::Loading;
        // Whoever switches it on while the module is there has it hold that.
        entry.follows = false;
        Ok(())
    }

    /// Gives up what [`Manager::restart`] began, before anything was switched: it is `Reverted` as before.
    pub fn give_up(&mut self, id: UpdateId) -> Result<(), Refusal<'static>> {
        let entry = self.entry(id)?;
        if !matches!(entry.state, State::Loading | State::Waiting | State::Registered) {
            let (update, state) = (entry.name, entry.state);
            return Err(Refusal::WrongState { update, state, wanted: State::Reverted });
        }
        entry.replaces.clear();
        entry.takes.clear();
        entry.state = State::Reverted;
        Ok(())
    }

    /// Whether an update's module may be unloaded: it is not active, and nothing keeps its code.
    pub fn may_unload<'a>(&self, id: UpdateId, record: &Record<'a>) -> Result<(), Refusal<'a>> {
        let entry = self.known(id)?;
        allowed(entry, State::Gone)?;
        if entry.has_run && !record.stays().is_empty() {
            return Err(Refusal::Pinned { update: entry.name, reason: record.stays() });
        }
        Ok(())
    }

    /// Forgets an update; its module may go.
    pub fn forget<'a>(&mut self, id: UpdateId, record: &Record<'a>) -> Result<(), Refusal<'a>> {
        self.may_unload(id, record)?;
        self.updates.retain(|entry| entry.id != id);
        Ok(())
    }

    /// Forgets an update whose module goes, whatever speaks against it: it is unloaded by force.
    pub fn lose(&mut self, id: UpdateId) {
        self.updates.retain(|entry| entry.id != id);
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

    fn known(&self, id: UpdateId) -> Result<&Entry, Refusal<'static>> {
        self.updates.iter().find(|entry| entry.id == id).ok_or(Refusal::NoSuchUpdate)
    }

    fn entry(&mut self, id: UpdateId) -> Result<&mut Entry, Refusal<'static>> {
        self.updates.iter_mut().find(|entry| entry.id == id).ok_or(Refusal::NoSuchUpdate)
    }
}

/// Appends, or says that there is no memory.
fn push<T>(to: &mut Vec<T>, item: T) -> Result<(), Refusal<'static>> {
    to.try_reserve(1).map_err(|_| Refusal::OutOfMemory)?;
    to.push(item);
    Ok(())
}

/// Whether `entry` may become `to`.
fn allowed(entry: &Entry, to: State) -> Result<(), Refusal<'static>> {
    if entry.state.may_become(to) {
        return Ok(());
    }
    Err(Refusal::WrongState { update: entry.name, state: entry.state, wanted: to })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{Build, with_record};
    use State::*;
    use dynamos_abi::function_flags;

    pub(super) const RELEASE: &str = "6.1.0-55-amd64";

    pub(super) fn update(name: &str, functions: &[&str], pinned: &str) -> Vec<u8> {
        let mut build = Build::new();
        for function in functions {
            build.function(function, function_flags::REPLACE, &[0x90; 8], &[]);
        }
        build.function("anchor", 0, &[0xc3], &[]);
        if let Some(kept) = pinned.strip_prefix("data: ") {
            build.0.kept(kept);
            return build.0.finish(name, RELEASE, "").unwrap();
        }
        build.0.finish(name, RELEASE, pinned).unwrap()
    }

    /// Admits and registers an update whose functions are at `addresses`, its anchor at 1.
    fn add(manager: &mut Manager, bytes: &[u8], addresses: &[u64]) -> Result<UpdateId, String> {
        add_over(manager, bytes, addresses, Over::Nothing)
    }

    pub(super) fn add_over(
        manager: &mut Manager,
        bytes: &[u8],
        addresses: &[u64],
        over: Over,
    ) -> Result<UpdateId, String> {
        with_record(bytes, |record| {
            let id = manager.admit(record, RELEASE).map_err(|r| r.to_string())?;
            match manager.register(id, record, &resolved(addresses), over) {
                Ok(()) => Ok(id),
                Err(refusal) => {
                    manager.forget(id, record).unwrap();
                    Err(refusal.to_string())
                }
            }
        })
    }

    fn resolved(addresses: &[u64]) -> Resolved {
        let mut functions = addresses.to_vec();
        functions.push(1);
        Resolved { symbols: vec![], functions, traced: vec![] }
    }

    pub(super) fn advance(manager: &mut Manager, id: UpdateId, states: &[State]) {
        for &state in states {
            manager.advance(id, state).unwrap();
        }
    }

    #[test]
    fn a_name_is_taken_once() {
        let mut manager = Manager::new();
        let bytes = update("fix", &["f"], "");
        let id = add(&mut manager, &bytes, &[0x100]).unwrap();
        assert_eq!(manager.find("fix"), Some(id));
        let text = add(&mut manager, &bytes, &[0x200]).unwrap_err();
        assert_eq!(text, "an update `fix` is loaded already: unload it, or use another name");
        assert_eq!(manager.iter().count(), 1);
    }

    #[test]
    fn a_function_is_replaced_once() {
        let mut manager = Manager::new();
        let first = update("fix", &["f", "g"], "");
        let id = add(&mut manager, &first, &[0x200, 0x100]).unwrap();
        let second = update("other", &["h", "g"], "");
        let text = add(&mut manager, &second, &[0x300, 0x100]).unwrap_err();
        assert!(text.starts_with("function `g` is already replaced by update `fix`"), "{text}");
        assert_eq!(manager.find("other"), None);
        // Both have the same anchor, which is no conflict; nor is what was reverted.
        assert!(add(&mut manager, &update("third", &["h"], ""), &[0x300]).is_ok());
        advance(&mut manager, id, &[Transitioning, Active, Reverting, Reverted]);
        assert!(add(&mut manager, &second, &[0x400, 0x100]).is_ok());
    }

    #[test]
    fn another_kernels_update_is_refused() {
        let bytes = update("fix", &["f"], "");
        let text = with_record(&bytes, |record| {
            Manager::new().admit(record, "6.12.107").unwrap_err().to_string()
        });
        assert!(text.starts_with("the update was made for kernel 6.1.0-55-amd64"), "{text}");
        let bytes = update(&"x".repeat(56), &[], "");
        with_record(&bytes, |record| {
            let refusal = Manager::new().admit(record, RELEASE).unwrap_err();
            assert!(matches!(refusal, Refusal::BadName { .. }));
        });
    }

    #[test]
    fn what_an_operation_went_through_is_followed() {
        let pinned = update("fix", &["f"], "its address escapes");
        for (from, to, has_run, unloads) in [
            (&[Transitioning][..], Reverted, true, false),
            (&[Transitioning], Draining, true, false),
            (&[Transitioning], Registered, false, true),
            (&[Transitioning], Registered, true, false),
            (&[Transitioning], Reverting, false, false),
            (&[Transitioning, Active], Reverted, true, false),
            (&[Transitioning, Active, Reverting], Reverted, true, false),
            (&[Transitioning, Active, Reverting], Active, true, false),
        ] {
            let mut manager = Manager::new();
            let id = add(&mut manager, &pinned, &[0x100]).unwrap();
            advance(&mut manager, id, from);
            manager.follow(id, to, has_run).unwrap();
            assert_eq!(manager.state(id), Some(to), "{from:?}");
            // Code that has run is not forgotten to have.
            with_record(&pinned, |record| {
                assert_eq!(manager.may_unload(id, record).is_ok(), unloads, "{from:?} to {to}");
            });
        }
    }

    #[test]
    fn what_ran_and_was_given_up_can_begin_anew() {
        for (pinned, may) in [("", true), ("a timer calls `clone`", false)] {
            let mut manager = Manager::new();
            let bytes = update("fix", &["f"], pinned);
            let id = add(&mut manager, &bytes, &[0x100]).unwrap();
            advance(&mut manager, id, &[Transitioning]);
            manager.follow(id, Registered, true).unwrap();
            manager.give_up(id).unwrap();
            assert_eq!(manager.state(id), Some(Reverted));
            // The function is free, and the update may come again unless its code must stay.
            add(&mut manager, &update("other", &["f"], ""), &[0x100]).unwrap();
            with_record(&bytes, |record| {
                assert_eq!(manager.restart(id, record).is_ok(), may);
            });
        }
    }

    #[test]
    fn only_legal_moves() {
        let all = [
            Loading,
            Waiting,
            Registered,
            Transitioning,
            Active,
            Reverting,
            Draining,
            Reverted,
            Gone,
        ];
        // Each state can be left, but for the last; nothing becomes what it is.
        for from in all {
            assert_eq!(all.iter().any(|to| from.may_become(*to)), from != Gone, "{from}");
            assert!(!from.may_become(from) && !from.may_become(Loading));
        }
        // Code that may be running is never given up.
        for from in [Transitioning, Active, Reverting, Draining] {
            assert!(!from.may_become(Gone));
        }
    }

    #[test]
    fn of_two_who_revert_one_does() {
        let mut manager = Manager::new();
        let id = add(&mut manager, &update("fix", &["f"], ""), &[0x100]).unwrap();
        advance(&mut manager, id, &[Transitioning, Active, Reverting]);
        let text = manager.advance(id, Reverting).unwrap_err().to_string();
        assert!(text.starts_with("update `fix` is reverting"), "{text}");
    }

    #[test]
    fn beginning_anew() {
        for (pinned, may) in
            [("", true), ("data: a list begins in it", true), ("a timer calls `clone`", false)]
        {
            let mut manager = Manager::new();
            let bytes = update("fix", &["f"], pinned);
            let id = add(&mut manager, &bytes, &[0x100]).unwrap();
            with_record(&bytes, |record| {
                advance(&mut manager, id, &[Transitioning, Active]);
                assert!(manager.restart(id, record).is_err() && manager.give_up(id).is_err());
                advance(&mut manager, id, &[Reverting, Reverted]);
                assert_eq!(manager.restart(id, record).is_ok(), may);
                if !may {
                    assert_eq!(manager.state(id), Some(Reverted));
                    return;
                }
                assert_eq!(manager.state(id), Some(Loading));
                manager.give_up(id).unwrap();
                assert_eq!(manager.state(id), Some(Reverted));
                // Meanwhile another may take the function.
                let other = update("other", &["f"], "");
                add(&mut manager, &other, &[0x100]).unwrap();
                manager.restart(id, record).unwrap();
                let text = manager
                    .register(id, record, &resolved(&[0x100]), Over::Nothing)
                    .unwrap_err()
                    .to_string();
                assert!(text.contains("already replaced by update `other`"), "{text}");
                manager.give_up(id).unwrap();
                assert_eq!(manager.forget(id, record).is_ok(), pinned.is_empty());
            });
        }
    }

    #[test]
    fn waiting_for_a_module() {
        let mut manager = Manager::new();
        let bytes = update("fix", &["f"], "");
        with_record(&bytes, |record| {
            let id = manager.admit(record, RELEASE).unwrap();
            manager.await_target(id).unwrap();
            assert_eq!(manager.state(id), Some(Waiting));
            manager.await_target(id).unwrap(); // The other of two.
            assert!(manager.advance(id, Transitioning).is_err(), "it is not proven to fit");
            // It has no function to itself, until the module is there.
            add(&mut manager, &update("other", &["f"], ""), &[0x100]).unwrap();
            assert!(manager.register(id, record, &resolved(&[0x100]), Over::Nothing).is_err());
            manager.register(id, record, &resolved(&[0x200]), Over::Nothing).unwrap();
            advance(&mut manager, id, &[Transitioning, Active, Reverting, Reverted]);
            // The module went, and comes once more.
            manager.restart(id, record).unwrap();
            manager.await_target(id).unwrap();
            manager.give_up(id).unwrap();
            assert_eq!(manager.state(id), Some(Reverted));
            manager.restart(id, record).unwrap();
            manager.await_target(id).unwrap();
            manager.forget(id, record).unwrap();
        });
    }

    #[test]
    fn unloading() {
        for (pinned, may) in
            [("", true), ("data: a list begins in it", false), ("a timer calls `clone`", false)]
        {
            let mut manager = Manager::new();
            let bytes = update("fix", &["f"], pinned);
            let id = add(&mut manager, &bytes, &[0x100]).unwrap();
            with_record(&bytes, |record| {
                assert!(manager.may_unload(id, record).is_ok(), "it never ran");
                advance(&mut manager, id, &[Transitioning, Active]);
                let text = manager.may_unload(id, record).unwrap_err().to_string();
                assert!(text.ends_with("revert it first"), "{text}");
                advance(&mut manager, id, &[Reverting, Reverted]);
                let outcome = manager.forget(id, record);
                assert_eq!(outcome.is_ok(), may);
                if let Err(refusal) = outcome {
                    assert!(refusal.to_string().contains(pinned.trim_start_matches("data: ")));
                }
                assert_eq!(manager.state(id).is_none(), may);
                assert!(manager.advance(id, Gone).is_err(), "only `forget` does that");
                manager.lose(id);
                assert_eq!(manager.find("fix"), None);
            });
        }
    }
}
