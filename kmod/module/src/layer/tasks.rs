//! Scope `task`: each task takes one edition, and is moved to the other when it is outside of what it leaves.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use dynamos_abi::function_flags;
use dynamos_abi::policy as place;
use dynamos_core::policy::native::Place;
use dynamos_core::tasks::{Asks, TaskTable, write_handler};
use dynamos_core::{Blocked, Blockers, Errno, Refusal, Scope};

use super::{INVALID, KernelLayer};
use crate::ffi::errno::Errno as KernelErrno;
use crate::ffi::memory::{TryVec, try_box};
use crate::ffi::stacks::{StackBuffer, Task, Then};
use crate::ffi::tasks::{AtBorder, Mover, NotedTasks, be_ready};
use crate::ffi::{kernel_memory, log, policy};
use crate::policies::Rule;
use crate::refused::{Refused, to_core};
use crate::watched::Watched;

/// How handlers know which edition a task takes.
#[derive(Default)]
pub(super) struct ByTask {
    /// Whether transition handlers ask.
    asks: bool,
    /// The address of the table that they read. Never moved or freed while a handler may read it.
    cell: Option<Box<AtomicU64>>,
    /// Where `gs` has the pointer to the current task.
    current: u32,
    moving: Option<Mover<Moving>>,
    /// Tables of before, that somebody may still be reading who was preempted there.
    retired: Vec<TaskTable>,
}

/// Tasks on their way.
struct Moving {
    /// Always there, but for a moment.
    noted: Option<NotedTasks>,
    /// What they leave.
    watched: Watched,
    toward: bool,
}

impl Moving {
    /// Moves `task`, which does not go on meanwhile; or says where it is.
    fn consider(&self, task: &Task<'_>) -> Option<Blocked> {
        let blocked = self.watched.blocks(task);
        if let (None, Some(noted)) = (&blocked, &self.noted) {
            noted.table().set(task.address, self.toward);
        }
        blocked
    }
}

impl AtBorder for Moving {
    fn wants(&self, task: u64) -> bool {
        self.noted.as_ref().and_then(|noted| noted.table().noted(task)) == Some(!self.toward)
    }

    fn see(&self, task: &Task<'_>) {
        self.consider(task);
    }
}

impl ByTask {
    /// Whether transition handlers ask for the task.
    pub(super) fn are_asked_for(&self) -> bool {
        self.asks
    }

    /// Whether they are to ask, from now on. Nobody is in one.
    pub(super) fn ask(&mut self, asks: bool) -> Result<(), KernelErrno> {
        self.retired.clear();
        if asks {
            be_ready()?;
            self.current = policy::facts()?.layout.current;
            if self.cell.is_none() {
                self.cell = Some(try_box(AtomicU64::new(0))?);
            }
        }
        self.asks = asks;
        Ok(())
    }

    /// All tasks take one edition again, whatever is noted.
    pub(super) fn end(&mut self) {
        let moving = self.moving.take().map(Mover::into_watcher);
        if let Some(noted) = moving.and_then(|moving| moving.noted) {
            // A turn has taken care that there is room. Else it is never freed, for somebody may be reading it.
            let table = noted.end();
            if self.retired.len() < self.retired.capacity() {
                let _ = self.retired.try_push(table); // There is.
            } else {
                core::mem::forget(table);
            }
        }
    }

    /// Moves tasks that can be moved; whether none is left. `None` if none is to move there.
    pub(super) fn move_all(
        &self,
        active: bool,
        stack: &mut StackBuffer,
        blockers: &mut Blockers,
    ) -> Option<bool> {
        self.look(active, stack, |moving, task| {
            if let Some(blocked) = moving.consider(task) {
                blockers.add(blocked);
            }
            Then::GoOn
        })?;
        Some(blockers.count() == 0)
    }

    /// Wakes those that sleep in what they are to leave.
    pub(super) fn wake(&self, active: bool, stack: &mut StackBuffer) {
        self.look(active, stack, |moving, task| {
            if moving.watched.blocks(task).is_some() { Then::Wake } else { Then::GoOn }
        });
    }

    fn look(
        &self,
        active: bool,
        stack: &mut StackBuffer,
        mut visit: impl FnMut(&Moving, &Task<'_>) -> Then,
    ) -> Option<()> {
        let moving = self.moving.as_ref()?.watcher();
        let noted = moving.noted.as_ref().filter(|_| moving.toward == active)?;
        noted.look(active, stack, |task| visit(moving, task));
        Some(())
    }
}

impl KernelLayer {
    /// Whether calls can be decided by task, or by object: none by a policy or by the update itself.
    pub(crate) fn may_ask_for_more(&self) -> bool {
        self.record.replaced().all(|(index, function)| {
            function.flags & function_flags::ADAPTS == 0
                && self.policies.rule(index) == Rule::Always
        })
    }

