//! `dynamos.ko`: takes registered updates and moves the running kernel to their editions.
//!
//! Decisions are made in `dynamos-core`; `ffi` is the only part that touches the kernel.

#![no_std]

extern crate alloc;

mod checks;
mod directory;
pub mod ffi;
mod following;
mod handlers;
mod late;
mod layer;
mod module;
mod names;
mod policies;
mod refused;
mod replacing;
mod stacking;
mod updates;
mod watched;
mod work;
