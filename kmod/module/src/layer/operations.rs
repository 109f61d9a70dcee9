//! What an update does to this kernel: `dynamos-core`'s [`Layer`] by way of `ffi`.

use core::fmt;
use core::ops::ControlFlow;
use core::time::Duration;

use dynamos_abi::HookKind;
use dynamos_abi::edition::ORIGINAL;
use dynamos_core::{
    Blocked, Blockers, Errno, Handler, Layer, Memory, Name, Phase, Returned, Scope, State, Update,
};

use super::{INVALID, KernelLayer, Switch, VMLINUX, Written};
use crate::ffi::errno::Errno as KernelErrno;
use crate::ffi::hook::Hook;
use crate::ffi::memory::TryVec;
use crate::ffi::modules::Module;
use crate::ffi::redirect::{self, Redirection};
use crate::ffi::stacks::{self, StackBuffer, Task, Then};
use crate::ffi::{kernel_memory, log, wait};
use crate::names::{as_c_str, c_string};
use crate::refused::to_core;
use crate::updates;
use crate::watched::Watched;

impl Memory for KernelLayer {
    fn read(&mut self, address: u64, into: &mut [u8]) -> bool {
        kernel_memory::read(address, into).is_ok()
    }
}

impl Layer for KernelLayer {
    fn pin_target(&mut self, object: u32) -> Result<(), Errno> {
        let name = self.record.objects().get(object).ok_or(INVALID)?;
        let name = self.record.str(name.name);
        if name == VMLINUX || self.coming == Some(object) {
            return Ok(());
        }
        let find = || Module::find(as_c_str(&c_string(name)?)?);
        let module = find().map_err(to_core)?;
        *self.targets.get_mut(object as usize).ok_or(INVALID)? = Some(module);
        Ok(())
    }

    fn unpin_target(&mut self, object: u32) {
        if self.keeps_code() {
            return;
        }
        if let Some(slot) = self.targets.get_mut(object as usize) {
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
        if self.keeps_code() {
            if self.going || !self.hold_targets() {
                self.forget_tables();
            }
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
        if self.take_redirection(function)? {
            self.has_run |= self.active.edition() != 0;
            return Ok(());
        }
        let rule = self.policies.rule(function);
        self.write_choice(function)?;
        if self.counts(function, rule) {
            self.write_original(function)?;
        }
        let handler = self.handler(function, Handler::Transition, rule)?;
        let slot = self.redirects.get_mut(function as usize).ok_or(INVALID)?;
        if slot.is_some() {
            return Err(to_core(KernelErrno::EEXIST));
        }
        // SAFETY: the update made the handler for this function, whose code was matched. The update holds its
        // own module until the redirection is removed and nobody is in a handler.
        let installed = unsafe { Redirection::install(address, handler) };
        // Also where it is taken back again at once, calls may have come by.
        let seen = matches!(installed, Ok(_) | Err(KernelErrno::EAGAIN));
        self.has_run |= seen && self.active.edition() != 0;
        *slot = Some(installed.map_err(to_core)?);
        Ok(())
    }

    fn modify_redirect(&mut self, function: u32, handler: Handler) -> Result<(), Errno> {
        if self.replacing.is_handed(function) {
            return Ok(());
        }
        match handler {
            Handler::Transition => self.write_choice(function)?,
            // Somebody may be in the slot that asked the flag.
            Handler::Steady => {
                self.replacing.stale |=
                    self.replacing.under(function).is_some() || self.tasks.are_asked_for();
            }
        }
        let address = self.handler(function, handler, self.policies.rule(function))?;
        self.redirect(function, address)
    }

    fn unregister_redirect(&mut self, function: u32) -> Result<(), Errno> {
        if self.replacing.is_handed(function) || self.hand_back(function)? {
            return Ok(());
        }
        let slot = self.redirects.get_mut(function as usize).ok_or(INVALID)?;
        slot.take().ok_or(INVALID)?.remove().map_err(|(left, error)| {
            *slot = Some(left);
            to_core(error)
        })
    }

    fn replaces_others(&self) -> bool {
        !self.replacing.others.is_empty()
    }

    fn reshaped_other(&self) -> Option<Name> {
        let mut others = self.replacing.others.iter().map(|(_, other)| &other.update);
        others.find(|update| update.record().is_reshaped()).map(Update::name)
    }

    fn ready_others(&mut self) -> Result<(), Errno> {
        self.make_others_ready()
    }

    fn others_stay(&mut self) {
        self.have_others_stay();
    }

    fn others_leave(&mut self) {
        self.have_others_leave();
    }

    fn check_and_flip(&mut self, active: bool, blockers: &mut Blockers) -> Result<bool, Errno> {
        self.gather_strays()?;
        let words = self.open_words()?;
        let watched = if active { &self.left_on_activation } else { &self.left_on_revert };
        let going = self.going && !active;
        let (flag, stack, others) = (self.active, &mut self.stack, &self.replacing);
        // No CPU is stopped for what is going to be in vain.
        look_at_all(stack, blockers, |task| watched.blocks(task));
        if blockers.has_sleepers() {
            return Ok(false);
        }
        *blockers = Blockers::default();
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
            if blockers.count() != 0 {
                return Some(false);
            }
            // SAFETY: nobody is in a function that reads one; all of it was proven when it was resolved.
            let written = unsafe {
                if going {
                    words.take_back();
                }
                going || words.write(active)
            };
            if written {
                flag.set(active);
                if active {
                    others.clear_flags();
                }
            }
            switch.at = wait::now();
            switch.pause = switch.at.saturating_sub(start);
            written.then_some(true)
        })
        .map_err(to_core)?;
        self.switch = switch;
        let flipped = flipped.ok_or(to_core(KernelErrno::EBUSY))?;
        self.has_run |= flipped && active;
        self.be_calm();
        Ok(flipped)
    }

