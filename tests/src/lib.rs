//! Test harness.

pub mod fuzz;
