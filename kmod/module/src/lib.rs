//! `dynamos.ko`: takes registered updates and moves the running kernel to their editions.
//!
//! Decisions are made in `dynamos-core`; `ffi` is the only part that touches the kernel.

#![no_std]

extern crate alloc;

pub mod ffi;
mod module;
