//! Heads to bytes.

use crate::proto::head::{BodyLength, Headers, Known, Method, RequestHead, ResponseHead, Version};

/// The whole interim response that lets a client send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How a response's body is written to a client, and what becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFraming {
    /// Whether the connection serves another request after this response.
    pub keep_alive: bool,
    /// How the body is written.
    pub body: BodyFraming,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// No byte of body, whatever length the head announces: HEAD, 1xx, 204, 304.
    Bodyless,
    /// As it is; this many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// As it is, then the connection is closed.
    UntilClose,
}

impl ResponseFraming {
    /// The framing of `head` as the answer to a request of this method and version.
    ///
    /// HTTP/1.0 has no chunks (RFC 9112 §6.1), so a body of unknown length costs such a client its connection.
    pub fn of(method: &Method, version: Version, head: &ResponseHead, keep_alive: bool) -> ResponseFraming {
        let body = match head.body {
            _ if *method == Method::Head || matches!(head.status, 100..=199 | 204 | 304) => BodyFraming::Bodyless,
            BodyLength::Empty => BodyFraming::Length(0),
            BodyLength::Known(length) => BodyFraming::Length(length),
            BodyLength::Streamed | BodyLength::UntilClose if version == Version::Http10 => BodyFraming::UntilClose,
            BodyLength::Streamed | BodyLength::UntilClose => BodyFraming::Chunked,
        };
        ResponseFraming { keep_alive: keep_alive && body != BodyFraming::UntilClose, body }
    }
}

/// Appends the request head for an origin.
///
/// `host` comes first (RFC 9110 §7.2 asks for that); framing fields come from `head.body` alone, never from a header.
pub fn request(head: &RequestHead, out: &mut Vec<u8>) {
    put(out, &[head.method.as_str().as_bytes(), b" ", &head.target, b" HTTP/1.1\r\nhost: ", &head.authority, b"\r\n"]);
    put_fields(&head.headers, false, out);
    match head.body {
        BodyLength::Known(length) => put_length(length, out),
        BodyLength::Streamed | BodyLength::UntilClose => out.extend_from_slice(CHUNKED),
        // RFC 9110 §8.6: such a method has a body to speak of, and some origins answer 411 without this.
        BodyLength::Empty if matches!(head.method, Method::Post | Method::Put | Method::Patch) => put_length(0, out),
        BodyLength::Empty => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the response head for a client. The version is HTTP/1.1 for HTTP/1.0 clients too (RFC 9110 §6.2).
pub fn response(head: &ResponseHead, framing: ResponseFraming, out: &mut Vec<u8>) {
    put_status_line(head.status, out);
    // RFC 9110 §8.6: never in 1xx and 204.
    let may_announce = framing.body == BodyFraming::Bodyless && !matches!(head.status, 100..=199 | 204);
    match (framing.body, head.body) {
        (BodyFraming::Length(length), _) => put_length(length, out),
        (BodyFraming::Chunked, _) => out.extend_from_slice(CHUNKED),
        (BodyFraming::Bodyless, BodyLength::Known(length)) if may_announce => put_length(length, out),
        _ => {}
    }
    put_fields(&head.headers, may_announce && head.body == BodyLength::Empty, out);
    if !framing.keep_alive && head.status >= 200 {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// The reason phrase; empty for a status that has none (RFC 9112 §4 allows that).
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

/// Appends the fields as they are.
pub(super) fn put_field_lines(headers: &Headers, out: &mut Vec<u8>) {
    for (_, name, value) in headers.iter() {
        put(out, &[name, b": ", value, b"\r\n"]);
    }
}

const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n";

/// Appends the fields but those that the caller writes from the head: a header that an edit has put in must not be able
/// to contradict the framing.
fn put_fields(headers: &Headers, keep_length: bool, out: &mut Vec<u8>) {
    for (known, name, value) in headers.iter() {
        let is_ours = match known {
            Known::Host | Known::TransferEncoding => true,
            Known::ContentLength => !keep_length,
            _ => false,
        };
        if !is_ours {
            put(out, &[name, b": ", value, b"\r\n"]);
        }
    }
}

fn put_length(length: u64, out: &mut Vec<u8>) {
    put(out, &[b"content-length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n"]);
}

fn put_status_line(status: u16, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    put(out, &[b"HTTP/1.1 ", digits.format(status).as_bytes(), b" ", reason(status).as_bytes(), b"\r\n"]);
}

/// One check of the capacity for all parts.
fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests;
