//! `host[:port]`, as `Host`, `:authority` and the absolute form write it.

use std::net::Ipv6Addr;

use super::limits;

/// Why an authority was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityError {
    /// There is no host (RFC 9110 §4.2.1 makes that an error for `http`).
    Empty,
    /// The host is longer than a DNS name may be.
    TooLong,
    /// A byte that no host may have, user information (RFC 9110 §4.2.4) or a broken IPv6 literal among them.
    Host,
    /// The port is no number up to 65535.
    Port,
}

/// Checks `raw` and appends it to `out` in lower case and without an empty port (RFC 3986 §6.2.2.1, §6.2.3).
///
/// Stricter than RFC 3986: percent-encoding is refused in a host, so that `%65xample.com` cannot pass a rule on
/// `example.com` and reach an origin that decodes it. On an error `out` is as it was.
pub fn normalise(raw: &[u8], out: &mut Vec<u8>) -> Result<(), AuthorityError> {
    let (host, port) = split(raw);
    check_host(host)?;
    let port = port.unwrap_or_default();
    check_port(port)?;
    out.extend(host.iter().map(u8::to_ascii_lowercase));
    if !port.is_empty() {
        out.push(b':');
        out.extend_from_slice(port);
    }
    Ok(())
}

/// The host of a checked authority as routes and certificates name it: no port and no root dot; an IPv6 literal keeps
/// its brackets.
pub fn host_of(authority: &[u8]) -> &[u8] {
    let host = split(authority).0;
    host.strip_suffix(b".").unwrap_or(host)
}

/// The port of a checked authority, when it names one.
pub fn port_of(authority: &[u8]) -> Option<u16> {
    std::str::from_utf8(split(authority).1?).ok()?.parse().ok()
}

/// Host and what follows its colon. The colons of an IPv6 literal are inside brackets.
fn split(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let host_end = if authority.first() == Some(&b'[') {
        memchr::memchr(b']', authority).map_or(authority.len(), |bracket| bracket + 1)
    } else {
        memchr::memchr(b':', authority).unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(host_end);
    match rest {
        [] => (host, None),
        [b':', port @ ..] => (host, Some(port)),
        // `[::1]x`: hand back a host that `check_host` refuses.
        _ => (authority, None),
    }
}

fn check_host(host: &[u8]) -> Result<(), AuthorityError> {
    match host {
        [] => Err(AuthorityError::Empty),
        _ if host.len() > limits::HOST_BYTES => Err(AuthorityError::TooLong),
        [b'[', literal @ .., b']'] if is_ipv6(literal) => Ok(()),
        _ if host.iter().all(|&byte| is_host_byte(byte)) => Ok(()),
        _ => Err(AuthorityError::Host),
    }
}

fn check_port(port: &[u8]) -> Result<(), AuthorityError> {
    let number = port.iter().try_fold(0u32, |number, byte| match byte {
        b'0'..=b'9' => Some(number * 10 + u32::from(byte - b'0')).filter(|&number| number <= 65_535),
        _ => None,
    });
    number.map(|_| ()).ok_or(AuthorityError::Port)
}

/// No zone (`%eth0`): it means something on one machine only (RFC 6874 §4 lets a proxy refuse it).
fn is_ipv6(literal: &[u8]) -> bool {
    std::str::from_utf8(literal).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// RFC 3986 §3.2.2 `reg-name` without `pct-encoded`.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b',' | b';' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(raw: &str) -> Result<String, AuthorityError> {
        let mut out = Vec::new();
        normalise(raw.as_bytes(), &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn good_authorities_come_out_in_lower_case_without_an_empty_port() {
        for (raw, expected) in [
            ("example.com", "example.com"),
            ("EXAMPLE.com:8080", "example.com:8080"),
            ("example.com:", "example.com"),
            ("example.com.", "example.com."),
            ("under_score.test", "under_score.test"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]", "[::1]"),
            ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
            ("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]:80"),
            ("a:65535", "a:65535"),
        ] {
            assert_eq!(normalised(raw).as_deref(), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn bad_authorities_are_refused_for_the_right_reason() {
        let long = "a".repeat(256);
        for (raw, expected) in [
            ("", AuthorityError::Empty),
            (":80", AuthorityError::Empty),
            (long.as_str(), AuthorityError::TooLong),
            ("user@example.com", AuthorityError::Host),
            ("user:pass@example.com", AuthorityError::Port),
            ("a b", AuthorityError::Host),
            ("a/b", AuthorityError::Host),
            ("a\\b", AuthorityError::Host),
            ("a?b", AuthorityError::Host),
            ("a#b", AuthorityError::Host),
            ("%65xample.com", AuthorityError::Host),
            ("ex\u{e4}mple.com", AuthorityError::Host),
            ("[::1", AuthorityError::Host),
            ("[::1]x", AuthorityError::Host),
            ("[::1%25eth0]", AuthorityError::Host),
            ("[v1.fe80::a]", AuthorityError::Host),
            ("[example.com]", AuthorityError::Host),
            ("[]", AuthorityError::Host),
            ("::1", AuthorityError::Empty),
            ("a:65536", AuthorityError::Port),
            ("a:99999999999999999999", AuthorityError::Port),
            ("a:+80", AuthorityError::Port),
            ("a:8 0", AuthorityError::Port),
            ("a:80:80", AuthorityError::Port),
        ] {
            assert_eq!(normalised(raw), Err(expected), "{raw}");
        }
    }

    #[test]
    fn the_host_of_an_authority_has_no_port_and_no_root_dot() {
        for (authority, host, port) in [
            ("example.com", "example.com", None),
            ("example.com:80", "example.com", Some(80)),
            ("example.com.:80", "example.com", Some(80)),
            ("[::1]:8443", "[::1]", Some(8443)),
            ("[::1]", "[::1]", None),
            ("", "", None),
        ] {
            assert_eq!(host_of(authority.as_bytes()), host.as_bytes());
            assert_eq!(port_of(authority.as_bytes()), port);
        }
    }
}
