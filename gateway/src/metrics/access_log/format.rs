//! Envoy's access log format strings.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::escape;
use super::record::Record;
use super::timestamp::{self, Layout};
use crate::proto::head::{HeaderName, Headers};
use crate::proto::x509::{Identity, hex};

/// Envoy's default line.
pub const DEFAULT_FORMAT: &str = concat!(
    r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% "#,
    r#"%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "#,
    r#""%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%""#,
);

/// A compiled format string.
#[derive(Clone, Debug, PartialEq)]
pub struct Format(Box<[Part]>);

/// What is wrong with a format string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// Byte offset of the operator.
    pub at: usize,
    /// What is wrong and what to write.
    pub message: String,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.at + 1, self.message)
    }
}

impl std::error::Error for FormatError {}

impl Format {
    /// Compiles a format string. One line feed at the end is dropped: every line gets its own.
    pub fn compile(text: &str) -> Result<Format, FormatError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let (mut parts, mut literal, mut at) = (Vec::new(), Vec::new(), 0);
        while let Some(length) = memchr::memchr(b'%', &text.as_bytes()[at..]) {
            literal.extend_from_slice(&text.as_bytes()[at..at + length]);
            at += length;
            if text[at..].starts_with("%%") {
                literal.push(b'%');
                at += 2;
                continue;
            }
            let command = Command::parse(&text[at..]).map_err(|message| FormatError { at, message })?;
            let operator = command.compile().map_err(|message| FormatError { at, message })?;
            push_literal(&mut parts, &mut literal);
            parts.push(Part::Operator(operator));
            at += command.length;
        }
        literal.extend_from_slice(&text.as_bytes()[at..]);
        push_literal(&mut parts, &mut literal);
        Ok(Format(parts.into()))
    }

    /// Appends the text of `record`, without a line feed. Missing values are `-`.
    pub fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Operator(operator) => operator.write(record, out),
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Literal(Box<[u8]>),
    Operator(Operator),
}

fn push_literal(parts: &mut Vec<Part>, literal: &mut Vec<u8>) {
    if !literal.is_empty() {
        parts.push(Part::Literal(std::mem::take(literal).into()));
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Operator {
    StartTime(Option<Layout>),
    Field(Lookup),
    Text(TextOf),
    Number(NumberOf),
    Address(AddressOf, AddressPart),
    Peer(PeerPart),
    Flags,
}

/// What a client's certificate says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum PeerPart {
    Subject,
    Issuer,
    Serial,
    Fingerprint256,
    UriSan,
    DnsSan,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum TextOf {
    Protocol,
    Details,
    UpstreamCluster,
    UpstreamFailure,
    Route,
    Sni,
    TlsVersion,
    RequestId,
    Hostname,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum NumberOf {
    Status,
    BytesReceived,
    BytesSent,
    DurationMs,
    RequestDurationMs,
    ResponseDurationMs,
    UpstreamAttempts,
    ConnectionId,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum AddressOf {
    Client,
    Peer,
    Local,
    UpstreamHost,
    UpstreamLocal,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum AddressPart {
    Whole,
    Ip,
    Port,
}

/// Every operator without an argument.
const PLAIN: &[(&str, Operator)] = {
    use {
        AddressOf::{Client, Local, UpstreamHost, UpstreamLocal},
        AddressPart::*,
        NumberOf as N,
        Operator::*,
        TextOf as T,
    };
    &[
        ("PROTOCOL", Text(T::Protocol)),
        ("RESPONSE_CODE", Number(N::Status)),
        ("RESPONSE_FLAGS", Flags),
        ("RESPONSE_CODE_DETAILS", Text(T::Details)),
        ("BYTES_RECEIVED", Number(N::BytesReceived)),
        ("BYTES_SENT", Number(N::BytesSent)),
        ("DURATION", Number(N::DurationMs)),
        ("REQUEST_DURATION", Number(N::RequestDurationMs)),
        ("RESPONSE_DURATION", Number(N::ResponseDurationMs)),
        ("UPSTREAM_HOST", Address(UpstreamHost, Whole)),
        ("UPSTREAM_REMOTE_ADDRESS", Address(UpstreamHost, Whole)),
        ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Address(UpstreamHost, Ip)),
        ("UPSTREAM_REMOTE_PORT", Address(UpstreamHost, Port)),
        ("UPSTREAM_LOCAL_ADDRESS", Address(UpstreamLocal, Whole)),
        ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Address(UpstreamLocal, Ip)),
        ("UPSTREAM_LOCAL_PORT", Address(UpstreamLocal, Port)),
        ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Number(N::UpstreamAttempts)),
        ("UPSTREAM_CLUSTER", Text(T::UpstreamCluster)),
        ("UPSTREAM_TRANSPORT_FAILURE_REASON", Text(T::UpstreamFailure)),
        ("ROUTE_NAME", Text(T::Route)),
        ("DOWNSTREAM_REMOTE_ADDRESS", Address(Client, Whole)),
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Address(Client, Ip)),
        ("DOWNSTREAM_REMOTE_PORT", Address(Client, Port)),
        ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Address(AddressOf::Peer, Whole)),
        ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Address(AddressOf::Peer, Ip)),
        ("DOWNSTREAM_DIRECT_REMOTE_PORT", Address(AddressOf::Peer, Port)),
        ("DOWNSTREAM_LOCAL_ADDRESS", Address(Local, Whole)),
        ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Address(Local, Ip)),
        ("DOWNSTREAM_LOCAL_PORT", Address(Local, Port)),
        ("REQUESTED_SERVER_NAME", Text(T::Sni)),
        ("DOWNSTREAM_TLS_VERSION", Text(T::TlsVersion)),
        ("DOWNSTREAM_PEER_SUBJECT", Peer(PeerPart::Subject)),
        ("DOWNSTREAM_PEER_ISSUER", Peer(PeerPart::Issuer)),
        ("DOWNSTREAM_PEER_SERIAL", Peer(PeerPart::Serial)),
        ("DOWNSTREAM_PEER_FINGERPRINT_256", Peer(PeerPart::Fingerprint256)),
        ("DOWNSTREAM_PEER_URI_SAN", Peer(PeerPart::UriSan)),
        ("DOWNSTREAM_PEER_DNS_SAN", Peer(PeerPart::DnsSan)),
        ("CONNECTION_ID", Number(N::ConnectionId)),
        ("STREAM_ID", Text(T::RequestId)),
        ("HOSTNAME", Text(T::Hostname)),
    ]
};

