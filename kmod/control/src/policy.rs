//! `dynamos policy`: which calls of an update's functions take its edition.

use std::cell::Cell;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dynamos_core::policy::compile::compile_text;
use dynamos_core::policy::language::{Argument, Environment};
use dynamos_core::policy::{Parameters, Request};

use crate::failure::Failure;
use crate::show::editions_meet;
use crate::sysfs::Sysfs;

/// What is asked for.
pub(crate) enum Wanted<'a> {
    /// To see what there is.
    Show,
    /// Calls for which this holds take the edition, all others stay with edition 0.
    When(&'a str),
    /// All calls take the edition, or none does.
    Default(bool),
}

/// Sets or shows policies of the update `name`, of one function or of all.
pub(crate) fn policy(
    sysfs: &Sysfs,
    name: &str,
    function: Option<&str>,
    wanted: &Wanted<'_>,
) -> Result<(), Failure> {
    let update = sysfs.update(name)?;
    let text = match wanted {
        Wanted::Show => {
            print!("{}", sysfs.policy(name)?);
            return Ok(());
        }
        Wanted::When(text) => text,
        Wanted::Default(true) => "true",
        Wanted::Default(false) => "false",
    };
    let names = Names::new(name, function, &sysfs.parameters(name));
    let program = compile_text(text, &names)
        .map_err(|error| Failure::error(format!("the policy {text:?} is wrong: {error}")))?;
    if names.argument_asked.get() && function.is_none() && update.functions.len() != 1 {
        return Err(Failure::error(format!(
            "the policy asks for an argument, and {name} replaces {} functions; say which one with \
             --function",
            update.functions.len()
        )));
    }
    let before = sysfs.refusals();
    let request = Request { function, program: &program };
    if let Err(error) = sysfs.set_policy(name, &request.encode()) {
        if error.kind() == ErrorKind::PermissionDenied {
            return Err(Failure::error(format!("only root may set a policy of {name}; use sudo")));
        }
        let said = sysfs.refusals_since(&before, name);
        let why = if said.is_empty() { "`dmesg` may say more".to_owned() } else { said.join("; ") };
        return Err(Failure::refused(format!("cannot set a policy of {name}: {why} ({error})")));
    }
    print!("{}", sysfs.policy(name)?);
    if let Some(note) = editions_meet(&sysfs.update(name)?) {
        eprintln!("note: {note}");
    }
    Ok(())
}

/// What the names in an expression mean on this system.
struct Names {
    seed: u64,
    /// The parameters of the function, if they are known.
    parameters: Option<String>,
    argument_asked: Cell<bool>,
}

impl Names {
    /// `all` is what the module says of the parameters of all functions.
    fn new(update: &str, function: Option<&str>, all: &str) -> Names {
        let of_function = |line: &&str| {
            let mut words = line.split(' ');
            let (object, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            Request { function, program: &[] }.selects(object, name)
        };
        let mut lines = all.lines().filter(of_function);
        let parameters = match (lines.next(), lines.next()) {
            (Some(line), None) => line.splitn(3, ' ').nth(2).map(str::to_owned),
            _ => None,
        };
        let hash = blake3::hash(update.as_bytes());
        let seed = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Names { seed, parameters, argument_asked: Cell::new(false) }
    }
}

impl Environment for Names {
    fn cgroup(&self, path: &str) -> Result<u64, String> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| format!("cannot read /proc/self/mountinfo: {error}"))?;
        let root = cgroup_root(&mounts).ok_or("no unified hierarchy is mounted (cgroup2)")?;
        let inside = Path::new(path.strip_prefix('/').ok_or("it must begin with `/`")?);
        let plain = |part| matches!(part, std::path::Component::Normal(_));
        if !inside.components().all(plain) {
            return Err("it must be a plain path".into());
        }
        let found = Path::new(&root).join(inside).metadata();
        let metadata = found.map_err(|error| error.to_string())?;
        if !metadata.is_dir() {
            return Err("it is a file".into());
        }
        // The inode number of a cgroup's directory is its id, where both have 64 bits.
        Ok(metadata.ino())
    }

    fn argument(&self, index: usize) -> Argument {
        self.argument_asked.set(true);
        let Some(parameters) = self.parameters.as_deref().and_then(Parameters::parse) else {
            return Argument::Unknown;
        };
        match parameters.iter().nth(index) {
            None => Argument::Absent { count: parameters.iter().count() },
            Some(parameter) => parameter.integer.map_or(Argument::Other, Argument::Integer),
        }
    }

    fn named(&self, name: &str) -> Option<usize> {
        let parameters = Parameters::parse(self.parameters.as_deref()?)?;
        let found = parameters.iter().position(|parameter| parameter.name == name);
        if found.is_some() {
            self.argument_asked.set(true);
        }
        found
    }

    fn seed(&self) -> u64 {
        self.seed
    }
}

/// Where the root of the unified hierarchy is mounted, by `/proc/self/mountinfo`.
fn cgroup_root(mounts: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut words = mount.split(' ');
        let (root, place) = (words.nth(3)?, words.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| place.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamos_core::policy::IntegerType;

    #[test]
    fn the_unified_hierarchy_is_found() {
        let mounts = "24 1 0:22 / /proc rw - proc proc rw\n\
            30 24 0:26 /web /elsewhere rw shared:1 - cgroup2 cgroup2 rw\n\
            31 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup_root(mounts).unwrap(), "/sys/fs/cgroup");
        assert_eq!(cgroup_root("31 24 0:26 / /sys/fs/cgroup rw - cgroup none rw\n"), None);
    }

    #[test]
    fn parameters_are_those_of_the_function() {
        let all = "vmlinux f (file:u64 flags:s32)\next4 g\next4 f ()\n";
        let names = |function| Names::new("u", function, all);
        assert_eq!(names(Some("g")).argument(0), Argument::Unknown);
        assert_eq!(names(Some("f")).argument(0), Argument::Unknown, "which f?");
        assert_eq!(names(Some("ext4:f")).argument(0), Argument::Absent { count: 0 });
        let f = names(Some("vmlinux:f"));
        assert_eq!(f.argument(1), Argument::Integer(IntegerType::S32));
        assert!(f.argument_asked.get());
        assert_eq!((f.named("flags"), f.named("size")), (Some(1), None));
    }

    #[test]
    fn a_share_stays_the_same_for_an_update() {
        let seed = |update| Names::new(update, None, "").seed();
        assert_eq!(seed("a"), seed("a"));
        assert_ne!(seed("a"), seed("b"));
    }
}
