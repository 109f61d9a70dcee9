//! What dynamos.ko shows in `/sys/kernel/dynamos`.
//!
//! | file | content |
//! |---|---|
//! | `version`, `abi` | of dynamos.ko |
//! | `refusals` | the last refusals, `NAME: text` a line |
//! | `NAME/state` | `loading`, `active`, `reverting`, `reverted`, or one of them with `(held)` or `(draining)` |
//! | `NAME/enabled` | 1 or 0; written, with options behind it, it switches |
//! | `NAME/scope` | what is waited for, and what the plan proposes |
//! | `NAME/blockers` | how many tasks are in the way, and their activations, then the first of them a line |
//! | `NAME/hook` | the hook that has not returned yet |
//! | `NAME/phase` | the edition that new calls take, and the hook that says that it may not go on, or for how many milliseconds more it is not to; empty without phases |
//! | `NAME/functions` | `OBJECT FUNCTION EDITION` a line |
//! | `NAME/stack` | `OBJECT FUNCTION UPDATE …` a line: the updates that have editions of it, the lowest first |
//! | `NAME/policy` | what decides which calls take the editions; written, it sets that |
//! | `NAME/parameters` | `OBJECT FUNCTION (NAME:TYPE …)` a line |
//! | `NAME/target` | the release the update is for |

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use dynamos_core::{Options, Scope};
use serde::Serialize;

use crate::failure::Failure;

/// sysfs, or a directory that looks like it.
#[derive(Debug)]
pub(crate) struct Sysfs {
    root: PathBuf,
}

/// dynamos.ko itself.
#[derive(Debug, Serialize)]
pub(crate) struct Module {
    pub(crate) version: String,
    pub(crate) abi: String,
}

/// An update that is loaded.
#[derive(Debug, Serialize)]
pub(crate) struct Update {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) enabled: bool,
    pub(crate) target: String,
    pub(crate) functions: Vec<Function>,
    /// `* POLICY`, or `OBJECT FUNCTION POLICY` a line; absent for those who may not read it.
    pub(crate) policy: Option<String>,
    /// What must be, or was, quiet before calls move: `function`, `task`, `object` or `system`.
    pub(crate) scope: Option<String>,
    /// The weakest scope that the plan calls safe.
    pub(crate) proposed_scope: Option<String>,
    /// Policies let calls of both editions meet although the plan proposes a stronger scope than `function`.
    pub(crate) editions_meet: bool,
    /// How many tasks hold up a switch; absent for those who may not read it.
    pub(crate) blocking: Option<u64>,
    /// How many activations of the code they have.
    pub(crate) activations: Option<u64>,
    /// The first of them, and where they are.
    pub(crate) blockers: Vec<String>,
    /// The edition that new calls take, in an update with phases: 1 is the bridge's, 2 V2's.
    pub(crate) phase: Option<u32>,
    /// The hook that says that it may not go on to the next phase.
    pub(crate) not_yet: Option<String>,
    /// For how many milliseconds more, at least, new calls take the edition of this phase.
    pub(crate) rest_ms: Option<u64>,
    /// The update's hook that has not returned yet.
    pub(crate) hook: Option<String>,
}

/// A function of an update, and the edition that runs.
#[derive(Debug, Serialize)]
pub(crate) struct Function {
    pub(crate) object: String,
    pub(crate) function: String,
    pub(crate) edition: u32,
    /// The updates that have editions of it, the lowest first; none where that is not known.
    pub(crate) stack: Vec<String>,
}

impl Sysfs {
    pub(crate) fn at(root: &Path) -> Sysfs {
        Sysfs { root: root.to_owned() }
    }

    fn dynamos(&self) -> PathBuf {
        self.root.join("kernel/dynamos")
    }

    /// Whether dynamos.ko is loaded.
    pub(crate) fn is_there(&self) -> bool {
        self.dynamos().is_dir()
    }

    /// Whether the kernel has a module of this name, ours or not.
    pub(crate) fn has_module(&self, name: &str) -> bool {
        self.root.join("module").join(name).is_dir()
    }

    /// dynamos.ko, if it is loaded.
    pub(crate) fn module(&self) -> Result<Option<Module>, Failure> {
        if !self.is_there() {
            return Ok(None);
        }
        let dir = self.dynamos();
        Ok(Some(Module { version: read(&dir.join("version"))?, abi: read(&dir.join("abi"))? }))
    }

