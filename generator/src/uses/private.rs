//! Whether a table stays within the functions that name it: nothing else can have been given its address.

use clang::{Entity, EntityKind, EntityVisitResult, StorageClass, Type, TypeKind};

/// `Err` says how the address of `table`, or of an element or member of it, may get out. Judged by types alone: the
/// elements' struct belongs to `source`, and no pointer to one is kept, handed over, or taken for anything else.
pub(super) fn stays_within(unit: &Entity<'_>, table: &str, source: &str) -> Result<(), String> {
    let of_that_name: Vec<Entity<'_>> = unit
        .get_children()
        .into_iter()
        .filter(|e| e.get_kind() == EntityKind::VarDecl && e.get_name().as_deref() == Some(table))
        .collect();
    let [variable] = of_that_name.as_slice() else {
        return Err("is not declared once, outside of functions".into());
    };
    if variable.get_storage_class() != Some(StorageClass::Static) {
        return Err("is not static".into());
    }
    let element = variable.get_type().map(|of| element_of(&of));
    let Some(element) = element.filter(|of| of.get_kind() == TypeKind::Record) else {
        return Err("has no structs as elements".into());
    };
    let declared = element.get_declaration();
    let home = declared.and_then(|e| e.get_location()).map(|at| at.get_presumed_location().0);
    if home.as_deref().map(|file| file.strip_prefix("./").unwrap_or(file)) != Some(source) {
        return Err("has elements of a type that other sources know".into());
    }
    let plain = declared.and_then(|e| e.get_type());
    let name = plain.map(|of| of.get_display_name()).unwrap_or_default();
    let check = Check { variable: *variable, name };
    let mut found = Ok(());
    unit.visit_children(|e, parent| {
        found = check.entity(&e, &parent);
        if found.is_ok() { EntityVisitResult::Recurse } else { EntityVisitResult::Break }
    });
    found
}

struct Check<'t> {
    variable: Entity<'t>,
    /// The element's type, without qualifiers.
    name: String,
}

impl<'t> Check<'t> {
    fn entity(&self, e: &Entity<'t>, parent: &Entity<'t>) -> Result<(), String> {
        let of = e.get_type();
        let mentions = of.as_ref().is_some_and(|of| self.mentions(of, 0));
        match e.get_kind() {
            EntityKind::FieldDecl if mentions => return Err(kept("a member", e)),
            EntityKind::ParmDecl if mentions => return Err(kept("a parameter", e)),
            EntityKind::FunctionDecl if mentions => return Err(kept("the result of", e)),
            EntityKind::TypedefDecl if mentions => return Err(kept("the type", e)),
            EntityKind::VarDecl if mentions && *e != self.variable && lasts(e, parent) => {
                return Err(kept("the variable", e));
            }
            // Of a member, the address: it points into the table.
            EntityKind::MemberRefExpr
                if self.is_within(e) && (is_array(&of) || takes_address(parent)) =>
            {
                return Err(kept("the address of a member,", e));
            }
            EntityKind::AsmStmt if e.get_children().iter().any(|part| self.reaches(part)) => {
                return Err("is used in assembly".into());
            }
            _ => {}
        }
        // An expression that points into the table and whose parent makes something else of it.
        let points = e.is_expression() && of.as_ref().is_some_and(|of| self.points(of));
        let into = parent.get_type();
        let converted = parent.is_expression()
            && matches!(
                parent.get_kind(),
                EntityKind::UnexposedExpr | EntityKind::CStyleCastExpr | EntityKind::ParenExpr
            )
            && !into.as_ref().is_some_and(|of| self.points(of) || self.is_element(of));
        if points && converted {
            return Err("a pointer to an element is converted to another type".into());
        }
        // Variable arguments are handed over as they are.
        if points && parent.get_kind() == EntityKind::CallExpr {
            return Err("a pointer to an element is handed over".into());
        }
        Ok(())
    }

    /// Whether an expression is a member of an element, at any depth.
    fn is_within(&self, e: &Entity<'t>) -> bool {
        e.get_child(0).is_some_and(|base| {
            let of = base.get_type();
            of.is_some_and(|of| self.points(&of) || self.is_element(&of))
                || base.get_kind() == EntityKind::MemberRefExpr && self.is_within(&base)
        })
    }

    fn reaches(&self, e: &Entity<'t>) -> bool {
        e.get_type().is_some_and(|of| self.points(&of) || self.is_element(&of))
            || e.get_children().iter().any(|child| self.reaches(child))
    }

    fn is_element(&self, of: &Type<'t>) -> bool {
        let of = of.get_canonical_type();
        of.get_declaration().and_then(|e| e.get_type()).is_some_and(|plain| {
            of.get_kind() == TypeKind::Record && plain.get_display_name() == self.name
        })
    }

    /// Whether it is a pointer to, or an array of, elements.
    fn points(&self, of: &Type<'t>) -> bool {
        let of = of.get_canonical_type();
        let inner = of.get_pointee_type().or_else(|| of.get_element_type());
        inner.is_some_and(|inner| self.is_element(&inner) || self.points(&inner))
    }

    /// Whether a type is made of the elements' one, a pointer to it, or a function that takes or gives such.
    fn mentions(&self, of: &Type<'t>, depth: usize) -> bool {
        // Deeper types are nobody's; in doubt they do.
        if depth > 16 {
            return true;
        }
        let of = of.get_canonical_type();
        let deeper = |of: Type<'t>| self.mentions(&of, depth + 1);
        self.is_element(&of)
            || of.get_pointee_type().is_some_and(deeper)
            || of.get_element_type().is_some_and(deeper)
            || of.get_result_type().is_some_and(deeper)
            || of.get_argument_types().unwrap_or_default().into_iter().any(deeper)
    }
}

/// Whether a variable outlives the call, or may be seen by others.
fn lasts(e: &Entity<'_>, parent: &Entity<'_>) -> bool {
    parent.get_kind() == EntityKind::TranslationUnit
        || !matches!(e.get_storage_class(), None | Some(StorageClass::None | StorageClass::Auto))
}

fn takes_address(parent: &Entity<'_>) -> bool {
    // `&` is not told apart from `!` and `*` here; those make no pointer.
    parent.get_kind() == EntityKind::UnaryOperator
        && parent.get_type().is_some_and(|of| of.get_pointee_type().is_some())
}

fn is_array(of: &Option<Type<'_>>) -> bool {
    of.as_ref().is_some_and(|of| of.get_canonical_type().get_element_type().is_some())
}

fn element_of<'t>(of: &Type<'t>) -> Type<'t> {
    let mut of = of.get_canonical_type();
    while let Some(element) = of.get_element_type() {
        of = element.get_canonical_type();
    }
    of
}

fn kept(what: &str, e: &Entity<'_>) -> String {
    format!("{what} {} may keep a pointer into it", e.get_name().unwrap_or_default())
}
