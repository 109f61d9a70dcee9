//! The walk over clang's tree: which member is meant, and what happens to it.

use std::collections::BTreeSet;

use clang::{Entity, EntityKind, Type, TypeKind};

use super::fields::Fields;
use super::text::Text;
use super::{Access, How, Place, Uses, objects};

/// What becomes of an expression's value.
#[derive(Clone, Copy)]
struct Mode {
    how: How,
    /// It is a pointer, and this happens to what it points to: `*&x` and `array[i]` are accesses of `x` and `array`.
    pointee: bool,
}

const READ: Mode = Mode { how: How::Read, pointee: false };

const fn plain(how: How) -> Mode {
    Mode { how, pointee: false }
}

/// Collects the uses of one preprocessed text.
pub(super) struct Walker<'a, 't> {
    text: Text<'a>,
    types: &'a BTreeSet<String>,
    fields: &'a Fields<'t>,
    function: String,
    /// Inside of `sizeof` or `typeof`, where nothing is evaluated.
    unevaluated: Option<How>,
    pub(super) uses: Uses,
}

impl<'a, 't> Walker<'a, 't> {
    pub(super) fn new(text: &'a str, types: &'a BTreeSet<String>, fields: &'a Fields<'t>) -> Self {
        let (function, uses) = (String::new(), Uses::default());
        Self { text: Text(text), types, fields, function, unevaluated: None, uses }
    }

    /// Walks over all functions and variables.
    pub(super) fn unit(&mut self, unit: &Entity<'t>) {
        for entity in unit.get_children() {
            self.function = entity.get_name().unwrap_or_default();
            match entity.get_kind() {
                EntityKind::FunctionDecl => {
                    for body in entity.get_children() {
                        if body.get_kind() == EntityKind::CompoundStmt {
                            self.walk(&body, READ);
                        }
                    }
                }
                EntityKind::VarDecl => self.variable(&entity),
                _ => {}
            }
        }
    }

    fn walk(&mut self, e: &Entity<'t>, mode: Mode) {
        let children = e.get_children();
        match e.get_kind() {
            EntityKind::ParenExpr => self.all(&children, mode),
            EntityKind::UnexposedExpr => self.unexposed(e, &children, mode),
            EntityKind::CStyleCastExpr => {
                self.created(e, &children);
                self.types_then(&children, mode);
            }
            EntityKind::UnaryOperator => self.unary(e, &children, mode),
            EntityKind::BinaryOperator => self.binary(e, &children, mode),
            EntityKind::CompoundAssignOperator => {
                self.each(&children, &[plain(How::ReadWrite), READ])
            }
            EntityKind::ConditionalOperator => self.each(&children, &[READ, mode, mode]),
            EntityKind::ArraySubscriptExpr => {
                let how = seen_through(e, mode);
                self.each(&children, &[Mode { how, pointee: true }, READ]);
            }
            EntityKind::MemberRefExpr => self.member(e, &children, mode),
            EntityKind::UnaryExpr => self.size(e, &children),
            EntityKind::CallExpr => self.call(e, &children),
            EntityKind::InitListExpr => self.initialiser(e, &children),
            EntityKind::CompoundLiteralExpr => self.types_then(&children, READ),
            EntityKind::AsmStmt => self.all(&children, plain(How::Asm)),
            EntityKind::VarDecl => self.variable(e),
            EntityKind::DeclRefExpr => {
                if let Some(constant) = e.get_reference() {
                    self.access(e, &constant, How::Read);
                }
            }
            _ => self.all(&children, READ),
        }
    }

