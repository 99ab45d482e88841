//! Cookies (RFC 6265): one that a client sent, and one for it to keep.

use std::time::Duration;

use super::head::{Headers, Known};

/// The value of the first cookie of this name, without quotes around it (RFC 6265 §4.1.1). HTTP/2 clients may send a
/// field for each cookie (RFC 9113 §8.2.3).
pub fn find<'a>(headers: &'a Headers, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(&Known::Cookie).flat_map(|field| field.split(|&byte| byte == b';'));
    let value =
        pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// A number as cookies have it: 16 hexadecimal digits.
pub fn number(value: u64) -> [u8; 16] {
    std::array::from_fn(|at| b"0123456789abcdef"[(value >> (60 - 4 * at)) as usize & 15])
}

/// The number that [`number`] has written.
pub fn parse_number(text: &[u8]) -> Option<u64> {
    let is_number = text.len() == 16 && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let text = std::str::from_utf8(text).ok().filter(|_| is_number)?;
    u64::from_str_radix(text, 16).ok()
}

/// How a cookie is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Its name, a token (RFC 9110 §5.6.2).
    pub name: String,
    /// `Max-Age`; `None` is as long as the browser runs.
    pub ttl: Option<Duration>,
    /// `Path`
    pub path: Option<String>,
    /// Anything else, such as `SameSite=Lax`, or `Secure` with an empty value.
    pub attributes: Vec<(String, String)>,
}

impl Cookie {
    /// Writes the value of a `set-cookie` field into `out`, as Envoy does: always with `HttpOnly`, because no script has
    /// any use for it.
    pub fn write(&self, value: u64, out: &mut Vec<u8>) {
        out.clear();
        let parts: [&[u8]; 4] = [self.name.as_bytes(), b"=\"", &number(value), b"\""];
        parts.iter().for_each(|part| out.extend_from_slice(part));
        if let Some(ttl) = self.ttl {
            out.extend_from_slice(b"; Max-Age=");
            out.extend_from_slice(itoa::Buffer::new().format(ttl.as_secs()).as_bytes());
        }
        if let Some(path) = &self.path {
            out.extend_from_slice(b"; Path=");
            out.extend_from_slice(path.as_bytes());
        }
        for (name, value) in &self.attributes {
            out.extend_from_slice(b"; ");
            out.extend_from_slice(name.as_bytes());
            if !value.is_empty() {
                out.push(b'=');
                out.extend_from_slice(value.as_bytes());
            }
        }
        out.extend_from_slice(b"; HttpOnly");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_whatever_stands_beside_it() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&[], None),
            (&["aff=1"], Some("1")),
            (&["aff=\"1\""], Some("1")),
            (&["xaff=0; aff=1"], Some("1")),
            (&["a=b;aff=1;c=d"], Some("1")),
            (&["a=b", "aff=1"], Some("1")),
            (&["affx=1"], None),
            (&["aff"], None),
            (&["aff="], Some("")),
            (&["aff=\""], Some("\"")),
            (&["aff=1; aff=2"], Some("1")),
        ];
        for (fields, expected) in cases {
            let mut headers = Headers::default();
            fields.iter().for_each(|field| headers.append(&Known::Cookie, field.as_bytes()));
            assert_eq!(find(&headers, "aff"), expected.map(str::as_bytes), "{fields:?}");
        }
    }

    #[test]
    fn numbers_are_sixteen_digits_and_nothing_else() {
        for value in [0, 1, u64::MAX, 0x9362_d225_468d_452e] {
            assert_eq!(parse_number(&number(value)), Some(value));
        }
        assert_eq!(&number(0x9362_d225_468d_452e), b"9362d225468d452e");
        for bad in ["", "1", "9362d225468d452E", "+362d225468d452e", "9362d225468d452e0", "9362d225468d452\u{e9}"] {
            assert_eq!(parse_number(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_field_is_what_envoy_writes() {
        let cookie = |ttl: Option<u64>, path: Option<&str>, attributes: &[(&str, &str)]| Cookie {
            name: "aff".into(),
            ttl: ttl.map(Duration::from_secs),
            path: path.map(Into::into),
            attributes: attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        };
        let cases = [
            (cookie(Some(3600), Some("/"), &[]), "aff=\"9362d225468d452e\"; Max-Age=3600; Path=/; HttpOnly"),
            (cookie(None, None, &[]), "aff=\"9362d225468d452e\"; HttpOnly"),
            (
                cookie(None, None, &[("SameSite", "Lax"), ("Secure", "")]),
                "aff=\"9362d225468d452e\"; SameSite=Lax; Secure; HttpOnly",
            ),
        ];
        for (cookie, expected) in cases {
            let mut out = b"old".to_vec();
            cookie.write(0x9362_d225_468d_452e, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
