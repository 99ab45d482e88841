//! The chunked transfer coding (RFC 9112 §7.1).
//!
//! Strict: CRLF and nothing else ends a line, no whitespace around the size. Each leniency here has been a way to
//! smuggle a request (CVE-2025-22871 is the bare LF behind a size).

use super::encode;
use crate::proto::head::{Headers, Known, is_token_byte, is_value_byte};
use crate::proto::limits;

/// The end of a body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The line in front of `len` bytes of chunk. `len` is not 0: that would be the end of the body.
pub fn chunk_prefix(len: usize, out: &mut [u8; 18]) -> &[u8] {
    debug_assert!(len > 0);
    let digits = (len.max(1).ilog2() / 4 + 1) as usize;
    for (at, digit) in out[..digits].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[len >> (4 * (digits - 1 - at)) & 0xf];
    }
    out[digits..digits + 2].copy_from_slice(b"\r\n");
    &out[..digits + 2]
}

/// Appends the end of a body with these trailers.
pub fn encode_trailers(trailers: &Headers, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    encode::put_field_lines(trailers, out);
    out.extend_from_slice(b"\r\n");
}

/// What one call of [`Decoder::decode`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of body, now at the start of the buffer.
    pub payload: usize,
    /// Bytes of the buffer that belonged to this body: all of them, unless it is `done`. What comes after is untouched.
    pub consumed: usize,
    /// Whether the body has ended.
    pub done: bool,
}

/// Why a body is not chunked as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// A chunk size that is no hexadecimal number of at most sixteen digits.
    Size,
    /// A line or chunk that does not end in CRLF.
    LineEnd,
    /// A control byte in a chunk extension.
    Extension,
    /// More chunk extensions than the limit.
    ExtensionsTooLarge,
    /// A trailer line that is not a field.
    Trailer,
    /// More bytes or fields of trailers than the limits.
    TrailersTooLarge,
}

/// Takes the chunks off a body, in whatever pieces it arrives.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    state: State,
    /// Extension bytes not yet paid for: [`limits::CHUNK_EXTENSION_BYTES`].
    extension_debt: u64,
    /// The trailer line being read.
    line: Vec<u8>,
    trailer_bytes: usize,
    trailers: Headers,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// In the digits of a chunk size.
    Size { digits: u8, size: u64 },
    /// Between `;` and CR.
    Extension { size: u64 },
    /// After the CR of a size line.
    SizeLf { size: u64 },
    /// In a chunk with so many bytes to go, at least one.
    Data { left: u64 },
    /// After the last byte of a chunk.
    DataCr,
    /// After the CR behind a chunk.
    DataLf,
    /// In a line of the trailer section, the empty last one included.
    Trailer,
    /// After the CR of such a line.
    TrailerLf,
    /// After the body.
    Done,
}

const SIZE_START: State = State::Size { digits: 0, size: 0 };

impl Default for State {
    fn default() -> Self {
        SIZE_START
    }
}

