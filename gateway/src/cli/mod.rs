//! The command line: one file for each command, its core a function from inputs to text.

pub mod check;
pub mod schema;
