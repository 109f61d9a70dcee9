//! V1 and V2, as named on the command line, become two trees and the kernel that is to run the update.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kernel_trees::{Cache, Kernel, Manifest, Prepared, SourceId, check_kernel_tree};

use crate::binaries;
use crate::changes::{self, Changes};
use crate::patch;
use crate::running::Running;

/// Where Kbuild leaves what `uname -r` says.
const RELEASE: &str = "include/config/kernel.release";

/// One side, as named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `deb:VERSION`: Debian's source package.
    Deb(String),
    /// A kernel source tree.
    Tree(PathBuf),
    /// A revision of a git repository.
    Revision {
        /// The repository.
        repo: PathBuf,
        /// Anything `git rev-parse` takes.
        revision: String,
    },
    /// A patch that makes V2 of V1.
    Patch(PathBuf),
    /// V1 with another content of one file.
    Source {
        /// The file in V1's tree.
        path: PathBuf,
        /// What is in its place.
        content: PathBuf,
    },
    /// An object, module or linked image.
    Binary(PathBuf),
    /// A build directory, or a directory of modules and images.
    Built(PathBuf),
    /// `deb-dbg:VERSION` or `deb-dbg:VERSION/FILE`: Debian's package with debug information, or one file of it.
    DebDbg(String),
}

impl Spec {
    /// Understands `text`; `repo` is the repository that revisions are looked up in.
    pub fn parse(text: &str, repo: Option<&Path>) -> Result<Spec> {
        if let Some(version) = text.strip_prefix("deb:") {
            return Ok(Spec::Deb(version.into()));
        }
        if let Some(version) = text.strip_prefix("deb-dbg:") {
            return Ok(Spec::DebDbg(version.into()));
        }
        let path = Path::new(text);
        if path.is_dir() {
            let built = binaries::is_built(path);
            return Ok(if built { Spec::Built(path.into()) } else { Spec::Tree(path.into()) });
        }
        if path.is_file() && binaries::is_elf(path) {
            return Ok(Spec::Binary(path.into()));
        }
        if path.is_file() {
            return Ok(Spec::Patch(path.into()));
        }
        match repo {
            Some(repo) => Ok(Spec::Revision { repo: repo.into(), revision: text.into() }),
            None => bail!(
                "{text}: no such file or directory; give deb:VERSION, a kernel source tree, a patch file \
                 (V2 only), or a git revision together with --repo DIR; or built files: deb-dbg:VERSION, an \
                 image, module or object, or a directory of them"
            ),
        }
    }

    /// The name to show, free of the machine's paths where they do not matter.
    pub fn label(&self) -> String {
        let file = |path: &Path| {
            path.file_name()
                .map_or_else(|| "tree".into(), |name| name.to_string_lossy().into_owned())
        };
        match self {
            Spec::Deb(version) => format!("deb:{version}"),
            Spec::Tree(path) => format!("tree {}", file(path)),
            Spec::Revision { revision, .. } => format!("revision {revision}"),
            Spec::Patch(path) => format!("patch {}", file(path)),
            Spec::Source { content, .. } => format!("source {}", file(content)),
            Spec::Binary(path) => format!("file {}", file(path)),
            Spec::Built(path) => format!("built files in {}", file(path)),
            Spec::DebDbg(version) => format!("deb-dbg:{version}"),
        }
    }

    /// Whether it is built files, not sources.
    pub fn is_built(&self) -> bool {
        matches!(self, Spec::Binary(_) | Spec::Built(_) | Spec::DebDbg(_))
    }
}

/// What is compared, and for which kernel.
#[derive(Debug)]
pub struct Input {
    /// V1's pristine sources.
    pub v1_root: PathBuf,
    /// What V2 changes.
    pub changes: Changes,
    /// The headers that modules for the kernel are built against.
    pub headers: PathBuf,
    /// Release of the kernel that is to run the update.
    pub release: String,
    /// The names it has.
    pub running: Running,
    /// The configuration of that kernel.
    config: PathBuf,
    /// The package that V1 is, if it is Debian's.
    kernel: Option<Kernel>,
    /// Holds the patched files, if V2 is a patch.
    _patched: Option<tempfile::TempDir>,
}

