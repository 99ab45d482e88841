//! The origin's side: connections, their pools, and the client half of HTTP/1.

mod dial;
mod h1;
mod pool;

pub use dial::dial;
pub use h1::Connection;
pub use pool::{Pools, Slot};

use std::io;

use crate::net::Passed;

/// What went wrong on the origin's side.
#[derive(Debug)]
pub enum UpstreamError {
    /// The worker has as many connections to the endpoint as it may.
    Overflow,
    /// No connection: refused, unreachable, or the TLS handshake failed.
    Connect(String),
    /// No connection within `connect_timeout`.
    ConnectTimeout,
    /// The connection ended or was reset. `answered`: after the first byte of the answer.
    Closed {
        /// Whether any byte of the answer had come.
        answered: bool,
    },
    /// What came is not HTTP.
    Protocol(&'static str),
    /// A deadline passed while we waited for the origin.
    TimedOut(Passed),
}

impl UpstreamError {
    /// The meaning of an I/O error on an established connection.
    fn of_io(error: &io::Error, answered: bool, passed: Option<Passed>) -> UpstreamError {
        match (error.kind(), passed) {
            (io::ErrorKind::TimedOut, Some(passed)) => UpstreamError::TimedOut(passed),
            (io::ErrorKind::InvalidData, _) => UpstreamError::Protocol("upstream_tls_error"),
            _ => UpstreamError::Closed { answered },
        }
    }
}
