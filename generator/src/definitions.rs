//! Which definition a call reaches: a function that V2 defines in another place than V1, or over a `__weak` one, is not what
//! the running kernel's callers call, although none of them differs.

use anyhow::Result;
use dynamos_differ::Comparison;
use dynamos_differ::verdict::Verdict;

use crate::plan::{Plan, Refusal};
use crate::running::Running;

/// A global function that only one version of an object defines.
#[derive(Clone, Debug)]
pub struct Definition {
    name: String,
    object: String,
    owner: String,
    is_new: bool,
}

/// Those of an object of `owner`.
pub fn of(object: &str, owner: &str, comparison: &Comparison) -> Vec<Definition> {
    let only_one = |verdict| matches!(verdict, Verdict::New | Verdict::Removed);
    let functions = comparison.functions.iter().filter(|f| f.global);
    functions
        // One that cannot be copied is refused already.
        .filter(|f| only_one(f.verdict))
        .map(|f| Definition {
            name: f.name.clone(),
            object: object.into(),
            owner: owner.into(),
            is_new: f.verdict == Verdict::New,
        })
        .collect()
}

/// Refuses what changes which definition the running kernel's calls would reach.
pub fn check(all: &[Definition], running: &Running, plan: &mut Plan) -> Result<()> {
    for definition in all {
        let Definition { name, object, owner, is_new } = definition;
        let other = all.iter().find(|other| other.name == *name && other.is_new != *is_new);
        let why = match (is_new, other) {
            // Told where it has gone to.
            (false, Some(_)) => continue,
            (true, Some(old)) => format!(
                "moves from {} to {object}: the two are not compared, and calls from elsewhere reach V1's",
                old.object
            ),
            (true, None) => {
                let there = match running.shares(owner, name)? {
                    Some(there) => there,
                    None => running.is_weak(name)?,
                };
                if !there {
                    continue;
                }
                "is new here, and the running kernel has another (__weak) one, which calls from elsewhere reach".into()
            }
            (false, None) => {
                if !running.is_weak(name)? {
                    continue;
                }
                "is gone, so calls from elsewhere would reach the __weak one of the kernel, which they do not".into()
            }
        };
        let remedy = "change the fix so that it changes the function where it is";
        plan.refusals.push(Refusal::new(name, why, remedy).within(object));
    }
    Ok(())
}
