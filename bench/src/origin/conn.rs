//! One connection of the origin.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use memchr::memmem;

use super::SMALL;

/// What bodies are made of.
const FILL: &[u8] = &[b'y'; 256 * 1024];
/// Bytes that may wait to be sent back before no more are read.
const ECHO_LIMIT: usize = 1024 * 1024;

/// A connection and what is due on it.
pub struct Conn {
    socket: TcpStream,
    stage: Stage,
    /// Received and not understood yet.
    input: Vec<u8>,
    /// To be sent, then so many bytes of [`FILL`].
    output: Vec<u8>,
    fill: u64,
}

enum Stage {
    Head,
    /// Bytes of the request's body that are still to come, and how long the answer's will be.
    Body {
        left: u64,
        answer: u64,
    },
    Tcp,
    WebSocket,
}

impl Conn {
    /// A new connection; of TCP, or of HTTP.
    pub fn new(socket: TcpStream, is_tcp: bool) -> Conn {
        let stage = if is_tcp { Stage::Tcp } else { Stage::Head };
        Conn { socket, stage, input: Vec::new(), output: Vec::new(), fill: 0 }
    }

    /// Reads, answers and sends what it can. An error ends the connection.
    pub fn advance(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        self.send()?;
        while self.output.len() < ECHO_LIMIT {
            let count = match self.socket.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            self.take(&scratch[..count])?;
            self.send()?;
            // Edge-triggered: a short read means that nothing was left, and more to come is a new event.
            if count < scratch.len() {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.stage {
                Stage::Head => {
                    let before = self.input.len();
                    self.input.extend_from_slice(bytes);
                    let Some(end) = memmem::find(&self.input, b"\r\n\r\n") else { return Ok(()) };
                    bytes = &bytes[end + 4 - before..];
                    self.begin(end + 4)?;
                    self.input.clear();
                }
                Stage::Body { left, answer } => {
                    let count = (bytes.len() as u64).min(*left);
                    *left -= count;
                    bytes = &bytes[count as usize..];
                    if *left == 0 {
                        let answer = *answer;
                        self.answer(answer);
                    }
                }
                Stage::Tcp => {
                    self.output.extend_from_slice(bytes);
                    return Ok(());
                }
                Stage::WebSocket => {
                    self.input.extend_from_slice(bytes);
                    while let Some(length) = echo_frame(&self.input, &mut self.output)? {
                        self.input.drain(..length);
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Begins to answer the request whose head is the first `end` bytes of the input.
    fn begin(&mut self, end: usize) -> io::Result<()> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        request.parse(&self.input[..end]).map_err(io::Error::other)?;
        let field = |name: &str| request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        if field("transfer-encoding").is_some() {
            return Err(io::Error::other("a chunked request, where the client gave a length"));
        }
        if let Some(key) = field("sec-websocket-key") {
            let accept = gateway::proto::websocket::accept_key(key.value);
            self.output.extend_from_slice(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ",
            );
            self.output.extend_from_slice(accept.as_ref());
            self.output.extend_from_slice(b"\r\n\r\n");
            self.stage = Stage::WebSocket;
            return Ok(());
        }
        let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
        let left = match field("content-length") {
            Some(field) => number(&String::from_utf8_lossy(field.value))?,
            None => 0,
        };
        let answer = match request.path.and_then(|path| path.strip_prefix("/bytes/")) {
            Some(text) => number(text)?,
            None => SMALL,
        };
        if left == 0 {
            self.answer(answer);
        } else {
            self.stage = Stage::Body { left, answer };
        }
        Ok(())
    }

    fn answer(&mut self, length: u64) {
        self.stage = Stage::Head;
        self.output.extend_from_slice(b"HTTP/1.1 200 OK\r\nserver: origin\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        let rest = format!("content-type: text/plain\r\ncontent-length: {length}\r\n\r\n");
        self.output.extend_from_slice(rest.as_bytes());
        if length <= SMALL {
            self.output.extend_from_slice(&FILL[..length as usize]);
        } else {
            self.fill = length;
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() || self.fill > 0 {
            let from_fill = self.output.is_empty();
            let piece = if from_fill { &FILL[..self.fill.min(FILL.len() as u64) as usize] } else { &self.output[..] };
            match self.socket.write(piece) {
                Ok(count) if from_fill => self.fill -= count as u64,
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Sends the first frame of `input` back without its mask (RFC 6455 section 5.2); gives its length.
fn echo_frame(input: &[u8], output: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let Some([first, second]) = input.first_chunk::<2>() else { return Ok(None) };
    let (length, header) = match second & 0x7f {
        126 => match input.get(2..4) {
            Some(bytes) => (usize::from(bytes[0]) << 8 | usize::from(bytes[1]), 4),
            None => return Ok(None),
        },
        127 => return Err(io::Error::other("a WebSocket frame of more than 64 KiB")),
        length => (usize::from(length), 2),
    };
    let end = header + 4 + length;
    let (Some(mask), Some(payload)) = (input.get(header..header + 4), input.get(header + 4..end)) else {
        return Ok(None);
    };
    output.push(*first);
    output.push(second & 0x7f);
    output.extend_from_slice(&input[2..header]);
    output.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    Ok(Some(end))
}
