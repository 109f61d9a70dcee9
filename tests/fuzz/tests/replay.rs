//! Runs the corpus, and every input that ever was trouble, through the fuzz targets.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use dynamos_fuzz_entries::TARGETS;

#[test]
fn corpus_and_regressions() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for (name, run) in TARGETS {
        let mut count = 0;
        for kind in ["corpus", "regressions"] {
            let Ok(entries) = std::fs::read_dir(fuzz.join(kind).join(name)) else { continue };
            let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            files.sort();
            for file in files {
                println!("{name}: {}", file.file_name().unwrap().display());
                run(&std::fs::read(&file).unwrap());
                count += 1;
            }
        }
        assert!(count > 0, "{name} has no corpus");
    }
}

/// Else the fuzzer would have to find the number of the format before anything is read.
#[test]
fn the_first_record_has_the_format_of_today() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/record/example");
    let bytes = std::fs::read(file).unwrap();
    let record = dynamos_abi::Record::parse(&bytes);
    assert!(record.is_ok(), "{record:?}: write it again with the example `seeds`");
}
