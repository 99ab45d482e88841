//! TLS over [`crate::net`]: handshakes under a deadline, and halves that look the same with and without TLS.

mod adapter;
mod handshake;
mod record;
mod stream;

pub use adapter::Stream;
pub use handshake::{HandshakeError, TlsInfo, accept, connect};
pub use stream::{Reader, Writer};
