//! A function that takes other parameters in V2: V1's callers must never reach it, so nothing chooses call by call.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use crate::common::{SAYS, check, edit, empty_directory, machine, named, pipe_update};

/// `create_pipe_files` gets one more parameter. What the header says of it is about another name meanwhile.
fn one_more(text: &str) -> String {
    const NAME: &str = "create_pipe_files";
    let (first, last) = ("#include <linux/mm.h>\n", "#include \"internal.h\"\n");
    assert!(text.contains(first) && text.contains(last));
    let definition = format!("int {NAME}(struct file **res, int flags)\n{{\n");
    let more = format!(
        "int {NAME}(struct file **res, int flags, int more);\nint {NAME}(struct file **res, int flags, int more)\n{{\n\
         \tif (more != 7)\n\t\tpr_err(\"MIXED: %d\\n\", more);\n"
    );
    assert!(text.contains(&definition));
    // The definition comes before those who call it.
    let text = text.replacen(&definition, &more, 1);
    let text = text.replace(&format!("{NAME}(files, flags)"), &format!("{NAME}(files, flags, 7)"));
    let text = text.replacen(first, &format!("#define {NAME} of_the_header\n{first}"), 1);
    text.replacen(last, &format!("{last}#undef {NAME}\n"), 1)
}

/// The same function, with V1's parameters.
fn as_many(text: &str) -> String {
    const DEFINITION: &str = "int create_pipe_files(struct file **res, int flags)\n{\n";
    assert!(text.contains(DEFINITION));
    let more = format!("{DEFINITION}\tif (flags == 7)\n\t\tpr_err(\"MIXED: flags\\n\");\n");
    text.replacen(DEFINITION, &more, 1)
}

/// Another function that calls it with V1's parameters, which none of V1's does that the other update leaves as it is.
fn one_more_call(text: &str) -> String {
    const BEGIN: &str = "pipe_fasync(int fd, struct file *filp, int on)\n{\n\tstruct pipe_inode_info *pipe = \
                         filp->private_data;\n\tint retval = 0;\n";
    assert!(text.contains(BEGIN));
    let call = "\n\tif (fd == -4711)\n\t\treturn create_pipe_files((struct file **)filp, 0);\n";
    text.replacen(BEGIN, &format!("{BEGIN}{call}"), 1)
}

