//! The ClientHello at the beginning of a TLS stream (RFC 8446 §4.1.2), read without taking part in the handshake: the
//! server name (RFC 6066 §3) and the protocols offered (RFC 7301 §3.1) decide who serves the connection.
//!
//! Where two readers of one hello could understand it differently (a second extension of the same kind, a second name,
//! bytes after the end) it is refused: otherwise a client could be let through under one name and be served under
//! another.

use std::borrow::Cow;
use std::fmt;

use rustls_pki_types::DnsName;

use super::limits;

/// What a client says first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host it wants: in lower case, without a root dot. `None` when it names none, or what is no DNS name: RFC
    /// 6066 §3 permits no address literals.
    pub server_name: Option<String>,
    /// The protocols it offers, its favourite first.
    pub alpn: Vec<Vec<u8>>,
    /// It has an `encrypted_client_hello` (RFC 9849): `server_name` may be the outer name only, and the real one hidden.
    /// Browsers also send a meaningless one (§6.2), so this is no reason to refuse a client.
    pub encrypted: bool,
}

/// Why there is no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloError {
    /// The bytes are not TLS; SSLv2's hello, forbidden by RFC 8446 §D.5, is none.
    NotTls,
    /// The bytes begin as TLS, but break its rules.
    Broken,
    /// It does not fit in [`limits::CLIENT_HELLO_BYTES`].
    TooLong,
}

/// Reads a hello from a buffer that grows: each record is walked once however the bytes arrive, and the message is put
/// together once, when it is whole.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// Where the header of the record begins that was not whole yet.
    record_at: usize,
    /// Bytes of the message in the records before it.
    message_bytes: usize,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
/// RFC 8446 §5.1.
const FRAGMENT_MAX: usize = 1 << 14;
const MESSAGE_HEADER: usize = 4;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// The ClientHello that `bytes`, the beginning of a stream, has; `None` when more bytes are needed. To be asked again
/// as bytes arrive, keep a [`HelloReader`].
pub fn parse(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    HelloReader::default().parse(bytes)
}

// === impl HelloReader ===

impl HelloReader {
    /// As [`parse`]. `bytes` are all bytes from the stream's beginning: those of the call before, and more.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        let window = &bytes[..bytes.len().min(limits::CLIENT_HELLO_BYTES)];
        let available = self.walk(window)?;
        if let Some(message) = message(window, available)? {
            return parse_body(&message[MESSAGE_HEADER..]).ok_or(HelloError::Broken).map(Some);
        }
        if window.len() < bytes.len() { Err(HelloError::TooLong) } else { Ok(None) }
    }

    /// Checks the records and counts the bytes of messages in them.
    fn walk(&mut self, bytes: &[u8]) -> Result<usize, HelloError> {
        loop {
            let rest = &bytes[self.record_at..];
            check_record_start(rest, self.record_at == 0)?;
            let Some(fragment) = fragment_length(rest) else { return Ok(self.message_bytes) };
            if fragment == 0 || fragment > FRAGMENT_MAX {
                return Err(HelloError::Broken);
            }
            let here = rest.len() - RECORD_HEADER;
            if here < fragment {
                return Ok(self.message_bytes + here);
            }
            self.message_bytes += fragment;
            self.record_at += RECORD_HEADER + fragment;
            if message_length(bytes, self.message_bytes)?.is_some_and(|length| length <= self.message_bytes) {
                // What follows the hello is not its business.
                return Ok(self.message_bytes);
            }
        }
    }
}

/// Decides by as few bytes as there are.
fn check_record_start(record: &[u8], first: bool) -> Result<(), HelloError> {
    let is_tls = match record {
        [] => true,
        [kind] => *kind == HANDSHAKE,
        [kind, major, ..] => *kind == HANDSHAKE && *major == 3,
    };
    match (is_tls, first) {
        (true, _) => Ok(()),
        (false, true) => Err(HelloError::NotTls),
        (false, false) => Err(HelloError::Broken),
    }
}

fn fragment_length(record: &[u8]) -> Option<usize> {
    let length = record.get(3..RECORD_HEADER)?;
    Some(usize::from(u16::from_be_bytes([length[0], length[1]])))
}

/// Length of the message with its header, which may itself be in up to four records; `None` when it is not there yet.
/// `available` counts the message's bytes in the records.
fn message_length(bytes: &[u8], available: usize) -> Result<Option<usize>, HelloError> {
    if available < MESSAGE_HEADER {
        return Ok(None);
    }
    let mut header = fragments(bytes).flatten().take(MESSAGE_HEADER);
    if header.next() != Some(&CLIENT_HELLO) {
        return Err(HelloError::Broken);
    }
    let length = MESSAGE_HEADER + header.fold(0, |length, byte| length << 8 | usize::from(*byte));
    if RECORD_HEADER + length > limits::CLIENT_HELLO_BYTES { Err(HelloError::TooLong) } else { Ok(Some(length)) }
}

