//! The language of `--when`; its grammar is in `docs/policies.md`.
//!
//! [`parse`] gives an [`Expr`] in which nothing is left to be looked up: paths of cgroups are ids, arguments
//! have types, percentages have seeds. Printed, it parses to itself again.

mod error;
mod lex;
mod parse;
mod print;
mod term;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::program::{Field, IntegerType};

pub use error::LanguageError;
pub use parse::parse;

/// What an expression's names mean: how the control command looks them up.
pub trait Environment {
    /// The id of the cgroup at `path`, or why there is none, for people.
    fn cgroup(&self, path: &str) -> Result<u64, String>;
    /// What is known of an argument of the function; `index` is 0 to 5.
    fn argument(&self, index: usize) -> Argument;
    /// Which argument has this name; `index` as above. Fields have their names before arguments.
    fn named(&self, _name: &str) -> Option<usize> {
        None
    }
    /// Which tasks `percent(P)` draws if the expression does not say. It must not change when a policy is
    /// replaced by one with a greater share, so that nobody drawn before is left out: make it from the
    /// update's name.
    fn seed(&self) -> u64;
}

/// What is known of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Nothing: expressions must say its type.
    Unknown,
    /// The function has only this many.
    Absent {
        /// So many.
        count: usize,
    },
    /// Neither an integer nor a pointer.
    Other,
    /// An integer or pointer of this type.
    Integer(IntegerType),
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// `true` or `false`.
    Constant(bool),
    /// A question.
    Term(Term),
    /// `not`.
    Not(Box<Expr>),
    /// `and`, of at least two.
    All(Vec<Expr>),
    /// `or`, of at least two.
    Any(Vec<Expr>),
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// `pid < 10`.
    Compare {
        /// The left side.
        operand: Operand,
        /// The relation.
        relation: Relation,
        /// The right side, within the operand's range.
        value: i128,
    },
    /// `pid in {1, 2}`.
    In {
        /// The left side.
        operand: Operand,
        /// The right side, within the operand's range; at least one.
        values: Vec<i128>,
    },
    /// `comm == "sh"`, or `!=`.
    Comm {
        /// Whether it is `==`.
        equal: bool,
        /// The name, 1 to 15 bytes.
        name: String,
    },
    /// `comm ~ "sh*"`.
    CommStarts(String),
    /// `comm in {"sh", "bash"}`.
    CommIn(Vec<String>),
    /// `percent(0.5)`.
    Percent {
        /// The share of a million.
        of_million: u32,
        /// Which tasks are drawn.
        seed: u64,
    },
}

/// The left side of a comparison of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// What.
    pub field: Field,
    /// Its type; [`IntegerType::U64`] for all but arguments.
    pub as_type: IntegerType,
    /// The bits that count; what is left is unsigned.
    pub mask: Option<u64>,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Operand {
    /// Whether it is compared as a signed number.
    pub fn signed(&self) -> bool {
        self.mask.is_none() && self.as_type.signed()
    }

    /// The least and the greatest value it can have.
    pub fn range(&self) -> (i128, i128) {
        let unsigned = |bits: u32| (0, (1i128 << bits) - 1);
        match (self.field, self.mask) {
            // `pid_t` is an `int` that is never negative for a task.
            (Field::Pid | Field::Tgid, _) => unsigned(31),
            (Field::Uid | Field::Cpu, _) => unsigned(32),
            (_, Some(mask)) => (0, i128::from(mask)),
            (_, None) if self.as_type.signed() => {
                let half = 1i128 << (self.as_type.bits() - 1);
                (-half, half - 1)
            }
            _ => unsigned(self.as_type.bits()),
        }
    }
}

impl Relation {
    /// As it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}
