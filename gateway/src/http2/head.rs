//! Heads between the `http` crate's types, which h2 speaks, and ours.

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri, uri};

use crate::proto::authority;
use crate::proto::h1::chunked::is_allowed_trailer;
use crate::proto::h1::parse::decimal;
use crate::proto::head::{BodyLength, Headers, Known, Method, RequestHead, ResponseHead, Scheme, Version};

/// Why a request's head is refused. What breaks the protocol itself, h2 has refused before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// More fields than the limit. Counted after decompression, cookie crumbs one by one: a few bytes of HPACK make
    /// thousands of them (CVE-2026-49975).
    TooManyFields,
    /// No `:authority` and no `host`.
    NoHost,
    /// `:authority` and `host` differ, or there are several (RFC 9113 §8.3.1).
    ManyHosts,
    /// Not `host[:port]`.
    Host,
    /// No path, or one that does not begin with `/`.
    Target,
    /// CONNECT without `:protocol`: the gateway is no forward proxy.
    Connect,
    /// Extended CONNECT (RFC 8441) for something else than a WebSocket.
    Protocol,
    /// A `content-length` that is not a decimal number, or several.
    Length,
    /// An expectation other than `100-continue` (RFC 9110 §10.1.1).
    Expectation,
    /// A field name with a quote, which no token has (RFC 9110 §5.6.2) and the `http` crate lets pass.
    Name,
}

impl HeadError {
    /// The status to answer with.
    pub fn status(self) -> u16 {
        match self {
            HeadError::TooManyFields => 431,
            HeadError::Connect | HeadError::Protocol => 501,
            HeadError::Expectation => 417,
            _ => 400,
        }
    }

    /// What the access log says.
    pub fn detail(self) -> &'static str {
        match self {
            HeadError::TooManyFields => "http2.too_many_headers",
            HeadError::NoHost => "missing_host_header",
            HeadError::ManyHosts => "http2.duplicate_host",
            HeadError::Host => "http2.invalid_host",
            HeadError::Target => "http2.invalid_url",
            HeadError::Connect => "http2.connect_not_supported",
            HeadError::Protocol => "http2.protocol_not_supported",
            HeadError::Length => "http2.invalid_content_length",
            HeadError::Expectation => "http2.unsupported_expectation",
            HeadError::Name => "http2.invalid_header_name",
        }
    }
}

/// What a request's head says besides what [`RequestHead`] keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The client waits for `100 Continue`.
    pub expect_continue: bool,
    /// It is an extended CONNECT for a WebSocket. The head says GET, as the same over HTTP/1 does.
    pub websocket: bool,
}

/// Reads a request's head into `head`. `ended`: no body follows.
pub fn read_request<B>(
    request: &Request<B>,
    ended: bool,
    max_fields: usize,
    head: &mut RequestHead,
) -> Result<Received, HeadError> {
    head.clear();
    head.version = Version::Http2;
    if request.headers().len() > max_fields {
        return Err(HeadError::TooManyFields);
    }
    let mut received = Received::default();
    head.method = Method::from_token(request.method().as_str());
    if head.method == Method::Connect {
        match request.extensions().get::<Protocol>() {
            None => return Err(HeadError::Connect),
            Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") => {}
            Some(_) => return Err(HeadError::Protocol),
        }
        head.method = Method::Get;
        received.websocket = true;
    }
    read_target(request.uri(), head)?;
    read_authority(request, head)?;
    let length = read_request_fields(request.headers(), head, &mut received)?;
    head.body = match length {
        _ if received.websocket => BodyLength::Empty,
        _ if ended => BodyLength::Empty,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::Streamed,
    };
    Ok(received)
}

fn read_target(uri: &Uri, head: &mut RequestHead) -> Result<(), HeadError> {
    let target = uri.path_and_query().map_or("", uri::PathAndQuery::as_str);
    let is_asterisk = target == "*" && head.method == Method::Options;
    if !target.starts_with('/') && !is_asterisk {
        return Err(HeadError::Target);
    }
    head.target.extend_from_slice(target.as_bytes());
    Ok(())
}

