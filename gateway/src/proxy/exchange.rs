//! One request and its response in progress.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use crate::config::model::{ClusterId, RouteId};
use crate::filter::rate_limit::Allowance;
use crate::metrics::flags::ResponseFlags;
use crate::proto::head::{Headers, RequestHead, ResponseHead};
use crate::proto::limits;
use crate::proto::websocket::HandshakeError;
use crate::snapshot::Ask;

/// Everything that is known of a request. Requests use one after the other, so that its buffers are allocated once.
pub struct Exchange {
    /// The request; its body's length says how the body is framed.
    pub request: RequestHead,
    /// Whether the request's head was understood.
    pub understood: bool,
    /// The response as it goes to the client.
    pub response: ResponseHead,
    /// When the request's first byte was seen.
    pub started: Instant,
    /// The same on the wall clock.
    pub started_wall: SystemTime,
    /// Whether the client waits for `100 Continue`.
    pub expects_continue: bool,
    /// Whether the client asks for a WebSocket, and if so, whether it asks well.
    pub websocket: Option<Result<(), HandshakeError>>,
    /// Whether a trusted proxy vouches for what its fields claim.
    pub is_vouched: bool,
    /// From the end of the request to the end of the answer; `None` is no limit.
    pub timeout: Option<Duration>,
    /// The same to the head of an answer, for each try.
    pub try_timeout: Option<Duration>,
    /// When the client's `grpc-timeout` is over, in [`crate::net::now_ms`].
    pub grpc_deadline: Option<u64>,
    /// Whether the client can send another request after this one.
    pub client_keeps_alive: bool,
    /// The route it took.
    pub route: Option<RouteId>,
    /// The cluster it went to.
    pub cluster: Option<ClusterId>,
    /// How often it was sent.
    pub attempts: u32,
    /// Whether it was sent again after a failure that counts.
    pub is_retried: bool,
    /// The endpoint of the last attempt.
    pub upstream: Option<SocketAddr>,
    /// Why the last attempt failed, in words.
    pub upstream_failure: Option<String>,
    /// The value of a `set-cookie` field for the client; empty for none.
    pub set_cookie: Vec<u8>,
    /// What the cookie that names endpoints has to be set to.
    pub set_affinity: Option<u64>,
    /// From the request sent to the answer's head received.
    pub upstream_time: Option<Duration>,
    /// Path and query before the route rewrote them; empty when it did not.
    pub original_target: Vec<u8>,
    /// The client's address, after the header of a trusted proxy.
    pub client_ip: std::net::IpAddr,
    /// What the answer says of a rate limit.
    pub allowance: Option<Allowance>,
    /// Fields that a rate limit service adds to the answer; none for most requests.
    pub added: Option<Box<Headers>>,
    /// Where the request goes, where a filter had to know; see `Request::destination`.
    pub destination: Option<Box<(ClusterId, Ask)>>,
    /// Why it ended as it did.
    pub flags: ResponseFlags,
    /// The same in Envoy's words.
    pub details: &'static str,
    /// Whether the response's head was handed to the connection.
    pub responded: bool,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// Memory to reuse.
    pub scratch: Vec<u8>,
}

impl Exchange {
    /// No request yet.
    pub fn new(now: Instant) -> Exchange {
        Exchange {
            request: RequestHead::default(),
            understood: false,
            response: ResponseHead::default(),
            started: now,
            started_wall: SystemTime::UNIX_EPOCH,
            expects_continue: false,
            websocket: None,
            is_vouched: false,
            timeout: None,
            try_timeout: None,
            grpc_deadline: None,
            client_keeps_alive: false,
            route: None,
            cluster: None,
            attempts: 0,
            is_retried: false,
            upstream: None,
            upstream_failure: None,
            set_cookie: Vec::new(),
            set_affinity: None,
            upstream_time: None,
            original_target: Vec::new(),
            client_ip: std::net::Ipv4Addr::UNSPECIFIED.into(),
            allowance: None,
            added: None,
            destination: None,
            flags: ResponseFlags::NONE,
            details: "",
            responded: false,
            received: 0,
            sent: 0,
            scratch: Vec::new(),
        }
    }

    /// A new request begins; the memory of the last one, which was [laid to rest](Exchange::rest), is used again.
    pub fn begin(&mut self, now: Instant) {
        let last = std::mem::replace(self, Exchange::new(now));
        self.request = last.request;
        self.response = last.response;
        self.original_target = last.original_target;
        self.set_cookie = last.set_cookie;
        self.scratch = last.scratch;
        debug_assert!(self.request.target.is_empty() && self.response.headers.is_empty());
    }

    /// Forgets the messages and keeps their memory, within limits: nobody knows when the next one begins.
    pub fn rest(&mut self) {
        self.request.clear();
        self.response.clear();
        self.added = None;
        self.destination = None;
        for bytes in [&mut self.original_target, &mut self.set_cookie, &mut self.scratch] {
            bytes.clear();
            bytes.shrink_to(limits::KEPT_HEAD_BYTES);
        }
    }
}
