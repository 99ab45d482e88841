//! The header that a proxy sends ahead of a connection to say whose it is: the PROXY protocol's versions 1 (a line of
//! text) and 2 (binary), as HAProxy's specification `proxy-protocol.txt` defines them.
//!
//! Whether a header is expected, and from whom it is believed, is the caller's to say. A header is never guessed: bytes
//! that can begin one are one, and then it must be right.

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::limits;

/// What the beginning of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header: more bytes are needed.
    Incomplete,
    /// No header: told by the first byte that differs from one.
    Absent,
    /// A header in the first `consumed` bytes; the connection itself begins after them.
    Header {
        /// Bytes to skip.
        consumed: usize,
        /// What it says.
        header: ProxyHeader,
    },
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The ends of the connection that the proxy took. IPv4-mapped IPv6 addresses are the IPv4 addresses they are.
    ///
    /// `None`: the connection is to count as the proxy's own, because it is (`LOCAL`: a health check) or because the
    /// proxy cannot say (`UNKNOWN`, `AF_UNSPEC`, `AF_UNIX`).
    pub addresses: Option<Addresses>,
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// What the client connected to.
    pub destination: SocketAddr,
}

/// Why a header was refused. The connection can only be closed: where its own bytes begin is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaderError {
    /// Version 1: not `PROXY`, a protocol, two addresses and two ports with a space between each, and CRLF.
    Line,
    /// Longer than [`limits::PROXY_V1_BYTES`] or [`limits::PROXY_V2_BYTES`].
    TooLong,
    /// Version 2's signature, but another version, or a command that is neither `LOCAL` nor `PROXY`.
    Command,
    /// An address family or a transport that version 2 does not define.
    Family,
    /// Too short for the addresses, or fields after them (TLVs) that do not fill it exactly.
    Length,
    /// The CRC32C does not match, or there are two.
    Checksum,
}

/// What a version 2 header says besides the addresses. A value too long for its field is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs<'a> {
    /// `PP2_TYPE_ALPN`: the protocol of the client's connection.
    pub alpn: Option<&'a [u8]>,
    /// `PP2_TYPE_AUTHORITY`: the server name the client asked for (SNI).
    pub authority: Option<&'a [u8]>,
    /// `PP2_TYPE_SSL` with `PP2_SUBTYPE_SSL_VERSION`: the client speaks TLS of this version, as `TLSv1.3`. Says that no
    /// client certificate was verified.
    pub tls_version: Option<&'a [u8]>,
    /// `PP2_TYPE_UNIQUE_ID`: the connection's name for logs.
    pub unique_id: Option<&'a [u8]>,
}

const V1_PREFIX: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length of the rest.
const V2_HEADER: usize = 16;
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const V2_UNSPEC: u8 = 0x00;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;

const TYPE_ALPN: u8 = 0x01;
const TYPE_AUTHORITY: u8 = 0x02;
const TYPE_CRC32C: u8 = 0x03;
const TYPE_UNIQUE_ID: u8 = 0x05;
const TYPE_SSL: u8 = 0x20;
const SUBTYPE_SSL_VERSION: u8 = 0x21;
const CLIENT_SSL: u8 = 0x01;

/// Longest value of a field that [`write_v2`] writes: an ALPN name has at most 255 bytes, a DNS name 253.
const VALUE_BYTES: usize = 255;
/// Longest unique id (§2.2.5).
const UNIQUE_ID_BYTES: usize = 128;

/// The header that `bytes`, the beginning of a connection, has.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
    if begins(bytes, V1_PREFIX) {
        parse_v1(bytes)
    } else if begins(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Ok(Parsed::Absent)
    }
}

/// Whether `bytes` is the beginning of `prefix`, or begins with it.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    let length = bytes.len().min(prefix.len());
    bytes[..length] == prefix[..length]
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
    let window = &bytes[..bytes.len().min(limits::PROXY_V1_BYTES)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        let is_full = window.len() == limits::PROXY_V1_BYTES;
        return if is_full { Err(ProxyHeaderError::TooLong) } else { Ok(Parsed::Incomplete) };
    };
    let line = window[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(V1_PREFIX));
    let addresses = line.and_then(parse_line).ok_or(ProxyHeaderError::Line)?;
    Ok(Parsed::Header { consumed: end + 1, header: ProxyHeader { addresses } })
}

