//! Whether what an update says of itself is so.

use alloc::vec::Vec;

use dynamos_abi::counters::ORIGINAL;
use dynamos_abi::policy as place;
use dynamos_abi::{Code, Function, NONE, Record, function_flags};
use dynamos_core::counters::{COUNTING_LEN, Counting, Leads, counting_handler};
use dynamos_core::{
    HANDLER_LEN, Handler, Range, adaptation_of, is_handler, is_leave, is_phase_handler,
};

use crate::ffi::counters::CounterWords;
use crate::ffi::errno::Errno;
use crate::ffi::kernel_memory;
use crate::ffi::memory::TryVec;
use crate::ffi::modules::{RangeKind, Ranges};
use crate::ffi::update::ActiveFlag;

/// Module memory as `dynamos-core` speaks of it.
pub(crate) fn sections(ranges: &Ranges) -> Result<Vec<Range>, Errno> {
    let mut sections = Vec::new();
    for (_, range) in ranges.iter().filter(|(_, range)| !range.is_empty()) {
        sections.try_push(Range { start: range.start, end: range.end })?;
    }
    Ok(sections)
}

/// Checks that `addresses` are the update's own, and that each handler leads to the clone of its function.
pub(crate) fn check_addresses(
    record: &Record<'_>,
    addresses: &[u64],
    ranges: &Ranges,
    active: ActiveFlag,
) -> bool {
    let text = |index: u32| {
        let address = addresses.get(index as usize).copied();
        address.filter(|address| ranges.kind_of(*address, 1) == Some(RangeKind::Text))
    };
    let leads = |index: u32, kind: Handler, adapts: bool, clone: u64| {
        let Some(address) = text(index) else { return false };
        let mut code = [0; HANDLER_LEN];
        let len = ranges.text().end.saturating_sub(address).min(HANDLER_LEN as u64);
        let code = code.get_mut(..len as usize).unwrap_or_default();
        kernel_memory::read(address, code).is_ok()
            && if adapts {
                adaptation_of(code, address, clone).is_some_and(|adaptation| {
                    ranges.kind_of(adaptation, 1) == Some(RangeKind::Text)
                })
            } else {
                is_handler(code, address, kind, clone, active.address())
            }
    };
    let leads_to_three = |index: u32, bridge: u32, clone: u64| {
        let (Some(address), Some(bridge)) = (text(index), text(bridge)) else { return false };
        let mut code = [0; HANDLER_LEN];
        let len = ranges.text().end.saturating_sub(address).min(HANDLER_LEN as u64);
        let code = code.get_mut(..len as usize).unwrap_or_default();
        kernel_memory::read(address, code).is_ok()
            && is_phase_handler(code, address, bridge, clone, active.address())
    };
    let is_code = |code: Code| {
        let start = addresses.get(code.start as usize);
        start.is_some_and(|start| {
            ranges.kind_of(*start, u64::from(code.len)) == Some(RangeKind::Text)
        })
    };
    let has_policies = |index: u32| {
        let Some(address) = text(index) else { return false };
        let mut code = [0; 5];
        ranges.kind_of(address, place::SIZE) == Some(RangeKind::Text)
            && kernel_memory::read(address + place::LEAVE, &mut code).is_ok()
            && is_leave(&code)
    };
    addresses.len() == record.addr_count() as usize
        && record.code().iter().all(is_code)
        && record.hooks().iter().all(|hook| text(hook.function).is_some())
        && addresses.iter().all(|address| ranges.kind_of(*address, 0).is_some())
        && record.replaced().all(|(_, function)| {
            text(function.clone).is_some_and(|clone| {
                let adapts = function.flags & function_flags::ADAPTS != 0;
                let begins = match function.bridge {
                    NONE => leads(function.transition, Handler::Transition, false, clone),
                    bridge => leads_to_three(function.transition, bridge, clone),
                };
                begins
                    && leads(function.steady, Handler::Steady, adapts, clone)
                    && has_policies(function.policy)
                    && (record.counters().is_none()
                        || counting_of(&function, record, addresses, ranges, active).is_some())
            })
        })
}

/// What the counting handler of a function has, if it is one that leads to its editions, and counts in the update's data.
pub(crate) fn counting_of(
    function: &Function,
    record: &Record<'_>,
    addresses: &[u64],
    ranges: &Ranges,
    active: ActiveFlag,
) -> Option<Counting> {
    let address = |index: u32| addresses.get(index as usize).copied();
    let text = |address: u64, len: u64| ranges.kind_of(address, len) == Some(RangeKind::Text);
    let (at, original) = (address(function.counting)?, address(function.original)?);
    let counters = record.counters().and_then(address)?;
    CounterWords::find(counters, ranges)?;
    let clone = address(function.clone)?;
    let leads = Leads { clone, original, active: active.address(), counters };
    let mut code = [0; COUNTING_LEN];
    let whole = text(at, COUNTING_LEN as u64) && text(original, ORIGINAL);
    if !whole || kernel_memory::read(at, &mut code).is_err() {
        return None;
    }
    let found = counting_handler(&code, at, &leads)?;
    found.accessor.is_none_or(|accessor| text(accessor, 1)).then_some(found)
}
