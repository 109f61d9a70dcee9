//! Which functions touch a changed type, how, and who creates and frees its objects: read from the source by libclang.
//!
//! The source is preprocessed by the kernel's own compiler first. So clang sees what that compiler sees, needs no
//! headers of its own, and every access has one extent in one text, also where a macro wrote it: what state transfer
//! has to rewrite. What clang does not understand is named, never left out in silence.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use clang::diagnostic::Severity;
use clang::{Clang, Index, TranslationUnit, Unsaved};
use kernel_trees::CompileCommand;

mod fields;
mod handlers;
mod objects;
mod private;
mod text;
mod walk;

pub use handlers::{Handled, Look};

/// `struct ops` → `ops`.
pub fn tag(of: &str) -> &str {
    of.split_once(' ').map_or(of, |(_, tag)| tag)
}

/// What happens to a member, or to a value as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Its value is used.
    Read,
    /// It gets a value.
    Write,
    /// Both, as in `+=`.
    ReadWrite,
    /// Its address is taken: what happens through it is not followed.
    Address,
    /// It is an operand of inline assembly.
    Asm,
    /// It gets a value in an initialiser.
    Initialise,
    /// A whole value is assigned or passed.
    Copy,
    /// Only its size is used.
    Sizeof,
    /// Only its place is used, as in `container_of`.
    Offsetof,
    /// Only its type is used.
    Typeof,
}

impl How {
    /// The word that the plan has for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "read and write",
            Self::Address => "address",
            Self::Asm => "assembly",
            Self::Initialise => "initialise",
            Self::Copy => "copy",
            Self::Sizeof => "sizeof",
            Self::Offsetof => "offsetof",
            Self::Typeof => "typeof",
        }
    }
}

/// A place in the source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as the compiler was given it.
    pub file: String,
    /// The line.
    pub line: u32,
    /// The expression's first byte and the one after its last, in the preprocessed text.
    pub extent: (usize, usize),
}

/// One access.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// The type, e.g. `struct inode`.
    pub of: String,
    /// The member (or enumerator), as [`dynamos_differ::layout::Member`] names it; empty for a value as a whole.
    pub member: String,
    /// How.
    pub how: How,
    /// The function; for an initialiser outside of functions, the variable.
    pub function: String,
    /// Where.
    pub at: Place,
}

/// A call that creates or frees an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// The type of the object.
    pub of: String,
    /// Who calls.
    pub function: String,
    /// Who is called.
    pub callee: String,
    /// Where.
    pub at: Place,
}

/// What a source does with the types in question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uses {
    /// Accesses, by type, member, and so on.
    pub accesses: BTreeSet<Access>,
    /// Calls that create objects.
    pub created: BTreeSet<Call>,
    /// Calls that free objects.
    pub freed: BTreeSet<Call>,
    /// Calls that make slab caches for objects.
    pub caches: BTreeSet<Call>,
    /// Where something that is no fresh object is taken for one: by a cast, or from a `void *`. `callee` is empty.
    pub overlays: BTreeSet<Call>,
    /// What is done with the handlers asked for.
    pub handled: BTreeSet<Handled>,
    /// What was not understood, with the place.
    pub unknown: Vec<String>,
}

/// Reads sources by libclang.
#[derive(Debug)]
pub struct Reader(());

impl Reader {
    /// Makes sure that there is a libclang.
    pub fn open() -> Result<Self> {
        let reader = Self(());
        reader.alone(|_| ())?;
        Ok(reader)
    }

    /// Which libclang there is, if there is one.
    pub fn version() -> Option<String> {
        Self(()).alone(|_| clang::get_version()).ok()
    }

    /// Loads libclang for one look: its wrapper allows one at a time. Nobody waits for other threads while having it: who
    /// waits for rayon may be given another job, which would want it too.
    fn alone<T>(&self, look: impl FnOnce(&Clang) -> T) -> Result<T> {
        static ONE: Mutex<()> = Mutex::new(());
        let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // The wrapper's reason lists directories of this machine, which have no place in a plan.
        let clang = Clang::new()
            .map_err(|_| anyhow::anyhow!("libclang is not installed (Debian: libclang1-14)"))?;
        Ok(look(&clang))
    }

    /// Finds the uses of types in the source that `command` compiles. An error is a reason why they are not known.
    pub fn find(&self, command: &CompileCommand, types: &BTreeSet<String>) -> Result<Uses> {
        self.find_handled(command, types, &BTreeSet::new())
    }

