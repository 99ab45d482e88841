//! Heads from bytes.
//!
//! httparse splits the lines; what RFC 9112 leaves open is decided here, and always against the reading that would let
//! two recipients see two different messages. Where this is stricter than Envoy 1.40: two `Host` fields, obs-fold, and
//! bare LF are errors.

use std::mem::MaybeUninit;

use httparse::{Header, Status};

pub use super::error::{FramingError, RequestError, ResponseError};
use super::hop;
use crate::proto::authority;
use crate::proto::head::{BodyLength, Headers, Known, Method, RequestHead, ResponseHead, Scheme, Version};
use crate::proto::limits;

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the whole head, the empty line included.
    pub bytes: usize,
    /// Fields.
    pub count: usize,
}

/// What a request head says beyond [`RequestHead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedRequest {
    /// Bytes the head took.
    pub consumed: usize,
    /// Whether the client can send another request on this connection. Never for HTTP/1.0: a proxy must not keep such a
    /// connection (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The scheme, when the target was in absolute form.
    pub scheme: Option<Scheme>,
    /// Whether the client asks for another protocol: an `Upgrade` field that `Connection` names.
    pub upgrade: bool,
}

/// What a response head says beyond [`ResponseHead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedResponse {
    /// Bytes the head took.
    pub consumed: usize,
    /// Whether the connection can be used again after the body.
    pub keep_alive: bool,
}

/// Reads a request head from the start of `bytes` into `head`; `None` means that it is not all there yet.
///
/// Hop-by-hop fields stay for [`hop::strip`], because a protocol upgrade needs them. Fields that [`RequestHead`]
/// expresses otherwise do not: `host`, `content-length`, `transfer-encoding`, `expect`. The target is not normalised.
pub fn request(
    bytes: &[u8],
    limits: HeadLimits,
    head: &mut RequestHead,
) -> Result<Option<ParsedRequest>, RequestError> {
    let Some(blank) = empty_line(bytes)? else { return Ok(None) };
    let window = limits.window(&bytes[blank..]);
    let mut slots = [const { MaybeUninit::uninit() }; limits::HEADER_COUNT_MAX];
    let mut raw = httparse::Request::new(&mut []);
    let length = match raw.parse_with_uninit_headers(window, limits.slots(&mut slots)) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if window.len() < limits.window_bytes() => return Ok(None),
        Ok(Status::Partial) => return Err(too_large(window)),
        Err(error) => return Err(request_syntax(error, window)),
    };
    if has_bare_lf(&window[..length], raw.headers) {
        return Err(RequestError::BareLf);
    }

    head.clear();
    head.version = version(raw.version);
    head.method = Method::from_token(raw.method.unwrap_or_default());
    let scheme = target(raw.path.unwrap_or_default().as_bytes(), head)?;
    let fields = request_fields(raw.headers, head.version, &mut head.headers)?;
    set_authority(fields.host, scheme.is_some(), head)?;
    head.body = match fields.framing {
        Framing { chunked: true, .. } => BodyLength::Streamed,
        Framing { length: Some(length), .. } => BodyLength::Known(length),
        _ => BodyLength::Empty,
    };
    let is_http11 = head.version == Version::Http11;
    Ok(Some(ParsedRequest {
        consumed: blank + length,
        keep_alive: is_http11 && !fields.framing.close,
        // RFC 9110 §10.1.1: ignored in HTTP/1.0, and pointless without a body.
        expect_continue: fields.expect_continue && is_http11 && !head.body.is_empty(),
        scheme,
        upgrade: is_http11 && fields.framing.upgrade && head.headers.contains(&Known::Upgrade),
    }))
}

