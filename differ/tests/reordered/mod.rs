//! A C file with its functions in another order.

/// V1's source of a test case, its functions last and the last of them first. Prototypes stand where they were. Nothing, if
/// there are fewer than two.
pub fn reordered(source: &str) -> Option<String> {
    let source = v1(source);
    let (mut head, mut functions) = (String::new(), Vec::new());
    for part in parts(&source) {
        match declarator(part) {
            Some(declarator) => {
                head.push_str(&format!("{declarator};\n"));
                functions.push(part);
            }
            None => head.push_str(part),
        }
    }
    functions.reverse();
    (functions.len() > 1).then(|| format!("{head}\n{}\n", functions.join("\n")))
}

/// What is left where `V2` is not defined.
fn v1(source: &str) -> String {
    let mut kept = String::new();
    let mut conditions: Vec<bool> = Vec::new();
    for line in source.lines() {
        match line.trim_end() {
            "#ifdef V2" => conditions.push(false),
            "#ifndef V2" => conditions.push(true),
            "#else" => conditions.last_mut().into_iter().for_each(|last| *last = !*last),
            "#endif" => drop(conditions.pop()),
            line if conditions.iter().all(|condition| *condition) => {
                kept.push_str(line);
                kept.push('\n');
            }
            _ => {}
        }
    }
    kept
}

/// Functions, declarations, calls of macros, preprocessor lines, and what is between them.
fn parts(source: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut at, mut depth) = (0, 0, 0);
    while at < source.len() {
        let rest = &source[at..];
        let begins = source[start..at].trim().is_empty();
        if begins && depth == 0 && (rest.starts_with('#') || rest.starts_with("//")) {
            let mut length = 0;
            for line in rest.split_inclusive('\n') {
                length += line.len();
                if !line.trim_end().ends_with('\\') {
                    break;
                }
            }
            at += length;
            parts.push(&source[start..at]);
            start = at;
            continue;
        }
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let first = rest.as_bytes()[0];
        at += match first {
            b'"' | b'\'' => literal(rest.as_bytes()),
            _ => 1,
        };
        match first {
            b'(' | b'{' | b'[' => depth += 1,
            b')' | b'}' | b']' => depth -= 1,
            _ => {}
        }
        let part = &source[start..at];
        let ends = match first {
            b';' => true,
            b'}' => declarator(part).is_some(),
            b')' => is_macro(part),
            _ => false,
        };
        if depth == 0 && ends {
            parts.push(part);
            start = at;
        }
    }
    parts.push(&source[start..]);
    parts
}

/// Of a literal with its quotes.
fn literal(text: &[u8]) -> usize {
    let mut at = 1;
    while text[at] != text[0] {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// What stands before the body, if this is a function.
fn declarator(part: &str) -> Option<&str> {
    let brace = part.find('{')?;
    let before = part[..brace].trim();
    (before.ends_with(')') && !before.contains('=') && part.ends_with('}')).then_some(before)
}

/// Whether it is the call of a macro that makes declarations.
fn is_macro(part: &str) -> bool {
    let name = part.trim_start().split('(').next().unwrap_or("");
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_uppercase() || c == b'_')
}
