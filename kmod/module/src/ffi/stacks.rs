//! All CPUs stopped, and what every task has on its stack at that instant.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::marker::PhantomData;
use core::ops::ControlFlow;

use super::errno::Errno;
use super::memory::TryVec;

/// Deeper stacks count as unreliable. Livepatch allows 100.
const MAX_ENTRIES: usize = 256;

/// Room for one stack, allocated before CPUs are stopped.
pub struct StackBuffer(Vec<u64>);

impl StackBuffer {
    /// # Errors
    /// [`Errno::ENOMEM`].
    pub fn new() -> Result<Self, Errno> {
        Vec::try_filled(0, MAX_ENTRIES).map(Self)
    }

    /// Where it is, and for how many addresses.
    pub(super) fn parts(&mut self) -> (*mut u64, usize) {
        (self.0.as_mut_ptr(), self.0.len())
    }
}

/// What a task is doing.
pub enum Stack<'a> {
    /// Every return address and interrupted instruction, innermost first. None of a task without a
    /// kernel stack, or that is in user space.
    Reliable(&'a [u64]),
    /// The unwinder does not vouch for it, for the reason given.
    Unreliable(Errno),
    /// A thread that keeps a CPU stopped: it is in functions of [`dynamos_abi::LEAVES_UNSEEN`].
    Stopper,
}

/// A task of the system.
pub struct Task<'a> {
    /// Where it is itself: no more than a name.
    pub address: u64,
    /// Its thread id in the first namespace; 0 for an idle task.
    pub pid: i32,
    /// Its name; 15 bytes at most.
    pub comm: &'a CStr,
    /// Whether it would run if it got a CPU; else it is asleep.
    pub ready: bool,
    /// Its stack.
    pub stack: Stack<'a>,
}

/// Proof that all CPUs but this one wait with interrupts off.
///
/// Nothing that sleeps, allocates, frees or logs may be called.
pub struct Stopped {
    _not_elsewhere: PhantomData<*mut ()>,
}

