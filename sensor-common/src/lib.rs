//! The types that cross the kernel boundary, and the gates as pure functions over them.
//!
//! Compiled into both sides: the kernel programs use it without `std`, user space reads the same
//! bytes from maps and rings. So what the kernel decides can be decided again, from a trace.

#![no_std]
#![allow(
    clippy::inline_always,
    reason = "the verifier sees one loop instead of a call per step, whatever LLVM thinks of its size"
)]

pub mod brake;
pub mod event;
mod flag;
pub mod gate;
pub mod layout;
pub mod lineage;
pub mod loss;
pub mod memory;
pub mod oom;
pub mod pressure;
pub mod process;
pub mod recursion;
pub mod respawn;
pub mod signature;
pub mod storm;
pub mod witness;

pub use process::{FileId, ProcessKey};
