//! Version-neutral message heads.
//!
//! A [`Headers`] keeps every name and value in one byte arena with a small index beside it, so that a connection
//! reuses the same two allocations for each message, a lookup of a known header compares one byte, and names are
//! lower case whichever protocol they came from (HTTP/2 demands it, RFC 9113 §8.2.1; HTTP/1 does not care).

use std::fmt;

use super::limits;

/// Header names the gateway itself reads or writes, so that finding them costs a one-byte comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Known {
    /// Any name that is not in this list.
    Other = 0,
    /// `accept-encoding`
    AcceptEncoding,
    /// `authorization`
    Authorization,
    /// `connection`
    Connection,
    /// `content-length`
    ContentLength,
    /// `content-type`
    ContentType,
    /// `cookie`
    Cookie,
    /// `date`
    Date,
    /// `expect`
    Expect,
    /// `forwarded`
    Forwarded,
    /// `grpc-status`
    GrpcStatus,
    /// `grpc-timeout`
    GrpcTimeout,
    /// `host`
    Host,
    /// `keep-alive`
    KeepAlive,
    /// `location`
    Location,
    /// `proxy-authenticate`
    ProxyAuthenticate,
    /// `proxy-authorization`
    ProxyAuthorization,
    /// `proxy-connection`
    ProxyConnection,
    /// `retry-after`
    RetryAfter,
    /// `sec-websocket-accept`
    SecWebsocketAccept,
    /// `sec-websocket-key`
    SecWebsocketKey,
    /// `sec-websocket-version`
    SecWebsocketVersion,
    /// `server`
    Server,
    /// `set-cookie`
    SetCookie,
    /// `te`
    Te,
    /// `trailer`
    Trailer,
    /// `transfer-encoding`
    TransferEncoding,
    /// `upgrade`
    Upgrade,
    /// `user-agent`
    UserAgent,
    /// `via`
    Via,
    /// `x-envoy-expected-rq-timeout-ms`
    XEnvoyExpectedRqTimeoutMs,
    /// `x-envoy-original-path`
    XEnvoyOriginalPath,
    /// `x-envoy-upstream-rq-per-try-timeout-ms`
    XEnvoyUpstreamRqPerTryTimeoutMs,
    /// `x-envoy-upstream-rq-timeout-ms`
    XEnvoyUpstreamRqTimeoutMs,
    /// `x-envoy-upstream-service-time`
    XEnvoyUpstreamServiceTime,
    /// `x-forwarded-client-cert`
    XForwardedClientCert,
    /// `x-forwarded-for`
    XForwardedFor,
    /// `x-forwarded-host`
    XForwardedHost,
    /// `x-forwarded-proto`
    XForwardedProto,
    /// `x-request-id`
    XRequestId,
}

impl Known {
    /// The known name equal to `lower` (already lower case), or [`Known::Other`].
    pub fn of(lower: &[u8]) -> Known {
        match lower {
            b"accept-encoding" => Known::AcceptEncoding,
            b"authorization" => Known::Authorization,
            b"connection" => Known::Connection,
            b"content-length" => Known::ContentLength,
            b"content-type" => Known::ContentType,
            b"cookie" => Known::Cookie,
            b"date" => Known::Date,
            b"expect" => Known::Expect,
            b"forwarded" => Known::Forwarded,
            b"grpc-status" => Known::GrpcStatus,
            b"grpc-timeout" => Known::GrpcTimeout,
            b"host" => Known::Host,
            b"keep-alive" => Known::KeepAlive,
            b"location" => Known::Location,
            b"proxy-authenticate" => Known::ProxyAuthenticate,
            b"proxy-authorization" => Known::ProxyAuthorization,
            b"proxy-connection" => Known::ProxyConnection,
            b"retry-after" => Known::RetryAfter,
            b"sec-websocket-accept" => Known::SecWebsocketAccept,
            b"sec-websocket-key" => Known::SecWebsocketKey,
            b"sec-websocket-version" => Known::SecWebsocketVersion,
            b"server" => Known::Server,
            b"set-cookie" => Known::SetCookie,
            b"te" => Known::Te,
            b"trailer" => Known::Trailer,
            b"transfer-encoding" => Known::TransferEncoding,
            b"upgrade" => Known::Upgrade,
            b"user-agent" => Known::UserAgent,
            b"via" => Known::Via,
            b"x-envoy-expected-rq-timeout-ms" => Known::XEnvoyExpectedRqTimeoutMs,
            b"x-envoy-original-path" => Known::XEnvoyOriginalPath,
            b"x-envoy-upstream-rq-per-try-timeout-ms" => Known::XEnvoyUpstreamRqPerTryTimeoutMs,
            b"x-envoy-upstream-rq-timeout-ms" => Known::XEnvoyUpstreamRqTimeoutMs,
            b"x-envoy-upstream-service-time" => Known::XEnvoyUpstreamServiceTime,
            b"x-forwarded-client-cert" => Known::XForwardedClientCert,
            b"x-forwarded-for" => Known::XForwardedFor,
            b"x-forwarded-host" => Known::XForwardedHost,
            b"x-forwarded-proto" => Known::XForwardedProto,
            b"x-request-id" => Known::XRequestId,
            _ => Known::Other,
        }
    }

