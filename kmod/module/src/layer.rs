//! What an update does to this kernel: `dynamos-core`'s [`Layer`] by way of `ffi`.

use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;
use core::time::Duration;

use dynamos_abi::{Function, Record};
use dynamos_core::{
    Blockers, Errno, HANDLER_LEN, Handler, Layer, Memory, Range, Resolved, State, UpdateId,
    is_handler,
};

use crate::ffi::errno::Errno as KernelErrno;
use crate::ffi::memory::TryVec;
use crate::ffi::modules::{Module, RangeKind, Ranges};
use crate::ffi::redirect::{self, Redirection};
use crate::ffi::stacks::{self, StackBuffer};
use crate::ffi::update::{ActiveFlag, Descriptor};
use crate::ffi::{kernel_memory, log, wait};
use crate::late::{LateTables, Placeholders};
use crate::names::{as_c_str, c_string};
use crate::refused::to_core;
use crate::updates;
use crate::watched::Watched;

/// The object that cannot be unloaded.
const VMLINUX: &str = "vmlinux";

/// What one update holds of the kernel.
pub(crate) struct KernelLayer {
    id: UpdateId,
    record: Record<'static>,
    /// The update's own module, while its code may be reached.
    own: Option<Module>,
    ranges: Ranges,
    addresses: &'static [u64],
    active: ActiveFlag,
    late: LateTables,
    placeholders: Option<Placeholders>,
    /// Where each function is.
    functions: Vec<u64>,
    /// One slot for each object.
    targets: Vec<Option<Module>>,
    /// One slot for each function.
    redirects: Vec<Option<Redirection>>,
    watched: Watched,
    stack: StackBuffer,
    /// What relocations have overwritten.
    before: Vec<Written>,
    /// Whether the editions have run, and the record wants their code kept: nothing it needs is taken away.
    keep: bool,
    switch: Switch,
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
            targets,
            redirects,
            watched: Watched::default(),
            stack: StackBuffer::new()?,
            before: Vec::new(),
            keep: false,
            switch: Switch::default(),
        })
    }

    /// Takes note of where everything is: between matching and activation.
    pub(crate) fn adopt(&mut self, resolved: &Resolved) -> Result<(), KernelErrno> {
        self.placeholders =
            Some(Placeholders::new(&self.record, self.addresses, &resolved.symbols)?);
        self.functions = Vec::try_filled_from(&resolved.functions)?;
        let text = self.ranges.text();
        let text = Range { start: text.start, end: text.end };
        self.watched = Watched::new(&self.record, &self.functions, self.addresses, text)?;
        Ok(())
    }

    /// The addresses that the record refers to by index.
    pub(crate) fn addresses(&self) -> &'static [u64] {
        self.addresses
    }

    /// The update's own sections.
    pub(crate) fn writable(&self) -> Result<Vec<Range>, KernelErrno> {
        sections(&self.ranges)
    }

    /// What the last switch took.
    pub(crate) fn last_switch(&self) -> Switch {
        self.switch
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
        if !self.keep {
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

    fn own(&self) -> Result<&Module, Errno> {
        self.own.as_ref().ok_or(to_core(KernelErrno::EBUSY))
    }

    fn function(&self, index: u32) -> Result<(Function, u64), Errno> {
        let function = self.record.functions().get(index);
        function.zip(self.functions.get(index as usize).copied()).ok_or(INVALID)
    }

    fn handler(&self, function: &Function, handler: Handler) -> Result<u64, Errno> {
        let index = match handler {
            Handler::Transition => function.transition,
            Handler::Steady => function.steady,
        };
        self.addresses.get(index as usize).copied().ok_or(INVALID)
    }
}

/// A record that was checked does not lead here.
const INVALID: Errno = Errno(22);

/// Module memory as `dynamos-core` speaks of it.
pub(crate) fn sections(ranges: &Ranges) -> Result<Vec<Range>, KernelErrno> {
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
    let leads = |index: u32, kind: Handler, clone: u64| {
        let Some(address) = text(index) else { return false };
        let mut code = [0; HANDLER_LEN];
        let len = ranges.text().end.saturating_sub(address).min(HANDLER_LEN as u64);
        let code = code.get_mut(..len as usize).unwrap_or_default();
        kernel_memory::read(address, code).is_ok()
            && is_handler(code, address, kind, clone, active.address())
    };
    let replaced = |function: &Function| function.flags & dynamos_abi::function_flags::REPLACE != 0;
    addresses.len() == record.addr_count() as usize
        && addresses.iter().all(|address| ranges.kind_of(*address, 0).is_some())
        && record.functions().iter().filter(replaced).all(|function| {
            text(function.clone).is_some_and(|clone| {
                leads(function.transition, Handler::Transition, clone)
                    && leads(function.steady, Handler::Steady, clone)
            })
        })
}

impl Memory for KernelLayer {
    fn read(&mut self, address: u64, into: &mut [u8]) -> bool {
        kernel_memory::read(address, into).is_ok()
    }
}

impl Layer for KernelLayer {
    fn pin_target(&mut self, object: u32) -> Result<(), Errno> {
        let name = self.record.objects().get(object).ok_or(INVALID)?;
        let name = self.record.str(name.name);
        if name == VMLINUX {
            return Ok(());
        }
        let find = || Module::find(as_c_str(&c_string(name)?)?);
        let module = find().map_err(to_core)?;
        *self.targets.get_mut(object as usize).ok_or(INVALID)? = Some(module);
        Ok(())
    }

    fn unpin_target(&mut self, object: u32) {
        if let Some(slot) = self.targets.get_mut(object as usize)
            && !self.keep
        {
            *slot = None;
        }
    }

    fn write_text(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut written = Written { address, bytes: [0; 8], len: bytes.len() };
        let before = written.bytes.get_mut(..bytes.len()).ok_or(INVALID)?;
        kernel_memory::read(address, before).map_err(to_core)?;
        self.before.try_push(written).map_err(to_core)?;
        // SAFETY: a relocation of the update's record, written before anything leads to the update's code.
        unsafe { kernel_memory::write(self.own()?, address, bytes) }.map_err(to_core)
    }

    fn late_sections(&mut self) -> Result<(), Errno> {
        let module = self.own.as_ref().ok_or(INVALID)?;
        let placeholders = self.placeholders.as_ref().ok_or(INVALID)?;
        self.late.install(module, placeholders).map_err(to_core)
    }

    fn undo_late_sections(&mut self) {
        if self.keep {
            return;
        }
        match &self.own {
            Some(module) => self.late.remove(module),
            None if self.late.are_installed() => {
                log::error(format_args!("{}: its module went before its keys", self.record.name()));
            }
            None => {}
        }
    }

    fn register_redirect(&mut self, function: u32) -> Result<(), Errno> {
        let (entry, address) = self.function(function)?;
        if redirect::site_of(address) != address.checked_add(u64::from(entry.fentry)) {
            return Err(INVALID);
        }
        let handler = self.handler(&entry, Handler::Transition)?;
        let slot = self.redirects.get_mut(function as usize).ok_or(INVALID)?;
        if slot.is_some() {
            return Err(to_core(KernelErrno::EEXIST));
        }
        // SAFETY: the update made the handler for this function, whose code was matched. The update holds its
        // own module until the redirection is removed and nobody is in a handler.
        let redirection = unsafe { Redirection::install(address, handler) }.map_err(to_core)?;
        *slot = Some(redirection);
        Ok(())
    }

    fn modify_redirect(&mut self, function: u32, handler: Handler) -> Result<(), Errno> {
        let (entry, _) = self.function(function)?;
        let address = self.handler(&entry, handler)?;
        let slot = self.redirects.get_mut(function as usize).and_then(Option::as_mut);
        // SAFETY: as for the handler that was installed.
        unsafe { slot.ok_or(INVALID)?.replace(address) }.map_err(to_core)
    }

    fn unregister_redirect(&mut self, function: u32) -> Result<(), Errno> {
        let slot = self.redirects.get_mut(function as usize).ok_or(INVALID)?;
        // An empty slot is one that the kernel did not let go before; it never will.
        slot.take().ok_or(INVALID)?.remove().map_err(to_core)
    }

    fn check_and_flip(&mut self, active: bool, blockers: &mut Blockers) -> Result<bool, Errno> {
        let (flag, watched, stack) = (self.active, &self.watched, &mut self.stack);
        let mut switch = Switch::default();
        let flipped = stacks::with_cpus_stopped(|stopped| {
            let start = wait::now();
            let _ = stopped.each_task(stack, |task| {
                switch.tasks = switch.tasks.saturating_add(1);
                if let Some(blocked) = watched.blocks(task) {
                    blockers.add(blocked);
                }
                ControlFlow::Continue(())
            });
            let clean = blockers.count() == 0;
            if clean {
                flag.set(active);
            }
            switch.pause = wait::now().saturating_sub(start);
            clean
        })
        .map_err(to_core)?;
        self.switch = switch;
        self.keep |= flipped && active && !self.record.pinned().is_empty();
        Ok(flipped)
    }

    fn wait(&mut self, ms: u32) -> bool {
        wait::sleep(Duration::from_millis(u64::from(ms))).is_ok()
    }

    fn synchronize(&mut self) {
        wait::synchronize_rcu_tasks();
    }

    fn progress(&mut self, state: State, blockers: &Blockers) {
        updates::show_progress(self.id, state, blockers);
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        log::info(line);
    }
}
