//! Builds the workspace's own programs and modules so that they run in a guest.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;

/// Builds the program `bin` of the workspace's package `package` statically linked, and gives
/// its path. Cargo does nothing where it is up to date.
///
/// # Errors
/// [`Error::Tool`] with the compiler's messages where it does not build.
pub fn static_binary(package: &str, bin: &str) -> Result<PathBuf, Error> {
    let failed = |reason: String| Error::Tool { program: format!("building {bin}"), reason };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace)
        .args(["rustc", "--quiet", "--release", "--message-format", "json-render-diagnostics"])
        .args(["--package", package, "--bin", bin])
        // Of the program itself only: what it is linked from is the same either way.
        .args(["--", "-C", "target-feature=+crt-static", "-C", "strip=debuginfo"])
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .next_back()
        .ok_or_else(|| failed("cargo named no executable".to_owned()))
}

/// Builds the C program `source` statically linked, as `program`.
///
/// # Errors
/// [`Error::Tool`] with the compiler's messages where it does not build.
pub fn static_c(source: &Path, program: &Path) -> Result<(), Error> {
    let mut compiler = Command::new("gcc");
    compiler.args(["-O2", "-Wall", "-Werror", "-static", "-o"]).arg(program).arg(source);
    output_of(compiler, source)
}

/// Builds the modules whose sources and Kbuild file are in the directory `sources`, in `directory`, which is made, for
/// the kernel with these `headers`.
///
/// # Errors
/// [`Error::Tool`] with the compiler's messages where they do not build.
pub fn kernel_modules(headers: &Path, sources: &Path, directory: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    for entry in std::fs::read_dir(sources).map_err(Error::file("list", sources))? {
        let file = entry.map_err(Error::file("list", sources))?;
        std::fs::copy(file.path(), directory.join(file.file_name()))
            .map_err(Error::file("copy", file.path()))?;
    }
    let mut make = Command::new("make");
    make.arg("-C").arg(headers).arg(format!("M={}", directory.display()));
    make.args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
    output_of(make, sources)
}

fn output_of(mut command: Command, built: &Path) -> Result<(), Error> {
    let failed =
        |reason: String| Error::Tool { program: format!("building {}", built.display()), reason };
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(())
}
