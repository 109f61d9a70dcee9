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
    callee.contains("kmem_cache_create")
}

/// The name of the function called; empty if it is called by a pointer.
pub(super) fn callee(call: &Entity<'_>) -> String {
    let function = call.get_reference().filter(|f| f.get_kind() == EntityKind::FunctionDecl);
    function.and_then(|f| f.get_name()).unwrap_or_default()
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
