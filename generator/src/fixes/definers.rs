//! Which other changed source has what a fix uses and the running kernel does not have.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Fix, Series};

impl Series {
    /// The changed sources that define the `missing` names (each with the part of the kernel that uses it), beyond those
    /// that `fix` has already. The inner error is the first name that not exactly one source defines.
    pub(super) fn definers(
        &self,
        fix: &Fix,
        missing: &BTreeSet<(String, String)>,
    ) -> Result<Result<Vec<Fix>, String>> {
        let all = self.fixes()?;
        let mut found: Vec<Fix> = Vec::new();
        for (owner, name) in missing {
            let mut of_name: Vec<&Fix> = Vec::new();
            for other in &all {
                if !fix.sources().any(|source| *source == other.source)
                    && defines(&self.changed(&other.source)?, name)
                {
                    of_name.push(other);
                }
            }
            if of_name.iter().any(|other| other.owners().contains(owner)) {
                of_name.retain(|other| other.owners().contains(owner));
            }
            match of_name.as_slice() {
                [one] => found.push((*one).clone()),
                _ => return Ok(Err(name.clone())),
            }
        }
        found.sort_by(|a, b| a.source.cmp(&b.source));
        found.dedup_by(|a, b| a.source == b.source);
        Ok(Ok(found))
    }

    /// V2's text of a changed source.
    fn changed(&self, source: &PathBuf) -> Result<String> {
        let file = self.input.changes.get(source).and_then(Option::as_ref);
        let file = file.with_context(|| format!("{} is not in V2", source.display()))?;
        let bytes =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Whether a C text defines a function of that name that other objects can call, written as the kernel does: the
/// line with the name begins at the margin, and a body follows the parameters.
fn defines(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (text.get(..at).unwrap_or(""), text.get(at + name.len()..));
        let Some(parameters) = after.and_then(|after| after.strip_prefix('(')) else {
            return false;
        };
        let head = before.rsplit('\n').next().unwrap_or("");
        let mut lines = before.rsplit('\n').skip(1);
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        // The type may stand on a line of its own.
        let above = if head.is_empty() { lines.next().unwrap_or("") } else { "" };
        let is_static = [head, above].iter().any(|line| line.split(' ').any(|w| w == "static"));
        let at_margin = head.is_empty() || head.starts_with(word);
        at_margin && !head.ends_with(word) && !head.contains('=') && !is_static && opens(parameters)
    })
}

/// Whether a body follows the parameter list whose opening bracket comes before `text`.
fn opens(text: &str) -> bool {
    let mut depth = 1usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let mut rest = text.get(at + 1..).unwrap_or("").trim_start();
            while let Some(next) = rest.strip_prefix("__") {
                let end = next.find(char::is_whitespace).unwrap_or(next.len());
                rest = next.get(end..).unwrap_or("").trim_start();
            }
            return rest.starts_with('{');
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_told_from_calls_and_prototypes() {
        for text in [
            "void f(int a)\n{\n}\n",
            "struct s *\nf(int a,\n  void (*b)(void))\n{\n}\n",
            "int __must_check f(void) __releases(lock)\n{\n}\n",
            "struct s *f(void)\n{\n}\n",
        ] {
            assert!(defines(text, "f"), "{text}");
        }
        for text in [
            "static void f(int a)\n{\n}\n",
            "static struct s *\nf(int a)\n{\n}\n",
            "void f(int a);\n",
            "\tif (f(a)) {\n\t}\n",
            "int x = f(a);\n",
            "void gf(int a)\n{\n}\n",
            "void ff(int a)\n{\n}\n",
        ] {
            assert!(!defines(text, "f"), "{text}");
        }
    }
}