    fn flip_now(&mut self, active: bool) -> Result<(), Errno> {
        self.gather_strays()?;
        if !self.words.is_empty() {
            let words = self.open_words()?;
            // SAFETY: only a module that has not begun has slots here, so nobody reads them.
            if !active || !unsafe { words.write(true) } {
                return Err(to_core(KernelErrno::EBUSY));
            }
        }
        // Sequentially consistent, so before whatever the look at a stack reads: a task that has read the flag before
        // this is in its handler, or further, until that look, and one that reads it later finds this.
        if active && self.objects.count() && self.is_fresh() {
            self.count_from_the_beginning()?;
        } else {
            self.active.set(active);
            self.objects.end();
        }
        self.tasks.end();
        if active {
            self.replacing.clear_flags();
        }
        self.switch = Switch { at: wait::now(), ..Switch::default() };
        // Before anything leads there it has not.
        let leads = self.redirects.iter().any(Option::is_some) || !self.words.is_empty();
        self.has_run |= active && leads;
        Ok(())
    }

    fn drained(&mut self, blockers: &mut Blockers) -> Result<bool, Errno> {
        self.replacing.await_comers();
        let watched = &self.left_on_revert;
        self.switch = look_at_all(&mut self.stack, blockers, |task| watched.blocks(task));
        Ok(blockers.count() == 0)
    }

    fn wake_blockers(&mut self, activating: bool) {
        let watched = if activating { &self.left_on_activation } else { &self.left_on_revert };
        wake(watched, &mut self.stack);
    }

    fn choose_by(&mut self, scope: Scope) -> Result<(), Errno> {
        self.tasks.ask(scope == Scope::Task).map_err(to_core)?;
        self.count_objects(scope == Scope::Object).map_err(to_core)
    }

    fn turn(&mut self, active: bool) -> Result<(), Errno> {
        self.gather_strays()?;
        match self.objects.count() {
            true => self.turn_objects(active)?,
            false => self.turn_tasks(active).map_err(to_core)?,
        }
        self.switch = Switch { at: wait::now(), ..Switch::default() };
        self.has_run |= active;
        self.be_calm();
        Ok(())
    }

    fn move_over(&mut self, active: bool, blockers: &mut Blockers) -> Result<bool, Errno> {
        if self.objects.count() {
            return self.move_objects(active, blockers);
        }
        if !self.tasks.move_all(active, &mut self.stack, blockers).ok_or(INVALID)? {
            return Ok(false);
        }
        // All tasks take this edition, noted or not.
        self.active.set(active);
        self.tasks.end();
        Ok(true)
    }

    fn wake_moving(&mut self, active: bool) {
        match self.objects.count() {
            true => self.wake_objects(active),
            false => self.tasks.wake(active, &mut self.stack),
        }
    }

