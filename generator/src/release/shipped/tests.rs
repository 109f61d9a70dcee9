//! Small parts of a kernel, built here as a distribution builds them: a module of several sources, and an image.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::Command;

use super::*;

/// A source with a function, a variable and a type of its own; each of the three may differ.
fn source(name: &str, code: &str, value: u32, member: &str) -> String {
    format!(
        "struct {name}_box {{ int first; {member} int last; }};\n\
         int {name}_level = {value};\nint {name}_sum(struct {name}_box *box) {{ return box->last {code}; }}\n"
    )
}

/// Files of a kernel, for each side. The sources are compiled by the names they have in the tree.
struct Kernel(tempfile::TempDir);

impl Kernel {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, side: &str, name: &str) -> PathBuf {
        let path = self.0.path().join(side).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn objects(&self, side: &str, sources: &[(&str, String)]) -> Vec<PathBuf> {
        let compile = |(name, text): &(&str, String)| {
            fs::write(self.path(side, name), text).unwrap();
            let object = self.path(side, name).with_extension("o");
            let mut gcc = Command::new("gcc");
            gcc.current_dir(self.0.path().join(side)).args(["-c", "-g", "-O2", "-mcmodel=kernel"]);
            gcc.args(["-fno-pic", "-fno-pie", "-fcf-protection=none", "-pg", "-mfentry"]);
            gcc.args(["-mrecord-mcount", "-fno-asynchronous-unwind-tables", name, "-o"]);
            assert!(gcc.arg(&object).status().unwrap().success());
            object
        };
        sources.iter().map(compile).collect()
    }

    fn link(&self, side: &str, file: &str, flags: &[&str], sources: &[(&str, String)]) -> PathBuf {
        let (path, objects) = (self.path(side, file), self.objects(side, sources));
        let mut ld = Command::new("ld");
        assert!(ld.args(flags).arg("-o").arg(&path).args(objects).status().unwrap().success());
        path
    }

    /// A module of this name.
    fn module(&self, side: &str, name: &str, sources: &[(&str, String)]) -> PathBuf {
        self.link(side, &format!("{name}.ko"), &["-r"], sources)
    }

    fn image(&self, side: &str, sources: &[(&str, String)]) -> PathBuf {
        let start = ("kernel/start.c", "void __fentry__(void) { }\n".to_owned());
        let all = [&[start][..], sources].concat();
        let flags = ["-static", "-e", "__fentry__", "-Ttext=0xffffffff81000000"];
        self.link(side, "vmlinux", &[&flags[..], &["-Tdata=0xffffffff82000000"]].concat(), &all)
    }

    /// A module `m` of four sources, of which one is as it was and one is generated; a module without changes;
    /// and an image of three.
    fn whole() -> (Self, Shipped) {
        let kernel = Self::new();
        let same = |name: &str| source(name, "", 1, "");
        let build = |side: &str, code: &str, value: u32, member: &str| {
            let unit = |dir: &str, name: &'static str, text: String| -> (&'static str, String) {
                (Box::leak(format!("{dir}/{name}.c").into_boxed_str()), text)
            };
            let number = if side == "v1" { "1" } else { "2" };
            let m = [
                unit("drivers/m", "one", source("one", code, 1, "")),
                unit("drivers/m", "two", source("two", "", value, member)),
                unit("drivers/m", "same", same("same")),
                unit("drivers/m", "m.mod", format!("int __this_module = {number};\n")),
            ];
            let other = [unit("drivers", "other", same("other"))];
            let image = [
                unit("kernel", "core", source("core", code, 1, "")),
                unit("kernel", "data", source("data", "", value, member)),
                unit("kernel", "still", same("still")),
            ];
            let files = [
                ("m", kernel.module(side, "m", &m)),
                ("other", kernel.module(side, "other", &other)),
                ("vmlinux", kernel.image(side, &image)),
            ];
            files.map(|(owner, path)| (owner.to_owned(), (owner.to_owned(), path))).into()
        };
        let shipped =
            Shipped { v1: build("v1", "", 1, ""), v2: build("v2", "+ 1", 2, "long more;") };
        (kernel, shipped)
    }

    fn journal(&self, name: &str) -> Journal {
        Journal::open(&self.0.path().join(name), Path::new("v1"), "diff", "shipped").unwrap()
    }
}

/// What changed files lead to: objects with their owners, each because of a header.
fn candidates(objects: &[(&str, &str)]) -> Candidates {
    let candidate = |(object, owner): &(&str, &str)| {
        let because = BTreeSet::from(["include/linux/all.h".to_owned()]);
        ((*object).to_owned(), Candidate { owner: (*owner).to_owned(), because })
    };
    Candidates { objects: objects.iter().map(candidate).collect(), ..Candidates::default() }
}

/// All objects of [`Kernel::whole`], and those that the parts' files do not tell of.
const ALL: [(&str, &str); 9] = [
    ("drivers/m/one.o", "m"),
    ("drivers/m/two.o", "m"),
    ("drivers/m/same.o", "m"),
    ("drivers/m/nothing.o", "m"),
    ("drivers/other.o", "other"),
    ("drivers/far.o", "far"),
    ("kernel/core.o", "vmlinux"),
    ("kernel/data.o", "vmlinux"),
    ("kernel/nothing.o", "vmlinux"),
];

fn judged(shipped: &Shipped, found: &Candidates, journal: &Journal, jobs: usize) -> (Plan, Rest) {
    let mut plan = Plan::default();
    let quiet = Reporter::new(true, false);
    let rest = shipped.judge(found, journal, Some(jobs), &quiet, &mut plan).unwrap();
    plan.settle();
    (plan, rest)
}

