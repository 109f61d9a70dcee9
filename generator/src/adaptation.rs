//! An update's own adaptation handlers. A function of V2 that is called `dynamos_adapt_NAME` says of each call of `NAME`
//! which edition it takes: it gets the call's arguments and returns the edition's number, 0 or 1.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use dynamos_differ::load::Elf;
use dynamos_differ::parameters::{REGISTERS, Signature, signatures};
use dynamos_differ::verdict::{Comparison, Verdict};

use crate::plan::Refusal;

/// What the names of adaptation handlers begin with.
pub const PREFIX: &str = "dynamos_adapt_";

/// The handlers of one object: name of the function, in V2, → name of its handler. What is not fit for one is refused.
pub fn find(
    comparison: &Comparison,
    replaced: &BTreeMap<String, String>,
    v2: &[u8],
    object: &str,
    refusals: &mut Vec<Refusal>,
) -> Result<BTreeMap<String, String>> {
    let handlers: Vec<(&str, &str)> = new_functions(comparison, PREFIX).collect();
    if handlers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let wanted: BTreeSet<String> =
        handlers.iter().flat_map(|(name, handler)| [*handler, *name]).map(Into::into).collect();
    let known = signatures(&Elf::parse(v2, object)?, &wanted)?;
    let mut found = BTreeMap::new();
    for (name, handler) in handlers {
        let why = if replaced.contains_key(name) {
            misfit(known.get(name), known.get(handler))
        } else {
            Some(format!("is the adaptation handler of {name}, which this update does not replace"))
        };
        match why {
            None => {
                found.insert(name.to_owned(), handler.to_owned());
            }
            Some(why) => refusals.push(Refusal::new(
                handler,
                why,
                format!(
                    "make it `static __used int {handler}(…)` with the parameters of {name}, or the first of them"
                ),
            )),
        }
    }
    Ok(found)
}

/// Why a handler cannot be called as the function is.
fn misfit(function: Option<&Signature>, handler: Option<&Signature>) -> Option<String> {
    let (Some(function), Some(handler)) = (function, handler) else {
        return Some("has no debug information, so its parameters are not known".into());
    };
    let (given, taken) = (function.types(), handler.types());
    if !matches!(handler.returns, Some("s32" | "u32")) {
        return Some("does not return an int".into());
    }
    if taken.len() > REGISTERS || taken.contains(&"other") || !given.starts_with(&taken) {
        return Some(format!(
            "takes {}, and the function's calls have {} (of which those in the first {REGISTERS} registers can be taken)",
            handler.parameters, function.parameters
        ));
    }
    None
}

/// V2's new functions whose names begin with `prefix`: what follows it, and the name.
pub fn new_functions<'c>(
    comparison: &'c Comparison,
    prefix: &str,
) -> impl Iterator<Item = (&'c str, &'c str)> {
    let new = comparison.functions.iter().filter(|function| function.verdict == Verdict::New);
    new.filter_map(move |function| {
        Some((function.name.strip_prefix(prefix)?, function.name.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(parameters: &str, returns: Option<&'static str>) -> Signature {
        Signature { parameters: parameters.into(), returns }
    }

    #[test]
    fn a_handler_takes_what_a_call_has() {
        let function = signature("(file:u64 cmd:u32 arg:u64)", Some("s64"));
        let fits = |parameters, returns| {
            misfit(Some(&function), Some(&signature(parameters, returns))).is_none()
        };
        assert!(fits("(f:u64 c:u32 a:u64)", Some("s32")));
        assert!(fits("(f:u64)", Some("u32")));
        assert!(fits("()", Some("s32")));
        assert!(!fits("(f:u64 c:s32)", Some("s32")), "another type");
        assert!(!fits("(f:u64 c:u32 a:u64 more:u64)", Some("s32")), "too many");
        assert!(!fits("(f:u64)", Some("u8")), "the upper bits of a bool are not defined");
        assert!(!fits("(f:u64)", None));
        assert!(misfit(None, None).is_some());
    }

    #[test]
    fn what_is_not_in_a_register_cannot_be_taken() {
        let long = "(a:u64 b:u64 c:u64 d:u64 e:u64 f:u64 g:u64)";
        let (function, other) = (signature(long, None), signature("(a:u64 b:other)", None));
        assert!(misfit(Some(&function), Some(&signature(long, Some("s32")))).is_some());
        assert!(misfit(Some(&function), Some(&signature("(a:u64 b:u64)", Some("s32")))).is_none());
        assert!(misfit(Some(&other), Some(&signature("(a:u64 b:other)", Some("s32")))).is_some());
        assert!(misfit(Some(&other), Some(&signature("(a:u64)", Some("s32")))).is_none());
    }
}
