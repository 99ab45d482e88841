//! The client's side of a [`Connection`]: requests and parsed responses.

use std::net::SocketAddr;

use super::connection::{Connection, Event, Options, Stream};
use crate::client::{HOST, Response};
use crate::conn::{Head, ReadError};
use crate::stream::Stream as Socket;

/// A client with one connection.
#[derive(Debug)]
pub struct Client {
    /// The connection.
    pub connection: Connection,
    scheme: &'static str,
}

impl Client {
    /// Connects with prior knowledge.
    ///
    /// # Panics
    /// When that fails.
    pub fn connect(addr: SocketAddr) -> Client {
        Client::with(addr, Options::default())
    }

    /// The same with other settings.
    pub fn with(addr: SocketAddr, options: Options) -> Client {
        Client::over(Socket::connect(addr).unwrap_or_else(|e| panic!("connect to {addr}: {e}")), options)
    }

    /// A client over a connection that exists.
    pub fn over(socket: Socket, options: Options) -> Client {
        let scheme = if matches!(socket, Socket::Tls(_)) { "https" } else { "http" };
        Client { connection: Connection::client(socket, options), scheme }
    }

    /// One GET.
    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[], b"")
    }

    /// One request with a body, which is announced with `content-length` when there is one.
    ///
    /// # Panics
    /// When there is no whole response.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_ask(method, path, headers, body).unwrap_or_else(|e| panic!("no response: {e:?}"))
    }

    /// The same, when a response is not certain.
    pub fn try_ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, ReadError> {
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        if !body.is_empty() {
            headers.push(("content-length", &length));
        }
        let stream = self.start(method, path, &headers, body.is_empty());
        if !body.is_empty() {
            // A response may come before the body has been taken.
            stream.send_data(body, true);
        }
        let mut kept = Vec::new();
        let mut response = response(&stream, &mut |bytes| kept.extend_from_slice(bytes))?;
        response.body = kept;
        Ok(response)
    }

    /// Opens a stream with a request's head.
    pub fn start(&self, method: &str, path: &str, headers: &[(&str, &str)], end: bool) -> Stream {
        self.connection.open(&fields(method, self.scheme, path, headers), end)
    }
}

/// The fields of a request's head, for [`HOST`] unless `headers` begins with `:authority`.
pub fn fields<'a>(
    method: &'a str,
    scheme: &'a str,
    path: &'a str,
    headers: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![(":method", method), (":scheme", scheme), (":path", path)];
    if !headers.iter().any(|(name, _)| *name == ":authority") {
        fields.push((":authority", HOST));
    }
    fields.extend_from_slice(headers);
    fields
}

/// Reads the response of a stream; the body goes to `sink`.
pub fn response(stream: &Stream, sink: &mut dyn FnMut(&[u8])) -> Result<Response, ReadError> {
    let mut interim = Vec::new();
    let (status, head) = loop {
        let (status, head) = match stream.next()? {
            Event::Fields(fields) => head(fields)?,
            Event::Reset(code) => return Err(ReadError::Reset(code)),
            other => return Err(ReadError::Malformed(format!("{other:?} before the head"))),
        };
        if !(100..200).contains(&status) {
            break (status, head);
        }
        interim.push(status);
    };
    let (mut trailers, mut length) = (Vec::new(), 0);
    loop {
        match stream.next()? {
            Event::Data(bytes) => {
                length += bytes.len();
                sink(&bytes);
            }
            Event::Fields(fields) => trailers = fields,
            Event::Reset(code) => return Err(ReadError::Reset(code)),
            Event::End => break,
        }
    }
    // A response to HEAD and a 304 may name a length that they do not have.
    let named = head.header("content-length").map(|named| named.parse::<usize>().expect("a content-length of digits"));
    if length > 0 && named.is_some_and(|named| named != length) {
        return Err(ReadError::Malformed(format!("{length} bytes in place of {named:?}")));
    }
    Ok(Response { status, head, body: Vec::new(), trailers, interim })
}

/// A response's head, in the words of HTTP/1.1.
fn head(fields: Vec<(String, String)>) -> Result<(u16, Head), ReadError> {
    let status = fields.iter().find(|(name, _)| name == ":status").and_then(|(_, status)| status.parse().ok());
    let status = status.ok_or_else(|| ReadError::Malformed(format!("no :status in {fields:?}")))?;
    let headers = fields.into_iter().filter(|(name, _)| !name.starts_with(':')).collect();
    Ok((status, Head { start: format!("HTTP/2 {status}"), headers }))
}
