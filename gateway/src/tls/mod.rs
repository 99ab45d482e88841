//! TLS over [`crate::net`]: handshakes under a deadline, and halves that look the same with and without TLS.

mod adapter;
mod failure;
mod handshake;
mod record;
mod stream;

pub use adapter::Stream;
pub use failure::{HandshakeError, HandshakeFailure};
pub use handshake::{TLS13, TlsInfo, accept, connect};
pub use stream::{Reader, Writer};
