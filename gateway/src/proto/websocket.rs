//! The opening handshake of WebSocket over HTTP/1.1 (RFC 6455 §4). Its frames are bytes of a tunnel to the gateway.
//!
//! A tunnel for one side only is a way to smuggle requests: what the gateway takes for a tunnel's bytes, the other side
//! may read as requests, and the other way round (CVE-2026-2833 is a proxy that tunnelled before the origin's 101). So a
//! request that leaves room for doubt is refused, and an origin's 101 counts only when it accepts this very handshake.

use aws_lc_rs::digest;
use data_encoding::BASE64;

use super::h1::hop;
use super::head::{BodyLength, Headers, Known, Method, Name, RequestHead, Version};

/// What a request or an answer names in `upgrade`.
pub const PROTOCOL: &[u8] = b"websocket";

/// The only version there is: of `sec-websocket-version`.
pub const VERSION: &[u8] = b"13";

/// Why an upgrade to WebSocket is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// Not GET, or not HTTP/1.1 (§4.1 rule 2).
    Request,
    /// It has a body, whose end the origin may see elsewhere.
    Body,
    /// It asks for another protocol besides: who answers 101 could mean that one.
    Protocols,
    /// Not [`VERSION`], or more than one. The answer names the right one (§4.4).
    Version,
    /// Not one key that could stand for 16 bytes (§4.1 rule 7).
    Key,
}

/// Whether a request asks for WebSocket: `upgrade` lists it and `connection` names `upgrade`. Then [`check_request`]
/// says whether it may; a request that does not ask is an ordinary one.
pub fn wants_websocket(headers: &Headers) -> bool {
    lists(headers, Known::Upgrade, PROTOCOL) && lists(headers, Known::Connection, b"upgrade")
}

/// Checks a request that [wants](wants_websocket) WebSocket; its key.
pub fn check_request(head: &RequestHead) -> Result<&[u8], HandshakeError> {
    if head.method != Method::Get || head.version != Version::Http11 {
        return Err(HandshakeError::Request);
    }
    // Not even one of no bytes: a `content-length: 0` or an empty chunked body is nothing that a client would send.
    if head.body != BodyLength::Empty {
        return Err(HandshakeError::Body);
    }
    if head.headers.get_all(&Known::Upgrade).flat_map(hop::options).count() != 1 {
        return Err(HandshakeError::Protocols);
    }
    if only(&head.headers, &Known::SecWebsocketVersion) != Some(VERSION) {
        return Err(HandshakeError::Version);
    }
    only(&head.headers, &Known::SecWebsocketKey).filter(|key| is_valid_key(key)).ok_or(HandshakeError::Key)
}

/// Whether the fields of an origin's 101 accept the handshake that had this key (§4.1, what the client must validate).
pub fn is_accepted(headers: &Headers, key: &[u8]) -> bool {
    let protocols = headers.get_all(&Known::Upgrade).flat_map(hop::options);
    wants_websocket(headers)
        && protocols.count() == 1
        && only(headers, &Known::SecWebsocketAccept) == Some(accept_key(key).as_slice())
}

/// The `sec-websocket-accept` for a `sec-websocket-key` (§4.2.2).
pub fn accept_key(key: &[u8]) -> [u8; 28] {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    // Proves that the handshake was understood; it protects nothing, so SHA-1 will do.
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    let mut text = [0; 28];
    BASE64.encode_mut(context.finish().as_ref(), &mut text);
    text
}

/// A `sec-websocket-key` for a handshake of the gateway's own.
pub fn new_key(random: [u64; 2]) -> [u8; 24] {
    let bits = u128::from(random[0]) << 64 | u128::from(random[1]);
    let mut text = [0; 24];
    BASE64.encode_mut(&bits.to_be_bytes(), &mut text);
    text
}

/// Whether a key has the form of 16 bytes in base64. Bits that the last digit has to spare may be set.
pub fn is_valid_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().all(is_digit))
}

fn lists(headers: &Headers, name: Known, option: &[u8]) -> bool {
    headers.get_all(&name).flat_map(hop::options).any(|listed| listed.eq_ignore_ascii_case(option))
}

/// The value of a field that is there once.
fn only<'a>(headers: &'a Headers, name: &'a impl Name) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name);
    values.next().filter(|_| values.next().is_none())
}

// === impl HandshakeError ===

