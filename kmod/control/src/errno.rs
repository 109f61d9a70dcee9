//! What the kernel's answer to loading a module means, and what to do about it.

use rustix::io::Errno;

use crate::failure::Failure;
use crate::sysfs::Sysfs;

/// The failure for `answer` to inserting `module`, where nothing better is known.
pub(crate) fn of_insertion(answer: Errno, module: &str, sysfs: &Sysfs) -> Failure {
    let text = |what: &str| format!("the kernel does not take {module}: {what} ({answer})");
    let refused = |what: &str| Failure::Refused(text(what));
    match answer {
        Errno::PERM => not_permitted(module, sysfs),
        Errno::NOEXEC => refused(
            "it is damaged, or was built for another kernel; `dmesg` says which; \
             make the update for the kernel that `uname -r` names",
        ),
        Errno::NOKEY | Errno::KEYREJECTED => refused(
            "this kernel only takes modules signed with a key it trusts; sign the module with \
             the kernel's `scripts/sign-file` and a key enrolled with `mokutil --import`",
        ),
        Errno::EXIST => refused("a module of that name is loaded already"),
        Errno::NOENT => refused(
            "it needs a symbol no loaded module has; `dmesg` names it; load the dynamos.ko that \
             the update was made with",
        ),
        Errno::INVAL => refused(
            "a symbol it uses has another version here, or a parameter is wrong; `dmesg` says \
             which; make the update for the kernel that `uname -r` names",
        ),
        Errno::INTR => refused("it was interrupted before the switch; try again"),
        Errno::TIMEDOUT => refused("the switch took too long; `dmesg` names the tasks in the way"),
        Errno::NOMEM => Failure::Error(anyhow::anyhow!(text("there is not enough memory"))),
        _ => refused("`dmesg` says more"),
    }
}

/// Three things forbid loading any module, and the kernel gives one answer for all.
fn not_permitted(module: &str, sysfs: &Sysfs) -> Failure {
    if !rustix::process::geteuid().is_root() {
        return Failure::error(format!("only root may load {module}; use sudo"));
    }
    if let Some(level) = sysfs.lockdown()
        && level != "none"
    {
        return Failure::Refused(format!(
            "the kernel is locked down ({level}) and takes only signed modules; sign {module} \
             with a key enrolled with `mokutil --import`, or boot without Secure Boot"
        ));
    }
    let forbidden = std::fs::read_to_string("/proc/sys/kernel/modules_disabled");
    if forbidden.is_ok_and(|value| value.trim() == "1") {
        return Failure::Refused(format!(
            "kernel.modules_disabled is 1, so {module} cannot be loaded before the next boot"
        ));
    }
    Failure::Refused(format!(
        "the system forbids loading {module}: the process lacks CAP_SYS_MODULE (a container?) \
         or a security module says no; `dmesg` may say more"
    ))
}
