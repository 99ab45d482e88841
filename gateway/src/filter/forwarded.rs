//! Who the client is, and what the origin is told about it.
//!
//! # The rule
//!
//! The peer of the connection is the client, unless it is a trusted proxy. Then the client is the right-most address
//! of `x-forwarded-for` that is not a trusted proxy's: every address to the right of it was written by somebody who is
//! trusted, none to the left was. When all are trusted, it is the left-most; an entry that is no address ends the
//! search at the trusted hop that wrote it.
//!
//! # What the origin gets
//!
//! | field | from an untrusted peer | from a trusted one |
//! |---|---|---|
//! | `x-forwarded-for` | what came, then the peer (Envoy's `use_remote_address`) | the same |
//! | `x-forwarded-proto` | `http` or `https`, as the connection is | kept, or as the connection is |
//! | `x-forwarded-host` | the authority the client named | kept, or the authority |
//! | `x-request-id` | a new one | kept, or a new one |
//! | `forwarded`, other `x-forwarded-*`, `x-envoy-*` | dropped | kept |
//!
//! Envoy drops a list of its own fields only; here everything goes that an origin may take for a proxy's word.
//! (CVE-2023-27487 is a client writing `x-envoy-original-path`.) `x-forwarded-for` keeps what an untrusted peer
//! claims, as in Envoy, so an origin must not believe more than its last entry.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::proto::head::{Headers, Known, RequestHead};
use crate::proto::ip_map::IpSet;

/// The other end of a downstream connection. Made once per connection.
#[derive(Clone, Debug)]
pub struct Peer {
    addr: SocketAddr,
    is_tls: bool,
    text: IpText,
}

/// Whose word about the client is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies(IpSet);

/// An address as text, without allocation.
#[derive(Clone)]
pub struct IpText {
    bytes: [u8; IpText::MAX_LEN],
    len: u8,
}

// === impl Peer ===

impl Peer {
    /// The peer at `addr`. An IPv4-mapped IPv6 address counts as the IPv4 address it is.
    pub fn new(addr: SocketAddr, is_tls: bool) -> Peer {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        Peer { addr, is_tls, text: IpText::new(addr.ip()) }
    }

    /// Address and port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    /// The address as text.
    pub fn ip_text(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The scheme of the connection; a proxy in front may have been asked in another one ([`client_scheme`]).
    pub fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }
}

// === impl TrustedProxies ===

impl TrustedProxies {
    /// `trusted_proxies` of the configuration.
    pub fn build(networks: &[IpNet]) -> TrustedProxies {
        TrustedProxies(IpSet::of(networks))
    }

    /// Whether this address is a trusted proxy's.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(ip)
    }

    /// The client's address. Asked before [`TrustedProxies::prepare`] adds the peer to the list.
    pub fn client_ip(&self, peer: &Peer, headers: &Headers) -> IpAddr {
        let mut client = peer.ip();
        if !self.contains(client) {
            return client;
        }
        let hops = headers.get_all(&Known::XForwardedFor).rev().flat_map(|value| value.rsplit(|&byte| byte == b','));
        for hop in hops.map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty()) {
            match parse_hop(hop) {
                Some(ip) if self.contains(ip) => client = ip,
                Some(ip) => return ip,
                None => return client,
            }
        }
        client
    }

    /// Makes the fields of a request say who sent it, before filters and rewrites see it. `random` becomes the request
    /// id; `scratch` is memory to reuse.
    pub fn prepare(&self, peer: &Peer, head: &mut RequestHead, random: [u64; 2], scratch: &mut Vec<u8>) {
        let headers = &mut head.headers;
        if !self.contains(peer.ip()) {
            headers.retain(|known, name, _| !is_claim(known, name));
        }
        append_hop(headers, peer.ip_text(), scratch);
        set_if_absent(headers, Known::XForwardedProto, peer.scheme().as_bytes());
        if !head.authority.is_empty() {
            set_if_absent(headers, Known::XForwardedHost, &head.authority);
        }
        if !headers.contains(&Known::XRequestId) {
            headers.append(&Known::XRequestId, &uuid4(random[0], random[1]));
        }
    }
}

