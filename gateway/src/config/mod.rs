//! The configuration: what the file says ([`raw`]), what is wrong with it ([`check`]) and what it means ([`model`]).
//!
//! Three types on purpose: the file's shape may be kind to people, the model's shape is kind to the code, and none is
//! used for both.

pub mod model;
