//! Writers and readers of the same pipes, of whose bytes none may be lost, doubled or changed.
//!
//! Records of 64 bytes say who wrote them and which they are. Every write and read is of whole records, so each arrives
//! whole, whoever reads it; sums of all that was written and all that was read must be the same.
//!
//! Of every eight writers and readers four share a pipe, and every other reader polls; four have one each and nobody polls. For a
//! poll has the kernel wake the readers of that pipe at every write from then on, also where it should not need to.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const RECORD: usize = 64;
/// The most records of a write: more than a page.
const BURST: u64 = 80;
/// Who share a pipe.
const SHARE: u32 = 4;

/// What one side has seen.
#[derive(Default)]
struct Seen {
    records: AtomicU64,
    /// Of a hash of each.
    sum: AtomicU64,
    damaged: AtomicU64,
    ended: AtomicU64,
}

impl Seen {
    fn add(&self, record: &[u8]) {
        let hash = blake3::hash(record);
        let word = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        self.records.fetch_add(1, SeqCst);
        self.sum.fetch_add(word, SeqCst);
    }
}

/// Lets `count` writers and as many readers work until `stop` exists; `ready` is made when all of them have begun. What
/// came of it, in a line; an error, if the last bytes do not arrive within `patience`.
pub fn run(count: u32, stop: &Path, ready: &Path, patience: Duration) -> Result<String> {
    let (written, read) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
    let mut threads: Vec<JoinHandle<Result<()>>> = Vec::new();
    let mut pipe = std::io::pipe().context("cannot make a pipe")?;
    for number in 0..count {
        let shares = (number / SHARE).is_multiple_of(2);
        if !shares || number.is_multiple_of(SHARE) {
            pipe = std::io::pipe().context("cannot make a pipe")?;
        }
        let (reader, writer) = &pipe;
        let (writer, written, stop) = (writer.try_clone()?, written.clone(), stop.to_owned());
        threads.push(std::thread::spawn(move || write(number, writer, &written, &stop)));
        // On a file of its own, which does not block.
        let polls = shares && number % 2 == 1;
        let flags = if polls { OFlag::O_NONBLOCK.bits() } else { 0 };
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let read = read.clone();
        threads.push(std::thread::spawn(move || take(file, polls, &read)));
    }
    drop(pipe);
    while read.records.load(SeqCst) < u64::from(count) * 100 {
        sleep(Duration::from_millis(10));
    }
    File::create(ready).context("cannot say that it has begun")?;
    while !stop.exists() {
        sleep(Duration::from_millis(20));
    }
    let began = Instant::now();
    while written.ended.load(SeqCst) + read.ended.load(SeqCst) < 2 * u64::from(count) {
        if began.elapsed() > patience {
            bail!("stuck: {}", told(&written, &read));
        }
        sleep(Duration::from_millis(20));
    }
    for thread in threads {
        let Ok(result) = thread.join() else { bail!("a thread died") };
        result?;
    }
    Ok(told(&written, &read))
}

fn told(written: &Seen, read: &Seen) -> String {
    let count = |seen: &Seen| seen.records.load(SeqCst) * RECORD as u64;
    let same = written.sum.load(SeqCst) == read.sum.load(SeqCst);
    format!(
        "{} bytes lost, {} damaged, sums {}: {} bytes written, {} read",
        count(written).abs_diff(count(read)),
        read.damaged.load(SeqCst),
        if same { "equal" } else { "differ" },
        count(written),
        count(read)
    )
}

/// The record that writer `number` writes as its `serial`.
fn record(number: u32, serial: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let mut word = u64::from(number) << 48 | serial;
    for chunk in record.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_le_bytes());
        word = next(word);
    }
    record
}

/// Any sequence that does not repeat itself soon (Knuth's MMIX).
fn next(word: u64) -> u64 {
    word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

fn write(number: u32, mut pipe: std::io::PipeWriter, written: &Seen, stop: &Path) -> Result<()> {
    let (mut serial, mut draw) = (0, u64::from(number));
    while !stop.exists() {
        draw = next(draw);
        // Mostly a few, so that pages are shared; now and then more than one.
        let burst = 1 + (draw >> 40) % if draw >> 61 == 0 { BURST } else { 5 };
        let mut bytes = Vec::new();
        for _ in 0..burst {
            let record = record(number, serial);
            serial += 1;
            written.add(&record);
            bytes.extend_from_slice(&record);
        }
        pipe.write_all(&bytes).context("cannot write")?;
        // Often the pipe is empty for a while.
        if draw >> 62 != 0 {
            sleep(Duration::from_millis(2 + (draw >> 30) % 8));
        }
    }
    written.ended.fetch_add(1, SeqCst);
    Ok(())
}

fn take(mut pipe: File, polls: bool, read: &Seen) -> Result<()> {
    let mut bytes = [0; RECORD * 32];
    loop {
        if polls {
            let mut wanted = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            poll(&mut wanted, PollTimeout::NONE).context("cannot poll")?;
        }
        let len = match pipe.read(&mut bytes) {
            Ok(len) => len,
            // Another one was faster.
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).context("cannot read"),
        };
        if len == 0 {
            read.ended.fetch_add(1, SeqCst);
            return Ok(());
        }
        let whole = bytes.get(..len).unwrap_or_default().chunks_exact(RECORD);
        if !whole.remainder().is_empty() {
            read.damaged.fetch_add(1, SeqCst);
        }
        for found in whole {
            let word = found.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            let number = u32::try_from(word >> 48).unwrap_or_default();
            if record(number, word & ((1 << 48) - 1)) != found {
                read.damaged.fetch_add(1, SeqCst);
            }
            read.add(found);
        }
    }
}
