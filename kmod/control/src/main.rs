//! `dynamos`: loads, shows, reverts and unloads updates of the running kernel.
//!
//! Exit codes: 0 done, 2 error, 3 refused (by the kernel, by dynamos.ko, or because the update
//! or its state does not allow it).

mod change;
mod errno;
mod failure;
mod load;
mod policy;
mod show;
mod sums;
mod sysfs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand};

use failure::Failure;
use policy::Wanted;
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
        /// Which edition calls take until there is a policy: 0 leaves all of them with the kernel's own functions.
        #[arg(long, value_name = "0|1", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
        default: u8,
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
    /// Decide which calls take the update's editions, while they run; without an option, show it.
    #[command(group(ArgGroup::new("wanted")))]
    Policy {
        /// The update.
        name: String,
        /// Only for this function, FUNCTION or OBJECT:FUNCTION; else for all of the update.
        #[arg(long, requires = "wanted")]
        function: Option<String>,
        /// Calls for which this holds take the edition, all others edition 0. For example:
        /// 'cgroup == "/web" or percent(10)'. docs/policies.md has the language.
        #[arg(long, value_name = "EXPR", group = "wanted")]
        when: Option<String>,
        /// All calls take this edition.
        #[arg(long, value_name = "0|1", group = "wanted", value_parser = clap::value_parser!(u8).range(0..=1))]
        default: Option<u8>,
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
    Insert {
        /// The module's parameters.
        parameters: String,
    },
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
        Command::Load { update, timeout, default } => {
            load::load(&sysfs, update, timeout.map(Duration::from_secs), *default != 0)
        }
        Command::List => show::list(&sysfs),
        Command::Status { name, json } => show::status(&sysfs, name.as_deref(), *json),
        Command::Revert { name } => change::revert(&sysfs, name),
        Command::Enable { name } => change::enable(&sysfs, name),
        Command::Policy { name, function, when, default } => {
            let wanted = match (when, default) {
                (Some(text), _) => Wanted::When(text),
                (None, Some(edition)) => Wanted::Default(*edition != 0),
                (None, None) => Wanted::Show,
            };
            policy::policy(&sysfs, name, function.as_deref(), &wanted)
        }
        Command::Unload { name, revert } => change::unload(&sysfs, name, *revert),
        Command::Insert { parameters } => load::insert_stdin(parameters),
    }
}
