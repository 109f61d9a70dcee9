//! A function's parameters, as the record has them: `(file:u64 flags:s32 rest:other)`.
//!
//! `other` is what does not come in one register, and all that follows it: which registers those are in depends on
//! more than their types.

use super::program::{Field, IntegerType, Program, Test};

/// What the argument registers hold on entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters<'a>(&'a str);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    /// Its name; empty if it has none.
    pub name: &'a str,
    /// Its type; `None` if it does not come in one register as an integer.
    pub integer: Option<IntegerType>,
}

impl<'a> Parameters<'a> {
    /// Reads them; `None` if they are not known.
    pub fn parse(text: &'a str) -> Option<Self> {
        text.strip_prefix('(')?.strip_suffix(')').map(Self)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Parameter<'a>> {
        self.0.split_ascii_whitespace().map(|word| {
            let (name, type_name) = word.rsplit_once(':').unwrap_or(("", word));
            let integer = IntegerType::ALL.iter().copied().find(|kind| kind.name() == type_name);
            Parameter { name, integer }
        })
    }

    /// The first argument that `program` asks for and that the function does not have as it is asked for.
    pub fn first_misuse(&self, program: &Program) -> Option<Field> {
        program.steps().iter().find_map(|step| {
            let Test::Integer { field, as_type, .. } = step.test else { return None };
            let declared = self.iter().nth(field.argument()?).and_then(|found| found.integer);
            let fits = declared.is_some_and(|declared| as_type.bits() <= declared.bits());
            (!fits).then_some(field)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::program;

    #[test]
    fn words_are_names_and_types() {
        assert_eq!(Parameters::parse(""), None);
        assert_eq!(Parameters::parse("()").unwrap().iter().count(), 0);
        let parameters = Parameters::parse("(file:u64 u32 rest:other)").unwrap();
        let found: Vec<_> = parameters.iter().map(|p| (p.name, p.integer)).collect();
        let expected =
            [("file", Some(IntegerType::U64)), ("", Some(IntegerType::U32)), ("rest", None)];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_argument_that_is_not_there_is_found() {
        let parameters = Parameters::parse("(file:u64 flags:s32 rest:other)").unwrap();
        let misuse = |text| parameters.first_misuse(&program(text));
        assert_eq!(misuse("pid == 1 and u64(arg1) == 0 and s16(arg2) < 0"), None);
        assert_eq!(misuse("s64(arg2) < 0"), Some(Field::Arg2));
        assert_eq!(misuse("true and u8(arg3) == 0"), Some(Field::Arg3));
        assert_eq!(misuse("u8(arg5) == 0"), Some(Field::Arg5));
    }
}
