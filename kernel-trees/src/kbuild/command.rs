//! The compiler's command line for an object, from Kbuild (`make -n`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Kbuild, shell};
use crate::error::{Error, Result};
use crate::{run, tree};

/// How Kbuild compiles one object. Paths are relative to `cwd`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CompileCommand {
    /// The object as Kbuild names it.
    pub object: String,
    /// The source it is compiled from.
    pub source: String,
    /// The compiler.
    pub compiler: String,
    /// Its options: all but `-Wp,-MMD,…`, `-c`, `-o OBJECT` and the source.
    pub args: Vec<String>,
    /// Where it is to be run.
    pub cwd: PathBuf,
}

impl CompileCommand {
    /// The same compilation in another tree, such as a [`View`](crate::View).
    ///
    /// Make the view after asking for the commands: sources may be generated then.
    #[must_use]
    pub fn in_tree(&self, root: &Path) -> Self {
        let (from, to) = (self.cwd.to_string_lossy(), root.to_string_lossy());
        let moved = |word: &String| word.replace(&*from, &to);
        Self {
            args: self.args.iter().map(moved).collect(),
            source: moved(&self.source),
            cwd: root.to_owned(),
            ..self.clone()
        }
    }

    /// The command that compiles to `output`, with more options at the end.
    pub fn compile_to(&self, output: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(&self.compiler);
        command.args(&self.args).args(more).args(["-c", "-o"]).arg(output).arg(&self.source);
        command.current_dir(&self.cwd).env("LC_ALL", "C");
        command
    }
}

impl Kbuild {
    /// The compiler's command lines for objects, in the order of `objects`.
    ///
    /// Sources that Kbuild generates first are generated, which may take a moment the
    /// first time.
    pub fn compile_commands(&self, objects: &[&str]) -> Result<Vec<CompileCommand>> {
        let mut script = self.dry_run(objects)?;
        if generates_something(&script, objects) {
            self.generate_for(objects)?;
            script = self.dry_run(objects)?;
        }
        let mut found: BTreeMap<String, CompileCommand> = BTreeMap::new();
        for words in script {
            if let Some(command) = as_compilation(&words, self.root()) {
                found.entry(command.object.clone()).or_insert(command);
            }
        }
        let missing = |object: &str| Error::Kbuild {
            what: object.to_owned(),
            why: "Kbuild has no compiler command for it (is it a C source built in this \
                  configuration?)"
                .to_owned(),
        };
        let take = |object: &&str| found.get(*object).cloned().ok_or_else(|| missing(object));
        objects.iter().map(take).collect()
    }

    fn make_objects(&self, objects: &[&str]) -> Command {
        // The same arguments that the top Makefile's rule for single targets passes.
        let mut make = self.env().make();
        make.args(["-f", "./scripts/Makefile.build", "obj=."]);
        make.args(["need-builtin=1", "need-modorder=1"]).args(objects);
        make
    }

    /// What Kbuild would run to make the objects anew.
    fn dry_run(&self, objects: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut make = self.make_objects(objects);
        make.arg("-n");
        let output = run::output(&mut make, "the commands of Kbuild", self.root())?;
        shell::commands(&String::from_utf8_lossy(&output)).ok_or_else(|| Error::Kbuild {
            what: objects.join(", "),
            why: "`make -n` printed unbalanced quotes".to_owned(),
        })
    }

    /// Generates sources for those of `objects` that need it: looks for them by halves, since generating means
    /// to build them.
    fn generate_for(&self, objects: &[&str]) -> Result<()> {
        if objects.len() <= 1 {
            return self.generate(objects);
        }
        let (left, right) = objects.split_at(objects.len() / 2);
        for half in [left, right] {
            if generates_something(&self.dry_run(half)?, half) {
                self.generate_for(half)?;
            }
        }
        Ok(())
    }

    /// Builds the objects in the prepared tree, for the sources that are generated on
    /// the way, and removes the objects again: they would hide the commands.
    fn generate(&self, objects: &[&str]) -> Result<()> {
        let _lock = self.lock()?;
        let mut make = self.make_objects(objects);
        make.arg("objtool-enabled="); // a prepared tree has no objtool
        let built = run::output(&mut make, "generated sources", self.root());
        for object in objects {
            let path = self.root().join(object);
            tree::remove(&path)?;
        }
        built.map(drop)
    }
}

/// Is there a command that makes anything else than the objects? `$(Q)` lines echo what
/// they make as `  GEN     lib/crc32table.h`.
fn generates_something(script: &[Vec<String>], objects: &[&str]) -> bool {
    script.iter().any(|words| match words.as_slice() {
        [echo, text] if echo == "echo" => {
            let made = text.split_whitespace().last().unwrap_or_default();
            text.starts_with("  ") && made.contains('/') && !objects.contains(&made)
        }
        _ => false,
    })
}

fn as_compilation(words: &[String], cwd: &Path) -> Option<CompileCommand> {
    let (compiler, rest) = words.split_first()?;
    if !rest.iter().any(|w| w == "-c") || !rest.iter().any(|w| w.starts_with("-Wp,-MMD,")) {
        return None;
    }
    let (source, rest) = rest.split_last()?;
    let mut object = None;
    let mut args = Vec::new();
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-c" => {}
            "-o" => object = words.next().cloned(),
            w if w.starts_with("-Wp,-MMD,") => {}
            w => args.push(w.to_owned()),
        }
    }
    Some(CompileCommand {
        object: object?,
        source: source.clone(),
        compiler: compiler.clone(),
        args,
        cwd: cwd.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compilation_is_taken_apart() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let line = "gcc-12 -Wp,-MMD,a/.b.o.d -I./x -include ./y.h -O2 -c -o a/b.o a/b.c";
        let command = as_compilation(&words(line), Path::new("/t")).unwrap();
        assert_eq!(command.args, ["-I./x", "-include", "./y.h", "-O2"]);
        assert_eq!((command.object.as_str(), command.source.as_str()), ("a/b.o", "a/b.c"));
        for other in ["echo -c -o a/b.o a/b.c", "ld -r -o a.o b.o", "gcc -E a.c"] {
            assert!(as_compilation(&words(other), Path::new("/t")).is_none());
        }
    }

    #[test]
    fn generators_are_noticed() {
        let script =
            shell::commands("echo '  GEN     lib/t.h'; x\necho '  CC      lib/a.o'; y\n").unwrap();
        assert!(generates_something(&script, &["lib/a.o"]));
        assert!(!generates_something(&script[2..], &["lib/a.o"]));
    }
}