    /// The names of the updates, in order.
    pub(crate) fn names(&self) -> Result<Vec<String>, Failure> {
        let dir = self.dynamos();
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Failure::error(format!("cannot list {}: {e}", dir.display()))),
        };
        let mut names = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
            if path.is_dir()
                && let Some(name) = path.file_name()
            {
                names.push(name.to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Every update.
    pub(crate) fn updates(&self) -> Result<Vec<Update>, Failure> {
        self.names()?.iter().map(|name| self.read_update(name)).collect()
    }

    /// The update `name`, which must be there.
    pub(crate) fn update(&self, name: &str) -> Result<Update, Failure> {
        let names = self.names()?;
        if names.iter().any(|n| n == name) {
            return self.read_update(name);
        }
        let loaded = match (self.is_there(), names.is_empty()) {
            (false, _) => "dynamos.ko is not loaded, so there are none".to_owned(),
            (true, true) => "none is loaded".to_owned(),
            (true, false) => format!("loaded are: {}", names.join(", ")),
        };
        Err(Failure::error(format!("no update is called {name:?}; {loaded}")))
    }

    fn read_update(&self, name: &str) -> Result<Update, Failure> {
        let dir = self.dynamos().join(name);
        let functions = read(&dir.join("functions"))?;
        // Older ones have no such file.
        let stack = read(&dir.join("stack")).unwrap_or_default();
        let mut functions = functions
            .lines()
            .map(|line| {
                Function::parse(line).with_context(|| {
                    format!(
                        "{} has the line {line:?}, which this command does not understand; \
                         use the one that came with dynamos.ko",
                        dir.join("functions").display()
                    )
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        for function in &mut functions {
            function.stack = stack_of(&stack, function);
        }
        let scopes = read(&dir.join("scope")).unwrap_or_default();
        let mut scopes = scopes.split_whitespace().map(str::to_owned);
        let phase = read(&dir.join("phase")).unwrap_or_default();
        let mut phase = phase.split_whitespace();
        let edition = phase.next().and_then(|edition| edition.parse().ok());
        // A time, or the name of a hook.
        let why = phase.next();
        let rest_ms = why.and_then(|why| why.parse().ok());
        let blockers = read(&dir.join("blockers")).unwrap_or_default();
        let mut blockers = blockers.lines().map(str::to_owned);
        let counts = blockers.next().unwrap_or_default();
        let mut counts = counts.split_whitespace().map(|count| count.parse().ok());
        let policy = read(&dir.join("policy")).ok();
        let (scope, proposed_scope) = (scopes.next(), scopes.next());
        let editions_meet =
            editions_meet(policy.as_deref().unwrap_or_default(), proposed_scope.as_deref());
        Ok(Update {
            name: name.to_owned(),
            state: read(&dir.join("state"))?,
            enabled: read(&dir.join("enabled"))? == "1",
            target: read(&dir.join("target"))?,
            functions,
            policy,
            scope,
            proposed_scope,
            editions_meet,
            blocking: counts.next().flatten(),
            activations: counts.next().flatten(),
            blockers: blockers.collect(),
            phase: edition,
            not_yet: why.filter(|_| rest_ms.is_none()).map(str::to_owned),
            rest_ms,
            hook: read(&dir.join("hook")).ok().filter(|hook| !hook.is_empty()),
        })
    }

    /// Switches the update on or off. The kernel answers when it is done, or has given up.
    pub(crate) fn enable(&self, name: &str, on: bool, options: &Options) -> std::io::Result<()> {
        let path = self.dynamos().join(name).join("enabled");
        std::fs::write(path, format!("{} {options}", u8::from(on)))
    }

    /// The policies in force, as dynamos.ko shows them.
    pub(crate) fn policy(&self, name: &str) -> Result<String, Failure> {
        let path = self.dynamos().join(name).join("policy");
        std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                Failure::error(format!("only root may see the policies of {name}; use sudo"))
            }
            _ => Failure::error(format!("cannot read {}: {error}", path.display())),
        })
    }

    /// Sets a policy; the kernel answers when nobody is left in the one before.
    pub(crate) fn set_policy(&self, name: &str, request: &[u8]) -> std::io::Result<()> {
        // In one piece: what is written is one request.
        let mut file =
            OpenOptions::new().write(true).open(self.dynamos().join(name).join("policy"))?;
        match file.write(request)? {
            written if written == request.len() => Ok(()),
            _ => Err(ErrorKind::WriteZero.into()),
        }
    }

    /// What is known of the functions' parameters; empty if nothing is.
    pub(crate) fn parameters(&self, name: &str) -> String {
        std::fs::read_to_string(self.dynamos().join(name).join("parameters")).unwrap_or_default()
    }

    /// Why the update must stay loaded once it has run, if it must.
    pub(crate) fn pinned(&self, name: &str) -> Option<String> {
        let reason = read(&self.dynamos().join(name).join("pinned")).ok()?;
        Some(reason.trim().to_owned()).filter(|reason| !reason.is_empty())
    }

    /// The refusals so far, to compare with later.
    pub(crate) fn refusals(&self) -> String {
        // Only root may read it, and only root gets as far as being refused.
        std::fs::read_to_string(self.dynamos().join("refusals")).unwrap_or_default()
    }

    /// What is said of `name` in the refusals since `before` was read.
    pub(crate) fn refusals_since(&self, before: &str, name: &str) -> Vec<String> {
        let now = self.refusals();
        // The kernel begins anew when its buffer is full.
        let new = now.strip_prefix(before).unwrap_or(&now);
        new.lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::to_owned)
            .collect()
    }

    /// What the kernel is locked down to: `none`, `integrity` or `confidentiality`.
    pub(crate) fn lockdown(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join("kernel/security/lockdown")).ok()?;
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    }
}

