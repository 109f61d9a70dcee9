//! What functions do with a pointer to a function that a table holds: test it, call it, or something by which it
//! outlives the look.

use std::collections::BTreeSet;

use clang::{Entity, EntityKind};

use super::fields::Fields;
use super::text::Text;

/// What happens to a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// It is asked whether it is NULL.
    Test,
    /// It is called where a test in the same function has found it not to be NULL.
    GuardedCall,
    /// It is called without that.
    Call,
    /// Its value is used otherwise: stored, passed, returned.
    Kept,
}

/// One of those.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handled {
    /// The function that does it, which others may have inlined.
    pub function: String,
    /// The type that has the member.
    pub of: String,
    /// The member.
    pub member: String,
    /// What is done.
    pub look: Look,
    /// The line.
    pub line: u32,
}

/// Expressions, without white space, that are not NULL.
type Known = BTreeSet<String>;

pub(super) struct Handlers<'a, 't> {
    text: Text<'a>,
    fields: &'a Fields<'t>,
    wanted: &'a BTreeSet<(String, String)>,
    function: String,
    pub(super) found: BTreeSet<Handled>,
}

impl<'a, 't> Handlers<'a, 't> {
    pub(super) fn new(
        text: &'a str,
        fields: &'a Fields<'t>,
        wanted: &'a BTreeSet<(String, String)>,
    ) -> Self {
        Self { text: Text(text), fields, wanted, function: String::new(), found: BTreeSet::new() }
    }

    /// Walks over all functions; an initialiser of a variable makes a table and reads none.
    pub(super) fn unit(&mut self, unit: &Entity<'t>) {
        for entity in unit.get_children() {
            self.function = entity.get_name().unwrap_or_default();
            match entity.get_kind() {
                EntityKind::FunctionDecl => {
                    for body in entity.get_children() {
                        if body.get_kind() == EntityKind::CompoundStmt {
                            self.statement(&body, &Known::new());
                        }
                    }
                }
                EntityKind::VarDecl => self.value(&entity, &Known::new()),
                _ => {}
            }
        }
    }

    fn statement(&mut self, e: &Entity<'t>, known: &Known) {
        let children = e.get_children();
        match e.get_kind() {
            EntityKind::CompoundStmt | EntityKind::StmtExpr => self.block(&children, known),
            EntityKind::IfStmt => {
                let [condition, rest @ ..] = children.as_slice() else { return };
                self.condition(condition, known);
                for (branch, sense) in rest.iter().zip([true, false]) {
                    let more = self.known_in(branch, condition, sense, known);
                    self.statement(branch, &more);
                }
            }
            EntityKind::WhileStmt => {
                let [condition, body] = children.as_slice() else { return self.all(e, known) };
                self.condition(condition, known);
                let more = self.known_in(body, condition, true, known);
                self.statement(body, &more);
            }
            _ => self.value(e, known),
        }
    }

