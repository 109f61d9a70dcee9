//! Scope `object`: which object the calls of each replaced function work on.
//!
//! A function of V2 that is called `dynamos_object_NAME` gets the arguments of each call of `NAME` and returns the object's
//! address; or `--object NAME=PARAMETER` says that it is an argument. An update has that for all of its functions or for
//! none.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use dynamos_differ::load::Elf;
use dynamos_differ::parameters::{REGISTERS, Signature, signatures};
use dynamos_differ::verdict::Comparison;

use crate::adaptation::new_functions;
use crate::plan::{Plan, Refusal};
use crate::verdicts::Judged;

/// What the names of accessors begin with.
pub const PREFIX: &str = "dynamos_object_";

/// How a handler gets the object of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectOf {
    /// From this function of V2.
    Accessor(String),
    /// It is the argument with this number and name.
    Argument(usize, String),
}

/// What `--object` says, by V1's name of the function.
pub type Asked = BTreeMap<String, String>;

/// Reads `FUNCTION=PARAMETER`.
pub fn parse(text: &str) -> Result<(String, String)> {
    let (function, parameter) = text
        .split_once('=')
        .filter(|(function, parameter)| !function.is_empty() && !parameter.is_empty())
        .with_context(|| format!("--object {text}: it is FUNCTION=PARAMETER"))?;
    Ok((function.into(), parameter.into()))
}

/// One object, with what is known of it.
pub struct Sides<'a> {
    /// What differs.
    pub comparison: &'a Comparison,
    /// Functions to replace: V2's name → V1's.
    pub replaced: &'a BTreeMap<String, String>,
    /// The signatures of those, by V1's name.
    pub v1: &'a BTreeMap<String, Signature>,
    /// V2's build.
    pub v2: &'a [u8],
    /// Its path.
    pub object: &'a str,
}

/// How the objects of one unit's functions are found, by V2's name of the function. What is not fit for it is refused.
pub fn find(
    sides: &Sides<'_>,
    asked: &Asked,
    refusals: &mut Vec<Refusal>,
) -> Result<BTreeMap<String, ObjectOf>> {
    let accessors: BTreeMap<&str, &str> = new_functions(sides.comparison, PREFIX).collect();
    for (name, accessor) in &accessors {
        if !sides.replaced.contains_key(*name) {
            let reason = format!("tells the object of {name}, which this update does not replace");
            refusals.push(Refusal::new(*accessor, reason, "leave it out, or name it otherwise"));
        }
    }
    let names = sides
        .replaced
        .iter()
        .filter(|(name, old)| accessors.contains_key(name.as_str()) || asked.contains_key(*old));
    let names: Vec<(&String, &String)> = names.collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let wanted: BTreeSet<String> = names
        .iter()
        .map(|(name, _)| (*name).clone())
        .chain(accessors.values().map(|name| (*name).into()))
        .collect();
    let new_ones = signatures(&Elf::parse(sides.v2, sides.object)?, &wanted)?;
    let mut found = BTreeMap::new();
    for (name, old) in names {
        let both = sides.v1.get(old).zip(new_ones.get(name));
        let object = match (accessors.get(name.as_str()), asked.get(old)) {
            (Some(accessor), None) => both_fit(both)
                .and_then(|function| accessor_fits(function, new_ones.get(*accessor)))
                .map(|()| ObjectOf::Accessor((*accessor).into())),
            (None, Some(parameter)) => both_fit(both)
                .and_then(|function| argument_of(function, parameter))
                .map(|number| ObjectOf::Argument(number, parameter.clone())),
            _ => Err(format!("has `{PREFIX}{name}` in V2, and --object says something else")),
        };
        match object {
            Ok(object) => {
                found.insert(name.clone(), object);
            }
            Err(why) => refusals.push(Refusal::new(
                old,
                why,
                format!(
                    "give V2 a `static __used void *{PREFIX}{name}(…)` with the parameters of {name}, or the first of \
                     them, or name one with --object {old}=PARAMETER; or leave that out for all functions"
                ),
            )),
        }
    }
    Ok(found)
}

/// The function, if a counting handler can call both of its editions.
fn both_fit<'s>(both: Option<(&'s Signature, &'s Signature)>) -> Result<&'s Signature, String> {
    let (old, new) =
        both.ok_or("has no debug information, so its parameters are not known".to_string())?;
    let (before, after) = (old.types(), new.types());
    if before != after || old.returns != new.returns {
        return Err(format!(
            "takes {} in V1 and {} in V2, and calls of both would come by one handler",
            old.parameters, new.parameters
        ));
    }
    // What is on the stack an edition that a counting handler calls would not find.
    if after.len() > REGISTERS || after.contains(&"other") || new.returns == Some("other") {
        return Err(format!(
            "takes {} and may have arguments on the stack, where an edition that a counting handler calls would not find them",
            new.parameters
        ));
    }
    Ok(new)
}

fn accessor_fits(function: &Signature, accessor: Option<&Signature>) -> Result<(), String> {
    let accessor = accessor.ok_or("has an accessor without debug information".to_string())?;
    if accessor.returns != Some("u64") {
        return Err("has an accessor that does not return a pointer".into());
    }
    let (given, taken) = (function.types(), accessor.types());
    if given.starts_with(&taken) {
        Ok(())
    } else {
        Err(format!(
            "has an accessor that takes {}, and calls of it have {}",
            accessor.parameters, function.parameters
        ))
    }
}

