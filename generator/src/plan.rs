//! The plan: what the update does and what it does not, for scripts (`plan.json`) and for the review page.

use dynamos_differ::compare::Value;
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
    /// The phases on the way to V2's editions and back, where there is a bridge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhasePlan>,
    /// The objects compared.
    pub objects: Vec<ObjectPlan>,
    /// Functions that differ in any way.
    pub functions: Vec<FunctionPlan>,
    /// Variables and constants that differ in any way.
    pub data: Vec<DataPlan>,
    /// Tables of functions in use, of which nothing but handlers differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotsPlan>,
    /// Functions of V2 that are called when the update is switched, in the order in which they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookPlan>,
    /// Types whose layout differs.
    pub layouts: Vec<LayoutPlan>,
    /// Changed files that no object comes from, each with the reason.
    pub ignored: Vec<IgnoredFile>,
    /// Kernel symbols the clones need, and how each will be found.
    pub symbols: Vec<SymbolPlan>,
    /// Clones whose address may stay behind in the kernel's data.
    pub escapes: Vec<Escape>,
    /// The weakest scope that is safe; absent where no update is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopePlan>,
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

/// What must be quiet before calls move to the update's editions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopePlan {
    /// `function`: each call for itself; `system`: no task is in any of the functions.
    pub scope: String,
    /// Why no weaker one.
    pub reason: String,
}

/// The kernels of a plan.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kernels {
    /// V1, as it was named.
    pub v1: String,
    /// V2, as it was named.
    pub v2: String,
    /// What gives the bridge editions, as it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Release of the kernel that is to run the update (`uname -r`).
    pub release: String,
    /// The compiler's command; it is the one that the kernel's configuration names.
    pub compiler: String,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhasePlan {
    /// `1`, `2`, and on the way back `2 back`, `1 back`.
    pub name: String,
    /// What new calls take: `bridge`, `V2` or `edition 0`.
    pub edition: String,
    /// The functions that do.
    pub functions: Vec<String>,
    /// What must be so before the next.
    pub until: Vec<String>,
    /// What happens then.
    pub then: String,
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
    /// What in the object reaches the change of a header; `None` if nothing does, so that it was not compiled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<String>,
}

/// The verdict on one function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FunctionPlan {
    /// Linker's name.
    pub name: String,
    /// Object that holds it.
    pub object: String,
    /// `changed`, `new`, `removed`, `renamed`, `refused`, or `stays`: differs, but runs only while the kernel or
    /// module starts or ends.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// Bytes of the running edition that are matched before anything is redirected; 0 if there is none.
    pub matched_bytes: u64,
    /// The update's own adaptation handler, if it brings one: it chooses the edition of each call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapted_by: Option<String>,
    /// The object that its calls work on, where that is said: what scope `object` goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub works_on: Option<String>,
    /// Only functions that are replaced with it call it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inner: bool,
    /// Its parameters or its result differ, or may: no call may come from the other edition of a caller.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reshaped: bool,
}

/// The verdict on one variable or constant.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DataPlan {
    /// Linker's name.
    pub name: String,
    /// Object that holds it.
    pub object: String,
    /// What happened to it.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// Of one that changed: its initial values that differ, old and new, by offset; the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Value>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_values: usize,
    /// Functions of its object whose code or jump labels refer to it, in either version, sorted; empty if none is known,
    /// as in linked images.
    #[serde(default)]
    pub users: Vec<String>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A table of functions of which handlers differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotsPlan {
    /// The variable.
    pub name: String,
    /// Object that holds it.
    pub object: String,
    /// `.member OLD → NEW`, by offset.
    pub handlers: Vec<String>,
    /// The functions of the running kernel that read one of these handlers: none of them may be running when it
    /// changes.
    pub readers: Vec<ReaderPlan>,
    /// Why that would not be safe. Empty if it is.
    pub obstacles: Vec<String>,
    /// Whether the update writes them.
    #[serde(default)]
    pub written: bool,
}

/// A function that reads a handler.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReaderPlan {
    /// Linker's name.
    pub function: String,
    /// Object that holds it.
    pub object: String,
    /// `vmlinux` or its module.
    pub owner: String,
    /// The member that it reads.
    pub member: String,
    /// The function in the source that does, if that is inlined here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inlined: Option<String>,
}

/// A hook of the update.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HookPlan {
    /// `dynamos_before_on`, `dynamos_after_on`, `dynamos_before_off` or `dynamos_after_off`, or, between phases,
    /// `dynamos_advance`, `dynamos_transfer` or these with `_back`: that is also when.
    pub name: String,
    /// Object that holds it.
    pub object: String,
}

/// The verdict on one type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LayoutPlan {
    /// `struct`, `union`, `enum` or `typedef`.
    pub kind: String,
    /// Tag of the type, or name of the typedef.
    pub name: String,
    /// Object in whose debug information it was seen.
    pub object: String,
    /// `added`, `removed` or `changed`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// The file that defines it, as the compiler was given it.
    pub defined_in: String,
    /// Members and enumerators that differ.
    pub members: Vec<MemberPlan>,
    /// V1's types that hold one by value, to any depth.
    pub embedded_in: Vec<EmbedderPlan>,
    /// Who touches what differs, as far as this object's source tells.
    pub users: Vec<UserPlan>,
    /// Why there may be others: what of the source is not understood.
    pub users_unknown: Vec<String>,
    /// Who creates objects of it, or of what holds it.
    pub created_by: Vec<CallPlan>,
    /// Who frees them.
    pub freed_by: Vec<CallPlan>,
    /// Where instances live.
    pub live: Vec<LivePlan>,
    /// What follows from that: `lasting`, `stack only`, `none` or `unknown`; `unaffected` if objects look as they did.
    pub liveness: String,
}

