//! Packages an update: writes `source/` and links `update.ko` from it with Kbuild.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use dynamos_abi::policy::{COUNT, PAST_ENDBR, SLOT, SLOTS};

/// What goes into `source/`.
#[derive(Debug)]
pub struct Sources<'a> {
    /// Name of the kernel module.
    pub name: &'a str,
    /// Release of the kernel (`uname -r`).
    pub release: &'a str,
    /// `clones-N.bin`, one for each object, in the order of the record's addresses.
    pub clones: &'a [Vec<u8>],
    /// One for each redirected function: whether it has an adaptation handler of the update's own.
    pub adapts: &'a [bool],
    /// Whether each has a bridge edition too.
    pub phases: bool,
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

/// Global name of the clone of the redirected function with this index.
pub fn clone_symbol(index: usize) -> String {
    format!("dynamos_clone_{index}")
}

/// Global name of the bridge edition of the redirected function with this index.
pub fn bridge_symbol(index: usize) -> String {
    format!("dynamos_bridge_{index}")
}

/// Global name of the adaptation handler of the redirected function with this index.
pub fn adaptation_symbol(index: usize) -> String {
    format!("dynamos_adaptation_{index}")
}

/// How many addresses `handlers.S` adds for each function.
pub const HANDLERS: u32 = 3;

/// Indices that `handlers.S` adds for function `index`, after all addresses of the clones: steady, transition,
/// policy.
pub fn handler_addrs(base: u32, index: u32) -> [u32; HANDLERS as usize] {
    let first = base + HANDLERS * index;
    [first, first + 1, first + 2]
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
    put("handlers.S", handlers(sources.adapts, sources.phases).as_bytes())?;
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

/// The two handlers of each function, and the place for its policies; `docs/architecture.md` explains them.
///
/// The hints tell objtool that the frame of edition 0, which has run nothing but its `call __fentry__`, is
/// skipped: the caller's return address is the second word on the stack. So it is in the slots for policies, which
/// are NOPs until dynamos.ko writes code there that does not move the stack pointer.
///
/// An adaptation handler gets the arguments of the call, whose registers it may change; `rax`, `r10` and `r11` hold
/// nothing there (System V ABI for x86-64, 3.2.1).
///
/// With phases the transition handler reads the edition's number once, so it must keep the flags of that.
fn handlers(adapts: &[bool], phases: bool) -> String {
    let mut text = String::from(
        "/* SPDX-License-Identifier: GPL-2.0 */\n/* Made by dynamos-diff: redirection handlers. */\n\
         #include <linux/linkage.h>\n#include <asm/asm.h>\n#include <asm/nospec-branch.h>\n\
         #include <asm/unwind_hints.h>\n\n\t.section .text.dynamos.handlers, \"ax\"\n",
    );
    const ENTER: &str =
        "\tUNWIND_HINT sp_reg=ORC_REG_SP sp_offset=16 type=UNWIND_HINT_TYPE_CALL\n\tendbr64\n";
    for (index, adapts) in adapts.iter().enumerate() {
        let clone = clone_symbol(index);
        let (ask, stay) = if *adapts { asking(index) } else { Default::default() };
        let choose = if phases {
            let bridge = bridge_symbol(index);
            format!(
                "\tcmpb $1, dynamos_active(%rip)\n\tjb 1f\n\tlea 8(%rsp), %rsp\n\tje {bridge}\n\tjmp {clone}\n"
            )
        } else {
            format!("\tcmpb $0, dynamos_active(%rip)\n\tje 1f\n\tadd $8, %rsp\n\tjmp {clone}\n")
        };
        let _ = write!(
            text,
            "\nSYM_CODE_START(dynamos_steady_{index})\n{ENTER}{ask}\tadd $8, %rsp\n\tjmp {clone}\n{stay}\
             SYM_CODE_END(dynamos_steady_{index})\n\
             \nSYM_CODE_START(dynamos_transition_{index})\n{ENTER}{choose}1:\tUNWIND_HINT_FUNC\n\tRET\n\
             SYM_CODE_END(dynamos_transition_{index})\n\
             \nSYM_CODE_START(dynamos_policy_{index})\n{ENTER}\tUNWIND_HINT_FUNC\n\tRET\n\
             \t.balign {SLOTS}, 0xcc\n"
        );
        // objtool must see an end.
        const UD2: u64 = 2;
        for _ in 0..COUNT {
            let _ = write!(text, "{ENTER}\t.fill {}, 1, 0x90\n\tud2\n", SLOT - PAST_ENDBR - UD2);
        }
        let _ = writeln!(text, "SYM_CODE_END(dynamos_policy_{index})");
    }
    text.push_str("\n\t.section .dynamos.addrs, \"a\"\n\t.balign 8\n");
    for index in 0..adapts.len() {
        let _ = writeln!(
            text,
            "\t.quad dynamos_steady_{index}, dynamos_transition_{index}, dynamos_policy_{index}"
        );
    }
    text.push_str("\t.section .note.GNU-stack, \"\", @progbits\n");
    text
}

/// What a steady handler does before it takes the edition, if an adaptation handler is to be asked, and where it
/// goes if the answer is edition 0.
fn asking(index: usize) -> (String, String) {
    const ARGUMENTS: [&str; 6] = ["rdi", "rsi", "rdx", "rcx", "r8", "r9"];
    let mut ask = String::new();
    for register in ARGUMENTS {
        let _ = writeln!(ask, "\tpush %{register}");
    }
    let _ = writeln!(ask, "\tcall {}", adaptation_symbol(index));
    for register in ARGUMENTS.iter().rev() {
        let _ = writeln!(ask, "\tpop %{register}");
    }
    ask.push_str("\ttest %eax, %eax\n\tje 1f\n");
    (ask, "1:\tUNWIND_HINT_FUNC\n\tRET\n".into())
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
