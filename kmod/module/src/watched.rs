//! The code that no task may be in when an update is switched.

use alloc::vec::Vec;

use dynamos_abi::edition::ORIGINAL;
use dynamos_abi::policy as place;
use dynamos_abi::{HookKind, NONE, Record, function_flags};
use dynamos_core::{Blocked, Place, Range, activations, first_touch, normalise, sort_by_key};

use crate::ffi::errno::Errno;
use crate::ffi::memory::TryVec;
use crate::ffi::stacks::{Stack, Task};

/// Editions 0, or their entries, and the update's text.
///
/// Both in both directions. While the update is active a task may be on its way from the entry of an edition 0, through
/// ftrace's trampoline, to a handler that was replaced since: only its return address says so. Deeper in edition 0
/// there is no task then, or it is there by a policy, and stays where it belongs.
#[derive(Default)]
pub(crate) struct Watched {
    ranges: Vec<Range>,
    /// What begins at an address, sorted.
    marks: Vec<(u64, Place)>,
    /// Where handlers that count begin, sorted.
    counting: Vec<u64>,
}

/// What of an edition 0 counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it: it is being left.
    Whole,
    /// Up to the return address of `call __fentry__`: the update is being left.
    Entry,
}

/// Bytes of a call.
const CALL: u32 = 5;

/// Where the handlers of an update are. The places for policies come last, so that nothing else is within their length.
pub(crate) fn handlers(record: &Record<'_>, addresses: &[u64]) -> Result<Range, Errno> {
    let address = |index: u32| addresses.get(index as usize).copied();
    let mut handlers: Option<Range> = None;
    for (_, function) in record.replaced() {
        let all = [
            function.transition,
            function.steady,
            function.counting,
            function.original,
            function.policy,
        ];
        for start in all.into_iter().filter_map(address) {
            let end = start.checked_add(place::SIZE).ok_or(Errno::EINVAL)?;
            let (first, last) = handlers.map_or((start, end), |h| (h.start, h.end));
            handlers = Some(Range { start: first.min(start), end: last.max(end) });
        }
    }
    handlers.ok_or(Errno::EINVAL)
}

impl Watched {
    /// For functions at `functions` and an update with this text and these `addresses`.
    pub(crate) fn new(
        record: &Record<'_>,
        functions: &[u64],
        addresses: &[u64],
        text: Range,
        part: Part,
    ) -> Result<Self, Errno> {
        let mut watched = Self::default();
        watched.ranges.try_push(text)?;
        watched.add(record, functions, addresses, part)
    }

    /// One edition of an update with phases, and whoever is on the way there: in a handler that has read the flag, or
    /// on the way to one that reads none.
    pub(crate) fn edition(
        record: &Record<'_>,
        functions: &[u64],
        addresses: &[u64],
        edition: u32,
    ) -> Result<Self, Errno> {
        let mut watched = Self::default();
        let address = |index: u32| addresses.get(index as usize).copied();
        watched.ranges.try_push(handlers(record, addresses)?)?;
        for code in record.code().iter().filter(|code| code.edition == edition) {
            let start = address(code.start).ok_or(Errno::EINVAL)?;
            let end = start.checked_add(u64::from(code.len)).ok_or(Errno::EINVAL)?;
            watched.ranges.try_push(Range { start, end })?;
        }
        let part = if edition == ORIGINAL { Part::Whole } else { Part::Entry };
        watched.add(record, functions, addresses, part)
    }

