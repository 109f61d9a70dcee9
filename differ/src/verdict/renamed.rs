//! Functions that are as they were, but for what they are called and by whom.

use super::{aliases, is_global};
use crate::model::FunctionId;
use crate::object_file::Object;

/// What is another: the name, or who can refer to it.
pub(super) fn why(
    (a, x): (&Object<'_>, FunctionId),
    (b, y): (&Object<'_>, FunctionId),
) -> Option<String> {
    let (old, new) = (a.function(x)?, b.function(y)?);
    let same_name = old.name == new.name || aliases::share_a_name(a, x, b, y);
    let name = (!same_name).then(|| format!("was {}", old.name));
    let linkage = match (is_global(a, x), is_global(b, y)) {
        (false, true) => Some("static in V1, global in V2".to_owned()),
        (true, false) => Some("global in V1, static in V2".to_owned()),
        _ => None,
    };
    let parts: Vec<String> = name.into_iter().chain(linkage).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}
