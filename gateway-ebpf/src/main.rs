//! The XDP object; on the host there is nothing to run.
fn main() {}