    /// Adds the editions 0, and what begins where.
    fn add(
        mut self,
        record: &Record<'_>,
        functions: &[u64],
        addresses: &[u64],
        part: Part,
    ) -> Result<Self, Errno> {
        let watched = &mut self;
        for (index, (function, &start)) in (0u32..).zip(record.functions().iter().zip(functions)) {
            // An anchor's fragment is watched too: it is rarely run, and nothing says whose it is.
            let counts =
                function_flags::REPLACE | function_flags::FRAGMENT | function_flags::WATCHED;
            if function.flags & counts == 0 {
                continue;
            }
            let len = match (part, function.fentry) {
                (Part::Whole, _) => function.bytes.len,
                // What stands in a slot changes under it in either direction.
                _ if function.flags & function_flags::WATCHED != 0 => function.bytes.len,
                (Part::Entry, NONE) => continue,
                (Part::Entry, fentry) => fentry.saturating_add(CALL),
            };
            let end = start.checked_add(u64::from(len)).ok_or(Errno::EINVAL)?;
            watched.ranges.try_push(Range { start, end })?;
            watched.marks.try_push((start, Place::Function(index)))?;
            for (address, place) in [
                (function.clone, Place::Function(index)),
                (function.bridge, Place::Function(index)),
                (function.transition, Place::Handler),
                (function.steady, Place::Handler),
                (function.policy, Place::Handler),
                // Who is asleep there is in a counted call.
                (function.counting, Place::Function(index)),
                (function.original, Place::Handler),
            ] {
                if let Some(address) = addresses.get(address as usize) {
                    watched.marks.try_push((*address, place))?;
                }
            }
            if let Some(address) = addresses.get(function.counting as usize) {
                watched.counting.try_push(*address)?;
            }
        }
        for kind in HookKind::ALL.into_iter().chain(HookKind::BETWEEN_PHASES) {
            let address = record.hook(kind).and_then(|hook| addresses.get(hook as usize));
            if let Some(address) = address {
                watched.marks.try_push((*address, Place::Hook(kind)))?;
            }
        }
        sort_by_key(&mut watched.marks, |(address, _)| *address);
        sort_by_key(&mut watched.counting, |address| *address);
        if normalise(&mut watched.ranges) { Ok(self) } else { Err(Errno::EINVAL) }
    }

    /// Adds other code: the text of an update that is left at the same switch, or a thunk.
    pub(crate) fn also(&mut self, text: Range, place: Place) -> Result<(), Errno> {
        self.ranges.try_push(text)?;
        self.marks.try_push((text.start, place))?;
        sort_by_key(&mut self.marks, |(address, _)| *address);
        if normalise(&mut self.ranges) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// The same once more.
    pub(crate) fn try_clone(&self) -> Result<Self, Errno> {
        Ok(Self {
            ranges: Vec::try_filled_from(&self.ranges)?,
            marks: Vec::try_filled_from(&self.marks)?,
            counting: Vec::try_filled_from(&self.counting)?,
        })
    }

    /// Whether `task` is in the code, and where. Called where nothing sleeps.
    pub(crate) fn blocks(&self, task: &Task<'_>) -> Option<Blocked> {
        self.finds(task, |trace, ranges| {
            let touch = first_touch(trace, ranges)?;
            let count = activations(trace, ranges, |address| self.is_counting(address));
            Some((self.place_of(*trace.get(touch.frame)?), count))
        })
    }

    /// The task, if something is found on its stack, given the code that is watched: where, and how many activations. If its
    /// stack cannot be read, it is in the way too.
    pub(crate) fn finds(
        &self,
        task: &Task<'_>,
        find: impl FnOnce(&[u64], &[Range]) -> Option<(Place, u32)>,
    ) -> Option<Blocked> {
        let (place, activations) = match &task.stack {
            Stack::Stopper => return None,
            Stack::Unreliable(_) => (Place::Unknown, 1),
            Stack::Reliable(trace) => find(trace, &self.ranges)?,
        };
        let mut comm = [0; 16];
        for (to, from) in comm.iter_mut().zip(task.comm.to_bytes()) {
            *to = *from;
        }
        Some(Blocked { pid: task.pid, comm, running: task.ready, place, activations })
    }

    /// What is at a return address in the code that is watched.
    pub(crate) fn place_of(&self, address: u64) -> Place {
        match self.range_of(address) {
            None => Place::Unknown,
            Some(range) => self.mark(address, range).map_or(Place::Handler, |(_, place)| place),
        }
    }

    /// Whether a return address is in a handler that counts.
    fn is_counting(&self, address: u64) -> bool {
        let mark = self.range_of(address).and_then(|range| self.mark(address, range));
        mark.is_some_and(|(start, _)| self.counting.binary_search(&start).is_ok())
    }

    fn range_of(&self, address: u64) -> Option<Range> {
        let touch = first_touch(&[address], &self.ranges)?;
        self.ranges.get(touch.range).copied()
    }

    /// What begins before a return address in a range: the call before it counts.
    fn mark(&self, address: u64, range: Range) -> Option<(u64, Place)> {
        let call = address.saturating_sub(1).max(range.start);
        let after = self.marks.partition_point(|(start, _)| *start <= call);
        let mark = after.checked_sub(1).and_then(|at| self.marks.get(at)).copied();
        mark.filter(|(start, _)| range.start <= *start)
    }
}
