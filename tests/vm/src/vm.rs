//! The description of a run, and what is left of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::image::Image;
use crate::initramfs::Contents;
use crate::modules::{self, Index};
use crate::qemu::{self, Ended, Machine};
use crate::report::{self, Report};
use crate::results::Messages;

/// Console lines an error quotes.
const TAIL: usize = 40;

/// A machine to boot. Nothing happens before [`Vm::run`].
#[derive(Debug, Clone)]
pub struct Vm {
    image: Image,
    modules: Vec<String>,
    offered: Vec<String>,
    files: Vec<(PathBuf, String)>,
    script: String,
    machine: Machine,
    allowed: Vec<String>,
    expected: Vec<String>,
    status: Option<i32>,
    panic_on_oops: Option<bool>,
    console_copy: Option<PathBuf>,
}

/// What a run gave.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Everything on the console: kernel messages and what the script printed.
    pub console: String,
    /// The script's exit status; `None` where it did not come to an end.
    pub status: Option<i32>,
    /// What the script handed over with `result NAME VALUE`.
    pub results: BTreeMap<String, String>,
    /// Every fault the kernel reported, the expected and allowed ones included.
    pub reports: Vec<Report>,
    /// From QEMU's start to its end.
    pub elapsed: Duration,
}

impl Vm {
    /// A machine with 2 CPUs and 1 GiB that runs `image` and, until told otherwise, no script.
    #[must_use]
    pub fn new(image: &Image) -> Vm {
        Vm {
            image: image.clone(),
            modules: Vec::new(),
            offered: Vec::new(),
            files: Vec::new(),
            script: String::new(),
            machine: Machine::default(),
            allowed: Vec::new(),
            expected: Vec::new(),
            status: Some(0),
            panic_on_oops: None,
            console_copy: None,
        }
    }

    /// Loads a module of the image, with its dependencies, before the script runs. One that is
    /// built into the kernel is there already.
    #[must_use]
    pub fn module(mut self, name: &str) -> Vm {
        self.modules.push(name.to_owned());
        self
    }

    /// Has a module of the image at hand, with its dependencies: the script loads it with
    /// `load-module NAME`, which may fail (no such hardware).
    #[must_use]
    pub fn offer(mut self, name: &str) -> Vm {
        self.offered.push(name.to_owned());
        self
    }

    /// Adds a disk with an empty ext4 file system: `/dev/vda`, then `/dev/vdb` and so on.
    #[must_use]
    pub fn disk(mut self, bytes: u64) -> Vm {
        self.machine.disks.push(bytes);
        self
    }

    /// Copies a file of the host, with its permissions, or a whole directory into the guest.
    #[must_use]
    pub fn file(mut self, host: impl Into<PathBuf>, guest: &str) -> Vm {
        self.files.push((host.into(), guest.to_owned()));
        self
    }

    /// What runs in the guest: text for `sh -eu`, or a whole file that begins with `#!`.
    #[must_use]
    pub fn script(mut self, text: impl Into<String>) -> Vm {
        self.script = text.into();
        self
    }

