//! An update's hooks: functions of V2 that are called when the update is switched, known by their names.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use dynamos_abi::HookKind;
use dynamos_differ::load::Elf;
use dynamos_differ::parameters::{Signature, signatures};
use dynamos_differ::verdict::{Comparison, Verdict};

use crate::plan::{HookPlan, Plan, Refusal};

/// What the names of hooks begin with: a new function of such a name is meant to be one.
const PREFIXES: [&str; 4] =
    ["dynamos_before_", "dynamos_after_", "dynamos_advance", "dynamos_transfer"];

/// All kinds.
fn kinds() -> impl Iterator<Item = HookKind> {
    HookKind::ALL.into_iter().chain(HookKind::BETWEEN_PHASES)
}

/// The hooks of one object, whose source in V2 is `source`. What is not fit for one is refused.
pub fn find(
    comparison: &Comparison,
    v2: &[u8],
    object: &str,
    source: &str,
    refusals: &mut Vec<Refusal>,
) -> Result<BTreeMap<HookKind, String>> {
    let hooks: BTreeSet<String> = comparison
        .functions
        .iter()
        .filter(|function| function.verdict == Verdict::New)
        .map(|function| function.name.clone())
        .filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    let there: BTreeSet<&str> = hooks.iter().map(String::as_str).collect();
    let left_out = missing(&there, source, &PREFIXES);
    for kind in kinds().filter(|kind| left_out.contains(kind.name())) {
        refusals.push(refusal(kind.name(), LEFT_OUT));
    }
    if hooks.is_empty() {
        return Ok(BTreeMap::new());
    }
    let known = signatures(&Elf::parse(v2, object)?, &hooks)?;
    let mut found = BTreeMap::new();
    for name in hooks {
        let Some(kind) = kinds().find(|kind| kind.name() == name) else {
            let all = kinds().map(HookKind::name).collect::<Vec<_>>().join(", ");
            refusals.push(Refusal::new(
                name,
                format!("is called as a hook is, and there is none of this name ({all})"),
                "give it one of these names, or another",
            ));
            continue;
        };
        match misfit(known.get(&name)) {
            None => {
                found.insert(kind, name);
            }
            Some(why) => refusals.push(refusal(&name, why)),
        }
    }
    Ok(found)
}

/// Takes the hooks of all objects into the plan: one of a kind for the whole update.
pub fn tell(hooks: &[(String, BTreeMap<HookKind, String>)], plan: &mut Plan) {
    for kind in kinds() {
        let all = hooks.iter().filter_map(|(object, hooks)| Some((object, hooks.get(&kind)?)));
        for (at, (object, name)) in all.enumerate() {
            plan.hooks.push(HookPlan { name: name.clone(), object: object.clone() });
            if at > 0 {
                plan.refusals.push(Refusal::new(
                    name,
                    format!(
                        "is in {object} and in another object: an update has one hook of a kind"
                    ),
                    "do in one of them what both do",
                ));
            }
        }
    }
}

fn refusal(name: &str, why: &str) -> Refusal {
    Refusal::new(name, why, format!("make it `static __used int {name}(void)`"))
}

/// Why a function cannot be called as a hook is.
fn misfit(hook: Option<&Signature>) -> Option<&'static str> {
    match hook {
        None => Some("has no debug information, so its parameters are not known"),
        Some(hook) if hook.parameters != "()" => Some("takes parameters, and a hook gets none"),
        // `u32` as well would be an int to the caller, but not to whoever reads it.
        Some(hook) if hook.returns != Some("s32") => Some("does not return an int"),
        Some(_) => None,
    }
}

/// What V2's source has that is called before calls, and the compiler has left out: functions whose names begin with one of
/// the `prefixes`.
pub fn left_out(
    comparison: &Comparison,
    source: &str,
    prefixes: &[&str],
    refusals: &mut Vec<Refusal>,
) {
    let known: BTreeSet<&str> = comparison.functions.iter().map(|f| f.name.as_str()).collect();
    for name in missing(&known, source, prefixes) {
        let remedy = format!("make it `static __used`, or take {name} out of the source");
        refusals.push(Refusal::new(name, LEFT_OUT, remedy));
    }
}

const LEFT_OUT: &str = "is in V2's source, and the compiler left it out";

/// The names with one of the `prefixes` that a text of C has followed by a parenthesis, and that are not `known`.
fn missing<'s>(known: &BTreeSet<&str>, source: &'s str, prefixes: &[&str]) -> BTreeSet<&'s str> {
    let found = prefixes.iter().flat_map(|prefix| source.match_indices(prefix));
    let names = found.filter_map(|(at, _)| source.get(at..)?.split(|c| !within(c)).next());
    names.filter(|name| !known.contains(name) && defines(source, name)).collect()
}

/// Whether a character may be in a name of C.
fn within(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether a text of C has `name` followed by a parenthesis.
fn defines(source: &str, name: &str) -> bool {
    source.match_indices(name).any(|(at, _)| {
        let (before, after) = (source.get(..at), source.get(at + name.len()..));
        before.is_some_and(|text| !text.ends_with(within))
            && after.is_some_and(|text| text.trim_start().starts_with('('))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_takes_nothing_and_returns_an_int() {
        let fits = |parameters: &str, returns| {
            misfit(Some(&Signature { parameters: parameters.into(), returns })).is_none()
        };
        assert!(fits("()", Some("s32")));
        assert!(!fits("(nid:s32)", Some("s32")));
        assert!(!fits("()", Some("s64")));
        assert!(!fits("()", Some("u8")));
        assert!(!fits("()", None));
        assert!(misfit(None).is_some());
    }

    #[test]
    fn a_definition_is_told_from_longer_names() {
        let text = "static int dynamos_after_on (void)\n{ return other_dynamos_before_on(1); }";
        assert!(defines(text, "dynamos_after_on"));
        assert!(!defines(text, "dynamos_before_on"));
        assert!(!defines(text, "dynamos_after"));
        assert!(!defines("/* dynamos_before_on */", "dynamos_before_on"));
    }

    #[test]
    fn there_is_one_of_a_kind() {
        let hooks = |kind: HookKind| BTreeMap::from([(kind, kind.name().to_owned())]);
        let (on, off) = (hooks(HookKind::AfterOn), hooks(HookKind::AfterOff));
        let mut plan = Plan::default();
        tell(&[("a.o".into(), on.clone()), ("b.o".into(), off)], &mut plan);
        assert_eq!((plan.hooks.len(), plan.refusals.len()), (2, 0));
        tell(&[("a.o".into(), on.clone()), ("b.o".into(), on)], &mut plan);
        assert!(plan.refusals.iter().any(|refusal| refusal.reason.contains("in b.o and in")));
    }
}
