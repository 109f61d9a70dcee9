//! The work that goes on while updates come and go; every byte of it is accounted for.
//!
//! Nobody sleeps inside a function that is replaced: who waits for data does it in `poll`. A task asleep in
//! `pipe_read` holds up every switch, which is another test's subject.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::load;

/// The period of the bytes sent: a prime, so that a byte too many or too few shifts all that follow.
const PERIOD: usize = 65_521;

/// What one connection or pipe carries before the next one is made.
const EACH: usize = 1 << 20;

/// A load rests for this many times what its last burst took: where a kernel watches itself in an emulator, a machine
/// with all the work it can take has no time left for the grace periods that every switch waits for.
const REST: u32 = 24;

/// What one load did.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub name: &'static str,
    pub operations: u64,
    pub bytes: u64,
    /// Bytes that did not arrive as they were sent.
    pub lost: u64,
}

/// Loads that are running.
pub struct Loads {
    stop: Arc<AtomicBool>,
    stop_file: PathBuf,
    threads: Vec<JoinHandle<anyhow::Result<Tally>>>,
}

impl Loads {
    /// Starts them all; `dir` is on the file system under test.
    pub fn start(dir: &Path) -> anyhow::Result<Loads> {
        let stop = Arc::new(AtomicBool::new(false));
        let stop_file = PathBuf::from("/run/stress.stop");
        let _ = std::fs::remove_file(&stop_file);
        let mut threads = Vec::new();
        for number in 0..2 {
            let flag = stop.clone();
            threads.push(std::thread::spawn(move || carry("pipe", number, pipe, &flag)));
        }
        let flag = stop.clone();
        threads.push(std::thread::spawn(move || carry("tcp", 2, connection, &flag)));
        let flag = stop.clone();
        threads.push(std::thread::spawn(move || fork(&flag)));
        let (dir, file) = (dir.join("load"), stop_file.clone());
        threads.push(std::thread::spawn(move || files(dir, file)));
        Ok(Loads { stop, stop_file, threads })
    }

    /// Ends them and adds up.
    pub fn stop(self) -> anyhow::Result<Vec<Tally>> {
        self.stop.store(true, Ordering::Relaxed);
        File::create(&self.stop_file).context("cannot stop the writing threads")?;
        self.threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a load panicked"))?)
            .collect()
    }
}

/// A writing and a reading end.
type Ends = (File, File);

fn pipe() -> anyhow::Result<Ends> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    Ok((OwnedFd::from(writer).into(), OwnedFd::from(reader).into()))
}

fn connection() -> anyhow::Result<Ends> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let address = listener.local_addr().context("no local address")?;
    let writer = TcpStream::connect(address).context("cannot connect")?;
    let (reader, _) = listener.accept().context("cannot accept")?;
    Ok((OwnedFd::from(writer).into(), OwnedFd::from(reader).into()))
}

/// Sends bytes through one pair of ends after the other, until told to stop.
fn carry(
    name: &'static str,
    seed: u64,
    make: fn() -> anyhow::Result<Ends>,
    stop: &AtomicBool,
) -> anyhow::Result<Tally> {
    let table = Arc::new(table(seed));
    let mut tally = Tally { name, ..Tally::default() };
    while !stop.load(Ordering::Relaxed) {
        let (writer, reader) = make()?;
        for end in [&writer, &reader] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("O_NONBLOCK")?;
        }
        let (sent, arrived) = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(reader, &table));
            let sent = send(writer, &table, stop);
            (sent, receiver.join())
        });
        let sent = sent.with_context(|| format!("{name}: sending"))?;
        let Ok(arrived) = arrived else { bail!("{name}: the receiver panicked") };
        let arrived = arrived.with_context(|| format!("{name}: receiving"))?;
        tally.operations += 1;
        tally.bytes += sent;
        tally.lost += sent.abs_diff(arrived);
    }
    Ok(tally)
}

