//! Packages an update: writes `source/` and links `update.ko` from it with Kbuild.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::handlers::Handlers;

/// What goes into `source/`.
#[derive(Debug)]
pub struct Sources<'a> {
    /// Name of the kernel module.
    pub name: &'a str,
    /// Release of the kernel (`uname -r`).
    pub release: &'a str,
    /// `clones-N.bin`, one for each object, in the order of the record's addresses.
    pub clones: &'a [Vec<u8>],
    /// How the redirected functions choose an edition.
    pub handlers: &'a Handlers,
    /// The record.
    pub record: &'a [u8],
    /// The line of `Module.symvers` for `dynamos.ko`'s exports.
    pub symvers: &'a str,
    /// The scope that the plan proposes.
    pub scope: &'a str,
    /// The source change, as a unified diff.
    pub diff: &'a str,
    /// That of the bridge, from V1 too.
    pub bridge_diff: Option<&'a str>,
}

/// Writes the sources of the update module into `directory`.
pub fn write_sources(directory: &Path, sources: &Sources<'_>) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let put = |name: &str, content: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    for (index, clones) in sources.clones.iter().enumerate() {
        put(&format!("clones-{index}.bin"), clones)?;
    }
    put("handlers.S", sources.handlers.source().as_bytes())?;
    put("record.S", include_bytes!("../templates/record.S"))?;
    put("record.bin", sources.record)?;
    put("update.c", include_bytes!("../templates/update.c"))?;
    put("dynamos.lds", include_bytes!("../templates/dynamos.lds"))?;
    put("dynamos.h", include_bytes!("../../kmod/module/dynamos.h"))?;
    put("dynamos.symvers", sources.symvers.as_bytes())?;
    put("change.patch", sources.diff.as_bytes())?;
    if let Some(diff) = sources.bridge_diff {
        put("bridge.patch", diff.as_bytes())?;
    }
    put("Kbuild", kbuild(sources).as_bytes())?;
    put("Makefile", makefile(sources.release).as_bytes())
}

/// The build rule. The clones are the compiler's output for a kernel object, so they go through objtool as
/// that would (`cmd_objtool` is empty where objtool runs on the whole module).
fn kbuild(sources: &Sources<'_>) -> String {
    let name = sources.name;
    let clones: Vec<String> =
        (0..sources.clones.len()).map(|index| format!("clones-{index}.o")).collect();
    let clones = clones.join(" ");
    let scope = match sources.scope {
        "function" => "DYNAMOS_SCOPE_FUNCTION",
        "task" => "DYNAMOS_SCOPE_TASK",
        "object" => "DYNAMOS_SCOPE_OBJECT",
        _ => "DYNAMOS_SCOPE_SYSTEM",
    };
    format!(
        "# Made by dynamos-diff.\n\
         obj-m := {name}.o\n\
         # The order is that of the record's addresses.\n\
         {name}-y := {clones} handlers.o record.o update.o\n\
         ccflags-y += -g0 -DDYNAMOS_PROPOSED_SCOPE={scope}\n\
         asflags-y += -g0\n\
         # The clones are made; only objtool is still to run on them.\n\
         quiet_cmd_clones = CLONES  $@\n\
         \x20     cmd_clones = cp $< $@ $(cmd_objtool)\n\
         $(addprefix $(obj)/,{clones}): $(obj)/%.o: $(src)/%.bin FORCE\n\
         \t$(call if_changed,clones)\n\
         targets += {clones}\n\
         AFLAGS_record.o += -DDYNAMOS_RECORD_FILE='\"$(src)/record.bin\"'\n\
         $(obj)/record.o: $(src)/record.bin\n"
    )
}

/// No BTF: it is made of debug information, which would name directories, and an update needs none.
fn makefile(release: &str) -> String {
    format!(
        "# Made by dynamos-diff. Rebuilds the update module: `make`, or `make KDIR=/path/to/headers`.\n\
         KDIR ?= /lib/modules/{release}/build\n\
         all:\n\
         \t$(MAKE) -C $(KDIR) M=$(CURDIR) KBUILD_EXTRA_SYMBOLS=$(CURDIR)/dynamos.symvers \\\n\
         \t\tCONFIG_DEBUG_INFO_BTF_MODULES= LDFLAGS_MODULE=\"-T $(CURDIR)/dynamos.lds\" modules\n\
         clean:\n\
         \t$(MAKE) -C $(KDIR) M=$(CURDIR) clean\n\
         .PHONY: all clean\n"
    )
}

/// Builds the module from a copy of `sources` in `scratch`; the path of the `.ko`.
pub fn link(sources: &Path, scratch: &Path, headers: &Path, name: &str) -> Result<PathBuf> {
    for entry in
        fs::read_dir(sources).with_context(|| format!("cannot list {}", sources.display()))?
    {
        let entry = entry?;
        fs::copy(entry.path(), scratch.join(entry.file_name()))
            .with_context(|| format!("cannot copy {}", entry.path().display()))?;
    }
    let output = Command::new("make")
        .args(["--no-print-directory", "-C"])
        .arg(scratch)
        .arg(format!("KDIR={}", headers.display()))
        .env("LC_ALL", "C")
        .env_remove("MAKEFLAGS")
        .output()
        .context("cannot run make; install the Debian package `make`")?;
    let log = [output.stdout, output.stderr].concat();
    let log = String::from_utf8_lossy(&log);
    let complaints: Vec<&str> = log.lines().filter(|line| is_complaint(line)).collect();
    if !output.status.success() || !complaints.is_empty() {
        let shown = if complaints.is_empty() { log.lines().collect() } else { complaints };
        bail!("the update module does not build cleanly:\n{}", shown.join("\n"));
    }
    Ok(scratch.join(format!("{name}.ko")))
}

/// Whether a line of Kbuild's output is a warning or an error. A warning of objtool or modpost about an update
/// is never harmless: it means wrong unwind data or a reference that will not resolve.
fn is_complaint(line: &str) -> bool {
    let harmless = [
        // Debian builds with the same gcc; the header's text names the package version.
        "the compiler differs from the one used to build the kernel",
        "The kernel was built by:",
        "You are using:",
    ];
    let lower = line.to_ascii_lowercase();
    (lower.contains("warning") || lower.contains("error") || lower.contains("objtool:"))
        && !harmless.iter().any(|known| line.contains(known))
}
