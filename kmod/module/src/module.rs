//! The module's state, its directory in sysfs, and what is done with an update.

use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt::{self, Write};

use crate::ffi::errno::Errno;
use crate::ffi::lock::Locked;
use crate::ffi::log;
use crate::ffi::memory::TryVec;
use crate::ffi::sysfs::{Attribute, Dir, Directory};
use crate::ffi::text::{FixedText, SliceWriter, printable};
use crate::ffi::update::{Descriptor, Handle};

/// How much of the last refusals is kept for reading.
const REFUSALS: usize = 4000;

/// What there is once the module is loaded.
struct State {
    root: Option<Dir<Root>>,
    refusals: Vec<u8>,
}

static STATE: Locked<State> = Locked::new(State { root: None, refusals: Vec::new() });

/// Makes the module ready. Called once.
pub(crate) fn init() -> Result<(), Errno> {
    let root = Dir::in_kernel(c"dynamos", Root)?;
    STATE.lock().root = Some(root);
    Ok(())
}

/// Takes everything back. No update is left.
pub(crate) fn exit() {
    // Not with the lock held: a reader of a file may be waiting for it.
    let root = STATE.lock().root.take();
    drop(root);
    let refusals = core::mem::take(&mut STATE.lock().refusals);
    drop(refusals);
}

/// Takes an update in, or refuses it.
pub(crate) fn register(descriptor: &Descriptor<'_>) -> Result<(), Errno> {
    let module = descriptor.module()?;
    refuse(module.name(), format_args!("this dynamos.ko has no version manager yet"));
    Err(Errno::ENODEV)
}

/// Lets an update go that has been reverted.
pub(crate) fn unregister(_update: Handle) {}

/// Logs why `update` is refused, and keeps it for `/sys/kernel/dynamos/refusals`.
pub(crate) fn refuse(update: &CStr, reason: fmt::Arguments<'_>) {
    let update = printable(update);
    log::error(format_args!("{update} refused: {reason}"));
    let line = FixedText::<480>::new(format_args!("{update}: {reason}\n"));
    let refusals = &mut STATE.lock().refusals;
    if refusals.len() + line.as_bytes().len() > REFUSALS {
        refusals.clear();
    }
    // In the log all the same.
    let _ = refusals.try_extend(line.as_bytes());
}

/// `/sys/kernel/dynamos`.
struct Root;

impl Directory for Root {
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute { name: c"version", mode: 0o444 },
        Attribute { name: c"abi", mode: 0o444 },
        Attribute { name: c"refusals", mode: 0o400 },
    ];

    fn show(&self, attribute: usize, out: &mut SliceWriter<'_>) -> Result<(), Errno> {
        match attribute {
            0 => writeln!(out, "0.1.0"),
            1 => writeln!(out, "1"),
            2 => {
                let state = STATE.lock_killable()?;
                out.write_str(core::str::from_utf8(&state.refusals).unwrap_or_default())
            }
            _ => return Err(Errno::EINVAL),
        }
        .map_err(|_| Errno::EIO)
    }

    fn store(&self, _attribute: usize, _input: &[u8]) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
}
