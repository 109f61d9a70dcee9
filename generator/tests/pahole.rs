//! The types that differ between Debian's images of 6.12.107 and 6.12.111 are those that `pahole` shows.
//!
//! There are no deviations for these two. `pahole` prints structs and unions only, the first definition of each
//! name, so enums and typedefs of ours are left out here, and names that it prints twice count with all their texts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use kernel_trees::{Cache, Manifest};

type Texts = BTreeMap<String, BTreeSet<String>>;
type Verdicts = BTreeSet<(String, String)>;

fn image(version: &str) -> PathBuf {
    let manifest = Manifest::builtin().unwrap();
    let kernel = manifest.find(version).unwrap();
    let root = Cache::open(None).unwrap().debug(kernel).unwrap();
    root.join("usr/lib/debug/boot").join(format!("vmlinux-{}", kernel.release))
}

/// All structs and unions by `struct NAME`, with the spaces of pahole's columns made one.
fn pahole(image: &Path) -> Texts {
    let output = Command::new("pahole").args(["-F", "dwarf"]).arg(image).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let mut all = Texts::new();
    let mut current: Option<(String, String)> = None;
    for line in text.lines() {
        if current.is_none()
            && let Some(name) = line.strip_suffix(" {")
            && (name.starts_with("struct ") || name.starts_with("union "))
        {
            current = Some((name.to_owned(), String::new()));
        }
        if let Some((_, body)) = &mut current {
            body.push_str(&line.split_whitespace().collect::<Vec<_>>().join(" "));
            body.push('\n');
        }
        if line.starts_with('}')
            && let Some((name, body)) = current.take()
        {
            all.entry(name).or_default().insert(body);
        }
    }
    all
}

fn by_pahole(old: &Texts, new: &Texts) -> Verdicts {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let verdict = |name: &String| match (old.get(name), new.get(name)) {
        (None, _) => Some("added"),
        (_, None) => Some("removed"),
        (x, y) => (x != y).then_some("changed"),
    };
    names.into_iter().filter_map(|name| Some((name.clone(), verdict(name)?.to_owned()))).collect()
}

#[test]
#[ignore = "fetches two debug packages of 1 GB; cargo test -p dynamos-generator --test pahole -- --ignored"]
fn the_types_that_differ_are_those_of_pahole() {
    let (v1, v2) = (image("6.12.107"), image("6.12.111"));
    let expected = by_pahole(&pahole(&v1), &pahole(&v2));
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamos-diff"));
    command.args([&v1, &v2]).arg("-o").arg(&report).args(["--only", "layouts", "--quiet"]);
    assert_eq!(command.status().unwrap().code(), Some(0));
    let plan = std::fs::read(report.join("plan.json")).unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&plan).unwrap();
    let ours: Verdicts = plan["layouts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| ["struct", "union"].contains(&row["kind"].as_str().unwrap()))
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            (format!("{} {}", text("kind"), text("name")), text("verdict"))
        })
        .collect();
    assert_eq!(ours, expected);
    let count = |verdict: &str| expected.iter().filter(|(_, v)| v == verdict).count();
    assert_eq!((count("changed"), count("added"), count("removed")), (53, 6, 1));
}
