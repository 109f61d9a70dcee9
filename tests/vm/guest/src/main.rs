//! What tests need inside a guest and busybox does not have.

mod exits;
mod kcore;
mod linear;
mod load;
mod pipe;
mod pipes;
mod race;
mod seccomp;
mod sleepers;
mod stress;
mod yields;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser};

#[derive(Parser)]
#[command(about, version)]
enum Command {
    /// Print bytes of the running kernel in hexadecimal.
    Kbytes {
        /// A name in /proc/kallsyms; it must stand for one address.
        symbol: String,
        /// How many bytes.
        length: usize,
        /// The module the symbol is in; the kernel itself if absent.
        #[arg(long)]
        module: Option<String>,
    },
    /// Write files with known content in several threads and remember their checksums.
    WriteLoad {
        /// Where to write.
        dir: PathBuf,
        #[command(flatten)]
        until: Until,
        /// How many threads write.
        #[arg(long, default_value_t = 4)]
        threads: u32,
        /// Created when every thread has written its first file.
        #[arg(long)]
        ready_file: Option<PathBuf>,
        #[command(flatten)]
        sums: Sums,
    },
    /// Read back, past the page cache, what `write-load` wrote, and compare.
    Verify {
        /// Where `write-load` wrote.
        dir: PathBuf,
        #[command(flatten)]
        sums: Sums,
    },
    /// Write everything back and drop the page cache, dentries and inodes.
    DropCaches,
    /// Hold a system call at its entry while its process installs a seccomp filter: `bypassed` or `filtered`.
    SeccompRace,
    /// Keep a process at the entry of a system call until a file exists.
    HoldCall {
        /// Made when the process is there.
        held: PathBuf,
        /// What to wait for.
        until: PathBuf,
    },
    /// Which edition of `pipe_fcntl` calls take: `0`, `1` or `mixed`.
    PipeEdition {
        /// Set the pipe's size to this, instead of asking for it.
        #[arg(long)]
        size: Option<i32>,
        /// Set the size to this once, before the calls.
        #[arg(long)]
        made: Option<i32>,
        /// How many calls to make.
        #[arg(long, default_value_t = 3)]
        times: u32,
        /// Make them in a thread that is not the process's first.
        #[arg(long)]
        thread: bool,
    },
    /// Write and read pipes until a file exists, and tell whether any byte was lost.
    Pipes {
        /// How many write, and how many read.
        #[arg(long, default_value_t = 8)]
        count: u32,
        /// End when this file exists.
        #[arg(long)]
        stop_file: PathBuf,
        /// Created when all have begun.
        #[arg(long)]
        ready_file: PathBuf,
        /// How many seconds the last bytes may take; emulated machines are slow.
        #[arg(long, default_value_t = 120)]
        patience: u64,
    },
    /// How many milliseconds of virtual run time calls of `sched_yield` cost while another thread does the same.
    Yields {
        /// How many calls to make.
        times: u32,
    },
    /// Begin threads that end at once until a file exists, and tell how many have ended.
    Exits {
        /// How many begin them.
        #[arg(long, default_value_t = 4)]
        count: u32,
        /// End when this file exists.
        #[arg(long)]
        stop_file: PathBuf,
    },
    /// Begin a thread of this name, which ends at once.
    ExitOnce {
        /// Its name.
        name: String,
    },
    /// Administrators of one update of `pipe_fcntl`, which is not loaded, all at once: whether what they did and saw can
    /// have been done one after the other. Then how many operations of each kind were done, of how many.
    Race(race::Race),
    /// Run a program as another user, without any other group.
    AsUser {
        /// The user's and the group's number.
        id: u32,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<std::ffi::OsString>,
    },
    /// Load, switch, revert and unload an update many times with loads going; prints JSON.
    Stress {
        #[command(flatten)]
        what: stress::What,
        /// How many times.
        #[arg(long)]
        rounds: u32,
        /// Where to write files meanwhile.
        #[arg(long, default_value = "/mnt")]
        dir: PathBuf,
    },
    /// Make every allocation, registration and wait of an operation fail in turn; prints JSON.
    Faults {
        #[command(flatten)]
        what: stress::What,
        /// The directory of an update of the same functions, for the stages `replace`, `stack` and `unstack`.
        #[arg(long, requires = "other_name")]
        other: Option<PathBuf>,
        /// The name of its module.
        #[arg(long)]
        other_name: Option<String>,
        /// Which operations; all of them if absent.
        #[arg(long = "stage", value_enum)]
        stages: Vec<stress::Stage>,
        /// Only the points below a function of dynamos.ko.
        #[arg(long)]
        own: bool,
    },
    /// The same for an update of a module that comes and goes.
    LateFaults {
        #[command(flatten)]
        what: stress::What,
        /// The module's file.
        #[arg(long)]
        module: PathBuf,
        /// Which operations; all of them if absent.
        #[arg(long = "stage", value_enum)]
        stages: Vec<stress::LateStage>,
        /// Only the points below a function of dynamos.ko.
        #[arg(long)]
        own: bool,
    },
    /// Scan for leaked memory and print how many objects there are.
    Leaks,
    /// Tasks asleep in reads of empty pipes, for ever.
    Sleepers {
        /// Where they are told what to do.
        #[arg(long, default_value = "/run/sleepers")]
        socket: PathBuf,
        #[command(subcommand)]
        what: Sleepers,
    },
    /// The process that `seccomp-race` holds.
    #[command(hide = true)]
    SeccompVictim {
        /// Directory for what the two share.
        scratch: PathBuf,
    },
}

