//! Builds the guest's root file system.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cpio::Archive;
use crate::error::Error;
use crate::modules::Module;

/// Debian's busybox-static puts it here.
const BUSYBOX: &str = "/bin/busybox";

/// The first process. It must not die, or the kernel panics and hides what happened; so
/// everything that may fail reports `FAILED` and goes to the end.
const INIT: &str = include_str!("scripts/init.sh");

/// `result NAME VALUE`, or `result NAME` with the value on its input.
const RESULT: &str = include_str!("scripts/result.sh");

/// `load-module NAME`: see `Vm::offer`.
const LOAD_MODULE: &str = include_str!("scripts/load-module.sh");

/// What goes into the guest.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    /// Loaded before the script, in this order.
    pub(crate) modules: &'a [Module],
    /// Name → what `load-module NAME` loads, in this order.
    pub(crate) offered: BTreeMap<String, Vec<Module>>,
    pub(crate) files: &'a [(PathBuf, String)],
    pub(crate) script: &'a str,
}

impl Contents<'_> {
    /// The archive for QEMU's `-initrd`.
    pub(crate) fn archive(&self) -> Result<Vec<u8>, Error> {
        let mut archive = Archive::default();
        let mut directories = BTreeSet::new();
        for dir in ["bin", "dev", "etc", "mnt", "modules", "proc", "run", "sys", "tmp"] {
            parents(&mut archive, &mut directories, &format!("{dir}/"));
        }
        archive.symlink("sbin", "bin");
        archive.character_device("dev/console", 5, 1);
        let busybox = std::fs::read(BUSYBOX).map_err(|e| Error::Tool {
            program: "busybox-static".to_owned(),
            reason: format!("cannot read {BUSYBOX}: {e}"),
        })?;
        archive.file("bin/busybox", 0o755, &busybox);
        archive.file("init", 0o755, INIT.as_bytes());
        archive.file("bin/result", 0o755, RESULT.as_bytes());
        archive.file("script", 0o755, self.script.as_bytes());
        archive.file("bin/load-module", 0o755, LOAD_MODULE.as_bytes());
        let order = |modules: &[Module]| -> String {
            modules.iter().map(|m| format!("{}\n", m.name)).collect()
        };
        archive.file("modules/order", 0o644, order(self.modules).as_bytes());
        let mut all: BTreeMap<&str, &Module> = BTreeMap::new();
        for (name, modules) in &self.offered {
            archive.file(&format!("modules/{name}.order"), 0o644, order(modules).as_bytes());
            all.extend(modules.iter().map(|module| (module.name.as_str(), module)));
        }
        all.extend(self.modules.iter().map(|module| (module.name.as_str(), module)));
        for (name, module) in all {
            archive.file(&format!("modules/{name}.ko"), 0o644, &module.content);
        }
        for (host, guest) in self.files {
            let path = guest.trim_start_matches('/');
            parents(&mut archive, &mut directories, path);
            add(&mut archive, host, path)?;
        }
        Ok(archive.finish())
    }
}

/// Adds the directories above `path` that are not there yet.
fn parents(archive: &mut Archive, seen: &mut BTreeSet<String>, path: &str) {
    for (end, _) in path.match_indices('/') {
        let dir = path.get(..end).unwrap_or_default();
        if !dir.is_empty() && seen.insert(dir.to_owned()) {
            archive.directory(dir);
        }
    }
}

/// Adds a file with its permissions, or a directory with all that is in it.
fn add(archive: &mut Archive, host: &Path, guest: &str) -> Result<(), Error> {
    let metadata = std::fs::metadata(host).map_err(Error::file("read", host))?;
    if !metadata.is_dir() {
        let content = std::fs::read(host).map_err(Error::file("read", host))?;
        archive.file(guest, metadata.permissions().mode(), &content);
        return Ok(());
    }
    archive.directory(guest);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(host).map_err(Error::file("list", host))? {
        entries.push(entry.map_err(Error::file("list", host))?.file_name());
    }
    entries.sort();
    for name in entries {
        let name = name.to_string_lossy();
        add(archive, &host.join(name.as_ref()), &format!("{guest}/{name}"))?;
    }
    Ok(())
}
