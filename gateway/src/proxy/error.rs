//! What can go wrong with a request, and the one table from that to what the client gets.

use std::borrow::Cow;
use std::io;

use crate::http2;
use crate::metrics::flags::ResponseFlag;
use crate::net::Passed;
use crate::proto::grpc;
use crate::proto::h1::encode::reason;
use crate::proto::websocket::HandshakeError;
use crate::upstream::UpstreamError;

/// Why a request did not get its answer.
#[derive(Debug)]
pub enum ProxyError {
    /// The head is not a request we take.
    Head {
        /// The status that says so.
        status: u16,
        /// What is wrong with it.
        details: &'static str,
    },
    /// The path breaks the listener's policy.
    Path(&'static str),
    /// The head took too long.
    HeadTimeout,
    /// There is too much to do.
    Overloaded,
    /// The connection was made to reach another host.
    Misdirected,
    /// No route matches.
    NoRoute,
    /// The route does not allow an upgrade.
    UpgradeRefused,
    /// What asks for a WebSocket leaves room for doubt.
    WebSocket(HandshakeError),
    /// The cluster has no endpoint to try.
    NoEndpoint,
    /// The body is longer than it may be.
    BodyTooLong,
    /// The body's framing is broken.
    BodyBroken,
    /// The client stopped moving in the middle of its request.
    ClientIdle,
    /// The client is gone; nobody is left to answer.
    ClientGone,
    /// The route's time for one try is over.
    TryTimeout,
    /// The client's `grpc-timeout` is over.
    GrpcDeadline,
    /// The origin's side.
    Upstream(UpstreamError),
}

impl From<UpstreamError> for ProxyError {
    fn from(error: UpstreamError) -> Self {
        ProxyError::Upstream(error)
    }
}

impl ProxyError {
    /// An error while reading the request's body.
    pub fn reading_request(error: &io::Error, passed: Option<Passed>) -> ProxyError {
        match error.kind() {
            io::ErrorKind::TimedOut if passed == Some(Passed::End) => {
                ProxyError::Upstream(UpstreamError::TimedOut(Passed::End))
            }
            io::ErrorKind::TimedOut => ProxyError::ClientIdle,
            io::ErrorKind::InvalidData => ProxyError::BodyBroken,
            _ => ProxyError::ClientGone,
        }
    }
}

/// An answer of the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// The status; 0 when there is nobody to answer.
    pub status: u16,
    /// Why, as a flag.
    pub flag: Option<ResponseFlag>,
    /// Why, as Envoy's response code details.
    pub details: &'static str,
    /// The body.
    pub body: Cow<'static, str>,
    /// Whether `x-envoy-overloaded` tells the client that trying elsewhere may help.
    pub overloaded: bool,
    /// What a gRPC client gets, where the status alone does not say it.
    pub grpc_status: Option<u8>,
}

impl LocalReply {
    fn new(status: u16, flag: impl Into<Option<ResponseFlag>>, details: &'static str, body: &'static str) -> Self {
        LocalReply {
            status,
            flag: flag.into(),
            details,
            body: Cow::Borrowed(body),
            overloaded: false,
            grpc_status: None,
        }
    }

