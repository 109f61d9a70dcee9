//! Linking through Kbuild, with every complaint of its checkers taken seriously.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Error;
use crate::config::KernelConfig;
use crate::run::{run, text};

/// The object rustc made, before objtool has seen it. Not `.o`, or Kbuild would want to make it.
pub(crate) const RUST_OBJECT: &str = "rust.o.unchecked";

/// `rust.o` goes through the kernel's own objtool: `cmd_objtool` runs it per object where the kernel
/// does that (6.1), and is empty where it runs at the module's link (`delay-objtool`, with IBT).
const MAKEFILE: &str = "\
obj-m := dynamos.o
dynamos-y := shim.o ending.o hook.o stacks.o sysfs.o tasks.o rust.o
quiet_cmd_rust_object = RUST [M] $@
      cmd_rust_object = cp $< $@ $(cmd_objtool)
$(obj)/rust.o: $(src)/rust.o.unchecked FORCE
\t$(call if_changed,rust_object)
targets += rust.o
";

/// Complaints that are accepted, each with the reason.
const HARMLESS: [(&str, &str); 2] = [
    (
        "the compiler differs from the one used to build the kernel",
        "same major version by name (see `c_compiler`); only Debian's revision differs",
    ),
    ("The kernel was built by:", "belongs to the line above"),
];

/// The C compiler the kernel was built with, which must be installed.
pub(crate) fn c_compiler(config: &KernelConfig, release: &str) -> Result<(String, String), Error> {
    let built_with = config.value("CC_VERSION_TEXT").unwrap_or("gcc");
    let compiler = built_with.split_whitespace().next().unwrap_or("gcc").to_owned();
    let missing = || Error::NoCCompiler {
        release: release.to_owned(),
        compiler: compiler.clone(),
        package: compiler.strip_prefix("x86_64-linux-gnu-").unwrap_or(&compiler).to_owned(),
    };
    let output = Command::new(&compiler)
        .arg("--version")
        .env("LC_ALL", "C")
        .output()
        .map_err(|_| missing())?;
    Ok((compiler, text(&output)))
}

/// Builds `dynamos.ko` in `directory`, which holds the C sources and [`RUST_OBJECT`].
pub(crate) fn link(
    headers: &Path,
    directory: &Path,
    compiler: &str,
    release: &str,
) -> Result<(), Error> {
    let makefile = directory.join("Makefile");
    fs::write(&makefile, MAKEFILE).map_err(Error::io("write", &makefile))?;
    let with_path = |before: &str, after: &str| {
        let mut argument = OsString::from(before);
        argument.push(directory);
        argument.push(after);
        argument
    };
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(headers)
        .arg(with_path("M=", ""))
        .arg(format!("CC={compiler}"))
        // No debug information, and so no BTF: it would carry the paths of this machine.
        .arg(with_path("KCFLAGS=-g0 -fmacro-prefix-map=", "/="))
        .args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "V=0", "modules"])
        .env("LC_ALL", "C")
        // When called below another make, its options are not for us.
        .env_remove("MAKEFLAGS")
        .env_remove("MFLAGS");
    let output = run(&format!("building dynamos.ko for {release} through Kbuild"), &mut command)?;
    match complaints(&text(&output)) {
        lines if lines.is_empty() => Ok(()),
        lines => Err(Error::Warnings { release: release.to_owned(), lines }),
    }
}

/// Every line that is neither one of Kbuild's progress lines nor known to be harmless.
fn complaints(output: &str) -> String {
    let progress = |line: &str| {
        line.starts_with("make") && line.contains("directory")
            || ["  CC ", "  LD ", "  RUST ", "  MODPOST ", "  AS "]
                .iter()
                .any(|tag| line.starts_with(tag))
    };
    let harmless = |line: &str| HARMLESS.iter().any(|(known, _)| line.contains(known));
    let kept =
        output.lines().filter(|line| !line.trim().is_empty() && !progress(line) && !harmless(line));
    kept.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_progress_lines_pass() {
        let clean = "make: Entering directory '/x'\n  CC [M]  shim.o\n  RUST [M] rust.o\n\n";
        assert_eq!(complaints(clean), "");
        let objtool = "rust.o: warning: objtool: f+0x1: unreachable instruction";
        assert_eq!(complaints(&format!("{clean}{objtool}\n")), objtool);
    }
}
