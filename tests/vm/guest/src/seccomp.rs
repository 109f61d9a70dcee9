//! The race of CVE-2026-89603: a thread that its tracer holds at the entry of a system call, while another thread
//! puts a seccomp filter on all threads. The call must be filtered.
//!
//! Two processes: the *victim* has a thread that makes a directory and one that installs the filter; the *tracer*
//! (this program's parent) holds the first until the second is done. So the race has one outcome, always.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// `mkdir` on x86-64: glibc's `mkdir()` makes this system call.
const SYS_MKDIR: u64 = 83;

/// Whether a call held at its entry gets past a filter that is installed meanwhile: `bypassed` or `filtered`.
pub fn race() -> Result<&'static str> {
    let scratch = PathBuf::from("/run/seccomp-race");
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch).context("cannot make the scratch directory")?;
    let mut victim = Command::new("/proc/self/exe")
        .arg("seccomp-victim")
        .arg(&scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the victim")?;
    let outcome = hold(&mut victim, &scratch);
    let _ = victim.kill();
    let _ = victim.wait();
    outcome
}

fn hold(victim: &mut Child, scratch: &Path) -> Result<&'static str> {
    let mut to_victim = victim.stdin.take().context("no pipe to the victim")?;
    let mut from_victim = BufReader::new(victim.stdout.take().context("no pipe from the victim")?);
    let mut line = || -> Result<String> {
        let mut text = String::new();
        from_victim.read_line(&mut text).context("the victim is gone")?;
        Ok(text.trim().to_string())
    };
    let thread = Pid::from_raw(line()?.parse().context("the victim's thread id")?);
    ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD)
        .context("cannot trace the victim")?;
    ptrace::interrupt(thread)?;
    wait(thread)?;
    std::fs::write(scratch.join("go"), "")?;
    loop {
        ptrace::syscall(thread, None)?;
        let stopped_in_call = matches!(wait(thread)?, WaitStatus::PtraceSyscall(_));
        if stopped_in_call && ptrace::getregs(thread)?.orig_rax == SYS_MKDIR {
            break;
        }
    }
    to_victim.write_all(b"install\n")?;
    ensure!(line()? == "installed", "the victim did not install its filter");
    ptrace::detach(thread, None::<Signal>)?;
    match line()?.as_str() {
        "made" => Ok("bypassed"),
        "denied" => Ok("filtered"),
        other => bail!("the victim says {other:?}"),
    }
}

/// Keeps a child at the entry of a system call until `until` exists; makes `held` when it is there.
pub fn hold_call(held: &Path, until: &Path) -> Result<()> {
    let mut child = Command::new("/bin/busybox")
        .args(["sh", "-c", "while :; do usleep 1000; done"])
        .spawn()
        .context("cannot start the child")?;
    let pid = Pid::from_raw(child.id().try_into().context("the child's id")?);
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).context("cannot trace the child")?;
    ptrace::interrupt(pid)?;
    wait(pid)?;
    loop {
        ptrace::syscall(pid, None)?;
        if matches!(wait(pid)?, WaitStatus::PtraceSyscall(_)) {
            break;
        }
    }
    std::fs::write(held, "")?;
    while !until.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn wait(thread: Pid) -> Result<WaitStatus> {
    let status =
        waitpid(thread, Some(WaitPidFlag::__WALL)).context("cannot wait for the victim")?;
    if let WaitStatus::Exited(..) | WaitStatus::Signaled(..) = status {
        bail!("the victim ended early");
    }
    Ok(status)
}

/// The victim's life.
pub fn victim(scratch: &Path) -> Result<()> {
    let directory = scratch.join("made");
    let go = scratch.join("go");
    let (says, hears) = std::sync::mpsc::channel();
    let maker = std::thread::spawn(move || -> Result<()> {
        let thread = std::fs::read_link("/proc/thread-self").context("no /proc")?;
        let id = thread.file_name().context("no thread id")?.to_string_lossy().into_owned();
        says.send(id)?;
        while !go.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let outcome = if std::fs::create_dir(&directory).is_ok() { "made" } else { "denied" };
        says.send(outcome.into())?;
        Ok(())
    });
    println!("{}", hears.recv()?);
    let mut command = String::new();
    std::io::stdin().read_line(&mut command)?;
    ensure!(command.trim() == "install", "unknown command {command:?}");
    let denied: u32 = 1; // EPERM
    let filter = SeccompFilter::new(
        BTreeMap::from([(SYS_MKDIR as i64, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(denied),
        TargetArch::x86_64,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter_all_threads(&program)?;
    println!("installed");
    println!("{}", hears.recv()?);
    maker.join().map_err(|_| anyhow::anyhow!("the victim's thread panicked"))?
}