    /// The table. Statuses, flags, details and bodies are Envoy's where Envoy has the case.
    pub fn of(error: &ProxyError) -> LocalReply {
        use ResponseFlag as Flag;
        match error {
            ProxyError::Head { status, details } => {
                LocalReply::new(*status, Flag::DownstreamProtocolError, details, reason(*status))
            }
            ProxyError::Path(details) => LocalReply::new(400, Flag::DownstreamProtocolError, details, reason(400)),
            ProxyError::HeadTimeout => {
                LocalReply::new(408, Flag::DurationTimeout, "request_header_timeout", reason(408))
            }
            // The words are those of Envoy's overload manager.
            ProxyError::Overloaded => LocalReply::new(503, Flag::OverloadManager, "overload", "envoy overloaded"),
            ProxyError::Misdirected => LocalReply::new(421, None, "misdirected_request", reason(421)),
            ProxyError::NoRoute => LocalReply::new(404, Flag::NoRouteFound, "route_not_found", ""),
            ProxyError::UpgradeRefused => LocalReply::new(403, None, "upgrade_failed", ""),
            ProxyError::WebSocket(error) => {
                let (status, details) = (error.status(), error.detail());
                LocalReply::new(status, Flag::DownstreamProtocolError, details, reason(status))
            }
            ProxyError::GrpcDeadline => LocalReply {
                grpc_status: Some(grpc::DEADLINE_EXCEEDED),
                ..LocalReply::new(504, Flag::UpstreamRequestTimeout, "grpc_timeout", "grpc-timeout has passed")
            },
            ProxyError::TryTimeout => LocalReply::new(
                504,
                Flag::UpstreamRequestTimeout,
                "upstream_per_try_timeout",
                "upstream request timeout",
            ),
            ProxyError::NoEndpoint => {
                LocalReply::new(503, Flag::NoHealthyUpstream, "no_healthy_upstream", "no healthy upstream")
            }
            ProxyError::BodyTooLong => LocalReply::new(413, None, "request_payload_too_large", reason(413)),
            ProxyError::BodyBroken => {
                LocalReply::new(400, Flag::DownstreamProtocolError, "http1.invalid_chunk", reason(400))
            }
            ProxyError::ClientIdle => {
                LocalReply::new(408, Flag::StreamIdleTimeout, "stream_idle_timeout", "stream timeout")
            }
            ProxyError::ClientGone => {
                LocalReply::new(0, Flag::DownstreamConnectionTermination, "downstream_remote_disconnect", "")
            }
            ProxyError::Upstream(error) => of_upstream(error),
        }
    }
}

/// The flag and details of an answer that ended too early.
pub(super) fn of_broken_answer(error: &io::Error) -> (ResponseFlag, &'static str) {
    use ResponseFlag as Flag;
    if error.kind() == io::ErrorKind::InvalidData {
        (Flag::UpstreamProtocolError, "upstream_reset_after_response_started{protocol_error}")
    } else if http2::is_peers_reset(error) {
        (Flag::UpstreamRemoteReset, "upstream_reset_after_response_started{remote_reset}")
    } else {
        (Flag::UpstreamConnectionTermination, "upstream_reset_after_response_started{connection_termination}")
    }
}

fn of_upstream(error: &UpstreamError) -> LocalReply {
    use ResponseFlag as Flag;
    match error {
        UpstreamError::Overflow => LocalReply {
            overloaded: true,
            ..LocalReply::new(
                503,
                Flag::UpstreamOverflow,
                "upstream_reset_before_response_started{overflow}",
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            )
        },
        UpstreamError::Connect(_) => LocalReply::new(
            503,
            Flag::UpstreamConnectionFailure,
            "upstream_reset_before_response_started{remote_connection_failure}",
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
        ),
        UpstreamError::ConnectTimeout => LocalReply::new(
            503,
            Flag::UpstreamConnectionFailure,
            "upstream_reset_before_response_started{connection_timeout}",
            "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
        ),
        UpstreamError::Refused => LocalReply::new(
            503,
            Flag::UpstreamRemoteReset,
            "upstream_reset_before_response_started{remote_refused_stream_reset}",
            "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset",
        ),
        UpstreamError::Reset => LocalReply::new(
            503,
            Flag::UpstreamRemoteReset,
            "upstream_reset_before_response_started{remote_reset}",
            "upstream connect error or disconnect/reset before headers. reset reason: remote reset",
        ),
        UpstreamError::Closed { .. } => LocalReply::new(
            503,
            Flag::UpstreamConnectionTermination,
            "upstream_reset_before_response_started{connection_termination}",
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        ),
        UpstreamError::Protocol(_) => LocalReply::new(
            502,
            Flag::UpstreamProtocolError,
            "upstream_reset_before_response_started{protocol_error}",
            "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
        ),
        UpstreamError::Unwritable => {
            LocalReply::new(400, Flag::DownstreamProtocolError, "http2.request_cannot_be_written", reason(400))
        }
        UpstreamError::TimedOut(Passed::End) => {
            LocalReply::new(504, Flag::UpstreamRequestTimeout, "response_timeout", "upstream request timeout")
        }
        UpstreamError::TimedOut(Passed::Idle) => {
            LocalReply::new(504, Flag::StreamIdleTimeout, "stream_idle_timeout", "stream timeout")
        }
    }
}
