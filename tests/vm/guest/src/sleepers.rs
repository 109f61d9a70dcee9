//! Tasks that sleep in reads of empty pipes, each on its own, until somebody has them fed.
//!
//! One process holds them and listens on a socket; what the test's script says is passed on by another. In the tests'
//! updates edition 1 of the read answers `EINVAL` to a read of nothing, edition 0 answers 0.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, setrlimit};
use nix::time::{ClockId, clock_gettime};

/// Bytes of a message: written at once, so read at once.
const MESSAGE: usize = 64;
/// Threads that do little need little.
const STACK: usize = 64 << 10;

/// What the threads tell.
#[derive(Default)]
struct Shared {
    /// Messages that arrived as they were sent, at sleepers.
    intact: AtomicU64,
    /// Messages that did not, anywhere.
    damaged: AtomicU64,
    /// Bytes that went through the busy threads.
    busy: AtomicU64,
    stop: AtomicBool,
    /// Whether the busy threads look for edition 1.
    looking: AtomicBool,
    /// When the watch saw the first call in edition 1, in nanoseconds of the monotonic clock.
    first: AtomicU64,
}

struct Sleepers {
    shared: Arc<Shared>,
    /// Where each is sent messages, and how many it was sent.
    writers: Vec<(std::io::PipeWriter, u64)>,
    /// The pipes that they sleep at.
    pipes: Vec<std::io::PipeReader>,
    threads: Vec<JoinHandle<()>>,
    /// Whether there are busy threads.
    busy: bool,
    /// How long anything here may take.
    patience: Duration,
}

/// Holds `count` sleepers and `busy` threads that keep their pipes busy, and does what it is told by `socket`.
pub fn serve(count: u32, busy: u32, socket: &Path, patience: Duration) -> Result<()> {
    let files = u64::from(count) * 3 + u64::from(busy) * 2 + 100;
    setrlimit(Resource::RLIMIT_NOFILE, files, files).context("cannot have so many files")?;
    let shared = Arc::new(Shared::default());
    let mut sleepers = Sleepers {
        shared: shared.clone(),
        writers: vec![],
        pipes: vec![],
        threads: vec![],
        busy: busy > 0,
        patience,
    };
    for number in 0..count {
        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        sleepers.writers.push((writer, 0));
        sleepers.pipes.push(reader.try_clone().context("cannot keep a pipe")?);
        let shared = shared.clone();
        sleepers.start(move || sleep(number, reader, &shared))?;
    }
    for number in 0..busy {
        let shared = shared.clone();
        sleepers.start(move || keep_busy(number, &shared))?;
    }
    let listener = UnixListener::bind(socket).context("cannot listen")?;
    for stream in listener.incoming() {
        let mut stream = BufReader::new(stream?);
        let mut word = String::new();
        stream.read_line(&mut word)?;
        let answer = sleepers.obey(word.trim()).unwrap_or_else(|error| format!("error: {error:#}"));
        writeln!(stream.get_mut(), "{answer}")?;
        if word.trim() == "end" {
            break;
        }
    }
    Ok(())
}

/// Says `word` to [`serve`]; gives the answer.
pub fn ask(socket: &Path, word: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).context("nobody holds sleepers")?;
    writeln!(stream, "{word}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let answer = answer.trim().to_string();
    ensure!(!answer.is_empty() && !answer.starts_with("error"), "{word}: {answer}");
    Ok(answer)
}

impl Sleepers {
    fn start(&mut self, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn(run);
        self.threads.push(thread.context("cannot start a thread")?);
        Ok(())
    }

    fn obey(&mut self, word: &str) -> Result<String> {
        match word {
            "asleep" => self.asleep(),
            "feed" => self.feed(usize::MAX),
            "feed-one" => self.feed(1),
            "edition" => Ok(edition()?.to_string()),
            "theirs" => self.theirs(),
            "watch" => {
                self.shared.looking.store(true, SeqCst);
                let shared = self.shared.clone();
                if !self.busy {
                    self.start(move || watch(&shared))?;
                }
                Ok("watching".into())
            }
            "again" => {
                self.shared.first.store(0, SeqCst);
                Ok("watching".into())
            }
            "first" => self.first(),
            "end" => self.end(),
            _ => bail!("asleep, feed, feed-one, edition, theirs, watch, again, first or end"),
        }
    }

    /// Waits until every sleeper is asleep in its read.
    fn asleep(&self) -> Result<String> {
        let asleep = || -> Result<usize> {
            let mut count = 0;
            for task in std::fs::read_dir("/proc/self/task")? {
                let place = std::fs::read_to_string(task?.path().join("wchan"));
                count += usize::from(place.is_ok_and(|place| place.contains("pipe_read")));
            }
            Ok(count)
        };
        self.until("they sleep", || Ok(asleep()? >= self.writers.len()))?;
        Ok(format!("{} asleep", self.writers.len()))
    }

    /// Which edition calls on their pipes take.
    fn theirs(&mut self) -> Result<String> {
        let editions: Vec<u8> = self.pipes.iter_mut().map(probe).collect::<Result<_>>()?;
        let new = editions.iter().filter(|edition| **edition == 1).count();
        Ok(format!("{} in edition 0, {new} in edition 1", editions.len() - new))
    }