fn read_authority<B>(request: &Request<B>, head: &mut RequestHead) -> Result<(), HeadError> {
    let mut hosts = request.headers().get_all(http::header::HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err(HeadError::ManyHosts);
    }
    let named = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if let (Some(named), Some(host)) = (named, host)
        && !named.eq_ignore_ascii_case(host)
    {
        return Err(HeadError::ManyHosts);
    }
    let given = named.or(host).ok_or(HeadError::NoHost)?;
    authority::normalise(given, &mut head.authority).map_err(|_| HeadError::Host)
}

/// Takes the fields over, and gives the content's length.
fn read_request_fields(
    fields: &HeaderMap,
    head: &mut RequestHead,
    received: &mut Received,
) -> Result<Option<u64>, HeadError> {
    let mut cookies = Vec::new();
    let mut length = None;
    for (name, value) in fields {
        match *name {
            http::header::HOST => {}
            http::header::CONTENT_LENGTH if length.is_some() => return Err(HeadError::Length),
            http::header::CONTENT_LENGTH => length = Some(decimal(value.as_bytes()).ok_or(HeadError::Length)?),
            http::header::EXPECT if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                received.expect_continue = true;
            }
            http::header::EXPECT => return Err(HeadError::Expectation),
            // RFC 9113 §8.2.3: crumbs become one field again for whoever is not HTTP/2.
            http::header::COOKIE => {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value.as_bytes());
            }
            _ if !is_token(name) => return Err(HeadError::Name),
            _ => head.headers.append_raw(name.as_str().as_bytes(), value.as_bytes()),
        }
    }
    if !cookies.is_empty() {
        head.headers.append(&Known::Cookie, &cookies);
    }
    Ok(length)
}

/// A request's head for an origin. `websocket`: as extended CONNECT (RFC 8441).
pub fn write_request(head: &RequestHead, scheme: Scheme, websocket: bool) -> Result<Request<()>, http::Error> {
    let target = uri::PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(&head.target))?;
    let mut parts = uri::Parts::default();
    parts.scheme = Some(match scheme {
        Scheme::Http => uri::Scheme::HTTP,
        Scheme::Https => uri::Scheme::HTTPS,
    });
    parts.authority = Some(uri::Authority::from_maybe_shared(Bytes::copy_from_slice(&head.authority))?);
    parts.path_and_query = Some(target);
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_parts(parts)?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.method_mut() = match &head.method {
        _ if websocket => http::Method::CONNECT,
        method => http::Method::from_bytes(method.as_str().as_bytes())?,
    };
    if websocket {
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    }
    *request.headers_mut() = write_fields(&head.headers);
    if let BodyLength::Known(length) = head.body {
        request.headers_mut().insert(http::header::CONTENT_LENGTH, decimal_value(length));
    }
    Ok(request)
}

/// A number in digits, in one allocation.
fn decimal_value(number: u64) -> HeaderValue {
    HeaderValue::from_bytes(itoa::Buffer::new().format(number).as_bytes()).expect("digits are a value")
}

/// Reads a response's head into `head`. `ended`: no body follows.
pub fn read_response<B>(response: &Response<B>, ended: bool, head: &mut ResponseHead) {
    head.clear();
    head.version = Version::Http2;
    head.status = response.status().as_u16();
    read_fields(response.headers(), &mut head.headers);
    head.body = match head.headers.get(&Known::ContentLength).and_then(decimal) {
        // An answer to HEAD, or a 304: the length stays as a field.
        _ if ended => BodyLength::Empty,
        Some(length) => {
            head.headers.remove(&Known::ContentLength);
            BodyLength::Known(length)
        }
        None => BodyLength::Streamed,
    };
}

/// A response's head for a client.
pub fn write_response(head: &ResponseHead, length: Option<u64>) -> Response<()> {
    let mut response = Response::new(());
    *response.version_mut() = http::Version::HTTP_2;
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.headers_mut() = write_fields(&head.headers);
    if let Some(length) = length {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, decimal_value(length));
    }
    response
}