    /// The name's text; empty for [`Known::Other`].
    pub fn text(self) -> &'static str {
        match self {
            Known::Other => "",
            Known::AcceptEncoding => "accept-encoding",
            Known::Authorization => "authorization",
            Known::Connection => "connection",
            Known::ContentLength => "content-length",
            Known::ContentType => "content-type",
            Known::Cookie => "cookie",
            Known::Date => "date",
            Known::Expect => "expect",
            Known::Forwarded => "forwarded",
            Known::GrpcStatus => "grpc-status",
            Known::GrpcTimeout => "grpc-timeout",
            Known::Host => "host",
            Known::KeepAlive => "keep-alive",
            Known::Location => "location",
            Known::ProxyAuthenticate => "proxy-authenticate",
            Known::ProxyAuthorization => "proxy-authorization",
            Known::ProxyConnection => "proxy-connection",
            Known::RetryAfter => "retry-after",
            Known::SecWebsocketAccept => "sec-websocket-accept",
            Known::SecWebsocketKey => "sec-websocket-key",
            Known::SecWebsocketVersion => "sec-websocket-version",
            Known::Server => "server",
            Known::SetCookie => "set-cookie",
            Known::Te => "te",
            Known::Trailer => "trailer",
            Known::TransferEncoding => "transfer-encoding",
            Known::Upgrade => "upgrade",
            Known::UserAgent => "user-agent",
            Known::Via => "via",
            Known::XEnvoyExpectedRqTimeoutMs => "x-envoy-expected-rq-timeout-ms",
            Known::XEnvoyOriginalPath => "x-envoy-original-path",
            Known::XEnvoyUpstreamRqPerTryTimeoutMs => "x-envoy-upstream-rq-per-try-timeout-ms",
            Known::XEnvoyUpstreamRqTimeoutMs => "x-envoy-upstream-rq-timeout-ms",
            Known::XEnvoyUpstreamServiceTime => "x-envoy-upstream-service-time",
            Known::XForwardedClientCert => "x-forwarded-client-cert",
            Known::XForwardedFor => "x-forwarded-for",
            Known::XForwardedHost => "x-forwarded-host",
            Known::XForwardedProto => "x-forwarded-proto",
            Known::XRequestId => "x-request-id",
        }
    }
}

/// A header name from the configuration: lower case, checked against RFC 9110 §5.1 `token`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderName {
    known: Known,
    text: Box<str>,
}

impl HeaderName {
    /// Lower-cases and checks `text`; `None` when it is empty or has a byte that no field name may have.
    pub fn new(text: &str) -> Option<HeaderName> {
        if text.is_empty() || !text.bytes().all(is_token_byte) {
            return None;
        }
        let text = text.to_ascii_lowercase().into_boxed_str();
        Some(HeaderName { known: Known::of(text.as_bytes()), text })
    }

