//! `cargo xtask demo`: the main job on a real kernel. Debian's 6.1.0-55 oopses in ext4 (Debian bug 1154101);
//! the update made of the next version's source is loaded under load and takes the bug away.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use dynamos_vm::{Image, Outcome, Vm, static_binary};
use kernel_trees::{Cache, Manifest};
use serde_json::json;

use crate::{setup, workspace};

const V1: &str = "6.1.192-1";
const V2: &str = "6.1.192-2";
/// The functions that the update replaces, and how much of each is read from the running kernel.
const FUNCTIONS: [(&str, u32); 2] = [("ext4_mb_load_buddy_gfp", 512), ("ext4_mb_init_group", 256)];

/// Options of the demo.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Write the results to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What makes an unpatched kernel oops: allocate from a group whose bitmap has just left the page cache.
const TRIGGER: &str = "
    dd if=/dev/zero of=/mnt/first bs=64k count=8 conv=fsync 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches
    dd if=/dev/zero of=/mnt/second bs=64k count=8 conv=fsync 2>/dev/null
";

/// Runs the demo.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&setup::all())?;
    let out = workspace().join("target/demo");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut times = Times::default();

    println!(
        "Debian's kernel {V1} has a bug: writing to ext4 after a cache drop oopses (Debian bug 1154101)."
    );
    let image = times.of("image", image)?;

    println!("\n1. The stock kernel, without an update:");
    let unpatched = times.of("unpatched_vm", || unpatched(&image))?;
    let oops = unpatched.reports.iter().find(|report| report.contains("ext4_mb_load_buddy_gfp"));
    for line in oops.map_or("", |report| report.text.as_str()).lines().take(3) {
        println!("   {line}");
    }

    let update = out.join("update");
    println!("\n2. dynamos-diff deb:{V1} deb:{V2} -o {}", shown(&update));
    let seconds = times.of("dynamos_diff", || make_update(&update))?;
    for (phase, seconds) in &seconds {
        println!("   {phase:<10} {seconds:6.2} s");
    }

    println!("\n3. The same kernel, updated while it writes:");
    let patched = times.of("patched_vm", || patched(&image, &update))?;
    tell(&patched.results);

    let results = results(oops.is_some(), &patched.results, &times, &seconds, &update, &out)?;
    let text = serde_json::to_string_pretty(&results)? + "\n";
    for file in [Some(&out.join("result.json")), arguments.json.as_ref()].into_iter().flatten() {
        std::fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    println!("\nThe update: {}", shown(&update));
    println!("To review:  {}", shown(&update.join("review.md")));
    println!("Results:    {}", shown(&out.join("result.json")));
    for check in ["unpatched_oops", "patched_ok", "data_intact", "reverted_bytes_equal"] {
        let holds = results.get(check).is_some_and(|value| *value == true);
        ensure!(holds, "the demo failed: {check} is not true (see the results)");
    }
    Ok(())
}

fn image() -> Result<Image> {
    let manifest = Manifest::builtin()?;
    let kernel = manifest.find(V1)?;
    let image = Cache::open(None)?
        .with_progress(std::sync::Arc::new(kernel_trees::Stderr::default()))
        .image(kernel)?;
    Ok(Image::in_root(&image.dir, &image.release))
}

fn unpatched(image: &Image) -> Result<Outcome> {
    let script = format!("mount -t ext4 /dev/vda /mnt\n{TRIGGER}");
    let vm = Vm::new(image).module("ext4").disk(256 << 20).script(script);
    Ok(vm.expect_oops("ext4_mb_load_buddy_gfp").any_status().run()?)
}

/// Runs the tool as its users do; the seconds each phase took.
fn make_update(update: &Path) -> Result<BTreeMap<String, f64>> {
    let timings = update.with_extension("timings.json");
    let mut build = crate::cargo(&["build", "--release", "--quiet", "--bin", "dynamos-diff"]);
    ensure!(build.status().context("cannot start cargo")?.success(), "dynamos-diff does not build");
    let status = Command::new(workspace().join("target/release/dynamos-diff"))
        .args([&format!("deb:{V1}"), &format!("deb:{V2}")])
        .arg("-o")
        .arg(update)
        .arg("--timings")
        .arg(&timings)
        .status()
        .context("cannot start dynamos-diff")?;
    ensure!(status.success(), "dynamos-diff failed ({status}); its own message is above");
    let text = std::fs::read_to_string(&timings)?;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let phases =
        value.get("phases").and_then(|p| p.as_object()).context("the timings have no phases")?;
    Ok(phases.iter().map(|(k, v)| (k.clone(), v.as_f64().unwrap_or(0.0))).collect())
}

