//! Finds the kernel's reports of its own faults in a console log.

/// A fault the kernel reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its first line, without the time stamp.
    pub title: String,
    /// The lines from there to the end of the trace, or to the next report.
    pub text: String,
}

impl Report {
    /// Whether `pattern` occurs in the report.
    #[must_use]
    pub fn contains(&self, pattern: &str) -> bool {
        self.text.contains(pattern)
    }
}

/// What begins a report, at the start of a kernel message. Sources: `lib/bug.c`,
/// `kernel/panic.c`, `arch/x86/kernel/{traps,dumpstack}.c`, `arch/x86/mm/fault.c`,
/// `kernel/locking/lockdep.c`, `kernel/rcu/tree_stall.h`, `kernel/hung_task.c`,
/// `kernel/watchdog.c`, `mm/kasan/report.c`, `lib/ubsan.c`.
const STARTS: &[&str] = &[
    "BUG: ",
    "kernel BUG at ",
    "WARNING: ",
    "general protection fault",
    "Unable to handle kernel ",
    "traps: PANIC: ",
    "double fault",
    "stack segment",
    "invalid opcode",
    "UBSAN: ",
    "KASAN: ",
    "KCSAN: ",
    "DEBUG_LOCKS_WARN_ON",
    "INFO: task ",
    "INFO: rcu_",
    "INFO: possible ",
    "INFO: trying to register non-static key",
    "INFO: suspicious RCU usage",
    "INFO: lockdep ",
    "rcu: INFO: ",
    "rcu: rcu_",
    "watchdog: BUG: ",
    "watchdog: Watchdog detected ",
    "NMI watchdog: Watchdog detected ",
    "list_add corruption",
    "list_del corruption",
    "Oops: ",
    "Oops[",
    "Kernel panic",
];

/// Starts that only go on with a report already begun, when one is: an oops names its cause
/// first and itself afterwards.
const CONTINUES: &[&str] = &["Oops: ", "Oops[", "Kernel panic", "invalid opcode", "kernel BUG at "];

/// Starts of [`STARTS`] that are no report: progress messages with the same first words.
const HARMLESS: &[&str] = &["INFO: lockdep is turned off", "rcu: rcu_nocb", "rcu: rcu_fanout"];

/// The longest report, in lines: the trace of an oops is shorter, lockdep's rarely longer.
const LONGEST: usize = 200;

/// The reports in `console`, in order. Only kernel messages (those with a time stamp) begin
/// one, so that a script that prints `BUG:` does not.
pub(crate) fn find(console: &str) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    let mut lines_in_last = None; // of a report still open
    for line in console.lines() {
        let start = message(line).filter(|m| is_start(m));
        if let Some(title) = start
            && !(lines_in_last.is_some() && CONTINUES.iter().any(|c| title.starts_with(c)))
        {
            reports.push(Report { title: title.to_owned(), text: line.to_owned() });
            lines_in_last = Some(1);
            continue;
        }
        if let (Some(count), Some(last)) = (lines_in_last, reports.last_mut()) {
            last.text.push('\n');
            last.text.push_str(line);
            let ended = line.contains("---[ end trace") || line.contains("---[ end Kernel panic");
            lines_in_last = (count < LONGEST && !ended).then_some(count + 1);
        }
    }
    fold_deaths(reports)
}

/// A task that an oops kills may be warned about on its way out (`do_exit` finds its block plug,
/// for one): that belongs to the oops.
fn fold_deaths(reports: Vec<Report>) -> Vec<Report> {
    let mut folded: Vec<Report> = Vec::new();
    for report in reports {
        match folded.last_mut() {
            Some(oops)
                if oops.contains("] Oops: ")
                    && report.title.starts_with("WARNING: ")
                    && report.contains(" make_task_dead+") =>
            {
                oops.text.push('\n');
                oops.text.push_str(&report.text);
            }
            _ => folded.push(report),
        }
    }
    folded
}

/// The line that says the kernel panicked.
pub(crate) fn panic(console: &str) -> Option<&str> {
    console.lines().filter_map(message).find(|m| m.starts_with("Kernel panic"))
}

fn is_start(message: &str) -> bool {
    STARTS.iter().any(|s| message.starts_with(s))
        && !HARMLESS.iter().any(|h| message.starts_with(h))
}

