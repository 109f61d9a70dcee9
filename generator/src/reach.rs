//! Whether a changed header can change an object at all: compares what the preprocessor gives on both sides.
//!
//! Most objects that include a changed header use nothing of what changed in it. A top-level item of C that nothing
//! else mentions makes no code: a static function, a declaration, a type. So if all items that differ are of that
//! kind, and no other item reaches their names, both sides compile to the same code. Everything in doubt counts
//! as reached.

use std::collections::{BTreeMap, BTreeSet};

/// Why an object must be compiled and compared; `None`: nothing that differs is reached from its code.
pub fn reached(v1: &str, v2: &str) -> Option<String> {
    let (old, new) = (items(v1), items(v2));
    if old == new {
        return None;
    }
    // Both sides: an item may be gone, and what mentioned it may have found another of the same name.
    reached_on(&old, &new).or_else(|| reached_on(&new, &old))
}

/// Whether an item of `ours` that `theirs` does not have, or has elsewhere, is reached.
fn reached_on(ours: &[Item<'_>], theirs: &[Item<'_>]) -> Option<String> {
    let changed = not_in(ours, theirs);
    let mut defining: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut live: Vec<usize> = Vec::new();
    for (index, item) in ours.iter().enumerate() {
        match &item.silent {
            Some(names) => {
                names.iter().for_each(|name| defining.entry(name).or_default().push(index));
            }
            None => live.push(index),
        }
    }
    let mut seen: BTreeSet<usize> = live.iter().copied().collect();
    while let Some(index) = live.pop() {
        let Some(item) = ours.get(index) else { continue };
        if changed.contains(&index) {
            return Some(item.describe());
        }
        for word in item.words() {
            for &defined in defining.get(word).into_iter().flatten() {
                if seen.insert(defined) {
                    live.push(defined);
                }
            }
        }
    }
    None
}

/// Indices of the items that are not at the same place of the common order of both.
fn not_in(ours: &[Item<'_>], theirs: &[Item<'_>]) -> BTreeSet<usize> {
    let hashes = |items: &[Item<'_>]| -> Vec<[u8; 32]> { items.iter().map(Item::hash).collect() };
    let ops =
        similar::capture_diff_slices(similar::Algorithm::Myers, &hashes(ours), &hashes(theirs));
    let equal = |op: &&similar::DiffOp| matches!(op, similar::DiffOp::Equal { .. });
    ops.iter().filter(|op| !equal(op)).flat_map(similar::DiffOp::old_range).collect()
}

/// A top-level item: its tokens, and the names it defines if it makes no code or data by itself.
#[derive(Debug, PartialEq, Eq)]
struct Item<'t> {
    tokens: Vec<&'t str>,
    silent: Option<Vec<&'t str>>,
}

impl<'t> Item<'t> {
    fn of(tokens: Vec<&'t str>) -> Item<'t> {
        let silent = silent(&tokens);
        Item { tokens, silent }
    }

    fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for token in &self.tokens {
            hasher.update(&(token.len() as u64).to_le_bytes());
            hasher.update(token.as_bytes());
        }
        hasher.finalize().into()
    }

    /// Every word in it, those within strings too: assembly and attributes name symbols there.
    fn words(&self) -> impl Iterator<Item = &'t str> + '_ {
        self.tokens.iter().flat_map(|token| {
            token
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '$')
                .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
        })
    }

    fn describe(&self) -> String {
        let mut text = self.tokens.iter().take(12).copied().collect::<Vec<_>>().join(" ");
        if self.tokens.len() > 12 {
            text += " …";
        }
        text
    }
}

/// The names that an item defines, if it is one that makes nothing unless it is mentioned.
fn silent<'t>(tokens: &[&'t str]) -> Option<Vec<&'t str>> {
    let first = *tokens.first()?;
    if first == "#" || first == "asm" || first.starts_with("__asm") {
        return None;
    }
    if matches!(first, "_Static_assert" | ";") {
        return Some(Vec::new());
    }
    let top = top_level(tokens);
    let has = |word: &str| top.iter().any(|&index| tokens.get(index) == Some(&word));
    if has("=") {
        return None;
    }
    if is_kept(tokens) {
        return None;
    }
    if tokens.last() == Some(&"}") {
        return has("static").then(|| function_name(tokens, &top).map(|name| vec![name]))?;
    }
    if has("typedef") {
        // The name may stand anywhere in a declarator, so all words count as defined.
        return Some(words_of(tokens).collect());
    }
    if tokens.contains(&"{") {
        return matches!(first, "struct" | "union" | "enum").then(|| aggregate(tokens, &top))?;
    }
    if let Some(name) = function_name(tokens, &top) {
        return Some(vec![name]);
    }
    // `struct s;`, `extern int a, b[];`
    let forward = matches!(first, "struct" | "union" | "enum") && tokens.len() == 3;
    (forward || has("extern") && !tokens.contains(&"(")).then(|| words_of(tokens).collect())
}

