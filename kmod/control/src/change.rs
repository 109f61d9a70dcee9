//! Reverting, enabling and unloading an update.

use std::ffi::CString;

use dynamos_core::Options;
use rustix::io::Errno;

use crate::failure::Failure;
use crate::load::DYNAMOS;
use crate::show::held_by;
use crate::sysfs::Sysfs;

/// `O_NONBLOCK`: an update in use is not waited for. From `asm-generic/fcntl.h`.
const O_NONBLOCK: i32 = 0o4000;

/// Goes back to edition 0.
pub(crate) fn revert(sysfs: &Sysfs, name: &str, options: &Options) -> Result<(), Failure> {
    switch(sysfs, name, false, options)
}

/// Goes to the update's editions again.
pub(crate) fn enable(sysfs: &Sysfs, name: &str, options: &Options) -> Result<(), Failure> {
    switch(sysfs, name, true, options)
}

fn switch(sysfs: &Sysfs, name: &str, on: bool, options: &Options) -> Result<(), Failure> {
    let wanted = if on { "active" } else { "reverted" };
    if sysfs.update(name)?.state == wanted {
        println!("{name} is {wanted} already");
        return Ok(());
    }
    let before = sysfs.refusals();
    if let Err(error) = sysfs.enable(name, on, options) {
        let verb = if on { "enable" } else { "revert" };
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            return Err(Failure::error(format!("only root may {verb} {name}; use sudo")));
        }
        let said = sysfs.refusals_since(&before, name);
        let why = if said.is_empty() { "`dmesg` may say more".to_owned() } else { said.join("; ") };
        return Err(Failure::refused(format!("cannot {verb} {name}: {why} ({error})")));
    }
    let update = sysfs.update(name)?;
    let state = &update.state;
    if state.starts_with("waiting") {
        println!("{name} is {state}");
        return Ok(());
    }
    if state.contains("held") || state.contains("draining") {
        println!("{name} is {state}: {}", held_by(&update));
        return Ok(());
    }
    if state != wanted {
        return Err(Failure::error(format!(
            "{name} is {state}, not {wanted}; see `dynamos status {name}` and `dmesg`"
        )));
    }
    println!("{name} is {wanted}");
    Ok(())
}

/// Removes a reverted update, or dynamos.ko when there is none.
pub(crate) fn unload(sysfs: &Sysfs, name: &str, revert_first: bool) -> Result<(), Failure> {
    if name == DYNAMOS {
        unload_dynamos(sysfs)?;
    } else {
        let update = sysfs.update(name)?;
        if update.enabled && !revert_first {
            return Err(Failure::refused(format!(
                "{name} is enabled; `dynamos revert {name}` first, or give --revert"
            )));
        }
        if update.state.contains("draining") && !revert_first {
            return Err(Failure::refused(format!(
                "{name} is reverted, but tasks are still in its code, which must stay until they leave: {}; give \
                 --revert to wait for them",
                held_by(&update)
            )));
        }
        // One that waits is given up; what is on its way is somebody else's.
        let waits = update.state.contains("held") || update.state.starts_with("waiting");
        if update.state != "reverted" && !waits && !revert_first {
            return Err(Failure::refused(format!(
                "{name} is {}: it is being switched by somebody else; try again in a moment",
                update.state
            )));
        }
        if update.state != "reverted" {
            revert(sysfs, name, &Options::default())?;
        }
        let before = sysfs.refusals();
        delete(name).map_err(|errno| {
            let mut said = sysfs.refusals_since(&before, name);
            if errno == Errno::AGAIN
                && let Some(reason) = sysfs.pinned(name)
            {
                said.push(format!(
                    "it must stay mapped once it has run ({reason}): it goes with a reboot"
                ));
            }
            refused(name, errno, &said)
        })?;
    }
    println!("{name} is unloaded");
    Ok(())
}

fn unload_dynamos(sysfs: &Sysfs) -> Result<(), Failure> {
    let names = sysfs.names()?;
    if !names.is_empty() {
        return Err(Failure::refused(format!(
            "dynamos.ko serves updates that are loaded: {}; unload them first",
            names.join(", ")
        )));
    }
    if !sysfs.has_module(DYNAMOS) {
        return Err(Failure::error("dynamos.ko is not loaded"));
    }
    delete(DYNAMOS).map_err(|errno| refused(DYNAMOS, errno, &[]))
}

fn delete(name: &str) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    rustix::system::delete_module(&name, O_NONBLOCK)
}

fn refused(name: &str, errno: Errno, said: &[String]) -> Failure {
    let why = match errno {
        Errno::PERM if !rustix::process::geteuid().is_root() => {
            return Failure::error(format!("only root may unload {name}; use sudo"));
        }
        _ if !said.is_empty() => said.join("; "),
        Errno::AGAIN => "something still uses it; try again in a moment".to_owned(),
        Errno::BUSY => "it is being loaded or unloaded; try again in a moment".to_owned(),
        Errno::NOENT => "the kernel has no module of that name".to_owned(),
        _ => "`dmesg` may say more".to_owned(),
    };
    Failure::refused(format!("cannot unload {name}: {why} ({errno})"))
}
