//! PROXY headers, as a peer that we did not write sends them.

use std::net::{IpAddr, SocketAddr};

/// What begins every header of version 2.
pub const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version 1 header.
pub fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { 4 } else { 6 };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY TCP{family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// A version 2 header with these TLVs.
pub fn v2(source: SocketAddr, destination: SocketAddr, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => block.extend(ip.octets()),
            IpAddr::V6(ip) => block.extend(ip.octets()),
        }
    }
    block.extend(source.port().to_be_bytes());
    block.extend(destination.port().to_be_bytes());
    for (kind, value) in tlvs {
        block.push(*kind);
        block.extend((value.len() as u16).to_be_bytes());
        block.extend_from_slice(value);
    }
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    [SIGNATURE, &[0x21, family], &(block.len() as u16).to_be_bytes(), &block].concat()
}

/// A version 2 header of a proxy's own connection (`LOCAL`).
pub fn v2_local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}
