//! HTTP/1 messages over a connection's halves, the same for both sides: bodies in ([`Source`]) and out ([`Sink`]).
//!
//! What the bytes mean is decided in [`crate::proto::h1`]; this module moves them.

mod sink;
mod source;

pub use sink::{Framing, Sink};
pub use source::{BodyState, Source};
