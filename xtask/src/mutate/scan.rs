//! A scanner for kernel C: tokens, and where functions begin and end. It knows comments, strings,
//! preprocessor lines and the kernel's style (a function's braces stand in column 0), no grammar.

use std::ops::Range;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An identifier or keyword.
    Word,
    /// A number.
    Number,
    /// A string literal.
    Text,
    /// A character literal.
    Character,
    /// An operator or other punctuation.
    Mark,
}

/// A token and its place in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'s> {
    /// What it is.
    pub kind: Kind,
    /// Its spelling.
    pub text: &'s str,
    /// Where it begins.
    pub start: usize,
}

impl Token<'_> {
    /// Where it ends.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// A function's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function<'s> {
    /// Its name.
    pub name: &'s str,
    /// Its parameters as written.
    pub parameters: &'s str,
    /// From its first token to its closing brace, in bytes.
    pub extent: Range<usize>,
    /// The tokens between its braces.
    pub body: Range<usize>,
}

const LONG_MARKS: [&str; 22] = [
    "<<=", ">>=", "...", "->", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=",
    "-=", "*=", "/=", "%=", "&=", "|=", "^=",
];

/// All tokens outside of comments and preprocessor lines.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut line_start = true;
    while let Some(rest) = source.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or(' ');
        let (kind, length) = match first {
            '\n' => {
                line_start = true;
                at += 1;
                continue;
            }
            '#' if line_start => {
                at += directive(rest);
                continue;
            }
            _ if rest.starts_with("//") => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            _ if rest.starts_with("/*") => {
                at += rest.find("*/").map_or(rest.len(), |end| end + 2);
                continue;
            }
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '"' => (Kind::Text, quoted(rest, b'"')),
            '\'' => (Kind::Character, quoted(rest, b'\'')),
            c if c.is_ascii_digit() => (Kind::Number, word(rest)),
            c if c.is_ascii_alphabetic() || c == '_' => (Kind::Word, word(rest)),
            c => {
                let long = LONG_MARKS.iter().find(|mark| rest.starts_with(**mark));
                (Kind::Mark, long.map_or(c.len_utf8(), |mark| mark.len()))
            }
        };
        line_start = false;
        tokens.push(Token { kind, text: rest.get(..length).unwrap_or(rest), start: at });
        at += length;
    }
    tokens
}

/// The length of a preprocessor line with its continuations.
fn directive(rest: &str) -> usize {
    let mut length = 0;
    for line in rest.split_inclusive('\n') {
        length += line.len();
        if !line.trim_end().ends_with('\\') {
            break;
        }
    }
    length.saturating_sub(1).max(1) // the newline is the caller's
}

fn quoted(rest: &str, quote: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b if b == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn word(rest: &str) -> usize {
    rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())
}

/// The functions defined in the source, but those that a macro defines.
pub fn functions<'s>(source: &'s str, tokens: &[Token<'s>]) -> Vec<Function<'s>> {
    let mut found = Vec::new();
    let at_line_start =
        |t: &Token<'_>| t.start == 0 || source.as_bytes().get(t.start - 1) == Some(&b'\n');
    let mut boundary = 0; // the first token that may belong to the next definition
    let mut open: Option<usize> = None;
    for (index, token) in tokens.iter().enumerate() {
        match (token.text, open) {
            // An initialiser's brace may stand at the start of a line as well.
            ("{", None)
                if at_line_start(token)
                    && declarator(source, tokens.get(boundary..index).unwrap_or_default())
                        .is_some() =>
            {
                open = Some(index);
            }
            ("}", Some(brace)) if at_line_start(token) => {
                let head = tokens.get(boundary..brace).unwrap_or_default();
                if let (Some((name, parameters)), Some(first)) =
                    (declarator(source, head), head.first())
                {
                    let extent = first.start..token.end();
                    found.push(Function { name, parameters, extent, body: brace + 1..index });
                }
                boundary = index + 1;
                open = None;
            }
            (";", None) => boundary = index + 1,
            ("}", None) => boundary = index + 1,
            _ => {}
        }
    }
    found
}

/// The name and the parameters in `static int name(parameters) __attribute`.
fn declarator<'s>(source: &'s str, head: &[Token<'s>]) -> Option<(&'s str, &'s str)> {
    let mut depth = 0;
    let mut close = None;
    let mut found = None;
    for (index, token) in head.iter().enumerate() {
        match token.text {
            "(" => {
                if depth == 0 {
                    let name = index.checked_sub(1).and_then(|i| head.get(i))?;
                    // Attributes stand before or after the name and its parameters.
                    let is_name = name.kind == Kind::Word
                        && !name.text.starts_with("__")
                        && name.text.chars().any(|c| c.is_ascii_lowercase());
                    if is_name && found.is_none() {
                        found = Some((name.text, token.start));
                    }
                }
                depth += 1;
            }
            ")" => {
                depth -= 1;
                if depth == 0 && found.is_some() && close.is_none() {
                    close = Some(token.end());
                }
            }
            "=" if depth == 0 => return None,
            _ => {}
        }
    }
    let (name, start) = found?;
    Some((name, source.get(start..close?)?))
}

/// The index of the bracket that closes the one at `open`, before `end`.
pub fn closing(tokens: &[Token<'_>], open: usize, end: usize) -> Option<usize> {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().take(end).skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SOURCE: &str = "#define X(a) \\\n{ a }\nstatic const int t[] =\n{\n 1 };\n/* f( */\n\
        static int __must_check f(int a, char *b)\n\t__releases(x)\n{\n\tif (a) { b = \"}\\\"\"; }\n\
        \treturn '}';\n}\nSYSCALL_DEFINE0(x)\n{\n\treturn 0;\n}\nint g(void)\n{\n}\n";

    #[test]
    fn functions_are_found() {
        let tokens = tokens(SOURCE);
        let functions = functions(SOURCE, &tokens);
        let names: Vec<_> = functions.iter().map(|f| (f.name, f.parameters)).collect();
        assert_eq!(names, [("f", "(int a, char *b)"), ("g", "(void)")]);
        let body: Vec<_> =
            tokens.get(functions[0].body.clone()).unwrap().iter().map(|t| t.text).collect();
        assert_eq!(body.join(" "), "if ( a ) { b = \"}\\\"\" ; } return '}' ;");
        assert!(
            SOURCE
                .get(functions[0].extent.clone())
                .unwrap()
                .starts_with("static int __must_check f")
        );
    }
}
