//! Hosts as routes see them.

/// `authority` as routes compare it: without port, in lower case, without the dot that ends a fully qualified name.
///
/// Copies into `scratch` only when there is an upper-case letter to change.
pub fn canonical<'a>(authority: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let (host, _) = split_port(authority);
    let host = host.strip_suffix(b".").unwrap_or(host);
    if !host.iter().any(u8::is_ascii_uppercase) {
        return host;
    }
    scratch.clear();
    scratch.extend(host.iter().map(u8::to_ascii_lowercase));
    scratch
}

/// Host and port of an authority. An IPv6 address keeps its brackets (RFC 3986 §3.2.2), whose colons are no port's.
///
/// A port that is empty or not a number is `None`, and still not part of the host.
pub fn split_port(authority: &[u8]) -> (&[u8], Option<u16>) {
    let bracket = memchr::memrchr(b']', authority).map_or(0, |at| at + 1);
    match memchr::memrchr(b':', &authority[bracket..]) {
        None => (authority, None),
        Some(at) => (&authority[..bracket + at], parse_port(&authority[bracket + at + 1..])),
    }
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    // `u16::from_str` takes a sign.
    digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_splits_into_host_and_port() {
        let cases: &[(&str, &str, Option<u16>)] = &[
            ("a.test", "a.test", None),
            ("a.test:8080", "a.test", Some(8080)),
            ("a.test:", "a.test", None),
            ("a.test:+80", "a.test", None),
            ("a.test:65536", "a.test", None),
            ("[::1]", "[::1]", None),
            ("[::1]:443", "[::1]", Some(443)),
            ("", "", None),
        ];
        for (authority, host, port) in cases {
            assert_eq!(split_port(authority.as_bytes()), (host.as_bytes(), *port), "{authority}");
        }
    }

    #[test]
    fn a_host_is_compared_in_lower_case_without_port_and_final_dot() {
        let cases = [
            ("a.test", "a.test"),
            ("A.Test:80", "a.test"),
            ("a.test.:80", "a.test"),
            ("[FE80::1]:1", "[fe80::1]"),
            ("", ""),
        ];
        for (authority, host) in cases {
            assert_eq!(canonical(authority.as_bytes(), &mut Vec::new()), host.as_bytes(), "{authority}");
        }
    }
}
