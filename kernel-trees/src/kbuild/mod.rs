//! What Kbuild knows about a prepared tree.

pub(crate) mod env;
