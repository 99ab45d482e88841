//! What each fuzz target checks. `tests/fuzz` runs these on libFuzzer's inputs, `tests/fuzz_corpus.rs` on the committed
//! ones.
//!
//! A panic is a finding. Beyond "does not panic": what was parsed means the same after encoding and parsing again, and
//! the verdict does not depend on how the bytes were cut.

mod edge;
mod h2_connection;
mod packet;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use gateway::config::{self, Files, Loaded, Report, Severity};
use gateway::proto::head::{BodyLength, Headers, Known, Method, RequestHead, ResponseHead, Version};
use gateway::proto::path::{self, EncodedSlashes, PathPolicy};
use gateway::proto::{authority, h1};
use h1::chunked::{self, ChunkError, Decoder};
use h1::encode::{self, BodyFraming, ResponseFraming};
use h1::parse::{self, HeadLimits, ParsedRequest, ParsedResponse, RequestError, ResponseError};

pub use edge::{client_hello, forwarded, h2_meter, proxy_protocol};
pub use h2_connection::h2_connection;
pub use packet::packet;

/// A target's name and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 11] = [
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked_body", chunked_body),
    ("route_path", route_path),
    ("config", config),
    ("client_hello", client_hello),
    ("proxy_protocol", proxy_protocol),
    ("forwarded", forwarded),
    ("h2_meter", h2_meter),
    ("h2_connection", h2_connection),
    ("packet", packet),
];

/// Small, so that inputs of libFuzzer's usual size reach them.
const LIMITS: HeadLimits = HeadLimits { bytes: 1024, count: 16 };

/// A request head: the first byte says where it is cut in two, the rest is what the client sent.
pub fn request_head(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let cut = usize::from(*cut).min(bytes.len());
    let whole = parse_request(bytes);
    match (parse_request(&bytes[..cut]), &whole) {
        (Ok(None), Ok(Some(_))) => assert!(parse::may_complete(bytes, cut, LIMITS)),
        (Ok(None), _) => {}
        (Ok(Some((part, _))), Ok(Some((whole, _)))) => assert_eq!(part, *whole),
        (Err(part), Err(whole)) => assert_eq!(part, *whole),
        (part, whole) => panic!("a part is {part:?}, the whole {whole:?}"),
    }
    match whole {
        Err(error) => assert!((400..=599).contains(&error.status()) && !error.detail().is_empty()),
        Ok(Some((parsed, head))) => check_request(parsed, head, bytes),
        Ok(None) => assert!(bytes.len() < LIMITS.bytes + 2),
    }
}

fn parse_request(bytes: &[u8]) -> Result<Option<(ParsedRequest, RequestHead)>, RequestError> {
    let mut head = RequestHead::default();
    parse::request(bytes, LIMITS, &mut head).map(|parsed| parsed.map(|parsed| (parsed, head)))
}

fn check_request(parsed: ParsedRequest, mut head: RequestHead, bytes: &[u8]) {
    assert!(parsed.consumed <= bytes.len() && bytes[..parsed.consumed].ends_with(b"\r\n\r\n"));
    assert!(head.target.starts_with(b"/") || head.target == b"*");
    check_fields(&head.headers);
    // HTTP/1.0 need not name a host; a request for an origin does.
    if !head.authority.is_empty() {
        check_request_round_trip(&head);
    }
    h1::hop::strip(&mut head.headers);
    let left = [Known::Connection, Known::KeepAlive, Known::ProxyConnection, Known::TransferEncoding, Known::Upgrade];
    assert!(left.iter().all(|known| !head.headers.contains(known)));
}

fn check_request_round_trip(head: &RequestHead) {
    let mut wire = Vec::new();
    encode::request(head, &mut wire);
    // `host` may be a field more and a few bytes longer than the absolute form it came from.
    let limits = HeadLimits { bytes: wire.len(), count: LIMITS.count + 2 };
    let mut again = RequestHead::default();
    let parsed = parse::request(&wire, limits, &mut again).expect("the gateway's own head").expect("a whole head");
    assert_eq!(parsed.consumed, wire.len());
    assert_eq!(again.method, head.method);
    assert_eq!((again.target, again.authority), (head.target.clone(), head.authority.clone()));
    assert!(again.body == head.body || (again.body.is_empty() && head.body.is_empty()));
    assert!(again.headers.iter().eq(head.headers.iter()));
}

