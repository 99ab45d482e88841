//! The origin's side: connections, their pools, and the client half of HTTP.

mod dial;
mod h1;
mod h2;
mod pool;
mod slots;

pub use dial::{dial, dial_relay};
pub use pool::{Pools, Wanted};
pub use slots::Slot;

use std::io;

use crate::http1;
use crate::http2;
use crate::net::{Passed, Until};
use crate::proto::head::{Method, RequestHead, ResponseHead};
use crate::proto::websocket;
use crate::tls;

/// What went wrong on the origin's side.
#[derive(Clone, Debug)]
pub enum UpstreamError {
    /// The worker has as many connections to the endpoint as it may, and too many wait for one, or this one did in vain.
    Overflow,
    /// No connection: refused, unreachable, or the TLS handshake failed, which the endpoint may say late.
    Connect(String),
    /// No connection within `connect_timeout`.
    ConnectTimeout,
    /// The origin has not looked at the request, and says so: REFUSED_STREAM, or a stream above a GOAWAY's last one (RFC
    /// 9113 §8.7). It may be sent again, whatever it is.
    Refused,
    /// The origin ended the request's stream, and only that: RST_STREAM.
    Reset,
    /// The connection ended or was reset. `answered`: after the first byte of the answer.
    Closed {
        /// Whether any byte of the answer had come.
        answered: bool,
    },
    /// What came is not HTTP.
    Protocol(&'static str),
    /// The request cannot be written in the origin's version of HTTP: HTTP/1 lets targets pass that no URI has.
    Unwritable,
    /// A deadline passed while we waited for the origin.
    TimedOut(Passed),
}

impl UpstreamError {
    /// Whether the endpoint, or the way to it, is to blame: it would be a 502, 503 or 504.
    pub fn is_the_origins(&self) -> bool {
        match self {
            UpstreamError::Connect(_)
            | UpstreamError::ConnectTimeout
            | UpstreamError::Refused
            | UpstreamError::Reset
            | UpstreamError::Closed { .. }
            | UpstreamError::Protocol(_)
            | UpstreamError::TimedOut(_) => true,
            UpstreamError::Overflow | UpstreamError::Unwritable => false,
        }
    }

    /// The meaning of an I/O error on an established connection.
    pub fn of_io(error: &io::Error, answered: bool, passed: Option<Passed>) -> UpstreamError {
        match (error.kind(), passed) {
            (io::ErrorKind::TimedOut, Some(passed)) => UpstreamError::TimedOut(passed),
            (io::ErrorKind::InvalidData, _) => match tls::refusal(error).filter(|_| !answered) {
                Some(why) => UpstreamError::Connect(format!("TLS error: {why}")),
                None => UpstreamError::Protocol("upstream_tls_error"),
            },
            _ if http2::is_peers_reset(error) => UpstreamError::Reset,
            _ => UpstreamError::Closed { answered },
        }
    }
}

/// The right to send one request to an endpoint: a connection of HTTP/1, or a stream of HTTP/2.
pub enum Connection {
    /// HTTP/1
    H1(Box<h1::Connection>),
    /// HTTP/2
    H2(Box<h2::Stream>),
}

impl Connection {
    /// Whether the connection has served a request before this one.
    pub fn is_reused(&self) -> bool {
        match self {
            Connection::H1(connection) => connection.is_reused(),
            Connection::H2(stream) => stream.is_reused(),
        }
    }

    /// Begins a request: where its body goes, and where the answer comes from. The head may be held until the body's first
    /// bytes. `websocket`: it asks for one, and what would be the body is what the client says in it.
    pub fn start(
        &mut self,
        head: &RequestHead,
        websocket: bool,
    ) -> Result<(RequestSink<'_>, Answer<'_>), UpstreamError> {
        match self {
            Connection::H1(connection) => {
                let (sink, answer) = connection.start(head, websocket);
                Ok((RequestSink::H1(sink), Answer::H1(answer)))
            }
            Connection::H2(stream) => {
                let (sink, answer) = stream.start(head, websocket)?;
                Ok((RequestSink::H2(sink), Answer::H2(answer)))
            }
        }
    }
}

/// Where a request's body goes.
pub enum RequestSink<'a> {
    /// HTTP/1
    H1(http1::Sink<'a>),
    /// HTTP/2; `None` when the head was all there is.
    H2(Option<&'a mut http2::Sink>),
}

/// Where an answer comes from.
pub enum Answer<'a> {
    /// HTTP/1
    H1(h1::Answer<'a>),
    /// HTTP/2
    H2(h2::Answer<'a>),
}

/// Where an answer's body comes from.
pub enum AnswerBody<'a> {
    /// HTTP/1
    H1(http1::Source<'a>),
    /// HTTP/2
    H2(Box<http2::Source>),
}

impl<'a> Answer<'a> {
    /// Reads the head of the final answer; interim ones (1xx) are passed over.
    pub async fn head(
        &mut self,
        method: &Method,
        head: &mut ResponseHead,
        until: &Until<'_>,
    ) -> Result<(), UpstreamError> {
        match self {
            Answer::H1(answer) => answer.head(method, head, until).await,
            Answer::H2(answer) => answer.head(head, until).await,
        }
    }

    /// Whether the answer makes a WebSocket of the connection or stream. An error when it says so and cannot mean the
    /// handshake that had this `key`.
    pub fn accepts_websocket(&self, head: &ResponseHead, key: &[u8]) -> Result<bool, UpstreamError> {
        match self {
            Answer::H1(_) if head.status != 101 => Ok(false),
            Answer::H1(_) if websocket::is_accepted(&head.headers, key) => Ok(true),
            Answer::H1(_) => Err(UpstreamError::Protocol("upstream_websocket_accept_invalid")),
            Answer::H2(_) => Ok(matches!(head.status, 200..=299)),
        }
    }

    /// The answer's body, after its head.
    pub fn body(self) -> AnswerBody<'a> {
        match self {
            Answer::H1(answer) => AnswerBody::H1(answer.body()),
            Answer::H2(answer) => AnswerBody::H2(answer.body()),
        }
    }
}
