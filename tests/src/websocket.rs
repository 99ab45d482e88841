//! WebSocket tunnels from either end, over an upgrade of HTTP/1.1 (RFC 6455) or an extended CONNECT of HTTP/2 (RFC 8441).

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use crate::asked::Http;
use crate::client::{HOST, request};
use crate::conn::{Conn, Head};
use crate::h2::frame::code;
use crate::h2::{Client, Connection, Event, Options, Stream as H2Stream};
use crate::stream::Stream;

/// Any key will do; this is RFC 6455's.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The fields that ask for a WebSocket over HTTP/1.1.
pub const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                           sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The bytes of a tunnel.
#[derive(Debug)]
pub struct Tunnel {
    end: End,
    /// What came and was not taken.
    unread: Vec<u8>,
    /// The connection of a client's end, which closes with it.
    _client: Option<Client>,
}

#[derive(Debug)]
enum End {
    H1(Stream),
    H2(H2Stream),
}

/// Asks for a tunnel; the status, when the answer is no.
pub fn connect(http: Http, addr: SocketAddr, path: &str) -> Result<Tunnel, u16> {
    match http {
        Http::H1 => {
            let mut conn = Conn::connect(addr);
            conn.send(request("GET", path, UPGRADE));
            let head = conn.head().expect("an answer");
            let status: u16 = head.start.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
            if status != 101 {
                return Err(status);
            }
            assert_eq!(head.header("sec-websocket-accept"), Some(derive_accept_key(KEY.as_bytes()).as_str()));
            assert_eq!(head.header("upgrade").map(str::to_ascii_lowercase).as_deref(), Some("websocket"));
            Ok(Tunnel::of(conn))
        }
        Http::H2 => {
            let client = Client::connect(addr);
            let stream = client.connection.open(&extended_connect("websocket", path), false);
            match stream.next() {
                Ok(Event::Fields(fields)) if fields[0].1 == "200" => {
                    Ok(Tunnel { end: End::H2(stream), unread: Vec::new(), _client: Some(client) })
                }
                Ok(Event::Fields(fields)) => Err(fields[0].1.parse().expect("a status")),
                other => panic!("{other:?} in place of an answer"),
            }
        }
    }
}

/// The head of an extended CONNECT.
pub fn extended_connect<'a>(protocol: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":path", path),
        (":authority", HOST),
        ("sec-websocket-version", "13"),
    ]
}

/// Accepts every tunnel of a connection, in either version, and hands it to `handler`.
///
/// # Panics
/// When a request asks for something else.
pub fn serve(mut conn: Conn, handler: &(impl Fn(Head, Tunnel) + Sync)) {
    if !conn.begins_h2() {
        let Ok(head) = conn.head() else { return };
        let key = head.header("sec-websocket-key").unwrap_or_else(|| panic!("no key in {head:?}"));
        let accept = derive_accept_key(key.as_bytes());
        conn.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        ));
        return handler(head, Tunnel::of(conn));
    }
    let connection = Connection::server(conn.into_stream(), Options::default());
    std::thread::scope(|scope| {
        while let Some((stream, fields)) = connection.accept() {
            let protocol = fields.iter().find(|(name, _)| name == ":protocol").map(|(_, value)| value.as_str());
            assert_eq!(protocol, Some("websocket"), "{fields:?}");
            stream.send_fields(&[(":status", "200")], false);
            let tunnel = Tunnel { end: End::H2(stream), unread: Vec::new(), _client: None };
            let head = Head { start: "CONNECT".into(), headers: fields };
            scope.spawn(move || handler(head, tunnel));
        }
    });
}

/// Sends each message back until the client closes.
pub fn echo(tunnel: Tunnel) {
    let mut socket = WebSocket::from_raw_socket(tunnel, Role::Server, None);
    while let Ok(message) = socket.read() {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).is_err() {
            return;
        }
    }
    socket.get_mut().half_close();
}

impl Tunnel {
    /// A connection whose heads have been exchanged.
    pub fn of(conn: Conn) -> Tunnel {
        let (stream, unread) = conn.into_parts();
        Tunnel { end: End::H1(stream), unread, _client: None }
    }

    /// The client's end of a WebSocket over it.
    pub fn client(self) -> WebSocket<Tunnel> {
        WebSocket::from_raw_socket(self, Role::Client, None)
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&mut self) {
        match &mut self.end {
            End::H1(stream) => stream.half_close(),
            End::H2(stream) => _ = stream.send_data(b"", true),
        }
    }

    /// Cuts it off.
    pub fn cut(&mut self) {
        match &mut self.end {
            End::H1(stream) => {
                stream.reset_on_close();
                stream.cut();
            }
            End::H2(stream) => _ = stream.reset(code::CANCEL),
        }
    }
}

impl Read for Tunnel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            match &mut self.end {
                End::H1(stream) => return stream.read(buf),
                End::H2(stream) => match stream.next() {
                    Ok(Event::Data(bytes)) => self.unread = bytes,
                    Ok(Event::End) => return Ok(0),
                    other => return Err(io::Error::other(format!("{other:?}"))),
                },
            }
        }
        let count = buf.len().min(self.unread.len());
        buf[..count].copy_from_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Ok(count)
    }
}

impl Write for Tunnel {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.end {
            End::H1(stream) => stream.write(buf),
            End::H2(stream) if stream.send_data(buf, false) => Ok(buf.len()),
            End::H2(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