/// The operators that may or must have one.
const WITH_ARGUMENT: [&str; 4] = ["START_TIME", "REQ", "RESP", "TRAILER"];

// === impl Operator ===

impl Operator {
    fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            Operator::StartTime(None) => timestamp::rfc3339_ms(record.start_unix_us, out),
            Operator::StartTime(Some(layout)) => layout.write(record.start_unix_us, out),
            Operator::Field(lookup) => lookup.write(record, out),
            Operator::Text(of) => or_dash(of.value(record), out, escape::text),
            Operator::Number(of) => or_dash(of.value(record), out, number),
            Operator::Address(of, part) => or_dash(of.value(record), out, |value, out| part.write(value, out)),
            Operator::Peer(part) => {
                let text = record.identity.map(|identity| part.value(identity)).filter(|text| !text.is_empty());
                or_dash(text.as_deref().map(str::as_bytes), out, escape::text);
            }
            Operator::Flags => record.flags.write(out),
        }
    }
}

impl PeerPart {
    fn value(self, identity: &Identity) -> Cow<'_, str> {
        match self {
            PeerPart::Subject => Cow::Borrowed(&identity.subject),
            PeerPart::Issuer => Cow::Borrowed(&identity.issuer),
            PeerPart::Serial => Cow::Borrowed(&identity.serial),
            PeerPart::Fingerprint256 => Cow::Owned(hex(&identity.sha256)),
            PeerPart::UriSan => Cow::Owned(identity.uris.join(",")),
            PeerPart::DnsSan => Cow::Owned(identity.dns.join(",")),
        }
    }
}

impl TextOf {
    fn value<'a>(self, record: &Record<'a>) -> Option<&'a [u8]> {
        let text = match self {
            TextOf::RequestId => return record.request_id(),
            TextOf::Protocol => record.protocol.map(|version| version.as_str()),
            TextOf::Details => record.details,
            TextOf::UpstreamCluster => record.upstream_cluster,
            TextOf::UpstreamFailure => record.upstream_failure,
            TextOf::Route => record.route,
            TextOf::Sni => record.sni,
            TextOf::TlsVersion => record.tls_version,
            TextOf::Hostname => Some(record.hostname),
        };
        text.map(str::as_bytes)
    }
}

