//! How the parts of HTTP are written.

use regex::bytes::{Regex, RegexBuilder};

use super::{is_dns_name, schema};
use crate::config::decode::{Decode, FromText, Node, Problem, keywords};
use crate::config::model::{EncodedSlashes, HostPattern, Pattern, RetryOn, UpstreamProtocol};
use crate::config::report::Diagnostics;
use crate::proto::head;

/// The name of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName(pub head::HeaderName);

schema!(HeaderName, "header name", { "type": "string", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" });

impl FromText for HeaderName {
    fn from_text(text: &str) -> Result<Self, Problem> {
        head::HeaderName::new(text).map(HeaderName).ok_or_else(|| {
            let help = "letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 section 5.6.2)";
            match text.char_indices().find(|&(_, c)| !c.is_ascii() || !head::is_token_byte(c as u8)) {
                Some((at, c)) => {
                    Problem::new(format!("a header name cannot have {c:?} in it"), help).at(at..at + c.len_utf8())
                }
                None => Problem::new("a header name cannot be empty", help),
            }
        })
    }
}

/// The value of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderValue(pub String);

schema!(HeaderValue, "header value", { "type": "string" });

impl FromText for HeaderValue {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if let Some((at, c)) = text.char_indices().find(|&(_, c)| c.is_ascii() && !head::is_value_byte(c as u8)) {
            let help = "control characters would end the field, or hide another one in it";
            return Err(Problem::new(format!("a header value cannot have {c:?} in it"), help).at(at..at + 1));
        }
        if text.trim_matches([' ', '\t']) != text {
            let help = "RFC 9110 section 5.5: whitespace around a value is not part of it";
            return Err(Problem::new("a header value cannot begin or end with whitespace", help));
        }
        Ok(HeaderValue(text.to_owned()))
    }
}

/// What a proxy calls itself in `via`: RFC 9110 section 7.6.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pseudonym(pub String);

schema!(Pseudonym, "token", { "type": "string", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" });

impl FromText for Pseudonym {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if text.is_empty() || !text.bytes().all(head::is_token_byte) {
            return Err(Problem::new(format!("{text:?} is not a pseudonym"), "one word, such as \"edge-1\""));
        }
        Ok(Pseudonym(text.to_owned()))
    }
}

/// A request method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(pub head::Method);

schema!(Method, "method", { "type": "string", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" });

impl FromText for Method {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if text.is_empty() || !text.bytes().all(head::is_token_byte) {
            return Err(Problem::new(format!("{text:?} is not a method"), "for example \"GET\""));
        }
        let upper = text.to_ascii_uppercase();
        let standard = !matches!(head::Method::from_token(&upper), head::Method::Other(_));
        if standard && upper != text {
            return Err(Problem::new(
                format!("{text:?} would never match: methods are case-sensitive"),
                format!("did you mean `{upper}`?"),
            ));
        }
        Ok(Method(head::Method::from_token(text)))
    }
}

/// A path of a URL: begins with `/`, has no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPath(pub String);

schema!(UrlPath, "URL path", { "type": "string", "pattern": "^/[^?#\\s]*$" });

impl FromText for UrlPath {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if !text.starts_with('/') {
            return Err(Problem::new(format!("{text:?} does not begin with `/`"), format!("write \"/{text}\"")));
        }
        let wrong = |c: char| !c.is_ascii_graphic() || c == '?' || c == '#';
        match text.char_indices().find(|&(_, c)| wrong(c)) {
            None => Ok(UrlPath(text.to_owned())),
            Some((at, c)) => {
                let help = match c {
                    '?' => "the query is matched by `query`",
                    '#' => "a fragment is never sent to a server",
                    _ => "write it percent-encoded, as clients send it",
                };
                Err(Problem::new(format!("a path cannot have {c:?} in it"), help).at(at..at + c.len_utf8()))
            }
        }
    }
}

/// `"example.com"`, `"*.example.com"`, `"*"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host(pub HostPattern);

schema!(Host, "host", { "type": "string", "minLength": 1 });

impl FromText for Host {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let lower = text.to_ascii_lowercase();
        if text == "*" {
            return Ok(Host(HostPattern::Any));
        }
        if let Some(parent) = lower.strip_prefix('*').filter(|rest| rest.strip_prefix('.').is_some_and(is_dns_name)) {
            return Ok(Host(HostPattern::Suffix(parent.to_owned())));
        }
        if is_host(&lower) && !lower.ends_with('.') {
            return Ok(Host(HostPattern::Exact(lower)));
        }
        Err(Problem::new(format!("{text:?} is not a host"), host_help(text)))
    }
}

/// A name, an IPv4 address, or an IPv6 one in brackets.
fn is_host(text: &str) -> bool {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_dns_name(text) || text.parse::<std::net::Ipv4Addr>().is_ok(),
    }
}

fn host_help(text: &str) -> &'static str {
    if !text.is_ascii() {
        "write it as clients send it, in punycode (\"xn--…\")"
    } else if text.contains("://") || text.contains('/') {
        "only the host: no scheme and no path"
    } else if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        "without the port: a route serves the host on every port of its listeners"
    } else if text.ends_with('.') {
        "without the dot at the end: it is ignored in requests"
    } else if text.contains('*') {
        "a wildcard stands for whole labels at the beginning, as in \"*.example.com\"; \"*\" alone is any host"
    } else {
        "for example \"example.com\", \"*.example.com\" or \"*\""
    }
}

