//! Who the client is, and what the origin is told about it.
//!
//! # The rule
//!
//! 1. The *peer* is the other end of the TCP connection, or the source that a PROXY header names where the listener
//!    takes one; it is taken from trusted proxies only. `peer_ip` matches it.
//! 2. The peer is the *client*, unless it is a trusted proxy: nothing that an untrusted peer writes is believed.
//!    `client_ip` matches the client.
//! 3. A trusted peer's `x-forwarded-for` lists the hops before it, the last one at the right. Without that field,
//!    `forwarded` (RFC 7239) does, with the `for` of each element. It is one or the other: a trusted proxy that writes
//!    `forwarded` must drop the `x-forwarded-for` that it gets.
//! 4. The client is the right-most hop that is not a trusted proxy's: every address to the right of it was written by
//!    somebody who is trusted, none to the left was. When all are trusted, it is the left-most. A hop that is no
//!    address (`unknown`, `_hidden`) ends the search at the trusted hop that wrote it.
//! 5. With `trusted_hops`, in place of 4, the client is that entry, counted from the right, as in Envoy: the proxies that
//!    wrote it and those to the right of it are as many as that, whatever their addresses. When there are fewer or it is
//!    no address, it is the peer.
//!
//! Trusted are the listener's `trusted_proxies`; without those, the `[gateway]`'s.
//!
//! # What the origin gets
//!
//! | field | from an untrusted peer | from a trusted one |
//! |---|---|---|
//! | `x-forwarded-for` | what came, then the peer (Envoy's `use_remote_address`) | the same |
//! | `x-forwarded-proto` | `http` or `https`, as the connection is | kept, or as the connection is |
//! | `x-forwarded-host` | the authority the client named | kept, or the authority |
//! | `x-request-id` | a new one | kept, or a new one |
//! | `forwarded` | dropped | kept |
//! | the same with `forwarded_header` | an element for the peer | what came, then an element for the peer |
//! | other `x-forwarded-*`, `x-envoy-*` | dropped | kept |
//!
//! Envoy drops a list of its own fields only; here everything goes that an origin may take for a proxy's word.
//! (CVE-2023-27487 is a client writing `x-envoy-original-path`.) `x-forwarded-for` keeps what an untrusted peer
//! claims, as in Envoy, so an origin must not believe more than its last entry.

mod element;

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
pub struct TrustedProxies {
    networks: IpSet,
    /// `trusted_hops`; 0 goes by `networks` alone.
    hops: usize,
}

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
    /// `trusted_proxies` and `trusted_hops` of the configuration.
    pub fn build(networks: &[IpNet], hops: u32) -> TrustedProxies {
        TrustedProxies { networks: IpSet::of(networks), hops: hops as usize }
    }

    /// Whether this address is a trusted proxy's.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.networks.contains(ip)
    }

    /// The client's address. Asked before [`TrustedProxies::prepare`] adds the peer to the list.
    pub fn client_ip(&self, peer: &Peer, headers: &Headers) -> IpAddr {
        let lines = |name| headers.get_all(name).rev();
        if !self.contains(peer.ip()) {
            peer.ip()
        } else if headers.contains(&Known::XForwardedFor) {
            self.search(peer.ip(), lines(&Known::XForwardedFor).flat_map(hops_from_right))
        } else {
            self.search(peer.ip(), lines(&Known::Forwarded).flat_map(element::hops_from_right))
        }
    }

    /// The client among the hops before a trusted peer; `None` is a hop without an address.
    fn search(&self, peer: IpAddr, mut hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        if let Some(before) = self.hops.checked_sub(1) {
            return hops.nth(before).flatten().unwrap_or(peer);
        }
        let mut client = peer;
        for hop in hops {
            match hop {
                Some(ip) if self.contains(ip) => client = ip,
                Some(ip) => return ip,
                None => return client,
            }
        }
        client
    }

    /// Makes the fields of a request say who sent it, before filters and rewrites see it. `random` becomes the request
    /// id; `scratch` is memory to reuse. Says whether the peer is trusted: of others no claim is left.
    pub fn prepare(&self, peer: &Peer, head: &mut RequestHead, random: [u64; 2], scratch: &mut Vec<u8>) -> bool {
        let headers = &mut head.headers;
        let is_trusted = self.contains(peer.ip());
        if !is_trusted {
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
        is_trusted
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
        // `client_cert` decides about the second.
        Known::XForwardedFor | Known::XForwardedClientCert => false,
        Known::Forwarded | Known::XRequestId => true,
        _ => name.starts_with(b"x-forwarded-") || name.starts_with(b"x-envoy-"),
    }
}

/// One `x-forwarded-for` line with the peer at its end, and no space after the comma, as Envoy writes it.
fn append_hop(headers: &mut Headers, peer: &[u8], scratch: &mut Vec<u8>) {
    join_lines(headers, Known::XForwardedFor, scratch);
    scratch.extend_from_slice(peer);
    headers.set(&Known::XForwardedFor, scratch);
}

/// Adds an element for the peer to `forwarded`, after [`TrustedProxies::prepare`] and before rewrites: it says what the
/// peer asked for. For `forwarded_header` of the configuration; `scratch` is memory to reuse.
pub fn append_forwarded(peer: &Peer, head: &mut RequestHead, scratch: &mut Vec<u8>) {
    join_lines(&head.headers, Known::Forwarded, scratch);
    element::write(peer, &head.authority, scratch);
    head.headers.set(&Known::Forwarded, scratch);
}

/// The field's values in one line with a comma after each: many origins read only the first line.
fn join_lines(headers: &Headers, name: Known, line: &mut Vec<u8>) {
    line.clear();
    for value in headers.get_all(&name).filter(|value| !value.is_empty()) {
        line.extend_from_slice(value);
        line.push(b',');
    }
}

fn set_if_absent(headers: &mut Headers, name: Known, value: &[u8]) {
    if !headers.contains(&name) {
        headers.append(&name, value);
    }
}

/// The hops of an `x-forwarded-for` line, the last one first.
fn hops_from_right(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    line.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty()).map(parse_hop)
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
mod tests;
