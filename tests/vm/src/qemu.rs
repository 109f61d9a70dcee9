//! Runs QEMU once and collects what it leaves.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::interrupt::Run;
use crate::results::Messages;

/// How often the two ports are looked at.
const POLL: Duration = Duration::from_millis(20);

/// How long a guest may take to power off once its script has ended. An oops can leave it
/// unable to; the run is over all the same.
const POWER_OFF: Duration = Duration::from_secs(10);

/// The machine.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) disks: Vec<u64>,
    pub(crate) cmdline: String,
    pub(crate) icount: Option<u8>,
    pub(crate) limit: Duration,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine {
            cpus: 2,
            memory_mib: 1024,
            disks: Vec::new(),
            // A panic reboots at once, which `-no-reboot` turns into QEMU's end. The time stamp
            // is what tells kernel messages from the script's. Where the host is busy the guest's
            // clock goes on and its CPUs do not: that alone is no stall, and no broken timer.
            cmdline: "console=ttyS0,115200 loglevel=7 printk.time=1 panic=-1 no_timer_check \
                      watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=180"
                .to_owned(),
            icount: None,
            limit: Duration::from_secs(300),
        }
    }
}

/// How QEMU ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself; the text says how.
    Exited(String),
    /// By us, at the time limit.
    Killed,
}

/// What is left of a run.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) console: String,
    pub(crate) messages: String,
    pub(crate) ended: Ended,
    pub(crate) elapsed: Duration,
}

/// Boots `vmlinuz` with `initramfs` and waits for the end.
pub(crate) fn run(machine: &Machine, vmlinuz: &Path, initramfs: &[u8]) -> Result<Raw, Error> {
    if !vmlinuz.is_file() {
        return Err(Error::Invalid(format!(
            "no kernel at {}; unpack its image package first",
            vmlinuz.display()
        )));
    }
    let run = Run::begin()?;
    let path = |name: &str| run.dir().join(name);
    std::fs::write(path("initramfs"), initramfs)
        .map_err(Error::file("write", path("initramfs")))?;
    for (number, bytes) in machine.disks.iter().enumerate() {
        make_disk(&path(&format!("disk{number}")), *bytes)?;
    }
    let errors =
        std::fs::File::create(path("stderr")).map_err(Error::file("create", path("stderr")))?;

    let start = Instant::now();
    run.start(
        command(machine, vmlinuz, run.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors),
    )?;
    let ended = wait(&run, start + machine.limit)?;
    let elapsed = start.elapsed();

    let console = read(&path("console")).replace('\r', "");
    let messages = read(&path("messages"));
    if let Ended::Exited(how) = &ended
        && console.is_empty()
    {
        let reason = format!("{how}, before the kernel said anything");
        return Err(Error::Tool { program: "qemu-system-x86_64".to_owned(), reason });
    }
    Ok(Raw { console, messages, ended, elapsed })
}

fn command(machine: &Machine, vmlinuz: &Path, dir: &Path) -> Command {
    // Where this process is killed outright, the guest must die as well; `setpriv`
    // (util-linux) asks the kernel for that and then becomes QEMU.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-machine", "pc", "-cpu", "max"]);
    // One thread for all CPUs: with several, QEMU 7.2 may run a stale translation of code that the
    // kernel has just patched, and the guest dies of an int3 that is no longer there (ftrace alone
    // does it, without any module of ours).
    command.args(["-accel", "tcg,thread=single"]);
    if let Some(shift) = machine.icount {
        command.arg("-icount").arg(format!("shift={shift},sleep=off"));
    }
    command.arg("-smp").arg(machine.cpus.to_string());
    command.arg("-m").arg(machine.memory_mib.to_string());
    for port in ["console", "messages"] {
        command.arg("-serial").arg(format!("file:{}", option_path(&dir.join(port))));
    }
    for number in 0..machine.disks.len() {
        let file = option_path(&dir.join(format!("disk{number}")));
        command.arg("-drive").arg(format!("file={file},format=raw,if=virtio,cache=unsafe"));
    }
    command.arg("-kernel").arg(vmlinuz);
    command.arg("-initrd").arg(dir.join("initramfs"));
    command.arg("-append").arg(&machine.cmdline);
    command
}

/// QEMU takes a doubled comma in an option for a comma of the value.
fn option_path(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Waits for QEMU's end, or for `deadline`: then the caller drops the run, and QEMU with it.
fn wait(run: &Run, mut deadline: Instant) -> Result<Ended, Error> {
    let mut script_ended = false;
    loop {
        if let Some(status) = run.ended()? {
            let stderr = read(&run.dir().join("stderr"));
            let said = match stderr.trim() {
                "" => String::new(),
                text => format!(": {text}"),
            };
            return Ok(Ended::Exited(format!("QEMU's {status}{said}")));
        }
        if !script_ended && Messages::read(&read(&run.dir().join("messages"))).status.is_some() {
            script_ended = true;
            deadline = Instant::now() + POWER_OFF;
        }
        if Instant::now() >= deadline {
            return Ok(Ended::Killed);
        }
        std::thread::sleep(POLL);
    }
}

/// What is in the file; a port nothing was written to may not exist.
fn read(path: &Path) -> String {
    std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// A sparse file with an ext4 file system that is the same every time.
fn make_disk(path: &Path, bytes: u64) -> Result<(), Error> {
    const UUID: &str = "00000000-0000-4000-8000-000000000001";
    let file = std::fs::File::create(path).map_err(Error::file("create", path))?;
    file.set_len(bytes).map_err(Error::file("extend", path))?;
    // Not everybody has sbin in the path.
    let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let failed = |reason: String| Error::Tool { program: "mkfs.ext4".to_owned(), reason };
    let output = Command::new("mkfs.ext4")
        .env("PATH", search)
        // The block size of every disk of a usual size; mkfs takes 1024 for a small one.
        .args(["-q", "-F", "-b", "4096", "-U", UUID, "-E", &format!("hash_seed={UUID}")])
        .arg(path)
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(())
}
