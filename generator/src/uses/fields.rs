//! The members of the types in question, under the names that the differ has for them.

use std::collections::{BTreeSet, HashMap};

use clang::{Entity, EntityKind, EntityVisitResult, Type, TypeKind};
use memchr::memmem::Finder;

use super::tag;
use super::text::Text;

/// Nesting deeper than this is nobody's.
const MAX_DEPTH: usize = 64;

/// Clang's declarations of members and enumerators: the type's name, and theirs.
#[derive(Debug, Default)]
pub(super) struct Fields<'t> {
    known: HashMap<Entity<'t>, (String, String)>,
}

impl<'t> Fields<'t> {
    /// Looks for the definitions of `types`, also inside of others and of functions.
    pub(super) fn find(unit: &Entity<'t>, text: Text<'_>, types: &BTreeSet<String>) -> Self {
        let mut fields = Self::default();
        let tags: Vec<Finder<'_>> = types.iter().map(|of| Finder::new(tag(of))).collect();
        unit.visit_children(|entity, _| {
            // Most of a unit is bodies of functions, and who defines a type there says its name.
            if entity.get_kind() == EntityKind::FunctionDecl {
                let text = text.of(&entity).as_bytes();
                if tags.iter().all(|tag| tag.find(text).is_none()) {
                    return EntityVisitResult::Continue;
                }
            }
            if entity.is_definition() {
                fields.definition(&entity, types);
            }
            EntityVisitResult::Recurse
        });
        fields
    }

    fn definition(&mut self, entity: &Entity<'t>, types: &BTreeSet<String>) {
        let Some(of) = entity.get_type() else { return };
        let name = of.get_display_name();
        if !types.contains(&name) {
            return;
        }
        match entity.get_kind() {
            EntityKind::StructDecl | EntityKind::UnionDecl => self.members(&name, of, "", 0),
            EntityKind::EnumDecl => {
                for constant in entity.get_children() {
                    let own = constant.get_name().unwrap_or_default();
                    self.known.insert(constant, (name.clone(), own));
                }
            }
            _ => {}
        }
    }

    fn members(&mut self, name: &str, of: Type<'t>, prefix: &str, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        for field in of.get_fields().unwrap_or_default() {
            let own = field.get_name().unwrap_or_default();
            let full = match own.as_str() {
                "" => prefix.trim_end_matches('.').to_owned(),
                own => format!("{prefix}{own}"),
            };
            if let Some(inner) = field.get_type().map(|of| of.get_canonical_type())
                && is_unnamed(&inner)
            {
                let prefix = if own.is_empty() { prefix.to_owned() } else { format!("{full}.") };
                self.members(name, inner, &prefix, depth + 1);
            }
            self.known.insert(field, (name.to_owned(), full));
        }
    }

    /// Type and name of a member or enumerator, if it is one of those in question.
    pub(super) fn get(&self, field: &Entity<'t>) -> Option<&(String, String)> {
        self.known.get(field)
    }
}

fn is_unnamed(of: &Type<'_>) -> bool {
    let name = of.get_display_name();
    of.get_kind() == TypeKind::Record && (name.contains("(unnamed") || name.contains("(anonymous"))
}