    /// Sends the first of them a message each, and waits until all have it and sleep again.
    fn feed(&mut self, count: usize) -> Result<String> {
        for (number, (writer, round)) in (0u32..).zip(&mut self.writers).take(count) {
            writer.write_all(&message(number, *round)).context("cannot write to a sleeper")?;
            *round += 1;
        }
        let expected = self.writers.iter().map(|(_, rounds)| rounds).sum::<u64>();
        self.until("all is read", || {
            let shared = &self.shared;
            Ok(shared.intact.load(SeqCst) + shared.damaged.load(SeqCst) >= expected)
        })?;
        self.asleep()?;
        self.told()
    }

    fn until(&self, what: &str, reached: impl FnMut() -> Result<bool>) -> Result<()> {
        until(what, self.patience, reached)
    }

    fn told(&self) -> Result<String> {
        let intact = self.shared.intact.load(SeqCst);
        let damaged = self.shared.damaged.load(SeqCst);
        Ok(format!("{intact} intact, {damaged} damaged"))
    }

    fn first(&self) -> Result<String> {
        self.until("a call takes edition 1", || Ok(self.shared.first.load(SeqCst) != 0))?;
        let first = self.shared.first.load(SeqCst);
        Ok(format!("{}.{:09}", first / 1_000_000_000, first % 1_000_000_000))
    }

    /// Lets all of them leave.
    fn end(&mut self) -> Result<String> {
        self.writers.clear();
        self.shared.stop.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            ensure!(thread.join().is_ok(), "a thread died");
        }
        Ok(format!("{}, {} busy bytes", self.told()?, self.shared.busy.load(SeqCst)))
    }
}

/// What `number` is sent in a round: no two are alike.
fn message(number: u32, round: u64) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    blake3::Hasher::new()
        .update(&number.to_le_bytes())
        .update(&round.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Reads messages until the pipe's other end is closed.
fn sleep(number: u32, mut reader: std::io::PipeReader, shared: &Shared) {
    for round in 0.. {
        let mut found = [0; MESSAGE];
        match reader.read(&mut found) {
            Ok(0) => return,
            Ok(MESSAGE) if found == message(number, round) => shared.intact.fetch_add(1, SeqCst),
            // Also an error: no signal reaches a sleeper.
            _ => shared.damaged.fetch_add(1, SeqCst),
        };
    }
}

/// Sends itself messages.
fn keep_busy(number: u32, shared: &Shared) {
    let Ok((mut reader, mut writer)) = std::io::pipe() else { return };
    for round in 0.. {
        if shared.stop.load(SeqCst) {
            return;
        }
        let mut found = [0; MESSAGE];
        let sent = message(u32::MAX - number, round);
        let read = writer.write_all(&sent).and_then(|()| reader.read_exact(&mut found));
        if read.is_err() || found != sent {
            shared.damaged.fetch_add(1, SeqCst);
        }
        shared.busy.fetch_add(MESSAGE as u64, SeqCst);
        if shared.looking.load(SeqCst) && shared.first.load(SeqCst) == 0 {
            look(&mut reader, shared);
        }
    }
}

/// Which edition a call takes.
fn edition() -> Result<u8> {
    let (mut reader, _writer) = std::io::pipe().context("cannot make a pipe")?;
    probe(&mut reader)
}

fn probe(reader: &mut std::io::PipeReader) -> Result<u8> {
    match reader.read(&mut []) {
        Ok(_) => Ok(0),
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) => Ok(1),
        Err(error) => Err(error).context("a read of nothing"),
    }
}

/// Calls until edition 1 answers.
fn watch(shared: &Shared) {
    let Ok((mut reader, _writer)) = std::io::pipe() else { return };
    while !shared.stop.load(SeqCst) {
        if look(&mut reader, shared) {
            return;
        }
    }
}

/// Whether a call takes edition 1; the first that does is noted.
fn look(reader: &mut std::io::PipeReader, shared: &Shared) -> bool {
    let found = matches!(probe(reader), Ok(1));
    if found {
        // Whoever comes later is not noted.
        let _ = shared.first.compare_exchange(0, now(), SeqCst, SeqCst);
    }
    found
}

/// Nanoseconds of the monotonic clock, which the kernel's log of a switch has too.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(u64::MAX, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

fn until(what: &str, patience: Duration, mut reached: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !reached()? {
        ensure!(start.elapsed() < patience, "given up waiting until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(300);

    #[test]
    fn sleepers_are_fed_and_leave() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("socket");
        let server = {
            let socket = socket.clone();
            std::thread::spawn(move || serve(4, 1, &socket, PATIENCE))
        };
        until("it listens", PATIENCE, || Ok(socket.exists())).unwrap();
        assert_eq!(ask(&socket, "edition").unwrap(), "0");
        assert!(ask(&socket, "dance").unwrap_err().to_string().contains("asleep, feed"));
        let said = ask(&socket, "end").unwrap();
        assert!(said.starts_with("0 intact, 0 damaged, "), "{said}");
        server.join().unwrap().unwrap();
    }
}
