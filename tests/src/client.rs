//! The client's side of a [`Conn`]: requests and parsed responses.

use std::net::SocketAddr;

use crate::conn::{Conn, Framing, Head, ReadError};
use crate::pattern::{self, Checker};
use crate::stream::Stream;

/// The `Host` that clients send unless a test says otherwise.
pub const HOST: &str = "test.example";

/// Bytes of a chunk when a long body is sent chunked. Not a power of two, so that chunks and buffers do not line up.
const CHUNK: u64 = 50_000;

/// A whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Status line and fields.
    pub head: Head,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Trailer fields of a chunked body.
    pub trailers: Vec<(String, String)>,
    /// Statuses of the 1xx responses before it.
    pub interim: Vec<u16>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The request's head as the origin saw it, of an answer to `/headers`.
    pub fn seen(&self) -> Head {
        let shown = self.json();
        serde_json::from_value(shown["headers"].clone())
            .map(|headers| Head { start: shown["start"].as_str().unwrap_or_default().to_owned(), headers })
            .expect("a head from the origin's /headers")
    }

    /// The value of a header field; see [`Head::header`].
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// Whether it says that the connection ends after it.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

impl Conn {
    /// Connects.
    ///
    /// # Panics
    /// When that fails; see [`Stream::connect`].
    pub fn connect(addr: SocketAddr) -> Conn {
        Conn::new(Stream::connect(addr).unwrap_or_else(|e| panic!("connect to {addr}: {e}")), 0)
    }

    /// Sends a GET for `path` and reads the response.
    pub fn get(&mut self, path: &str) -> Response {
        self.send(request("GET", path, ""));
        self.response()
    }

    /// Sends a request with `method`, extra header lines (each ended with CRLF) and a body, and reads the response.
    pub fn request(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Response {
        self.send(request(method, path, &format!("{headers}content-length: {}\r\n", body.len())));
        self.send(body);
        self.response_to(method)
    }

    /// Sends the request's head and the first `length` bytes of the [`pattern`](mod@pattern), chunked or by length.
    pub fn send_pattern(&mut self, path: &str, length: u64, framing: Framing) {
        match framing {
            Framing::Chunked => self.send(request("POST", path, "transfer-encoding: chunked\r\n")),
            _ => self.send(request("POST", path, &format!("content-length: {length}\r\n"))),
        }
        assert!(self.try_send_pattern_body(length, framing == Framing::Chunked), "the peer took only part of the body");
    }

    /// Sends the first `length` bytes of the pattern; `false` when the peer goes away meanwhile.
    pub fn try_send_pattern_body(&mut self, length: u64, chunked: bool) -> bool {
        let mut sent = 0;
        while sent < length {
            let piece = pattern::slice(sent, (length - sent).min(CHUNK));
            let ok = if chunked {
                self.try_send(format!("{:x}\r\n", piece.len())) && self.try_send(piece) && self.try_send("\r\n")
            } else {
                self.try_send(piece)
            };
            if !ok {
                return false;
            }
            sent += piece.len() as u64;
        }
        !chunked || self.try_send("0\r\n\r\n")
    }

    /// Reads the response to anything but HEAD.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// Reads the response to a request of `method`.
    ///
    /// # Panics
    /// When there is none, or only part of one.
    pub fn response_to(&mut self, method: &str) -> Response {
        self.try_response_to(method).unwrap_or_else(|e| panic!("no response: {e:?}; unread: {:?}", self.unread()))
    }

    /// Reads the response to a request of `method`.
    pub fn try_response_to(&mut self, method: &str) -> Result<Response, ReadError> {
        let mut body = Vec::new();
        let mut response = self.response_into(method, &mut |bytes| body.extend_from_slice(bytes))?;
        response.body = body;
        Ok(response)
    }

    /// Reads a response whose body is the pattern, without keeping it; returns it with an empty body, and the length.
    pub fn pattern_response(&mut self) -> (Response, u64) {
        let mut checker = Checker::default();
        let response = self.response_into("GET", &mut |bytes| checker.push(bytes)).expect("a whole response");
        (response, checker.len())
    }

    /// Reads the response to a request of `method`; its body goes to `sink`.
    pub fn response_into(&mut self, method: &str, sink: &mut dyn FnMut(&[u8])) -> Result<Response, ReadError> {
        let mut interim = Vec::new();
        loop {
            let head = self.head()?;
            let status = status(&head)?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let framing = match (method, status) {
                ("HEAD", _) | (_, 204 | 304) => Framing::Empty,
                _ => head.framing(Framing::UntilClose),
            };
            let trailers = self.body(framing, sink)?;
            return Ok(Response { status, head, body: Vec::new(), trailers, interim });
        }
    }
}

/// A request head with the usual `Host`; `headers` are lines, each ended with CRLF.
pub fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n")
}

/// Takes a status line apart: `HTTP/1.1 SP 3DIGIT SP reason`.
fn status(head: &Head) -> Result<u16, ReadError> {
    let rest = head.start.strip_prefix("HTTP/1.1 ");
    rest.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(|| ReadError::Malformed(head.start.clone()))
}
