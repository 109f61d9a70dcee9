//! What the driver does to the kernel, and how it finds out where an update is.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dynamos_core::policy::Request;
use dynamos_core::policy::compile::compile_text;
use dynamos_core::policy::language::{Argument, Environment};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

/// Every function that ftrace has redirected.
const REDIRECTED: &str = "/sys/kernel/tracing/enabled_functions";

/// How long a module may stay in use after somebody let go of it, on a machine whose host is busy.
const SETTLE: Duration = Duration::from_secs(60);

/// An update and dynamos.ko beside it.
pub struct Subject {
    update: File,
    dynamos: File,
    name: String,
    /// What ftrace had redirected before anything was loaded.
    before: String,
    /// How many functions the update replaces.
    functions: usize,
    /// Options of a load or an activation: nothing, or a scope.
    options: String,
}

/// Where an update is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// Its module is not there.
    Absent,
    /// Every function is redirected and behaves so.
    Active,
    /// The module is there, and no function is redirected.
    Reverted,
    /// Calls take edition 0, and a task is still in the update's code.
    Draining,
    /// Kept, because the kernel did not let go of a redirection; edition 0 runs.
    Reverting,
}

/// Which of two updates of the same functions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    First,
    Second,
    /// The second one lies over the first.
    Both,
}

impl Subject {
    /// The update in `dir`, whose module is called `name` and replaces `functions` functions.
    pub fn open(dir: &Path, name: &str, functions: usize, scope: Option<&str>) -> Result<Subject> {
        let open = |file: &str| {
            File::open(dir.join(file)).with_context(|| format!("cannot open the update's {file}"))
        };
        let mut subject = Subject {
            update: open("update.ko")?,
            dynamos: open("dynamos.ko")?,
            name: name.to_owned(),
            before: redirected()?,
            functions,
            options: String::new(),
        };
        subject.set_scope(scope);
        Ok(subject)
    }

    /// Has it loaded and enabled with a scope from now on, or with what its plan proposes.
    pub fn set_scope(&mut self, scope: Option<&str>) {
        self.options = scope.map_or_else(String::new, |scope| format!("scope={scope}"));
    }

    pub fn insert_dynamos(&self) -> nix::Result<()> {
        finit_module(&self.dynamos, c"", ModuleInitFlags::empty())
    }

    pub fn remove_dynamos(&self) -> nix::Result<()> {
        remove("dynamos")
    }

    pub fn insert(&self) -> nix::Result<()> {
        let options =
            CString::new(format!("options={}", self.options)).map_err(|_| Errno::EINVAL)?;
        finit_module(&self.update, &options, ModuleInitFlags::empty())
    }

    pub fn remove(&self) -> nix::Result<()> {
        remove(&self.name)
    }

    /// Writes the `enabled` file.
    pub fn enable(&self, on: bool) -> nix::Result<()> {
        if on { self.switch(&format!("1 {}", self.options)) } else { self.switch("0") }
    }

    /// Has it take new calls if it cannot be switched at once.
    pub fn force(&self) -> nix::Result<()> {
        let scope = if self.options.is_empty() { "scope=system" } else { &self.options };
        self.switch(&format!("1 {scope},wait_ms=40,on_timeout=force-new-calls"))
    }

    /// Writes the `enabled` file, with options.
    pub fn switch(&self, text: &str) -> nix::Result<()> {
        self.write("enabled", text.as_bytes())
    }

