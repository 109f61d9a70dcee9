//! The ways in which a function's source is changed. None changes the number of lines: the lines
//! after it keep their `__LINE__`, so the oracle needs to know nothing of line numbers.

use super::scan::{Function, Kind, Token, closing};

/// A change of the source: the bytes from `start` to `end` become `text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The way it is changed.
    pub kind: &'static str,
    /// The first byte that goes.
    pub start: usize,
    /// The byte after the last that goes.
    pub end: usize,
    /// What comes in its place.
    pub text: String,
}

impl Edit {
    /// The source with the edit made, if no line is added or removed by it.
    pub fn apply(&self, source: &str) -> Option<String> {
        let (before, old) = (source.get(..self.start)?, source.get(self.start..self.end)?);
        let lines = |text: &str| text.matches('\n').count();
        let missing = lines(old).checked_sub(lines(&self.text))?;
        let after = source.get(self.end..)?;
        Some(format!("{before}{}{}{after}", self.text, "\n".repeat(missing)))
    }
}

/// Replacements of a single token.
const TOKENS: [(&str, &str, &str); 22] = [
    ("comparison flipped", "<", ">="),
    ("comparison flipped", "<=", ">"),
    ("comparison flipped", ">", "<="),
    ("comparison flipped", ">=", "<"),
    ("comparison flipped", "==", "!="),
    ("comparison flipped", "!=", "=="),
    ("and, or swapped", "&&", "||"),
    ("and, or swapped", "||", "&&"),
    ("increment flipped", "++", "--"),
    ("increment flipped", "--", "++"),
    ("assignment operator changed", "+=", "-="),
    ("assignment operator changed", "-=", "+="),
    ("assignment operator changed", "|=", "&="),
    ("assignment operator changed", "&=", "|="),
    ("shift turned", "<<", ">>"),
    ("shift turned", ">>", "<<"),
    ("truth value changed", "true", "false"),
    ("truth value changed", "false", "true"),
    ("jump changed", "break", "continue"),
    ("jump changed", "continue", "break"),
    ("type of a variable changed", "int", "short"),
    ("type of a variable changed", "u32", "u16"),
];

/// Functions of the same type, or macros used alike.
const CALLEES: [(&str, &str); 18] = [
    ("list_add", "list_add_tail"),
    ("list_del", "list_del_init"),
    ("min", "max"),
    ("min_t", "max_t"),
    ("mutex_lock", "mutex_unlock"),
    ("spin_lock", "spin_unlock"),
    ("spin_lock_irq", "spin_unlock_irq"),
    ("spin_lock_bh", "spin_unlock_bh"),
    ("kmalloc", "kzalloc"),
    ("kfree", "kvfree"),
    ("memcpy", "memmove"),
    ("set_bit", "clear_bit"),
    ("atomic_inc", "atomic_dec"),
    ("rcu_read_lock", "rcu_read_unlock"),
    ("down_read", "down_write"),
    ("up_read", "up_write"),
    ("likely", "unlikely"),
    ("wake_up", "wake_up_all"),
];