impl NumberOf {
    fn value(self, record: &Record<'_>) -> Option<u64> {
        match self {
            NumberOf::Status => Some(record.status.into()),
            NumberOf::BytesReceived => Some(record.bytes_received),
            NumberOf::BytesSent => Some(record.bytes_sent),
            NumberOf::DurationMs => Some(record.duration_us / 1000),
            NumberOf::RequestDurationMs => record.request_duration_us.map(|us| us / 1000),
            NumberOf::ResponseDurationMs => record.response_duration_us.map(|us| us / 1000),
            NumberOf::UpstreamAttempts => Some(record.upstream_attempts.into()),
            NumberOf::ConnectionId => Some(record.connection_id),
        }
    }
}

impl AddressOf {
    fn value(self, record: &Record<'_>) -> Option<SocketAddr> {
        match self {
            AddressOf::Client => Some(record.client()),
            AddressOf::Peer => Some(record.downstream_peer),
            AddressOf::Local => Some(record.downstream_local),
            AddressOf::UpstreamHost => record.upstream_host,
            AddressOf::UpstreamLocal => record.upstream_local,
        }
    }
}

impl AddressPart {
    fn write(self, value: SocketAddr, out: &mut Vec<u8>) {
        match self {
            AddressPart::Whole => address(value, out),
            AddressPart::Ip => ip(value.ip(), out),
            AddressPart::Port => number(value.port().into(), out),
        }
    }
}

fn or_dash<T>(value: Option<T>, out: &mut Vec<u8>, write: impl FnOnce(T, &mut Vec<u8>)) {
    match value {
        Some(value) => write(value, out),
        None => out.push(b'-'),
    }
}

fn number(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends `192.0.2.1:80` or `[2001:db8::1]:80`.
pub(super) fn address(value: SocketAddr, out: &mut Vec<u8>) {
    let brackets = value.is_ipv6();
    out.extend_from_slice(if brackets { b"[" } else { b"" });
    ip(value.ip(), out);
    out.extend_from_slice(if brackets { b"]:" } else { b":" });
    number(value.port().into(), out);
}

/// IPv4 without the formatting machinery, which costs more than the rest of the line's numbers together.
fn ip(value: IpAddr, out: &mut Vec<u8>) {
    match value {
        IpAddr::V4(value) => {
            for (at, octet) in value.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                number(octet.into(), out);
            }
        }
        // Writing to a vector cannot fail.
        IpAddr::V6(value) => drop(write!(out, "{value}")),
    }
}

/// `(X?Y):Z` of `%REQ`, `%RESP` and `%TRAILER`: the first of the two that is there, cut after Z bytes.
#[derive(Clone, Debug, PartialEq)]
struct Lookup {
    field: Field,
    alternative: Option<Field>,
    limit: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Method,
    Path,
    OriginalPath,
    Authority,
    Scheme,
    RequestId,
    Request(HeaderName),
    Status,
    ServiceTime,
    Response(HeaderName),
    Trailer(HeaderName),
}

impl Lookup {
    fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        let value = self.field.value(record).or_else(|| self.alternative.as_ref()?.value(record));
        let mut digits = itoa::Buffer::new();
        let text = match value {
            Some(Value::Text(text)) => text,
            Some(Value::Number(number)) => digits.format(number).as_bytes(),
            None => return out.push(b'-'),
        };
        escape::text(&text[..text.len().min(self.limit)], out);
    }
}

enum Value<'a> {
    Text(&'a [u8]),
    Number(u64),
}

impl Field {
    fn value<'a>(&self, record: &Record<'a>) -> Option<Value<'a>> {
        let text = match self {
            Field::Status => return Some(Value::Number(record.status.into())),
            Field::ServiceTime => return record.upstream_service_us.map(|us| Value::Number(us / 1000)),
            Field::Method => record.request.map(|head| head.method.as_str().as_bytes()),
            Field::Path => record.request.map(|head| head.target.as_slice()),
            Field::OriginalPath => record.original_target,
            Field::Authority => record.authority(),
            Field::Scheme => record.request.map(|_| record.scheme().as_bytes()),
            Field::RequestId => record.request_id(),
            Field::Request(name) => header(record.request.map(|head| &head.headers), name),
            Field::Response(name) => header(record.response_headers, name),
            Field::Trailer(name) => header(record.response_trailers, name),
        };
        text.map(Value::Text)
    }
}

fn header<'a>(headers: Option<&'a Headers>, name: &HeaderName) -> Option<&'a [u8]> {
    headers.and_then(|headers| headers.get(name))
}

// === compiling ===