    /// The guest's memory in MiB.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Vm {
        self.machine.memory_mib = mib;
        self
    }

    /// The number of CPUs.
    #[must_use]
    pub fn cpus(mut self, count: u32) -> Vm {
        self.machine.cpus = count;
        self
    }

    /// Adds to the kernel's command line.
    #[must_use]
    pub fn append(mut self, cmdline: &str) -> Vm {
        self.machine.cmdline.push(' ');
        self.machine.cmdline.push_str(cmdline);
        self
    }

    /// How long the whole run may take; 300 s until told otherwise.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Vm {
        self.machine.limit = limit;
        self
    }

    /// Counts instructions instead of time (`-icount shift=N`): one takes 2^N ns of the guest's
    /// clocks, and a run repeats exactly.
    #[must_use]
    pub fn icount(mut self, shift: u8) -> Vm {
        self.machine.icount = Some(shift);
        self
    }

    /// Accepts kernel reports that contain `pattern`.
    #[must_use]
    pub fn allow(mut self, pattern: &str) -> Vm {
        self.allowed.push(pattern.to_owned());
        self
    }

    /// Fails unless a kernel report contains `pattern`. The kernel then goes on after an oops.
    #[must_use]
    pub fn expect_oops(mut self, pattern: &str) -> Vm {
        self.expected.push(pattern.to_owned());
        self
    }

    /// Whether an oops ends the run at once. Without this call it does, unless one is expected.
    #[must_use]
    pub fn panic_on_oops(mut self, yes: bool) -> Vm {
        self.panic_on_oops = Some(yes);
        self
    }

    /// The status the script must end with; 0 until told otherwise.
    #[must_use]
    pub fn expect_status(mut self, status: i32) -> Vm {
        self.status = Some(status);
        self
    }

    /// Takes whatever status the script ends with; see [`Outcome::status`].
    #[must_use]
    pub fn any_status(mut self) -> Vm {
        self.status = None;
        self
    }

    /// Writes the console to `path` as well, however the run ends.
    #[must_use]
    pub fn console_copy(mut self, path: impl Into<PathBuf>) -> Vm {
        self.console_copy = Some(path.into());
        self
    }

    /// Boots, runs the script, powers off.
    ///
    /// # Errors
    /// Everything in [`Error`]: a run that is not an error did what was asked, all of it.
    pub fn run(&self) -> Result<Outcome, Error> {
        let index = Index::read(&self.image)?;
        let mut wanted: Vec<&str> = Vec::new();
        if !self.machine.disks.is_empty() {
            wanted.extend(["virtio_pci", "virtio_blk"]);
        }
        wanted.extend(self.modules.iter().map(String::as_str));
        let modules = index.closure(wanted)?;
        let offered = self
            .offered
            .iter()
            .map(|name| Ok((modules::normal(name), index.closure([name.as_str()])?)))
            .collect::<Result<_, Error>>()?;
        let contents =
            Contents { modules: &modules, offered, files: &self.files, script: &self.script };

        let mut machine = self.machine.clone();
        let panics = self.panic_on_oops.unwrap_or(self.expected.is_empty());
        machine.cmdline.push_str(if panics { " oops=panic" } else { "" });
        let raw = qemu::run(&machine, &self.image.vmlinuz, &contents.archive()?)?;
        if let Some(path) = &self.console_copy {
            write_copy(path, &raw.console)?;
        }
        self.judge(raw)
    }

    fn judge(&self, raw: qemu::Raw) -> Result<Outcome, Error> {
        let messages = Messages::read(&raw.messages);
        let tail = tail(&raw.console);
        let outcome = Box::new(Outcome {
            reports: report::find(&raw.console),
            console: raw.console,
            status: messages.status,
            results: messages.results,
            elapsed: raw.elapsed,
        });
        // The first cause before its consequences: a fault explains a panic, a hang, a status.
        let unannounced: Vec<Report> =
            outcome.reports.iter().filter(|r| !self.accepts(r)).cloned().collect();
        if !unannounced.is_empty() {
            return Err(Error::Reported { reports: unannounced, outcome });
        }
        if let Some(reason) = messages.failed {
            return Err(Error::Setup { reason, tail });
        }
        let Some(status) = messages.status else {
            return Err(match raw.ended {
                Ended::Killed => Error::Timeout { limit: self.machine.limit, tail, outcome },
                Ended::Exited(how) => match report::panic(&outcome.console).map(str::to_owned) {
                    Some(title) => Error::Panicked { title, tail, outcome },
                    None => Error::Vanished { how, tail, outcome },
                },
            });
        };
        if let Some(pattern) =
            self.expected.iter().find(|p| !outcome.reports.iter().any(|r| r.contains(p)))
        {
            return Err(Error::NoReport { pattern: pattern.clone(), tail, outcome });
        }
        match self.status {
            Some(expected) if expected != status => {
                Err(Error::Status { status, expected, tail, outcome })
            }
            _ => Ok(*outcome),
        }
    }

    fn accepts(&self, report: &Report) -> bool {
        self.allowed.iter().chain(&self.expected).any(|p| report.contains(p))
    }
}

fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n")
}

fn write_copy(path: &Path, console: &str) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
    }
    std::fs::write(path, console).map_err(Error::file("write", path))
}