/// The scheme the client used, after [`TrustedProxies::prepare`]: what redirects start from.
pub fn client_scheme(headers: &Headers) -> &'static str {
    let proto = headers.get(&Known::XForwardedProto).unwrap_or_default();
    // Proxies in a row may each have added theirs; the client's is the first.
    let first = proto.split(|&byte| byte == b',').next().unwrap_or_default();
    if first.trim_ascii().eq_ignore_ascii_case(b"https") { "https" } else { "http" }
}

/// Whether a field says something that only a proxy may say.
fn is_claim(known: Known, name: &[u8]) -> bool {
    match known {
        Known::XForwardedFor => false,
        Known::Forwarded | Known::XRequestId => true,
        _ => name.starts_with(b"x-forwarded-") || name.starts_with(b"x-envoy-"),
    }
}

/// One `x-forwarded-for` line with the peer at its end, and no space after the comma, as Envoy writes it. One line,
/// because many origins read only the first.
fn append_hop(headers: &mut Headers, peer: &[u8], scratch: &mut Vec<u8>) {
    scratch.clear();
    for value in headers.get_all(&Known::XForwardedFor).filter(|value| !value.is_empty()) {
        scratch.extend_from_slice(value);
        scratch.push(b',');
    }
    scratch.extend_from_slice(peer);
    headers.set(&Known::XForwardedFor, scratch);
}

fn set_if_absent(headers: &mut Headers, name: Known, value: &[u8]) {
    if !headers.contains(&name) {
        headers.append(&name, value);
    }
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|addr| addr.ip())).ok()?;
    Some(ip.to_canonical())
}

/// A random UUID (RFC 9562 §5.4) of 122 of the given bits.
pub fn uuid4(high: u64, low: u64) -> [u8; 36] {
    const VERSION: u128 = 4 << 76;
    const VARIANT: u128 = 2 << 62;
    const HEX: &[u8; 16] = b"0123456789abcdef";
    /// Where each octet's digits are, between the hyphens.
    const OCTETS_AT: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let bits = (u128::from(high) << 64) | u128::from(low);
    let bits = bits & !(0xf << 76) & !(3 << 62) | VERSION | VARIANT;
    let mut text = [b'-'; 36];
    for (at, byte) in OCTETS_AT.into_iter().zip(bits.to_be_bytes()) {
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 0xf)];
    }
    text
}

// === impl IpText ===

impl IpText {
    /// `INET6_ADDRSTRLEN` without the NUL: the longest text of any address.
    const MAX_LEN: usize = 45;

    /// The text of an address.
    pub fn new(ip: IpAddr) -> IpText {
        let mut text = IpText { bytes: [0; IpText::MAX_LEN], len: 0 };
        // Cannot fail: no address is longer.
        let _ = write!(text, "{ip}");
        text
    }

    /// The bytes of the text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Write for IpText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = &mut self.bytes[usize::from(self.len)..];
        free.get_mut(..text.len()).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len += text.len() as u8;
        Ok(())
    }
}