fn callers_give_what_is_taken(version: &str, release: &str) {
    let directory = empty_directory("parameters", version);
    let (update, plan) = pipe_update(version, one_more, &directory);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let reshaped = plan.functions.iter().filter(|row| row.reshaped).map(|row| row.name.as_str());
    let reshaped: Vec<&str> = reshaped.collect();
    assert_eq!(reshaped, ["create_pipe_files"]);
    let proposed = plan.scope.unwrap();
    assert_eq!(proposed.scope, "system", "{}", proposed.reason);
    let review = std::fs::read_to_string(update.join("review.md")).unwrap();
    assert!(review.contains("no choice by call"), "{review}");
    let (patch, over) = (directory.join("over.patch"), directory.join("over"));
    edit(version, "fs/pipe.c", as_many, &patch);
    let plan = named("over", version, &patch, &over);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    assert!(plan.functions.iter().any(|row| row.name == "create_pipe_files" && !row.reshaped));
    let (patch, calls) = (directory.join("calls.patch"), directory.join("calls"));
    edit(version, "fs/pipe.c", one_more_call, &patch);
    let plan = named("calls", version, &patch, &calls);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let replaced: Vec<_> = plan.functions.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(replaced, ["pipe_fasync"]);
    let outcome = machine(release, &[&update, &over, &calls])
        .script(format!(
            r#"{SAYS}
            load() {{ dynamos load /update/pipe "$@"; }}
            says function load --scope function
            says forced load --on-timeout force-new-calls
            says default load --default 0
            says nothing ls /sys/kernel/dynamos
            says load load

            # Its callers call by the function's entry: another edition there would get one parameter more.
            over() {{ dynamos load /update/over "$@"; }}
            says stack over --stack
            says replace_function over --replace --scope function
            says replace_forced over --replace --on-timeout force-new-calls
            says refused_left ls /sys/kernel/dynamos
            says replace over --replace --default 0
            says replaced_status dynamos status over
            # It has only to drain, whatever its parameters.
            for try in $(seq 600); do
                [ "$(cat /sys/kernel/dynamos/dynamos_pipe/state)" != reverted ] || break
                usleep 50000
            done
            says drained cat /sys/kernel/dynamos/dynamos_pipe/state
            says stack_back dynamos enable dynamos_pipe --stack
            says replace_back dynamos enable dynamos_pipe --replace
            for try in $(seq 600); do
                [ "$(cat /sys/kernel/dynamos/over/state)" != reverted ] || break
                usleep 50000
            done
            # It stays loaded, for the name of a file that it hands out.
            says over_state cat /sys/kernel/dynamos/over/state

            says policy dynamos policy dynamos_pipe --when 'uid == 0'
            says forced_back dynamos revert dynamos_pipe --on-timeout force-new-calls
            says status dynamos status
            echo text | cat | result through
            dmesg | grep -c MIXED | result mixed || true
            says revert dynamos revert dynamos_pipe
            says enable_function dynamos enable dynamos_pipe --scope function
            says enable dynamos enable dynamos_pipe
            # Who calls it with V1's parameters is not active at the same time.
            says newly_calls dynamos load /update/calls
            says off dynamos revert dynamos_pipe
            says calls dynamos load /update/calls
            says is_called dynamos enable dynamos_pipe
            says still_off cat /sys/kernel/dynamos/dynamos_pipe/state
            says calls_off dynamos revert calls
            says on dynamos enable dynamos_pipe
            says calls_again dynamos enable calls
            says end dynamos revert dynamos_pipe"#
        ))
        .timeout(Duration::from_secs(900))
        .run()
        .unwrap();
    let differ = "a function takes other parameters, or gives another result, than V1's";
    check(
        &outcome.results,
        &[
            ("function", "status 3\n"),
            ("function", differ),
            ("forced", "status 3\n"),
            ("forced", differ),
            ("default", "status 3\n"),
            ("default", differ),
            ("nothing", "status 0\nabi\nrefusals\nversion"),
            ("load", "status 0\n"),
            ("stack", "status 3\n"),
            ("stack", "a function of update `dynamos_pipe` takes other parameters"),
            ("stack", "give --replace"),
            ("replace_function", "status 3\n"),
            ("replace_function", "`dynamos_pipe`, which is to leave, takes other parameters"),
            ("replace_forced", "status 3\n"),
            ("replace_forced", "use --scope system"),
            ("refused_left", "status 0\nabi\ndynamos_pipe\nrefusals\nversion"),
            ("replace", "status 0\n"),
            ("replaced_status", "active, enabled\n  scope: system"),
            ("drained", "status 0\nreverted"),
            ("stack_back", "status 3\n"),
            ("stack_back", "a function of update `dynamos_pipe` takes other parameters"),
            ("replace_back", "status 0\n"),
            ("over_state", "status 0\nreverted"),
            ("policy", "status 3\n"),
            ("policy", differ),
            ("forced_back", "status 3\n"),
            ("forced_back", differ),
            ("status", "active, enabled\n  scope: system\n"),
            ("through", "text"),
            ("mixed", "0"),
            ("revert", "status 0\n"),
            ("enable_function", "status 3\n"),
            ("enable_function", differ),
            ("enable", "status 0\n"),
            ("newly_calls", "status 3\n"),
            ("newly_calls", "in update `dynamos_pipe` than in V1: revert `dynamos_pipe` first"),
            ("off", "status 0\n"),
            ("calls", "status 0\n"),
            ("is_called", "status 3\n"),
            ("is_called", "update `calls` calls `create_pipe_files`, which takes other parameters"),
            ("still_off", "status 0\nreverted"),
            ("calls_off", "status 0\n"),
            ("on", "status 0\n"),
            ("calls_again", "status 3\n"),
            ("calls_again", "this update calls a function that takes other parameters"),
            ("end", "status 0\n"),
        ],
    );
}

#[test]
fn callers_give_what_is_taken_on_6_1() {
    callers_give_what_is_taken("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn callers_give_what_is_taken_on_6_12() {
    callers_give_what_is_taken("6.12.107", "6.12.107+deb12-amd64");
}
