//! Recursive descent; every rule of the grammar in `docs/policies.md` is a method.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::lex::{Placed, Token, lex};
use super::{Environment, Expr, LanguageError, Relation};
use crate::policy::program::MAX_SOURCE;

/// How deep parentheses and `not` may be nested: far below what the stack holds.
const MAX_DEPTH: usize = 32;

pub(super) const FIELDS: &str =
    "pid, tgid, uid, cpu, cgroup, comm, time, arg1 to arg6, or percent(P)";

/// Reads an expression.
pub fn parse(text: &str, environment: &dyn Environment) -> Result<Expr, LanguageError> {
    if text.len() > MAX_SOURCE {
        let problem = format!("{} bytes of text", text.len());
        return Err(LanguageError::new(MAX_SOURCE, problem, format!("at most {MAX_SOURCE}")));
    }
    let mut parser = Parser { tokens: lex(text)?, next: 0, depth: 0, environment };
    let expr = parser.any()?;
    match parser.peek() {
        (_, Token::End) => Ok(expr),
        (at, other) => {
            let problem = format!("{} after a complete condition", other.describe());
            Err(LanguageError::new(*at, problem, "`and`, `or` or the end"))
        }
    }
}

pub(super) struct Parser<'a> {
    tokens: Vec<Placed<'a>>,
    next: usize,
    depth: usize,
    pub(super) environment: &'a dyn Environment,
}

impl<'a> Parser<'a> {
    /// The next token; at the end always the end.
    pub(super) fn peek(&self) -> &Placed<'a> {
        const END: &Placed<'_> = &(0, Token::End);
        self.tokens.get(self.next).or(self.tokens.last()).unwrap_or(END)
    }

    pub(super) fn take(&mut self) -> Placed<'a> {
        let placed = self.peek().clone();
        self.next += 1;
        placed
    }

    pub(super) fn takes(&mut self, token: &Token<'_>) -> bool {
        let is = self.peek().1 == *token;
        self.next += usize::from(is);
        is
    }

    pub(super) fn want(&mut self, symbol: &'static str) -> Result<(), LanguageError> {
        if self.takes(&Token::Symbol(symbol)) {
            return Ok(());
        }
        Err(self.unexpected(format!("`{symbol}`")))
    }

    /// An error about the next token.
    pub(super) fn unexpected(&self, expected: impl Into<alloc::string::String>) -> LanguageError {
        let (at, token) = self.peek();
        LanguageError::new(*at, token.describe(), expected)
    }

    /// `all { "or" all }`
    fn any(&mut self) -> Result<Expr, LanguageError> {
        self.chain("or", Self::all, Expr::Any)
    }

    /// `unary { "and" unary }`
    fn all(&mut self) -> Result<Expr, LanguageError> {
        self.chain("and", Self::unary, Expr::All)
    }

    fn chain(
        &mut self,
        by: &str,
        part: fn(&mut Self) -> Result<Expr, LanguageError>,
        join: fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, LanguageError> {
        let first = part(self)?;
        if self.peek().1 != Token::Word(by) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.takes(&Token::Word(by)) {
            parts.push(part(self)?);
        }
        Ok(join(parts))
    }

    /// `"not" unary | "(" any ")" | "true" | "false" | term`
    fn unary(&mut self) -> Result<Expr, LanguageError> {
        if self.depth == MAX_DEPTH {
            let problem = format!("more than {MAX_DEPTH} conditions inside one another");
            return Err(LanguageError::new(self.peek().0, problem, "fewer"));
        }
        self.depth += 1;
        let expr = self.nested();
        self.depth -= 1;
        expr
    }

    fn nested(&mut self) -> Result<Expr, LanguageError> {
        if self.takes(&Token::Word("not")) {
            return Ok(Expr::Not(Box::new(self.unary()?)));
        }
        if self.takes(&Token::Symbol("(")) {
            let inner = self.any()?;
            self.want(")")?;
            return Ok(inner);
        }
        for value in [true, false] {
            if self.takes(&Token::Word(if value { "true" } else { "false" })) {
                return Ok(Expr::Constant(value));
            }
        }
        self.term().map(Expr::Term)
    }

    /// A comparison's operator.
    pub(super) fn relation(&mut self) -> Option<Relation> {
        use Relation::*;
        let relation = match self.peek().1 {
            Token::Symbol("==") => Equal,
            Token::Symbol("!=") => NotEqual,
            Token::Symbol("<") => Less,
            Token::Symbol("<=") => LessOrEqual,
            Token::Symbol(">") => Greater,
            Token::Symbol(">=") => GreaterOrEqual,
            _ => return None,
        };
        self.next += 1;
        Some(relation)
    }

    /// `"{" item { "," item } "}"`
    pub(super) fn set<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, LanguageError>,
    ) -> Result<Vec<T>, LanguageError> {
        self.want("{")?;
        let mut items = vec![item(self)?];
        while self.takes(&Token::Symbol(",")) {
            items.push(item(self)?);
        }
        if self.takes(&Token::Symbol("}")) {
            return Ok(items);
        }
        Err(self.unexpected("`,` or `}`"))
    }
}
