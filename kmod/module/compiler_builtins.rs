//! Stands in for the compiler's run-time library, which every crate is linked to by name.
//!
//! It is empty: the kernel has `memcpy` and its relatives, and the module uses neither floating point
//! nor 128-bit division. Were such a routine needed after all, modpost would name it as undefined.

#![feature(compiler_builtins)]
#![allow(internal_features)]
#![compiler_builtins]
#![no_std]