impl fmt::Debug for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
    const ID: &str = "01234567-89ab-4def-bedc-ba9876543210";

    fn trusted() -> TrustedProxies {
        TrustedProxies::build(&["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()])
    }

    fn peer(ip: &str, is_tls: bool) -> Peer {
        Peer::new(SocketAddr::new(ip.parse().unwrap(), 5000), is_tls)
    }

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in lines {
            headers.append_raw(name.as_bytes(), value.as_bytes());
        }
        headers
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_not_trusted() {
        let cases: &[(&str, &[&str], &str)] = &[
            // An untrusted peer is the client, whatever it says.
            ("203.0.113.1", &[], "203.0.113.1"),
            ("203.0.113.1", &["9.9.9.9"], "203.0.113.1"),
            ("::ffff:203.0.113.1", &["9.9.9.9"], "203.0.113.1"),
            // A trusted one is believed.
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["9.9.9.9"], "9.9.9.9"),
            ("::ffff:10.0.0.1", &["9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", &["1.1.1.1, 9.9.9.9 ,10.0.0.2"], "9.9.9.9"),
            ("10.0.0.1", &["1.1.1.1", "9.9.9.9", "10.0.0.2,, "], "9.9.9.9"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("2001:db8::1", &["[2001:db9::7]:443"], "2001:db9::7"),
            ("10.0.0.1", &["[2001:db9::7]"], "2001:db9::7"),
            ("10.0.0.1", &["9.9.9.9:1234"], "9.9.9.9"),
            ("10.0.0.1", &["::ffff:9.9.9.9"], "9.9.9.9"),
            // Up to what is no address.
            ("10.0.0.1", &["9.9.9.9, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["\u{ff}"], "10.0.0.1"),
        ];
        for (peer_ip, lines, expected) in cases {
            let lines: Vec<_> = lines.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let client = trusted().client_ip(&peer(peer_ip, false), &headers(&lines));
            assert_eq!(client.to_string(), *expected, "{peer_ip} {lines:?}");
        }
    }

    fn prepared(peer: Peer, authority: &str, lines: &[(&str, &str)]) -> Vec<String> {
        let mut head = RequestHead { authority: authority.into(), headers: headers(lines), ..RequestHead::default() };
        trusted().prepare(&peer, &mut head, RANDOM, &mut Vec::new());
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        head.headers.iter().map(|(_, name, value)| format!("{}: {}", text(name), text(value))).collect()
    }

    const CLAIMS: &[(&str, &str)] = &[
        ("accept", "*/*"),
        ("X-Forwarded-For", "9.9.9.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Port", "1"),
        ("Forwarded", "for=9.9.9.9"),
        ("X-Request-Id", "chosen"),
        ("X-Envoy-Original-Path", "/admin"),
        ("X-Envoy-Upstream-Rq-Timeout-Ms", "1"),
    ];

    #[test]
    fn an_untrusted_peer_may_claim_nothing_but_earlier_hops() {
        let expected = [
            "accept: */*",
            "x-forwarded-for: 9.9.9.9,203.0.113.1",
            "x-forwarded-proto: http",
            "x-forwarded-host: a.test:8080",
            &format!("x-request-id: {ID}"),
        ];
        assert_eq!(prepared(peer("203.0.113.1", false), "a.test:8080", CLAIMS), expected);
    }

    #[test]
    fn a_trusted_proxys_word_is_kept() {
        let mut expected: Vec<String> =
            CLAIMS.iter().map(|(name, value)| format!("{}: {value}", name.to_lowercase())).collect();
        expected.remove(1);
        expected.push("x-forwarded-for: 9.9.9.9,10.0.0.1".into());
        assert_eq!(prepared(peer("10.0.0.1", false), "a.test", CLAIMS), expected);
    }

    #[test]
    fn what_a_trusted_proxy_does_not_say_is_filled_in() {
        let expected = ["x-forwarded-for: 10.0.0.1", "x-forwarded-proto: https", &format!("x-request-id: {ID}")];
        assert_eq!(prepared(peer("10.0.0.1", true), "", &[]), expected);
    }

    #[test]
    fn several_lines_of_hops_become_one() {
        let lines = [("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-for", ""), ("x-forwarded-for", "3.3.3.3")];
        let lines = prepared(peer("203.0.113.1", false), "", &lines);
        assert_eq!(lines[0], "x-forwarded-for: 1.1.1.1, 2.2.2.2,3.3.3.3,203.0.113.1");
    }

    #[test]
    fn the_clients_scheme_is_that_of_the_first_proxy() {
        let cases =
            [("https", "https"), ("HTTPS , http", "https"), ("http,https", "http"), ("", "http"), ("wss", "http")];
        for (proto, expected) in cases {
            assert_eq!(client_scheme(&headers(&[("x-forwarded-proto", proto)])), expected, "{proto}");
        }
        assert_eq!(client_scheme(&headers(&[])), "http");
    }

    #[test]
    fn a_uuid_has_version_4_and_the_rfc_variant_whatever_the_bits() {
        assert_eq!(uuid4(0, 0), *b"00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid4(u64::MAX, u64::MAX), *b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid4(RANDOM[0], RANDOM[1]), ID.as_bytes());
    }

    #[test]
    fn the_longest_address_has_room() {
        for ip in ["0.0.0.0", "255.255.255.255", "1111:2222:3333:4444:5555:6666:7777:8888", "::ffff:255.255.255.255"] {
            assert_eq!(IpText::new(ip.parse().unwrap()).as_bytes(), ip.as_bytes());
        }
    }
}