/// The text after `[    1.234567]`, wherever it stands in the line: a script may have written
/// the beginning of a line just before.
fn message(line: &str) -> Option<&str> {
    let mut rest = line;
    loop {
        let (_, after) = rest.split_once('[')?;
        if let Some((stamp, text)) = after.split_once(']')
            && is_time(stamp)
        {
            return Some(without_caller(text.trim_start()));
        }
        rest = after;
    }
}

/// `[  T123] ` or `[  C1] ` follows the time where the kernel has `CONFIG_PRINTK_CALLER`.
fn without_caller(text: &str) -> &str {
    text.strip_prefix('[')
        .and_then(|t| t.split_once(']'))
        .filter(|(caller, _)| {
            let digits = caller.trim_start().strip_prefix(['T', 'C']).unwrap_or_default();
            !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
        })
        .map_or(text, |(_, rest)| rest.trim_start())
}

/// Seconds with six decimals, as printk writes them.
fn is_time(stamp: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    stamp
        .trim_start()
        .split_once('.')
        .is_some_and(|(seconds, micros)| digits(seconds) && micros.len() == 6 && digits(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(console: &str) -> Vec<String> {
        find(console).into_iter().map(|r| r.title).collect()
    }

    #[test]
    fn an_oops_is_one_report() {
        let console = "\
[    3.100000] EXT4-fs (vda): mounted filesystem
[    4.100000] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    4.100001] #PF: supervisor read access in kernel mode
[    4.100002] Oops: 0000 [#1] PREEMPT SMP PTI
[    4.100003] RIP: 0010:ext4_mb_load_buddy_gfp+0x1/0x2 [ext4]
[    4.100004] ---[ end trace 0000000000000000 ]---
[    4.200000] Kernel panic - not syncing: Fatal exception
";
        let reports = find(console);
        assert_eq!(reports.len(), 2);
        assert_eq!(
            reports[0].title,
            "BUG: kernel NULL pointer dereference, address: 0000000000000008"
        );
        assert!(reports[0].contains("ext4_mb_load_buddy_gfp"));
        assert!(!reports[0].contains("Fatal exception"));
        assert_eq!(panic(console), Some("Kernel panic - not syncing: Fatal exception"));
    }

    #[test]
    fn every_kind_is_found() {
        for title in [
            "WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2",
            "WARNING: possible circular locking dependency detected",
            "WARNING: suspicious RCU usage",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "INFO: task sync:123 blocked for more than 120 seconds.",
            "general protection fault, probably for non-canonical address 0x1: 0000 [#1]",
            "Oops: general protection fault, kernel NULL pointer dereference 0x0: 0000 [#1]",
            "BUG: KASAN: slab-out-of-bounds in f+0x1/0x2",
            "kernel BUG at fs/x.c:1!",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
        ] {
            assert_eq!(titles(&format!("[    1.000000] {title}\n")), [title]);
            assert_eq!(titles(&format!("[    1.000000][   T12] {title}\n")), [title]);
        }
    }

    #[test]
    fn only_kernel_messages_count() {
        assert!(titles("BUG: said the script\n").is_empty());
        assert!(titles("[x] WARNING: said the script\n").is_empty());
        assert!(titles("[    1.000000] a message with BUG: in it\n").is_empty());
        assert!(titles("[    1.000000] rcu: rcu_fanout_leaf=1\n").is_empty());
        assert_eq!(titles("begun by a script[    1.000000] BUG: x\n"), ["BUG: x"]);
    }

    #[test]
    fn a_second_fault_is_not_hidden_in_the_first() {
        let console = "\
[    1.000000] WARNING: possible recursive locking detected
[    1.000001] BUG: sleeping function called from invalid context
";
        assert_eq!(titles(console).len(), 2);
    }

    #[test]
    fn the_death_of_the_task_belongs_to_its_oops() {
        let oops = "\
[    1.000000] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    1.000001] Oops: 0000 [#1] PREEMPT SMP
[    1.000002] ---[ end trace 0000000000000000 ]---
";
        let warning = "\
[    1.000003] WARNING: CPU: 0 PID: 113 at kernel/exit.c:823 do_exit+0x904/0xb10
";
        let death = "[    1.000004]  make_task_dead+0x8d/0x90\n";
        assert_eq!(find(&format!("{oops}{warning}{death}")).len(), 1);
        assert_eq!(find(&format!("{oops}{warning}")).len(), 2);
        assert_eq!(find(&format!("{warning}{warning}{death}")).len(), 2);
    }
}
