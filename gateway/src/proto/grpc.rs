//! gRPC over HTTP, as its protocol document (`PROTOCOL-HTTP2.md`) defines it: what a gateway must know of it.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

/// Bytes before a message: whether it is compressed, and its length.
pub const FRAME_HEAD: usize = 5;

/// Largest number in a `grpc-timeout`: eight digits.
pub const TIMEOUT_MAX: u128 = 99_999_999;

/// `grpc-status` of a call that was given up.
pub const CANCELLED: u8 = 1;
/// `grpc-status` of a call whose message makes no sense.
pub const INVALID_ARGUMENT: u8 = 3;
/// `grpc-status` of a call that took longer than its `grpc-timeout`.
pub const DEADLINE_EXCEEDED: u8 = 4;
/// `grpc-status` of a call that is above a quota, or for which something else was not left.
pub const RESOURCE_EXHAUSTED: u8 = 8;
/// `grpc-status` of a call of a method that there is not.
pub const UNIMPLEMENTED: u8 = 12;
/// `grpc-status` of a call that met something broken.
pub const INTERNAL: u8 = 13;
/// `grpc-status` of a call that nobody was there to answer.
pub const UNAVAILABLE: u8 = 14;

/// Whether a `content-type` is gRPC's: `application/grpc`, a format after `+`, parameters after `;`. gRPC-Web is another
/// protocol.
pub fn is_grpc(content_type: &[u8]) -> bool {
    const PREFIX: &[u8] = b"application/grpc";
    let Some((prefix, rest)) = content_type.split_at_checked(PREFIX.len()) else { return false };
    prefix.eq_ignore_ascii_case(PREFIX) && matches!(rest, [] | [b'+' | b';' | b' ' | b'\t', ..])
}

/// A `grpc-timeout`: one to eight digits and a unit. `None` for anything else.
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The `grpc-status` that says what an HTTP status says; for answers of the gateway's own, which gRPC clients get with
/// HTTP status 200. Envoy's table, and that of gRPC's `http-grpc-status-mapping.md`.
pub fn status_of_http(status: u16) -> u8 {
    const UNKNOWN: u8 = 2;
    const PERMISSION_DENIED: u8 = 7;
    const UNAUTHENTICATED: u8 = 16;
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// Whether a `grpc-status` says that the service is not well: what would be a 5xx in HTTP. `UNIMPLEMENTED` is not among them: a
/// client asks for what there is not, as with a 404.
pub fn is_failure(status: u8) -> bool {
    const UNKNOWN: u8 = 2;
    const DATA_LOSS: u8 = 15;
    matches!(status, UNKNOWN | DEADLINE_EXCEEDED | INTERNAL | UNAVAILABLE | DATA_LOSS)
}

/// The HTTP status that says what a `grpc-status` says. Envoy's table, and that of `google/rpc/code.proto`.
pub fn http_of_status(status: u8) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// Appends `text` as `grpc-message` has it: percent-encoded but for printable ASCII.
pub fn encode_message(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        match byte {
            b'%' | 0..b' ' | 0x7f.. => {
                out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
            }
            _ => out.push(byte),
        }
    }
}

/// A message with its head, uncompressed.
pub fn encode_frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = Vec::with_capacity(FRAME_HEAD + length);
    out.push(0);
    // A message of 4 GiB is none that was ever built.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // A Vec grows as needed, so there is always room.
    let _ = message.encode(&mut out);
    out.into()
}

/// The message of a body that consists of one, which a call has that is not streaming. `None` when it is anything else,
/// a compressed message included: we never say that we take those.
pub fn decode_frame<M: Message + Default>(body: &[u8]) -> Option<M> {
    let (head, message) = body.split_first_chunk::<FRAME_HEAD>()?;
    let [compressed, length @ ..] = *head;
    let is_whole = compressed == 0 && usize::try_from(u32::from_be_bytes(length)) == Ok(message.len());
    is_whole.then(|| M::decode(message).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let cases = [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC+json", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc ;a=b", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("application/gr", false),
            ("", false),
        ];
        for (content_type, expected) in cases {
            assert_eq!(is_grpc(content_type.as_bytes()), expected, "{content_type}");
        }
    }

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("00000006n", Some(Duration::from_nanos(6))),
            ("0S", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000n", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("1h", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            (" 1S", None),
            ("1 S", None),
            ("1S ", None),
        ];
        for (value, expected) in cases {
            assert_eq!(parse_timeout(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn http_statuses_become_grpc_statuses() {
        let table = [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14)];
        for status in 100..=999 {
            let expected = table.iter().find(|(http, _)| *http == status).map_or(2, |(_, grpc)| *grpc);
            assert_eq!(status_of_http(status), expected, "{status}");
        }
    }

    fn encoded(text: &str) -> String {
        let mut out = Vec::new();
        encode_message(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_message_is_printable_ascii() {
        let cases = [
            ("no healthy upstream", "no healthy upstream"),
            ("100% ~\u{7f}", "100%25 ~%7F"),
            ("a\r\nb\tc\0", "a%0D%0Ab%09c%00"),
            ("caf\u{e9} \u{1f600}", "caf%C3%A9 %F0%9F%98%80"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(encoded(text), expected);
        }
    }

    #[test]
    fn a_frame_is_one_whole_uncompressed_message() {
        use crate::proto::rate_limit_service::Entry;
        let entry = Entry { key: "k".into(), value: "v".into() };
        let frame = encode_frame(&entry);
        assert_eq!(&*frame, b"\0\0\0\0\x06\x0a\x01k\x12\x01v");
        let cases: [(&[u8], Option<Entry>); 8] = [
            (&frame, Some(entry)),
            (b"\0\0\0\0\0", Some(Entry::default())),
            (b"", None),
            (b"\0\0\0\0", None),
            (&frame[..frame.len() - 1], None),
            (b"\0\0\0\0\0\0", None),
            (b"\x01\0\0\0\0", None),
            (b"\0\0\0\0\x02\x0a\x05", None),
        ];
        for (body, expected) in cases {
            assert_eq!(decode_frame(body), expected, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn a_message_can_be_decoded(text: String) {
            let encoded = encoded(&text);
            prop_assert!(encoded.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let mut parts = encoded.split('%');
            let mut decoded = parts.next().unwrap().as_bytes().to_vec();
            for part in parts {
                decoded.push(u8::from_str_radix(&part[..2], 16).unwrap());
                decoded.extend_from_slice(&part.as_bytes()[2..]);
            }
            prop_assert_eq!(decoded, text.into_bytes());
        }
    }
}