/// Reads a response head from the start of `bytes` into `head`; `None` means that it is not all there yet. `method` is
/// that of the request it answers.
///
/// 1xx responses come out as such. The length of the body follows RFC 9112 §6.3; when a response to HEAD or a 304 has
/// `content-length`, the field stays in `head.headers` and the body is [`BodyLength::Empty`].
pub fn response(
    bytes: &[u8],
    limits: HeadLimits,
    method: &Method,
    head: &mut ResponseHead,
) -> Result<Option<ParsedResponse>, ResponseError> {
    // Something else speaks first, SSH or SMTP: it would never send the empty line that we wait for.
    let begun = bytes.len().min(b"HTTP/".len());
    if bytes[..begun] != b"HTTP/"[..begun] {
        return Err(ResponseError::Malformed);
    }
    // httparse would skip empty lines; only a server may (RFC 9112 §2.2).
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(ResponseError::Malformed);
    }
    let window = limits.window(bytes);
    let mut slots = [const { MaybeUninit::uninit() }; limits::HEADER_COUNT_MAX];
    let mut raw = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut raw, window, limits.slots(&mut slots));
    let consumed = match parsed {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if window.len() < limits.window_bytes() => return Ok(None),
        Ok(Status::Partial) => return Err(ResponseError::TooLarge),
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::TooLarge),
        Err(_) => return Err(ResponseError::Malformed),
    };
    if has_bare_lf(&window[..consumed], raw.headers) {
        return Err(ResponseError::BareLf);
    }

    head.clear();
    head.version = version(raw.version);
    head.status = raw.code.filter(|&code| code >= 100).ok_or(ResponseError::Malformed)?;
    let framing = response_fields(raw.headers, head.version, &mut head.headers)?;
    let persists = !framing.close && (head.version == Version::Http11 || framing.keep_alive);
    let keep_alive = response_body(&framing, method, head) && persists;
    Ok(Some(ParsedResponse { consumed, keep_alive }))
}

