//! Prints the verdicts on two objects: `differ V1.o V2.o [--all]`.

use std::fs;

use dynamos_differ::verdict::{DataChange, Verdict};
use dynamos_differ::{Object, Pair};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(v1), Some(v2)) = (args.first(), args.get(1)) else {
        return Err("usage: differ V1.o V2.o [--all]".into());
    };
    let all = args.iter().any(|a| a == "--all");
    let (data1, data2) = (fs::read(v1)?, fs::read(v2)?);
    let (a, b) = (Object::parse(&data1, v1)?, Object::parse(&data2, v2)?);
    let comparison = Pair::compare(&a, &b)?;
    for f in &comparison.functions {
        if all || f.verdict != Verdict::Unchanged {
            println!("function {} {:?} {}", f.name, f.verdict, f.reason);
        }
    }
    for d in &comparison.data {
        if all || d.change != DataChange::Unchanged {
            println!(
                "data {} ({:?}) {:?} {} used by {:?}",
                d.name, d.kind, d.change, d.reason, d.users
            );
        }
    }
    for s in &comparison.sections {
        println!("section {} ({:?}) {}", s.section, s.kind, s.reason);
    }
    for l in &comparison.layouts {
        println!("layout {l:?}");
    }
    println!("{} functions, {} data objects", comparison.functions.len(), comparison.data.len());
    Ok(())
}
