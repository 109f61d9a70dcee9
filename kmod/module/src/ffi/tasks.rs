//! Tasks that move from one edition to the other one by one: all that there are at an instant, and looks at each.

use alloc::boxed::Box;
use core::ffi::{c_int, c_void};
use core::ptr::NonNull;

use dynamos_core::tasks::{Full, TaskTable};

use super::errno::Errno;
use super::stacks::{RawTask, StackBuffer, Task, TaskFn, Then, visit_with};

/// Looks for what this kernel must have for it.
///
/// # Errors
/// [`Errno::EOPNOTSUPP`]: it has no such tracepoints.
pub fn be_ready() -> Result<(), Errno> {
    // SAFETY: looks symbols up.
    Errno::check(unsafe { dynamos_shim_tasks_ready() }).map(drop)
}

/// Notes from here on which tasks are on their way out: they leave every list before they have left the kernel.
///
/// # Errors
/// [`Errno::EOPNOTSUPP`]: this kernel does not tell of it. [`Errno::ENOMEM`].
pub fn note_ending() -> Result<(), Errno> {
    // SAFETY: called once, before any task is looked at.
    Errno::check(unsafe { dynamos_shim_note_ending() }).map(drop)
}

/// Ends that.
pub fn note_no_more() {
    // SAFETY: it was begun, and no task is looked at any more.
    unsafe { dynamos_shim_note_no_more() }
}

/// Tasks with their editions. Each is kept from being freed while it is noted, so no other can be at its address.
pub struct NotedTasks {
    table: TaskTable,
}

/// How often a turn is tried with a larger table.
const TRIES: u32 = 4;

