//! Loading an update.

use std::ffi::CString;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use dynamos_core::{Options, Over};
use object::{Object, ObjectSection};
use rustix::io::Errno;
use rustix::process;

use crate::errno;
use crate::failure::Failure;
use crate::show::held_by;
use crate::sums;
use crate::sysfs::Sysfs;

/// The name of the module every update depends on.
pub(crate) const DYNAMOS: &str = "dynamos";

/// Verifies and loads `update`, a directory or a module; dynamos.ko first, if need be. `take`: calls take its
/// editions.
pub(crate) fn load(
    sysfs: &Sysfs,
    update: &Path,
    options: &Options,
    take: bool,
) -> Result<(), Failure> {
    let path = if update.is_dir() {
        sums::verify(update, "update.ko")?;
        update.join("update.ko")
    } else {
        update.to_owned()
    };
    let file = ModuleFile::open(&path)?;
    if file.name != DYNAMOS && !file.depends.iter().any(|d| d == DYNAMOS) {
        return Err(Failure::refused(format!(
            "{} is a kernel module, but no update: it does not depend on dynamos.ko",
            path.display()
        )));
    }
    if sysfs.has_module(&file.name) {
        return Err(Failure::refused(format!(
            "{} is loaded already; see `dynamos status {0}`, or `dynamos unload {0}` first",
            file.name
        )));
    }
    // Of two who insert one file the kernel answers both, and has heard the options of the first (idempotent_init_module).
    if let Err(TryLockError::WouldBlock) = file.file.try_lock() {
        return Err(Failure::refused(format!(
            "{} is being loaded by somebody else; see `dynamos status {}` when that is over",
            path.display(),
            file.name
        )));
    }
    if file.name != DYNAMOS && !sysfs.is_there() {
        load_dynamos(sysfs, &path)?;
    }

    let (name, release) = (file.name.clone(), file.release.clone());
    let before = sysfs.refusals();
    let active = (options.over == Over::Replace).then(|| names_of_active(sysfs));
    let default = if take { "" } else { " default=0" };
    // dynamos.ko itself has no such parameter.
    let parameters =
        if name == DYNAMOS { String::new() } else { format!("options={options}{default}") };
    let answer = insert(file, &parameters)?;
    let Answer::No(errno) = answer else {
        match sysfs.update(&name).ok() {
            // It was given up, and cannot be taken away yet.
            Some(update) if update.state.starts_with("revert") => {
                let said = sysfs.refusals_since(&before, &name);
                if said.is_empty() {
                    println!("{name} was loaded, and is {} since by somebody else", update.state);
                    return Ok(());
                }
                let said = said.join("; ");
                return Err(Failure::refused(format!(
                    "{name} is refused: {said}; until it can go it is {}: {}",
                    update.state,
                    held_by(&update)
                )));
            }
            Some(update) if update.state.contains("held") => {
                println!("{name} is loaded, but waits: {}", held_by(&update));
            }
            Some(update) if update.state.starts_with("waiting") => {
                println!("{name} is loaded, and is {}", update.state);
            }
            _ => println!("{name} is loaded"),
        }
        if let Some(active) = active {
            tell_replaced(sysfs, &active);
        }
        return Ok(());
    };
    let said = sysfs.refusals_since(&before, &name);
    if said.is_empty() {
        let running = rustix::system::uname().release().to_string_lossy().into_owned();
        if errno == Errno::NOEXEC && release.as_ref().is_some_and(|release| *release != running) {
            let release = release.unwrap_or_default();
            return Err(Failure::refused(format!(
                "{} was made for the kernel {release}, and {running} is running; make the update for that",
                path.display()
            )));
        }
        return Err(errno::of_insertion(errno, &path.display().to_string(), sysfs));
    }
    Err(Failure::refused(format!("{name} is refused: {} ({errno})", said.join("; "))))
}

fn names_of_active(sysfs: &Sysfs) -> Vec<String> {
    let updates = sysfs.updates().unwrap_or_default();
    updates.into_iter().filter(|update| update.enabled).map(|update| update.name).collect()
}

/// Names the updates that were active and are not any more.
fn tell_replaced(sysfs: &Sysfs, active: &[String]) {
    for update in sysfs.updates().unwrap_or_default() {
        if active.contains(&update.name) && !update.enabled {
            println!("its place was that of {}, which is {}", update.name, update.state);
        }
    }
}

