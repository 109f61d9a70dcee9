//! What `dynamos-diff` does with input that it cannot make an update of: the exit code, the words, and nothing left
//! behind. On real kernel sources, with the real compiler.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kernel_trees::{Cache, Manifest};

const TOOL: &str = env!("CARGO_BIN_EXE_dynamos-diff");
const V1: &str = "6.1.192-1";

/// What happens to the text of a file.
type Edit<'a> = &'a dyn Fn(&str) -> String;

/// A directory for one test.
struct Bench {
    scratch: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench { scratch: tempfile::tempdir().unwrap() }
    }

    fn update(&self) -> PathBuf {
        self.scratch.path().join("out/update")
    }

    /// A patch of V1's sources: files with their edits.
    fn patch(&self, edits: &[(&str, Edit<'_>)]) -> PathBuf {
        let mut text = String::new();
        for (file, edit) in edits {
            let old = std::fs::read_to_string(source().join(file)).unwrap();
            let new = edit(&old);
            assert_ne!(old, new, "the edit of {file} changes nothing");
            let diff = similar::TextDiff::from_lines(&old, &new);
            let names = (format!("a/{file}"), format!("b/{file}"));
            text += &diff.unified_diff().header(&names.0, &names.1).to_string();
        }
        self.write_patch(&text)
    }

    fn write_patch(&self, text: &str) -> PathBuf {
        let patch = self.scratch.path().join("change.patch");
        std::fs::write(&patch, text).unwrap();
        patch
    }

    /// Runs the tool on V1 and `v2`.
    fn run(&self, v2: &Path, more: &[&str]) -> Output {
        self.command(v2, more).output().unwrap()
    }

    fn command(&self, v2: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(TOOL);
        command.arg(format!("deb:{V1}")).arg(v2).arg("-o").arg(self.update()).args(more);
        command
    }

    /// What lies where the output should be, hidden files too.
    fn left(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.scratch.path().join("out")) else { return vec![] };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The plan of a run that ends with `code`, and what it printed.
    fn plan(&self, v2: &Path, code: i32) -> (serde_json::Value, String) {
        let output = self.run(v2, &["--report-only", "--max-objects", "64"]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_eq!(self.left(), ["update"], "{text}");
        let plan = std::fs::read(self.update().join("plan.json")).unwrap();
        (serde_json::from_slice(&plan).unwrap(), text)
    }

    /// Checks that the change is refused, naming `name`, for a reason with these words.
    fn refused(&self, patch: &Path, name: &str, words: &str) {
        let (plan, text) = self.plan(patch, 3);
        let refusals = plan["refusals"].as_array().unwrap();
        let found = refusals.iter().any(|refusal| {
            refusal["name"].as_str().unwrap().contains(name)
                && refusal["reason"].as_str().unwrap().contains(words)
                && !refusal["remedy"].as_str().unwrap().is_empty()
        });
        assert!(found, "no refusal of {name} with {words:?}: {refusals:#?}");
        assert!(text.contains(name), "{text}");
    }
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

fn source() -> PathBuf {
    let manifest = Manifest::builtin().unwrap();
    Cache::open(None).unwrap().source(manifest.find(V1).unwrap()).unwrap()
}

/// An edit that replaces the first `old` by `new`.
fn replace<'a>(old: &'a str, new: &'a str) -> impl Fn(&str) -> String + 'a {
    move |text| text.replacen(old, new, 1)
}

#[test]
fn what_is_no_kernel_is_named() {
    let bench = Bench::new();
    let empty = tempfile::tempdir().unwrap();
    let run = |v1: &Path, v2: &str, more: &[&str]| {
        let mut command = Command::new(TOOL);
        let output =
            command.arg(v1).arg(v2).arg("-o").arg(bench.update()).args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(bench.left().is_empty());
        said(&output)
    };
    let release = ["--kernel", "6.1.0-55-amd64"];
    let text = run(empty.path(), "deb:6.1.192-2", &release);
    assert!(text.contains("V1") && text.contains(empty.path().to_str().unwrap()), "{text}");
    let text = run(empty.path(), "deb:6.1.192-2", &[]);
    assert!(text.contains("--kernel"), "{text}");
    let text = run(Path::new("deb:6.1.192"), "deb:6.1.192-2", &[]);
    assert!(text.contains("6.1.192-1") && text.contains("6.1.192-2"), "{text}");
    let text = run(Path::new("deb:5.10.1"), "deb:6.1.192-2", &[]);
    assert!(text.contains("5.10.1"), "{text}");
    let text = run(Path::new("no/such/thing"), "deb:6.1.192-2", &[]);
    assert!(text.contains("no/such/thing") && text.contains("--repo"), "{text}");
    let text =
        run(Path::new("deb:6.1.192-1"), "deb:6.1.192-2", &["--kernel", "6.12.107+deb12-amd64"]);
    assert!(text.contains("6.1.0-55-amd64") && text.contains("6.12.107+deb12-amd64"), "{text}");
    let nothing = ["--kernel", empty.path().to_str().unwrap()];
    let text = run(Path::new("deb:6.1.192-1"), "deb:6.1.192-2", &nothing);
    assert!(text.contains("no kernel was built there: .config is missing"), "{text}");
    let text = run(Path::new("deb:6.1.192-1"), "deb:6.1.192-2", &["--name", "No Name"]);
    assert!(text.contains("--name"), "{text}");
}

#[test]
fn no_change_is_nothing_to_do() {
    let bench = Bench::new();
    let (_, text) = bench.plan(Path::new(&format!("deb:{V1}")), 1);
    assert!(text.contains("Nothing to do"), "{text}");
}

/// `__LINE__` goes into WARN, might_sleep, lockdep and dynamic debug; a comment moves them all.
#[test]
fn moved_lines_are_nothing_to_do() {
    let bench = Bench::new();
    let comment = |text: &str| format!("/*\n * One\n * two\n * three.\n */\n{text}");
    let patch = bench.patch(&[("fs/ext4/mballoc.c", &comment), ("kernel/workqueue.c", &comment)]);
    let (plan, _) = bench.plan(&patch, 1);
    assert_eq!(plan["objects"].as_array().unwrap().len(), 2);
    assert_eq!(plan["functions"].as_array().unwrap().len(), 0, "{}", plan["functions"]);
}

#[test]
fn files_that_do_not_matter_are_ignored_with_the_reason() {
    let bench = Bench::new();
    let comment = |text: &str| format!("{text}/* more */\n");
    let files = ["mm/kasan/quarantine.c", "arch/arm64/kernel/smp.c", "tools/perf/perf.c"];
    let patch = bench.patch(&files.map(|file| (file, &comment as Edit<'_>)));
    let (plan, _) = bench.plan(&patch, 1);
    let ignored = plan["ignored"].as_array().unwrap();
    for file in files {
        let row = ignored.iter().find(|row| row["path"] == file).expect(file);
        assert!(!row["reason"].as_str().unwrap().is_empty());
    }
}

#[test]
fn files_that_come_or_go_are_refused() {
    let bench = Bench::new();
    let new = "--- /dev/null\n+++ b/fs/ext4/fresh.c\n@@ -0,0 +1 @@\n+int fresh;\n";
    bench.refused(&bench.write_patch(new), "fs/ext4/fresh.c", "new source file");
    let old = std::fs::read_to_string(source().join("fs/ext4/hash.c")).unwrap();
    let lines: String = old.lines().map(|line| format!("-{line}\n")).collect();
    let count = old.lines().count();
    let gone = format!("--- a/fs/ext4/hash.c\n+++ /dev/null\n@@ -1,{count} +0,0 @@\n{lines}");
    bench.refused(&bench.write_patch(&gone), "fs/ext4/hash.c", "deleted");
}

#[test]
fn code_without_a_redirection_is_refused() {
    let bench = Bench::new();
    let comment = |text: &str| format!("{text}/* more */\n");
    let patch = bench.patch(&[("arch/x86/entry/entry_64.S", &comment)]);
    bench.refused(&patch, "arch/x86/entry/entry_64.S", "assembly");
    let patch = bench.patch(&[("arch/x86/entry/vdso/vclock_gettime.c", &comment)]);
    bench.refused(&patch, "vclock_gettime.c", "vDSO");
    let init = replace(
        "static int __init init_pipe_fs(void)\n{\n",
        "static int __init init_pipe_fs(void)\n{\n\tpr_info(\"new\\n\");\n",
    );
    // Alone it is nothing to do: the code has run and is gone. With another change it may be half of one.
    let (plan, _) = bench.plan(&bench.patch(&[("fs/pipe.c", &init)]), 1);
    assert_eq!(plan["functions"][0]["verdict"], "stays", "{plan:#}");
    let both =
        |text: &str| init(text).replacen("\t\tpipe->readers--;\n", "\t\tpipe->readers -= 2;\n", 1);
    bench.refused(&bench.patch(&[("fs/pipe.c", &both)]), "init_pipe_fs", ".init.text");
    let notrace = replace(
        "notrace u64 sched_clock_cpu(int cpu)\n{\n",
        "notrace u64 sched_clock_cpu(int cpu)\n{\n\tif (cpu < 0)\n\t\treturn 7;\n",
    );
    let file =
        if source().join("kernel/sched/clock.c").exists() { "kernel/sched/clock.c" } else { "" };
    let text = std::fs::read_to_string(source().join(file)).unwrap();
    if text.contains("notrace u64 sched_clock_cpu(int cpu)\n{\n") {
        bench.refused(&bench.patch(&[(file, &notrace)]), "sched_clock_cpu", "");
    } else {
        let plain = replace(
            "u64 sched_clock_cpu(int cpu)\n{\n",
            "u64 sched_clock_cpu(int cpu)\n{\n\tif (cpu < 0)\n\t\treturn 7;\n",
        );
        bench.refused(&bench.patch(&[(file, &plain)]), "sched_clock_cpu", "");
    }
}

#[test]
fn changed_data_and_layouts_are_refused_by_name() {
    let bench = Bench::new();
    let data =
        replace("unsigned int pipe_max_size = 1048576;", "unsigned int pipe_max_size = 2097152;");
    bench.refused(&bench.patch(&[("fs/pipe.c", &data)]), "pipe_max_size", "");
    // A header that few include: its objects are found and compared.
    let layout =
        replace("struct ext4_prealloc_space {\n", "struct ext4_prealloc_space {\n\tint pa_new;\n");
    let patch = bench.patch(&[("fs/ext4/mballoc.h", &layout)]);
    bench.refused(&patch, "struct ext4_prealloc_space", "pa_new");
}

#[test]
fn a_header_that_all_include_is_refused_with_the_list() {
    let bench = Bench::new();
    let comment = |text: &str| format!("{text}/* more */\n");
    let patch = bench.patch(&[("include/linux/fs.h", &comment)]);
    bench.refused(&patch, "include/linux/fs.h", "fs/ext4/mballoc.o");
}

#[test]
fn a_full_disk_leaves_nothing() {
    let bench = Bench::new();
    let disk = bench.scratch.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    // A file system of its own, seen by this process alone; `-r` does it without being root.
    let script = format!(
        "mount -t tmpfs -o size=32k none {disk}; {TOOL} deb:{V1} deb:6.1.192-2 -o {disk}/update; \
         code=$?; ls -A {disk}; exit $code",
        disk = disk.display()
    );
    let root = rustix_is_root();
    let flags = if root { "-m" } else { "-rm" };
    let output = Command::new("unshare").args([flags, "sh", "-c", &script]).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("No space left") && text.contains("disk"), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "", "{text}");
}

fn rustix_is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    for signal in ["INT", "TERM"] {
        let bench = Bench::new();
        let v2 = PathBuf::from("deb:6.1.192-2");
        let mut child =
            bench.command(&v2, &[]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        // Compiling takes seconds; the line that announces it comes just before.
        let mut heard = String::new();
        let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
        while !heard.contains("compiling") {
            let read = std::io::BufRead::read_line(&mut stderr, &mut heard).unwrap();
            assert_ne!(read, 0, "it ended before it compiled: {heard}");
        }
        std::thread::sleep(Duration::from_millis(300));
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        std::io::Read::read_to_string(&mut stderr, &mut heard).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(130), "{signal}: {heard}");
        assert!(heard.contains("interrupted"), "{heard}");
        assert!(bench.left().is_empty(), "{signal}: {:?}", bench.left());
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let v2 = PathBuf::from("deb:6.1.192-2");
    let files = |jobs: &str| {
        let bench = Bench::new();
        let output = bench.run(&v2, &["--jobs", jobs]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let mut all = std::collections::BTreeMap::new();
        for directory in [bench.update(), bench.update().join("source")] {
            for entry in std::fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    let name = path.strip_prefix(bench.update()).unwrap().to_path_buf();
                    all.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        all
    };
    let (one, many) = (files("1"), files("8"));
    assert_eq!(one.keys().collect::<Vec<_>>(), many.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(*bytes == many[name], "{} differs", name.display());
    }
    let sums = String::from_utf8(one[Path::new("b3sums")].clone()).unwrap();
    for name in ["update.ko", "plan.json", "review.md", "source/record.bin"] {
        let hash = blake3::hash(&one[Path::new(name)]).to_hex();
        assert!(sums.contains(&format!("{hash}  {name}\n")), "{name} in {sums}");
    }
}