/// A response head: the first byte says where it is cut in two, the second what it answers, the rest is what the origin
/// sent.
pub fn response_head(input: &[u8]) {
    let [cut, method, bytes @ ..] = input else { return };
    let method = if method & 1 == 0 { Method::Get } else { Method::Head };
    let version = Version::Http11;
    let cut = usize::from(*cut).min(bytes.len());
    let whole = parse_response(bytes, &method);
    match (parse_response(&bytes[..cut], &method), &whole) {
        (Ok(None), Ok(Some(_))) => assert!(parse::may_complete(bytes, cut, LIMITS)),
        (Ok(None), _) => {}
        (Ok(Some((part, _))), Ok(Some((whole, _)))) => assert_eq!(part, *whole),
        (Err(part), Err(whole)) => assert_eq!(part, *whole),
        (part, whole) => panic!("a part is {part:?}, the whole {whole:?}"),
    }
    let Ok(Some((parsed, mut head))) = whole else { return };
    assert!(parsed.consumed <= bytes.len() && bytes[..parsed.consumed].ends_with(b"\r\n\r\n"));
    assert!(!parsed.keep_alive || head.body != BodyLength::UntilClose);
    check_fields(&head.headers);
    h1::hop::strip(&mut head.headers);

    let framing = ResponseFraming::of(&method, version, &head, parsed.keep_alive);
    let mut wire = Vec::new();
    encode::response(&head, framing, &mut wire);
    let limits = HeadLimits { bytes: wire.len(), count: LIMITS.count + 2 };
    let mut again = ResponseHead::default();
    let reparsed = parse::response(&wire, limits, &method, &mut again).expect("the gateway's own head");
    assert_eq!(reparsed.expect("a whole head").consumed, wire.len());
    assert_eq!(again.status, head.status);
    assert_eq!(again.body, framed(framing.body));
}

fn parse_response(bytes: &[u8], method: &Method) -> Result<Option<(ParsedResponse, ResponseHead)>, ResponseError> {
    let mut head = ResponseHead::default();
    parse::response(bytes, LIMITS, method, &mut head).map(|parsed| parsed.map(|parsed| (parsed, head)))
}

/// How a body framed so is read again.
fn framed(body: BodyFraming) -> BodyLength {
    match body {
        BodyFraming::Bodyless => BodyLength::Empty,
        BodyFraming::Length(length) => BodyLength::Known(length),
        BodyFraming::Chunked => BodyLength::Streamed,
        BodyFraming::UntilClose => BodyLength::UntilClose,
    }
}

/// No field that the wire or a later reader could take for something else.
fn check_fields(headers: &Headers) {
    for (known, name, value) in headers.iter() {
        assert!(!name.is_empty() && name.iter().all(|&byte| gateway::proto::head::is_token_byte(byte)));
        assert!(!name.iter().any(u8::is_ascii_uppercase));
        assert!(value.iter().all(|&byte| gateway::proto::head::is_value_byte(byte)));
        assert_eq!(known, Known::of(name));
        assert_ne!(known, Known::TransferEncoding);
    }
}

/// A chunked body: the first byte is the length of the pieces it comes in, the rest is the body and what follows it.
pub fn chunked_body(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    let whole = decode(bytes, bytes.len().max(1));
    assert_eq!(decode(bytes, usize::from(*piece).max(1)), whole);
    let Ok(decoded) = whole else { return };
    if decoded.done {
        let mut wire = Vec::new();
        if !decoded.body.is_empty() {
            wire.extend_from_slice(chunked::chunk_prefix(decoded.body.len(), &mut [0; 18]));
            wire.extend_from_slice(&decoded.body);
            wire.extend_from_slice(b"\r\n");
        }
        let mut trailers = Headers::default();
        decoded.trailers.iter().for_each(|(name, value)| trailers.append_raw(name, value));
        check_fields(&trailers);
        chunked::encode_trailers(&trailers, &mut wire);
        let again = decode(&wire, wire.len()).expect("the gateway's own chunks");
        assert_eq!(again, Body { consumed: wire.len(), ..decoded });
    }
}

#[derive(Debug, Default, PartialEq)]
struct Body {
    body: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    consumed: usize,
    done: bool,
}