    /// The lower-case text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// Something that names a header: a [`Known`] name or a configured [`HeaderName`].
pub trait Name {
    /// The index byte.
    fn known(&self) -> Known;
    /// The lower-case text.
    fn bytes(&self) -> &[u8];
}

impl Name for Known {
    fn known(&self) -> Known {
        *self
    }
    fn bytes(&self) -> &[u8] {
        self.text().as_bytes()
    }
}

impl Name for HeaderName {
    fn known(&self) -> Known {
        self.known
    }
    fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// RFC 9110 §5.6.2 `tchar`.
pub fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
}

/// A byte that may stand in a field value: RFC 9110 §5.5, so no NUL, CR, LF or other control but the tab.
pub fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[derive(Clone, Copy)]
struct Field {
    name_at: u32,
    value_at: u32,
    value_len: u32,
    name_len: u16,
    known: Known,
}

/// The fields of one message, in the order they came, names in lower case.
///
/// Removed fields leave their bytes in the arena until [`Headers::clear`]; a message is short-lived.
#[derive(Clone, Default)]
pub struct Headers {
    arena: Vec<u8>,
    fields: Vec<Field>,
}

impl Headers {
    /// Forgets every field and keeps the memory, up to [`limits::KEPT_HEAD_BYTES`].
    pub fn clear(&mut self) {
        self.arena.clear();
        self.arena.shrink_to(limits::KEPT_HEAD_BYTES);
        self.fields.clear();
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Adds a field that came from the network; the name is lower-cased on the way in.
    ///
    /// The parser has checked both parts; they are not checked again.
    pub fn append_raw(&mut self, name: &[u8], value: &[u8]) {
        let name_at = self.arena.len();
        self.arena.extend_from_slice(name);
        self.arena[name_at..].make_ascii_lowercase();
        let known = Known::of(&self.arena[name_at..]);
        self.push_value(name_at, name.len(), known, value);
    }

    /// Adds a field after those that are there, whether or not the name is present already.
    pub fn append(&mut self, name: &impl Name, value: &[u8]) {
        let name_at = self.arena.len();
        self.arena.extend_from_slice(name.bytes());
        self.push_value(name_at, name.bytes().len(), name.known(), value);
    }

    /// Removes every field of that name and adds this one.
    pub fn set(&mut self, name: &impl Name, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Removes every field of that name; says whether there was one.
    pub fn remove(&mut self, name: &impl Name) -> bool {
        let before = self.fields.len();
        let (known, bytes) = (name.known(), name.bytes());
        let arena = &self.arena;
        self.fields.retain(|field| !field.is(arena, known, bytes));
        self.fields.len() != before
    }

    /// The first value of that name.
    pub fn get(&self, name: &impl Name) -> Option<&[u8]> {
        let (known, bytes) = (name.known(), name.bytes());
        self.fields.iter().find(|field| field.is(&self.arena, known, bytes)).map(|field| field.value(&self.arena))
    }

    /// Every value of that name, in order.
    pub fn get_all<'a, N: Name>(&'a self, name: &'a N) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let (known, bytes) = (name.known(), name.bytes());
        self.fields
            .iter()
            .filter(move |field| field.is(&self.arena, known, bytes))
            .map(|field| field.value(&self.arena))
    }

    /// Whether there is a field of that name.
    pub fn contains(&self, name: &impl Name) -> bool {
        self.get(name).is_some()
    }

    /// Every field: index byte, name, value.
    pub fn iter(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.fields.iter().map(|field| (field.known, field.name(&self.arena), field.value(&self.arena)))
    }

    /// Keeps the fields for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(Known, &[u8], &[u8]) -> bool) {
        let arena = &self.arena;
        self.fields.retain(|field| keep(field.known, field.name(arena), field.value(arena)));
    }

    fn push_value(&mut self, name_at: usize, name_len: usize, known: Known, value: &[u8]) {
        let value_at = self.arena.len();
        self.arena.extend_from_slice(value);
        // The head limits (`proto::limits`) keep every offset far below 4 GiB and every name below 64 KiB.
        self.fields.push(Field {
            name_at: name_at as u32,
            value_at: value_at as u32,
            value_len: value.len() as u32,
            name_len: name_len as u16,
            known,
        });
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter().map(|(_, name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value))),
            )
            .finish()
    }
}

