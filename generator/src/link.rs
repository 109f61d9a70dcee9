//! From verdicts to the update module, for one kernel: assembles the clones, links them, and checks what came out.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::assemble::{Assembly, Kernel, assemble};
use crate::exports::Exports;
use crate::input::Input;
use crate::output::Output;
use crate::package::{self, Sources};
use crate::plan::Plan;
use crate::running::Running;
use crate::validate::{Expected, validate};
use crate::verdicts::{Judged, reshaped};

/// The kernel that is to run an update, as far as linking needs it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The headers that modules for it are built against.
    headers: PathBuf,
    /// `uname -r`.
    release: String,
    /// What it exports to every module.
    exported: Exports,
    /// All its names.
    running: Running,
}

impl Target {
    /// The target of `input`.
    pub fn of(input: &Input) -> Result<Target> {
        let path = input.headers.join("Module.symvers");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Target {
            headers: input.headers.clone(),
            release: input.release.clone(),
            exported: Exports::parse(&text),
            running: input.running.clone(),
        })
    }

    /// Assembles the clones; what that finds out goes into the plan, whose outcome may become a refusal.
    pub fn assemble(&self, judged: &Judged, plan: &mut Plan) -> Result<Assembly> {
        let kernel = Kernel { exported: &self.exported, running: &self.running };
        let assembly = assemble(&judged.units, kernel, &plan.name, &self.release)?;
        for function in &mut plan.functions {
            let key = (function.object.clone(), function.name.clone());
            function.matched_bytes = assembly.matched.get(&key).copied().unwrap_or(0);
        }
        plan.symbols.clone_from(&assembly.symbols);
        plan.escapes.clone_from(&assembly.escapes);
        plan.refusals.extend(assembly.refusals.iter().cloned());
        reshaped::refuse_early_and_late(&judged.units, &assembly.escapes, plan);
        let exported = |name: &&String| self.exported.contains(name);
        for name in judged.units.iter().flat_map(|unit| &unit.unlike).filter(exported) {
            plan.notes.push(format!(
                "`{name}` is exported, and takes other parameters in V2 or gives another result: modules that were built \
                 elsewhere and call it would give it V1's"
            ));
        }
        plan.settle();
        plan.scope = Some(crate::scope::propose(plan, &assembly.handlers));
        Ok(assembly)
    }

    /// Writes `source/` into the output and builds the update module from it. `diffs`: the source change, and that of the
    /// bridge.
    pub fn link(
        &self,
        plan: &Plan,
        assembly: &Assembly,
        diffs: (&str, Option<&str>),
        module: &kmod_build::Built,
        output: &Output,
    ) -> Result<Vec<u8>> {
        let symvers = std::fs::read_to_string(&module.symvers)
            .with_context(|| format!("cannot read {}", module.symvers.display()))?;
        let sources = output.path().join("source");
        let name = &plan.name;
        let scope = plan.scope.as_ref().map_or("system", |plan| &plan.scope);
        package::write_sources(
            &sources,
            &Sources {
                name,
                release: &self.release,
                clones: &assembly.clones,
                handlers: &assembly.handlers,
                record: &assembly.record,
                scope,
                symvers: &symvers,
                diff: diffs.0,
                bridge_diff: diffs.1,
            },
        )?;
        let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
        let ko = package::link(&sources, scratch.path(), &self.headers, name)?;
        std::fs::read(&ko).with_context(|| format!("cannot read {}", ko.display()))
    }

    /// Checks the update module `ko` and puts it and `dynamos.ko` into the output.
    pub fn deliver(
        &self,
        name: &str,
        ko: &[u8],
        assembly: &Assembly,
        module: &kmod_build::Built,
        output: &Output,
    ) -> Result<()> {
        let symvers = std::fs::read_to_string(&module.symvers)
            .with_context(|| format!("cannot read {}", module.symvers.display()))?;
        let mut exported = self.exported.names();
        exported.extend(Exports::parse(&symvers).names());
        let (release, record) = (&self.release, &assembly.record);
        let expected = Expected { name, release, record, exported: &exported };
        validate(ko, &expected)
            .context("the module that was made is not right; please report this")?;
        output.put("update.ko", ko)?;
        let dynamos = std::fs::read(&module.ko)
            .with_context(|| format!("cannot read {}", module.ko.display()))?;
        output.put("dynamos.ko", &dynamos)
    }
}
