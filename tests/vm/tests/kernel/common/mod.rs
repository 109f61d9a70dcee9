//! What the tests share: stock kernels, and updates made by the real tool.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)] // each test program uses some of it

pub mod turns;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dynamos_abi::Record;
use dynamos_generator::report::Reporter;
use dynamos_generator::{Plan, Request, Spec};
use dynamos_vm::{Image, Vm, static_binary};
use kernel_trees::{Cache, Kernel, Manifest};

/// For guest scripts. `says NAME COMMAND…`: hands the exit code and what it said to the test, without a pipe, whose
/// reader may be in the function that is switched. `becomes UPDATE TEXT [FILE]`: waits until that is what its state says, or that file
/// of it. `sleeps_in FUNCTION PID`: waits until it does.
pub const SAYS: &str = r#"
says() {
    name=$1; shift; code=0
    "$@" >/run/said 2>&1 || code=$?
    { echo "status $code"; cat /run/said; } >/run/says
    result "$name" </run/says
}
becomes() {
    for try in $(seq 2400); do
        read -r now </sys/kernel/dynamos/$1/${3:-state}
        if [ "$now" = "$2" ]; then return; fi
        usleep 50000
    done
    echo "$1 is $now, not $2"
    return 1
}
sleeps_in() { for try in $(seq 1200); do ! grep -q " $1[.+]" /proc/$2/stack || return 0; usleep 50000; done; return 1; }
"#;

/// For guest scripts. `serve OPTION…`: tasks that sleep in a pipe, and others; goes on when they sleep. `ask QUESTION`: asks them.
pub const SLEEPERS: &str = r#"
ask() { guest-tool sleepers ask "$1"; }
serve() {
    rm -f /run/sleepers
    guest-tool sleepers serve "$@" >/dev/null &
    while [ ! -S /run/sleepers ]; do usleep 20000; done
    ask asleep >/dev/null
}
"#;

/// What was said under each name must contain the text.
#[track_caller]
pub fn check(results: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (name, text) in expected {
        assert!(results[*name].contains(text), "{name} should say {text:?}: {}", results[*name]);
    }
}

/// The kernel of the manifest with this version or release.
pub fn kernel(spec: &str) -> Kernel {
    Manifest::builtin().unwrap().find(spec).unwrap().clone()
}

/// The cache that everything comes from.
pub fn cache() -> Cache {
    Cache::open(None).unwrap()
}

/// The stock kernel `release`.
pub fn image(release: &str) -> Image {
    let image = cache().image(&kernel(release)).unwrap();
    Image::in_root(&image.dir, &image.release)
}

/// The unpacked sources of a version.
pub fn source(version: &str) -> PathBuf {
    cache().source(&kernel(version)).unwrap()
}

/// What `dynamos-diff V1 V2 -o output` does.
pub fn diff(v1: &str, v2: &str, output: &Path) -> anyhow::Result<Plan> {
    request(asked(Spec::parse(v1, None)?, Spec::parse(v2, None)?, output))
}

/// The same, of `deb:VERSION` and a patch, for an update of this name.
pub fn named(name: &str, version: &str, patch: &Path, output: &Path) -> Plan {
    let v1 = Spec::parse(&format!("deb:{version}"), None).unwrap();
    let v2 = Spec::parse(patch.to_str().unwrap(), None).unwrap();
    request(Request { name: Some(name.into()), ..asked(v1, v2, output) }).unwrap()
}

/// What `dynamos-diff` is asked for without options.
pub fn asked(v1: Spec, v2: Spec, output: &Path) -> Request {
    Request {
        v1,
        v2,
        kernel: None,
        name: None,
        bridge: None,
        objects: BTreeMap::new(),
        output: output.into(),
        report_only: false,
        compile: false,
        users: false,
        parts: Vec::new(),
        only: None,
        max_objects: 64,
        jobs: None,
        cache: None,
    }
}

/// What `dynamos-diff` does with other options.
pub fn request(request: Request) -> anyhow::Result<Plan> {
    // One after the other: each of them uses all CPUs.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    dynamos_generator::run(&request, &Arc::new(Reporter::new(true, false)))
}

/// A patch that changes one file of the sources `version`.
pub fn edit(version: &str, file: &str, edit: impl Fn(&str) -> String, patch: &Path) {
    let old = std::fs::read_to_string(source(version).join(file)).unwrap();
    let new = edit(&old);
    assert_ne!(old, new, "the edit of {file} changes nothing");
    write_patch(file, &old, &new, patch);
}

/// An empty directory for what the running test of the file `file` makes. Tests run side by side, and each has its own
/// thread, which has its name.
pub fn empty_directory(file: &str, name: &str) -> PathBuf {
    let thread = std::thread::current();
    let test = thread.name().unwrap().rsplit("::").next().unwrap();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file).join(test).join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Makes the update `dynamos_pipe`, a change of `fs/pipe.c`, in `directory`.
pub fn pipe_update(
    version: &str,
    change: impl Fn(&str) -> String,
    directory: &Path,
) -> (PathBuf, Plan) {
    let (patch, update) = (directory.join("pipe.patch"), directory.join("pipe"));
    edit(version, "fs/pipe.c", change, &patch);
    let plan = diff(&format!("deb:{version}"), patch.to_str().unwrap(), &update).unwrap();
    (update, plan)
}

