//! The variables the top Makefile exports, captured once for a prepared tree.
//!
//! Kbuild's makefiles below the top one get all they need through the environment. With
//! it at hand, `scripts/Makefile.build` can be asked directly, in a tenth of the time,
//! and without `prepare` running again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, IoContext, Result};
use crate::run;

/// Stands for the tree's path in the stored variables.
const TREE: &str = "@DYNAMOS_TREE@";

/// The exported variables of a prepared tree's top Makefile.
#[derive(Debug, Clone)]
pub(crate) struct MakeEnv {
    root: PathBuf,
    variables: Vec<(String, String)>,
}

impl MakeEnv {
    /// Runs the top Makefile up to its first recipe and stores what a recipe would see.
    pub(crate) fn capture(root: &Path, mut make: Command, store: &Path) -> Result<()> {
        let makefile = store.with_extension("mk");
        let text = "include Makefile\n.PHONY: dynamos-env\ndynamos-env:\n\t@env -0\n";
        fs::write(&makefile, text).at("write", &makefile)?;
        make.arg("-f").arg(&makefile).arg("dynamos-env");
        let output = run::output(&mut make, "the variables of the top Makefile", root)?;
        fs::remove_file(&makefile).at("remove", &makefile)?;
        let unclear =
            |why: &str| Error::Kbuild { what: "the top Makefile".into(), why: why.into() };
        let text = String::from_utf8(output).map_err(|_| unclear("a variable is not UTF-8"))?;
        if !text.split('\0').any(|v| v.starts_with("KBUILD_CFLAGS=")) {
            return Err(unclear("it exports no KBUILD_CFLAGS"));
        }
        let root = root.to_str().ok_or_else(|| unclear("the tree's path is not UTF-8"))?;
        fs::write(store, text.replace(root, TREE)).at("write", store)
    }

    /// Reads what was stored, for the tree (or a view of it) at `root`.
    pub(crate) fn load(store: &Path, root: &Path) -> Result<Self> {
        let text = fs::read_to_string(store).at("read", store)?;
        let text = text.replace(TREE, &root.to_string_lossy());
        let variables = text.split('\0').filter_map(|v| v.split_once('='));
        let variables =
            variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Self { root: root.to_owned(), variables })
    }

    /// A `make` below the top Makefile.
    pub(crate) fn make(&self) -> Command {
        let mut make = Command::new("make");
        make.env_clear().envs(self.variables.iter().map(|(n, v)| (n, v)));
        make.env("KBUILD_BUILTIN", "1").env("KBUILD_MODULES", "1");
        make.current_dir(&self.root);
        make
    }
}
