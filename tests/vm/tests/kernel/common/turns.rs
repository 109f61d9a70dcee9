//! What the tests of scopes `task` and `object` share: updates whose tasks, or objects, turn again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dynamos_generator::{Request, Spec};
use dynamos_vm::Image;

use super::{
    SAYS, SLEEPERS, asked, cache, check, edit, empty_directory, kernel, machine_on, request,
};

/// `fed_until NAME STATE`: waits for it, while sleepers are woken again and again.
/// `until_edition N`: waits until new pipes are of that one. `mixed`: how often both editions met.
pub const SHELL: &str = r#"
fed_until() {
    for try in $(seq 100); do
        ask feed >/dev/null
        read -r state </sys/kernel/dynamos/$1/state
        if [ "$state" = "$2" ]; then return; fi
        usleep 500000
    done
    echo "it is $state, not $2"
    return 1
}
# Held updates are looked at twice a second.
until_edition() {
    for try in $(seq 600); do
        if [ "$(ask edition)" = "$1" ]; then return; fi
        usleep 50000
    done
}
# `ends SIGNAL NAME STATE &`: ends the command that brings the update there, once it waits.
ends() {
    for try in $(seq 2400); do
        state=; [ -e /sys/kernel/dynamos/$2/state ] && read -r state </sys/kernel/dynamos/$2/state || true
        if [ "$state" = "$3" ]; then usleep 500000; kill -$1 $(pidof dynamos); return; fi
        usleep 50000
    done
}
# Whoever is killed is gone before what it did is taken back.
disappears() { for try in $(seq 600); do [ -e /sys/kernel/dynamos/$1 ] || return 0; usleep 50000; done; }
mixed() { dmesg | grep -c MIXED || true; }
"#;

/// Emulated machines are slow, and this one shares its host.
pub const LONG: Duration = Duration::from_secs(900);

/// Turn after turn, while tasks begin and end, sleep and are busy, and a CPU comes and goes: both editions never meet, and
/// no byte is lost.
pub fn turns_under_load(image: &Image, update: &Path, scope: &str) {
    const ROUNDS: u32 = 3;
    let outcome = machine_on(image, &[update])
        .script(format!(
            r#"{SAYS}{SLEEPERS}{SHELL}
            serve --count 20 --busy 3
            for worker in 1 2; do
                (while [ ! -e /run/stop ]; do echo some text | cat | cat >/dev/null; done) &
            done
            cpu=/sys/devices/system/cpu/cpu1/online
            (while [ ! -e /run/stop ]; do
                echo 0 >$cpu; usleep 500000; echo 1 >$cpu; usleep 1500000; echo >>/run/came_back
            done) &
            dynamos load /update/pair --scope {scope} --timeout 0 --on-timeout hold
            for round in $(seq {ROUNDS}); do
                # As many turns as there are commands, each against the one before.
                dynamos revert dynamos_pair --timeout 0 --on-timeout hold
                dynamos enable dynamos_pair --scope {scope} --timeout 0 --on-timeout hold
                fed_until dynamos_pair active
                dynamos revert dynamos_pair --timeout 0 --on-timeout hold
                dynamos enable dynamos_pair --scope {scope} --timeout 1 --on-timeout roll-back || true
                dynamos revert dynamos_pair --timeout 0 --on-timeout hold
                fed_until dynamos_pair reverted
                dynamos enable dynamos_pair --scope {scope} --timeout 240 --signal
                dynamos revert dynamos_pair --timeout 240 --signal
                fed_until dynamos_pair reverted
                dynamos enable dynamos_pair --scope {scope} --timeout 0 --on-timeout hold
            done >/run/rounds 2>&1 || cat /run/rounds
            touch /run/stop
            dynamos revert dynamos_pair --signal --timeout 240
            says end ask end
            becomes dynamos_pair reverted
            says mixed mixed
            wc -l </run/came_back | result came_back
            says unload dynamos unload dynamos_pair
            rmmod dynamos"#
        ))
        .timeout(LONG)
        .run()
        .unwrap();
    let results = &outcome.results;
    println!("{}, {scope}: {}", image.release, results["end"]);
    assert!(results["came_back"].trim().parse::<u32>().unwrap() > 2, "{}", results["came_back"]);
    check(
        results,
        &[("end", " intact, 0 damaged"), ("mixed", "status 0\n0"), ("unload", "status 0\n")],
    );
}

/// The debug kernel, if one has been built, and an update for it called `pair`.
pub fn pair_on_the_debug_kernel(
    name: &str,
    change: impl Fn(&str) -> String,
    objects: BTreeMap<String, String>,
) -> Option<(Image, PathBuf)> {
    const VERSION: &str = "6.12.107";
    let built = cache().debug_kernel_if_built(&kernel(VERSION)).unwrap()?;
    let directory = empty_directory(name, "debug");
    let (patch, update) = (directory.join("pipe.patch"), directory.join("pair"));
    edit(VERSION, "fs/pipe.c", change, &patch);
    let (v1, v2) = (Spec::Deb(VERSION.into()), Spec::Patch(patch));
    let plan = request(Request {
        kernel: Some(built.build_dir().to_str().unwrap().into()),
        name: Some("dynamos_pair".into()),
        objects,
        ..asked(v1, v2, &update)
    });
    let refusals = plan.unwrap().refusals;
    assert!(refusals.is_empty(), "{refusals:?}");
    let (vmlinuz, modules_dir) = (built.vmlinuz(), built.modules());
    Some((Image { vmlinuz, modules_dir, release: built.release().into() }, update))
}