/// Whether it is worth calling [`request`] or [`response`] on `bytes`, of which the first `seen` did not complete a head.
///
/// The first look is always worth it, so that what is no HTTP is refused at once. Then an empty line must have come:
/// else a peer that sends a byte at a time would cost time in the square of the head's length.
pub fn may_complete(bytes: &[u8], seen: usize, limits: HeadLimits) -> bool {
    if seen == 0 || bytes.len() >= limits.window_bytes() {
        return !bytes.is_empty();
    }
    let tail = &bytes[seen.saturating_sub(b"\n\r".len()).min(bytes.len())..];
    memchr::memchr_iter(b'\n', tail).any(|at| matches!(tail[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

impl HeadLimits {
    fn window_bytes(self) -> usize {
        self.bytes.min(limits::HEAD_BYTES_MAX)
    }

    /// The bytes a head may lie in: what is behind the limit is not looked at, so that the verdict on a head does not
    /// depend on how it was cut into packets.
    fn window(self, bytes: &[u8]) -> &[u8] {
        &bytes[..bytes.len().min(self.window_bytes())]
    }

    fn slots<'a, 'b>(self, slots: &'a mut [MaybeUninit<Header<'b>>]) -> &'a mut [MaybeUninit<Header<'b>>] {
        let count = self.count.min(slots.len());
        &mut slots[..count]
    }
}

/// Length of the empty line that some clients send after a body: RFC 9112 §2.2 wants one CRLF ignored, no more.
fn empty_line(bytes: &[u8]) -> Result<Option<usize>, RequestError> {
    match bytes {
        [] | [b'\r'] | [b'\r', b'\n'] => Ok(None),
        [b'\r', b'\n', b'\r' | b'\n', ..] => Err(RequestError::Malformed),
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [b'\r' | b'\n', ..] => Err(RequestError::Malformed),
        _ => Ok(Some(0)),
    }
}

fn too_large(window: &[u8]) -> RequestError {
    match memchr::memchr(b'\n', window) {
        Some(_) => RequestError::TooLarge,
        None => RequestError::TargetTooLong,
    }
}

fn request_syntax(error: httparse::Error, window: &[u8]) -> RequestError {
    match error {
        httparse::Error::TooManyHeaders => RequestError::TooManyFields,
        httparse::Error::Version if names_another_version(window) => RequestError::Version,
        _ => RequestError::Malformed,
    }
}

fn names_another_version(window: &[u8]) -> bool {
    let word = window.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    word.strip_prefix(b"HTTP/").is_some_and(|number| number.first().is_some_and(u8::is_ascii_digit))
}

/// httparse takes LF for CRLF. It takes CR only before LF, so that the byte before a line's LF is CR or content.
fn has_bare_lf(head: &[u8], fields: &[Header<'_>]) -> bool {
    let follows_crlf = |field: &Header<'_>| {
        let at = field.name.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
        head.get(at.wrapping_sub(2)) == Some(&b'\r')
    };
    !head.ends_with(b"\r\n\r\n") || !fields.iter().all(follows_crlf)
}

fn version(minor: Option<u8>) -> Version {
    match minor {
        Some(0) => Version::Http10,
        _ => Version::Http11,
    }
}

/// RFC 9112 §3.2. An absolute form's authority goes to `head.authority`.
fn target(raw: &[u8], head: &mut RequestHead) -> Result<Option<Scheme>, RequestError> {
    if !raw.is_ascii() || memchr::memchr(b'#', raw).is_some() {
        return Err(RequestError::Target);
    }
    match (raw, &head.method) {
        (_, Method::Connect) => Err(RequestError::Connect),
        ([b'/', ..], _) | (b"*", Method::Options) => {
            head.target.extend_from_slice(raw);
            Ok(None)
        }
        _ => absolute_form(raw, head).map(Some),
    }
}

fn absolute_form(raw: &[u8], head: &mut RequestHead) -> Result<Scheme, RequestError> {
    let (scheme, rest) = split_scheme(raw).ok_or(RequestError::Target)?;
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    authority::normalise(authority, &mut head.authority).map_err(|_| RequestError::Host)?;
    match (path.first(), &head.method) {
        (Some(b'/'), _) => {}
        // RFC 9112 §3.2.4: the last proxy sends the asterisk form.
        (None, Method::Options) => head.target.push(b'*'),
        _ => head.target.push(b'/'),
    }
    head.target.extend_from_slice(path);
    Ok(scheme)
}

fn split_scheme(raw: &[u8]) -> Option<(Scheme, &[u8])> {
    let rest_after = |prefix: &[u8]| {
        raw.split_at_checked(prefix.len()).filter(|(start, _)| start.eq_ignore_ascii_case(prefix)).map(|(_, rest)| rest)
    };
    rest_after(b"http://")
        .map(|rest| (Scheme::Http, rest))
        .or_else(|| rest_after(b"https://").map(|rest| (Scheme::Https, rest)))
}

/// RFC 9112 §3.2.2: the absolute form overrides `Host`, which must be good all the same.
fn set_authority(host: Option<&[u8]>, is_absolute: bool, head: &mut RequestHead) -> Result<(), RequestError> {
    match host {
        None if head.version == Version::Http10 => return Ok(()),
        None => return Err(RequestError::NoHost),
        Some(host) => {
            let named = head.authority.len();
            authority::normalise(host, &mut head.authority).map_err(|_| RequestError::Host)?;
            if is_absolute {
                head.authority.truncate(named);
            }
        }
    }
    Ok(())
}

/// What the fields say about the body and the connection.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl Framing {
    /// RFC 9110 §8.6: digits and nothing else; no sign, no list.
    fn content_length(&mut self, value: &[u8]) -> Result<(), FramingError> {
        if self.length.is_some() {
            return Err(FramingError::ManyLengths);
        }
        self.length = Some(decimal(value).ok_or(FramingError::Length)?);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8], version: Version) -> Result<(), FramingError> {
        if version == Version::Http10 {
            return Err(FramingError::CodingInHttp10);
        }
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(FramingError::Coding);
        }
        self.chunked = true;
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for option in hop::options(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    fn check(&self) -> Result<(), FramingError> {
        if self.chunked && self.length.is_some() { Err(FramingError::LengthAndCoding) } else { Ok(()) }
    }
}

/// A `content-length` (RFC 9110 §8.6); `None` when it is none.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

#[derive(Default)]
struct RequestFields<'a> {
    framing: Framing,
    host: Option<&'a [u8]>,
    expect_continue: bool,
}