/// Finds both sides and what differs; `kernel` is the release to run the update where it does not follow from V1,
/// or the directory that kernel was built in.
pub fn resolve(cache: &Cache, v1: &Spec, v2: &Spec, kernel: Option<&str>) -> Result<Input> {
    let manifest = Manifest::builtin()?;
    let Target { release, config, headers, names } = match kernel.filter(|name| is_directory(name))
    {
        Some(directory) => built(Path::new(directory))?,
        None => packaged(cache, target(&manifest, v1, kernel)?)?,
    };

    let (kernel, v1_root) = side(cache, &manifest, v1, "V1")?;
    check_config(&v1_root, &config, "V1")?;
    let (changes, patched) = match v2 {
        Spec::Patch(file) => {
            let target = tempfile::tempdir().context("cannot make a temporary directory")?;
            (patch::apply(&v1_root, file, target.path())?, Some(target))
        }
        Spec::Source { path, content } => {
            (Changes::from([(path.clone(), Some(content.clone()))]), None)
        }
        other => {
            let (v2_kernel, v2_root) = side(cache, &manifest, other, "V2")?;
            check_config(&v2_root, &config, "V2")?;
            let changes = match (kernel, v2_kernel) {
                (Some(v1), Some(v2)) => {
                    let (v1, v2) = (cache.source_index(v1)?, cache.source_index(v2)?);
                    changes::between_indexed(&v1, &v2, &v2_root)
                }
                _ => changes::between(&v1_root, &v2_root)?,
            };
            (changes, None)
        }
    };
    let running = Running::of(&v1_root, &names.0, &names.1);
    Ok(Input {
        v1_root,
        changes,
        headers,
        release,
        running,
        config,
        kernel: kernel.cloned(),
        _patched: patched,
    })
}

impl Input {
    /// Whether the kernel is built with Rust.
    pub fn has_rust(&self) -> Result<bool> {
        let config = std::fs::read_to_string(&self.config)
            .with_context(|| format!("cannot read {}", self.config.display()))?;
        Ok(config.lines().any(|line| line == "CONFIG_RUST=y"))
    }

    /// V1, ready to build objects in.
    pub fn prepare(&self, cache: &Cache) -> Result<Prepared> {
        let source = self.kernel.as_ref().map_or(SourceId::Dir(&self.v1_root), SourceId::Deb);
        cache
            .prepared(&source, &self.config, &self.release)
            .context("preparing V1 with the target kernel's configuration")
    }
}

/// The kernel that is to run the update.
struct Target {
    release: String,
    config: PathBuf,
    headers: PathBuf,
    /// Its `System.map`, and where its modules are.
    names: (PathBuf, PathBuf),
}

/// A release has no slash in it.
fn is_directory(kernel: &str) -> bool {
    kernel.contains('/') || kernel == "."
}

/// A distribution's kernel: known by its packages.
fn packaged(cache: &Cache, kernel: &Kernel) -> Result<Target> {
    let image = cache.image(kernel).context("the target kernel's image")?;
    let headers = cache.headers(kernel).context("the target kernel's headers")?;
    let names = (image.system_map, image.modules);
    Ok(Target { release: kernel.release.clone(), config: image.config, headers, names })
}

/// Somebody's own kernel: the directory it was built in has all there is to know.
fn built(directory: &Path) -> Result<Target> {
    let headers = directory
        .canonicalize()
        .with_context(|| format!("--kernel: cannot open {}", directory.display()))?;
    for file in [".config", "Module.symvers", RELEASE] {
        if !headers.join(file).is_file() {
            bail!(
                "--kernel {}: no kernel was built there: {file} is missing; give the directory that `make` \
                 and `make modules` were run in",
                directory.display()
            );
        }
    }
    let release = std::fs::read_to_string(headers.join(RELEASE))
        .with_context(|| format!("cannot read {RELEASE} of {}", directory.display()))?;
    let names = (headers.join("System.map"), headers.clone());
    Ok(Target { release: release.trim().into(), config: headers.join(".config"), headers, names })
}