    fn all(&mut self, children: &[Entity<'t>], mode: Mode) {
        for child in children {
            self.walk(child, mode);
        }
    }

    fn each(&mut self, children: &[Entity<'t>], modes: &[Mode]) {
        for (child, mode) in children.iter().zip(modes) {
            self.walk(child, *mode);
        }
    }

    /// The last child is the operand; what is before it belongs to a type.
    fn types_then(&mut self, children: &[Entity<'t>], mode: Mode) {
        if let Some((operand, types)) = children.split_last() {
            self.not_evaluated(types, How::Typeof);
            self.walk(operand, mode);
        }
    }

    fn not_evaluated(&mut self, children: &[Entity<'t>], how: How) {
        let before = self.unevaluated;
        self.unevaluated = before.or(Some(how));
        self.all(children, plain(how));
        self.unevaluated = before;
    }

    /// Conversions that are not written, `offsetof`, designated initialisers, and a few builtins.
    fn unexposed(&mut self, e: &Entity<'t>, children: &[Entity<'t>], mode: Mode) {
        let text = self.text.of(e);
        let how =
            if text.starts_with("__builtin_offsetof") { How::Offsetof } else { How::Initialise };
        let unevaluated = text.starts_with("__builtin_types_compatible_p");
        for child in children {
            if child.get_kind() == EntityKind::MemberRef {
                if let Some(field) = child.get_reference() {
                    self.access(child, &field, how);
                }
            } else if unevaluated {
                self.not_evaluated(std::slice::from_ref(child), How::Typeof);
            } else {
                self.walk(child, mode);
            }
        }
        self.created(e, children);
    }

    fn unary(&mut self, e: &Entity<'t>, children: &[Entity<'t>], mode: Mode) {
        let Some(operand) = children.first() else { return };
        let whole = self.text.of(e);
        let mode = if whole.starts_with("++") || whole.starts_with("--") {
            plain(How::ReadWrite)
        } else if whole.starts_with('&') {
            if mode.pointee { plain(mode.how) } else { plain(How::Address) }
        } else if whole.starts_with('*') {
            Mode { how: seen_through(e, mode), pointee: true }
        } else if whole.starts_with("__extension__") {
            mode
        } else if whole.ends_with("++") || whole.ends_with("--") {
            plain(How::ReadWrite)
        } else {
            READ
        };
        self.walk(operand, mode);
    }

    fn binary(&mut self, e: &Entity<'t>, children: &[Entity<'t>], mode: Mode) {
        let [left, right] = children else { return self.all(children, READ) };
        match self.text.operator(left, right).as_str() {
            "=" => {
                if let Some(of) = e.get_type().and_then(|of| self.value_of(&of)) {
                    self.whole(e, of, How::Copy);
                }
                self.each(children, &[plain(How::Write), READ]);
            }
            "," => self.each(children, &[READ, mode]),
            // Arithmetic with a pointer points into the same array.
            "+" | "-" if mode.pointee => self.all(children, mode),
            _ => self.all(children, READ),
        }
    }

    fn member(&mut self, e: &Entity<'t>, children: &[Entity<'t>], mode: Mode) {
        let mut how = seen_through(e, mode);
        let decays = e.get_type().is_some_and(|of| is_array(&of));
        if decays && !mode.pointee && how == How::Read {
            how = How::Address;
        }
        let mut outer = None;
        if let Some(field) = e.get_reference() {
            self.access(e, &field, how);
            outer = self.fields.get(&field).cloned();
        }
        let Some(mut base) = children.first().copied() else { return };
        // `x->u.a` is one access, that of `u.a`, where the type of `u` has no name.
        while let Some((of, member)) = &outer
            && base.get_kind() == EntityKind::MemberRefExpr
            && let Some((base_of, prefix)) = base.get_reference().and_then(|f| self.fields.get(&f))
            && of == base_of
            && (prefix.is_empty() || member.starts_with(&format!("{prefix}.")) || unnamed(&base))
            && let Some(next) = base.get_child(0)
        {
            base = next;
        }
        let arrow = base.get_type().is_some_and(|of| pointee(&of).is_some());
        self.walk(&base, Mode { how, pointee: arrow });
    }

