//! `gateway run --demo`.

pub mod lab;
pub mod netns;