    /// Behind `if (!x) return;` x is not NULL, up to a label, where others come from elsewhere.
    fn block(&mut self, children: &[Entity<'t>], known: &Known) {
        let mut now = known.clone();
        for child in children {
            let label = matches!(
                child.get_kind(),
                EntityKind::LabelStmt | EntityKind::CaseStmt | EntityKind::DefaultStmt
            );
            if label {
                now.clone_from(known);
            }
            self.forget(&mut now, child);
            self.statement(child, &now);
            let parts = child.get_children();
            if let (EntityKind::IfStmt, [condition, then]) = (child.get_kind(), parts.as_slice())
                && leaves(then)
            {
                let facts = self.facts(condition, false);
                now.extend(facts);
            }
        }
    }

    fn all(&mut self, e: &Entity<'t>, known: &Known) {
        for child in e.get_children() {
            self.statement(&child, known);
        }
    }

    /// An expression of which only the truth counts.
    fn condition(&mut self, e: &Entity<'t>, known: &Known) {
        let children = e.get_children();
        match e.get_kind() {
            EntityKind::ParenExpr | EntityKind::UnexposedExpr if children.len() == 1 => {
                children.iter().for_each(|child| self.condition(child, known));
            }
            EntityKind::MemberRefExpr if self.slot(e).is_some() => {
                self.note(e, Look::Test);
                self.all(e, known);
            }
            EntityKind::UnaryOperator if self.text.of(e).starts_with('!') => {
                children.iter().for_each(|child| self.condition(child, known));
            }
            EntityKind::BinaryOperator => self.binary(e, &children, known),
            EntityKind::CallExpr if is_expect(e) => {
                let skipped = children.iter().skip(1);
                skipped.for_each(|child| self.condition(child, known));
            }
            _ => self.value(e, known),
        }
    }

    fn binary(&mut self, e: &Entity<'t>, children: &[Entity<'t>], known: &Known) {
        let [left, right] = children else { return self.all(e, known) };
        match (self.text.operator(left, right).as_str(), self.text.is_null(right)) {
            (operator @ ("&&" | "||"), _) => {
                self.condition(left, known);
                let more = self.known_in(right, left, operator == "&&", known);
                self.condition(right, &more);
            }
            ("==" | "!=", true) => self.condition(left, known),
            ("==" | "!=", _) => {
                // Which one it is asks no more than whether it is one.
                for side in [left, right] {
                    if self.slot(&inner(*side)).is_some() {
                        self.condition(side, known)
                    } else {
                        self.value(side, known)
                    }
                }
            }
            _ => self.all(e, known),
        }
    }

    /// An expression or declaration whose value may be kept.
    fn value(&mut self, e: &Entity<'t>, known: &Known) {
        let children = e.get_children();
        match e.get_kind() {
            EntityKind::MemberRefExpr => {
                if self.slot(e).is_some() {
                    self.note(e, Look::Kept);
                }
                self.all(e, known);
            }
            EntityKind::UnaryOperator if self.text.of(e).starts_with('!') => {
                self.condition(e, known);
            }
            EntityKind::BinaryOperator => {
                // Of a comma, too, both sides are looked at as values.
                self.binary(e, &children, known);
            }
            EntityKind::ConditionalOperator => {
                let [condition, rest @ ..] = children.as_slice() else { return };
                self.condition(condition, known);
                for (branch, sense) in rest.iter().zip([true, false]) {
                    let more = self.known_in(branch, condition, sense, known);
                    self.value(branch, &more);
                }
            }
            EntityKind::CallExpr if is_expect(e) => self.condition(e, known),
            EntityKind::CallExpr => {
                let Some((callee, arguments)) = children.split_first() else { return };
                let called = inner(*callee);
                match self.slot(&called) {
                    Some(_) => {
                        let sure = known.contains(&self.bare(&called));
                        self.note(&called, if sure { Look::GuardedCall } else { Look::Call });
                        self.all(&called, known);
                    }
                    None => self.value(callee, known),
                }
                arguments.iter().for_each(|argument| self.value(argument, known));
            }
            // `sizeof` and `typeof` evaluate nothing.
            EntityKind::UnaryExpr => {}
            _ => self.all(e, known),
        }
    }

    /// What is not NULL if the condition is true, or false.
    fn facts(&self, e: &Entity<'t>, sense: bool) -> Known {
        let children = e.get_children();
        match e.get_kind() {
            EntityKind::ParenExpr | EntityKind::UnexposedExpr if children.len() == 1 => {
                children.first().map(|child| self.facts(child, sense)).unwrap_or_default()
            }
            EntityKind::UnaryOperator if self.text.of(e).starts_with('!') => {
                children.first().map(|child| self.facts(child, !sense)).unwrap_or_default()
            }
            EntityKind::CallExpr if is_expect(e) => {
                children.get(1).map(|child| self.facts(child, sense)).unwrap_or_default()
            }
            EntityKind::BinaryOperator => {
                let [left, right] = children.as_slice() else { return Known::new() };
                match (self.text.operator(left, right).as_str(), sense) {
                    ("&&", true) | ("||", false) => {
                        let mut both = self.facts(left, sense);
                        self.forget(&mut both, right);
                        both.extend(self.facts(right, sense));
                        both
                    }
                    ("!=", _) if self.text.is_null(right) => self.facts(left, sense),
                    ("==", _) if self.text.is_null(right) => self.facts(left, !sense),
                    _ => Known::new(),
                }
            }
            EntityKind::MemberRefExpr if sense && self.slot(e).is_some() => {
                Known::from([self.bare(e)])
            }
            _ => Known::new(),
        }
    }

