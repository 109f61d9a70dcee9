//! Threads that end: all the time, or one of a name.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result};

/// `count` threads of which each begins a thread, waits for its end and begins anew, until `stop` exists. How many have
/// ended.
pub fn run(count: u32, stop: &Path) -> Result<u64> {
    let ended = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let all = (0..count).map(|_| scope.spawn(|| end_many(stop, &ended))).collect::<Vec<_>>();
        all.into_iter().try_for_each(|thread| thread.join().ok().context("a thread died")?)
    })?;
    Ok(ended.into_inner())
}

/// One thread of this name.
pub fn once(name: &str) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(|| ())?;
    thread.join().ok().context("a thread died")
}

fn end_many(stop: &Path, ended: &AtomicU64) -> Result<()> {
    while !stop.exists() {
        let threads =
            [(); 8].map(|()| std::thread::Builder::new().stack_size(64 << 10).spawn(|| ()));
        for thread in threads {
            thread?.join().ok().context("a thread died")?;
            ended.fetch_add(1, Relaxed);
        }
    }
    Ok(())
}
