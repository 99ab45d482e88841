//! One request from a client, in whichever version: the other end of a [`Served`](crate::origin::Served).

use std::io;
use std::net::SocketAddr;

use crate::client::{self, Response};
use crate::conn::{Conn, Framing, ReadError};
use crate::gateway::Gateway;
use crate::h2::frame::code;
use crate::h2::{Client, Event, Fields, Options, Stream, response};
use crate::pattern::{self, Checker};
use crate::stream::Stream as Socket;
use crate::tls::TlsClient;

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// HTTP/1.1
    H1,
    /// HTTP/2
    H2,
}

impl Http {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Http::H1 => "h1",
            Http::H2 => "h2",
        }
    }

    /// Its name in ALPN.
    pub fn alpn(self) -> &'static str {
        match self {
            Http::H1 => "http/1.1",
            Http::H2 => "h2",
        }
    }
}

/// What the client and what the origin of a test speak.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The client.
    pub client: Http,
    /// The origin.
    pub origin: Http,
}

impl Pair {
    /// A client of the listener `web`.
    pub fn connect(self, gateway: &Gateway) -> AnyClient {
        AnyClient::connect(self.client, gateway.addr("web"))
    }
}

/// Makes four tests of each named function, which takes a [`Pair`](crate::asked::Pair).
#[macro_export]
macro_rules! every_pair {
    ($($case:ident)*) => {
        $crate::every_pair!(h1_to_h1 H1 H1: $($case)*);
        $crate::every_pair!(h1_to_h2 H1 H2: $($case)*);
        $crate::every_pair!(h2_to_h1 H2 H1: $($case)*);
        $crate::every_pair!(h2_to_h2 H2 H2: $($case)*);
    };
    ($module:ident $client:ident $origin:ident: $($case:ident)*) => {
        mod $module {
            use $crate::asked::{Http, Pair};
            $(#[test]
            fn $case() {
                super::$case(Pair { client: Http::$client, origin: Http::$origin });
            })*
        }
    };
}

/// A client's connection.
#[derive(Debug)]
pub enum AnyClient {
    /// HTTP/1.1: one request at a time.
    H1(Conn),
    /// HTTP/2
    H2(Client),
}

/// A request under way.
pub struct Asked<'a> {
    end: End<'a>,
    method: String,
    /// Whether what is sent is in chunks.
    chunked: bool,
    /// Whether what is being read is.
    chunked_answer: bool,
}

enum End<'a> {
    H1(&'a mut Conn),
    H2(Stream),
}

impl AnyClient {
    /// Connects in the clear.
    ///
    /// # Panics
    /// When that fails.
    pub fn connect(http: Http, addr: SocketAddr) -> AnyClient {
        AnyClient::over(http, Socket::connect(addr).unwrap_or_else(|e| panic!("connect to {addr}: {e}")))
    }

    /// Connects over TLS; which version is settled by what `tls` offers and the gateway takes.
    pub fn connect_tls(tls: &TlsClient, addr: SocketAddr, server_name: &str) -> io::Result<AnyClient> {
        let (conn, handshake) = tls.connect(addr, server_name)?;
        let http = if handshake.alpn.as_deref() == Some("h2") { Http::H2 } else { Http::H1 };
        Ok(AnyClient::over(http, conn.into_stream()))
    }

    fn over(http: Http, socket: Socket) -> AnyClient {
        match http {
            Http::H1 => AnyClient::H1(Conn::new(socket, 0)),
            Http::H2 => AnyClient::H2(Client::over(socket, Options::default())),
        }
    }

    /// This end's address.
    pub fn local_addr(&self) -> SocketAddr {
        match self {
            AnyClient::H1(conn) => conn.local_addr(),
            AnyClient::H2(client) => client.connection.local_addr(),
        }
    }

    /// Sends a request's head. Without `content-length` among the headers the body is chunked, and must be ended with
    /// [`Asked::finish`].
    pub fn start(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Asked<'_> {
        let chunked = !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let end = match self {
            AnyClient::H1(conn) => {
                let mut lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                if chunked {
                    lines.push_str("transfer-encoding: chunked\r\n");
                }
                conn.send(client::request(method, path, &lines));
                End::H1(conn)
            }
            AnyClient::H2(client) => End::H2(client.start(method, path, headers, false)),
        };
        Asked { end, method: method.to_owned(), chunked, chunked_answer: false }
    }

    /// Sends a request without a body.
    pub fn start_empty(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Asked<'_> {
        let end = match self {
            AnyClient::H1(conn) => {
                let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                conn.send(client::request(method, path, &lines));
                End::H1(conn)
            }
            AnyClient::H2(client) => End::H2(client.start(method, path, headers, true)),
        };
        Asked { end, method: method.to_owned(), chunked: false, chunked_answer: false }
    }