impl NotedTasks {
    /// Notes every task that has run and will run again with the edition that `edition_of` says, at an instant at which none
    /// comes or goes, and calls `flip` at that instant. Tasks that begin after it are not noted.
    ///
    /// Neither `edition_of` nor `flip` may sleep or allocate.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`], or [`Errno::EAGAIN`]: too many tasks began or ended meanwhile. `flip` has not been called.
    pub fn note_all(
        default: bool,
        edition_of: impl Fn(u64) -> bool,
        mut flip: impl FnMut(&TaskTable),
    ) -> Result<Self, Errno> {
        for _ in 0..TRIES {
            // SAFETY: counts.
            let tasks = unsafe { dynamos_shim_count_tasks() } as usize;
            let room = tasks.saturating_mul(2).saturating_add(128);
            let table = TaskTable::with_room(room, default).ok_or(Errno::ENOMEM)?;
            let noted = Self { table };
            match noted.note(&edition_of, &mut flip) {
                Ok(()) => return Ok(noted),
                // More tasks than there is room for, or more that end.
                Err(Errno::ENOSPC | Errno::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EAGAIN)
    }

    fn note(
        &self,
        edition_of: &dyn Fn(u64) -> bool,
        flip: &mut dyn FnMut(&TaskTable),
    ) -> Result<(), Errno> {
        struct Turn<'a> {
            table: &'a TaskTable,
            edition_of: &'a dyn Fn(u64) -> bool,
            flip: &'a mut dyn FnMut(&TaskTable),
        }
        extern "C" fn note(context: *mut c_void, task: u64) -> c_int {
            // SAFETY: the context is the `Turn` below, which waits; only this thread has it.
            let turn = unsafe { &mut *context.cast::<Turn<'_>>() };
            match turn.table.note(task, (turn.edition_of)(task)) {
                Ok(new) => c_int::from(new),
                Err(Full) => Errno::ENOSPC.negative(),
            }
        }
        extern "C" fn flip_all(context: *mut c_void) {
            // SAFETY: as above.
            let turn = unsafe { &mut *context.cast::<Turn<'_>>() };
            (turn.flip)(turn.table);
        }
        let mut turn = Turn { table: &self.table, edition_of, flip };
        // SAFETY: the functions take the context given, which lives through the call. A task for which 1 was the answer
        // is kept until it is put back, which `look` and `drop` do.
        let result = unsafe { dynamos_shim_turn_tasks(note, flip_all, (&raw mut turn).cast()) };
        Errno::check(result).map(drop)
    }

    /// The table.
    pub fn table(&self) -> &TaskTable {
        &self.table
    }

    /// Shows each noted task whose edition is not `but` to `visit`, one after the other, while it does not go on. Lets go of
    /// those that have ended. `visit` neither sleeps nor allocates. By one at a time.
    pub fn look(
        &self,
        but: bool,
        buffer: &mut StackBuffer,
        mut visit: impl FnMut(&Task<'_>) -> Then,
    ) {
        let (pointer, size) = buffer.parts();
        let mut call = |raw: &RawTask| {
            // SAFETY: C has put that many addresses into the buffer, and `comm` is a C string.
            let task = unsafe { raw.task(pointer, size) };
            visit(&task).answer()
        };
        let function = visit_with(&call);
        for (task, _) in self.table.tasks().filter(|(_, edition)| *edition != but) {
            let address = task as *mut c_void;
            // SAFETY: noted, so it is kept.
            if unsafe { dynamos_shim_task_is_dead(address) } {
                self.put(task);
                continue;
            }
            // SAFETY: as above; the function takes the closure given as context, which lives through the call.
            unsafe {
                dynamos_shim_look_at(
                    address,
                    pointer,
                    size as u32,
                    function,
                    (&raw mut call).cast(),
                );
            }
        }
    }

    fn put(&self, task: u64) {
        if self.table.forget(task) {
            // SAFETY: it was kept when it was noted, and is not noted any more.
            unsafe { dynamos_shim_task_put(task as *mut c_void) }
        }
    }

    /// Lets all tasks go. The table stays, for handlers that may still be reading it.
    pub fn end(mut self) -> TaskTable {
        self.put_all();
        core::mem::take(&mut self.table)
    }

    /// Nothing is done with the table's keys after this but to compare them.
    fn put_all(&self) {
        for (task, _) in self.table.tasks() {
            // SAFETY: it was kept when it was noted, and is put once.
            unsafe { dynamos_shim_task_put(task as *mut c_void) }
        }
    }
}

impl Drop for NotedTasks {
    fn drop(&mut self) {
        self.put_all(); // After `end` there are none.
    }
}

/// What is done with tasks at their system calls. Called by each task for itself, on several CPUs at a time.
pub trait AtBorder: Sync {
    /// Whether it wants to see the task at this address.
    fn wants(&self, task: u64) -> bool;
    /// What is on the task's stack.
    fn see(&self, task: &Task<'_>);
}

/// Shows tasks to `W` at the beginning and the end of their system calls, while it is on.
pub struct Mover<W: AtBorder> {
    watcher: Box<W>,
    raw: Option<NonNull<RawMover>>,
}

// SAFETY: what is registered is not bound to a thread.
unsafe impl<W: AtBorder + Send> Send for Mover<W> {}

impl<W: AtBorder> Mover<W> {
    /// Off.
    pub fn new(watcher: Box<W>) -> Self {
        Self { watcher, raw: None }
    }

    /// Shows tasks from now on.
    ///
    /// # Errors
    /// The kernel's; it is still off.
    pub fn begin(&mut self) -> Result<(), Errno> {
        extern "C" fn wants<W: AtBorder>(context: *const c_void, task: u64) -> bool {
            // SAFETY: the context is the watcher, which is only ever shared while it is registered.
            unsafe { &*context.cast::<W>() }.wants(task)
        }
        extern "C" fn see<W: AtBorder>(context: *mut c_void, task: *const RawTask) -> c_int {
            // SAFETY: as above; the task is C's, with its entries behind the pointer.
            unsafe {
                let task = (*task).task((*task).trace(), MAX_AT_BORDER);
                (*context.cast_const().cast::<W>()).see(&task);
            }
            0
        }
        if self.raw.is_some() {
            return Ok(());
        }
        let context = (&raw const *self.watcher).cast::<c_void>();
        let mut raw = core::ptr::null_mut();
        // SAFETY: the functions take the context given, which lives until after `end`.
        Errno::check(unsafe {
            dynamos_shim_mover_begin(wants::<W>, see::<W>, context.cast_mut(), &raw mut raw)
        })?;
        self.raw = NonNull::new(raw);
        Ok(())
    }

    /// No task is being shown after this.
    pub fn end(&mut self) {
        if let Some(raw) = self.raw.take() {
            // SAFETY: begun, and ended once.
            unsafe { dynamos_shim_mover_end(raw.as_ptr()) }
        }
    }

    /// What sees them.
    pub fn watcher(&self) -> &W {
        &self.watcher
    }

    /// The same, once it is off.
    pub fn into_watcher(mut self) -> W {
        self.end();
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: read once, for `this` is not dropped.
        *unsafe { core::ptr::read(&raw const this.watcher) }
    }
}

impl<W: AtBorder> Drop for Mover<W> {
    fn drop(&mut self) {
        self.end();
    }
}

/// `ENTRIES_AT_BORDER`.
const MAX_AT_BORDER: usize = 32;

/// The shim's `struct dynamos_mover`.
#[repr(C)]
struct RawMover {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn dynamos_shim_note_ending() -> c_int;
    fn dynamos_shim_note_no_more();
    fn dynamos_shim_tasks_ready() -> c_int;
    fn dynamos_shim_turn_tasks(
        note: extern "C" fn(*mut c_void, u64) -> c_int,
        flip: extern "C" fn(*mut c_void),
        context: *mut c_void,
    ) -> c_int;
    fn dynamos_shim_count_tasks() -> u32;
    fn dynamos_shim_task_is_dead(task: *mut c_void) -> bool;
    fn dynamos_shim_task_put(task: *mut c_void);
    fn dynamos_shim_look_at(
        task: *mut c_void,
        entries: *mut u64,
        size: u32,
        visit: TaskFn,
        context: *mut c_void,
    );
    fn dynamos_shim_mover_begin(
        wants: extern "C" fn(*const c_void, u64) -> bool,
        visit: TaskFn,
        context: *mut c_void,
        result: *mut *mut RawMover,
    ) -> c_int;
    fn dynamos_shim_mover_end(mover: *mut RawMover);
}