/// Loads the dynamos.ko that lies beside the update.
fn load_dynamos(sysfs: &Sysfs, update: &Path) -> Result<(), Failure> {
    let path = update.with_file_name("dynamos.ko");
    if !path.is_file() {
        return Err(Failure::error(format!(
            "dynamos.ko is not loaded, and there is no {}; put it there, or load it with \
             `modprobe dynamos`",
            path.display()
        )));
    }
    match insert(ModuleFile::open(&path)?, "")? {
        Answer::Yes => Ok(()),
        // Another administrator was faster, or one whose load was interrupted.
        Answer::No(Errno::EXIST) if sysfs.is_there() => Ok(()),
        Answer::No(errno) => Err(errno::of_insertion(errno, &path.display().to_string(), sysfs)),
    }
}

/// A module file that stays the same file from looking to loading.
struct ModuleFile {
    file: File,
    path: PathBuf,
    /// The name the kernel will know it by.
    name: String,
    depends: Vec<String>,
    /// The kernel it was made for.
    release: Option<String>,
}

impl ModuleFile {
    fn open(path: &Path) -> Result<ModuleFile, Failure> {
        let mut file =
            File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)
            .and_then(|_| file.rewind())
            .with_context(|| format!("cannot read {}", path.display()))?;
        let info = modinfo(&content).map_err(|reason| {
            Failure::refused(format!(
                "{} is not a kernel module or is damaged: {reason}",
                path.display()
            ))
        })?;
        let name = info.iter().find(|(key, _)| key == "name").map(|(_, name)| name.clone());
        let Some(name) = name else {
            return Err(Failure::refused(format!(
                "{} does not say its name in .modinfo; it is damaged",
                path.display()
            )));
        };
        let depends = info
            .iter()
            .filter(|(key, _)| key == "depends")
            .flat_map(|(_, names)| names.split(','))
            .map(str::to_owned)
            .collect();
        let vermagic = info.iter().find(|(key, _)| key == "vermagic");
        let release = vermagic.and_then(|(_, text)| text.split(' ').next()).map(str::to_owned);
        Ok(ModuleFile { file, path: path.to_owned(), name, depends, release })
    }
}

/// The `key=value` pairs of a module's `.modinfo`.
fn modinfo(module: &[u8]) -> Result<Vec<(String, String)>, String> {
    let file = object::File::parse(module).map_err(|e| e.to_string())?;
    let section = file.section_by_name(".modinfo").ok_or("it has no .modinfo section")?;
    let data = section.data().map_err(|e| e.to_string())?;
    Ok(data
        .split(|b| *b == 0)
        .filter_map(|entry| {
            let entry = String::from_utf8_lossy(entry);
            let (key, value) = entry.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect())
}

/// What the kernel says to a module.
enum Answer {
    Yes,
    No(Errno),
}

/// Inserts the module from a process of its own: if the kernel kills who inserts it, somebody is left to say so.
/// Ctrl-C reaches both, and what kills this one kills the other; dynamos.ko then takes everything back before that process
/// goes.
///
/// The answer is its exit status. A pipe would have us wait in `pipe_read`, which an update may replace: we would be in
/// our own way.
fn insert(module: ModuleFile, parameters: &str) -> Result<Answer, Failure> {
    let path = module.path.display().to_string();
    let status = Command::new("/proc/self/exe")
        .args(["insert", &std::process::id().to_string(), parameters])
        .stdin(module.file)
        .status()
        .context("cannot start another process of this program; is /proc mounted?")?;
    match status.code() {
        Some(0) => Ok(Answer::Yes),
        Some(errno) => Ok(Answer::No(Errno::from_raw_os_error(errno))),
        None => Err(Failure::error(format!(
            "the process that loaded {path} died ({status}); if the kernel killed it, `dmesg` shows its fault, and \
             the machine should be rebooted"
        ))),
    }
}

/// The other end of [`insert`], for the process `parent`: ends with the error number, all of which fit.
pub(crate) fn insert_stdin(parent: u32, parameters: &str) -> ExitCode {
    let answer = CString::new(parameters).map_err(|_| Errno::INVAL).and_then(|parameters| {
        die_with(parent)?;
        rustix::system::finit_module(std::io::stdin(), &parameters, 0)
    });
    let errno = answer.err().map_or(0, Errno::raw_os_error);
    ExitCode::from(u8::try_from(errno).unwrap_or(u8::MAX))
}

/// Has this process be killed when `parent` ends, which may have ended already. The kernel's wait ends by nothing less
/// (`dynamos_shim_sleep_killable`).
fn die_with(parent: u32) -> rustix::io::Result<()> {
    process::set_parent_process_death_signal(Some(process::Signal::KILL))?;
    if is_child_of(parent) { Ok(()) } else { Err(Errno::INTR) }
}

/// Whether `parent`, which started this process, is still there.
pub(crate) fn is_child_of(parent: u32) -> bool {
    let now = process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    now == Some(parent)
}
