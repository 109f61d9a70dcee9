//! `dynamos`: loads, shows, reverts and unloads updates of the running kernel.
//!
//! Exit codes: 0 done, 2 error, 3 refused (by the kernel, by dynamos.ko, or because the update
//! or its state does not allow it).

mod change;
mod errno;
mod failure;
mod load;
mod show;
mod sums;
mod sysfs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use failure::Failure;
use sysfs::Sysfs;

#[derive(Parser)]
#[command(version, about = "Loads, shows, reverts and unloads updates of the running kernel")]
#[command(after_help = "Exit codes: 0 done, 2 error, 3 refused.")]
struct Cli {
    /// Where sysfs is mounted.
    #[arg(long, global = true, hide = true, default_value = "/sys")]
    sysfs: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load an update and switch to it.
    Load {
        /// An update's directory (its checksums are verified first), or an update.ko alone.
        update: PathBuf,
        /// Give up after this time, if dynamos.ko has not given up before.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// List the updates that are loaded, one a line: name, state, target.
    List,
    /// Show one update or all, with their functions.
    Status {
        /// The update.
        name: Option<String>,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Go back to the kernel's own functions; the update stays loaded.
    Revert {
        /// The update.
        name: String,
    },
    /// Switch to a reverted update again.
    Enable {
        /// The update.
        name: String,
    },
    /// Remove a reverted update from the kernel.
    Unload {
        /// The update; or `dynamos` for dynamos.ko itself, when no update is left.
        name: String,
        /// Revert it first, if it is enabled.
        #[arg(long)]
        revert: bool,
    },
    /// Insert the module on the standard input and print the system's answer. The part of
    /// `load` that runs in a process of its own, so that it can be given up.
    #[command(hide = true)]
    Insert,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dynamos: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let sysfs = Sysfs::at(&cli.sysfs);
    match &cli.command {
        Command::Load { update, timeout } => {
            load::load(&sysfs, update, timeout.map(Duration::from_secs))
        }
        Command::List => show::list(&sysfs),
        Command::Status { name, json } => show::status(&sysfs, name.as_deref(), *json),
        Command::Revert { name } => change::revert(&sysfs, name),
        Command::Enable { name } => change::enable(&sysfs, name),
        Command::Unload { name, revert } => change::unload(&sysfs, name, *revert),
        Command::Insert => load::insert_stdin(),
    }
}
