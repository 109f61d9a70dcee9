//! Where the running kernel keeps what policies ask for.

use core::ffi::c_int;
use core::mem::MaybeUninit;

use dynamos_core::policy::native::Layout;

use super::errno::Errno;

/// What policies need to know of this kernel.
#[derive(Clone, Copy)]
pub struct Facts {
    /// Where things are.
    pub layout: Layout,
    /// What code calls where `preempt_enable()` would call the scheduler.
    pub resched: u64,
    /// Ticks a second.
    pub hz: u32,
}

/// Finds out about this kernel.
///
/// # Errors
/// [`Errno::ENOENT`]: a symbol that is needed is not there. [`Errno::ENODEV`]: a per-CPU variable is out of reach.
pub fn facts() -> Result<Facts, Errno> {
    let mut raw = MaybeUninit::<RawLayout>::uninit();
    // SAFETY: C writes all of it before it returns.
    let raw = unsafe {
        Errno::check(dynamos_shim_policy_layout(raw.as_mut_ptr()))?;
        raw.assume_init()
    };
    Ok(Facts {
        layout: Layout {
            current: raw.current_task,
            cpu: raw.cpu,
            preempt_count: raw.preempt_count,
            pid: raw.pid,
            tgid: raw.tgid,
            comm: raw.comm,
            group_leader: raw.group_leader,
            start_time: raw.start_time,
            cred: raw.cred,
            uid: raw.uid,
            cgroups: raw.cgroups,
            dfl_cgrp: raw.dfl_cgrp,
            kn: raw.kn,
            kn_id: raw.kn_id,
            jiffies: raw.jiffies,
            initial_jiffies: raw.initial_jiffies,
        },
        resched: raw.resched,
        hz: raw.hz,
    })
}

/// `struct dynamos_policy_layout`.
#[repr(C)]
struct RawLayout {
    current_task: u32,
    cpu: u32,
    preempt_count: u32,
    pid: u32,
    tgid: u32,
    comm: u32,
    group_leader: u32,
    start_time: u32,
    cred: u32,
    uid: u32,
    cgroups: u32,
    dfl_cgrp: u32,
    kn: u32,
    kn_id: u32,
    jiffies: u64,
    initial_jiffies: u64,
    resched: u64,
    hz: u32,
}

unsafe extern "C" {
    fn dynamos_shim_policy_layout(layout: *mut RawLayout) -> c_int;
}