#[derive(clap::Subcommand)]
enum Sleepers {
    /// Hold them, and do what they are told.
    Serve {
        /// How many sleep.
        #[arg(long)]
        count: u32,
        /// How many threads use pipes all the time.
        #[arg(long, default_value_t = 0)]
        busy: u32,
        /// How many seconds anything may take; emulated machines are slow.
        #[arg(long, default_value_t = 300)]
        patience: u64,
    },
    /// Tell them: `asleep`, `feed`, `feed-one`, `edition`, `theirs`, `watch`, `again`, `first` or `end`.
    Ask {
        /// What.
        word: String,
    },
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct Until {
    /// End after this time.
    #[arg(long)]
    seconds: Option<u64>,
    /// End when this file exists.
    #[arg(long)]
    stop_file: Option<PathBuf>,
}

#[derive(Args)]
struct Sums {
    /// The checksums; not on the file system under test.
    #[arg(long, default_value = "/run/write-load.sums")]
    sums: PathBuf,
}

fn in_a_thread(
    ask: impl FnOnce() -> anyhow::Result<String> + Send + 'static,
) -> anyhow::Result<String> {
    std::thread::spawn(ask).join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::SeccompRace => println!("{}", seccomp::race()?),
        Command::HoldCall { held, until } => seccomp::hold_call(&held, &until)?,
        Command::PipeEdition { size, made, times, thread } => {
            let ask = move || pipe::edition(size, made, times);
            let edition = if thread { in_a_thread(ask)? } else { ask()? };
            println!("{edition}");
        }
        Command::Pipes { count, stop_file, ready_file, patience } => {
            let patience = Duration::from_secs(patience);
            println!("{}", pipes::run(count, &stop_file, &ready_file, patience)?);
        }
        Command::Exits { count, stop_file } => println!("{}", exits::run(count, &stop_file)?),
        Command::ExitOnce { name } => exits::once(&name)?,
        Command::Yields { times } => println!("{}", yields::cost(times)?),
        Command::Race(race) => println!("{}", race.run()?),
        Command::AsUser { id, program } => pipe::as_user(id, &program)?,
        Command::SeccompVictim { scratch } => seccomp::victim(&scratch)?,
        Command::Kbytes { symbol, length, module } => {
            println!("{}", kcore::hex(&symbol, module.as_deref(), length)?);
        }
        Command::WriteLoad { dir, until, threads, ready_file, sums } => {
            let load = load::Load {
                dir,
                threads,
                seconds: until.seconds.map(Duration::from_secs),
                stop_file: until.stop_file,
                ready_file,
                rest: 0,
            };
            let written = load.run()?;
            load::save(&written.kept, &sums.sums)?;
            println!(
                "{} files written, {} bytes, {} kept",
                written.files,
                written.bytes,
                written.kept.len()
            );
        }
        Command::Verify { dir, sums } => {
            drop_caches()?;
            let count = load::verify(&dir, &sums.sums)?;
            println!("{count} files intact");
        }
        Command::DropCaches => drop_caches()?,
        Command::Stress { what, rounds, dir } => stress::stress(&what, rounds, &dir)?,
        Command::Faults { what, other, other_name, stages, own } => {
            let all = <stress::Stage as clap::ValueEnum>::value_variants();
            let other = other.zip(other_name);
            let able = |stage: &&stress::Stage| other.is_some() || stage.of_two().is_none();
            let stages = match stages.as_slice() {
                [] => all.iter().filter(able).copied().collect(),
                _ => stages,
            };
            let other = other.map(|(update, name)| stress::What {
                update,
                name,
                functions: what.functions,
                scope: what.scope.clone(),
            });
            stress::faults(&what, other.as_ref(), &stages, own)?;
        }
        Command::LateFaults { what, module, stages, own } => {
            let all = <stress::LateStage as clap::ValueEnum>::value_variants();
            let stages = if stages.is_empty() { all } else { &stages };
            stress::late_faults(&what, &module, stages, own)?;
        }
        Command::Sleepers { socket, what: Sleepers::Serve { count, busy, patience } } => {
            sleepers::serve(count, busy, &socket, Duration::from_secs(patience))?;
        }
        Command::Sleepers { socket, what: Sleepers::Ask { word } } => {
            println!("{}", sleepers::ask(&socket, &word)?);
        }
        Command::Leaks => stress::leaks()?,
    }
    Ok(())
}

/// Only clean pages can be dropped, so everything is written back first.
fn drop_caches() -> anyhow::Result<()> {
    let status = std::process::Command::new("sync").status().context("cannot run sync")?;
    anyhow::ensure!(status.success(), "sync failed: {status}");
    let path = "/proc/sys/vm/drop_caches";
    std::fs::write(path, "3\n").with_context(|| format!("cannot write {path}; are you root?"))
}
