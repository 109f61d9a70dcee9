//! Which updates call functions of which: a clone calls by a function's entry, where the edition of the update that
//! replaces it answers. One that takes other parameters than V1's answers those wrongly who were compiled for V1's.

use alloc::vec::Vec;

use dynamos_abi::function_flags::{RESHAPED, UNLIKE_V1};
use dynamos_abi::{Function, Record, symbol_flags};

use super::{Entry, Manager, UpdateId, push};
use crate::refusal::Refusal;
use crate::resolve::{Resolved, function_name};
use crate::sort::sort;

/// A function as those see it who refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Where the record's resolver found it.
    At(u64),
    /// By a name, which the kernel's module loader looks up: its hash, so that another name can at most be refused.
    Named(u64),
}

/// What an update's code calls, or may, and what others must not call.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// All that its code refers to, and what it writes into tables, sorted.
    refers: Vec<Place>,
    /// The functions that take other parameters than V1's, or give another result; each by its index.
    unlike: Vec<(Place, u32)>,
    /// Whether no call comes to those any more.
    left: bool,
    /// Whether its code may run once it is reverted.
    kept: bool,
}

impl Calls {
    pub(super) fn of<'a>(record: &Record<'a>, resolved: &Resolved) -> Result<Self, Refusal<'a>> {
        let mut calls = Calls { kept: !record.pinned().is_empty(), ..Calls::default() };
        let address = |symbol: u32| resolved.symbols.get(symbol as usize).copied().flatten();
        for (index, symbol) in (0u32..).zip(record.symbols().iter()) {
            if symbol.flags & symbol_flags::IMPORTED != 0 {
                push(&mut calls.refers, Place::Named(hash(record.str(symbol.name))))?;
            }
            // Also what it only takes the address of: it may call by that.
            if symbol.flags & symbol_flags::NEEDED != 0
                && let Some(address) = address(index)
            {
                push(&mut calls.refers, Place::At(address))?;
            }
        }
        for written in record.slots().iter().filter_map(|slot| address(slot.after)) {
            push(&mut calls.refers, Place::At(written))?;
        }
        sort(&mut calls.refers);
        let unlike = |function: &Function| function.flags & (RESHAPED | UNLIKE_V1) != 0;
        for (index, _) in record.replaced().filter(|(_, function)| unlike(function)) {
            let name = Place::Named(hash(function_name(record, index)));
            push(&mut calls.unlike, (name, index))?;
            if let Some(address) = resolved.functions.get(index as usize) {
                push(&mut calls.unlike, (Place::At(*address), index))?;
            }
        }
        Ok(calls)
    }

    /// A function that `caller` refers to, and that takes other parameters here.
    fn answers_wrongly(&self, caller: &Calls) -> Option<u32> {
        // What can still be called of an update that has left does not call what that gave other parameters: the generator
        // refuses it.
        let is_its_own = |place| caller.unlike.iter().any(|(own, _)| own == place);
        let is_called = |place| caller.refers.binary_search(place).is_ok() && !is_its_own(place);
        let mut all = self.unlike.iter().filter(|_| !self.left);
        all.find(|(place, _)| is_called(place)).map(|(_, index)| *index)
    }

    /// No call comes to its editions any more; those under way go on.
    pub(super) fn leave(&mut self) {
        self.left = true;
    }
}

impl Entry {
    /// Whether its code may be running, or is about to.
    fn may_run(&self, leaves: bool) -> bool {
        self.calls.kept && (self.has_run || self.holds()) || self.holds() && !leaves
    }
}

impl Manager {
    /// Whether no code of `id` calls an edition that takes other parameters, nor code of another update any of its own.
    /// `group`: those that share functions with it, of which others decide; `leave`: whether they go.
    pub(super) fn check_calls<'a>(
        &self,
        id: UpdateId,
        calls: &Calls,
        record: &Record<'a>,
        group: &[UpdateId],
        leave: bool,
    ) -> Result<(), Refusal<'a>> {
        for other in self.updates.iter().filter(|other| other.id != id) {
            let (member, update) = (group.contains(&other.id), other.name);
            if !member && other.holds() && other.calls.answers_wrongly(calls).is_some() {
                return Err(Refusal::CallsUnlike { update });
            }
            let runs = (leave || !member) && other.may_run(member);
            if let Some(index) = calls.answers_wrongly(&other.calls).filter(|_| runs) {
                let (function, stays) = (function_name(record, index), other.calls.kept);
                return Err(Refusal::CalledUnlike { function, update, stays });
            }
        }
        Ok(())
    }
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
