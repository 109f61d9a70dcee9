//! Expressions into programs.
//!
//! Each condition is compiled for two targets, what follows if it holds and if not, from the last to the first:
//! so a target is always known and always later, `and`, `or` and `not` cost nothing, and nothing is asked whose
//! answer no longer matters.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::language::{Environment, Expr, LanguageError, Operand, Relation, Term, parse};
use super::program::{
    Compare, Field, MAX_SOURCE, MAX_STEPS, Step, Target, Test, comm_mask, encode,
};

/// Why there is no program for a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// The text is wrong.
    Language(LanguageError),
    /// The text is right but asks too much.
    TooManySteps {
        /// So many tests.
        steps: usize,
    },
    /// The source text is too long to go with the program.
    SourceTooLong {
        /// Its length in bytes.
        len: usize,
    },
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Language(error) => write!(f, "{error}"),
            Self::TooManySteps { steps } => write!(
                f,
                "the policy needs {steps} tests, and at most {MAX_STEPS} are made on a call: \
                 use ranges or a mask instead of sets"
            ),
            Self::SourceTooLong { len } => {
                write!(f, "the policy's text has {len} bytes, at most {MAX_SOURCE} are kept")
            }
        }
    }
}

impl core::error::Error for CompileError {}

/// The program for `text`, as bytes for the module.
pub fn compile_text(text: &str, environment: &dyn Environment) -> Result<Vec<u8>, CompileError> {
    compile(&parse(text, environment).map_err(CompileError::Language)?, text)
}

/// The program for `expr`, as bytes for the module; `source` goes with it, in one line.
pub fn compile(expr: &Expr, source: &str) -> Result<Vec<u8>, CompileError> {
    let source: String = source.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if source.len() > MAX_SOURCE {
        return Err(CompileError::SourceTooLong { len: source.len() });
    }
    let mut compiler = Compiler { backwards: Vec::new() };
    let start = compiler.condition(expr, Label::Answer(true), Label::Answer(false));
    let count = compiler.backwards.len();
    if count > MAX_STEPS {
        return Err(CompileError::TooManySteps { steps: count });
    }
    let target = |label| match label {
        Label::Answer(answer) => Target::Answer(answer),
        Label::Node(node) => Target::Step((count - 1 - node) as u8),
    };
    let steps: Vec<Step> = compiler
        .backwards
        .iter()
        .rev()
        .map(|&(test, yes, no)| Step { test, yes: target(yes), no: target(no) })
        .collect();
    Ok(encode(&steps, target(start), &source))
}

/// Where to go on, while steps are still made backwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Answer(bool),
    Node(usize),
}

struct Compiler {
    backwards: Vec<(Test, Label, Label)>,
}

impl Compiler {
    /// Where to enter to go to `yes` if `expr` holds, else to `no`.
    fn condition(&mut self, expr: &Expr, yes: Label, no: Label) -> Label {
        match expr {
            Expr::Constant(true) => yes,
            Expr::Constant(false) => no,
            Expr::Term(term) => self.term(term, yes, no),
            Expr::Not(inner) => self.condition(inner, no, yes),
            Expr::All(parts) => {
                parts.iter().rev().fold(yes, |yes, part| self.condition(part, yes, no))
            }
            Expr::Any(parts) => {
                parts.iter().rev().fold(no, |no, part| self.condition(part, yes, no))
            }
        }
    }

    fn term(&mut self, term: &Term, yes: Label, no: Label) -> Label {
        match term {
            Term::Compare { operand, relation, value } => {
                self.compare(operand, *relation, *value, yes, no)
            }
            Term::In { operand, values } => values
                .iter()
                .rev()
                .fold(no, |no, value| self.compare(operand, Relation::Equal, *value, yes, no)),
            Term::Comm { equal: true, name } => self.comm(name, true, yes, no),
            Term::Comm { equal: false, name } => self.comm(name, true, no, yes),
            Term::CommStarts(prefix) => self.comm(prefix, false, yes, no),
            Term::CommIn(names) => {
                names.iter().rev().fold(no, |no, name| self.comm(name, true, yes, no))
            }
            Term::Percent { of_million: 0, .. } => no,
            Term::Percent { of_million, seed } => {
                let below = (u64::from(*of_million) << 32) / 1_000_000;
                match u32::try_from(below) {
                    Ok(below) => self.test(Test::Percent { seed: *seed, below }, yes, no),
                    Err(_) => yes,
                }
            }
        }
    }

    /// A test, unless it does not matter.
    fn test(&mut self, test: Test, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        self.backwards.push((test, yes, no));
        Label::Node(self.backwards.len() - 1)
    }

    fn compare(
        &mut self,
        operand: &Operand,
        relation: Relation,
        value: i128,
        yes: Label,
        no: Label,
    ) -> Label {
        match relation {
            // A second is many ticks.
            Relation::Equal if operand.field == Field::Time => {
                let yes = self.less(operand, value + 1, yes, no);
                self.less(operand, value, no, yes)
            }
            Relation::Equal => self.integer(operand, Compare::Equal, value, yes, no),
            Relation::NotEqual => self.compare(operand, Relation::Equal, value, no, yes),
            Relation::Less => self.less(operand, value, yes, no),
            Relation::LessOrEqual => self.less(operand, value + 1, yes, no),
            Relation::Greater => self.less(operand, value + 1, no, yes),
            Relation::GreaterOrEqual => self.less(operand, value, no, yes),
        }
    }

    /// `operand < value`; outside the range of 64 bits the answer is known.
    fn less(&mut self, operand: &Operand, value: i128, yes: Label, no: Label) -> Label {
        let (least, greatest, compare) = match operand.signed() {
            true => (i128::from(i64::MIN), i128::from(i64::MAX), Compare::Less),
            false => (0, i128::from(u64::MAX), Compare::Below),
        };
        if value <= least {
            no
        } else if value > greatest {
            yes
        } else {
            self.integer(operand, compare, value, yes, no)
        }
    }

    fn integer(
        &mut self,
        operand: &Operand,
        compare: Compare,
        value: i128,
        yes: Label,
        no: Label,
    ) -> Label {
        let test = Test::Integer {
            field: operand.field,
            as_type: operand.as_type,
            mask: operand.mask.unwrap_or(u64::MAX),
            compare,
            // Two's complement for signed ones.
            value: value as u64,
        };
        self.test(test, yes, no)
    }

    /// Whether the task's name is `name`, or begins with it.
    fn comm(&mut self, name: &str, whole: bool, yes: Label, no: Label) -> Label {
        // The NUL belongs to a whole name, and nothing behind it.
        let len = name.len() as u8 + u8::from(whole);
        let [low_mask, high_mask] = comm_mask(len);
        let words = name.bytes().rev().fold(0u128, |words, byte| words << 8 | u128::from(byte));
        let bytes = [words as u64 & low_mask, (words >> 64) as u64 & high_mask];
        self.test(Test::Comm { bytes, len }, yes, no)
    }
}
