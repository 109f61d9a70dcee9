//! Updates of modules that are not loaded yet: they take effect before the module's init function runs, and go with it.
//!
//! A module that does not fit is left as it is: it works as it always did, and what is refused is told. To keep a machine
//! from its disks or its network would be worse.

use dynamos_core::State;

use crate::ffi::wait;
use crate::updates::{self, Entry};

/// A module is about to begin. Its code is in place, and none of it has run.
pub(crate) fn module_comes(name: &str) {
    updates::each(
        |entry| entry.state == State::Waiting && object(entry, name).is_some(),
        |work, id| match object_of(work.update.record(), name) {
            Some(object) => work.module_comes(id, object),
            None => Ok(()),
        },
    );
}

/// A module has ended, or could not begin. An update that was there when it came has no hold on it; the hold of one that
/// came later is not asked for where it is unloaded by force.
pub(crate) fn module_goes(name: &str) {
    loop {
        let mut all = true;
        updates::each(
            |entry| object(entry, name).is_some(),
            |work, id| {
                let object = object_of(work.update.record(), name);
                match (work.update.state(), object) {
                    // It did not fit; the next one may. Or the update's code must stay, and refers to it.
                    (State::Waiting | State::Reverted | State::Gone, Some(object)) => {
                        work.layer.lose_target(object);
                    }
                    (_, None) => {}
                    (_, Some(object)) => all &= work.module_goes(id, object)?,
                }
                Ok(())
            },
        );
        if all {
            break;
        }
        // Those that others lie over, once these are gone.
        wait::pause(updates::LOOKS);
    }
}

fn object(entry: &Entry, name: &str) -> Option<u32> {
    object_of(&entry.record, name)
}

/// The object that is this module.
fn object_of(record: &dynamos_abi::Record<'_>, name: &str) -> Option<u32> {
    let mut objects = (0u32..).zip(record.objects().iter());
    objects.find(|(_, object)| record.str(object.name) == name).map(|(index, _)| index)
}
