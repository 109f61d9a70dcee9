//! The plan: what the update does and what it does not, for scripts (`plan.json`) and for the review page.

use serde::{Deserialize, Serialize};

/// Version of the plan's schema; a reader refuses a higher one.
pub const PLAN_SCHEMA: u32 = 1;

/// Everything a reviewer or a script must know of an update. Lists are sorted; nothing in it depends on
/// time, paths of the machine or hash order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_SCHEMA`].
    pub schema: u32,
    /// What came of it.
    pub outcome: Outcome,
    /// Name of the update, which is the name of its kernel module.
    pub name: String,
    /// The kernels compared and the one that runs the update.
    pub kernels: Kernels,
    /// The objects compared.
    pub objects: Vec<ObjectPlan>,
    /// Functions that differ in any way.
    pub functions: Vec<FunctionPlan>,
    /// Variables and constants that differ in any way.
    pub data: Vec<DataPlan>,
    /// Types whose layout differs.
    pub layouts: Vec<LayoutPlan>,
    /// Changed files that no object comes from, each with the reason.
    pub ignored: Vec<IgnoredFile>,
    /// Kernel symbols the clones need, and how each will be found.
    pub symbols: Vec<SymbolPlan>,
    /// Clones whose address may stay behind in the kernel's data.
    pub escapes: Vec<Escape>,
    /// What else a reviewer should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What stands in the way. Empty if an update was made.
    pub refusals: Vec<Refusal>,
}

/// What came of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// An update was made (exit code 0); with `--report-only`, could be made.
    Update,
    /// Built files differ, and no update can be made of built files (exit code 0).
    Differs,
    /// No code or data differs (exit code 1).
    #[default]
    NoChange,
    /// Something cannot be done live (exit code 3).
    Refused,
}

/// The kernels of a plan.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kernels {
    /// V1, as it was named.
    pub v1: String,
    /// V2, as it was named.
    pub v2: String,
    /// Release of the kernel that is to run the update (`uname -r`).
    pub release: String,
    /// The compiler's command; it is the one that the kernel's configuration names.
    pub compiler: String,
}

/// One object compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectPlan {
    /// Path of the object in the tree, e.g. `fs/ext4/mballoc.o`.
    pub object: String,
    /// Source file it comes from.
    pub source: String,
    /// `vmlinux`, or the name of the module it is linked into.
    pub owner: String,
    /// Changed files that made it a candidate.
    pub because: Vec<String>,
    /// Functions compared.
    pub functions: usize,
    /// Functions whose code differs.
    pub changed: usize,
}

/// The verdict on one function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FunctionPlan {
    /// Linker's name.
    pub name: String,
    /// Object that holds it.
    pub object: String,
    /// `changed`, `new`, `removed`, `renamed`, `refused`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// Bytes of the running edition that are matched before anything is redirected; 0 if there is none.
    pub matched_bytes: u64,
}

/// The verdict on one variable or constant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DataPlan {
    /// Linker's name.
    pub name: String,
    /// Object that holds it.
    pub object: String,
    /// What happened to it.
    pub verdict: String,
    /// Why.
    pub reason: String,
}

/// The verdict on one type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LayoutPlan {
    /// `struct`, `union` or `enum`.
    pub kind: String,
    /// Tag of the type.
    pub name: String,
    /// Object in whose debug information it was seen.
    pub object: String,
    /// `added`, `removed` or `changed`.
    pub verdict: String,
    /// Why.
    pub reason: String,
}

/// A changed file that contributes no object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IgnoredFile {
    /// Path in the tree.
    pub path: String,
    /// Why it does not matter to the running kernel.
    pub reason: String,
}

/// How a symbol of the running kernel will be found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SymbolPlan {
    /// Linker's name.
    pub name: String,
    /// Object that holds it.
    pub owner: String,
    /// `exported`, `matched code refers to it` or `unique by name`.
    pub found_by: String,
}

/// A clone whose address leaves the update.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Escape {
    /// The clone.
    pub function: String,
    /// Where its address is taken.
    pub at: String,
}

/// Why no update can be made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refusal {
    /// Function, variable, type or file in question.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// What would lift the refusal.
    pub remedy: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(
        name: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Refusal { name: name.into(), reason: reason.into(), remedy: remedy.into() }
    }
}

impl Plan {
    /// Sorts every list, drops duplicates and settles the outcome.
    pub fn settle(&mut self) {
        fn tidy<T: Ord>(list: &mut Vec<T>) {
            list.sort();
            list.dedup();
        }
        self.schema = PLAN_SCHEMA;
        tidy(&mut self.objects);
        tidy(&mut self.functions);
        tidy(&mut self.data);
        tidy(&mut self.layouts);
        tidy(&mut self.ignored);
        tidy(&mut self.symbols);
        tidy(&mut self.escapes);
        tidy(&mut self.notes);
        tidy(&mut self.refusals);
        self.outcome = if !self.refusals.is_empty() {
            Outcome::Refused
        } else if self.functions.iter().any(|function| function.verdict == "changed") {
            Outcome::Update
        } else {
            Outcome::NoChange
        };
    }
}
