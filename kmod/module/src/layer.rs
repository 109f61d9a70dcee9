//! What an update holds of this kernel; what it does to it is in `operations`.

mod choice;
mod objects;
mod operations;
mod tasks;

use alloc::vec::Vec;
use core::time::Duration;

use dynamos_abi::edition::{BRIDGE, FINAL, ORIGINAL};
use dynamos_abi::{Function, HookKind, Record, VMLINUX};
use dynamos_core::{Errno, Place, Range, Resolved, UpdateId, Word};

use crate::checks::sections;
use crate::ffi::errno::Errno as KernelErrno;
use crate::ffi::hook::Hook;
use crate::ffi::memory::TryVec;
use crate::ffi::modules::{Module, Ranges};
use crate::ffi::redirect::Redirection;
use crate::ffi::stacks::StackBuffer;
use crate::ffi::update::{ActiveFlag, Descriptor};
use crate::ffi::{kernel_memory, wait};
use crate::handlers::{self, Opened};
use crate::late::{LateTables, Placeholders};
use crate::names::{as_c_str, c_string};
use crate::policies::Policies;
use crate::refused::to_core;
use crate::replacing::Replacing;
use crate::watched::{Part, Watched};
use objects::ByObject;
use tasks::ByTask;

/// What one update holds of the kernel.
pub(crate) struct KernelLayer {
    pub(crate) id: UpdateId,
    pub(crate) record: Record<'static>,
    /// The update's own module, while its code may be reached.
    pub(crate) own: Option<Module>,
    ranges: Ranges,
    addresses: &'static [u64],
    pub(crate) active: ActiveFlag,
    late: LateTables,
    placeholders: Option<Placeholders>,
    /// Where each function is.
    pub(crate) functions: Vec<u64>,
    /// The object whose module is about to begin: it cannot be held, and need not be.
    coming: Option<u32>,
    /// A module that it is for has ended.
    going: bool,
    /// The slots that the switch writes.
    words: Vec<Word>,
    /// One slot for each object.
    targets: Vec<Option<Module>>,
    /// One slot for each function.
    pub(crate) redirects: Vec<Option<Redirection>>,
    pub(crate) policies: Policies,
    /// What no task may be in when the update becomes active.
    pub(crate) left_on_activation: Watched,
    /// What no task may be in when it stops to be.
    left_on_revert: Watched,
    /// What no task may be in before the phase after the next edition's, by edition. Empty without phases.
    editions: Vec<Watched>,
    stack: StackBuffer,
    /// What relocations have overwritten.
    before: Vec<Written>,
    /// Whether an edition or a hook has run, or may have.
    has_run: bool,
    switch: Switch,
    /// From the beginning of an activation to the switch: busy tasks do not hold it up.
    hurry: Option<wait::Hurry>,
    pub(crate) replacing: Replacing,
    tasks: ByTask,
    objects: ByObject,
    /// The hook that has not returned yet.
    hook: Option<(HookKind, Hook)>,
}

/// Bytes of the update before a relocation was written.
struct Written {
    address: u64,
    bytes: [u8; 8],
    len: usize,
}

/// What the last switch took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Switch {
    /// How many stacks were checked.
    pub(crate) tasks: u32,
    /// For how long all CPUs did nothing else.
    pub(crate) pause: Duration,
    /// When it was.
    pub(crate) at: Duration,
}

impl KernelLayer {
    /// For an update that has done nothing yet.
    pub(crate) fn new(
        id: UpdateId,
        record: Record<'static>,
        descriptor: &Descriptor<'static>,
        own: Module,
    ) -> Result<Self, KernelErrno> {
        let mut targets = Vec::new();
        for _ in record.objects().iter() {
            targets.try_push(None)?;
        }
        let mut redirects = Vec::new();
        for _ in record.functions().iter() {
            redirects.try_push(None)?;
        }
        Ok(Self {
            id,
            record,
            ranges: own.ranges(),
            own: Some(own),
            addresses: descriptor.addresses(),
            active: descriptor.active()?,
            late: LateTables::new(descriptor.jump_entries(), descriptor.static_call_sites()),
            placeholders: None,
            functions: Vec::new(),
            coming: None,
            going: false,
            words: Vec::new(),
            targets,
            redirects,
            policies: Policies::new(&record, descriptor.takes_by_default())?,
            left_on_activation: Watched::default(),
            left_on_revert: Watched::default(),
            editions: Vec::new(),
            stack: StackBuffer::new()?,
            before: Vec::new(),
            has_run: false,
            switch: Switch::default(),
            hurry: None,
            replacing: Replacing::new(record.functions().len() as usize)?,
            tasks: ByTask::default(),
            objects: ByObject::default(),
            hook: None,
        })
    }

