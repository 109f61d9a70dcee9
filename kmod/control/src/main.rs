//! `dynamos`: loads, shows, reverts and unloads updates of the running kernel.
//!
//! Exit codes: 0 done, 2 error, 3 refused (by the kernel, by dynamos.ko, or because the update
//! or its state does not allow it).

mod change;
mod errno;
mod failure;
mod load;
mod policy;
mod preempt;
mod show;
mod sums;
mod sysfs;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Parser, Subcommand};
use dynamos_core::{OnTimeout, Options, Over, Scope};

use failure::Failure;
use policy::Wanted;
use preempt::Preemptible;
use sysfs::Sysfs;

#[derive(Parser)]
#[command(version, about = "Loads, shows, reverts and unloads updates of the running kernel")]
#[command(after_help = "Exit codes: 0 done, 2 error, 3 refused.")]
struct Cli {
    /// Where sysfs is mounted.
    #[arg(long, global = true, hide = true, default_value = "/sys")]
    sysfs: PathBuf,
    /// While the command works, let tasks in the kernel give way to more urgent ones (`preempt=full`), so that a real-time
    /// task does not wait for ftrace; afterwards it is as before. Needs debugfs.
    #[arg(long, global = true)]
    preemptible: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load an update and switch to it.
    Load {
        /// An update's directory (its checksums are verified first), or an update.ko alone.
        update: PathBuf,
        #[command(flatten)]
        scope: WithScope,
        #[command(flatten)]
        wait: Wait,
        /// Take the place of every update that replaces one of the functions: at one switch their editions leave.
        /// `dynamos revert` then gives the kernel's own functions, not theirs.
        #[arg(long)]
        replace: bool,
        /// Lie over every update that replaces one of the functions: the newest edition runs, and `dynamos revert`
        /// gives theirs back.
        #[arg(long, conflicts_with = "replace")]
        stack: bool,
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
    ///
    /// Gives up a load that is held, or that waits for a module.
    Revert {
        /// The update.
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Switch to a reverted update again.
    ///
    /// Gives up a revert that is held or drains, and goes on with a load that is held.
    Enable {
        /// The update.
        name: String,
        #[command(flatten)]
        scope: WithScope,
        #[command(flatten)]
        wait: Wait,
        /// Take the place of every update that replaces one of the functions.
        #[arg(long)]
        replace: bool,
        /// Lie over every update that replaces one of the functions.
        #[arg(long, conflicts_with = "replace")]
        stack: bool,
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
    /// Write the model back to the file when the process has ended. The part of `--preemptible` that is left when
    /// the command is killed.
    #[command(hide = true)]
    KeepPreemption {
        /// The command's process.
        parent: u32,
        /// The model of preemption before.
        model: String,
        /// Where it is set.
        file: PathBuf,
    },
    /// Insert the module on the standard input; the exit status is the system's answer. The part of
    /// `load` that runs in a process of its own.
    #[command(hide = true)]
    Insert {
        /// The process that waits for it, without which it is not to go on.
        parent: u32,
        /// The module's parameters.
        parameters: String,
    },
}

/// What must be quiet.
#[derive(Args)]
struct WithScope {
    /// What must be quiet before calls take the update's editions. `function`: nothing; new calls take them at once,
    /// calls under way end in the kernel's own functions. `task`: each task takes them once it is in none of the
    /// functions. `object`: calls on each object take them once no call works on it. `system`: no task is in any of the functions. Without it, what the update's plan proposes.
    #[arg(long, value_name = "function|task|object|system", value_parser = scope)]
    scope: Option<Scope>,
}

/// How to wait for tasks that are in the functions.
#[derive(Args)]
struct Wait {
    /// How long to wait for tasks to leave; without it 30 seconds, or what dynamos.ko was loaded with.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    timeout: Option<u32>,
    /// Then: `roll-back`, all is as before; `hold`, it stays as far as it has come and goes on by itself when the last
    /// task leaves; `force-new-calls`, new calls take the other edition and calls under way end in theirs.
    #[arg(long, value_name = "WHAT", default_value = "roll-back", value_parser = on_timeout)]
    on_timeout: OnTimeout,
    /// Wake tasks that sleep in the functions: their system calls begin anew, and nobody sees a signal. Empties the
    /// update's code when new calls do not enter it (scope `function`).
    #[arg(long)]
    signal: bool,
    /// In an update with phases: for how long at least the bridge takes all calls, on either way, before the state is
    /// carried over. Said when it is loaded, it counts for later commands too.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    phase_time: Option<u32>,
}

impl Wait {
    fn options(&self, scope: Option<Scope>) -> Options {
        let ms = |seconds: u32| seconds.saturating_mul(1000);
        Options {
            scope,
            wait_ms: self.timeout.map(ms),
            phase_ms: self.phase_time.map(ms),
            on_timeout: self.on_timeout,
            signal: self.signal,
            ..Options::default()
        }
    }
}

fn scope(text: &str) -> Result<Scope, &'static str> {
    Scope::parse(text).ok_or("it is `function`, `task`, `object` or `system`")
}

fn on_timeout(text: &str) -> Result<OnTimeout, &'static str> {
    OnTimeout::parse(text).ok_or("it is `roll-back`, `hold` or `force-new-calls`")
}

/// What is to become of other updates of the same functions.
fn over(options: Options, replace: bool, stack: bool) -> Options {
    let over = match (replace, stack) {
        (true, _) => Over::Replace,
        (_, true) => Over::Stack,
        _ => Over::Nothing,
    };
    Options { over, ..options }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Insert { parent, parameters } = &cli.command {
        return load::insert_stdin(*parent, parameters);
    }
    if let Command::KeepPreemption { parent, model, file } = &cli.command {
        return preempt::keep(*parent, model, file);
    }
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
    let _until_the_end = cli.preemptible.then(|| Preemptible::new(&cli.sysfs)).transpose()?;
    match &cli.command {
        Command::Load { update, scope, wait, replace, stack, default } => {
            let options = over(wait.options(scope.scope), *replace, *stack);
            load::load(&sysfs, update, &options, *default != 0)
        }
        Command::List => show::list(&sysfs),
        Command::Status { name, json } => show::status(&sysfs, name.as_deref(), *json),
        Command::Revert { name, wait } => change::revert(&sysfs, name, &wait.options(None)),
        Command::Enable { name, scope, wait, replace, stack } => {
            change::enable(&sysfs, name, &over(wait.options(scope.scope), *replace, *stack))
        }
        Command::Policy { name, function, when, default } => {
            let wanted = match (when, default) {
                (Some(text), _) => Wanted::When(text),
                (None, Some(edition)) => Wanted::Default(*edition != 0),
                (None, None) => Wanted::Show,
            };
            policy::policy(&sysfs, name, function.as_deref(), &wanted)
        }
        Command::Unload { name, revert } => change::unload(&sysfs, name, *revert),
        Command::Insert { .. } | Command::KeepPreemption { .. } => Ok(()), // not here
    }
}
