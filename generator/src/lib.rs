//! Turns two kernels into an update that `dynamos.ko` can load.
//!
//! One file per phase: [`input`](crate::Spec) provides both sides, `changes` finds the files that differ, `build`
//! compiles the objects in question, the differ gives verdicts, `closure` and `record` make the clones and the
//! record of what must be in memory, `package` links the module, `validate` re-reads it, `review` tells a person.

mod assemble;
mod changes;
mod clones;
mod closure;
mod input;
mod package;
mod patch;
mod plan;
mod record;
pub mod report;
mod review;
mod sites;
mod special;
mod unit;
mod validate;

pub use input::Spec;
pub use plan::Plan;
#[doc(hidden)]
pub fn try_it() -> anyhow::Result<()> {
    use std::collections::*;
    let d = "/root/.cache/dynamos-scratch/me/";
    let a: Vec<String> = std::env::args().collect();
    let (k, obj, owner) = (&a[1], &a[2], &a[3]);
    let pre = unit::Unit::parse(&std::fs::read(format!("{d}{obj}-pre.o"))?, "pre")?;
    let v1 = unit::Unit::parse(&std::fs::read(format!("{d}{obj}-v1.o"))?, "v1")?;
    let v2 = unit::Unit::parse(&std::fs::read(format!("{d}{obj}-v2.o"))?, "v2")?;
    let replaced: BTreeMap<String, String> = a[4].split(',').map(|n| (n.to_string(), n.to_string())).collect();
    let known: BTreeMap<String, String> = v1.symbols.iter().filter(|s| s.named && s.section.is_some()).map(|s| (s.name.clone(), s.name.clone())).collect();
    let h = std::fs::read_dir(format!("{d}h-{k}/usr/src"))?.filter_map(|e| e.ok()).map(|e| e.path()).find(|p| p.to_str().unwrap().ends_with("amd64")).unwrap();
    let exported: BTreeSet<String> = std::fs::read_to_string(h.join("Module.symvers"))?.lines().filter(|l| l.split('\t').nth(4).is_none_or(str::is_empty)).map(|l| l.split('\t').nth(1).unwrap().to_string()).collect();
    let release = h.file_name().unwrap().to_str().unwrap().strip_prefix("linux-headers-").unwrap().to_string();
    let units = [assemble::UnitInput { object: obj.into(), owner: owner.into(), pre, v2, replaced, known }];
    let asm = assemble::assemble(&units, &exported, "tryit", &release)?;
    for r in &asm.refusals { println!("REFUSED {r:?}"); }
    for s in &asm.symbols { println!("{s:?}"); }
    println!("{:?} {:?} {:?} {:?}", asm.functions, asm.matched, asm.escapes, asm.added);
    let src = std::path::PathBuf::from(format!("{d}out-{obj}/source"));
    let _ = std::fs::remove_dir_all(&src);
    package::write_sources(&src, &package::Sources { name: "tryit", release: &release, clones: &asm.clones, functions: asm.functions.len(), record: &asm.record, symvers: "0x12345678\tdynamos_register\tdynamos\tEXPORT_SYMBOL_GPL\t\n0x12345679\tdynamos_unregister\tdynamos\tEXPORT_SYMBOL_GPL\t\n", diff: "" })?;
    let scratch = std::path::PathBuf::from(format!("{d}out-{obj}/build"));
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch)?;
    let ko = package::link(&src, &scratch, &h, "tryit")?;
    validate::validate(&std::fs::read(&ko)?, &validate::Expected { name: "tryit", release: &release, record: &asm.record, exported: &exported.iter().cloned().chain(["dynamos_register".into(), "dynamos_unregister".into()]).collect() })?;
    println!("{}", ko.display());
    Ok(())
}
/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool { false }