    fn size(&mut self, e: &Entity<'t>, children: &[Entity<'t>]) {
        let pointer = self.text.of(e).contains('*');
        for child in children {
            let of = match child.get_kind() {
                // A pointer's size does not depend on what it points to.
                EntityKind::TypeRef if pointer => None,
                EntityKind::TypeRef => child.get_reference().and_then(|r| r.get_type()),
                _ => child.get_type(),
            };
            if let Some(of) = of.and_then(|of| self.value_of(&of)) {
                self.whole(e, of, How::Sizeof);
            }
        }
        self.not_evaluated(children, How::Sizeof);
    }

    fn call(&mut self, e: &Entity<'t>, children: &[Entity<'t>]) {
        let callee = objects::callee(e);
        let before: BTreeSet<Access> =
            self.uses.accesses.iter().filter(|a| a.how == How::Sizeof).cloned().collect();
        for argument in children.iter().skip(1) {
            if let Some(of) = argument.get_type().and_then(|of| self.value_of(&of)) {
                self.whole(argument, of, How::Copy);
            }
            if objects::frees(&callee)
                && let Some(of) = self.object_of(argument, &callee)
            {
                let call = self.call_of(e, of, &callee);
                self.uses.freed.extend(call);
            }
        }
        self.all(children, READ);
        let makes_cache = objects::makes_cache(&callee);
        if makes_cache || objects::allocates(&callee) {
            let sizes = self.uses.accesses.difference(&before);
            let sized: BTreeSet<String> = sizes
                .filter(|a| a.how == How::Sizeof && a.member.is_empty())
                .map(|a| a.of.clone())
                .collect();
            for of in sized {
                let call = self.call_of(e, of, &callee);
                let list = if makes_cache { &mut self.uses.caches } else { &mut self.uses.created };
                list.extend(call);
            }
            let returned = e.get_type().and_then(|of| pointee(&of));
            if let Some(of) = returned.and_then(|of| self.value_of(&of)) {
                let call = self.call_of(e, of, &callee);
                self.uses.created.extend(call);
            }
        }
    }

    /// The type of the object that an argument of a freeing function stands for.
    fn object_of(&self, argument: &Entity<'t>, callee: &str) -> Option<String> {
        let mut e = *argument;
        loop {
            if let Some(of) =
                e.get_type().and_then(|of| pointee(&of)).and_then(|of| self.value_of(&of))
            {
                return Some(of);
            }
            let children = e.get_children();
            let next = children.last()?;
            match e.get_kind() {
                EntityKind::ParenExpr | EntityKind::UnexposedExpr | EntityKind::CStyleCastExpr => {
                    e = *next;
                }
                // What is freed after a grace period is given by its `rcu_head`.
                EntityKind::UnaryOperator if callee.contains("rcu") => e = *next,
                EntityKind::MemberRefExpr if callee.contains("rcu") => {
                    return e
                        .get_reference()
                        .and_then(|f| self.fields.get(&f))
                        .map(|f| f.0.clone());
                }
                _ => return None,
            }
        }
    }

    /// Notes what `e` makes a pointer to one of the types of: an allocator's `void *` is an object's creation, anything
    /// else may be an object already.
    fn created(&mut self, e: &Entity<'t>, children: &[Entity<'t>]) {
        let Some(operand) = children.last() else { return };
        let Some(of) = e.get_type().and_then(|of| pointee(&of)).and_then(|of| self.value_of(&of))
        else {
            return;
        };
        let from = operand.get_type();
        let same = from.as_ref().and_then(|from| pointee(from).or_else(|| from.get_element_type()));
        if same.and_then(|from| self.value_of(&from)).as_ref() == Some(&of) {
            return;
        }
        if let Some(callee) = objects::allocator_in(operand) {
            let call = self.call_of(e, of, &callee);
            self.uses.created.extend(call);
        } else if !self.text.is_null(operand) {
            let overlay = self.call_of(e, of, "");
            self.uses.overlays.extend(overlay);
        }
    }

    fn initialiser(&mut self, e: &Entity<'t>, children: &[Entity<'t>]) {
        let designated = children.iter().any(|child| {
            child.get_children().iter().any(|c| c.get_kind() == EntityKind::MemberRef)
        });
        if !designated && let Some(of) = e.get_type().and_then(|of| self.value_of(&of)) {
            self.whole(e, of, How::Initialise);
        }
        self.all(children, READ);
    }

    fn variable(&mut self, e: &Entity<'t>) {
        let children = e.get_children();
        let name_at = e.get_location().map(|at| at.get_file_location().offset as usize);
        let end = self.text.extent(e).map(|(_, end)| end);
        for child in &children {
            let extent = self.text.extent(child);
            let is_value = child.is_expression()
                && extent.is_some_and(|(start, last)| Some(start) > name_at && Some(last) == end);
            if !is_value {
                self.not_evaluated(std::slice::from_ref(child), How::Typeof);
                continue;
            }
            if child.get_kind() != EntityKind::InitListExpr
                && let Some(of) = e.get_type().and_then(|of| self.value_of(&of))
            {
                self.whole(child, of, How::Copy);
            }
            self.walk(child, READ);
        }
    }

    fn access(&mut self, e: &Entity<'t>, field: &Entity<'t>, how: How) {
        let Some((of, member)) = self.fields.get(field).cloned() else { return };
        self.note(e, of, member, how);
    }

    fn whole(&mut self, e: &Entity<'t>, of: String, how: How) {
        self.note(e, of, String::new(), how);
    }

    fn note(&mut self, e: &Entity<'t>, of: String, member: String, how: How) {
        let Some(at) = self.place(e) else { return };
        let how = self.unevaluated.unwrap_or(how);
        let function = self.function.clone();
        self.uses.accesses.insert(Access { of, member, how, function, at });
    }

    fn call_of(&self, e: &Entity<'t>, of: String, callee: &str) -> Option<super::Call> {
        let (function, callee) = (self.function.clone(), callee.to_owned());
        Some(super::Call { of, function, callee, at: self.place(e)? })
    }

    /// The name of a type in question, if a value (or array of values) of type `of` is one.
    fn value_of(&self, of: &Type<'t>) -> Option<String> {
        let mut of = of.get_canonical_type();
        while let Some(element) = is_array(&of).then(|| of.get_element_type()).flatten() {
            of = element.get_canonical_type();
        }
        let name = of.get_declaration()?.get_type()?.get_display_name();
        self.types.contains(&name).then_some(name)
    }

    fn place(&self, e: &Entity<'t>) -> Option<Place> {
        let (file, line, _) = e.get_location()?.get_presumed_location();
        let file = file.strip_prefix("./").map_or(file.clone(), str::to_owned);
        Some(Place { file, line, extent: self.text.extent(e)? })
    }
}

/// What happens to `e` where something happens to what it points to: an array is that itself, a pointer is read.
fn seen_through(e: &Entity<'_>, mode: Mode) -> How {
    let array = e.get_type().is_some_and(|of| is_array(&of));
    if mode.pointee && !array && mode.how != How::Asm { How::Read } else { mode.how }
}

fn unnamed(e: &Entity<'_>) -> bool {
    e.get_name().is_none_or(|name| name.is_empty())
}

fn is_array(of: &Type<'_>) -> bool {
    matches!(
        of.get_canonical_type().get_kind(),
        TypeKind::ConstantArray | TypeKind::IncompleteArray | TypeKind::VariableArray
    )
}

fn pointee<'t>(of: &Type<'t>) -> Option<Type<'t>> {
    of.get_canonical_type().get_pointee_type()
}
