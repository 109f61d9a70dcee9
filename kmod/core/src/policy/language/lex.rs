//! Text into words, numbers, strings and symbols.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::LanguageError;

/// A piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name or keyword.
    Word(&'a str),
    /// Digits as written; what they mean depends on where they stand.
    Number(&'a str),
    /// A string without its quotes.
    Text(String),
    /// One of [`SYMBOLS`].
    Symbol(&'static str),
    /// Nothing is left.
    End,
}

/// A token and the offset where it begins.
pub(super) type Placed<'a> = (usize, Token<'a>);

/// Longer ones before their prefixes.
const SYMBOLS: [&str; 14] =
    ["==", "!=", "<=", ">=", "<", ">", "(", ")", "{", "}", ",", "&", "~", "-"];

/// What people who know other languages write.
const HABITS: [(&str, &str); 4] = [("&&", "and"), ("||", "or"), ("=", "=="), ("!", "not")];

/// The tokens of `text`, with [`Token::End`] as the last.
pub(super) fn lex(text: &str) -> Result<Vec<Placed<'_>>, LanguageError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or("");
        let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        at += rest.len() - trimmed.len();
        let (token, len) = next(trimmed, at)?;
        let end = token == Token::End;
        tokens.push((at, token));
        if end {
            return Ok(tokens);
        }
        at += len;
    }
}

/// The token that `rest` begins with, and its length.
fn next(rest: &str, at: usize) -> Result<(Token<'_>, usize), LanguageError> {
    let Some(first) = rest.chars().next() else { return Ok((Token::End, 0)) };
    if first == '"' {
        return string(rest, at);
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if word(first) {
        let number = first.is_ascii_digit();
        let part = |c: char| word(c) || number && c == '.';
        let len = rest.find(|c| !part(c)).unwrap_or(rest.len());
        let text = rest.get(..len).unwrap_or(rest);
        return Ok((if number { Token::Number(text) } else { Token::Word(text) }, len));
    }
    let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
    let habit = HABITS.iter().find(|(habit, _)| rest.starts_with(habit));
    match (symbol, habit) {
        // `&&` begins with `&`, `!` is how `!=` begins.
        (symbol, Some((habit, right))) if symbol.is_none_or(|s| s.len() < habit.len()) => {
            Err(LanguageError::new(at, format!("`{habit}` is not of this language"), {
                format!("`{right}`")
            }))
        }
        (Some(symbol), _) => Ok((Token::Symbol(symbol), symbol.len())),
        (None, _) => Err(LanguageError::new(
            at,
            format!("{first:?} means nothing here"),
            "a field, a number, a string or an operator",
        )),
    }
}

/// A string in quotes; a backslash takes the next `"` or `\` as it is.
fn string(rest: &str, at: usize) -> Result<(Token<'_>, usize), LanguageError> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((offset, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Text(text), offset + 1)),
            '\\' => match chars.next() {
                Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                _ => {
                    return Err(LanguageError::new(
                        at + offset,
                        "a backslash before something that needs none",
                        "`\\\\` or `\\\"`",
                    ));
                }
            },
            c if c.is_control() => {
                let problem = "a control character in a string";
                return Err(LanguageError::new(at + offset, problem, "characters that show"));
            }
            c => text.push(c),
        }
    }
    Err(LanguageError::new(at, "a string that does not end", "`\"` at its end"))
}

impl Token<'_> {
    /// What it is, for a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Word(text) | Token::Number(text) => format!("`{text}`"),
            Token::Text(_) => String::from("a string"),
            Token::Symbol(symbol) => format!("`{symbol}`"),
            Token::End => String::from("the end"),
        }
    }
}