/// Whether an attribute keeps a function or variable although nothing mentions it.
fn is_kept(tokens: &[&str]) -> bool {
    const KEEPS: [&str; 5] = ["used", "section", "constructor", "alias", "retain"];
    let mut within = false;
    let mut depth = 0usize;
    for token in tokens {
        match *token {
            "__attribute__" | "__attribute" if !within => (within, depth) = (true, 0),
            "(" if within => depth += 1,
            ")" if within => {
                depth = depth.saturating_sub(1);
                within = depth > 0;
            }
            word if within && KEEPS.contains(&word.trim_matches('_')) => return true,
            _ => {}
        }
    }
    false
}

/// A type without a declarator, `struct s { … };`: its tag, those of the types in it, and enumerators.
fn aggregate<'t>(tokens: &[&'t str], top: &[usize]) -> Option<Vec<&'t str>> {
    let open = tokens.iter().position(|token| *token == "{")?;
    let close = tokens.iter().rposition(|token| *token == "}")?;
    let behind = top.iter().filter(|&&index| index > close).filter_map(|&index| tokens.get(index));
    if behind.filter(|token| is_word(token)).any(|token| !is_attribute(token)) {
        return None;
    }
    let mut names: Vec<&str> = words_of(tokens.get(..open)?).collect();
    let inside = tokens.get(open..close)?;
    if tokens.first() == Some(&"enum") || inside.contains(&"enum") {
        names.extend(words_of(inside));
    }
    for pair in inside.windows(2) {
        if let ["struct" | "union", tag] = pair {
            names.extend(words_of(&[*tag]));
        }
    }
    Some(names)
}

/// Indices of the tokens that are in no brackets.
fn top_level(tokens: &[&str]) -> Vec<usize> {
    let mut depth = 0usize;
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ if depth == 0 => found.push(index),
            _ => {}
        }
    }
    found
}

/// The function that a prototype or definition is of: the word before the parameter list, which nothing but the
/// body, the end or an attribute may follow. `None` for anything less plain (a function that returns a pointer to a
/// function).
fn function_name<'t>(tokens: &[&'t str], top: &[usize]) -> Option<&'t str> {
    let is_name = |index: usize| {
        let word = tokens.get(index).is_some_and(|token| is_word(token) && !is_attribute(token));
        word && tokens.get(index + 1) == Some(&"(")
    };
    let name = *top.iter().find(|&&index| is_name(index))?;
    let mut depth = 0usize;
    let close = tokens.iter().enumerate().skip(name + 1).find_map(|(index, token)| {
        match *token {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
        (depth == 0).then_some(index)
    })?;
    let next = tokens.get(close + 1)?;
    let plain = matches!(*next, ";" | "{") || is_attribute(next);
    let name = tokens.get(name)?;
    (plain && !KEYWORDS.contains(name)).then_some(*name)
}

/// Words that say nothing: every item has some.
const KEYWORDS: [&str; 28] = [
    "struct",
    "union",
    "enum",
    "typedef",
    "extern",
    "static",
    "inline",
    "const",
    "volatile",
    "void",
    "char",
    "short",
    "int",
    "long",
    "signed",
    "unsigned",
    "float",
    "double",
    "_Bool",
    "if",
    "return",
    "sizeof",
    "for",
    "while",
    "__attribute__",
    "__attribute",
    "__inline",
    "__inline__",
];

fn words_of<'t>(tokens: &[&'t str]) -> impl Iterator<Item = &'t str> {
    tokens.iter().copied().filter(|token| is_word(token) && !KEYWORDS.contains(token))
}

fn is_attribute(token: &str) -> bool {
    matches!(
        token,
        "__attribute__"
            | "__attribute"
            | "__typeof__"
            | "typeof"
            | "__typeof"
            | "_Alignas"
            | "asm"
            | "__asm__"
            | "__asm"
    )
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Splits preprocessed text into top-level items.
fn items(text: &str) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut current: Vec<&str> = Vec::new();
    let mut depth = 0usize;
    let mut body = false;
    for line in text.lines() {
        // `#pragma` is left by the preprocessor; a line marker is not asked for.
        if line.trim_start().starts_with('#') {
            items.push(Item::of(vec!["#", line]));
            continue;
        }
        for token in tokens(line) {
            if token == "{" && depth == 0 {
                body = opens_function(&current);
            }
            current.push(token);
            match token {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (token == ";" || token == "}" && body) {
                items.push(Item::of(std::mem::take(&mut current)));
                body = false;
            }
        }
    }
    if !current.is_empty() {
        items.push(Item { tokens: current, silent: None });
    }
    items
}

/// Whether `{` after these tokens begins a function's body, not a type or an initialiser: it follows a parameter
/// list, whose bracket follows a word that is no attribute.
fn opens_function(tokens: &[&str]) -> bool {
    if tokens.last() != Some(&")") || tokens.contains(&"=") {
        return false;
    }
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().rev() {
        match *token {
            ")" => depth += 1,
            "(" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    let before = index.checked_sub(1).and_then(|before| tokens.get(before));
                    return before.is_some_and(|word| !is_attribute(word));
                }
            }
            _ => {}
        }
    }
    false
}

