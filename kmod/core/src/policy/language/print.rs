//! Expressions as text that parses to them again.

use core::fmt;

use super::{Expr, Operand, Term};

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Constant(value) => write!(f, "{value}"),
            Expr::Term(term) => write!(f, "{term}"),
            Expr::Not(inner) => {
                f.write_str("not ")?;
                within(f, inner, matches!(**inner, Expr::All(_) | Expr::Any(_)))
            }
            Expr::All(parts) => {
                joined(f, parts, " and ", |part| matches!(part, Expr::All(_) | Expr::Any(_)))
            }
            Expr::Any(parts) => joined(f, parts, " or ", |part| matches!(part, Expr::Any(_))),
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expr],
    by: &str,
    parentheses: impl Fn(&Expr) -> bool,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(by)?;
        }
        within(f, part, parentheses(part))?;
    }
    Ok(())
}

fn within(f: &mut fmt::Formatter<'_>, expr: &Expr, parentheses: bool) -> fmt::Result {
    if parentheses { write!(f, "({expr})") } else { write!(f, "{expr}") }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Compare { operand, relation, value } => {
                write!(f, "{operand} {} {value}", relation.symbol())
            }
            Term::In { operand, values } => {
                write!(f, "{operand} in {{")?;
                listed(f, values, |f, value| write!(f, "{value}"))
            }
            Term::Comm { equal, name } => {
                f.write_str(if *equal { "comm == " } else { "comm != " })?;
                quoted(f, name, "")
            }
            Term::CommStarts(prefix) => {
                f.write_str("comm ~ ")?;
                quoted(f, prefix, "*")
            }
            Term::CommIn(names) => {
                f.write_str("comm in {")?;
                listed(f, names, |f, name| quoted(f, name, ""))
            }
            Term::Percent { of_million, seed } => {
                let (whole, part) = (of_million / 10_000, of_million % 10_000);
                write!(f, "percent({whole}")?;
                if part != 0 {
                    write!(f, ".{part:04}")?;
                }
                write!(f, ", {seed})")
            }
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.argument() {
            Some(_) => write!(f, "{}({})", self.as_type.name(), self.field.name())?,
            None => f.write_str(self.field.name())?,
        }
        match self.mask {
            Some(mask) => write!(f, " & {mask:#x}"),
            None => Ok(()),
        }
    }
}

fn listed<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    item: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, value) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        item(f, value)?;
    }
    f.write_str("}")
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str, suffix: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            f.write_str("\\")?;
        }
        write!(f, "{c}")?;
    }
    write!(f, "{suffix}\"")
}