/// A host, with or without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(pub String);

schema!(Authority, "host or host:port", { "type": "string", "minLength": 1 });

impl FromText for Authority {
    fn from_text(text: &str) -> Result<Self, Problem> {
        let host = match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => host,
            _ => text,
        };
        if is_host(host) {
            return Ok(Authority(text.to_ascii_lowercase()));
        }
        let help = "for example \"example.com\" or \"example.com:8080\"";
        Err(Problem::new(format!("{text:?} is not a host"), help))
    }
}

/// A host without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(pub String);

schema!(HostName, "host name", { "type": "string", "minLength": 1 });

impl FromText for HostName {
    fn from_text(text: &str) -> Result<Self, Problem> {
        match Host::from_text(text)?.0 {
            HostPattern::Exact(host) => Ok(HostName(host)),
            _ => Err(Problem::new(format!("{text:?} is not one host"), "no wildcard here")),
        }
    }
}

/// A regular expression in the syntax of the `regex` crate. It matches the whole text.
#[derive(Clone, Debug)]
pub struct Expression(pub Pattern);

schema!(Expression, "regex", { "type": "string", "format": "regex" });

/// How much memory one compiled expression may take: enough for any path, and a thousand of them still fit.
const MAX_REGEX_BYTES: usize = 1 << 20;

impl FromText for Expression {
    fn from_text(text: &str) -> Result<Self, Problem> {
        // Parsed alone first: errors have the user's positions, and "a)(b" cannot slip through the group below.
        regex_syntax::ast::parse::Parser::new().parse(text).map_err(|error| {
            let message = format!("not a regular expression: {}", error.kind());
            let at = error.span().start.offset..error.span().end.offset;
            Problem::new(message, "the syntax is that of the Rust `regex` crate").at(at)
        })?;
        anchored(text).map(|regex| Expression(Pattern(regex))).map_err(|error| {
            let reason = match error {
                regex::Error::CompiledTooBig(limit) => format!("it needs more than {limit} bytes of memory"),
                other => other.to_string().lines().last().unwrap_or_default().replace("error: ", ""),
            };
            Problem::new(format!("this regular expression cannot be used: {reason}"), "use a simpler one")
        })
    }
}

fn anchored(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{text})$")).size_limit(MAX_REGEX_BYTES).build()
}

keywords!(RetryOn {
    "5xx" => RetryOn::ServerError,
    "gateway-error" => RetryOn::GatewayError,
    "connect-failure" => RetryOn::ConnectFailure,
    "refused-stream" => RetryOn::RefusedStream,
    "reset" => RetryOn::Reset,
    "retriable-4xx" => RetryOn::Retriable4xx,
    "cancelled" => RetryOn::Cancelled,
    "deadline-exceeded" => RetryOn::DeadlineExceeded,
    "resource-exhausted" => RetryOn::ResourceExhausted,
    "internal" => RetryOn::Internal,
    "unavailable" => RetryOn::Unavailable,
});

keywords!(EncodedSlashes {
    "keep" => EncodedSlashes::Keep,
    "reject" => EncodedSlashes::Reject,
    "decode" => EncodedSlashes::Decode,
});

/// A status code that makes a client go to `location`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedirectStatus(pub u16);

schema!(RedirectStatus, "301, 302, 303, 307 or 308", { "type": "integer", "enum": [301, 302, 303, 307, 308] });

impl Decode for RedirectStatus {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.integer() {
            Some(status @ (301 | 302 | 303 | 307 | 308)) => Some(RedirectStatus(status as u16)),
            Some(_) => {
                diagnostics.error(node.span, "not a redirect's status").help("one of 301, 302, 303, 307 and 308");
                None
            }
            None => node.mismatch("an integer", diagnostics),
        }
    }
}

/// The scheme a redirect leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

keywords!(Scheme { "http" => Scheme::Http, "https" => Scheme::Https });

impl Scheme {
    /// Its text.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1, and 1.0.
    H1,
    /// HTTP/2.
    H2,
}

keywords!(HttpVersion { "h1" => HttpVersion::H1, "h2" => HttpVersion::H2 });

keywords!(UpstreamProtocol {
    "h1" => UpstreamProtocol::H1,
    "h2" => UpstreamProtocol::H2,
    "auto" => UpstreamProtocol::Auto,
});

/// A gRPC service with its package, `"helloworld.Greeter"`: identifiers of Protocol Buffers with dots between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcService(pub String);

schema!(GrpcService, "gRPC service", {
    "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*(\\.[A-Za-z_][A-Za-z0-9_]*)*$"
});

impl FromText for GrpcService {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if text.split('.').all(is_identifier) {
            return Ok(GrpcService(text.to_owned()));
        }
        let help = match text.trim_matches('/').split_once('/') {
            Some((service, method)) => format!("write service = {service:?} and method = {method:?}"),
            None => "the service with its package, such as \"helloworld.Greeter\"".to_owned(),
        };
        Err(Problem::new(format!("{text:?} is not a gRPC service"), help))
    }
}

/// A method of a gRPC service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcMethod(pub String);

schema!(GrpcMethod, "gRPC method", { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" });

impl FromText for GrpcMethod {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if is_identifier(text) {
            return Ok(GrpcMethod(text.to_owned()));
        }
        Err(Problem::new(format!("{text:?} is not a gRPC method"), "one name, such as \"SayHello\""))
    }
}

/// An identifier of the Protocol Buffers language.
fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
