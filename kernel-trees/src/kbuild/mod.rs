//! What Kbuild knows about a prepared tree: whose object a source is, how it is compiled,
//! and who includes a header. Kbuild itself is asked wherever it can be.

mod command;
pub(crate) mod env;
mod includes;
mod makefiles;
mod owner;
mod probe;
mod shell;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use command::CompileCommand;
pub use owner::{Link, ObjectOwner, Owner};

use crate::cache::Lock;
use crate::error::{IoContext, Result};
use crate::prepare::{Prepared, parse_config};
use env::MakeEnv;
use includes::Includes;
pub(crate) use includes::{is_read, is_relevant};
use makefiles::Makefiles;
use probe::{Directory, Prober};

/// Kbuild's knowledge of one prepared tree. What is found out is kept.
#[derive(Debug)]
pub struct Kbuild {
    prepared: Prepared,
    root: PathBuf,
    env: MakeEnv,
    prober: Prober,
    makefiles: OnceLock<Makefiles>,
    includes: OnceLock<Includes>,
    /// All objects, by their path without `..`.
    objects: OnceLock<HashMap<String, Vec<ObjectOwner>>>,
}

impl Prepared {
    /// Opens what Kbuild knows about the tree.
    pub fn kbuild(&self) -> Result<Kbuild> {
        let root = self.root();
        let env = MakeEnv::load(&self.dir().join("env"), &root)?;
        let prober = Prober::new(env.clone(), self.dir().join("probe.mk"))?;
        Ok(Kbuild {
            prepared: self.clone(),
            root,
            env,
            prober,
            makefiles: OnceLock::new(),
            includes: OnceLock::new(),
            objects: OnceLock::new(),
        })
    }
}

impl Kbuild {
    /// The sources (`.c`, `.S`) that may include one of the changed files, directly or
    /// not, whether they are built or not: ask [`Kbuild::owner_of`] for each. A superset.
    ///
    /// Among them can be `kernel/bounds.c` and `arch/x86/kernel/asm-offsets.c`, which are
    /// compiled for the constants in generated headers.
    pub fn includers(&self, changed: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let names = includes::as_names(changed);
        let sources = self.includes()?.sources_including(&names);
        Ok(sources.into_iter().map(PathBuf::from).collect())
    }

    /// Files with an `#include` of a macro that nothing defines; they count as includers
    /// of everything.
    pub fn unclear_includes(&self) -> Result<&[String]> {
        Ok(self.includes()?.wild())
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn env(&self) -> &MakeEnv {
        &self.env
    }

    fn lock(&self) -> Result<Lock> {
        let key = self.prepared.dir().file_name().unwrap_or_default().to_string_lossy();
        self.prepared.cache().lock("prepared", &key)
    }

    fn makefiles(&self) -> Result<&Makefiles> {
        get_or_try_init(&self.makefiles, || Makefiles::read(&self.root))
    }

    fn includes(&self) -> Result<&Includes> {
        get_or_try_init(&self.includes, || {
            let config = self.prepared.config();
            let text = fs::read_to_string(&config).at("read", &config)?;
            let options = parse_config(&text);
            let is_set = |name: &str| options.get(name).is_some_and(|value| value != "\"\"");
            Includes::read(&self.root, self.makefiles()?, &is_set)
        })
    }

    /// The directories on the way to a file.
    fn walk_towards(&self, path: &str) -> Result<Vec<Arc<Directory>>> {
        self.prober.walk(&|dir| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')))
    }

    /// Those, and all directories that can list objects of others.
    fn walk_reaching(&self, path: &str) -> Result<Vec<Arc<Directory>>> {
        let makefiles = self.makefiles()?;
        self.prober.walk(&|dir| {
            path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
                || makefiles.reaches_from(dir)
        })
    }
}

/// `OnceLock::get_or_try_init`, which is not stable yet.
fn get_or_try_init<T>(cell: &OnceLock<T>, init: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = init()?;
    Ok(cell.get_or_init(|| value))
}
