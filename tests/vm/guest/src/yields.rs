//! Two threads that give way to each other all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use anyhow::{Context, Result, ensure};

/// What `times` calls of `sched_yield` cost while another thread does the same: how many milliseconds this thread's
/// virtual run time has gone on.
pub fn cost(times: u32) -> Result<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let other = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            while !stop.load(SeqCst) {
                std::thread::yield_now();
            }
        })
    };
    let before = virtual_time()?;
    for _ in 0..times {
        std::thread::yield_now();
    }
    let cost = virtual_time()?.saturating_sub(before);
    stop.store(true, SeqCst);
    ensure!(other.join().is_ok(), "a thread died");
    Ok(cost)
}

/// `se.vruntime : 1234.567890`, in milliseconds.
fn virtual_time() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/sched").context("no scheduling data")?;
    let line = text.lines().find(|line| line.starts_with("se.vruntime"));
    let value = line.and_then(|line| line.split(':').nth(1)).context("no virtual run time")?;
    let whole = value.trim().split('.').next().unwrap_or_default();
    whole.parse().with_context(|| format!("{value:?} is not a number"))
}