/// Every edit of `function` that is known here, in the order of the source.
pub fn edits(
    source: &str,
    tokens: &[Token<'_>],
    function: &Function<'_>,
    all: &[Function<'_>],
) -> Vec<Edit> {
    let scope = Scope { source, tokens, end: function.body.end };
    let mut edits = Vec::new();
    for index in function.body.clone() {
        scope.token(index, &mut edits);
        scope.statement(index, &mut edits);
        scope.call(index, all, &mut edits);
    }
    edits
}

/// Other initial values of the variables that are outside of functions, with the names of these.
pub fn variables<'s>(
    source: &'s str,
    tokens: &[Token<'s>],
    functions: &[Function<'_>],
) -> Vec<(String, Edit)> {
    let scope = Scope { source, tokens, end: tokens.len() };
    let outside = |token: &Token<'_>| !functions.iter().any(|f| f.extent.contains(&token.start));
    let statics = tokens.iter().enumerate().filter(|(_, t)| t.text == "static" && outside(t));
    let edits = statics.filter_map(|(index, _)| scope.initial_value(index));
    edits.map(|(name, edit)| (name.to_owned(), edit)).collect()
}

struct Scope<'t, 's> {
    source: &'s str,
    tokens: &'t [Token<'s>],
    end: usize,
}

impl Scope<'_, '_> {
    fn text(&self, index: Option<usize>) -> &str {
        index.and_then(|i| self.tokens.get(i)).map_or("", |t| t.text)
    }

    /// Replaces tokens `first..=last`.
    fn edit(
        &self,
        kind: &'static str,
        first: usize,
        last: usize,
        text: impl Fn(&str) -> String,
    ) -> Option<Edit> {
        let (start, end) = (self.tokens.get(first)?.start, self.tokens.get(last)?.end());
        Some(Edit { kind, start, end, text: text(self.source.get(start..end)?) })
    }

    fn token(&self, index: usize, edits: &mut Vec<Edit>) {
        let Some(token) = self.tokens.get(index) else { return };
        let before = index.checked_sub(1).and_then(|i| self.tokens.get(i));
        let operand = before.is_some_and(|t| {
            matches!(t.kind, Kind::Word | Kind::Number) || matches!(t.text, ")" | "]")
        }) && before.is_some_and(|t| t.text != "return" && t.text != "case");
        let neighbours = [self.text(index.checked_sub(1)), self.text(Some(index + 1))];
        let mut add =
            |kind, text: String| edits.extend(self.edit(kind, index, index, |_| text.clone()));
        for (kind, from, to) in TOKENS {
            if token.text == from {
                add(kind, to.to_owned());
            }
        }
        match (token.kind, token.text) {
            (Kind::Mark, "+") if operand => add("plus, minus swapped", "-".to_owned()),
            (Kind::Mark, "-") if operand => add("plus, minus swapped", "+".to_owned()),
            (Kind::Mark, "=") if operand => add("assignment operator changed", "|=".to_owned()),
            (Kind::Number, number) => {
                if let Some(next) = next_number(number) {
                    add("constant changed", next);
                }
            }
            (Kind::Text, text) if !text.contains("asm") => {
                if let Some(other) = other_text(text) {
                    add("string changed", other);
                }
            }
            (Kind::Word, flag)
                if is_constant(flag)
                    && neighbours.iter().any(|n| matches!(*n, "|" | "&" | "|=" | "&=")) =>
            {
                add("flag bit changed", format!("({flag} << 1)"));
            }
            _ => {}
        }
    }

    fn statement(&self, index: usize, edits: &mut Vec<Edit>) {
        let starts =
            matches!(self.text(index.checked_sub(1)), ";" | "{" | "}" | ")" | "else" | ":");
        let end = || (index..self.end).find(|i| self.text(Some(*i)) == ";");
        match self.text(Some(index)) {
            "if" | "while" if self.text(Some(index + 1)) == "(" => {
                if let Some(close) = closing(self.tokens, index + 1, self.end) {
                    edits.extend(
                        self.edit("condition negated", index + 1, close, |c| format!("(!{c})")),
                    );
                }
            }
            "return" => {
                let Some(end) = end() else { return };
                if end > index + 1 {
                    let value = |v: &str| format!("1 + ({v})");
                    edits.extend(self.edit("return value changed", index + 1, end - 1, value));
                }
                if end + 1 < self.end {
                    edits.extend(self.edit("early return removed", index, end, |_| ";".to_owned()));
                }
            }
            "static" => edits.extend(self.initial_value(index).map(|(_, edit)| edit)),
            ";" if !self.leads_away(index) => {
                let side = |_: &str| "; asm volatile(\"pause\");".to_owned();
                edits.extend(self.edit("side effect added", index, index, side));
            }
            _ if starts && self.tokens.get(index).is_some_and(|t| t.kind == Kind::Word) => {
                let call = self.text(Some(index + 1)) == "(";
                let close = closing(self.tokens, index + 1, self.end).filter(|_| call);
                if let Some(close) = close.filter(|c| self.text(Some(c + 1)) == ";") {
                    edits.extend(
                        self.edit("statement removed", index, close + 1, |_| ";".to_owned()),
                    );
                }
            }
            _ => {}
        }
    }

    /// Whether the statement that ends here goes elsewhere, or does not end here, but in the head of a loop.
    fn leads_away(&self, end: usize) -> bool {
        let before = (0..end).rev();
        let start = before
            .take_while(|i| !matches!(self.text(Some(*i)), ";" | "{" | "}" | ":"))
            .last()
            .unwrap_or(end);
        let depth = (start..end).fold(0, |depth, i| match self.text(Some(i)) {
            "(" => depth + 1,
            ")" => depth - 1,
            _ => depth,
        });
        depth != 0 || matches!(self.text(Some(start)), "return" | "goto" | "break" | "continue")
    }

    /// Another initial value of the variable that is declared from `index` on, and its name.
    fn initial_value(&self, index: usize) -> Option<(&str, Edit)> {
        let end = (index..self.end).find(|i| self.text(Some(*i)) == ";")?;
        let equals = (index..end).find(|i| self.text(Some(*i)) == "=")?;
        let plain = |i: usize| {
            self.tokens
                .get(i)
                .is_some_and(|t| t.kind != Kind::Text && !matches!(t.text, "{" | "," | "&"))
        };
        let (declared, value) = (index..equals, equals + 1..end);
        // Neither a list, nor a text, nor a place.
        if value.is_empty() || !value.clone().all(plain) || !declared.clone().all(plain) {
            return None;
        }
        let attribute = |name: &str| name.starts_with("__");
        let word = |i: &usize| self.tokens.get(*i).is_some_and(|t| t.kind == Kind::Word);
        let name = declared.clone().rev().filter(word).map(|i| self.text(Some(i)));
        let name = name.into_iter().find(|name| !attribute(name))?;
        let truth = declared.clone().any(|i| self.text(Some(i)) == "bool");
        let other = |v: &str| if truth { format!("!({v})") } else { format!("1 + ({v})") };
        let edit = self.edit("static initial value changed", value.start, end - 1, other)?;
        Some((name, edit))
    }

    fn call(&self, index: usize, all: &[Function<'_>], edits: &mut Vec<Edit>) {
        let Some(name) = self.tokens.get(index).filter(|t| t.kind == Kind::Word) else { return };
        if self.text(Some(index + 1)) != "("
            || matches!(name.text, "if" | "while" | "for" | "switch" | "sizeof")
        {
            return;
        }
        for (one, two) in CALLEES {
            let other = if name.text == one {
                two
            } else if name.text == two {
                one
            } else {
                continue;
            };
            edits.extend(self.edit("callee swapped", index, index, |_| other.to_owned()));
        }
        if let Some(callee) = all.iter().find(|f| f.name == name.text) {
            let alike =
                |f: &&Function<'_>| f.name != callee.name && f.parameters == callee.parameters;
            if let Some(other) = all.iter().find(alike) {
                edits.extend(self.edit("callee swapped", index, index, |_| other.name.to_owned()));
            }
        }
        if let Some((first, comma, last)) = self.two_arguments(index + 1) {
            let text = |from: usize, to: usize| {
                let start = self.tokens.get(from).map_or(0, |t| t.start);
                self.source
                    .get(start..self.tokens.get(to).map_or(start, Token::end))
                    .unwrap_or_default()
            };
            let (x, y) = (text(first, comma - 1), text(comma + 1, last));
            if x != y {
                edits.extend(self.edit("arguments swapped", first, last, |_| format!("{y}, {x}")));
            }
        }
    }

    /// The first token of the first argument, the comma, the last token of the second argument.
    fn two_arguments(&self, open: usize) -> Option<(usize, usize, usize)> {
        let close = closing(self.tokens, open, self.end)?;
        let mut depth = 0;
        let mut commas = Vec::new();
        for index in open..close {
            match self.text(Some(index)) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                "," if depth == 1 => commas.push(index),
                _ => {}
            }
        }
        let comma = *commas.first()?;
        Some((open + 1, comma, commas.get(1).unwrap_or(&close) - 1))
    }
}

fn is_constant(word: &str) -> bool {
    word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// The number plus one, with its base and suffix.
fn next_number(number: &str) -> Option<String> {
    let (prefix, rest, radix) = match number.get(..2) {
        Some("0x" | "0X") => ("0x", number.get(2..)?, 16),
        _ if number.len() > 1 && number.starts_with('0') => ("0", number.get(1..)?, 8),
        _ => ("", number, 10),
    };
    let digits = rest.find(|c: char| !c.is_digit(radix)).unwrap_or(rest.len());
    let value = u64::from_str_radix(rest.get(..digits)?, radix).ok()?.checked_add(1)?;
    let suffix = rest.get(digits..)?;
    Some(match radix {
        16 => format!("{prefix}{value:x}{suffix}"),
        8 => format!("{prefix}{value:o}{suffix}"),
        _ => format!("{value}{suffix}"),
    })
}

/// Another string: one letter that is no part of a conversion or escape is changed.
fn other_text(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let plain = |at: usize| {
        let safe_before = at.checked_sub(1).and_then(|b| bytes.get(b));
        bytes.get(at).is_some_and(|b| b.is_ascii_lowercase())
            && safe_before.is_some_and(|b| matches!(b, b' ' | b'"'))
    };
    let at = (1..bytes.len()).find(|at| plain(*at))?;
    let other = if bytes.get(at) == Some(&b'q') { "w" } else { "q" };
    Some(format!("{}{other}{}", text.get(..at)?, text.get(at + 1..)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::scan;
    use super::*;

    #[test]
    fn edits_keep_the_lines() {
        let source = "static int g(int a)\n{\n\treturn a;\n}\nint h(int a)\n{\n\tstatic int n = 3;\n\
            \tif (a < 0x10 && n)\n\t\treturn -1;\n\tkfree(a,\n\t\tn);\n\tpr_info(\"one two\", F | GFP_X);\n\
            \treturn g(a + 1);\n}\n";
        let tokens = scan::tokens(source);
        let functions = scan::functions(source, &tokens);
        let edits = edits(source, &tokens, functions.last().unwrap(), &functions);
        let kinds: std::collections::BTreeSet<_> = edits.iter().map(|e| e.kind).collect();
        assert!(kinds.len() >= 12, "{kinds:?}");
        for edit in &edits {
            let changed = edit.apply(source).unwrap();
            assert_eq!(changed.lines().count(), source.lines().count(), "{edit:?}");
            assert_ne!(changed, source);
        }
        let has = |text: &str| edits.iter().any(|e| e.apply(source).unwrap().contains(text));
        assert!(has("n); asm") && has("return -1; asm") && !has("return g(a + 1); asm"));
        for text in [
            "a < 0x11",
            "a >= 0x10",
            "g(a - 1)",
            "(!(a < 0x10 && n))",
            "\"qne two\"",
            "= 1 + (3)",
            "kvfree(a",
            "kfree(n, a\n)",
            "(GFP_X << 1)",
            "return 1 + (g(a + 1))",
            "return g(a + 2)",
            "h(a + 1)",
        ] {
            assert!(has(text), "{text}");
        }
    }

    #[test]
    fn variables_get_other_values() {
        let source = "static int one __read_mostly = 2 * HZ;\nstatic bool two = true;\nstatic int list[] = { 1 };\n\
            static const char *text = \"x\";\nstatic int *place = &one;\nstatic int f(int a)\n{\n\
            \tstatic int in = 3;\n\treturn a;\n}\nstatic int none, late = 4;\nstatic int g(void);\nint last = 5;\n";
        let tokens = scan::tokens(source);
        let functions = scan::functions(source, &tokens);
        let found = variables(source, &tokens, &functions);
        let found: Vec<_> =
            found.iter().map(|(name, e)| (name.as_str(), e.text.as_str())).collect();
        assert_eq!(found, [("one", "1 + (2 * HZ)"), ("two", "!(true)")]);
    }
}