    fn write(&self, file: &str, bytes: &[u8]) -> nix::Result<()> {
        let file = File::options().write(true).open(self.file(file));
        let written = file.and_then(|mut file| file.write_all(bytes));
        written.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(Errno::EIO as i32)))
    }

    /// Sets the policy of all functions.
    pub fn set_policy(&self, text: &str) -> Result<()> {
        self.write_policy(&policy(text)?).with_context(|| format!("cannot set the policy {text:?}"))
    }

    /// Writes what [`policy`] made to the `policy` file.
    pub fn write_policy(&self, request: &[u8]) -> nix::Result<()> {
        self.write("policy", request)
    }

    /// What the `policy` file says.
    pub fn policy(&self) -> Result<String> {
        std::fs::read_to_string(self.file("policy")).context("cannot read the policy")
    }

    /// Waits for a state, for half a minute.
    pub fn becomes(&self, wanted: &str) -> Result<bool> {
        for _ in 0..600 {
            if self.state().context("no state")? == wanted {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(false)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        Path::new("/sys/kernel/dynamos").join(&self.name).join(name)
    }

    /// Whether dynamos.ko is there.
    pub fn has_dynamos(&self) -> bool {
        Path::new("/sys/module/dynamos").is_dir()
    }

    /// How many functions are redirected that were not before.
    pub fn redirections(&self) -> Result<usize> {
        Ok(self.ours(&redirected()?))
    }

    /// How many functions the update replaces.
    pub fn functions(&self) -> usize {
        self.functions
    }

    /// Whether its module is there.
    pub fn is_there(&self) -> bool {
        Path::new("/sys/module").join(&self.name).is_dir()
    }

    /// What it says that its state is.
    pub fn state(&self) -> Option<String> {
        let said = std::fs::read_to_string(self.file("state")).ok();
        said.map(|said| said.trim().to_owned())
    }

    fn ours(&self, now: &str) -> usize {
        // Below a function's own line, indented, may be where it goes to.
        let functions = now.lines().filter(|line| !line.starts_with(char::is_whitespace));
        functions.filter(|line| !self.before.lines().any(|old| old == *line)).count()
    }

    /// Which run, of this one and one of the same functions. All functions go to the one that came last, and what does not run is
    /// `reverted`.
    pub fn running(&self, other: &Subject) -> Result<Running> {
        let state = |of: &Subject| of.state().context("no state");
        let (ours, size) = (self.ours(&redirected()?), pipe_size()?);
        let (state, others) = (state(self)?, state(other)?);
        ensure!(ours == self.functions, "{ours} functions are redirected");
        match (state.as_str(), others.as_str(), size) {
            ("active", "reverted", 65_537) => Ok(Running::First),
            ("reverted", "active", 65_538) => Ok(Running::Second),
            ("active", "active", 65_538) => Ok(Running::Both),
            shown => bail!("of two updates none runs as it says: {shown:?}"),
        }
    }

    /// Finds out, by what the kernel shows and by what it does; everything must agree.
    pub fn at(&self) -> Result<At> {
        let now = redirected()?;
        let ours = self.ours(&now);
        let new_behaviour = behaves_as_updated()?;
        let said = self.state();
        let shown = (self.is_there(), said.as_deref(), ours, new_behaviour);
        match shown {
            (false, None, 0, false) => {
                ensure!(now == self.before, "ftrace shows {now:?} instead of {:?}", self.before);
                Ok(At::Absent)
            }
            (true, Some("active"), ours, true) if ours == self.functions => Ok(At::Active),
            (true, Some("reverted"), 0, false) => Ok(At::Reverted),
            (true, Some("reverted (draining)"), ours, false) if ours == self.functions => {
                Ok(At::Draining)
            }
            (true, Some("reverting" | "reverting (held)"), _, false) => Ok(At::Reverting),
            _ => {
                bail!("neither as before nor active: (module, state, redirected, new) = {shown:?}")
            }
        }
    }
}

/// The request that gives all functions a policy.
pub fn policy(text: &str) -> Result<Vec<u8>> {
    let program = compile_text(text, &Nothing).with_context(|| format!("policy {text:?}"))?;
    Ok(Request { function: None, program: &program }.encode())
}

/// What the policies of the test speak of: no cgroups, no arguments.
struct Nothing;

impl Environment for Nothing {
    fn cgroup(&self, path: &str) -> Result<u64, String> {
        Err(format!("{path}: not here"))
    }

    fn argument(&self, _index: usize) -> Argument {
        Argument::Unknown
    }

    fn seed(&self) -> u64 {
        1
    }
}

/// A pipe's size: the update adds one to it.
pub fn behaves_as_updated() -> Result<bool> {
    match pipe_size()? {
        65_536 => Ok(false),
        65_537 => Ok(true),
        other => bail!("a pipe has the size {other}"),
    }
}

/// What a pipe says that its size is; another update adds two to it.
pub fn pipe_size() -> Result<i32> {
    let (reader, _writer) = std::io::pipe().context("cannot make a pipe")?;
    fcntl(&reader, FcntlArg::F_GETPIPE_SZ).context("F_GETPIPE_SZ")
}

/// Without the functions of dynamos.ko: those are made to fail by way of ftrace.
fn redirected() -> Result<String> {
    let all =
        std::fs::read_to_string(REDIRECTED).with_context(|| format!("cannot read {REDIRECTED}"))?;
    Ok(all.split_inclusive('\n').filter(|line| !line.contains(" [dynamos] ")).collect())
}

/// What `look` finds once everything agrees, for which it has ten seconds: an update may go on by itself.
pub fn settled<T>(look: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..100 {
        if let Ok(found) = look() {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    look()
}

/// Tries for a while: a reader of a module's files keeps it in use for a moment.
pub fn remove(name: &str) -> nix::Result<()> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    let start = Instant::now();
    loop {
        match delete_module(&name, DeleteModuleFlags::O_NONBLOCK) {
            Err(Errno::EAGAIN | Errno::EWOULDBLOCK) if start.elapsed() < SETTLE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}
