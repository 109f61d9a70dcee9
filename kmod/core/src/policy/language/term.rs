//! The questions of the language, and what each field allows.

use alloc::format;
use alloc::string::String;

use super::lex::Token;
use super::parse::{FIELDS, Parser};
use super::{Argument, LanguageError, Operand, Relation, Term};
use crate::policy::program::{Field, IntegerType};

/// The longest name a task has (`TASK_COMM_LEN` less the NUL).
const MAX_COMM: usize = 15;

impl Parser<'_> {
    /// `percent | comm … | operand …`
    pub(super) fn term(&mut self) -> Result<Term, LanguageError> {
        match self.peek().1 {
            Token::Word("percent") => self.percent(),
            Token::Word("comm") => self.comm(),
            _ => self.integer(),
        }
    }

    /// `operand relation value | operand "in" set`
    fn integer(&mut self) -> Result<Term, LanguageError> {
        let operand = self.operand()?;
        if self.takes(&Token::Word("in")) {
            let values = self.set(|parser| parser.value(&operand, true))?;
            return Ok(Term::In { operand, values });
        }
        let at = self.peek().0;
        let Some(relation) = self.relation() else {
            return Err(self.unexpected("a comparison (== != < <= > >=) or `in {…}`"));
        };
        let exact = matches!(relation, Relation::Equal | Relation::NotEqual);
        if operand.field == Field::Cgroup && !exact {
            let problem = format!("`{}` of cgroups, which have no order", relation.symbol());
            return Err(LanguageError::new(at, problem, "`==`, `!=` or `in {…}`"));
        }
        let value = self.value(&operand, exact)?;
        Ok(Term::Compare { operand, relation, value })
    }

    /// `field [ "&" mask ] | type "(" argument ")" [ "&" mask ]`
    fn operand(&mut self) -> Result<Operand, LanguageError> {
        let (at, token) = self.take();
        let Token::Word(word) = token else {
            let expected = format!("a condition: {FIELDS}");
            return Err(LanguageError::new(at, token.describe(), expected));
        };
        let (field, as_type) = match IntegerType::ALL.iter().find(|t| t.name() == word) {
            Some(as_type) => {
                self.want("(")?;
                let (at, token) = self.take();
                let Token::Word(word) = token else {
                    return Err(LanguageError::new(at, token.describe(), "arg1 to arg6"));
                };
                let field = self.field(word, at)?;
                let Some(index) = field.argument() else {
                    let problem = format!("a type for `{word}`, which has one");
                    return Err(LanguageError::new(at, problem, "arg1 to arg6"));
                };
                self.want(")")?;
                (field, self.argument(index, Some(*as_type), at)?)
            }
            None => {
                let field = self.field(word, at)?;
                let as_type = match field.argument() {
                    Some(index) => self.argument(index, None, at)?,
                    None => IntegerType::U64,
                };
                (field, as_type)
            }
        };
        let mut operand = Operand { field, as_type, mask: None };
        let at = self.peek().0;
        if self.takes(&Token::Symbol("&")) {
            if matches!(field, Field::Cgroup | Field::Time) {
                let problem = format!("a mask of `{}`", field.name());
                return Err(LanguageError::new(at, problem, "a comparison"));
            }
            operand.mask = Some(self.mask(&operand)?);
        }
        Ok(operand)
    }

    /// A field by its name, or an argument by the name of the function's parameter.
    fn field(&self, word: &str, at: usize) -> Result<Field, LanguageError> {
        if let Some(field) = Field::ALL.iter().find(|field| field.name() == word) {
            return Ok(*field);
        }
        let number = word.strip_prefix("arg").and_then(|number| number.parse::<usize>().ok());
        let number = number.or_else(|| Some(self.environment.named(word)?.saturating_add(1)));
        let by_number =
            |number: usize| Field::ALL.iter().find(|f| f.argument() == number.checked_sub(1));
        let problem = match number {
            Some(number) => match by_number(number).filter(|field| field.argument().is_some()) {
                Some(field) => return Ok(*field),
                None => format!("argument {number}, which no register holds"),
            },
            None => format!("unknown field `{word}`"),
        };
        Err(LanguageError::new(at, problem, format!("one of {FIELDS}, or a parameter's name")))
    }

    /// The type in which argument `index` is compared.
    fn argument(
        &self,
        index: usize,
        asked: Option<IntegerType>,
        at: usize,
    ) -> Result<IntegerType, LanguageError> {
        let name = format!("arg{}", index + 1);
        match (self.environment.argument(index), asked) {
            (Argument::Absent { count }, _) => Err(LanguageError::new(
                at,
                format!("`{name}`, but the function has {count} arguments"),
                "one that it has",
            )),
            (Argument::Other, _) => Err(LanguageError::new(
                at,
                format!("`{name}` is neither an integer nor a pointer"),
                "one that is",
            )),
            (Argument::Unknown, None) => Err(LanguageError::new(
                at,
                format!("the type of `{name}` is not known"),
                format!(
                    "the type with it: s32({name}) for an int, u64({name}) for a pointer or an \
                     unsigned long; one of u8 u16 u32 u64 s8 s16 s32 s64"
                ),
            )),
            (Argument::Integer(declared), Some(asked)) if asked.bits() > declared.bits() => {
                Err(LanguageError::new(
                    at,
                    format!("{} bits of `{name}`, which has {}", asked.bits(), declared.bits()),
                    format!("at most that; the bits above are undefined: {}", declared.name()),
                ))
            }
            (Argument::Unknown | Argument::Integer(_), Some(asked)) => Ok(asked),
            (Argument::Integer(declared), None) => Ok(declared),
        }
    }

    fn mask(&mut self, operand: &Operand) -> Result<u64, LanguageError> {
        let at = self.peek().0;
        let mask = self.number()?;
        let bits = match operand.field {
            Field::Pid | Field::Tgid | Field::Uid | Field::Cpu => 32,
            _ => operand.as_type.bits(),
        };
        match u64::try_from(mask) {
            Ok(mask) if mask != 0 && u128::from(mask) >> bits == 0 => Ok(mask),
            _ => {
                let problem = format!("mask {mask}");
                Err(LanguageError::new(at, problem, format!("1 to {} bits that count", bits)))
            }
        }
    }

    /// A number that the operand can have, or the path of a cgroup.
    fn value(&mut self, operand: &Operand, exact: bool) -> Result<i128, LanguageError> {
        let (at, token) = self.peek().clone();
        if let Token::Text(path) = token {
            if operand.field != Field::Cgroup {
                let problem = format!("a string, but `{}` is a number", operand.field.name());
                return Err(LanguageError::new(at, problem, "a number"));
            }
            self.take();
            return self.environment.cgroup(&path).map(i128::from).map_err(|why| {
                let problem = format!("no cgroup {path:?}: {why}");
                LanguageError::new(at, problem, "the path of one that exists")
            });
        }
        let value = self.number()?;
        let (least, greatest) = operand.range();
        if value < least || value > greatest {
            let problem = format!("{value}, which `{operand}` never is");
            return Err(LanguageError::new(at, problem, format!("{least} to {greatest}")));
        }
        let outside = |mask: u64| value & !i128::from(mask) != 0;
        if exact && operand.mask.is_some_and(outside) {
            let problem = format!("{value}, which `{operand}` never is");
            return Err(LanguageError::new(at, problem, "bits of the mask only"));
        }
        Ok(value)
    }

    /// `[ "-" ] digits`
    fn number(&mut self) -> Result<i128, LanguageError> {
        let negative = self.takes(&Token::Symbol("-"));
        let (at, token) = self.take();
        let Token::Number(digits) = token else {
            return Err(LanguageError::new(at, token.describe(), "a number"));
        };
        let value = whole(digits).ok_or_else(|| {
            let problem = format!("`{digits}` is no whole number of 64 bits");
            LanguageError::new(at, problem, "digits, or 0x and hexadecimal digits")
        })?;
        Ok(if negative { -i128::from(value) } else { i128::from(value) })
    }

    /// `"percent" "(" share [ "," seed ] ")"`
    fn percent(&mut self) -> Result<Term, LanguageError> {
        self.take();
        self.want("(")?;
        let (at, token) = self.take();
        let share = match token {
            Token::Number(digits) => of_million(digits),
            _ => None,
        };
        let of_million = share.ok_or_else(|| {
            let expected = "a percentage from 0 to 100 with at most 4 decimals";
            LanguageError::new(at, token.describe(), expected)
        })?;
        let mut seed = self.environment.seed();
        if self.takes(&Token::Symbol(",")) {
            let at = self.peek().0;
            let value = self.number()?;
            seed = u64::try_from(value)
                .map_err(|_| LanguageError::new(at, format!("seed {value}"), "0 or more"))?;
        }
        self.want(")")?;
        Ok(Term::Percent { of_million, seed })
    }

    /// `"comm" ( "==" | "!=" ) name | "comm" "~" pattern | "comm" "in" set`
    fn comm(&mut self) -> Result<Term, LanguageError> {
        self.take();
        let wanted = "`==`, `!=`, `~` (a beginning) or `in {…}`";
        if self.takes(&Token::Word("in")) {
            return Ok(Term::CommIn(self.set(Self::name)?));
        }
        if self.takes(&Token::Symbol("~")) {
            return self.beginning();
        }
        let error = self.unexpected(wanted);
        match self.relation() {
            Some(Relation::Equal) => Ok(Term::Comm { equal: true, name: self.name()? }),
            Some(Relation::NotEqual) => Ok(Term::Comm { equal: false, name: self.name()? }),
            _ => Err(error),
        }
    }

    fn text(&mut self) -> Result<(usize, String), LanguageError> {
        match self.take() {
            (at, Token::Text(text)) => Ok((at, text)),
            (at, token) => {
                Err(LanguageError::new(at, token.describe(), "a name in quotes, like \"nginx\""))
            }
        }
    }

    /// A whole name.
    fn name(&mut self) -> Result<String, LanguageError> {
        let (at, name) = self.text()?;
        if name.contains('*') {
            let expected = "a whole name, or `comm ~ \"name*\"` for a beginning";
            return Err(LanguageError::new(at, "`*` in a name that must be equal", expected));
        }
        short(at, name)
    }

    /// `"name*"`.
    fn beginning(&mut self) -> Result<Term, LanguageError> {
        let (at, pattern) = self.text()?;
        match pattern.strip_suffix('*') {
            Some(prefix) if !prefix.contains(['*', '?', '[']) => {
                Ok(Term::CommStarts(short(at, String::from(prefix))?))
            }
            _ => {
                let problem = format!("pattern {pattern:?}");
                let expected = "a beginning and one `*` at its end, like \"ngin*\"";
                Err(LanguageError::new(at, problem, expected))
            }
        }
    }
}

/// `name`, if a task can have it.
fn short(at: usize, name: String) -> Result<String, LanguageError> {
    if (1..=MAX_COMM).contains(&name.len()) {
        return Ok(name);
    }
    let problem = format!("{} bytes of name", name.len());
    let expected = format!("1 to {MAX_COMM}: the kernel keeps no more of a task's name");
    Err(LanguageError::new(at, problem, expected))
}

/// Decimal or `0x` hexadecimal digits, with `_` between them.
fn whole(digits: &str) -> Option<u64> {
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    match plain.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => plain.parse().ok(),
    }
}

/// A percentage as parts of a million.
fn of_million(digits: &str) -> Option<u32> {
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    if part.len() > 4 || part.is_empty() {
        return None;
    }
    let part: u32 = format!("{part:0<4}").parse().ok()?;
    let parts = whole.parse::<u32>().ok()?.checked_mul(10_000)?.checked_add(part)?;
    (parts <= 1_000_000).then_some(parts)
}
