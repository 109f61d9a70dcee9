//! See the package description; filled in by the commits that follow.