/// What follows `PROXY `; the outer `None` when it is wrong.
fn parse_line(line: &[u8]) -> Option<Option<Addresses>> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let is_family: fn(&IpAddr) -> bool = match words.next()? {
        // What follows is to be ignored (§2.1).
        "UNKNOWN" => return Some(None),
        "TCP4" => IpAddr::is_ipv4,
        "TCP6" => IpAddr::is_ipv6,
        _ => return None,
    };
    let mut ip = || words.next()?.parse::<IpAddr>().ok().filter(is_family);
    let (source, destination) = (ip()?, ip()?);
    let mut port = || parse_port(words.next()?);
    let (source_port, destination_port) = (port()?, port()?);
    let addresses = Addresses::new(source, source_port, destination, destination_port);
    words.next().is_none().then_some(Some(addresses))
}

/// A port in the one way there is to write it.
fn parse_port(text: &str) -> Option<u16> {
    let is_canonical = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| is_canonical)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
    let [command, family] = [bytes.get(12).copied(), bytes.get(13).copied()];
    if command.is_some_and(|command| command != V2_LOCAL && command != V2_PROXY) {
        return Err(ProxyHeaderError::Command);
    }
    let (Some(command), Some(family), Some(length)) = (command, family, bytes.get(14..V2_HEADER)) else {
        return Ok(Parsed::Incomplete);
    };
    let consumed = V2_HEADER + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if consumed > limits::PROXY_V2_BYTES {
        return Err(ProxyHeaderError::TooLong);
    }
    let Some(header) = bytes.get(..consumed) else { return Ok(Parsed::Incomplete) };
    // A local connection's header is to be skipped whatever it has (§2.2).
    let addresses = if command == V2_PROXY { parse_block(family, header)? } else { None };
    Ok(Parsed::Header { consumed, header: ProxyHeader { addresses } })
}

/// The addresses of a whole header, once its TLVs are checked.
fn parse_block(family: u8, header: &[u8]) -> Result<Option<Addresses>, ProxyHeaderError> {
    let (family, transport) = (family >> 4, family & 0xf);
    let ip_bytes = match family {
        // Where TLVs would begin is not said.
        0 if transport <= 2 => return Ok(None),
        1 => 4,
        2 => 16,
        3 => 106, // A path of 108 bytes less the two of a port, see below.
        _ => return Err(ProxyHeaderError::Family),
    };
    if transport > 2 {
        return Err(ProxyHeaderError::Family);
    }
    let block = &header[V2_HEADER..];
    // Two addresses, then two ports.
    let (ends, tlvs) = block.split_at_checked(2 * (ip_bytes + 2)).ok_or(ProxyHeaderError::Length)?;
    check_tlvs(header, tlvs)?;
    let (ips, ports) = ends.split_at(2 * ip_bytes);
    let (source, destination) = ips.split_at(ip_bytes);
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let ends = ip(source).zip(ip(destination)).filter(|_| transport != 0);
    Ok(ends.map(|(source, destination)| Addresses::new(source, port(0), destination, port(2))))
}

/// `None` for what is no IP address.
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Checks that the TLVs fill the header, and its checksum where one of them is that.
fn check_tlvs(header: &[u8], tlvs: &[u8]) -> Result<(), ProxyHeaderError> {
    let mut rest = tlvs;
    let mut has_checksum = false;
    while let [kind, high, low, value @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = value.split_at_checked(length).ok_or(ProxyHeaderError::Length)?;
        if *kind == TYPE_CRC32C {
            let sum: [u8; 4] = value.try_into().map_err(|_| ProxyHeaderError::Length)?;
            let at = header.len() - next.len() - sum.len();
            // It is computed with zeros in its own place (§2.2.3).
            let sums = [&header[..at], &[0; 4], next].into_iter().fold(!0, crc32c);
            if !sums != u32::from_be_bytes(sum) || std::mem::replace(&mut has_checksum, true) {
                return Err(ProxyHeaderError::Checksum);
            }
        }
        rest = next;
    }
    if rest.is_empty() { Ok(()) } else { Err(ProxyHeaderError::Length) }
}