impl Stopped {
    /// Shows every task, idle tasks too, to `visit` until it breaks.
    pub fn each_task<F>(&self, buffer: &mut StackBuffer, mut visit: F) -> ControlFlow<()>
    where
        F: FnMut(&Task<'_>) -> ControlFlow<()>,
    {
        let entries = &mut buffer.0;
        let (pointer, size) = (entries.as_mut_ptr(), entries.len());
        let mut call = |raw: &RawTask| {
            // SAFETY: C has put that many addresses into the buffer, and `comm` is a C string.
            let task = unsafe { raw.task(pointer, size) };
            c_int::from(visit(&task).is_break())
        };
        let function = visit_with(&call);
        // SAFETY: `function` takes the closure given as context, which lives through the call. All
        // CPUs are stopped as long as `self` lives.
        let stopped = unsafe {
            dynamos_shim_each_task(pointer, size as u32, function, (&raw mut call).cast())
        };
        if stopped == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// What is to be done about a task that was looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    GoOn,
    /// It is woken from an interruptible sleep, by a signal that is none.
    Wake,
}

impl Then {
    /// For the shim.
    pub(super) fn answer(self) -> c_int {
        /// `DYNAMOS_WAKE`.
        const WAKE: c_int = 2;
        if self == Then::Wake { WAKE } else { 0 }
    }
}

/// Shows every task, idle tasks too, to `visit`, one after the other; none is stopped. What is said of a task held at
/// some moment since the call. It sleeps; `visit` does not, nor does it allocate. `pauses`: other tasks get the CPU now and
/// then; `false` is the answer if after such a pause the rest was not to be found.
///
/// A task that is ending may be left out: see [`super::wait::synchronize_rcu_tasks`].
pub fn each_live_task<F>(buffer: &mut StackBuffer, pauses: bool, mut visit: F) -> bool
where
    F: FnMut(&Task<'_>) -> Then,
{
    let (pointer, size) = buffer.parts();
    let mut call = |raw: &RawTask| {
        // SAFETY: C has put that many addresses into the buffer, and `comm` is a C string.
        let task = unsafe { raw.task(pointer, size) };
        visit(&task).answer()
    };
    let function = visit_with(&call);
    // SAFETY: `function` takes the closure given as context, which lives through the call.
    let result = unsafe {
        dynamos_shim_each_live_task(pointer, size as u32, pauses, function, (&raw mut call).cast())
    };
    result == 0
}

/// Runs `check` on one CPU while all others wait with interrupts off.
///
/// # Errors
/// The kernel's, if the CPUs could not be stopped; `check` has not run.
pub fn with_cpus_stopped<R, F: FnOnce(&Stopped) -> R>(check: F) -> Result<R, Errno> {
    struct Call<R, F> {
        check: Option<F>,
        result: Option<R>,
    }
    extern "C" fn call<R, F: FnOnce(&Stopped) -> R>(context: *mut c_void) -> c_int {
        // SAFETY: the context is the `Call` below, which waits for this function.
        let call = unsafe { &mut *context.cast::<Call<R, F>>() };
        if let Some(check) = call.check.take() {
            call.result = Some(check(&Stopped { _not_elsewhere: PhantomData }));
        }
        0
    }
    let mut request = Call { check: Some(check), result: None };
    // SAFETY: the function takes the context given, which lives through the call.
    Errno::check(unsafe { dynamos_shim_stop_machine(call::<R, F>, (&raw mut request).cast()) })?;
    request.result.ok_or(Errno::ENODEV)
}

/// The C function that calls a closure of this type.
pub(super) fn visit_with<F: FnMut(&RawTask) -> c_int>(_: &F) -> TaskFn {
    extern "C" fn call<F: FnMut(&RawTask) -> c_int>(
        context: *mut c_void,
        task: *const RawTask,
    ) -> c_int {
        // SAFETY: the context is the closure that this function was made for; the task is C's.
        let (visit, task) = unsafe { (&mut *context.cast::<F>(), &*task) };
        visit(task)
    }
    call::<F>
}

/// `struct dynamos_task`.
#[repr(C)]
pub(super) struct RawTask {
    address: u64,
    trace: *const u64,
    pid: i64,
    comm: *const c_char,
    entries: i64,
    running: u64,
    ready: u64,
}

impl RawTask {
    /// Where its entries are, if C has a place of its own for them.
    pub(super) fn trace(&self) -> *const u64 {
        self.trace
    }

    /// # Safety
    /// C has filled `entries` of the `size` addresses at `pointer`, and `comm` is a C string.
    pub(super) unsafe fn task<'a>(&'a self, pointer: *const u64, size: usize) -> Task<'a> {
        let stack = if self.running != 0 {
            Stack::Stopper
        } else {
            match Errno::check(self.entries as c_int) {
                Err(reason) => Stack::Unreliable(reason),
                // SAFETY: promised by the caller; never more than there is room for.
                Ok(count) => Stack::Reliable(unsafe {
                    core::slice::from_raw_parts(pointer, size.min(count as usize))
                }),
            }
        };
        // SAFETY: promised by the caller.
        let comm = unsafe { CStr::from_ptr(self.comm) };
        Task { address: self.address, pid: self.pid as i32, comm, ready: self.ready != 0, stack }
    }
}

pub(super) type TaskFn = extern "C" fn(*mut c_void, *const RawTask) -> c_int;

unsafe extern "C" {
    fn dynamos_shim_stop_machine(
        call: extern "C" fn(*mut c_void) -> c_int,
        context: *mut c_void,
    ) -> c_int;
    fn dynamos_shim_each_task(
        entries: *mut u64,
        size: u32,
        visit: TaskFn,
        context: *mut c_void,
    ) -> c_int;
    fn dynamos_shim_each_live_task(
        entries: *mut u64,
        size: u32,
        pauses: bool,
        visit: TaskFn,
        context: *mut c_void,
    ) -> c_int;
}