    /// A request without a body, and its response.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        self.start_empty(method, path, headers).response()
    }

    /// One GET.
    pub fn get(&mut self, path: &str) -> Response {
        self.ask("GET", path, &[])
    }

    /// A request with a body of known length.
    pub fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let length = body.len().to_string();
        let headers = [headers, &[("content-length", length.as_str())]].concat();
        let mut asked = self.start("POST", path, &headers);
        asked.send(body);
        asked.finish(&[]);
        asked.response()
    }

    /// A GET whose answer is the [`pattern`](mod@pattern): the answer without its body, and how long that was.
    pub fn get_pattern(&mut self, path: &str) -> (Response, u64) {
        let mut checker = Checker::default();
        let response = self.start_empty("GET", path, &[]).try_response_into(&mut |bytes| checker.push(bytes));
        (response.expect("a whole response"), checker.len())
    }

    /// A POST of the pattern's first `length` bytes, by length or chunked.
    pub fn post_pattern(&mut self, path: &str, length: u64, framing: Framing) -> Response {
        let text = length.to_string();
        let headers = [("content-length", text.as_str())];
        let mut asked = self.start("POST", path, if framing == Framing::Chunked { &[] } else { &headers });
        asked.send_pattern(length);
        asked.finish(&[]);
        asked.response()
    }
}

impl Asked<'_> {
    /// Sends a part of the body; `false` when the gateway takes no more.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        match &mut self.end {
            // An empty chunk would be the last one.
            _ if bytes.is_empty() => true,
            End::H1(conn) if self.chunked => {
                conn.try_send(format!("{:x}\r\n", bytes.len())) && conn.try_send(bytes) && conn.try_send("\r\n")
            }
            End::H1(conn) => conn.try_send(bytes),
            End::H2(stream) => stream.send_data(bytes, false),
        }
    }

    /// Sends the pattern's first `length` bytes; `false` when the gateway takes no more.
    pub fn send_pattern(&mut self, length: u64) -> bool {
        let mut sent = 0;
        while sent < length {
            let piece = pattern::slice(sent, length - sent);
            if !self.send(piece) {
                return false;
            }
            sent += piece.len() as u64;
        }
        true
    }

    /// Ends the body.
    pub fn finish(&mut self, trailers: &[(&str, &str)]) -> bool {
        match &mut self.end {
            End::H1(conn) if self.chunked => {
                let lines: String = trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                conn.try_send(format!("0\r\n{lines}\r\n"))
            }
            End::H1(_) => true,
            End::H2(stream) if trailers.is_empty() => stream.send_data(b"", true),
            End::H2(stream) => stream.send_fields(trailers, true),
        }
    }

    /// Waits for a 1xx response.
    pub fn interim(&mut self) -> u16 {
        match &mut self.end {
            End::H1(conn) => {
                let head = conn.head().expect("a 1xx response");
                head.start.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
            }
            End::H2(stream) => match stream.next() {
                Ok(Event::Fields(fields)) => status_of(&fields),
                other => panic!("{other:?} in place of a 1xx response"),
            },
        }
    }

    /// Reads the response.
    ///
    /// # Panics
    /// When there is none, or only part of one.
    pub fn response(&mut self) -> Response {
        self.try_response().unwrap_or_else(|e| panic!("no response: {e:?}"))
    }

    /// Reads the response.
    pub fn try_response(&mut self) -> Result<Response, ReadError> {
        let mut body = Vec::new();
        let mut response = self.try_response_into(&mut |bytes| body.extend_from_slice(bytes))?;
        response.body = body;
        Ok(response)
    }

    /// Reads the response; its body goes to `sink`.
    pub fn try_response_into(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<Response, ReadError> {
        match &mut self.end {
            End::H1(conn) => conn.response_into(&self.method, sink),
            End::H2(stream) => response(stream, sink),
        }
    }

    /// Reads the response's head and the first `count` bytes of its body, and no more: status, bytes.
    pub fn beginning_of(&mut self, count: usize) -> (u16, Vec<u8>) {
        let status = match &mut self.end {
            End::H1(conn) => {
                let head = conn.head().expect("a head");
                self.chunked_answer = head.framing(Framing::UntilClose) == Framing::Chunked;
                head.start.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
            }
            End::H2(stream) => match stream.next() {
                Ok(Event::Fields(fields)) => status_of(&fields),
                other => panic!("{other:?} in place of a head"),
            },
        };
        (status, self.some_of_the_body(count))
    }

    /// Reads the next bytes of a response's body; of a chunked one, chunks of which `count` is the sum.
    pub fn some_of_the_body(&mut self, count: usize) -> Vec<u8> {
        let mut some = Vec::new();
        while some.len() < count {
            match &mut self.end {
                End::H1(conn) if self.chunked_answer => some.extend(conn.chunk().expect("a chunk")),
                End::H1(conn) => {
                    let framing = Framing::Length(count as u64);
                    conn.body(framing, &mut |bytes| some.extend_from_slice(bytes)).expect("a part of the body");
                }
                End::H2(stream) => match stream.next() {
                    Ok(Event::Data(bytes)) => some.extend(bytes),
                    other => panic!("{other:?} within the body"),
                },
            }
        }
        some
    }

    /// Gives the request up: closes the connection, or resets the stream.
    pub fn cancel(self) {
        match self.end {
            End::H1(conn) => conn.stream.cut(),
            End::H2(stream) => _ = stream.reset(code::CANCEL),
        }
    }
}

fn status_of(fields: &Fields) -> u16 {
    let status = fields.iter().find(|(name, _)| name == ":status");
    status.and_then(|(_, status)| status.parse().ok()).unwrap_or_else(|| panic!("no :status in {fields:?}"))
}

/// The host that a request's head named, in either version.
pub fn host_of(head: &crate::conn::Head) -> Option<&str> {
    head.header(":authority").or_else(|| head.header("host"))
}