impl Decoder {
    /// Takes the chunks off what is in `buf`, in place: the payload moves to the front.
    ///
    /// After an error the contents of `buf` are of no use, and neither is the connection.
    pub fn decode(&mut self, buf: &mut [u8]) -> Result<Decoded, ChunkError> {
        let (mut payload, mut at) = (0, 0);
        while at < buf.len() && !matches!(self.state, State::Done) {
            if let State::Data { left } = self.state {
                let run = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len() - at);
                buf.copy_within(at..at + run, payload);
                payload += run;
                at += run;
                self.state = if run as u64 == left { State::DataCr } else { State::Data { left: left - run as u64 } };
            } else {
                self.state = self.step(buf[at])?;
                at += 1;
            }
        }
        Ok(Decoded { payload, consumed: at, done: matches!(self.state, State::Done) })
    }

    /// The trailers, once the body is done. Fields that only a head may have, as those that frame, route or
    /// authenticate a message, have been dropped (RFC 9110 §6.5.1).
    pub fn trailers(&self) -> &Headers {
        &self.trailers
    }

    /// Makes ready for another body and keeps the memory.
    pub fn reset(&mut self) {
        self.state = SIZE_START;
        self.extension_debt = 0;
        self.line.clear();
        self.trailer_bytes = 0;
        self.trailers.clear();
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        match (self.state, byte) {
            (State::Size { digits, size }, b';') if digits > 0 => Ok(State::Extension { size }),
            (State::Size { digits, size }, b'\r') if digits > 0 => Ok(State::SizeLf { size }),
            (State::Size { digits, size }, _) => size_digit(digits, size, byte),
            (State::Extension { size }, b'\r') => Ok(State::SizeLf { size }),
            (State::Extension { size }, _) => self.extension_byte(byte).map(|()| State::Extension { size }),
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::Trailer),
            (State::SizeLf { size }, b'\n') => Ok(self.chunk(size)),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(SIZE_START),
            (State::Trailer, _) => self.trailer_byte(byte),
            (State::TrailerLf, b'\n') => self.trailer_line(),
            (State::SizeLf { .. } | State::DataCr | State::DataLf | State::TrailerLf, _) => Err(ChunkError::LineEnd),
            // `decode` does not come here with these.
            (State::Data { .. } | State::Done, _) => Ok(self.state),
        }
    }

    fn extension_byte(&mut self, byte: u8) -> Result<(), ChunkError> {
        if !is_value_byte(byte) {
            return Err(if byte == b'\n' { ChunkError::LineEnd } else { ChunkError::Extension });
        }
        self.extension_debt += 1;
        if self.extension_debt > limits::CHUNK_EXTENSION_BYTES { Err(ChunkError::ExtensionsTooLarge) } else { Ok(()) }
    }

    fn chunk(&mut self, size: u64) -> State {
        self.extension_debt = self.extension_debt.saturating_sub(size.saturating_mul(2));
        State::Data { left: size }
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.trailer_bytes += 1;
        match byte {
            _ if self.trailer_bytes > limits::TRAILER_BYTES => Err(ChunkError::TrailersTooLarge),
            b'\r' => Ok(State::TrailerLf),
            b'\n' => Err(ChunkError::LineEnd),
            _ => {
                self.line.push(byte);
                Ok(State::Trailer)
            }
        }
    }

    fn trailer_line(&mut self) -> Result<State, ChunkError> {
        if self.line.is_empty() {
            return Ok(State::Done);
        }
        let (name, value) = split_field(&self.line).ok_or(ChunkError::Trailer)?;
        if self.trailers.len() == limits::TRAILER_COUNT || name.len() > limits::FIELD_NAME_BYTES {
            return Err(ChunkError::TrailersTooLarge);
        }
        if is_allowed_trailer(name) {
            self.trailers.append_raw(name, value);
        }
        self.line.clear();
        Ok(State::Trailer)
    }
}

fn size_digit(digits: u8, size: u64, byte: u8) -> Result<State, ChunkError> {
    let digit = (byte as char).to_digit(16).filter(|_| digits < limits::CHUNK_SIZE_DIGITS).ok_or(match byte {
        b'\n' => ChunkError::LineEnd,
        _ => ChunkError::Size,
    })?;
    Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) })
}

/// RFC 9112 §5, with neither whitespace before the colon nor obs-fold.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = line.split_at(memchr::memchr(b':', line)?);
    let value = &value[1..];
    let is_field = !name.is_empty() && name.iter().all(|&byte| is_token_byte(byte));
    // Spaces and tabs are the only whitespace among the bytes of a value.
    (is_field && value.iter().all(|&byte| is_value_byte(byte))).then(|| (name, value.trim_ascii()))
}

/// Whether a field may be a trailer, whatever the version of HTTP. One that the gateway knows belongs in a head: whoever
/// merges trailers into it would frame, route or trust by it (RFC 9110 §6.5.1).
pub fn is_allowed_trailer(name: &[u8]) -> bool {
    let mut lower = [0; LONGEST_KNOWN];
    let Some(lower) = lower.get_mut(..name.len()) else { return true };
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    matches!(Known::of(lower), Known::Other | Known::GrpcStatus)
}