/// Sorts the fields: those that speak to this hop into the answer, the others into `headers`.
fn request_fields<'a>(
    raw: &[Header<'a>],
    version: Version,
    headers: &mut Headers,
) -> Result<RequestFields<'a>, RequestError> {
    let mut fields = RequestFields::default();
    for Header { name, value } in raw {
        match special(name.as_bytes()) {
            Some(Known::Host) if fields.host.is_some() => return Err(RequestError::ManyHosts),
            Some(Known::Host) => fields.host = Some(value),
            Some(Known::ContentLength) => fields.framing.content_length(value)?,
            Some(Known::TransferEncoding) => fields.framing.transfer_encoding(value, version)?,
            Some(Known::Expect) if value.eq_ignore_ascii_case(b"100-continue") => fields.expect_continue = true,
            Some(Known::Expect) => return Err(RequestError::Expectation),
            other => {
                if other == Some(Known::Connection) {
                    fields.framing.connection(value);
                }
                append(headers, name, value).ok_or(RequestError::TooLarge)?;
            }
        }
    }
    fields.framing.check()?;
    Ok(fields)
}

fn response_fields(raw: &[Header<'_>], version: Version, headers: &mut Headers) -> Result<Framing, ResponseError> {
    let mut framing = Framing::default();
    for Header { name, value } in raw {
        match special(name.as_bytes()) {
            Some(Known::ContentLength) => framing.content_length(value)?,
            Some(Known::TransferEncoding) => framing.transfer_encoding(value, version)?,
            other => {
                if other == Some(Known::Connection) {
                    framing.connection(value);
                }
                append(headers, name, value).ok_or(ResponseError::TooLarge)?;
            }
        }
    }
    framing.check()?;
    Ok(framing)
}

/// The fields the parser acts on. Their lengths differ, so most names cost one comparison of a length.
fn special(name: &[u8]) -> Option<Known> {
    let known = match name.len() {
        4 => Known::Host,
        6 => Known::Expect,
        10 => Known::Connection,
        14 => Known::ContentLength,
        17 => Known::TransferEncoding,
        _ => return None,
    };
    name.eq_ignore_ascii_case(known.text().as_bytes()).then_some(known)
}

fn append(headers: &mut Headers, name: &str, value: &[u8]) -> Option<()> {
    (name.len() <= limits::FIELD_NAME_BYTES).then(|| headers.append_raw(name.as_bytes(), value))
}

/// RFC 9112 §6.3. Sets `head.body` and says whether the end of the body can be seen without the connection's end.
fn response_body(framing: &Framing, method: &Method, head: &mut ResponseHead) -> bool {
    let never_has_body = matches!(head.status, 100..=199 | 204);
    if never_has_body || head.status == 304 || *method == Method::Head {
        if let (Some(length), false) = (framing.length, never_has_body) {
            head.headers.append(&Known::ContentLength, itoa::Buffer::new().format(length).as_bytes());
        }
        // A 1xx or 204 that announces a body: whether one follows is anybody's guess, so nothing else may.
        return !(never_has_body && (framing.chunked || framing.length.is_some_and(|length| length > 0)));
    }
    head.body = match framing.length {
        _ if framing.chunked => BodyLength::Streamed,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::UntilClose,
    };
    head.body != BodyLength::UntilClose
}

#[cfg(test)]
mod tests;