impl Field {
    fn is(&self, arena: &[u8], known: Known, bytes: &[u8]) -> bool {
        self.known == known && (known != Known::Other || self.name(arena) == bytes)
    }

    fn name<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.name_at as usize..][..self.name_len as usize]
    }

    fn value<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.value_at as usize..][..self.value_len as usize]
    }
}

/// A request method. Methods are case-sensitive (RFC 9110 §9.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Method {
    /// GET
    #[default]
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// OPTIONS
    Options,
    /// PATCH
    Patch,
    /// TRACE
    Trace,
    /// CONNECT
    Connect,
    /// Any other token.
    Other(Box<str>),
}

impl Method {
    /// The method named by `text`, which the caller knows to be a token.
    pub fn from_token(text: &str) -> Method {
        match text {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            "TRACE" => Method::Trace,
            "CONNECT" => Method::Connect,
            other => Method::Other(other.into()),
        }
    }

    /// The method's text.
    pub fn as_str(&self) -> &str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Trace => "TRACE",
            Method::Connect => "CONNECT",
            Method::Other(text) => text,
        }
    }

    /// Whether doing it twice is the same as doing it once (RFC 9110 §9.2.2), so that it may be sent again.
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options | Method::Trace)
    }
}

/// The HTTP version a message was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

impl Version {
    /// The version as access logs write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
    }
}

/// The scheme of a target URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// The scheme's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// How the message says its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BodyLength {
    /// There is no body.
    #[default]
    Empty,
    /// Exactly this many bytes.
    Known(u64),
    /// The framing says when it ends (chunked, HTTP/2 END_STREAM); trailers may follow.
    Streamed,
    /// The end of the connection ends it (HTTP/1 responses only, RFC 9112 §6.3 rule 8).
    UntilClose,
}

impl BodyLength {
    /// Whether no byte of body will come, whether the message says so (`content-length: 0`) or says nothing.
    pub fn is_empty(self) -> bool {
        matches!(self, BodyLength::Empty | BodyLength::Known(0))
    }
}

/// The head of a request, whichever protocol it came in.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The version it came in.
    pub version: Version,
    /// Host and optional port as the client named them: `Host`, the absolute form's authority, or `:authority`.
    /// The `host` field itself is not among `headers`.
    pub authority: Vec<u8>,
    /// Path and query, normalised; begins with `/`, or is `*` for OPTIONS.
    pub target: Vec<u8>,
    /// The fields, without `host`, `content-length`, `transfer-encoding` and `expect`.
    pub headers: Headers,
    /// How the body ends.
    pub body: BodyLength,
}

impl RequestHead {
    /// Forgets the message and keeps the memory.
    pub fn clear(&mut self) {
        self.method = Method::Get;
        self.version = Version::Http11;
        self.authority.clear();
        self.target.clear();
        self.headers.clear();
        self.body = BodyLength::Empty;
    }

    /// The target up to the `?`.
    pub fn path(&self) -> &[u8] {
        let end = memchr::memchr(b'?', &self.target).unwrap_or(self.target.len());
        &self.target[..end]
    }

    /// The target after the `?`.
    pub fn query(&self) -> Option<&[u8]> {
        memchr::memchr(b'?', &self.target).map(|at| &self.target[at + 1..])
    }

    /// The first value of a query parameter, as the Gateway API recommends and Envoy does. Bytes as written; a parameter
    /// without `=` has the empty value.
    pub fn param(&self, name: &[u8]) -> Option<&[u8]> {
        self.query()?.split(|&byte| byte == b'&').find_map(|param| {
            let rest = param.strip_prefix(name)?;
            if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"=") }
        })
    }
}

/// The head of a response, whichever protocol it came in.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// The version it came in.
    pub version: Version,
    /// The fields. `content-length` is among them only when it says how long a body would be that does not come (an
    /// answer to HEAD, or 304): then `body` is [`BodyLength::Empty`].
    pub headers: Headers,
    /// How the body ends.
    pub body: BodyLength,
}

impl ResponseHead {
    /// Forgets the message and keeps the memory.
    pub fn clear(&mut self) {
        self.status = 0;
        self.version = Version::Http11;
        self.headers.clear();
        self.body = BodyLength::Empty;
    }
}