/// The change of a type, as far as it is the same wherever the type is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayoutKey {
    kind: String,
    name: String,
    verdict: String,
    reason: String,
}

impl LayoutPlan {
    /// What is the same wherever the type is seen.
    pub fn key(&self) -> LayoutKey {
        LayoutKey {
            kind: self.kind.clone(),
            name: self.name.clone(),
            verdict: self.verdict.clone(),
            reason: self.reason.clone(),
        }
    }
}

/// A member or enumerator that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberPlan {
    /// Its name; in V1, if it was renamed.
    pub name: String,
    /// `added`, `removed`, `renamed`, `moved`, `resized`, `retyped`, `enumerator changed`: all that apply.
    pub change: Vec<String>,
    /// What it is in V1.
    pub old: Option<MemberSide>,
    /// What it is in V2.
    pub new: Option<MemberSide>,
}

/// A member or enumerator of one side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MemberSide {
    /// Of a struct or union.
    Member {
        /// Its name.
        name: String,
        /// Offset in bytes.
        offset: u64,
        /// For a bitfield: how many bits further.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bit: Option<u64>,
        /// Size in bytes, for a bitfield in bits; 0 for a flexible array.
        size: u64,
        /// Its type, written as in C.
        #[serde(rename = "type")]
        type_name: String,
    },
    /// Of an enum.
    Enumerator {
        /// Its name.
        name: String,
        /// Its value, in decimal.
        value: String,
    },
}

/// A type that holds another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EmbedderPlan {
    /// The type.
    pub name: String,
    /// From it down to the one it holds.
    pub chain: Vec<String>,
}

/// A use of a changed member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UserPlan {
    /// The function; for an initialiser, the variable.
    pub function: String,
    /// The member; empty for a whole value.
    pub member: String,
    /// `read`, `write`, `read and write`, `address`, `assembly`, `initialise`, `copy`, `sizeof`, `offsetof` or `typeof`.
    pub how: String,
    /// `v2`, or `v1` for what V2 does not do any more.
    pub side: String,
    /// The file.
    pub file: String,
    /// The line.
    pub line: u32,
}

/// A call that creates or frees an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallPlan {
    /// Who calls.
    pub function: String,
    /// Who is called.
    pub callee: String,
    /// What is created or freed: the type or one that holds it.
    pub of: String,
    /// `v2`, or `v1` for what V2 does not do any more.
    pub side: String,
    /// The file.
    pub file: String,
    /// The line.
    pub line: u32,
}

/// Where instances of a type live.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LivePlan {
    /// `static`, `per-cpu`, `extern`, `stack`, `stack of a function that stays`, `slab`, `allocated`, `embedded`, `memory of
    /// another kind` or `elsewhere`.
    pub place: String,
    /// The variable, function, type or file.
    pub name: String,
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

/// A function, variable, constant or string of the update whose address may be kept by the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Escape {
    /// Its name, or the beginning of the string.
    pub function: String,
    /// Where its address is taken.
    pub at: String,
    /// Whether enabling the update again writes to it: to a function, or to data with references. Then it cannot be done
    /// either, for somebody may be looking.
    pub rewritten: bool,
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
    /// Whether carrying live state over would lift it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub state_transfer: bool,
    /// The object it is in, where several may have the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

impl Refusal {
    /// The same, of what this object calls so.
    pub fn within(self, object: &str) -> Self {
        Refusal { object: Some(object.to_owned()), ..self }
    }

    /// Whether it is about what this object calls so.
    pub fn is_about(&self, object: &str, name: &str) -> bool {
        self.name == name && self.object.as_deref() == Some(object)
    }

    /// A refusal.
    pub fn new(
        name: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (name, reason, remedy) = (name.into(), reason.into(), remedy.into());
        Refusal { name, reason, remedy, state_transfer: false, object: None }
    }

    /// A refusal that state transfer would lift.
    pub fn of_state(name: impl Into<String>, reason: impl Into<String>) -> Self {
        let remedy = "change the fix so that it leaves this as it is, or wait for state transfer";
        Refusal { state_transfer: true, ..Refusal::new(name, reason, remedy) }
    }
}

impl Plan {
    /// The row of a function of an object, by V1's name.
    pub fn function_mut(&mut self, object: &str, name: &str) -> Option<&mut FunctionPlan> {
        self.functions.iter_mut().find(|row| row.object == object && row.name == name)
    }

    /// Takes over the rows of another plan.
    pub fn absorb(&mut self, other: Plan) {
        self.objects.extend(other.objects);
        self.functions.extend(other.functions);
        self.data.extend(other.data);
        self.slots.extend(other.slots);
        self.hooks.extend(other.hooks);
        self.layouts.extend(other.layouts);
        self.ignored.extend(other.ignored);
        self.symbols.extend(other.symbols);
        self.escapes.extend(other.escapes);
        self.refusals.extend(other.refusals);
        self.notes.extend(other.notes);
    }

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
        tidy(&mut self.slots);
        tidy(&mut self.layouts);
        tidy(&mut self.ignored);
        tidy(&mut self.symbols);
        tidy(&mut self.escapes);
        tidy(&mut self.notes);
        tidy(&mut self.refusals);
        self.outcome = if !self.refusals.is_empty() {
            Outcome::Refused
        } else if self.functions.iter().any(|function| function.verdict == "changed")
            || self.slots.iter().any(|table| table.written)
        {
            Outcome::Update
        } else {
            Outcome::NoChange
        };
    }
}
