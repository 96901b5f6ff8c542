//! The types that cross the kernel boundary, and the gates as pure functions over them.
//!
//! Compiled into both sides: the kernel programs use it without `std`, user space reads the same
//! bytes from maps and rings. So what the kernel decides can be decided again, from a trace.

#![no_std]

pub mod process;

pub use process::{FileId, ProcessKey};
