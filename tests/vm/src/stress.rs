//! Machines that put an update under stress: many lives of it under load, or a failure at every point.
//!
//! What goes on inside is `guest-tool stress` and `guest-tool faults`; the image is best that of the debug kernel, whose
//! checkers report on the console what they find. Another kernel counts no leaks, and cannot make faults.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::image::Image;
use crate::tools::static_binary;
use crate::vm::Vm;

/// The name of the update that [`patch`] becomes.
pub const UPDATE: &str = "stress_paths";

/// The name of the update that takes its place, and has its place taken.
pub const OTHER: &str = "stress_other";

/// What the calls of its functions work on, as `dynamos-diff --object` has it.
pub const OBJECTS: [&str; 7] = [
    "ext4_file_read_iter=iocb",
    "pipe_read=iocb",
    "pipe_write=iocb",
    "pipe_fcntl=file",
    "exec_mm_release=tsk",
    "tcp_poll=file",
    "tcp_recvmsg=sk",
];

/// Leaks that were there before are no business of ours.
const SET_UP: &str = "
    ifconfig lo 127.0.0.1 up
    kmemleak=/sys/kernel/debug/kmemleak
    [ ! -e $kmemleak ] || { echo scan=off >$kmemleak; echo scan >$kmemleak; echo clear >$kmemleak; }
";

/// Through a file, not a pipe: somebody asleep in `pipe_read` would hold up every switch.
const LEAKS: &str = "
    if [ -e $kmemleak ]; then guest-tool leaks >/run/leaks; result leaks </run/leaks; fi
";

/// The edits that the update is made of.
#[must_use]
pub fn patch() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stress/paths.patch")
}

/// The edits of a module of the name [`MODULE`].
#[must_use]
pub fn module_patch() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stress/module.patch")
}

/// The module that comes and goes.
const MODULE: &str = "loop";

/// What an update brings besides the editions of its functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// Hooks around its switches.
    Hooks,
    /// A bridge, and hooks between its phases.
    Phases,
}

/// Where the edits of the last file of [`patch`] that hooks are added to end.
const NEXT_FILE: &str = "--- a/kernel/fork.c";
/// What tells editions apart.
const TOLD: &str = "ret = pipe->max_usage * PAGE_SIZE + 1;";

/// Writes a patch that makes the update of the name [`OTHER`]: of the same functions, and what it does can be told from
/// what the first does.
///
/// # Errors
/// [`Error::File`].
pub fn other(file: &Path) -> Result<(), Error> {
    write(file, |text| text.replacen(TOLD, "ret = pipe->max_usage * PAGE_SIZE + 2;", 1))
}

/// Writes a patch that makes the same update with hooks around its switches.
///
/// # Errors
/// [`Error::File`].
pub fn hooks(file: &Path) -> Result<(), Error> {
    let names = ["before_on", "after_on", "before_off", "after_off"].map(|name| (name, 0));
    write(file, |text| with_hooks(text, &names))
}

/// Writes a patch that makes the bridge of the same update: to whoever calls it, it is as the kernel's own.
///
/// # Errors
/// [`Error::File`].
pub fn bridge(file: &Path) -> Result<(), Error> {
    let names = [("advance", 1), ("transfer", 0), ("advance_back", 1), ("transfer_back", 0)];
    let as_before = "ret = pipe->bufs ? pipe->max_usage * PAGE_SIZE : -EBADF;";
    write(file, |text| with_hooks(&text.replacen(TOLD, as_before, 1), &names))
}

/// Hooks at the end of `fs/pipe.c`, so that no line of it is another.
fn with_hooks(text: &str, names: &[(&str, i32)]) -> String {
    let mut hunk =
        format!("@@ -1520,3 +1520,{} @@\n }}\n \n fs_initcall(init_pipe_fs);\n", 3 + names.len());
    for (name, answer) in names {
        hunk += &format!("+static __used int dynamos_{name}(void) {{ return {answer}; }}\n");
    }
    text.replacen(NEXT_FILE, &format!("{hunk}{NEXT_FILE}"), 1)
}

fn write(file: &Path, change: impl Fn(&str) -> String) -> Result<(), Error> {
    let text = std::fs::read_to_string(patch()).map_err(Error::file("read", patch()))?;
    std::fs::write(file, change(&text)).map_err(Error::file("write", file))
}

/// `rounds` lives of the update in the directory `update`, which replaces `functions` functions, with pipes, ext4,
/// fork and exec, and TCP going on 2 CPUs. Gives the results `stress`, JSON, and `leaks`, a number.
///
/// # Errors
/// [`Error::Tool`] where the guest's tool does not build.
pub fn rounds(image: &Image, update: &Path, functions: usize, rounds: u32) -> Result<Vm, Error> {
    let script = format!(
        "{SET_UP}
        mount -t ext4 /dev/vda /mnt
        guest-tool stress /update --name {UPDATE} --functions {functions} --rounds {rounds} >/run/stress
        result stress </run/stress
        {LEAKS}"
    );
    let limit = Duration::from_secs(900).saturating_add(Duration::from_secs(60) * rounds);
    Ok(machine(image, update)?.disk(256 << 20).timeout(limit).script(script))
}

/// Every point of the operations made to fail in turn; `options` go to `guest-tool faults`, and `other` is the update
/// [`OTHER`], if one is to take the place of another. Gives the results `faults`, JSON, and `leaks`, a number.
///
/// # Errors
/// [`Error::Tool`] where the guest's tool does not build.
pub fn faults(
    image: &Image,
    update: &Path,
    other: Option<&Path>,
    functions: usize,
    options: &str,
) -> Result<Vm, Error> {
    let with_other =
        other.map_or_else(String::new, |_| format!(" --other /other --other-name {OTHER}"));
    let script = format!(
        "{SET_UP}
        guest-tool faults /update --name {UPDATE} --functions {functions}{with_other} {options} >/run/faults
        result faults </run/faults
        {LEAKS}"
    );
    let vm = machine(image, update)?.timeout(Duration::from_secs(3 * 3600)).script(script);
    Ok(other.into_iter().fold(vm, |vm, other| vm.file(other, "/other")))
}

/// The same for an update of [`module_patch`], while its module comes and goes.
///
/// # Errors
/// [`Error::Tool`] where the guest's tool does not build.
pub fn late_faults(
    image: &Image,
    update: &Path,
    functions: usize,
    options: &str,
) -> Result<Vm, Error> {
    let script = format!(
        "{SET_UP}
        guest-tool late-faults /update --name {UPDATE} --functions {functions} --module /modules/{MODULE}.ko \
            {options} >/run/faults
        result faults </run/faults
        {LEAKS}"
    );
    let vm = machine(image, update)?.offer(MODULE);
    Ok(vm.timeout(Duration::from_secs(3 * 3600)).script(script))
}

fn machine(image: &Image, update: &Path) -> Result<Vm, Error> {
    Ok(Vm::new(image)
        .memory(1536)
        // Every report, not the first one only.
        .append("kasan_multi_shot")
        // A switch of seven functions is some thirty grace periods, and most of a round would be waiting for them.
        .append("rcupdate.rcu_expedited=1")
        // The update changes it, so it must be there; in the debug kernel it is built in.
        .module("ext4")
        .file(static_binary("guest-tool", "guest-tool")?, "/bin/guest-tool")
        .file(update, "/update"))
}
