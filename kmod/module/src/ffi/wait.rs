//! Waiting: for grace periods, for time, and what time it is.

use core::ffi::c_int;
use core::time::Duration;

use super::errno::Errno;

/// Waits until every RCU reader of now is done.
pub fn synchronize_rcu() {
    // SAFETY: may sleep; so may its callers.
    unsafe { dynamos_shim_synchronize_rcu() }
}

/// Waits until every task has voluntarily left what it was running: also trampolines and handlers.
pub fn synchronize_rcu_tasks() {
    // SAFETY: may sleep; so may its callers.
    unsafe { dynamos_shim_synchronize_rcu_tasks() }
}

/// Waits until every CPU has switched tasks: nobody is left in code that was left before, but who was preempted there.
pub fn synchronize_rcu_tasks_rude() {
    // SAFETY: may sleep; so may its callers.
    unsafe { dynamos_shim_synchronize_rcu_tasks_rude() }
}

/// Sleeps; a fatal signal ends it early.
///
/// # Errors
/// [`Errno::EINTR`] if the caller is being killed.
pub fn sleep(time: Duration) -> Result<(), Errno> {
    let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: may sleep; so may its callers.
    Errno::check(unsafe { dynamos_shim_sleep_killable(milliseconds) }).map(drop)
}

/// Sleeps, whatever happens.
pub fn pause(time: Duration) {
    let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: may sleep; so may its callers.
    unsafe { dynamos_shim_sleep(milliseconds) }
}

/// Has [`crate::updates::look`] called after this time, by a work item; once, however often this is called.
pub fn look_later(time: Duration) {
    let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: the function that is called stays until `look_no_more`.
    unsafe { dynamos_shim_look_later(milliseconds) }
}

/// Waits until that is over, and has it not called any more: before this module goes.
pub fn look_no_more() {
    // SAFETY: may sleep; so may its caller.
    unsafe { dynamos_shim_look_no_more() }
}

/// The monotonic clock.
#[must_use]
pub fn now() -> Duration {
    // SAFETY: reads the clock.
    Duration::from_nanos(unsafe { dynamos_shim_now_ns() })
}

/// While this lives, its task runs before all others that are not real-time tasks. For short work that many wait for.
///
/// Dropped by the task that made it.
#[must_use]
pub struct Hurry {
    nice: c_int,
}

impl Hurry {
    /// Begins.
    pub fn begin() -> Self {
        // SAFETY: changes the caller's own priority.
        Self { nice: unsafe { dynamos_shim_hurry() } }
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        // SAFETY: changes the caller's own priority.
        unsafe { dynamos_shim_hurry_no_more(self.nice) }
    }
}

unsafe extern "C" {
    fn dynamos_shim_hurry() -> c_int;
    fn dynamos_shim_hurry_no_more(nice: c_int);
    fn dynamos_shim_synchronize_rcu();
    fn dynamos_shim_synchronize_rcu_tasks();
    fn dynamos_shim_synchronize_rcu_tasks_rude();
    fn dynamos_shim_sleep_killable(milliseconds: u32) -> c_int;
    fn dynamos_shim_sleep(milliseconds: u32);
    fn dynamos_shim_look_later(milliseconds: u32);
    fn dynamos_shim_look_no_more();
    fn dynamos_shim_now_ns() -> u64;
}
