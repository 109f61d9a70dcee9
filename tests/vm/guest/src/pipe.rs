//! Calls of `pipe_fcntl()`, whose edition 1 in the tests gives a number that is one greater.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

/// Which edition `times` calls took: `0`, `1` or `mixed`. With a size the calls set the pipe's to that; `made` sets it
/// once before.
pub fn edition(size: Option<i32>, made: Option<i32>, times: u32) -> Result<&'static str> {
    let (_reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    if let Some(made) = made {
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(made)).context("cannot set the pipe's size")?;
    }
    let mut seen = [false; 2];
    for _ in 0..times {
        let argument = size.map_or(FcntlArg::F_GETPIPE_SZ, FcntlArg::F_SETPIPE_SZ);
        let odd = fcntl(&writer, argument).context("cannot ask the pipe")? % 2 == 1;
        let [zero, one] = &mut seen;
        *(if odd { one } else { zero }) = true;
    }
    match seen {
        [true, false] => Ok("0"),
        [false, true] => Ok("1"),
        [true, true] => Ok("mixed"),
        [false, false] => bail!("no call was made"),
    }
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