fn patched(image: &Image, update: &Path) -> Result<Outcome> {
    let read = |when: &str| -> String {
        FUNCTIONS
            .iter()
            .map(|(name, length)| {
                format!("guest-tool kbytes {name} {length} --module ext4 | result {when}_{name}\n")
            })
            .collect()
    };
    let script = format!(
        "mount -t ext4 /dev/vda /mnt
        {before}
        guest-tool write-load /mnt/load --stop-file /run/stop --ready-file /run/ready &
        writer=$!
        while [ ! -e /run/ready ]; do usleep 50000; done
        dynamos load /update | result load
        {during}
        {TRIGGER}
        dynamos status --json | result status
        touch /run/stop
        wait $writer
        guest-tool verify /mnt/load | result verify
        dynamos revert $(dynamos list | cut -d' ' -f1) | result revert
        {after}
        dynamos unload $(dynamos list | cut -d' ' -f1) | result unload
        umount /mnt
        rmmod dynamos
        result done yes",
        before = read("before"),
        during = read("during"),
        after = read("after"),
    );
    let vm = Vm::new(image)
        .module("ext4")
        .disk(512 << 20)
        .file(static_binary("dynamos", "dynamos")?, "/bin/dynamos")
        .file(static_binary("guest-tool", "guest-tool")?, "/bin/guest-tool")
        .file(update, "/update")
        .script(script)
        .timeout(Duration::from_secs(300));
    Ok(vm.run()?)
}

/// The story of the second machine.
fn tell(results: &BTreeMap<String, String>) {
    for (key, what) in [
        ("load", "dynamos load /update, under load"),
        ("status", "dynamos status --json"),
        ("verify", "every file written meanwhile, read back"),
        ("revert", "dynamos revert"),
        ("unload", "dynamos unload"),
    ] {
        println!("   {what}:");
        for line in results.get(key).map(String::as_str).unwrap_or("(nothing)").lines() {
            println!("      {line}");
        }
    }
    for (name, _) in FUNCTIONS {
        let at = |when: &str| {
            let bytes = results.get(&format!("{when}_{name}")).map_or("", String::as_str);
            bytes.get(..20).unwrap_or(bytes).to_string()
        };
        println!(
            "   {name}: first bytes {} before, {} updated, {} reverted",
            at("before"),
            at("during"),
            at("after")
        );
    }
}

fn results(
    oops: bool,
    guest: &BTreeMap<String, String>,
    times: &Times,
    diff: &BTreeMap<String, f64>,
    update: &Path,
    out: &Path,
) -> Result<serde_json::Value> {
    let bytes = |when: &str, name: &str| guest.get(&format!("{when}_{name}"));
    let redirected = FUNCTIONS.iter().all(|(name, _)| {
        bytes("before", name).is_some() && bytes("before", name) != bytes("during", name)
    });
    let reverted = FUNCTIONS.iter().all(|(name, _)| bytes("before", name) == bytes("after", name));
    Ok(json!({
        "unpatched_oops": oops,
        "patched_ok": redirected && guest.get("done").is_some_and(|done| done == "yes"),
        "data_intact": guest.get("verify").is_some_and(|verify| verify.ends_with(" files intact")),
        "reverted_bytes_equal": redirected && reverted,
        "seconds": times.seconds,
        "dynamos_diff_seconds": diff,
        "update": update.display().to_string(),
        "review": update.join("review.md").display().to_string(),
        "result": out.join("result.json").display().to_string(),
    }))
}

/// A path as one types it in the workspace.
fn shown(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).display().to_string()
}

/// How long each phase took.
#[derive(Debug, Default)]
struct Times {
    seconds: BTreeMap<&'static str, f64>,
}

impl Times {
    fn of<T>(&mut self, phase: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let since = Instant::now();
        let result = work();
        self.seconds.insert(phase, since.elapsed().as_secs_f64());
        result
    }
}