/// No [`Known`] name is longer.
const LONGEST_KNOWN: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Outcome {
        body: Vec<u8>,
        trailers: Vec<(String, String)>,
        consumed: usize,
        done: bool,
    }

    /// Feeds `pieces` one after the other.
    fn decode(pieces: &[&[u8]]) -> Result<Outcome, ChunkError> {
        let (mut decoder, mut outcome) = (Decoder::default(), Outcome::default());
        for piece in pieces {
            let mut buf = piece.to_vec();
            let decoded = decoder.decode(&mut buf)?;
            assert!(decoded.payload <= decoded.consumed && decoded.consumed <= buf.len());
            assert_eq!(buf[decoded.consumed..], piece[decoded.consumed..], "what follows is untouched");
            assert!(decoded.done || decoded.consumed == buf.len());
            outcome.body.extend_from_slice(&buf[..decoded.payload]);
            outcome.consumed += decoded.consumed;
            outcome.done = decoded.done;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        outcome.trailers = decoder.trailers().iter().map(|(_, name, value)| (text(name), text(value))).collect();
        Ok(outcome)
    }

    fn body_of(text: &str) -> Result<String, ChunkError> {
        let outcome = decode(&[text.as_bytes()])?;
        assert!(outcome.done, "{text:?} has no end");
        Ok(String::from_utf8(outcome.body).unwrap())
    }

    #[test]
    fn good_bodies_come_out_whole() {
        for (coded, body) in [
            ("0\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n", "hello world"),
            ("A\r\n0123456789\r\n000\r\n\r\n", "0123456789"),
            ("a\r\n01234\r\n678\r\n0\r\n\r\n", "01234\r\n678"),
            ("0000000000000001\r\nx\r\n0\r\n\r\n", "x"),
            ("1;a\r\nx\r\n0;b=\"c;d\"\r\n\r\n", "x"),
        ] {
            assert_eq!(body_of(coded).as_deref(), Ok(body), "{coded:?}");
        }
    }

    #[test]
    fn bad_bodies_are_refused_for_the_right_reason() {
        for (coded, error) in [
            ("\r\n", ChunkError::Size),
            ("x\r\n", ChunkError::Size),
            (";a\r\n", ChunkError::Size),
            ("-1\r\n", ChunkError::Size),
            ("+1\r\n", ChunkError::Size),
            ("0x1\r\n", ChunkError::Size),
            (" 1\r\n", ChunkError::Size),
            ("1 \r\n", ChunkError::Size),
            ("1 ;a\r\n", ChunkError::Size),
            ("1_0\r\n", ChunkError::Size),
            ("00000000000000001\r\n", ChunkError::Size),
            ("ffffffffffffffffff\r\n", ChunkError::Size),
            ("1\nx\r\n", ChunkError::LineEnd),
            ("1\rx", ChunkError::LineEnd),
            ("1\r\r\n", ChunkError::LineEnd),
            ("1;a\nx\r\n", ChunkError::LineEnd),
            ("1;a\0\r\n", ChunkError::Extension),
            ("1;a\rb\r\n", ChunkError::LineEnd),
            ("1\r\nx\n", ChunkError::LineEnd),
            ("1\r\nxy", ChunkError::LineEnd),
            ("1\r\nx\r\r\n", ChunkError::LineEnd),
            ("0\r\n\n", ChunkError::LineEnd),
            ("0\r\na: b\n\r\n", ChunkError::LineEnd),
            ("0\r\na: b\r\r\n", ChunkError::LineEnd),
            ("0\r\na\r\n", ChunkError::Trailer),
            ("0\r\na : b\r\n", ChunkError::Trailer),
            ("0\r\n: b\r\n", ChunkError::Trailer),
            ("0\r\na: b\0c\r\n", ChunkError::Trailer),
            ("0\r\na: b\x0c\r\n", ChunkError::Trailer),
            ("0\r\na: b\r\n c\r\n", ChunkError::Trailer),
        ] {
            assert_eq!(decode(&[coded.as_bytes()]).map(|_| ()), Err(error), "{coded:?}");
        }
    }

    #[test]
    fn the_next_message_in_the_buffer_is_left_alone() {
        let outcome = decode(&[b"3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n"]).unwrap();
        assert_eq!((outcome.body.as_slice(), outcome.consumed, outcome.done), (&b"abc"[..], 13, true));
    }

    #[test]
    fn a_decoder_that_is_done_takes_nothing_more() {
        let mut decoder = Decoder::default();
        assert!(decoder.decode(&mut b"0\r\n\r\n".to_vec()).unwrap().done);
        let again = decoder.decode(&mut b"5\r\n".to_vec());
        assert_eq!(again, Ok(Decoded { payload: 0, consumed: 0, done: true }));
        decoder.reset();
        assert!(!decoder.decode(&mut b"5\r\n".to_vec()).unwrap().done);
    }

    #[test]
    fn trailers_come_out_without_the_fields_that_belong_in_a_head() {
        let coded = b"0\r\nX-Sum:  1 \r\nContent-Length: 5\r\nhost: a\r\nAUTHORIZATION: x\r\ngrpc-status: 0\r\n\r\n";
        let outcome = decode(&[coded]).unwrap();
        let expected = [("x-sum", "1"), ("grpc-status", "0")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert!(outcome.done);
        assert_eq!(outcome.trailers, expected);
    }

    #[test]
    fn extensions_without_payload_are_limited() {
        let flood = "1;aaaaaaaaaaaaaaa\r\nx\r\n".repeat(1000);
        assert_eq!(body_of(&flood), Err(ChunkError::ExtensionsTooLarge));
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(4097));
        assert_eq!(body_of(&long), Err(ChunkError::ExtensionsTooLarge));
    }

    #[test]
    fn extensions_that_their_payload_outweighs_are_not_limited() {
        let signed = format!("64;{}\r\n{}\r\n", "s".repeat(85), "x".repeat(100)).repeat(1000);
        assert_eq!(body_of(&(signed + "0\r\n\r\n")).map(|body| body.len()), Ok(100_000));
    }

    #[test]
    fn trailers_are_limited_in_bytes_and_number() {
        let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(65));
        assert_eq!(body_of(&many), Err(ChunkError::TrailersTooLarge));
        let long = format!("0\r\na: {}\r\n\r\n", "b".repeat(9000));
        assert_eq!(body_of(&long), Err(ChunkError::TrailersTooLarge));
        let name = format!("0\r\n{}: b\r\n\r\n", "a".repeat(1025));
        assert_eq!(body_of(&name), Err(ChunkError::TrailersTooLarge));
        let dropped = format!("0\r\n{}\r\n", "host: b\r\n".repeat(2000));
        assert_eq!(body_of(&dropped), Err(ChunkError::TrailersTooLarge));
    }

    #[test]
    fn a_chunk_prefix_is_the_length_in_hexadecimal() {
        let mut out = [0; 18];
        for (len, expected) in [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (31, "1f\r\n"), (65536, "10000\r\n")] {
            assert_eq!(chunk_prefix(len, &mut out), expected.as_bytes());
        }
        assert_eq!(chunk_prefix(usize::MAX, &mut out), b"ffffffffffffffff\r\n");
    }

    #[test]
    fn every_known_name_fits_the_trailer_check() {
        assert!(Known::XEnvoyExpectedRqTimeoutMs.text().len() <= LONGEST_KNOWN);
        assert!(!is_allowed_trailer(b"X-Envoy-Expected-Rq-Timeout-Ms"));
    }

    fn coded(chunks: &[Vec<u8>], trailers: &Headers) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend_from_slice(chunk_prefix(chunk.len(), &mut [0; 18]));
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
        encode_trailers(trailers, &mut out);
        out
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding_however_the_bytes_are_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            values in prop::collection::vec("[!-~]{0,8}", 0..3),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut sent = Headers::default();
            for value in &values {
                sent.append_raw(b"x-trailer", value.as_bytes());
            }
            let coded = coded(&chunks, &sent);
            let outcome = decode(&cut(&coded, &cuts)).unwrap();
            prop_assert_eq!(outcome.body, chunks.concat());
            prop_assert_eq!(outcome.trailers.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), values);
            prop_assert_eq!((outcome.consumed, outcome.done), (coded.len(), true));
        }

        #[test]
        fn any_bytes_decode_the_same_however_they_are_cut(
            bytes in prop::collection::vec(prop::sample::select(b"01f;a: \r\n\r\n\r\n\0".to_vec()), 0..40),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            prop_assert_eq!(decode(&cut(&bytes, &cuts)), decode(&[&bytes]));
        }
    }

    fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        at.sort_unstable();
        at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }
}