    /// The same, with what is done with `handlers`: members, each with the type that has it.
    pub fn find_handled(
        &self,
        command: &CompileCommand,
        types: &BTreeSet<String>,
        handlers: &BTreeSet<(String, String)>,
    ) -> Result<Uses> {
        let text = preprocess(command)?;
        self.alone(|clang| in_text(clang, &text, &arguments(command), types, handlers))?
    }

    /// Whether a static table of structs is reached by nothing but the functions that name it. The inner error says
    /// how its address may get out.
    pub fn stays_within(
        &self,
        command: &CompileCommand,
        table: &str,
    ) -> Result<std::result::Result<(), String>> {
        let text = preprocess(command)?;
        let look = |unit: &TranslationUnit<'_>| {
            if let Some(why) = errors(unit).first() {
                return Err(format!("is not understood: {why}"));
            }
            private::stays_within(&unit.get_entity(), table, &command.source)
        };
        self.alone(|clang| with_unit(clang, &text, &arguments(command), look))?
    }
}

/// What clang needs of a command for a preprocessed text.
fn arguments(command: &CompileCommand) -> Vec<&str> {
    // What gcc has and clang has not; none of it is an access.
    let mut arguments: Vec<&str> = vec![
        "-w",
        "-ferror-limit=0",
        "-D__seg_gs=",
        "-D__seg_fs=",
        "-D__builtin_has_attribute(what,attribute)=0",
        "-D__builtin_isdigit(of)=(of)",
    ];
    let dialect = ["-std=", "-fms-extensions", "-funsigned-char", "-fshort-wchar", "-m64"];
    let kept = command.args.iter().filter(|a| dialect.iter().any(|d| a.starts_with(d)));
    arguments.extend(kept.map(String::as_str));
    arguments
}

fn preprocess(command: &CompileCommand) -> Result<String> {
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let output = scratch.path().join("unit.i");
    let result = command
        .compile_to(&output, &["-E"])
        .output()
        .with_context(|| format!("cannot run {}", command.compiler))?;
    let log = String::from_utf8_lossy(&result.stderr);
    ensure!(result.status.success(), "{} cannot be preprocessed: {log}", command.source);
    std::fs::read_to_string(&output)
        .with_context(|| format!("cannot read what {} is preprocessed to", command.source))
}

/// The uses in a preprocessed text.
fn in_text(
    clang: &Clang,
    text: &str,
    arguments: &[&str],
    types: &BTreeSet<String>,
    handlers: &BTreeSet<(String, String)>,
) -> Result<Uses> {
    with_unit(clang, text, arguments, |unit| {
        let fields = fields::Fields::find(&unit.get_entity(), text::Text(text), types);
        let mut walker = walk::Walker::new(text, types, &fields);
        walker.unit(&unit.get_entity());
        let mut uses = walker.uses;
        // A walk costs as much as the parse.
        if !handlers.is_empty() {
            let mut looks = handlers::Handlers::new(text, &fields, handlers);
            looks.unit(&unit.get_entity());
            uses.handled = looks.found;
        }
        uses.unknown.extend(errors(unit));
        uses.unknown.sort();
        uses.unknown.dedup();
        uses
    })
}

fn with_unit<T>(
    clang: &Clang,
    text: &str,
    arguments: &[&str],
    look: impl FnOnce(&TranslationUnit<'_>) -> T,
) -> Result<T> {
    let index = Index::new(clang, false, false);
    let path = Path::new("unit.c");
    let unit = index
        .parser(path)
        .arguments(arguments)
        .unsaved(&[Unsaved::new(path, text)])
        .keep_going(true)
        .parse()
        .context("libclang cannot parse it")?;
    Ok(look(&unit))
}

/// What clang did not understand.
fn errors(unit: &TranslationUnit<'_>) -> Vec<String> {
    let all = unit.get_diagnostics().into_iter();
    let grave = all.filter(|diagnostic| diagnostic.get_severity() >= Severity::Error);
    let told = grave.map(|diagnostic| {
        let (file, line, _) = diagnostic.get_location().get_presumed_location();
        format!("{file}:{line}: {}", diagnostic.get_text())
    });
    told.collect()
}

#[cfg(test)]
pub(crate) mod tests;
