//! The module's state, its directory in sysfs, and where updates come in.

use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt::{self, Write};

use crate::ffi::errno::Errno;
use crate::ffi::lock::Locked;
use crate::ffi::memory::TryVec;
use crate::ffi::sysfs::{Attribute, Dir, Directory};
use crate::ffi::text::{FixedText, SliceWriter, printable};
use crate::ffi::update::{Descriptor, Handle};
use crate::ffi::{log, modules, tasks, wait};
use crate::names;
use crate::updates::{self, Registry};

/// How much of the last refusals is kept for reading.
const REFUSALS: usize = 4000;

/// What there is once the module is loaded.
pub(crate) struct State {
    pub(crate) root: Option<Dir<Root>>,
    refusals: Vec<u8>,
    pub(crate) registry: Registry,
}

/// Never held for long: no operation on an update keeps it while it waits.
pub(crate) static STATE: Locked<State> = Locked::new(State::new());

impl State {
    const fn new() -> Self {
        Self { root: None, refusals: Vec::new(), registry: Registry::new() }
    }
}

/// Makes the module ready. Called once.
pub(crate) fn init() -> Result<(), Errno> {
    let root = Dir::in_kernel(c"dynamos", Root)?;
    STATE.lock().root = Some(root);
    tasks::note_ending().inspect_err(|_| remove_directory())?;
    modules::follow().inspect_err(|_| {
        tasks::note_no_more();
        remove_directory();
    })
}

/// Takes everything back. No update is left.
pub(crate) fn exit() {
    modules::follow_no_more();
    wait::look_no_more();
    tasks::note_no_more();
    remove_directory();
    // Nothing drops a static, and its vectors keep their memory when they are empty.
    let state = core::mem::replace(&mut *STATE.lock(), State::new());
    drop(state);
}

fn remove_directory() {
    // Not with the lock held: a reader of a file may be waiting for it.
    let root = STATE.lock().root.take();
    drop(root);
}

/// Takes an update in, or refuses it. What the descriptor refers to stays until [`unregister`], or until
/// this returns an error.
pub(crate) fn register(descriptor: Descriptor<'static>) -> Result<(), Errno> {
    let module = descriptor.module()?;
    let name = names::c_string(printable(module.name()))?;
    updates::load(&descriptor, module).map_err(|refused| {
        refuse(names::as_c_str(&name).unwrap_or_default(), format_args!("{refused}"));
        refused.errno()
    })
}

/// Lets an update go that has been reverted.
pub(crate) fn unregister(update: Handle) {
    updates::unregister(update);
}

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
pub(crate) struct Root;

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
