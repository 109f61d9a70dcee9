//! Updates on real kernels in QEMU: one program, so that machines of different files run side by side, each waiting more
//! than it computes, and so that all of it is linked once.

mod common;

mod adaptation;
mod boot;
mod canary;
mod cleanup;
mod coexistence;
mod control;
mod forced;
mod guest_tool;
mod handlers;
mod hooks;
mod keys;
mod kswapd;
mod late;
mod late_hooks;
mod late_scopes;
mod objects;
mod parameters;
mod pinned;
mod pipes;
mod policy;
mod preemptible;
mod refusals;
mod report;
mod schedule;
mod scheduler;
mod scopes;
mod stacking;
mod stress;
mod tasks;
mod updates;