fn bytes(plan: &Plan) -> String {
    serde_json::to_string_pretty(plan).unwrap()
}

/// `name verdict` of each row of a list of the plan.
fn told(plan: &Plan, list: &str) -> Vec<String> {
    let plan = serde_json::to_value(plan).unwrap();
    let rows = plan[list].as_array().unwrap().iter();
    rows.map(|row| {
        format!(
            "{} {} {}",
            row["object"].as_str().unwrap(),
            row["name"].as_str().unwrap(),
            row["verdict"].as_str().unwrap()
        )
    })
    .collect()
}

#[test]
fn every_candidate_has_a_row_whatever_the_number_of_jobs() {
    let (kernel, shipped) = Kernel::whole();
    let found = candidates(&ALL);
    let (plan, rest) = judged(&shipped, &found, &kernel.journal("1"), 1);
    let objects: Vec<_> = plan
        .objects
        .iter()
        .map(|row| (&*row.object, &*row.source, &*row.owner, row.functions, row.changed))
        .collect();
    assert_eq!(
        objects,
        [
            ("drivers/m/nothing.o", "", "m", 0, 0),
            ("drivers/m/one.o", "drivers/m/one.c", "m", 1, 1),
            ("drivers/m/same.o", "drivers/m/same.c", "m", 1, 0),
            ("drivers/m/two.o", "drivers/m/two.c", "m", 1, 1),
            ("drivers/other.o", "drivers/other.c", "other", 1, 0),
            ("kernel/core.o", "kernel/core.c", "vmlinux", 1, 1),
            ("kernel/data.o", "kernel/data.c", "vmlinux", 1, 1),
            ("kernel/nothing.o", "", "vmlinux", 0, 0),
        ]
    );
    assert!(plan.objects.iter().all(|row| row.because == ["include/linux/all.h"]));
    // Those that are in no file are left to be compiled.
    assert_eq!(rest.missing, BTreeSet::from(["drivers/far.o".to_owned()]));
    let told_of = plan.objects.iter().map(|row| &row.object).chain(&rest.missing);
    assert_eq!(told_of.collect::<BTreeSet<_>>(), found.objects.keys().collect::<BTreeSet<_>>());
    for jobs in [1, 8] {
        let (other, _) = judged(&shipped, &found, &kernel.journal(&format!("jobs {jobs}")), jobs);
        assert!(bytes(&other) == bytes(&plan), "{jobs} jobs");
        // What is taken from the journal is what was put there.
        let (other, _) = judged(&shipped, &found, &kernel.journal("1"), jobs);
        assert!(bytes(&other) == bytes(&plan), "{jobs} jobs, by the journal");
    }
}

#[test]
fn a_module_and_an_image_tell_of_each_source_what_differs() {
    let (kernel, shipped) = Kernel::whole();
    let (plan, rest) = judged(&shipped, &candidates(&ALL), &kernel.journal("a"), 2);
    assert_eq!(
        told(&plan, "functions"),
        [
            "kernel/core.o core_sum changed",
            "kernel/data.o data_sum changed",
            "drivers/m/one.o one_sum changed",
            "drivers/m/two.o two_sum changed",
        ]
    );
    // Of `__this_module`, which is generated, nothing is told.
    assert_eq!(
        told(&plan, "data"),
        ["kernel/data.o data_level changed", "drivers/m/two.o two_level changed"]
    );
    assert_eq!(told(&plan, "layouts"), ["vmlinux data_box changed", "m two_box changed"]);
    let refused: Vec<_> =
        plan.refusals.iter().map(|refusal| (&*refusal.name, refusal.state_transfer)).collect();
    assert_eq!(refused, [("data_level", true), ("two_level", true)]);
    let seen: Vec<_> = rest.seen.values().cloned().collect();
    assert_eq!(seen, [["vmlinux"], ["m"]].map(|parts| BTreeSet::from(parts.map(str::to_owned))));
}

#[test]
fn a_part_is_known_only_for_the_candidates_it_was_compared_for() {
    let (kernel, shipped) = Kernel::whole();
    let (few, all) = (candidates(&ALL[..1]), candidates(&ALL));
    let mut because = candidates(&ALL);
    let one = because.objects.get_mut("drivers/m/one.o").unwrap();
    one.because.insert("drivers/m/one.c".to_owned());
    let expected = [("a", &few), ("b", &all), ("c", &because)]
        .map(|(name, found)| bytes(&judged(&shipped, found, &kernel.journal(name), 1).0));
    // Each after each other, by one journal.
    let journal = kernel.journal("one");
    for (first, second) in [(0, 1), (1, 2), (2, 0)] {
        for index in [first, second] {
            let found = [&few, &all, &because][index];
            let (plan, _) = judged(&shipped, found, &journal, 1);
            assert!(bytes(&plan) == expected[index], "{index} after {first}");
        }
    }
}

#[test]
fn a_module_is_found_by_its_file() {
    let files = Files::from([
        ("kernel/sound/snd-hda-core.ko".to_owned(), PathBuf::from("a")),
        ("vmlinux".to_owned(), PathBuf::from("b")),
    ]);
    let owners: Vec<String> = by_owner(files).into_keys().collect();
    assert_eq!(owners, ["snd_hda_core", "vmlinux"]);
}

#[test]
fn an_object_is_named_after_its_source() {
    assert_eq!(object_of("fs/ext4/mballoc.c"), "fs/ext4/mballoc.o");
    assert_eq!(object_of("arch/x86/entry/entry_64.S"), "arch/x86/entry/entry_64.o");
    assert_eq!(object_of(""), "");
}
