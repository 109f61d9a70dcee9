//! Which sources make up `dynamos.ko`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::cache::Key;

/// A library crate that the module is built from.
pub(crate) struct Crate {
    /// Its name, as `use` has it.
    pub(crate) name: &'static str,
    /// Its root source file, below the `kmod` directory.
    pub(crate) root: &'static str,
    /// The crates it sees.
    pub(crate) flags: &'static [&'static str],
}

/// In the order they are compiled in.
pub(crate) const CRATES: [Crate; 2] = [
    Crate { name: "dynamos_abi", root: "abi/src/lib.rs", flags: &[] },
    Crate {
        name: "dynamos_core",
        root: "core/src/lib.rs",
        flags: &["--extern=dynamos_abi=libdynamos_abi.rlib"],
    },
];

/// The crates that the module's own crate sees.
pub(crate) const MODULE_FLAGS: [&str; 2] =
    ["--extern=dynamos_abi=libdynamos_abi.rlib", "--extern=dynamos_core=libdynamos_core.rlib"];

/// The root of the module's own crate.
pub(crate) const MODULE_ROOT: &str = "module/src/lib.rs";

/// The crate that stands in for the compiler's run-time library.
pub(crate) const COMPILER_BUILTINS: &str = "module/compiler_builtins.rs";

/// What Kbuild compiles, below `kmod/module`.
pub(crate) const C_FILES: [&str; 9] = [
    "shim.c",
    "ending.c",
    "hook.c",
    "stacks.c",
    "sysfs.c",
    "tasks.c",
    "shim.h",
    "internal.h",
    "dynamos.h",
];

/// Copies the sources from `kmod` into `work` and adds them to `key`.
pub(crate) fn collect(kmod: &Path, key: &mut Key) -> Result<Vec<PathBuf>, Error> {
    let mut files: Vec<PathBuf> =
        C_FILES.iter().map(|name| Path::new("module").join(name)).collect();
    for directory in ["abi/src", "core/src", "module/src"] {
        walk(kmod, Path::new(directory), &mut files)?;
    }
    files.sort();
    for file in &files {
        key.add_file(kmod, file)?;
    }
    Ok(files)
}

/// Copies `files` from `kmod` to the same places below `work`.
pub(crate) fn copy(kmod: &Path, files: &[PathBuf], work: &Path) -> Result<(), Error> {
    for file in files {
        let target = work.join(file);
        if let Some(directory) = target.parent() {
            fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        }
        fs::copy(kmod.join(file), &target).map_err(Error::io("copy to", &target))?;
    }
    Ok(())
}

fn walk(root: &Path, relative: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let directory = root.join(relative);
    let entries = fs::read_dir(&directory).map_err(Error::io("list", &directory))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("list", &directory))?;
        let path = relative.join(entry.file_name());
        if entry.path().is_dir() {
            walk(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "c") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_c_file_is_forgotten() {
        let module = crate::source_directory().join("module");
        let mut found: Vec<String> = fs::read_dir(&module)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".c") || name.ends_with(".h"))
            .collect();
        found.sort();
        let mut listed = C_FILES.to_vec();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }
}
