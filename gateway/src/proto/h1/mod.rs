//! HTTP/1.1 on the wire (RFC 9112), strict wherever two readers could see two different messages.

pub mod chunked;
pub mod encode;
mod error;
pub mod hop;
pub mod parse;