    fn take(&mut self, edition: u32) -> Result<(), Errno> {
        self.gather_strays()?;
        let byte = u8::try_from(edition).map_err(|_| INVALID)?;
        // Before whatever the look at a stack reads, as in `flip_now`.
        self.active.take(byte);
        self.switch = Switch { at: wait::now(), ..Switch::default() };
        self.has_run |= edition != ORIGINAL;
        self.be_calm();
        Ok(())
    }

    fn has_left(&mut self, edition: u32, blockers: &mut Blockers) -> Result<bool, Errno> {
        let watched = self.editions.get(edition as usize).ok_or(INVALID)?;
        look_at_all(&mut self.stack, blockers, |task| watched.blocks(task));
        if blockers.count() != 0 {
            return Ok(false);
        }
        // Nobody comes there any more; a task that ends, and is in no list, may still be there.
        wait::synchronize_rcu_tasks();
        Ok(true)
    }

    fn wake_in(&mut self, edition: u32) {
        let Some(watched) = self.editions.get(edition as usize) else { return };
        wake(watched, &mut self.stack);
    }

    fn show_phase(&mut self, phase: Phase) {
        updates::show_phase(self.id, phase);
    }

    fn begin_hook(&mut self, kind: HookKind) -> Result<(), Errno> {
        if self.hook.is_some() {
            return Err(to_core(KernelErrno::EBUSY));
        }
        self.be_calm();
        let function = self.record.hook(kind).ok_or(INVALID)?;
        let function = *self.addresses.get(function as usize).ok_or(INVALID)?;
        self.own()?;
        // SAFETY: a function of the update that takes nothing and returns an int, by the generator's check of it; its
        // references are written. The update's module is held, and gives nothing back before the hook is ended.
        let hook = unsafe { Hook::begin(function) }.map_err(to_core)?;
        self.hook = Some((kind, hook));
        // It may hand out what has to stay then, and refuse all the same.
        self.has_run = true;
        updates::show_hook(self.id, Some(kind));
        Ok(())
    }

    fn hook_returned(&mut self, ms: u32, patient: bool) -> Returned {
        let Some((kind, hook)) = self.hook.take() else { return Returned::NotYet };
        match hook.wait(Duration::from_millis(u64::from(ms)), patient) {
            Ok(true) => {
                let result = hook.end();
                updates::show_hook(self.id, None);
                // Those are asked again and again.
                if !kind.is_predicate() {
                    log::info(format_args!(
                        "{}: hook {} answers {result}",
                        self.record.name(),
                        kind.name()
                    ));
                }
                Returned::With(result)
            }
            other => {
                self.hook = Some((kind, hook));
                if other.is_ok() { Returned::NotYet } else { Returned::Interrupted }
            }
        }
    }

    fn wait(&mut self, ms: u32) -> bool {
        wait::sleep(Duration::from_millis(u64::from(ms))).is_ok()
    }

    fn now_ms(&mut self) -> u64 {
        u64::try_from(wait::now().as_millis()).unwrap_or(u64::MAX)
    }

    fn synchronize(&mut self) {
        // Where ftrace has not removed a redirection it has not waited for those that RCU-tasks does not see, either.
        if !self.replacing.freshen() {
            wait::synchronize_rcu_tasks();
        }
    }

    fn progress(&mut self, state: State, blockers: &Blockers) {
        if state != State::Transitioning {
            self.be_calm();
        }
        updates::show_progress(self.id, state, blockers);
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        log::info(line);
    }
}

/// Wakes the tasks that sleep in the code that is watched. Whoever is left out is woken the next time.
fn wake(watched: &Watched, stack: &mut StackBuffer) {
    stacks::each_live_task(stack, true, |task| {
        if watched.blocks(task).is_some() { Then::Wake } else { Then::GoOn }
    });
}

/// Looks at one task after the other, and adds those that are found to be in the way.
pub(super) fn look_at_all(
    stack: &mut StackBuffer,
    blockers: &mut Blockers,
    finds: impl Fn(&Task<'_>) -> Option<Blocked>,
) -> Switch {
    let mut switch = Switch::default();
    // Where a task ends while we pause at it, the rest cannot be found from there.
    for pauses in [true, true, true, false] {
        (*blockers, switch) = (Blockers::default(), Switch::default());
        let complete = stacks::each_live_task(stack, pauses, |task| {
            switch.tasks = switch.tasks.saturating_add(1);
            if let Some(blocked) = finds(task) {
                blockers.add(blocked);
            }
            Then::GoOn
        });
        if complete {
            break;
        }
    }
    switch
}