/// `%NAME(ARGUMENT):LIMIT%`, cut out of the format string.
struct Command<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    limit: Option<&'a str>,
    /// Bytes with both percent signs.
    length: usize,
}

impl<'a> Command<'a> {
    fn parse(text: &'a str) -> Result<Command<'a>, String> {
        let no_operator = || "this '%' begins no operator; write %% for a percent sign".to_owned();
        let body = &text[1..];
        let name_len = body.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let (name, rest) = body.split_at(name_len);
        if name.is_empty() {
            return Err(no_operator());
        }
        let (argument, rest) = match rest.strip_prefix('(') {
            Some(rest) => {
                let (argument, rest) = rest.split_once(')').ok_or_else(|| format!("%{name}( has no closing ')'"))?;
                (Some(argument), rest)
            }
            None => (None, rest),
        };
        let end = rest.find('%').ok_or_else(no_operator)?;
        let limit = match &rest[..end] {
            "" => None,
            between => Some(between.strip_prefix(':').ok_or_else(no_operator)?),
        };
        Ok(Command { name, argument, limit, length: text.len() - rest.len() + end + 1 })
    }

    fn compile(&self) -> Result<Operator, String> {
        match self.name {
            "START_TIME" => self.start_time(),
            "REQ" => self.lookup(request_field),
            "RESP" => self.lookup(response_field),
            "TRAILER" => self.lookup(|name| header_name(name).map(Field::Trailer)),
            name => self.plain(name),
        }
    }

    fn start_time(&self) -> Result<Operator, String> {
        self.no_limit()?;
        let Some(layout) = self.argument.filter(|layout| !layout.is_empty()) else {
            return Ok(Operator::StartTime(None));
        };
        let layout = Layout::compile(layout).map_err(|(_, specifier)| {
            format!("%START_TIME({layout})%: {specifier} is no time specifier, such as %Y, %H, %3f; write %% for a percent sign")
        })?;
        Ok(Operator::StartTime(Some(layout)))
    }

    fn lookup(&self, field: impl Fn(&str) -> Result<Field, String>) -> Result<Operator, String> {
        let name = self.name;
        let argument = self.argument.ok_or_else(|| format!("%{name}% needs a header's name: %{name}(NAME)%"))?;
        let (first, alternative) = match argument.split_once('?') {
            Some((first, second)) => (first, Some(field(second)?)),
            None => (argument, None),
        };
        let limit = match self.limit {
            Some(digits) => digits.parse().map_err(|_| format!("':{digits}' is no number of bytes"))?,
            None => usize::MAX,
        };
        Ok(Operator::Field(Lookup { field: field(first)?, alternative, limit }))
    }

    fn plain(&self, name: &str) -> Result<Operator, String> {
        let known = PLAIN.iter().find(|(known, _)| *known == name);
        let (_, operator) = known.ok_or_else(|| unknown(name))?;
        if self.argument.is_some() {
            return Err(format!("%{name}% takes no argument"));
        }
        self.no_limit()?;
        Ok(operator.clone())
    }

    fn no_limit(&self) -> Result<(), String> {
        self.limit
            .map_or(Ok(()), |_| Err(format!("%{}% cannot be cut: ':' goes with REQ, RESP and TRAILER", self.name)))
    }
}

fn unknown(name: &str) -> String {
    let names = PLAIN.iter().map(|(name, _)| *name).chain(WITH_ARGUMENT);
    let nearest = names
        .map(|known| (strsim::jaro_winkler(&name.to_ascii_uppercase(), known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((score, known)) if score > 0.8 => format!("unknown operator %{name}%; did you mean %{known}%?"),
        _ => format!("unknown operator %{name}%"),
    }
}

fn request_field(name: &str) -> Result<Field, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => Field::Method,
        ":path" => Field::Path,
        ":authority" | "host" => Field::Authority,
        ":scheme" => Field::Scheme,
        // The gateway's own knowledge, never what a client wrote into a field of that name.
        "x-envoy-original-path" => Field::OriginalPath,
        "x-request-id" => Field::RequestId,
        _ => Field::Request(header_name(name)?),
    })
}

fn response_field(name: &str) -> Result<Field, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":status" => Field::Status,
        "x-envoy-upstream-service-time" => Field::ServiceTime,
        _ => Field::Response(header_name(name)?),
    })
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::new(name).ok_or_else(|| match name.strip_prefix(':') {
        Some(_) => format!("{name} is not a pseudo-header of this message"),
        None => format!("'{name}' is no header name"),
    })
}

#[cfg(test)]
mod tests;