/// Whether an HTTP/1 peer reads this name as one: all else that is no token's, h2 has refused.
fn is_token(name: &HeaderName) -> bool {
    !name.as_str().contains('"')
}

/// Takes fields over as they are, but those with a name that HTTP/1 does not know.
fn read_fields(fields: &HeaderMap, headers: &mut Headers) {
    for (name, value) in fields.iter().filter(|(name, _)| is_token(name)) {
        headers.append_raw(name.as_str().as_bytes(), value.as_bytes());
    }
}

/// Takes trailers over, but for fields that only a head may have.
pub(super) fn read_trailers(fields: &HeaderMap, trailers: &mut Headers) {
    let is_allowed = |name: &HeaderName| is_token(name) && is_allowed_trailer(name.as_str().as_bytes());
    for (name, value) in fields.iter().filter(|(name, _)| is_allowed(name)) {
        trailers.append_raw(name.as_str().as_bytes(), value.as_bytes());
    }
}

/// The fields as h2 wants them. Those that HTTP/2 forbids (RFC 9113 §8.2.2) are left out, whoever put them in.
pub(super) fn write_fields(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len() + 1);
    for (known, name, value) in headers.iter() {
        let is_forbidden = matches!(
            known,
            Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::TransferEncoding | Known::Upgrade
        );
        if is_forbidden || known == Known::Host {
            continue;
        }
        let name = known_name(known).map_or_else(|| HeaderName::from_bytes(name), Ok);
        if let (Ok(name), Ok(mut value)) = (name, HeaderValue::from_bytes(value)) {
            value.set_sensitive(is_fleeting(known, &name, value.len()));
            map.append(name, value);
        }
    }
    map
}

/// Whether the value is another one in nearly every message. HPACK shall not index it: an index of such values is walked
/// in vain for each of them, and has no room for those that come again.
fn is_fleeting(known: Known, name: &HeaderName, len: usize) -> bool {
    match known {
        Known::XRequestId | Known::GrpcTimeout | Known::Forwarded | Known::XForwardedFor => true,
        // A few milliseconds are as many values as can be indexed.
        Known::XEnvoyUpstreamServiceTime => len > 1,
        Known::Other => name == "traceparent",
        _ => false,
    }
}

/// The name as a constant, which is neither looked up nor allocated.
fn known_name(known: Known) -> Option<HeaderName> {
    Some(match known {
        Known::AcceptEncoding => http::header::ACCEPT_ENCODING,
        Known::Authorization => http::header::AUTHORIZATION,
        Known::ContentLength => http::header::CONTENT_LENGTH,
        Known::ContentType => http::header::CONTENT_TYPE,
        Known::Cookie => http::header::COOKIE,
        Known::Date => http::header::DATE,
        Known::Forwarded => http::header::FORWARDED,
        Known::GrpcTimeout => const { HeaderName::from_static("grpc-timeout") },
        Known::Location => http::header::LOCATION,
        Known::Server => http::header::SERVER,
        Known::Te => http::header::TE,
        Known::Trailer => http::header::TRAILER,
        Known::UserAgent => http::header::USER_AGENT,
        Known::Via => http::header::VIA,
        Known::XEnvoyExpectedRqTimeoutMs => const { HeaderName::from_static("x-envoy-expected-rq-timeout-ms") },
        Known::XEnvoyUpstreamServiceTime => const { HeaderName::from_static("x-envoy-upstream-service-time") },
        Known::XForwardedClientCert => const { HeaderName::from_static("x-forwarded-client-cert") },
        Known::XForwardedFor => const { HeaderName::from_static("x-forwarded-for") },
        Known::XForwardedHost => const { HeaderName::from_static("x-forwarded-host") },
        Known::XForwardedProto => const { HeaderName::from_static("x-forwarded-proto") },
        Known::XRequestId => const { HeaderName::from_static("x-request-id") },
        _ => return None,
    })
}