impl Function {
    fn parse(line: &str) -> Option<Function> {
        let mut words = line.split_whitespace();
        let function = Function {
            object: words.next()?.to_owned(),
            function: words.next()?.to_owned(),
            edition: words.next()?.parse().ok()?,
            stack: Vec::new(),
        };
        words.next().is_none().then_some(function)
    }
}

/// The updates that `text`, of the file `stack`, has for a function.
fn stack_of(text: &str, function: &Function) -> Vec<String> {
    let mut lines = text.lines().map(str::split_whitespace);
    let line = lines.find_map(|mut words| {
        let is = words.next() == Some(&function.object) && words.next() == Some(&function.function);
        is.then_some(words)
    });
    line.into_iter().flatten().map(str::to_owned).collect()
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let path = path.display();
        match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                Failure::error(format!("only root may read {path}; use sudo"))
            }
            _ => Failure::error(format!("cannot read {path}: {e}; see `dmesg`")),
        }
    })?;
    Ok(text.trim_end().to_owned())
}

/// Whether `policies`, as dynamos.ko shows them, let editions meet that the plan keeps apart. An adaptation handler is the
/// update's own, which the plan knows of; all calls take one edition where one fixed answer is given for all functions.
fn editions_meet(policies: &str, proposed: Option<&str>) -> bool {
    let keeps_apart = proposed.and_then(Scope::parse).is_some_and(|scope| scope > Scope::Function);
    let mut lines = policies.lines();
    let fixed =
        lines.all(|line| matches!(line.split(',').next(), Some("* default 0" | "* default 1")));
    keeps_apart && !fixed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(refusals: &str, lockdown: &str) -> (tempfile::TempDir, Sysfs) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("kernel/dynamos")).unwrap();
        std::fs::create_dir_all(dir.path().join("kernel/security")).unwrap();
        std::fs::write(dir.path().join("kernel/dynamos/refusals"), refusals).unwrap();
        std::fs::write(dir.path().join("kernel/security/lockdown"), lockdown).unwrap();
        let sysfs = Sysfs::at(dir.path());
        (dir, sysfs)
    }

    #[test]
    fn only_the_new_refusals_of_the_update_count() {
        let (_dir, sysfs) = fake("a: old\na: new\nab: other\nb: other\n", "");
        assert_eq!(sysfs.refusals_since("a: old\n", "a"), ["new"]);
        assert_eq!(sysfs.refusals_since("begun anew since\n", "a"), ["old", "new"]);
        assert!(sysfs.refusals_since("", "c").is_empty());
    }

    #[test]
    fn lockdown_is_the_word_in_brackets() {
        assert_eq!(
            fake("", "none [integrity] confidentiality\n").1.lockdown().unwrap(),
            "integrity"
        );
        assert_eq!(fake("", "").1.lockdown(), None);
    }

    #[test]
    fn a_stack_is_that_of_the_function() {
        let function = |line| Function::parse(line).unwrap();
        let text = "vmlinux f a\next4 f a b\nvmlinux g\n";
        assert_eq!(stack_of(text, &function("ext4 f 1")), ["a", "b"]);
        assert!(stack_of(text, &function("vmlinux g 1")).is_empty());
        assert!(stack_of("", &function("ext4 f 1")).is_empty());
    }

    #[test]
    fn editions_meet_where_policies_split_what_the_plan_keeps_together() {
        let split = "* when comm == \"canary\"\n";
        assert!(editions_meet(split, Some("system")));
        assert!(editions_meet(split, Some("task")));
        assert!(editions_meet("vmlinux f default 1\nvmlinux g default 0\n", Some("system")));
        for fixed in ["* default 1\n", "* default 0\n", "* default 1, and the update's", ""] {
            assert!(!editions_meet(fixed, Some("system")), "{fixed}");
        }
        assert!(!editions_meet(split, Some("function")));
        assert!(!editions_meet(split, None));
    }

    #[test]
    fn a_line_of_functions_has_three_words() {
        assert!(Function::parse("ext4 ext4_mb_init_group 1").is_some());
        assert!(Function::parse("ext4 ext4_mb_init_group").is_none());
        assert!(Function::parse("ext4 ext4_mb_init_group one").is_none());
        assert!(Function::parse("ext4 ext4_mb_init_group 1 more").is_none());
    }
}
