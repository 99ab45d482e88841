//! Why a log line cannot be forged.
//!
//! Everything a client, an origin or a name in the configuration can put into a line goes through one of these two
//! functions. After them a value has no control character, so a line feed cannot start a line of its own and a
//! terminal that shows the log gets no escape sequence; and it has no bare quote, so it cannot leave its field.

use std::io::Write;

/// Text: as nginx does it, `"`, `\`, control bytes and every byte above 0x7e become `\xHH`, so a line is ASCII and the
/// value's bytes can be had back.
pub(super) fn text(value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| !PLAIN[*byte as usize]) {
        out.extend_from_slice(&rest[..at]);
        let byte = rest[at];
        out.extend_from_slice(&[b'\\', b'x', UPPER_HEX[byte as usize >> 4], UPPER_HEX[byte as usize & 15]]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// A JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD, as Envoy has it.
pub(super) fn json(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if value.iter().all(|byte| PLAIN[*byte as usize]) {
        out.extend_from_slice(value);
    } else {
        json_slowly(value, out);
    }
    out.push(b'"');
}

#[cold]
fn json_slowly(value: &[u8], out: &mut Vec<u8>) {
    for chunk in value.utf8_chunks() {
        chunk.valid().chars().for_each(|char| json_char(char, out));
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn json_char(char: char, out: &mut Vec<u8>) {
    match char {
        '"' | '\\' => out.extend_from_slice(&[b'\\', char as u8]),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // U+0080 to U+009F are control characters too, and U+2028 and U+2029 end a line for some readers.
        _ if char.is_control() || matches!(char, '\u{2028}' | '\u{2029}') => {
            // Writing to a vector cannot fail.
            let _ = write!(out, "\\u{:04x}", char as u32);
        }
        _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

const UPPER_HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Bytes that neither form escapes.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte < 0x7f {
        plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    plain
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_text(value: &[u8]) -> String {
        let mut out = Vec::new();
        text(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn in_json(value: &[u8]) -> String {
        let mut out = Vec::new();
        json(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_escapes_quotes_backslashes_controls_and_high_bytes() {
        assert_eq!(in_text(b"a\"b\\c\r\nd\x7f\xc3\xa9 e"), r"a\x22b\x5Cc\x0D\x0Ad\x7F\xC3\xA9 e");
    }

    #[test]
    fn json_escapes_controls_and_replaces_what_is_not_utf8() {
        assert_eq!(in_json("a\"b\\c\r\n\t\u{1b}\u{85}\u{2028}é".as_bytes()), r#""a\"b\\c\r\n\t\u001b\u0085\u2028é""#);
        assert_eq!(in_json(b"a\xffb\xe2\x82"), "\"a\u{fffd}b\u{fffd}\"");
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_sends_leaves_its_field(value: Vec<u8>) {
            let text = in_text(&value);
            prop_assert!(!text.chars().any(|char| char.is_control() || char == '"'));
            let json = in_json(&value);
            prop_assert!(!json.chars().any(|char| char.is_control()));
            let back: String = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(back, String::from_utf8_lossy(&value));
        }
    }
}
