//! Calls by which objects are created and freed, known by how the kernel names such functions.

use clang::{Entity, EntityKind};

/// Whether a function of that name gives memory.
pub(super) fn allocates(callee: &str) -> bool {
    (callee.contains("alloc") || callee.contains("memdup")) && !frees(callee)
}

/// Whether a function of that name takes memory back, at once or after a grace period.
pub(super) fn frees(callee: &str) -> bool {
    callee.contains("free") || callee.starts_with("call_rcu")
}

/// Whether a function of that name makes a slab cache.
pub(super) fn makes_cache(callee: &str) -> bool {
    callee.contains("kmem_cache_create") || callee == "__kmem_cache_default_args"
}

/// The name of the function called; empty if it is called by a pointer.
pub(super) fn callee(call: &Entity<'_>) -> String {
    let function = function(call).or_else(|| selected(call));
    function.and_then(|f| f.get_name()).unwrap_or_default()
}

fn function<'t>(e: &Entity<'t>) -> Option<Entity<'t>> {
    e.get_reference().filter(|f| f.get_kind() == EntityKind::FunctionDecl)
}

/// The function that `_Generic` selects, which is how Linux 6.12 spells `kmem_cache_create`. Clang tells it by its type only:
/// of several of one type it may be any, and the first is as good a name.
fn selected<'t>(call: &Entity<'t>) -> Option<Entity<'t>> {
    let plain = |e: &Entity<'t>| {
        let mut e = *e;
        while matches!(e.get_kind(), EntityKind::ParenExpr | EntityKind::UnexposedExpr) {
            e = e.get_child(0)?;
        }
        Some(e)
    };
    let selection = plain(&call.get_child(0)?)?;
    if selection.get_kind() != EntityKind::GenericSelectionExpr {
        return None;
    }
    let wanted = selection.get_type()?.get_canonical_type();
    let functions = selection.get_children().into_iter().filter_map(|e| function(&plain(&e)?));
    functions.into_iter().find(|f| f.get_type().is_some_and(|of| of.get_canonical_type() == wanted))
}

/// The allocating function that is called somewhere in an expression.
pub(super) fn allocator_in(e: &Entity<'_>) -> Option<String> {
    let mut found = None;
    let mut look = |e: &Entity<'_>| {
        if e.get_kind() == EntityKind::CallExpr && allocates(&callee(e)) {
            found = Some(callee(e));
        }
        found.is_some()
    };
    if !look(e) {
        e.visit_children(|child, _| {
            if look(&child) {
                clang::EntityVisitResult::Break
            } else {
                clang::EntityVisitResult::Recurse
            }
        });
    }
    found
}