    /// What is not NULL in `branch`, where the condition is true, or false.
    fn known_in(
        &self,
        branch: &Entity<'t>,
        condition: &Entity<'t>,
        sense: bool,
        known: &Known,
    ) -> Known {
        let mut more = known.clone();
        more.extend(self.facts(condition, sense));
        self.forget(&mut more, branch);
        more
    }

    /// Drops what is written with a name that gets another value in `e`, or whose address is taken there: the same words
    /// may then mean another table.
    fn forget(&self, known: &mut Known, e: &Entity<'t>) {
        if known.is_empty() {
            return;
        }
        if let Some(target) = self.assigned(e) {
            let name = words(self.text.of(&target)).last().unwrap_or_default();
            known.retain(|expression| words(expression).all(|word| word != name));
        }
        e.get_children().iter().for_each(|child| self.forget(known, child));
    }

    /// What an expression gives another value, or takes the address of.
    fn assigned(&self, e: &Entity<'t>) -> Option<Entity<'t>> {
        let children = e.get_children();
        match (e.get_kind(), children.as_slice()) {
            (EntityKind::BinaryOperator, [left, right]) => {
                (self.text.operator(left, right) == "=").then_some(*left)
            }
            (EntityKind::CompoundAssignOperator, [left, ..]) => Some(*left),
            (EntityKind::UnaryOperator, [only]) => {
                let text = self.text.of(e).trim();
                let changes = ["++", "--"].iter().any(|o| text.starts_with(o) || text.ends_with(o));
                (changes || text.starts_with('&')).then_some(*only)
            }
            _ => None,
        }
    }

    fn slot(&self, e: &Entity<'t>) -> Option<&(String, String)> {
        if e.get_kind() != EntityKind::MemberRefExpr {
            return None;
        }
        let field = self.fields.get(&e.get_reference()?)?;
        self.wanted.get(field)
    }

    fn note(&mut self, e: &Entity<'t>, look: Look) {
        let Some((of, member)) = self.slot(e).cloned() else { return };
        let line = e.get_location().map_or(0, |at| at.get_presumed_location().1);
        let function = self.function.clone();
        self.found.insert(Handled { function, of, member, look, line });
    }

    fn bare(&self, e: &Entity<'t>) -> String {
        let lines = self.text.of(e).lines().filter(|line| !line.starts_with('#'));
        lines.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect()
    }
}

/// The names in a piece of text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Without brackets, conversions and `*`, which do nothing to a function that is called.
fn inner<'t>(e: Entity<'t>) -> Entity<'t> {
    let mut e = e;
    loop {
        let children = e.get_children();
        match (e.get_kind(), children.as_slice()) {
            (
                EntityKind::ParenExpr | EntityKind::UnexposedExpr | EntityKind::UnaryOperator,
                [only],
            ) => e = *only,
            _ => return e,
        }
    }
}

fn is_expect(e: &Entity<'_>) -> bool {
    super::objects::callee(e) == "__builtin_expect"
        || e.get_name().is_some_and(|name| name == "__builtin_expect")
}

/// Whether a statement never goes on with the next one.
fn leaves(e: &Entity<'_>) -> bool {
    match e.get_kind() {
        EntityKind::ReturnStmt
        | EntityKind::GotoStmt
        | EntityKind::BreakStmt
        | EntityKind::ContinueStmt => true,
        EntityKind::CompoundStmt => e.get_children().last().is_some_and(leaves),
        _ => false,
    }
}
