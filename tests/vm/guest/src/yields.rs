//! Two threads that give way to each other all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use anyhow::{Context, Result, ensure};

/// How often the CPU went to somebody else in `times` calls of `sched_yield` while another thread does the same.
pub fn switches(times: u32) -> Result<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let other = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            while !stop.load(SeqCst) {
                std::thread::yield_now();
            }
        })
    };
    let before = so_far()?;
    for _ in 0..times {
        std::thread::yield_now();
    }
    let switches = so_far()? - before;
    stop.store(true, SeqCst);
    ensure!(other.join().is_ok(), "a thread died");
    Ok(switches)
}

/// How often this thread could have gone on and did not.
fn so_far() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").context("no status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    line.context("no switches are counted")?.trim().parse().context("not a number")
}
