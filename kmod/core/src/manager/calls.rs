//! Which updates call functions of which: a clone calls by a function's entry, where the edition of the update that
//! replaces it answers. One that takes other parameters than V1's answers those wrongly who were compiled for V1's.

use alloc::vec::Vec;

use dynamos_abi::{Record, function_flags::RESHAPED, symbol_flags};

use super::{Entry, Manager, UpdateId};
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
    /// All that its clones refer to, sorted.
    refers: Vec<Place>,
    /// The functions that take other parameters than V1's, or give another result.
    reshapes: Vec<(Place, u32)>,
    /// Whether its code may run once it is reverted.
    kept: bool,
}

impl Calls {
    pub(super) fn of<'a>(record: &Record<'a>, resolved: &Resolved) -> Result<Self, Refusal<'a>> {
        let mut calls = Calls { kept: !record.pinned().is_empty(), ..Calls::default() };
        for (symbol, address) in record.symbols().iter().zip(&resolved.symbols) {
            let is = |flag| symbol.flags & flag != 0;
            let place = match address {
                _ if is(symbol_flags::EXPORTED) => Place::Named(hash(record.str(symbol.name))),
                Some(address) if is(symbol_flags::FUNCTION) && is(symbol_flags::NEEDED) => {
                    Place::At(*address)
                }
                _ => continue,
            };
            push(&mut calls.refers, place)?;
        }
        sort(&mut calls.refers);
        let functions = record.replaced().filter(|(_, function)| function.flags & RESHAPED != 0);
        for (index, _) in functions {
            let name = Place::Named(hash(function_name(record, index)));
            push(&mut calls.reshapes, (name, index))?;
            if let Some(address) = resolved.functions.get(index as usize) {
                push(&mut calls.reshapes, (Place::At(*address), index))?;
            }
        }
        Ok(calls)
    }

    /// A function that `caller` refers to, and that takes other parameters here.
    fn answers_wrongly(&self, caller: &Calls) -> Option<u32> {
        let is_called = |place| caller.refers.binary_search(place).is_ok();
        self.reshapes.iter().find(|(place, _)| is_called(place)).map(|(_, index)| *index)
    }

    /// No call comes to its editions any more; those under way go on.
    pub(super) fn leave(&mut self) {
        self.reshapes.clear();
    }
}

impl Entry {
    /// Whether its code may be running, or is about to.
    fn may_run(&self, leaves: bool) -> bool {
        self.calls.kept && (self.has_run || self.holds()) || self.holds() && !leaves
    }
}

impl Manager {
    /// Whether no clone of `id` calls an edition that takes other parameters, nor one of another update any of its own.
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
            let member = group.contains(&other.id);
            if !member && other.holds() && other.calls.answers_wrongly(calls).is_some() {
                return Err(Refusal::CallsReshaped { update: other.name });
            }
            let runs = (leave || !member) && other.may_run(member);
            if let Some(index) = calls.answers_wrongly(&other.calls).filter(|_| runs) {
                let function = function_name(record, index);
                return Err(Refusal::CalledByOther { function, update: other.name });
            }
        }
        Ok(())
    }
}

fn push<T>(to: &mut Vec<T>, item: T) -> Result<(), Refusal<'static>> {
    to.try_reserve(1).map_err(|_| Refusal::OutOfMemory)?;
    to.push(item);
    Ok(())
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