/// The tokens of a line of preprocessed text. No literal goes over a line there.
pub fn tokens(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end = match first {
            '"' | '\'' => literal(rest, first),
            _ if first.is_ascii_alphanumeric() || first == '_' || first == '$' => {
                // A number's point is part of it.
                let point = first.is_ascii_digit();
                let word =
                    |c: char| c.is_ascii_alphanumeric() || "_$".contains(c) || point && c == '.';
                rest.find(|c| !word(c)).unwrap_or(rest.len())
            }
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at_checked(end)?;
        rest = after;
        Some(token)
    })
}

/// The length of the literal that `text` begins with.
fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return index + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "typedef unsigned int u32;\nstruct s { u32 a; struct t *b; };\n\
        static inline __attribute__((unused)) int used(int a) { return a + 1; }\n\
        static inline int idle(struct s *s) { return used(s->a); }\n\
        extern int printk(const char *fmt, ...);\nenum { ONE, TWO };\n\
        int entry(int x) { return used(x) ? ONE : printk(\"%d\\n\", x); }\n";

    fn with(from: &str, to: &str) -> Option<String> {
        assert!(BASE.contains(from), "{from}");
        reached(BASE, &BASE.replace(from, to))
    }

    #[test]
    fn what_nothing_uses_does_not_matter() {
        assert_eq!(reached(BASE, BASE), None);
        assert_eq!(with("return used(s->a);", "return used(s->a) + 1;"), None);
        assert_eq!(with("struct t *b;", "struct t *b; long c;"), None);
        assert_eq!(with("extern int", "int fresh(void);\nextern int"), None);
        assert_eq!(
            with("typedef unsigned", "struct opaque;\ntypedef int fresh_t;\ntypedef unsigned"),
            None
        );
        assert_eq!(
            with(
                "static inline int idle",
                "static inline int more(void) { return 1; }\nstatic inline int idle"
            ),
            None
        );
    }

    #[test]
    fn what_code_reaches_does() {
        assert!(with("return a + 1;", "return a + 2;").is_some());
        assert!(with("ONE, TWO", "ZERO, ONE, TWO").is_some());
        assert!(with("const char *fmt, ...", "const char *fmt, int, ...").is_some());
        assert!(with("used(x) ?", "used(x) + 1 ?").is_some());
        assert!(with("int entry", "int variable;\nint entry").is_some());
        assert!(
            with(
                "int entry",
                "static int __attribute__((used)) kept(void) { return 1; }\nint entry"
            )
            .is_some()
        );
        assert!(with("int entry", "asm(\".globl x\");\nint entry").is_some());
        assert!(
            with("static inline int idle", "#pragma pack(1)\nstatic inline int idle").is_some()
        );
        let through = BASE.replace("return used(x)", "struct s y = { x }; return used(y.a)");
        assert!(reached(&through, &through.replace("u32 a;", "u32 z; u32 a;")).is_some());
        assert!(
            reached(&through, &through.replace("unsigned int u32", "unsigned long u32")).is_some()
        );
    }

    #[test]
    fn names_in_assembly_count() {
        let text = "static void hook(void) { }\nasm(\"call hook\");\n";
        assert!(reached(text, &text.replace("{ }", "{ for (;;) ; }")).is_some());
    }

    #[test]
    fn items_end_where_they_do() {
        let text = "struct __attribute__((packed)) p { int a; } __attribute__((aligned(4)));\n\
            static struct s table[] = { { 1 }, { 2 } };\nint f(void)\n{\n\tif (1) { ; }\n}\nint g;\n\
            typedef struct __attribute__((packed)) { int a; } q;\nstatic int (*fn(int a))(void) { return 0; }\n";
        let firsts: Vec<String> = items(text)
            .iter()
            .map(|item| format!("{} {}", item.tokens[0], item.tokens.last().unwrap()))
            .collect();
        assert_eq!(firsts, ["struct ;", "static ;", "int }", "int ;", "typedef ;", "static }"]);
    }

    #[test]
    fn literals_are_single_tokens() {
        let line = r#"x = "a. \" b"; y = '\''; s.m = 1.5e+3;"#;
        let found: Vec<&str> = tokens(line).collect();
        assert_eq!(
            found,
            [
                "x",
                "=",
                r#""a. \" b""#,
                ";",
                "y",
                "=",
                r"'\''",
                ";",
                "s",
                ".",
                "m",
                "=",
                "1.5e",
                "+",
                "3",
                ";"
            ]
        );
    }
}
