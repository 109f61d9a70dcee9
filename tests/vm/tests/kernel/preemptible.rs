//! `--preemptible`: the kernel is preemptible while a command works, and as before afterwards, however that ended.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use crate::common::{
    SAYS, SLEEPERS, check, empty_directory, machine, pipe_update, refusing_pipe_read,
};

fn the_model_comes_back(version: &str, release: &str) {
    let directory = empty_directory("preemptible", version);
    let (update, plan) = pipe_update(version, refusing_pipe_read, &directory);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let outcome = machine(release, &[&update])
        .script(format!(
            r#"{SAYS}{SLEEPERS}
            model=/sys/kernel/debug/sched/preempt
            model_is() {{
                for try in $(seq 2400); do
                    read -r now <$model
                    case $now in *"($1)"*) echo "$now"; return;; esac
                    usleep 50000
                done
                return 1
            }}
            kill_command() {{
                for process in /proc/[0-9]*; do
                    read -r comm <$process/comm || continue
                    [ $comm != dynamos ] || kill -KILL ${{process#/proc/}}
                done
            }}
            serve --count 3
            says before cat $model
            says load dynamos load /update/pipe --preemptible
            says loaded cat $model
            ask feed >/dev/null
            # They sleep in edition 1, so a revert waits for them.
            for signal in INT KILL; do
                # By name a signal reaches who is to bring the model back too.
                case $signal in
                    INT) ends="killall -INT dynamos";;
                    *) ends=kill_command;;
                esac
                (model_is full >/run/during; $ends) &
                killer=$!
                says waits_$signal dynamos revert dynamos_pipe --timeout 900 --preemptible
                wait $killer
                says during_$signal cat /run/during
                says after_$signal model_is voluntary
            done
            says refused dynamos revert dynamos_pipe --timeout 1 --preemptible
            says after_refused cat $model
            ps | grep -c '[k]eep-preemption' | result keepers || true
            says revert dynamos revert dynamos_pipe --timeout 240 --signal --preemptible
            says reverted cat $model
            umount -l /sys/kernel/debug
            says without dynamos enable dynamos_pipe --preemptible
            says end ask end
            says status cat /sys/kernel/dynamos/dynamos_pipe/state
            dynamos unload dynamos_pipe
            rmmod dynamos"#
        ))
        .timeout(Duration::from_secs(900))
        .run()
        .unwrap();
    check(
        &outcome.results,
        &[
            ("before", "(voluntary)"),
            ("load", "status 0\n"),
            ("loaded", "(voluntary)"),
            ("during_INT", "(full)"),
            ("waits_INT", "status 130"),
            ("after_INT", "(voluntary)"),
            ("during_KILL", "(full)"),
            ("waits_KILL", "status 137"),
            ("after_KILL", "(voluntary)"),
            ("refused", "status 3\n"),
            ("after_refused", "(voluntary)"),
            ("keepers", "0"),
            ("revert", "status 0\n"),
            ("reverted", "(voluntary)"),
            ("without", "status 2\n"),
            ("without", "mount debugfs there, boot with preempt=full, or leave the option out"),
            ("end", " intact, 0 damaged"),
            ("status", "reverted"),
        ],
    );
}

#[test]
fn the_model_comes_back_on_6_1() {
    the_model_comes_back("6.1.192-1", "6.1.0-55-amd64");
}

#[test]
fn the_model_comes_back_on_6_12() {
    the_model_comes_back("6.12.107", "6.12.107+deb12-amd64");
}