/// `pipe_fcntl` of `fs/pipe.c` gives a number that is one greater: which edition a call takes can be seen.
pub fn greater_pipe_fcntl(text: &str) -> String {
    let (before, after) = text.split_once("long pipe_fcntl(").unwrap();
    let after = after.replacen("\treturn ret;\n", "\treturn ret + 1;\n", 1);
    format!("{before}long pipe_fcntl({after}")
}

/// `pipe_read` of `fs/pipe.c` refuses a read of nothing: which edition a call takes can be seen, also by who sleeps in it.
pub fn refusing_pipe_read(text: &str) -> String {
    let (before, after) = text.split_once("\npipe_read(struct kiocb").unwrap();
    let after = after.replacen("return 0;", "return -EINVAL;", 1);
    format!("{before}\npipe_read(struct kiocb{after}")
}

/// `pipe_read` leaves a mark in a buffer that it has emptied, and wants `anon_pipe_buf_release` to change it, which wants
/// that mark: whoever sleeps in `pipe_read` comes to the other when it wakes.
pub fn marks(text: &str) -> String {
    let release = "static void anon_pipe_buf_release(struct pipe_inode_info *pipe,\n\t\t\t\t  struct pipe_buffer *buf)\n{\n\tstruct page *page = buf->page;\n";
    let (before, after) = text.split_once(release).unwrap();
    let wants = "\n\tif (!buf->len && buf->private != 0x5eed)\n\t\tpr_err(\"MIXED: edition 0 reads\\n\");\n\tbuf->private = 0x600d;\n";
    let text = format!("{before}{release}{wants}{after}");
    let (before, after) = text.split_once("\npipe_read(struct kiocb").unwrap();
    let after = after.replacen(
        "\t\t\tbuf->len -= chars;\n",
        "\t\t\tbuf->len -= chars;\n\t\t\tif (!buf->len && buf->ops == &anon_pipe_buf_ops)\n\t\t\t\tbuf->private = 0x5eed;\n",
        1,
    );
    let after = after.replacen(
        "\t\t\ttotal_len -= chars;\n",
        "\t\t\tif (!buf->len && buf->private == 0x5eed)\n\t\t\t\tpr_err(\"MIXED: edition 0 releases\\n\");\n\t\t\ttotal_len -= chars;\n",
        1,
    );
    assert_eq!(after.matches("0x5eed").count(), 2);
    refusing_pipe_read(&format!("{before}\npipe_read(struct kiocb{after}"))
}

/// A patch that takes one file of the sources `from` to that of the sources `to`.
pub fn backport(from: &str, to: &str, file: &str, patch: &Path) {
    let read = |version: &str| std::fs::read_to_string(source(version).join(file)).unwrap();
    write_patch(file, &read(from), &read(to), patch);
}

fn write_patch(file: &str, old: &str, new: &str, patch: &Path) {
    let lines = similar::TextDiff::from_lines(old, new);
    let text = lines.unified_diff().header(&format!("a/{file}"), &format!("b/{file}")).to_string();
    std::fs::write(patch, text).unwrap();
}

/// A machine with the control command, the guest tool and the given updates in `/update/NAME`.
pub fn machine(release: &str, updates: &[&Path]) -> Vm {
    machine_on(&image(release), updates)
}

/// The same, with any kernel.
pub fn machine_on(image: &Image, updates: &[&Path]) -> Vm {
    let vm = Vm::new(image)
        .file(static_binary("dynamos", "dynamos").unwrap(), "/bin/dynamos")
        .file(static_binary("guest-tool", "guest-tool").unwrap(), "/bin/guest-tool");
    updates.iter().fold(vm, |vm, update| {
        let name = update.file_name().unwrap().to_str().unwrap();
        vm.file(*update, &format!("/update/{name}"))
    })
}

/// A copy of an update's module with `edit` applied to its bytes.
pub fn damaged(update: &Path, into: &Path, name: &str, edit: impl Fn(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = std::fs::read(update.join("update.ko")).unwrap();
    edit(&mut bytes);
    let file = into.join(format!("{name}.ko"));
    std::fs::write(&file, bytes).unwrap();
    file
}

/// Where the record starts in the module.
pub fn record_at(module: &[u8], record: &[u8]) -> usize {
    module.windows(record.len()).position(|window| window == record).unwrap()
}

/// Offset in the record of a byte that must be in memory as it is: in the first function, in no site.
pub fn compared_byte(record: &[u8]) -> usize {
    let parsed = Record::parse(record).unwrap();
    let function = parsed.functions().get(0).unwrap();
    let sites: Vec<_> = parsed.sites_of(&function).collect();
    let free = (16..function.bytes.len)
        .find(|at| {
            sites.iter().all(|site| !(site.offset..site.offset + u32::from(site.len)).contains(at))
        })
        .unwrap();
    let bytes = parsed.bytes(function.bytes);
    let start = bytes.as_ptr() as usize - record.as_ptr() as usize;
    start + free as usize
}
