//! Test harness.

pub mod lab;
