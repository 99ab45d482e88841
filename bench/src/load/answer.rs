//! What a client reads until its exchange is over.

use std::io;

use memchr::memmem;

/// Longest head of an answer.
const HEAD_LIMIT: usize = 16 * 1024;

/// An answer on its way.
pub enum Answer {
    /// A head of HTTP/1.1, this much of it so far.
    Head {
        /// What has come.
        bytes: Vec<u8>,
        /// The status it must have.
        status: u16,
    },
    /// So many bytes.
    Bytes(u64),
    /// HTTP/2 frames up to the end of the first stream.
    Frames(Frames),
}

/// What [`Answer::take`] has seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// Not all of it.
    More,
    /// All of it.
    Over,
    /// Frames that want to be acknowledged.
    Acknowledge {
        /// Whether the answer has ended with them.
        ended: bool,
    },
}

impl Answer {
    /// Takes bytes that have come; an error says what is wrong with them. `body` counts those behind the head.
    pub fn take(&mut self, bytes: &[u8], body: &mut u64) -> io::Result<Progress> {
        match self {
            Answer::Head { bytes: head, status } => {
                head.extend_from_slice(bytes);
                let Some(end) = memmem::find(head, b"\r\n\r\n") else {
                    return if head.len() > HEAD_LIMIT { wrong("a head without an end") } else { Ok(Progress::More) };
                };
                let length = content_length(&head[..end + 4], *status)?;
                let rest = (head.len() - end - 4) as u64;
                *self = Answer::Bytes(length);
                self.take_body(rest, body)
            }
            Answer::Bytes(_) => self.take_body(bytes.len() as u64, body),
            Answer::Frames(frames) => frames.take(bytes),
        }
    }

    fn take_body(&mut self, count: u64, body: &mut u64) -> io::Result<Progress> {
        let Answer::Bytes(left) = self else { return Ok(Progress::More) };
        *body += count;
        match left.checked_sub(count) {
            None => wrong("more bytes than were announced"),
            Some(0) => Ok(Progress::Over),
            Some(more) => {
                *left = more;
                Ok(Progress::More)
            }
        }
    }
}

/// The length that the head announces; 0 where there is none, as after a WebSocket's handshake.
fn content_length(head: &[u8], expected: u16) -> io::Result<u64> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    response.parse(head).map_err(io::Error::other)?;
    if response.code != Some(expected) {
        return wrong(&format!("answered with {}", response.code.unwrap_or(0)));
    }
    let mut length = 0;
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let text = str::from_utf8(field.value).map_err(io::Error::other)?;
            length = text.parse().map_err(io::Error::other)?;
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return wrong("a chunked answer, where the origin gave a length");
        }
    }
    Ok(length)
}

/// Frames of HTTP/2, as far as a client must understand them that makes one request and then only waits.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Whether the answer's stream has ended.
    ended: bool,
}

impl Frames {
    const HEADER: usize = 9;
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const ACK_OR_END_STREAM: u8 = 1;

    /// What a client says first: the preface, empty SETTINGS, and GET / as the first stream (RFC 9113 section 3.4).
    pub fn opening() -> Vec<u8> {
        // :method GET, :scheme http, :path / from HPACK's static table, and :authority as a literal (RFC 7541 section 6).
        let mut block = vec![0x82, 0x86, 0x84, 0x41, crate::certs::HOST.len() as u8];
        block.extend_from_slice(crate::certs::HOST.as_bytes());
        let end_stream_and_headers = 5;
        let headers = [0, 0, block.len() as u8, Self::HEADERS, end_stream_and_headers, 0, 0, 0, 1];
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, Self::SETTINGS, 0, 0, 0, 0, 0], &headers, &block]
            .concat()
    }

    /// The answer to the server's SETTINGS.
    pub const ACKNOWLEDGEMENT: [u8; 9] = [0, 0, 0, Frames::SETTINGS, 1, 0, 0, 0, 0];

    fn take(&mut self, bytes: &[u8]) -> io::Result<Progress> {
        self.bytes.extend_from_slice(bytes);
        let mut acknowledge = false;
        while let Some(header) = self.bytes.first_chunk::<{ Self::HEADER }>() {
            let [a, b, c, kind, flags, ..] = *header;
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if self.bytes.len() < Self::HEADER + length {
                break;
            }
            self.bytes.drain(..Self::HEADER + length);
            let flagged = flags & Self::ACK_OR_END_STREAM != 0;
            match kind {
                Self::SETTINGS => acknowledge |= !flagged,
                Self::DATA | Self::HEADERS => self.ended |= flagged,
                Self::RST_STREAM | Self::GOAWAY => return wrong("the stream or the connection was refused"),
                _ => {}
            }
        }
        Ok(match (acknowledge, self.ended) {
            (true, ended) => Progress::Acknowledge { ended },
            (false, true) => Progress::Over,
            (false, false) => Progress::More,
        })
    }
}

fn wrong<T>(what: &str) -> io::Result<T> {
    Err(io::Error::other(what.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Answer {
        Answer::Head { bytes: Vec::new(), status: 200 }
    }

    #[test]
    fn an_answer_is_over_with_the_last_byte_of_its_body_wherever_it_is_cut() {
        let whole = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\nhello";
        for cut in 0..whole.len() {
            let (mut answer, mut body) = (head(), 0);
            if cut > 0 {
                assert_eq!(answer.take(&whole[..cut], &mut body).unwrap(), Progress::More, "cut at {cut}");
            }
            assert_eq!(answer.take(&whole[cut..], &mut body).unwrap(), Progress::Over, "cut at {cut}");
            assert_eq!(body, 5);
        }
    }

    #[test]
    fn other_statuses_chunks_and_bytes_too_many_are_errors() {
        let wrong = [
            "HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
        ];
        for text in wrong {
            assert!(head().take(text.as_bytes(), &mut 0).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_are_acknowledged_and_the_stream_ends_with_its_flag() {
        let mut answer = Answer::Frames(Frames::default());
        let settings = [0, 0, 0, Frames::SETTINGS, 0, 0, 0, 0, 0];
        assert_eq!(answer.take(&settings, &mut 0).unwrap(), Progress::Acknowledge { ended: false });
        let headers = [0, 0, 1, Frames::HEADERS, 4, 0, 0, 0, 1, 0x88];
        assert_eq!(answer.take(&headers, &mut 0).unwrap(), Progress::More);
        let data = [0, 0, 2, Frames::DATA, 1, 0, 0, 0, 1, b'h', b'i'];
        assert_eq!(answer.take(&data[..10], &mut 0).unwrap(), Progress::More);
        assert_eq!(answer.take(&data[10..], &mut 0).unwrap(), Progress::Over);
    }
}