    /// The update's code.
    pub(crate) fn text(&self) -> Range {
        let text = self.ranges.text();
        Range { start: text.start, end: text.end }
    }

    /// Whether it decides on a function's calls.
    pub(crate) fn has_redirection(&self, function: u32) -> bool {
        self.redirects.get(function as usize).is_some_and(Option::is_some)
    }

    /// Takes note of where everything is: between matching and activation.
    pub(crate) fn adopt(&mut self, resolved: &Resolved) -> Result<(), KernelErrno> {
        self.placeholders =
            Some(Placeholders::new(&self.record, self.addresses, &resolved.symbols)?);
        self.functions = Vec::try_filled_from(&resolved.functions)?;
        let text = self.text();
        let watched =
            |part| Watched::new(&self.record, &self.functions, self.addresses, text, part);
        (self.left_on_activation, self.left_on_revert) =
            (watched(Part::Whole)?, watched(Part::Entry)?);
        self.editions.clear();
        if self.record.has_phases() {
            for edition in [ORIGINAL, BRIDGE, FINAL] {
                let (functions, addresses) = (&self.functions, self.addresses);
                let watched = Watched::edition(&self.record, functions, addresses, edition)?;
                self.editions.try_push(watched)?;
            }
        }
        if !self.record.slots().is_empty() {
            for thunk in handlers::thunks()? {
                // From where it jumps nobody can tell.
                self.left_on_activation.also(thunk, Place::Unknown)?;
                self.left_on_revert.also(thunk, Place::Unknown)?;
            }
        }
        Ok(())
    }

    /// Takes note of the slots that the switch writes.
    pub(crate) fn set_words(&mut self, words: Vec<Word>) {
        self.words = words;
    }

    /// Makes the slots ready to be written.
    fn open_words(&self) -> Result<Opened, Errno> {
        // SAFETY: tables of the kernel or of modules that this holds, or of the one that comes or goes meanwhile.
        unsafe { Opened::new(&self.words) }.map_err(to_core)
    }

