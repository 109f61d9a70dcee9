//! Whether a source's text may read a member or copy a struct: without a preprocessor, so every doubt counts.

use std::collections::BTreeSet;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Names of members.
    pub members: BTreeSet<String>,
    /// Tags of structs.
    pub types: BTreeSet<String>,
}

/// What a text says of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// It names a member where that is no designator, declaration or function of the name.
    member: bool,
    /// It has a value of a type that is no variable of its own, or the size of one.
    value: bool,
    /// Names that it declares as pointers to a type.
    pub pointers: BTreeSet<String>,
    /// The last names in operands of `sizeof`.
    sized: BTreeSet<String>,
}

impl Mentions {
    /// Reads a text; in a header, a plain mention counts only in a macro: what else reads a member names its object.
    pub fn of(text: &str, wanted: &Wanted, header: bool) -> Mentions {
        let any =
            wanted.members.iter().chain(&wanted.types).any(|word| text.contains(word.as_str()));
        if !any && (header || !text.contains("sizeof")) {
            return Mentions::default();
        }
        let mut found = Mentions::default();
        let tokens = tokens(text);
        let at = |index: usize| tokens.get(index).map_or("", |token| token.text);
        let before = |index: usize, back: usize| index.checked_sub(back).map_or("", at);
        let mut depth = 0usize;
        for (index, token) in tokens.iter().enumerate() {
            match token.text {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                "sizeof" => found.size(&tokens, index, wanted),
                word if wanted.members.contains(word) => {
                    let access = matches!(before(index, 1), "." | "->");
                    let designator =
                        before(index, 1) == "." && matches!(before(index, 2), "{" | "," | "(");
                    let declarator =
                        before(index, 1) == "*" && before(index, 2) == "(" && at(index + 1) == ")";
                    let function = !access && at(index + 1) == "(";
                    let plain = !header || token.in_macro || access;
                    found.member |= !designator && !declarator && !function && plain;
                }
                word if wanted.types.contains(word) && before(index, 1) == "struct" => {
                    found.named(&tokens, index, depth);
                }
                _ => {}
            }
        }
        found
    }

    /// Whether the source must be looked at, where these names are pointers to the types.
    pub fn concern(&self, pointers: &BTreeSet<&String>) -> bool {
        self.member || self.value || self.sized.iter().any(|name| pointers.contains(name))
    }

    /// The operand of a `sizeof`.
    fn size(&mut self, tokens: &[Token<'_>], index: usize, wanted: &Wanted) {
        let (mut depth, mut last) = (0usize, "");
        let mut dereferenced = false;
        for token in tokens.iter().skip(index + 1).take(64) {
            match token.text {
                "(" => depth += 1,
                ")" => depth = depth.saturating_sub(1),
                "*" => dereferenced = true,
                word if wanted.types.contains(word) => self.value = true,
                word if is_word(word) => last = word,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        if dereferenced {
            self.sized.insert(last.to_owned());
        }
    }

    /// What stands behind `struct TAG`.
    fn named(&mut self, tokens: &[Token<'_>], index: usize, depth: usize) {
        let mut rest = tokens.iter().skip(index + 1).map(|token| token.text).peekable();
        let mut pointer = false;
        while let Some(next) = rest.peek() {
            match *next {
                "*" => pointer = true,
                "const" | "volatile" | "__rcu" | "__read_mostly" | "__ro_after_init" => {}
                _ => break,
            }
            rest.next();
        }
        match rest.next() {
            Some(word) if is_word(word) && pointer => {
                self.pointers.insert(word.to_owned());
            }
            // A variable of a file is a table; one of a function or a member may get a copy.
            Some(word) if is_word(word) && depth > 0 => self.value = true,
            _ => {}
        }
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

#[derive(Debug, Clone, Copy)]
struct Token<'t> {
    text: &'t str,
    in_macro: bool,
}

/// Words, `->` and single characters; comments, strings and numbers are left out.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
    let mut found = Vec::new();
    let (mut at, mut in_macro, mut fresh) = (0, false, true);
    while at < bytes.len() {
        let start = at;
        match byte(at) {
            b'\n' => {
                let ends = at == 0 || byte(at - 1) != b'\\';
                in_macro &= !ends;
                fresh = true;
                at += 1;
                continue;
            }
            b'/' if byte(at + 1) == b'*' => {
                at = text
                    .get(at + 2..)
                    .and_then(|t| t.find("*/"))
                    .map_or(bytes.len(), |n| at + n + 4);
                continue;
            }
            b'/' if byte(at + 1) == b'/' => {
                at = text.get(at..).and_then(|t| t.find('\n')).map_or(bytes.len(), |n| at + n);
                continue;
            }
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && byte(at) != quote && byte(at) != b'\n' {
                    at += if byte(at) == b'\\' { 2 } else { 1 };
                }
                at += 1;
                fresh = false;
                continue;
            }
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'#' if fresh => {
                let rest = text.get(at + 1..).unwrap_or("").trim_start();
                in_macro = rest.starts_with("define");
                at += 1;
            }
            b if word(b) => {
                while word(byte(at)) {
                    at += 1;
                }
            }
            b'-' if byte(at + 1) == b'>' => at += 2,
            _ => at += 1,
        }
        fresh = false;
        if let Some(token) = text.get(start..at) {
            found.push(Token { text: token, in_macro });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concern(text: &str, header: bool) -> bool {
        let set = |word: &str| BTreeSet::from([word.to_owned()]);
        let wanted = Wanted { members: set("x"), types: set("ops") };
        let found = Mentions::of(text, &wanted, header);
        found.concern(&BTreeSet::from([&"o".to_owned()]))
    }

    #[test]
    fn what_reads_a_member_or_copies_a_table() {
        for text in [
            "int f(struct ops *o) { return o->x(1); }",
            "#define call(o, m) (o)->m()\nint f(void) { return call(o, x); }",
            "int f(void) { return table.x(); }",
            "int f(void) { return tables[1].x(); }",
            "void f(struct ops *o) { struct ops mine = *o; }",
            "struct big { int n; struct ops by_value; };",
            "p = kmemdup(a, sizeof(struct ops), 0);",
            "p = kmemdup(a, sizeof(*a->o), 0);",
        ] {
            assert!(concern(text, false), "{text}");
        }
    }

    #[test]
    fn what_only_makes_tables() {
        for text in [
            "static const struct ops table = { .n = 1, .x = f };",
            "struct ops { int (*x)(int); const struct ops *o; };",
            "int x(int a) { return a; } /* o->x */ const char *s = \"o->x\";",
            "p = kmemdup(a, sizeof(*a->other), 0); struct ops *o;",
        ] {
            assert!(!concern(text, false), "{text}");
        }
    }

    #[test]
    fn in_a_header_a_member_is_read_by_its_object_or_by_a_macro() {
        assert!(!concern("enum { a, x };\nstruct s { fn_t x; };", true));
        assert!(concern("static inline int f(struct ops *o) { return !!o->x; }", true));
        assert!(concern("#define get(o) \\\n\tmember(o, x)", true));
    }
}
