//! The project's own commands: `cargo xtask …`. A command is a variant of [`Command`] and a file
//! of its name.

mod bench;
mod corpus;
mod demo;
mod fuzz;
mod mutate;
mod setup;
mod stress;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Install the Debian packages that anything here needs and that are missing.
    Setup,
    /// Fix a real bug of Debian's kernel 6.1.0-55 while it runs, in a virtual machine.
    Demo(demo::Arguments),
    /// Measure.
    Bench(bench::Arguments),
    /// Make an update of every changed source between two Debian kernels, load and revert them.
    Corpus(corpus::Arguments),
    /// Change single functions of real kernel files and check the differ's verdicts.
    Mutate(mutate::Arguments),
    /// Feed the loaders and the matcher mutated input (cargo-fuzz).
    Fuzz(fuzz::Arguments),
    /// Run many lives of an update under load, or make every point of one fail, on a debug kernel.
    Stress(stress::Arguments),
    /// Check the formatting and the lints, and run every test, those in virtual machines too.
    Test,
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Setup => setup::ensure(&setup::all()),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Corpus(arguments) => corpus::run(&arguments),
        Command::Mutate(arguments) => mutate::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Stress(arguments) => stress::run(&arguments),
        Command::Test => test::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The top of the workspace.
fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Cargo, the one this program was started by.
fn cargo(arguments: &[&str]) -> std::process::Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.current_dir(workspace()).args(arguments);
    command
}