fn argument_of(function: &Signature, parameter: &str) -> Result<usize, String> {
    let mut all = function.words().enumerate();
    match all.find(|(_, (name, _))| *name == parameter) {
        Some((number, (_, "u64"))) => Ok(number),
        Some(_) => Err(format!("has a parameter {parameter} that is no pointer")),
        None => Err(format!("has no parameter {parameter}: it takes {}", function.parameters)),
    }
}

/// Says in the plan which objects calls work on, and refuses what does not go together with that.
pub fn settle(judged: &Judged, asked: &Asked, bridge: bool, plan: &mut Plan) {
    let all = || {
        judged.units.iter().flat_map(|unit| unit.replaced.iter().map(move |names| (unit, names)))
    };
    for name in asked.keys().filter(|name| all().all(|(_, (_, old))| old != *name)) {
        let reason = "--object names it, and this update does not replace it";
        plan.refusals.push(Refusal::new(name, reason, "name a function that is replaced"));
    }
    if judged.units.iter().all(|unit| unit.objects.is_empty()) {
        return;
    }
    for (unit, (name, old)) in all() {
        let Some(object) = unit.objects.get(name) else {
            plan.refusals.push(Refusal::new(
                old,
                "of other functions it is said which object their calls work on, and of this one it is not: its calls would \
                 have no edition while objects move",
                format!("give V2 a `dynamos_object_{name}`, or use --object {old}=PARAMETER; or leave that out for all"),
            ));
            continue;
        };
        let told = match object {
            ObjectOf::Accessor(accessor) => format!("what `{accessor}` returns"),
            ObjectOf::Argument(_, name) => format!("its parameter `{name}`"),
        };
        if let Some(row) = plan.function_mut(&unit.object, old) {
            row.works_on = Some(told);
        }
        if unit.adaptations.contains_key(name) {
            let why =
                "has an adaptation handler, which chooses an edition for each call, and objects";
            plan.refusals.push(Refusal::new(old, why, "leave one of them out"));
        }
    }
    let with = [
        (bridge, "goes by way of a bridge, in which all calls take one edition"),
        (
            !judged.slots.is_empty(),
            "has handlers in tables of operations that differ, which all calls share",
        ),
    ];
    for (_, why) in with.into_iter().filter(|(is, _)| *is) {
        let name = all().map(|(_, (_, old))| old.clone()).next().unwrap_or_default();
        plan.refusals.push(Refusal::new(
            &name,
            format!("says which object its calls work on, and the update {why}"),
            "leave one of them out",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(parameters: &str, returns: Option<&'static str>) -> Signature {
        Signature { parameters: parameters.into(), returns }
    }

    #[test]
    fn what_asks_for_an_object_is_read() {
        assert_eq!(parse("f=file").unwrap(), ("f".into(), "file".into()));
        for text in ["f", "f=", "=file", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn calls_of_both_editions_must_be_alike() {
        let fits = |old: &Signature, new: &Signature| both_fit(Some((old, new))).is_ok();
        let plain = signature("(pipe:u64 flags:u32)", Some("s64"));
        assert!(fits(&plain, &signature("(p:u64 f:u32)", Some("s64"))));
        assert!(fits(&signature("()", None), &signature("()", None)));
        assert!(!fits(&plain, &signature("(p:u64 f:s32)", Some("s64"))));
        assert!(!fits(&plain, &signature("(pipe:u64 flags:u32)", None)));
        assert!(both_fit(None).is_err());
        for (parameters, returns) in [
            ("(a:u64 b:u64 c:u64 d:u64 e:u64 f:u64 g:u64)", None),
            ("(fmt:u64 other)", None),
            ("(a:u64)", Some("other")),
        ] {
            let other = signature(parameters, returns);
            assert!(!fits(&other, &other), "{parameters}");
        }
    }

    #[test]
    fn an_accessor_takes_what_a_call_has() {
        let function = signature("(iocb:u64 to:u64)", Some("s64"));
        let fits = |parameters, returns| {
            accessor_fits(&function, Some(&signature(parameters, returns))).is_ok()
        };
        assert!(fits("(k:u64)", Some("u64")) && fits("()", Some("u64")));
        assert!(!fits("(k:u64)", Some("s32")) && !fits("(k:u64)", None));
        assert!(!fits("(k:s32)", Some("u64")) && !fits("(a:u64 b:u64 c:u64)", Some("u64")));
        assert!(accessor_fits(&function, None).is_err());
    }

    #[test]
    fn an_argument_is_a_pointer() {
        let function = signature("(pipe:u64 flags:u32 other:u64)", None);
        assert_eq!(argument_of(&function, "pipe"), Ok(0));
        assert_eq!(argument_of(&function, "other"), Ok(2));
        assert!(argument_of(&function, "flags").is_err_and(|why| why.contains("no pointer")));
        assert!(argument_of(&function, "file").is_err_and(|why| why.contains("no parameter")));
    }
}