/// Bytes without a pattern, twice the period, so that every piece of it is one slice.
fn table(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; PERIOD];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.extend_from_within(..);
    bytes
}

/// The bytes at a place of the stream; at most a period.
fn piece(table: &[u8], at: usize, length: usize) -> &[u8] {
    let from = at % PERIOD;
    table.get(from..from.saturating_add(length)).unwrap_or_default()
}

fn wait_for(file: &File, what: PollFlags) -> anyhow::Result<()> {
    let mut files = [PollFd::new(file.as_fd(), what)];
    match poll(&mut files, PollTimeout::from(1000_u16)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(e) => Err(e).context("cannot poll"),
    }
}

fn rest_after(start: Instant) {
    std::thread::sleep(start.elapsed() * REST);
}

/// Gives the number of bytes written; closes the end.
fn send(mut writer: File, table: &[u8], stop: &AtomicBool) -> anyhow::Result<u64> {
    let mut at = 0;
    while at < EACH && !stop.load(Ordering::Relaxed) {
        // 1 to 16 KiB, another size each time.
        let length = 1 + (at * 7) % 16_381;
        let start = Instant::now();
        match writer.write(piece(table, at, length)) {
            Ok(written) => {
                at += written;
                rest_after(start);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait_for(&writer, PollFlags::POLLOUT)?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("cannot write"),
        }
    }
    Ok(at as u64)
}

/// Gives the number of bytes that came as they should.
fn receive(mut reader: File, table: &[u8]) -> anyhow::Result<u64> {
    let (mut at, mut right) = (0, 0);
    let mut buffer = vec![0; 16_384];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(right),
            Ok(length) => {
                let wanted = piece(table, at, length);
                let same = buffer.iter().zip(wanted).filter(|(got, wanted)| got == wanted).count();
                right += same as u64;
                at += length;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait_for(&reader, PollFlags::POLLIN)?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("cannot read"),
        }
    }
}

/// Starts one program after the other; each must end well.
fn fork(stop: &AtomicBool) -> anyhow::Result<Tally> {
    let mut tally = Tally { name: "fork", ..Tally::default() };
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let status = Command::new("/bin/busybox").arg("true").status().context("cannot fork")?;
        tally.operations += 1;
        tally.lost += u64::from(!status.success());
        rest_after(start);
    }
    Ok(tally)
}

/// Writes files, and reads them back from the disk at the end.
fn files(dir: PathBuf, stop_file: PathBuf) -> anyhow::Result<Tally> {
    let sums = Path::new("/run/stress.sums");
    let load = load::Load {
        dir: dir.clone(),
        threads: 2,
        seconds: None,
        stop_file: Some(stop_file),
        ready_file: None,
        rest: REST,
    };
    let written = load.run()?;
    load::save(&written.kept, sums)?;
    crate::drop_caches()?;
    let lost = match load::verify(&dir, sums) {
        Ok(_) => 0,
        Err(error) => {
            eprintln!("ext4: {error:#}");
            1
        }
    };
    Ok(Tally { name: "ext4", operations: written.files, bytes: written.bytes, lost })
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_sent_arrives() {
        let stop = AtomicBool::new(false);
        for make in [pipe, connection] {
            let table = table(1);
            let (writer, reader) = make().unwrap();
            fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
            let receiver = std::thread::spawn({
                let table = table.clone();
                move || receive(reader, &table).unwrap()
            });
            let sent = send(writer, &table, &stop).unwrap();
            assert!(sent >= EACH as u64);
            assert_eq!(receiver.join().unwrap(), sent);
        }
    }

    #[test]
    fn a_missing_byte_is_noticed() {
        let table = table(1);
        let (mut writer, reader) = pipe().unwrap();
        writer.write_all(&table[..100]).unwrap();
        writer.write_all(&table[101..1000]).unwrap();
        drop(writer);
        let right = receive(reader, &table).unwrap();
        assert!((100..200).contains(&right), "{right}");
    }
}
