//! temporary
use std::collections::*;
use anyhow::Result;
use kernel_trees::CompileCommand;
use crate::assemble::UnitInput;
use crate::build::Built;
use crate::candidates::Candidates;
use crate::plan::*;
use crate::report::Reporter;
#[derive(Default)]
pub struct Judged { pub units: Vec<UnitInput> }
pub fn judge(found: &Candidates, commands: &[CompileCommand], built: &[Built], _r: &Reporter, plan: &mut Plan) -> Result<Judged> {
    let mut out = Judged::default();
    for ((command, built), (name, c)) in commands.iter().zip(built).zip(&found.objects) {
        let pre = crate::unit::Unit::parse(&built.pre, name)?;
        let v1 = crate::unit::Unit::parse(&built.v1, name)?;
        let v2 = crate::unit::Unit::parse(&built.v2, name)?;
        let mut replaced = BTreeMap::new();
        for s in v1.symbols.iter().filter(|s| s.function && s.named && s.section.is_some()) {
            let Some(o) = v2.find(&s.name) else { continue };
            if v1.bytes(s)? != v2.bytes(&v2.symbols[o])? { replaced.insert(s.name.clone(), s.name.clone()); 
              plan.functions.push(FunctionPlan { name: s.name.clone(), object: command.object.clone(), verdict: "changed".into(), reason: "bytes".into(), matched_bytes: 0 }); }
        }
        let known: BTreeMap<String, String> = v1.symbols.iter().filter(|s| s.named && s.section.is_some()).map(|s| (s.name.clone(), s.name.clone())).collect();
        out.units.push(UnitInput { object: command.object.clone(), owner: c.owner.clone(), pre, v2, replaced, known });
    }
    Ok(out)
}