/// The message, when it is whole.
fn message(bytes: &[u8], available: usize) -> Result<Option<Cow<'_, [u8]>>, HelloError> {
    let Some(length) = message_length(bytes, available)?.filter(|length| *length <= available) else {
        return Ok(None);
    };
    Ok(Some(match fragments(bytes).next() {
        Some(first) if first.len() >= length => Cow::Borrowed(&first[..length]),
        _ => Cow::Owned(fragments(bytes).flatten().take(length).copied().collect()),
    }))
}

/// What is there of each record's payload.
fn fragments(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = fragment_length(rest)?;
        let payload = &rest[RECORD_HEADER..];
        let (fragment, next) = payload.split_at(length.min(payload.len()));
        rest = next;
        Some(fragment)
    })
}

/// `None` when it breaks the rules.
fn parse_body(body: &[u8]) -> Option<ClientHello> {
    let mut rest = body;
    let _version_and_random = take(&mut rest, 2 + 32)?;
    let _session_id = take_vec8(&mut rest).filter(|id| id.len() <= 32)?;
    let _cipher_suites = take_vec16(&mut rest).filter(|suites| suites.len() >= 2 && suites.len() % 2 == 0)?;
    let _compression_methods = take_vec8(&mut rest).filter(|methods| !methods.is_empty())?;
    // A hello of TLS 1.2 may end here (RFC 5246 §7.4.1.2).
    let mut extensions = if rest.is_empty() { rest } else { take_vec16(&mut rest)? };
    if !rest.is_empty() {
        return None;
    }
    let (mut server_name, mut alpn, mut encrypted) = (None, None, None);
    while !extensions.is_empty() {
        let kind = take_u16(&mut extensions)?;
        let value = take_vec16(&mut extensions)?;
        let seen = match kind {
            SERVER_NAME => server_name.replace(parse_server_name(value)?).is_some(),
            ALPN => alpn.replace(parse_alpn(value)?).is_some(),
            ENCRYPTED_CLIENT_HELLO => encrypted.replace(()).is_some(),
            _ => false,
        };
        if seen {
            return None;
        }
    }
    let (server_name, alpn) = (server_name.flatten(), alpn.unwrap_or_default());
    Some(ClientHello { server_name, alpn, encrypted: encrypted.is_some() })
}

/// One name of the only kind there is, as OpenSSL and BoringSSL demand; `Some(None)` when it is no DNS name.
fn parse_server_name(value: &[u8]) -> Option<Option<String>> {
    const HOST_NAME: [u8; 1] = [0];
    let mut names = whole(value, take_vec16)?;
    if take(&mut names, 1)? != HOST_NAME {
        return None;
    }
    let name = whole(names, take_vec16).filter(|name| !name.is_empty())?;
    let name = DnsName::try_from(name).ok();
    Some(name.map(|name| name.as_ref().trim_end_matches('.').to_ascii_lowercase()))
}

fn parse_alpn(value: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut names = whole(value, take_vec16).filter(|names| !names.is_empty())?;
    let mut offered = Vec::new();
    while !names.is_empty() {
        offered.push(take_vec8(&mut names).filter(|name| !name.is_empty())?.to_vec());
        if offered.len() > limits::ALPN_COUNT {
            return None;
        }
    }
    Some(offered)
}

// Each `take_…` removes from the front of `rest` what it returns; `None` when that is cut short.

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    take(rest, 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn take_vec8<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take(rest, 1)?[0];
    take(rest, usize::from(length))
}

fn take_vec16<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_u16(rest)?;
    take(rest, usize::from(length))
}

/// What `read` takes, when it takes all.
fn whole<'a>(mut bytes: &'a [u8], read: fn(&mut &'a [u8]) -> Option<&'a [u8]>) -> Option<&'a [u8]> {
    read(&mut bytes).filter(|_| bytes.is_empty())
}

// === impl HelloError ===

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HelloError::NotTls => f.write_str("the connection does not begin with TLS"),
            HelloError::Broken => f.write_str("the TLS ClientHello is malformed"),
            HelloError::TooLong => {
                write!(f, "the TLS ClientHello is longer than {} bytes", limits::CLIENT_HELLO_BYTES)
            }
        }
    }
}

impl std::error::Error for HelloError {}

#[cfg(test)]
mod tests;
