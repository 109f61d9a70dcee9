//! Prepared trees: the pristine source with the image's configuration, ready to build
//! single objects (`make olddefconfig modules_prepare`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::error::{Error, IoContext, Result};
use crate::kbuild::env::MakeEnv;
use crate::manifest::{Kernel, Part};
use crate::tree::{self, Transfer};
use crate::{run, unpack};

/// Goes into the key: raise it when prepared trees come out different.
const FORMAT: &str = "2";

/// Where a source tree comes from.
#[derive(Debug, Clone, Copy)]
pub enum SourceId<'a> {
    /// Debian's source package.
    Deb(&'a Kernel),
    /// Any tree; known by the hash of its contents.
    Dir(&'a Path),
}

/// A prepared tree in the cache. It is shared: never write into it, use a
/// [`View`](crate::View).
#[derive(Debug, Clone)]
pub struct Prepared {
    dir: PathBuf,
    cache: Cache,
    release: String,
    compiler: String,
}

impl Cache {
    /// Gives the prepared tree of a source and a configuration, and makes it if needed.
    ///
    /// Refuses when the compiler is not the one the configuration names, or when the
    /// configuration cannot be reproduced with this source and these tools.
    pub fn prepared(
        &self,
        source: &SourceId<'_>,
        config: &Path,
        release: &str,
    ) -> Result<Prepared> {
        let text = fs::read_to_string(config).at("read", config)?;
        let options = parse_config(&text);
        let compiler = check_compiler(config, &options)?;
        let source_key = match source {
            SourceId::Deb(kernel) => unpack::key(kernel, Part::Source)?,
            SourceId::Dir(dir) => {
                tree::check_kernel_tree(dir)?;
                self.progress().phase(&format!("hashing {}", dir.display()));
                tree::hash_source(dir)?
            }
        };
        let mut hasher = blake3::Hasher::new();
        for part in [FORMAT, &source_key, &text, release, &compiler] {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        let hash = hasher.finalize().to_hex();
        let key = format!("{release}-{}", hash.get(..16).unwrap_or_default());
        let make = Make { compiler: &compiler, release: Some(release) };
        let dir = self.entry("prepared", &key, |partial| {
            fs::create_dir(partial).at("create", partial)?;
            let root = partial.join("tree");
            match source {
                SourceId::Deb(kernel) => {
                    let pristine = self.source(kernel)?;
                    tree::clone(&pristine, &root, Transfer::Link, tree::everything)?;
                }
                SourceId::Dir(dir) => tree::clone(dir, &root, Transfer::Copy, tree::source_only)?,
            }
            self.progress().phase(&format!("preparing {release}"));
            make.prepare(&root, config, &text, &options)?;
            MakeEnv::capture(&root, make.command(&root), &partial.join("env"))
        })?;
        Ok(Prepared { dir, cache: self.clone(), release: release.to_owned(), compiler })
    }
}

impl Prepared {
    /// The root of the tree.
    pub fn root(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// The kernel's release.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The compiler's command, such as `gcc-12`.
    pub fn compiler(&self) -> &str {
        &self.compiler
    }

    /// The configuration in use.
    pub fn config(&self) -> PathBuf {
        self.root().join(".config")
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Where things are kept that were found out about the tree.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// How `make` is run for the top Makefile.
pub(crate) struct Make<'a> {
    pub(crate) compiler: &'a str,
    /// The kernel's release, where it is not to follow from the configuration.
    pub(crate) release: Option<&'a str>,
}

impl Make<'_> {
    /// `make` in `tree` with a clean environment, so that nothing of the caller's (such
    /// as `KCFLAGS`) changes the code. 6.1 has no way to set the release but its filechk.
    pub(crate) fn command(&self, tree: &Path) -> Command {
        let mut make = Command::new("make");
        make.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        make.env("LC_ALL", "C").env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970");
        make.env("KBUILD_BUILD_USER", "dynamos").env("KBUILD_BUILD_HOST", "dynamos");
        make.arg("-C").arg(tree).arg("--no-print-directory");
        make.arg(format!("CC={}", self.compiler)).arg(format!("HOSTCC={}", self.compiler));
        if let Some(release) = self.release {
            make.arg(format!("KERNELRELEASE={release}"));
            make.arg(format!("filechk_kernel.release=echo {release}"));
        }
        make
    }

    fn prepare(&self, root: &Path, config: &Path, text: &str, wanted: &Options) -> Result<()> {
        let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let dot_config = root.join(".config");
        fs::write(&dot_config, without_keys(text)).at("write", &dot_config)?;
        run::output(self.command(root).arg("olddefconfig"), "the configuration", root)?;
        let got = fs::read_to_string(&dot_config).at("read", &dot_config)?;
        check_config(config, wanted, &parse_config(&got))?;
        let mut make = self.command(root);
        make.arg(format!("-j{jobs}")).arg("modules_prepare");
        for tool in NOT_NEEDED {
            make.args(["-o", tool]); // taken for up to date
        }
        run::output(&mut make, "preparing the tree", root)?;
        let release = root.join("include/config/kernel.release");
        let found = fs::read_to_string(&release).at("read", &release)?;
        match self.release {
            Some(wanted) if found.trim() != wanted => {
                let (wanted, found) = (wanted.to_owned(), found.trim().to_owned());
                Err(Error::Release { wanted, found })
            }
            _ => Ok(()),
        }
    }
}

/// What `modules_prepare` spends most of its time on, and only finished modules and
/// `vmlinux` need: here the compiler's own output is wanted.
const NOT_NEEDED: [&str; 2] = ["tools/objtool", "tools/bpf/resolve_btfids"];

/// `CONFIG_X` → value; what is "not set" is absent.
pub(crate) type Options = BTreeMap<String, String>;

pub(crate) fn parse_config(text: &str) -> Options {
    let options = text.lines().filter_map(|line| line.split_once('='));
    options
        .filter(|(name, _)| name.starts_with("CONFIG_"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The option that a line says is off: `# CONFIG_X is not set`.
pub(crate) fn option_off(line: &str) -> Option<&str> {
    line.strip_prefix("# ")?.strip_suffix(" is not set").filter(|name| name.starts_with("CONFIG_"))
}

/// Debian's certificates are not in the source package.
fn without_keys(text: &str) -> String {
    let keep = |line: &&str| !line.starts_with("CONFIG_SYSTEM_TRUSTED_KEYS=");
    let mut out: String = text.lines().filter(keep).flat_map(|line| [line, "\n"]).collect();
    out.push_str("CONFIG_SYSTEM_TRUSTED_KEYS=\"\"\n");
    out
}

/// Options that Debian removes from the configuration it installs; they are about
/// signatures and build ids, not about code.
const NOT_INSTALLED: [&str; 3] =
    ["CONFIG_BUILD_SALT", "CONFIG_MODULE_SIG_ALL", "CONFIG_MODULE_SIG_KEY"];

/// Those, and options that describe tools which do not take part in compiling C.
fn may_differ(option: &str, wanted: &Options) -> bool {
    let rust_off = !wanted.contains_key("CONFIG_RUST");
    option == "CONFIG_SYSTEM_TRUSTED_KEYS"
        || NOT_INSTALLED.contains(&option) && !wanted.contains_key(option)
        || rust_off && ["RUST", "BINDGEN", "HAVE_RUST"].iter().any(|p| option_starts(option, p))
        || option == "CONFIG_PAHOLE_VERSION"
        || option_starts(option, "PAHOLE_HAS_")
}

fn option_starts(option: &str, prefix: &str) -> bool {
    option.strip_prefix("CONFIG_").is_some_and(|o| o.starts_with(prefix))
}

fn check_config(config: &Path, wanted: &Options, got: &Options) -> Result<()> {
    let names: std::collections::BTreeSet<&String> = wanted.keys().chain(got.keys()).collect();
    let value =
        |options: &Options, name: &str| options.get(name).cloned().unwrap_or("not set".into());
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| wanted.get(*name) != got.get(*name) && !may_differ(name, wanted))
        .map(|name| format!("  {name}: wanted {}, got {}", value(wanted, name), value(got, name)))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let about = |text: &str| differences.iter().any(|d| d.contains(text));
    let hint = if about("CONFIG_DEBUG_INFO_BTF") {
        "pahole is needed: `apt-get install dwarves`"
    } else if about("_VERSION") || about("CONFIG_CC_") || about("CONFIG_AS_") {
        "the compiler or the binutils here are not those that built the kernel"
    } else {
        "is this the configuration of this source?"
    };
    Err(Error::Config { config: config.to_owned(), differences, hint: hint.to_owned() })
}

/// The configuration names the compiler that built the kernel by the first line of its
/// `--version`, which begins with the command. Demand exactly that.
fn check_compiler(config: &Path, options: &Options) -> Result<String> {
    let wanted = options.get("CONFIG_CC_VERSION_TEXT").map_or("", |v| v.trim_matches('"'));
    let Some(command) = wanted.split_whitespace().next() else {
        let found = "no CONFIG_CC_VERSION_TEXT in it".to_owned();
        return Err(Error::Compiler { config: config.to_owned(), wanted: String::new(), found });
    };
    let mut version = Command::new(command);
    let out =
        run::output(version.arg("--version").env("LC_ALL", "C"), "the compiler's version", config);
    let found = match out {
        Ok(out) => String::from_utf8_lossy(&out).lines().next().unwrap_or_default().to_owned(),
        Err(Error::MissingTool { .. }) => "no such command".to_owned(),
        Err(other) => return Err(other),
    };
    if found != wanted {
        let wanted = wanted.to_owned();
        return Err(Error::Compiler { config: config.to_owned(), wanted, found });
    }
    Ok(command.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_cleared_and_nothing_else() {
        let text = "# CONFIG_A is not set\nCONFIG_SYSTEM_TRUSTED_KEYS=\"x.pem\"\nCONFIG_B=m\n";
        let out = without_keys(text);
        assert_eq!(out, "# CONFIG_A is not set\nCONFIG_B=m\nCONFIG_SYSTEM_TRUSTED_KEYS=\"\"\n");
        check_config(Path::new("c"), &parse_config(text), &parse_config(&out)).unwrap();
    }

    #[test]
    fn a_changed_option_is_an_error_that_names_it() {
        let wanted =
            parse_config("CONFIG_A=y\nCONFIG_DEBUG_INFO_BTF=y\nCONFIG_PAHOLE_VERSION=124\n");
        let got = parse_config("CONFIG_A=y\nCONFIG_NEW=m\nCONFIG_PAHOLE_VERSION=0\n");
        let error = check_config(Path::new("c"), &wanted, &got).unwrap_err().to_string();
        for part in [
            "CONFIG_DEBUG_INFO_BTF: wanted y, got not set",
            "CONFIG_NEW: wanted not set",
            "dwarves",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("CONFIG_PAHOLE_VERSION:"));
    }

    #[test]
    fn another_compiler_is_refused_naming_both() {
        let check = |text: &str| {
            check_compiler(Path::new("c"), &parse_config(text)).map_err(|e| e.to_string())
        };
        let error = check("CONFIG_CC_VERSION_TEXT=\"gcc-12 (Debian 0) 99.9\"\n").unwrap_err();
        assert!(error.contains("99.9") && error.contains("gcc-12"), "{error}");
        let error = check("CONFIG_CC_VERSION_TEXT=\"no-such-cc (X) 1\"\n").unwrap_err();
        assert!(error.contains("no such command"), "{error}");
        assert!(check("CONFIG_A=y\n").is_err());
    }
}