    /// Whether the update can be switched in this scope.
    pub(crate) fn check_scope(&self, scope: Scope) -> Result<(), Refused> {
        const WHY: &str = "policies or adaptation handlers of the update decide on each call: use --scope function, or \
                           have all calls take the editions (--default 1)";
        const NO_OBJECTS: &str =
            "it does not say of each function which object its calls work on; use --scope system";
        if scope.is_single() && !self.may_ask_for_more() {
            return Err(Refusal::NoScope { scope, why: WHY }.into());
        }
        if scope == Scope::Object && self.record.counters().is_none() {
            return Err(Refusal::NoScope { scope, why: NO_OBJECTS }.into());
        }
        Ok(())
    }

    /// Whether the transition handler of a function asks for the task.
    pub(crate) fn asks_task(&self, index: u32, rule: Rule) -> bool {
        let adapts = self.record.functions().get(index);
        self.tasks.asks
            && rule == Rule::Always
            && adapts.is_some_and(|function| function.flags & function_flags::ADAPTS == 0)
            && self.replacing.under(index).is_none()
            && !self.replacing.is_leaving()
    }

    /// Writes that handler, to which no call goes and in which nobody is.
    pub(crate) fn write_asking(&self, index: u32, at: u64) -> Result<(), Errno> {
        let (function, _) = self.function(index)?;
        let address = |index: u32| self.addresses.get(index as usize).copied().ok_or(INVALID);
        let place = Place {
            at,
            take: address(function.steady)? + place::PAST_ENDBR,
            leave: address(function.policy)? + place::LEAVE + place::PAST_ENDBR,
            resched: 0,
        };
        let cell = self.tasks.cell.as_ref().ok_or(INVALID)?;
        let asks = Asks {
            flag: self.active.address(),
            current: self.tasks.current,
            cell: cell.as_ptr().addr() as u64,
        };
        let mut code = Vec::try_filled(0u8, place::SLOT as usize).map_err(to_core)?;
        write_handler(&asks, &place, &mut code).map_err(|_| INVALID)?;
        // SAFETY: a slot for code of this kind, to which no call goes and in which nobody is left.
        unsafe { kernel_memory::write(self.own()?, at, &code) }.map_err(to_core)
    }

    /// Has tasks move to the update's editions, or back.
    pub(super) fn turn_tasks(&mut self, active: bool) -> Result<(), KernelErrno> {
        let watched = if active { &self.left_on_activation } else { &self.left_on_revert };
        let next = Moving { noted: None, watched: watched.try_clone()?, toward: active };
        let mut next = try_box(next)?;
        self.tasks.retired.try_reserve(2).map_err(|_| KernelErrno::ENOMEM)?;
        // No task is moved while it is being noted where it is.
        if let Some(moving) = &mut self.tasks.moving {
            moving.end();
        }
        let before = self.tasks.moving.as_ref();
        let before = before.and_then(|moving| moving.watcher().noted.as_ref());
        let before = before.map(NotedTasks::table);
        let default = before.map_or(self.active.get(), TaskTable::default_edition);
        let (flag, cell) = (self.active, self.tasks.cell.as_ref().ok_or(KernelErrno::EINVAL)?);
        let noted = NotedTasks::note_all(
            default,
            |task| before.map_or(default, |table| table.edition(task)),
            |table| {
                // A handler that has read the flag, or the cell, before finds the same editions there: nobody's changes
                // here. The table is whole before its address can be read, and that before the flag.
                cell.store(table.address(), Ordering::SeqCst);
                flag.singly(active);
                table.set_default(active);
            },
        );
        match noted {
            Ok(noted) => {
                next.noted = Some(noted);
                self.tasks.end();
                self.tasks.moving = Some(Mover::new(next));
                self.show_tasks();
                Ok(())
            }
            Err(error) => {
                self.show_tasks();
                Err(error)
            }
        }
    }

    /// Has each task move itself at its system calls, too.
    fn show_tasks(&mut self) {
        if let Some(moving) = &mut self.tasks.moving
            && let Err(error) = moving.begin()
        {
            log::error(format_args!(
                "{}: tasks are not seen at their system calls ({error}), and may take longer to move",
                self.record.name()
            ));
        }
    }
}
