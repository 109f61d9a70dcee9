//! Several updates of one function: who lies over whom, who may join and who may leave.
//!
//! Of the updates that replace a function the one registered last lies on top, and its edition runs. Updates that share
//! functions, also by way of others, are a *group*. At most one of a group is between two states at a time: all others
//! are active, and stay so while it moves. So what may happen to one can be said without a look at what happens to the
//! others.

use alloc::vec::Vec;

use dynamos_abi::VMLINUX;

use super::{Entry, Manager, UpdateId};
use crate::refusal::{Name, Refusal};
use crate::update::State;

/// How an update leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// From the top: other calls come, so there is a switch.
    Top,
    /// From below: no call comes to it, so only those under way must end.
    Covered,
}

impl Entry {
    /// Whether its redirections may be in place, or are about to be.
    pub(super) fn holds(&self) -> bool {
        use State::*;
        matches!(self.state, Registered | Transitioning | Active | Reverting | Draining)
    }

    fn shares(&self, addresses: &[u64]) -> bool {
        self.holds() && addresses.iter().any(|address| self.replaces.binary_search(address).is_ok())
    }
}

impl Manager {
    /// The updates that share functions with `id`, also by way of others. An operation on one of them has all of them.
    pub fn group(&self, id: UpdateId) -> Result<Vec<UpdateId>, Refusal<'static>> {
        let entry = self.known(id)?;
        if entry.holds() { self.connected(&entry.replaces, id) } else { Ok(Vec::new()) }
    }

    /// The same for functions at `addresses`, without `id`.
    pub(super) fn connected(
        &self,
        addresses: &[u64],
        id: UpdateId,
    ) -> Result<Vec<UpdateId>, Refusal<'static>> {
        let mut found: Vec<UpdateId> = Vec::new();
        found.try_reserve_exact(self.updates.len()).map_err(|_| Refusal::OutOfMemory)?;
        // Each turn adds one at least, so there are no more turns than updates.
        loop {
            let before = found.len();
            for entry in self.updates.iter().filter(|entry| entry.id != id) {
                let members = self.updates.iter().filter(|member| found.contains(&member.id));
                let joins = entry.shares(addresses)
                    || members.clone().any(|member| entry.shares(&member.replaces));
                if joins && !found.contains(&entry.id) {
                    found.push(entry.id);
                }
            }
            if found.len() == before {
                return Ok(found);
            }
        }
    }

    /// Whether all of `group` are where another may come over them, or leave.
    pub(super) fn may_be_joined(&self, group: &[UpdateId]) -> Result<(), Refusal<'static>> {
        for entry in self.updates.iter().filter(|entry| group.contains(&entry.id)) {
            let update = entry.name;
            if entry.state != State::Active {
                return Err(Refusal::Unsettled { update, state: entry.state });
            }
        }
        Ok(())
    }

    /// Whether an update that comes holds all modules that those of its group come and go with: they could not go with one
    /// while they are this one's.
    pub(super) fn holds_for(
        &self,
        id: UpdateId,
        group: &[UpdateId],
    ) -> Result<(), Refusal<'static>> {
        let entry = self.known(id)?;
        let mut follow =
            self.updates.iter().filter(|other| other.follows && group.contains(&other.id));
        let lacks = |object: &&Name| object.as_str() != VMLINUX && !entry.objects.contains(object);
        let found = follow.find_map(|other| Some((other, other.objects.iter().find(lacks)?)));
        match found {
            None => Ok(()),
            Some((other, module)) => {
                Err(Refusal::FollowsOther { update: other.name, module: *module })
            }
        }
    }

    /// Whether something of an update may be changed now that others of its group depend on.
    pub fn may_change(&self, id: UpdateId) -> Result<(), Refusal<'static>> {
        self.may_be_joined(&self.group(id)?)
    }

    /// Whether an active update may be reverted, and how.
    pub fn may_revert(&self, id: UpdateId) -> Result<Leaving, Refusal<'static>> {
        self.may_change(id)?;
        let entry = self.known(id)?;
        let mut covered = 0;
        let mut above = None;
        for address in &entry.replaces {
            let over = |other: &&Entry| other.order > entry.order && other.shares(&[*address]);
            let mut all = self.updates.iter().filter(over);
            if let Some(first) = all.next() {
                covered += 1;
                let lets = core::iter::once(first).chain(all).all(|other| other.leaves);
                // One that takes all calls is enough, wherever it lies.
                above = match above {
                    Some((_, true)) => above,
                    _ => Some((first.name, lets)),
                };
            }
        }
        match above {
            None => Ok(Leaving::Top),
            Some((by, _)) if covered < entry.replaces.len() => {
                Err(Refusal::Covered { update: entry.name, by })
            }
            Some((by, true)) => Err(Refusal::LetsThrough { update: entry.name, by }),
            Some(_) => Ok(Leaving::Covered),
        }
    }

    /// The update whose edition of the function at `address` lies next over that of `id`.
    pub fn over(&self, id: UpdateId, address: u64) -> Option<Name> {
        let mut all = self.editions(address).skip_while(|(other, ..)| *other != id);
        all.next()?;
        all.next().map(|(_, name, _)| name)
    }

    /// Notes whether an update leaves calls to what is below.
    pub fn set_leaves(&mut self, id: UpdateId, leaves: bool) {
        if let Ok(entry) = self.entry(id) {
            entry.leaves = leaves;
        }
    }

    /// The updates that leave at the switch of `id`.
    pub fn takes(&self, id: UpdateId) -> &[UpdateId] {
        self.updates.iter().find(|entry| entry.id == id).map_or(&[], |entry| &entry.takes)
    }

    /// One switch was made: `id` is active, and those that it takes the place of drain.
    pub fn switched(&mut self, id: UpdateId) -> Result<(), Refusal<'static>> {
        self.advance(id, State::Active)?;
        let takes = core::mem::take(&mut self.entry(id)?.takes);
        for other in takes {
            self.advance(other, State::Reverting)?;
            self.advance(other, State::Draining)?;
            self.leave(other);
        }
        Ok(())
    }

    /// No call comes to an update any more, and none is to: it has no place among the others.
    pub fn leave(&mut self, id: UpdateId) {
        if let Ok(entry) = self.entry(id) {
            entry.replaces.clear();
            entry.calls.leave();
        }
    }

    /// Whether an update still has its place, so that it can be active again.
    pub fn has_place(&self, id: UpdateId) -> bool {
        self.updates.iter().any(|entry| entry.id == id && !entry.replaces.is_empty())
    }

    /// The updates that have editions of the function at `address`, from edition 1 up, with what they are now.
    pub fn editions(&self, address: u64) -> impl Iterator<Item = (UpdateId, Name, State)> + '_ {
        let next = move |after: u64| {
            let above = self.updates.iter().filter(move |entry| entry.order > after);
            above.filter(move |entry| entry.shares(&[address])).min_by_key(|entry| entry.order)
        };
        core::iter::successors(next(0), move |entry| next(entry.order))
            .map(|entry| (entry.id, entry.name, entry.state))
    }

    /// The update whose edition of the function at `address` calls take; `None` is edition 0.
    pub fn current(&self, address: u64) -> Option<UpdateId> {
        let runs = |state| matches!(state, State::Active | State::Reverting);
        self.editions(address).filter(|(_, _, state)| runs(*state)).last().map(|(id, ..)| id)
    }
}