fn decode(bytes: &[u8], piece: usize) -> Result<Body, ChunkError> {
    let (mut decoder, mut body) = (Decoder::default(), Body::default());
    for piece in bytes.chunks(piece) {
        let mut buf = piece.to_vec();
        let decoded = decoder.decode(&mut buf)?;
        assert!(decoded.payload <= decoded.consumed && decoded.consumed <= buf.len());
        assert_eq!(buf[decoded.consumed..], piece[decoded.consumed..]);
        body.body.extend_from_slice(&buf[..decoded.payload]);
        body.consumed += decoded.consumed;
        body.done = decoded.done;
    }
    body.trailers = decoder.trailers().iter().map(|(_, name, value)| (name.to_vec(), value.to_vec())).collect();
    Ok(body)
}

/// What routes are found by: the first byte is the path policy, then come the authority, a line feed and the target.
pub fn route_path(input: &[u8]) {
    let Some((&bits, rest)) = input.split_first() else { return };
    let mut halves = rest.splitn(2, |&byte| byte == b'\n');
    check_authority(halves.next().unwrap_or_default());
    let encoded_slashes = match bits >> 2 & 3 {
        0 => EncodedSlashes::Keep,
        1 => EncodedSlashes::Decode,
        _ => EncodedSlashes::Reject,
    };
    let policy = PathPolicy { dot_segments: bits & 1 != 0, merge_slashes: bits & 2 != 0, encoded_slashes };
    check_path(halves.next().unwrap_or_default(), policy);
}

fn check_authority(raw: &[u8]) {
    let mut once = Vec::new();
    if authority::normalise(raw, &mut once).is_err() {
        assert!(once.is_empty());
        return;
    }
    let mut twice = Vec::new();
    assert_eq!(authority::normalise(&once, &mut twice), Ok(()));
    assert_eq!(once, twice);
    let host = authority::host_of(&once);
    assert!(once.starts_with(host) && !host.iter().any(|byte| b"/@?#\\ %".contains(byte)));
    assert!(authority::port_of(&once).is_none_or(|port| once.ends_with(port.to_string().as_bytes())));
}

fn check_path(raw: &[u8], policy: PathPolicy) {
    let mut once = raw.to_vec();
    if path::normalise(&mut once, policy).is_err() {
        return;
    }
    let mut twice = once.clone();
    assert_eq!(path::normalise(&mut twice, policy), Ok(()));
    assert_eq!(once, twice);
    if !raw.starts_with(b"/") {
        assert_eq!(once, raw);
        return;
    }
    let path = once.split(|&byte| byte == b'?').next().unwrap_or_default();
    let mut segments = path.split(|&byte| byte == b'/').skip(1);
    assert!(path.starts_with(b"/"));
    assert!(!policy.dot_segments || !segments.any(|segment| matches!(segment, b"." | b"..")));
    assert!(!policy.merge_slashes || !path.windows(2).any(|pair| pair == b"//"));
}

/// A configuration: the file, the file that any `include` finds and the file that any other path names, with NUL bytes
/// between them.
pub fn config(input: &[u8]) {
    let mut parts = input.splitn(3, |&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let files = Texts { main: part(), included: part(), other: part() };
    match (load(&files), load(&files)) {
        (Ok(first), Ok(second)) => assert_eq!(first.config, second.config),
        (Err(first), Err(second)) => assert_eq!(check_report(&first), check_report(&second)),
        (first, second) => panic!("the same files gave {first:?} and {second:?}"),
    }
}

struct Texts<'a> {
    main: &'a [u8],
    included: &'a [u8],
    other: &'a [u8],
}

const MAIN: &str = "/gateway.toml";
const INCLUDED: &str = "/included.toml";

impl Files for Texts<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(match path.to_str() {
            Some(MAIN) => self.main,
            Some(INCLUDED) => self.included,
            _ => self.other,
        }
        .to_vec())
    }

    fn glob(&self, _pattern: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec![INCLUDED.into()])
    }
}

fn load(files: &Texts<'_>) -> Result<Loaded, Report> {
    // 2027-01-15: certificates are held against a clock that stands still.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    config::load(Path::new(MAIN), files, now)
}

/// A refusal says why, to people and to programs.
fn check_report(report: &Report) -> String {
    assert!(report.count(Severity::Error) > 0);
    assert!(report.to_json(Severity::Error).is_array() || report.to_json(Severity::Error).is_object());
    let text = report.render(false);
    assert!(!text.is_empty());
    text
}
