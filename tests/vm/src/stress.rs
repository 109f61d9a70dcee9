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

/// Every point of the operations made to fail in turn; `options` go to `guest-tool faults`. Gives the results
/// `faults`, JSON, and `leaks`, a number.
///
/// # Errors
/// [`Error::Tool`] where the guest's tool does not build.
pub fn faults(image: &Image, update: &Path, functions: usize, options: &str) -> Result<Vm, Error> {
    let script = format!(
        "{SET_UP}
        guest-tool faults /update --name {UPDATE} --functions {functions} {options} >/run/faults
        result faults </run/faults
        {LEAKS}"
    );
    Ok(machine(image, update)?.timeout(Duration::from_secs(3 * 3600)).script(script))
}

fn machine(image: &Image, update: &Path) -> Result<Vm, Error> {
    Ok(Vm::new(image)
        .memory(1536)
        // Every report, not the first one only.
        .append("kasan_multi_shot")
        // On a busy host the timer is late, which the kernel takes for a broken one, or for a CPU that is stuck.
        .append("no_timer_check watchdog_thresh=60")
        // The update changes it, so it must be there; in the debug kernel it is built in.
        .module("ext4")
        .file(static_binary("guest-tool", "guest-tool")?, "/bin/guest-tool")
        .file(update, "/update"))
}