fn target<'m>(manifest: &'m Manifest, v1: &Spec, kernel: Option<&str>) -> Result<&'m Kernel> {
    let follows = match v1 {
        Spec::Deb(version) => Some(manifest.find(version)?),
        _ => None,
    };
    match (kernel, follows) {
        (Some(release), Some(follows)) if follows.release != release => bail!(
            "V1 is the source of {}, but --kernel says {release}: an update replaces the code that runs, so V1 \
             must be that kernel's source",
            follows.release
        ),
        (_, Some(follows)) => Ok(follows),
        (Some(release), None) => Ok(manifest.find_release(release)?),
        (None, None) => bail!(
            "say which kernel is to run the update, for it does not follow from V1: --kernel RELEASE (`uname -r`), or \
             --kernel DIR, where it was built"
        ),
    }
}

/// One side's tree: Debian's kernel it is the source of, if it is one, and the pristine sources.
fn side<'m>(
    cache: &Cache,
    manifest: &'m Manifest,
    spec: &Spec,
    which: &str,
) -> Result<(Option<&'m Kernel>, PathBuf)> {
    match spec {
        Spec::Deb(version) => {
            let kernel = manifest.find(version)?;
            let root =
                cache.source(kernel).with_context(|| format!("{which}: source of {version}"))?;
            Ok((Some(kernel), root))
        }
        Spec::Tree(path) => {
            let root = path
                .canonicalize()
                .with_context(|| format!("{which}: cannot open {}", path.display()))?;
            check_kernel_tree(&root).with_context(|| which.to_string())?;
            Ok((None, root))
        }
        Spec::Revision { repo, revision } => {
            let root = checkout(cache, repo, revision).with_context(|| which.to_string())?;
            check_kernel_tree(&root).with_context(|| which.to_string())?;
            Ok((None, root))
        }
        Spec::Binary(_) | Spec::Built(_) | Spec::DebDbg(_) => bail!(
            "{which} is {}, which is no source: give sources twice or built files twice",
            spec.label()
        ),
        Spec::Source { content: path, .. } | Spec::Patch(path) => {
            bail!("{which} cannot be a change ({}): only V2 can, it is made to V1", path.display())
        }
    }
}

/// Checks the revision out below the cache, once for each git tree.
fn checkout(cache: &Cache, repo: &Path, revision: &str) -> Result<PathBuf> {
    let repository = git2::Repository::open(repo)
        .with_context(|| format!("{} is not a git repository", repo.display()))?;
    let object = repository
        .revparse_single(revision)
        .and_then(|object| object.peel(git2::ObjectType::Tree))
        .with_context(|| format!("{} has no revision {revision}", repo.display()))?;
    let directory = cache.root().join("git");
    let done = directory.join(object.id().to_string());
    if done.is_dir() {
        return Ok(done);
    }
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let scratch = tempfile::Builder::new()
        .prefix(".checkout-")
        .tempdir_in(&directory)
        .context("cannot make a temporary directory in the cache")?;
    let mut options = git2::build::CheckoutBuilder::new();
    options.force().update_index(false).target_dir(scratch.path());
    repository
        .checkout_tree(&object, Some(&mut options))
        .with_context(|| format!("cannot check out {revision}"))?;
    match std::fs::rename(scratch.path(), &done) {
        Ok(()) => drop(scratch.keep()),
        // Another run was faster.
        Err(_) if done.is_dir() => {}
        Err(error) => return Err(error).context("cannot move the checkout into place"),
    }
    Ok(done)
}

/// A tree that carries its own configuration must have the target's: objects built with another one are not
/// the running kernel's. The keys that signed the distribution's modules are none of our business.
fn check_config(root: &Path, target: &Path, which: &str) -> Result<()> {
    let own = root.join(".config");
    if !own.is_file() {
        return Ok(());
    }
    let read = |path: &Path| -> Result<BTreeSet<String>> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text
            .lines()
            .filter(|line| line.starts_with("CONFIG_"))
            .filter(|line| !line.starts_with("CONFIG_SYSTEM_TRUSTED_KEYS="))
            .map(Into::into)
            .collect())
    };
    let (options, wanted) = (read(&own)?, read(target)?);
    if let Some(differs) = options.symmetric_difference(&wanted).next() {
        let (with, without) = if options.contains(differs) {
            (own.as_path(), target)
        } else {
            (target, own.as_path())
        };
        bail!(
            "{which} is configured differently from the kernel that is to run the update: {} has {differs}, {} \
             does not; remove the tree's .config or give the tree that kernel was built from",
            with.display(),
            without.display()
        );
    }
    Ok(())
}
