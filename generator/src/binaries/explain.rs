//! `--explain NAME` of built files. There is no text of the sources to show, only their lines.

use std::path::Path;

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::{by_kind, file_name, find, identical, pairs};
use crate::explain::{Explained, Find, images, merged, pair};
use crate::report::Reporter;
use crate::run::Request;

/// Shows functions and types of these names.
pub fn explain(request: &Request, names: &[String], reporter: &Reporter) -> Result<Vec<Explained>> {
    reporter.phase("provide", "looking for built files");
    let old = find::files(&request.v1, request.cache.as_deref(), "V1")?;
    let new = find::files(&request.v2, request.cache.as_deref(), "V2")?;
    let pairs = pairs(&old, &new)?;
    reporter.phase("compare", &format!("comparing {} pairs of files", pairs.len()));
    let single = pairs.len() == 1;
    let found: Vec<(String, Result<Vec<Vec<Find>>>)> = pairs
        .par_iter()
        .map(|(name, old, new)| {
            ensure!(!crate::interrupted(), "interrupted");
            let shown = if name.is_empty() { file_name(new) } else { (*name).to_owned() };
            // Of many only those that differ.
            let skipped = !single && (identical(old, new)? || find::is_composite(new));
            let finds = if skipped { Ok(Vec::new()) } else { file(&shown, old, new, names) };
            Ok((shown, finds))
        })
        .collect::<Result<_>>()?;
    let mut all = Vec::new();
    for (name, finds) in found {
        match finds {
            Ok(finds) => all.push(finds),
            Err(error) if single => return Err(error),
            Err(error) => reporter.warn(&format!("not looked at: {name}: {error:#}")),
        }
    }
    reporter.end();
    Ok(merged(names, all))
}

fn file(name: &str, old: &Path, new: &Path, names: &[String]) -> Result<Vec<Vec<Find>>> {
    by_kind(
        name,
        (old, new),
        |old, new| images(name, old, new, names),
        |old, new| pair(name, old, new, names, &|_, _| None),
    )
}
