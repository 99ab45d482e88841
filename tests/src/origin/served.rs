//! One request at an origin, in whichever version it came.

use crate::conn::{Conn, Framing, Head, ReadError};
use crate::h2::frame::code;
use crate::h2::{Connection, Event, Fields, Options, Stream};

/// A request being answered.
pub struct Served<'a> {
    /// The request's head. Of HTTP/2 it begins with the pseudo-fields.
    pub head: Head,
    end: Side<'a>,
    /// Whether the body has been read to its end.
    read: bool,
    /// How much of the body has been read.
    taken: u64,
    /// How the answer that was started ends.
    framing: Option<Framing>,
    finished: bool,
}

enum Side<'a> {
    H1(&'a mut Conn),
    H2(Stream),
}

/// Serves every request of a connection with `handler`: one after the other, or over HTTP/2 each on its own thread.
pub fn serve(mut conn: Conn, options: &Options, handler: &(impl Fn(&mut Served<'_>) + Sync)) {
    conn.patience(options.patience);
    if conn.begins_h2() {
        return serve_h2(&Connection::server(conn.into_stream(), options.clone()), handler);
    }
    while let Ok(head) = conn.head() {
        let mut served = Served::new(head, Side::H1(&mut conn));
        handler(&mut served);
        if !served.may_go_on() {
            return;
        }
    }
}

/// Serves every stream of an HTTP/2 connection with `handler`.
pub fn serve_h2(connection: &Connection, handler: &(impl Fn(&mut Served<'_>) + Sync)) {
    std::thread::scope(|scope| {
        while let Some((stream, fields)) = connection.accept() {
            scope.spawn(move || handler(&mut Served::of_stream(stream, fields)));
        }
    });
}

impl<'a> Served<'a> {
    fn new(head: Head, end: Side<'a>) -> Served<'a> {
        Served { head, end, read: false, taken: 0, framing: None, finished: false }
    }

    /// A request that came on a stream.
    pub fn of_stream(stream: Stream, fields: Fields) -> Served<'static> {
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value);
        let start = format!("{} {} HTTP/2", field(":method"), field(":path"));
        Served::new(Head { start, headers: fields }, Side::H2(stream))
    }

    /// Whether it came over HTTP/2.
    pub fn is_h2(&self) -> bool {
        matches!(self.end, Side::H2(_))
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.head.target().split('?').next().unwrap_or("")
    }

    /// Reads the body to its end, hands its pieces to `sink`, and returns the trailers.
    pub fn body(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<Fields, ReadError> {
        let trailers = match &mut self.end {
            Side::H1(conn) => {
                let rest = match self.head.framing(Framing::Empty) {
                    Framing::Length(length) => Framing::Length(length - self.taken),
                    other => other,
                };
                conn.body(rest, sink)?
            }
            Side::H2(stream) => body_of(stream, sink)?,
        };
        self.read = true;
        Ok(trailers)
    }

    /// Reads exactly `count` bytes of a body that was announced by length, and no more.
    ///
    /// # Panics
    /// When they do not come.
    pub fn some_of_the_body(&mut self, count: usize) -> Vec<u8> {
        let mut some = Vec::new();
        self.taken += count as u64;
        match &mut self.end {
            Side::H1(conn) => {
                let framing = Framing::Length(count as u64);
                conn.body(framing, &mut |bytes| some.extend_from_slice(bytes)).expect("the body's beginning");
            }
            Side::H2(stream) => {
                while some.len() < count {
                    match stream.next() {
                        Ok(Event::Data(bytes)) => some.extend(bytes),
                        other => panic!("{other:?} within the body's first {count} bytes"),
                    }
                }
            }
        }
        some
    }

    /// Sends a 1xx response.
    pub fn interim(&mut self, status: u16) -> bool {
        match &mut self.end {
            Side::H1(conn) => conn.try_send(format!("HTTP/1.1 {status} Interim\r\n\r\n")),
            Side::H2(stream) => stream.send_fields(&[(":status", &status.to_string())], false),
        }
    }

    /// Sends the head of the response.
    pub fn start(&mut self, status: u16, fields: &[(&str, &str)], framing: Framing) -> bool {
        let length = match framing {
            Framing::Length(length) => Some(length.to_string()),
            Framing::Empty if !matches!(status, 204 | 304) => Some("0".to_owned()),
            Framing::Empty | Framing::Chunked | Framing::UntilClose => None,
        };
        let empty = framing == Framing::Empty || self.head.method() == "HEAD";
        self.framing = Some(if empty { Framing::Empty } else { framing });
        self.finished = empty;
        let mut fields = fields.to_vec();
        fields.extend(length.as_deref().map(|length| ("content-length", length)));
        match &mut self.end {
            Side::H1(conn) => {
                match framing {
                    Framing::Chunked => fields.push(("transfer-encoding", "chunked")),
                    Framing::UntilClose => fields.push(("connection", "close")),
                    Framing::Empty | Framing::Length(_) => {}
                }
                let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                conn.try_send(format!("HTTP/1.1 {status} Text\r\n{lines}\r\n"))
            }
            Side::H2(stream) => {
                let status = status.to_string();
                let fields = [&[(":status", status.as_str())], fields.as_slice()].concat();
                stream.send_fields(&fields, empty)
            }
        }
    }

    /// Sends a part of the body.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let chunked = self.framing == Some(Framing::Chunked);
        match &mut self.end {
            _ if self.finished => true,
            Side::H1(conn) if chunked => {
                conn.try_send(format!("{:x}\r\n", bytes.len())) && conn.try_send(bytes) && conn.try_send("\r\n")
            }
            Side::H1(conn) => conn.try_send(bytes),
            Side::H2(stream) => stream.send_data(bytes, false),
        }
    }

    /// Ends the response. Over HTTP/1.1 only a chunked one has trailers.
    pub fn finish(&mut self, trailers: &[(&str, &str)]) -> bool {
        if self.finished {
            return true;
        }
        self.finished = true;
        match &mut self.end {
            Side::H1(conn) if self.framing == Some(Framing::Chunked) => {
                let lines: String = trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                conn.try_send(format!("0\r\n{lines}\r\n"))
            }
            Side::H1(_) => true,
            Side::H2(stream) if trailers.is_empty() => stream.send_data(b"", true),
            Side::H2(stream) => stream.send_fields(trailers, true),
        }
    }

    /// A whole response.
    pub fn answer(&mut self, status: u16, fields: &[(&str, &str)], body: &[u8]) -> bool {
        let framing = if body.is_empty() { Framing::Empty } else { Framing::Length(body.len() as u64) };
        self.start(status, fields, framing) && self.send(body) && self.finish(&[])
    }

    /// Cuts the response off: the connection, or over HTTP/2 the stream.
    pub fn cut(&mut self) {
        self.finished = false;
        self.framing = Some(Framing::UntilClose);
        match &mut self.end {
            Side::H1(conn) => {
                conn.stream.reset_on_close();
                conn.stream.cut();
            }
            Side::H2(stream) => _ = stream.reset(code::INTERNAL_ERROR),
        }
    }

    /// Waits until the peer has given the request up: the connection is closed, or the stream is reset.
    ///
    /// # Panics
    /// When it goes on.
    pub fn wait_given_up(&mut self) {
        let ended = match &mut self.end {
            Side::H1(conn) => conn.body(Framing::Length(u64::MAX), &mut |_| ()).expect_err("an end of the request"),
            Side::H2(stream) => body_of(stream, &mut |_| ()).expect_err("an end of the request"),
        };
        assert!(!matches!(ended, ReadError::TimedOut | ReadError::Malformed(_)), "the request goes on: {ended:?}");
    }

    /// Whether the connection can have another request.
    fn may_go_on(&self) -> bool {
        self.finished && self.framing != Some(Framing::UntilClose) && self.read
    }
}

fn body_of(stream: &Stream, sink: &mut dyn FnMut(&[u8])) -> Result<Fields, ReadError> {
    let mut trailers = Fields::new();
    loop {
        match stream.next()? {
            Event::Data(bytes) => sink(&bytes),
            Event::Fields(fields) => trailers = fields,
            Event::Reset(code) => return Err(ReadError::Reset(code)),
            Event::End => return Ok(trailers),
        }
    }
}