/// Continues a CRC32C (RFC 9260 appendix A). Bit by bit: headers are short, and hardly any has one.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(crc, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}

/// Appends a version 1 header for a TCP connection from `source` to `destination`.
pub fn write_v1(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (source, destination) = same_family(source, destination);
    let protocol = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    // Cannot fail: memory is written to.
    let _ = write!(out, "PROXY {protocol} {from} {to} {} {}\r\n", source.port(), destination.port());
}

/// Appends a version 2 header for a TCP connection from `source` to `destination`.
pub fn write_v2(source: SocketAddr, destination: SocketAddr, tlvs: &Tlvs<'_>, out: &mut Vec<u8>) {
    let (source, destination) = same_family(source, destination);
    let start = out.len();
    out.extend_from_slice(V2_SIGNATURE);
    out.extend_from_slice(&[V2_PROXY, if source.is_ipv4() { V2_TCP4 } else { V2_TCP6 }, 0, 0]);
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    tlvs.write(out);
    // No more than a few hundred bytes: each field has a limit.
    let length = (out.len() - start - V2_HEADER) as u16;
    out[start + 14..start + V2_HEADER].copy_from_slice(&length.to_be_bytes());
}

/// Appends a version 1 header for a connection that is the sender's own: `UNKNOWN`.
pub fn write_v1_own(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PROXY UNKNOWN\r\n");
}

/// Appends a version 2 header for a connection that is the sender's own: `LOCAL`.
pub fn write_v2_own(out: &mut Vec<u8>) {
    out.extend_from_slice(V2_SIGNATURE);
    out.extend_from_slice(&[V2_LOCAL, V2_UNSPEC, 0, 0]);
}

/// Both as IPv4 when they are, else both as IPv6: a header has one family for both.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let [source, destination] = [source, destination].map(canonical);
    if source.is_ipv4() == destination.is_ipv4() {
        (source, destination)
    } else {
        (mapped(source), mapped(destination))
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn mapped(addr: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), addr.port())
}

// === impl Addresses ===

impl Addresses {
    fn new(source: IpAddr, source_port: u16, destination: IpAddr, destination_port: u16) -> Addresses {
        Addresses {
            source: canonical(SocketAddr::new(source, source_port)),
            destination: canonical(SocketAddr::new(destination, destination_port)),
        }
    }
}

// === impl Tlvs ===

impl Tlvs<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        put_tlv(TYPE_ALPN, self.alpn, VALUE_BYTES, out);
        put_tlv(TYPE_AUTHORITY, self.authority, VALUE_BYTES, out);
        put_tlv(TYPE_UNIQUE_ID, self.unique_id, UNIQUE_ID_BYTES, out);
        if let Some(version) = self.tls_version {
            /// Not zero: no certificate of the client was verified.
            const VERIFY: [u8; 4] = 1u32.to_be_bytes();
            let mut ssl = vec![CLIENT_SSL];
            ssl.extend_from_slice(&VERIFY);
            put_tlv(SUBTYPE_SSL_VERSION, Some(version), VALUE_BYTES, &mut ssl);
            put_tlv(TYPE_SSL, Some(&ssl), 2 * VALUE_BYTES, out);
        }
    }
}

fn put_tlv(kind: u8, value: Option<&[u8]>, limit: usize, out: &mut Vec<u8>) {
    if let Some(value) = value.filter(|value| value.len() <= limit) {
        out.push(kind);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
}

// === impl ProxyHeaderError ===

impl fmt::Display for ProxyHeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxyHeaderError::Line => "the PROXY header (version 1) is not a line of protocol, addresses and ports",
            ProxyHeaderError::TooLong => "the PROXY header is too long",
            ProxyHeaderError::Command => "the PROXY header (version 2) has another version or an unknown command",
            ProxyHeaderError::Family => "the PROXY header (version 2) has an unknown address family or transport",
            ProxyHeaderError::Length => "the PROXY header (version 2) and its fields differ in length",
            ProxyHeaderError::Checksum => "the PROXY header (version 2) has a wrong checksum",
        })
    }
}

impl std::error::Error for ProxyHeaderError {}

#[cfg(test)]
mod tests;
