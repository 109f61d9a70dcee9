//! Calls of `pipe_fcntl()`, whose edition 1 in the tests gives a number that is one greater; kernel livepatch's gives
//! one that is two greater.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

const PAGE: i32 = 4096;

/// Which edition `times` calls took: `0`, `1`, `2` (livepatch's) or `mixed`. With a size the calls set the pipe's to
/// that; `made` sets it once before.
pub fn edition(size: Option<i32>, made: Option<i32>, times: u32) -> Result<String> {
    let (_reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    if let Some(made) = made {
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(made)).context("cannot set the pipe's size")?;
    }
    let mut seen = BTreeSet::new();
    for _ in 0..times {
        let argument = size.map_or(FcntlArg::F_GETPIPE_SZ, FcntlArg::F_SETPIPE_SZ);
        // A pipe's size is a number of pages.
        seen.insert(fcntl(&writer, argument).context("cannot ask the pipe")? % PAGE);
    }
    let edition = seen.first().context("no call was made")?;
    Ok(if seen.len() == 1 { edition.to_string() } else { "mixed".into() })
}

/// Becomes `program` as another user.
pub fn as_user(id: u32, program: &[OsString]) -> Result<()> {
    setgroups(&[]).context("cannot drop the groups")?;
    setgid(Gid::from_raw(id)).context("cannot change the group")?;
    setuid(Uid::from_raw(id)).context("cannot change the user")?;
    let (name, arguments) = program.split_first().context("no program is given")?;
    let error = Command::new(name).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", name.display()))
}
