//! The control thread.

pub mod source;
