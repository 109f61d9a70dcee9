//! An update's own adaptation handler on real kernels: it sees what an argument points to, and works with policies.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;

use crate::common::{empty_directory, greater_pipe_fcntl, machine, pipe_update};

/// Chooses by the state of the pipe: those with more than 16 buffers have their calls in edition 1.
const HANDLER: &str = "
static __used int dynamos_adapt_pipe_fcntl(struct file *file, unsigned int cmd)
{
	struct pipe_inode_info *pipe = get_pipe_info(file, false);

	return pipe && pipe->max_usage > 16;
}

";

/// An update whose `pipe_fcntl` gives a number that is one greater, with `handler` before it.
fn made(version: &str, name: &str, handler: &str) -> (PathBuf, dynamos_generator::Plan) {
    let directory = empty_directory("adaptation", name);
    let name = "long pipe_fcntl(";
    let adapted =
        |text: &str| greater_pipe_fcntl(text).replacen(name, &format!("{handler}{name}"), 1);
    pipe_update(version, adapted, &directory)
}

fn the_state_of_the_object_decides(version: &str, release: &str) {
    let (update, plan) = made(version, release, HANDLER);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let replaced: Vec<_> = plan.functions.iter().filter(|f| f.verdict == "changed").collect();
    assert_eq!(replaced.len(), 1);
    assert_eq!(replaced[0].adapted_by.as_deref(), Some("dynamos_adapt_pipe_fcntl"));
    let review = std::fs::read_to_string(update.join("review.md")).unwrap();
    assert!(review.contains("that `dynamos_adapt_pipe_fcntl` chooses"), "{review}");
    let outcome = machine(release, &[&update])
        .script(
            r#"
            asks() { name=$1; shift; "$@" | result "$name"; }
            small() { guest-tool pipe-edition --times 50 --made 8192; }
            large() { guest-tool pipe-edition --times 50 --made 131072; }
            asks stock_large large
            dynamos load /update/pipe
            asks small small
            asks large large
            dynamos policy dynamos_pipe | result show
            cp /bin/guest-tool /run/canary
            dynamos policy dynamos_pipe --when 'comm == "canary"'
            asks other_large large
            asks canary_large /run/canary pipe-edition --made 131072
            asks canary_small /run/canary pipe-edition --made 8192
            dynamos policy dynamos_pipe | result show_when
            dynamos policy dynamos_pipe --default 0
            asks default_0 large
            dynamos policy dynamos_pipe --default 1
            echo function >/sys/kernel/tracing/current_tracer
            asks traced_small small
            asks traced_large large
            echo nop >/sys/kernel/tracing/current_tracer
            # Reverted and enabled while calls go on in both editions.
            while [ ! -e /run/stop ]; do small; large; done >/run/calls &
            for round in $(seq 5); do
                dynamos revert dynamos_pipe
                dynamos enable dynamos_pipe
            done
            touch /run/stop
            wait
            sort -u /run/calls | tr '\n' ' ' | result calls
            dynamos revert dynamos_pipe
            asks reverted large
            dynamos unload dynamos_pipe
            rmmod dynamos
            asks gone large"#,
        )
        .timeout(std::time::Duration::from_secs(600))
        .run()
        .unwrap();
    let results = &outcome.results;
    for (name, edition) in [
        ("stock_large", "0"),
        ("small", "0"),
        ("large", "1"),
        ("show", "* default 1, and the update's adaptation handler agrees"),
        ("other_large", "0"),
        ("canary_large", "1"),
        ("canary_small", "0"),
        ("show_when", "* when comm == \"canary\", and the update's adaptation handler agrees"),
        ("default_0", "0"),
        ("traced_small", "0"),
        ("traced_large", "1"),
        ("reverted", "0"),
        ("gone", "0"),
    ] {
        assert_eq!(results[name].trim(), edition, "{name}");
    }
    let calls: Vec<_> = results["calls"].split_whitespace().collect();
    assert!(calls.contains(&"0") && calls.contains(&"1"), "both editions have run: {calls:?}");
}

#[test]
fn the_state_of_the_object_decides_on_6_12() {
    the_state_of_the_object_decides("6.12.107", "6.12.107+deb12-amd64");
}

#[test]
fn the_state_of_the_object_decides_on_6_1() {
    the_state_of_the_object_decides("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn a_handler_that_does_not_fit_is_refused() {
    for (name, handler, why) in [
        ("other", HANDLER.replace("unsigned int cmd", "long cmd"), "takes (file:u64 cmd:s64)"),
        ("void", HANDLER.replace("int dynamos", "bool dynamos"), "does not return an int"),
        ("none", HANDLER.replace("adapt_pipe_fcntl", "adapt_pipe_read"), "does not replace"),
    ] {
        let (update, plan) = made("6.12.107", name, &handler);
        let told: Vec<_> = plan.refusals.iter().map(|refusal| refusal.reason.as_str()).collect();
        assert!(told.len() == 1 && told[0].contains(why), "{name}: {told:?}");
        assert!(!update.join("update.ko").exists());
    }
}
