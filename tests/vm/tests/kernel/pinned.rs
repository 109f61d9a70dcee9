//! What an update has handed out stays: its code and data are not unloaded while something may look at them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use crate::common::{SAYS, check, edit, greater_pipe_fcntl, machine, named};

/// Keeps a string: `F_GETPIPE_SZ` writes where it is.
fn keeps_a_string(text: &str) -> String {
    let (before, after) = text.split_once("long pipe_fcntl(").unwrap();
    let after = after.replacen(
        "	switch (cmd) {",
        "	WRITE_ONCE(dynamos_last, \"somebody has asked\");\n	switch (cmd) {",
        1,
    );
    let text = format!("{before}static const char *dynamos_last;\nlong pipe_fcntl({after}");
    greater_pipe_fcntl(&text)
}

/// A timer, which never ends.
const TIMER: &str = "static unsigned int dynamos_ticks;\n\
    static void dynamos_tick(struct timer_list *timer);\n\
    static DEFINE_TIMER(dynamos_timer, dynamos_tick);\n\
    static void dynamos_tick(struct timer_list *timer)\n\
    {\n\
    \tdynamos_ticks++;\n\
    \tmod_timer(&dynamos_timer, jiffies + 1);\n\
    }\n\n";

/// Before the switch it sets up a timer, and then refuses.
fn asks(text: &str) -> String {
    let hook = "static __used int dynamos_before_on(void)\n\
        {\n\
        \tmod_timer(&dynamos_timer, jiffies + 1);\n\
        \treturn -EBUSY;\n\
        }\n\n";
    text.replacen(
        "static int uptime_proc_show(",
        &format!("{TIMER}{hook}static int uptime_proc_show("),
        1,
    )
    .replacen(
        "	return 0;\n",
        "	seq_printf(m, \"asked %u\\n\", READ_ONCE(dynamos_ticks));\n	return 0;\n",
        1,
    )
}

/// Sets up a timer of its own.
fn ticks(text: &str) -> String {
    text.replacen("static int uptime_proc_show(", &format!("{TIMER}static int uptime_proc_show("), 1)
        .replacen(
            "	return 0;\n",
            "	mod_timer(&dynamos_timer, jiffies + 1);\n	seq_printf(m, \"ticks %u\\n\", READ_ONCE(dynamos_ticks));\n	return 0;\n",
            1,
        )
}

fn stays(version: &str, release: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let make = |name: &str, file: &str, change: fn(&str) -> String| {
        let (patch, update) =
            (scratch.path().join(format!("{name}.patch")), scratch.path().join(name));
        edit(version, file, change, &patch);
        let plan = named(name, version, &patch, &update);
        assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
        let escapes = plan.escapes.into_iter();
        (update, escapes.map(|escape| (escape.function, escape.rewritten)).collect::<Vec<_>>())
    };
    let (kept, escapes) = make("kept", "fs/pipe.c", keeps_a_string);
    assert_eq!(escapes, [("\"somebody has asked\"".to_owned(), false)]);
    let (ticking, escapes) = make("ticking", "fs/proc/uptime.c", ticks);
    let timer = ("dynamos_timer".to_owned(), true);
    assert_eq!(escapes, [("dynamos_tick".to_owned(), true), timer.clone(), timer]);

    let (asking, _) = make("asking", "fs/proc/uptime.c", asks);
    let outcome = machine(release, &[&kept, &ticking, &asking])
        .script(format!(
            r#"{SAYS}
            says load dynamos load /update/kept
            says revert dynamos revert kept
            says again dynamos enable kept
            says back dynamos revert kept
            says unload dynamos unload kept
            says rmmod rmmod kept

            # What never ran can go.
            sysctl -q kernel.ftrace_enabled=0
            says never dynamos load /update/ticking
            says never_left ls /sys/kernel/dynamos
            says never_module ls -d /sys/module/ticking
            sysctl -q kernel.ftrace_enabled=1
            # By force all goes, and comes again.
            says forced rmmod -f kept
            says anew dynamos load /update/kept

            # Nor what never ran but for a hook, which may have refused.
            says asks dynamos load /update/asking
            says asks_state cat /sys/kernel/dynamos/asking/state
            says asks_again dynamos enable asking
            says asks_unload dynamos unload asking
            says asks_rmmod rmmod asking

            says ticks dynamos load /update/ticking
            cat /proc/uptime >/run/first
            for try in $(seq 600); do ! grep -q 'ticks [1-9]' /proc/uptime || break; usleep 50000; done
            says ticking grep -c 'ticks [1-9]' /proc/uptime
            says ticks_revert dynamos revert ticking
            says ticks_again dynamos enable ticking
            says ticks_unload dynamos unload ticking
            says ticks_rmmod rmmod ticking
            # The timer is still called.
            sleep 2
            says alive cat /sys/kernel/dynamos/ticking/state
            says dynamos rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("load", "status 0"),
            ("revert", "status 0"),
            ("again", "status 0\nkept is active"),
            ("back", "status 0"),
            ("unload", "it has run (address of \"somebody has asked\" escapes at pipe_fcntl)"),
            ("rmmod", "status 1"),
            ("never", "status 3\n"),
            ("never_left", "status 0\nabi\nkept\nrefusals\nversion"),
            ("never_module", "status 1\n"),
            ("forced", "status 0"),
            ("anew", "status 0\nkept is loaded"),
            ("asks", "status 3\n"),
            ("asks", "answers -16"),
            ("asks_state", "status 0\nreverted"),
            ("asks_again", "must stay mapped"),
            ("asks_unload", "must stay mapped"),
            ("asks_rmmod", "status 1"),
            ("ticks", "status 0"),
            ("ticking", "status 0\n1"),
            ("ticks_revert", "status 0"),
            (
                "ticks_again",
                "must stay mapped (address of dynamos_timer escapes at uptime_proc_show)",
            ),
            ("ticks_unload", "must stay mapped"),
            ("ticks_rmmod", "status 1"),
            ("alive", "status 0\nreverted"),
            ("dynamos", "status 1"),
        ],
    );
}

#[test]
fn stays_on_6_1() {
    stays("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn stays_on_6_12() {
    stays("6.12.107", "6.12.107+deb12-amd64");
}
