//! Test harness.

pub mod fuzz;
pub mod lab;