    /// The addresses that the record refers to by index.
    pub(crate) fn addresses(&self) -> &'static [u64] {
        self.addresses
    }

    /// The update's own sections.
    pub(crate) fn writable(&self) -> Result<Vec<Range>, KernelErrno> {
        sections(&self.ranges)
    }

    /// Whether its code, and all that it needs, must stay until the machine is booted again.
    pub(crate) fn keeps_code(&self) -> bool {
        self.has_run && !self.record.pinned().is_empty()
    }

    /// Whether its module must, for that or for its data.
    pub(crate) fn stays(&self) -> bool {
        self.has_run && !self.record.stays().is_empty()
    }

    /// What the last switch took.
    pub(crate) fn last_switch(&self) -> Switch {
        self.switch
    }

    /// Has what comes next done soon, until the switch.
    pub(crate) fn hurry(&mut self) {
        self.hurry = Some(wait::Hurry::begin());
    }

    /// The switch is made, or given up.
    pub(crate) fn be_calm(&mut self) {
        if self.hurry.take().is_some() {
            // What is left makes calls cheaper; the first calls need not wait for it.
            wait::pause(Duration::from_millis(1));
        }
    }

    /// Says which object's module is about to begin.
    pub(crate) fn set_coming(&mut self, object: Option<u32>) {
        self.coming = object;
    }

    /// Says whether a module that it is for has ended.
    pub(crate) fn set_going(&mut self, going: bool) {
        self.going = going;
    }

    /// Holds the modules that came after this one, and so were not held: its code must stay, with all that it refers to.
    /// `false`: one of them does not stay.
    fn hold_targets(&mut self) -> bool {
        for ((index, object), slot) in
            (0u32..).zip(self.record.objects().iter()).zip(&mut self.targets)
        {
            let name = self.record.str(object.name);
            if name == VMLINUX || slot.is_some() {
                continue;
            }
            if self.coming == Some(index) {
                return false; // It may still fail to begin.
            }
            let found = c_string(name).and_then(|name| Module::find(as_c_str(&name)?));
            match found {
                Ok(module) => *slot = Some(module),
                Err(_) => return false,
            }
        }
        true
    }

    /// Takes the static keys and static calls back of code that must stay, for a key goes with its module. Somebody may
    /// be in that code, so it is not written to: it keeps the branches that it has, and does not begin anew.
    fn forget_tables(&mut self) {
        self.late = LateTables::new(0..0, 0..0);
    }

    /// Lets go of a module that goes, whatever still refers to it.
    pub(crate) fn lose_target(&mut self, object: u32) {
        if self.keeps_code() {
            self.forget_tables();
        }
        if let Some(slot) = self.targets.get_mut(object as usize) {
            *slot = None;
        }
    }

    /// The first object whose module is not loaded.
    pub(crate) fn missing_target(&self) -> Result<Option<u32>, KernelErrno> {
        for (index, object) in (0u32..).zip(self.record.objects().iter()) {
            let name = self.record.str(object.name);
            if name == VMLINUX || self.coming == Some(index) {
                continue;
            }
            match Module::find(as_c_str(&c_string(name)?)?) {
                Err(KernelErrno::ENOENT) => return Ok(Some(index)),
                other => drop(other?),
            }
        }
        Ok(None)
    }

    /// Whether all that is replaced is in the module that is about to begin.
    pub(crate) fn is_fresh(&self) -> bool {
        let comes = |symbol: u32| {
            let symbol = self.record.symbols().get(symbol);
            symbol.map(|symbol| symbol.object) == self.coming
        };
        self.coming.is_some()
            && self.record.replaced().all(|(_, function)| comes(function.symbol))
            && self.record.slots().iter().all(|slot| comes(slot.symbol))
    }

    /// Takes the reference that keeps the update's module, before its code can be reached.
    pub(crate) fn hold(&mut self) -> Result<(), KernelErrno> {
        if self.own.is_none() {
            let name = c_string(self.record.name())?;
            // Its exit function waits for whoever calls this, so a live module of this name is it.
            let module = Module::find(as_c_str(&name)?)?;
            if module.ranges().text() != self.ranges.text() {
                return Err(KernelErrno::EBUSY);
            }
            self.own = Some(module);
        }
        Ok(())
    }

    /// Lets the update's module go: its code cannot be reached any more.
    pub(crate) fn release(&mut self) {
        if !self.stays() {
            self.own = None;
        }
    }

    /// Makes the update's references lead to its placeholders again, as when it was loaded. Nothing runs in it.
    pub(crate) fn forget_references(&mut self) -> Result<(), KernelErrno> {
        let module = self.own.as_ref().ok_or(KernelErrno::EBUSY)?;
        while let Some(written) = self.before.last() {
            let bytes = written.bytes.get(..written.len).ok_or(KernelErrno::EINVAL)?;
            // SAFETY: what the loader wrote there; nothing leads to the update's code.
            unsafe { kernel_memory::write(module, written.address, bytes) }?;
            self.before.pop();
        }
        Ok(())
    }

    pub(crate) fn own(&self) -> Result<&Module, Errno> {
        self.own.as_ref().ok_or(to_core(KernelErrno::EBUSY))
    }

    pub(crate) fn function(&self, index: u32) -> Result<(Function, u64), Errno> {
        let function = self.record.functions().get(index);
        function.zip(self.functions.get(index as usize).copied()).ok_or(INVALID)
    }
}

/// A record that was checked does not lead here.
pub(crate) const INVALID: Errno = Errno(22);