impl HandshakeError {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            HandshakeError::Version => 426,
            HandshakeError::Request | HandshakeError::Body | HandshakeError::Protocols | HandshakeError::Key => 400,
        }
    }

    /// One word for the log.
    pub fn detail(self) -> &'static str {
        match self {
            HandshakeError::Request => "websocket_needs_get_and_http_1.1",
            HandshakeError::Body => "websocket_upgrade_with_body",
            HandshakeError::Protocols => "websocket_among_several_protocols",
            HandshakeError::Version => "websocket_version_is_not_13",
            HandshakeError::Key => "websocket_key_invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of RFC 6455 §1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    type Fields<'a> = &'a [(&'a str, &'a str)];

    const GOOD: [(&str, &str); 4] = [
        ("Upgrade", "WebSocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ];

    fn headers(fields: Fields<'_>) -> Headers {
        let mut headers = Headers::default();
        fields.iter().for_each(|(name, value)| headers.append_raw(name.as_bytes(), value.as_bytes()));
        headers
    }

    /// The good request with these fields in place of its own of the same names.
    fn with(fields: Fields<'_>) -> RequestHead {
        let kept = GOOD.iter().filter(|(name, _)| !fields.iter().any(|(other, _)| name == other));
        let all: Vec<_> = kept.chain(fields).copied().collect();
        RequestHead { headers: headers(&all), ..RequestHead::default() }
    }

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        assert_eq!(accept_key(KEY.as_bytes()), ACCEPT.as_bytes());
    }

    #[test]
    fn a_request_wants_websocket_when_upgrade_and_connection_say_so() {
        let cases: &[(Fields<'_>, bool)] = &[
            (&[("Upgrade", "websocket"), ("Connection", "Upgrade")], true),
            (&[("Upgrade", "h2c, WebSocket"), ("Connection", "close,upgrade")], true),
            (&[("Upgrade", "h2c"), ("Upgrade", "websocket"), ("Connection", "a"), ("Connection", "upgrade")], true),
            (&[("Upgrade", "websocket")], false),
            (&[("Connection", "upgrade")], false),
            (&[("Upgrade", "websocket"), ("Connection", "keep-alive")], false),
            (&[("Upgrade", "h2c"), ("Connection", "upgrade, HTTP2-Settings")], false),
            (&[("Upgrade", "websocket2"), ("Connection", "upgrade")], false),
            (&[("Upgrade", "websocket/13"), ("Connection", "upgrade")], false),
        ];
        for (fields, expected) in cases {
            assert_eq!(wants_websocket(&headers(fields)), *expected, "{fields:?}");
        }
    }

    #[test]
    fn a_handshake_that_leaves_room_for_doubt_is_refused() {
        assert_eq!(check_request(&with(&[])), Ok(KEY.as_bytes()));
        let cases: &[(Fields<'_>, HandshakeError)] = &[
            (&[("Upgrade", "websocket, h2c")], HandshakeError::Protocols),
            (&[("Upgrade", "websocket"), ("Upgrade", "h2c")], HandshakeError::Protocols),
            (&[("Upgrade", "websocket, websocket")], HandshakeError::Protocols),
            (&[("Sec-WebSocket-Version", "8")], HandshakeError::Version),
            (&[("Sec-WebSocket-Version", "13, 8")], HandshakeError::Version),
            (&[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Version", "13")], HandshakeError::Version),
            (&[("Sec-WebSocket-Version", "")], HandshakeError::Version),
            (&[("Sec-WebSocket-Key", "")], HandshakeError::Key),
            (&[("Sec-WebSocket-Key", "SGVsbG8=")], HandshakeError::Key),
            (&[("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Key", KEY)], HandshakeError::Key),
        ];
        for (fields, expected) in cases {
            assert_eq!(check_request(&with(fields)), Err(*expected), "{fields:?}");
        }
        for body in [BodyLength::Known(0), BodyLength::Known(5), BodyLength::Streamed] {
            assert_eq!(check_request(&RequestHead { body, ..with(&[]) }), Err(HandshakeError::Body), "{body:?}");
        }
        let old = RequestHead { version: Version::Http10, ..with(&[]) };
        assert_eq!(check_request(&old), Err(HandshakeError::Request));
        let post = RequestHead { method: Method::Post, ..with(&[]) };
        assert_eq!(check_request(&post), Err(HandshakeError::Request));
    }

    #[test]
    fn only_a_version_that_is_wrong_is_answered_with_the_right_one() {
        assert_eq!(HandshakeError::Version.status(), 426);
        assert_eq!(HandshakeError::Key.status(), 400);
    }

    #[test]
    fn an_origin_accepts_this_very_handshake_or_none() {
        let cases: &[(Fields<'_>, bool)] = &[
            (&[("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT)], true),
            (&[("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", KEY)], false),
            (&[("Upgrade", "websocket"), ("Connection", "Upgrade")], false),
            (&[("Upgrade", "h2c"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT)], false),
            (&[("Upgrade", "websocket, h2c"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT)], false),
            (&[("Upgrade", "websocket"), ("Sec-WebSocket-Accept", ACCEPT)], false),
        ];
        for (fields, expected) in cases {
            assert_eq!(is_accepted(&headers(fields), KEY.as_bytes()), *expected, "{fields:?}");
        }
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        for key in [KEY, "AAAAAAAAAAAAAAAAAAAAAA==", "+/+/+/+/+/+/+/+/+/+/+/=="] {
            assert!(is_valid_key(key.as_bytes()), "{key}");
        }
        for key in [
            "",
            "==",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=a",
            "dGhlIHNhbXBsZSBub25j ==",
            "dGhlIHNhbXBsZSBub25jZQ===",
        ] {
            assert!(!is_valid_key(key.as_bytes()), "{key}");
        }
    }

    proptest! {
        #[test]
        fn a_new_key_is_valid_and_has_all_its_bits(random: [u64; 2]) {
            let key = new_key(random);
            prop_assert!(is_valid_key(&key));
            let bytes = BASE64.decode(&key).unwrap();
            prop_assert_eq!(bytes, random.map(u64::to_be_bytes).concat());
        }
    }
}
