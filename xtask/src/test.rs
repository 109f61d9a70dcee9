//! `cargo xtask test`.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use anyhow::{Context, ensure};

use crate::{cargo, setup, workspace};

/// Says how many tests a program runs at the same time.
const THREADS: &str = "RUST_TEST_THREADS";

/// Stops at the first step that fails; of the tests, all run.
pub fn run() -> anyhow::Result<()> {
    setup::ensure(&setup::all())?;
    step("formatting", &["fmt", "--all", "--check"])?;
    let lints =
        ["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
    step("lints", &lints)?;
    // The module is a workspace of its own: it is not compiled for this machine.
    let module = workspace().join("kmod/module");
    let target = workspace().join("target/module");
    let (module, target) = (module.to_string_lossy(), target.to_string_lossy());
    let manifest = format!("{module}/Cargo.toml");
    step("formatting of the module", &["fmt", "--manifest-path", &manifest, "--check"])?;
    let lints = ["clippy", "--manifest-path", &manifest, "--target-dir", &target, "--locked"];
    step("lints of the module", &[&lints[..], &["--quiet", "--", "-D", "warnings"]].concat())?;
    tests()
}

fn step(name: &str, arguments: &[&str]) -> anyhow::Result<()> {
    eprintln!("{name}: cargo {}", arguments.join(" "));
    let status = cargo(arguments).status().context("cannot start cargo")?;
    ensure!(status.success(), "{name} failed ({status})");
    Ok(())
}

fn tests() -> anyhow::Result<()> {
    let arguments = ["test", "--workspace", "--locked", "--no-fail-fast"];
    eprintln!("tests: cargo {}", arguments.join(" "));
    let mut command = cargo(&arguments);
    if std::env::var_os(THREADS).is_none() {
        command.env(THREADS, at_once().to_string());
    }
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut total = Total::default();
    if let Some(stdout) = child.stdout.take() {
        let mut out = std::io::stdout().lock();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("cannot read what cargo prints")?;
            let line = String::from_utf8_lossy(&line);
            writeln!(out, "{line}").context("cannot print")?;
            total.add(&line);
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    println!("{} passed, {} failed", total.passed, total.failed);
    ensure!(status.success() && total.failed == 0, "the tests failed ({status})");
    ensure!(total.passed > 0, "no test ran");
    Ok(())
}

/// Half as many more than there are CPUs: a virtual machine waits more than it computes.
fn at_once() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cpus + cpus.div_ceil(2)
}

/// The sum over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Total {
    passed: u64,
    failed: u64,
}

impl Total {
    /// Adds the result line of a test program: `test result: ok. 3 passed; 0 failed; …`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let count = |what: &str| {
            let words: Vec<&str> = result.split([' ', ';']).collect();
            words.windows(2).find_map(|pair| match pair {
                [number, word] if *word == what => number.parse().ok(),
                _ => None,
            })
        };
        self.passed += count("passed").unwrap_or(0);
        self.failed += count("failed").unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::Total;

    #[test]
    fn results_are_summed() {
        let mut total = Total::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; \
             finished in 0.01s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            total.add(line);
        }
        assert_eq!(total, Total { passed: 13, failed: 2 });
    }
}
