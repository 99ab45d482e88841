//! What is read before there is a request, and who sent it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use gateway::filter::forwarded::{self as client, Peer, TrustedProxies};
use gateway::proto::client_hello::{self, HelloReader};
use gateway::proto::h2_meter::FrameMeter;
use gateway::proto::head::{self, Headers, Known, RequestHead};
use gateway::proto::limits;
use gateway::proto::proxy_protocol::{self as proxy, Addresses, Parsed, Tlvs};

/// A ClientHello: the first byte is the length of the pieces it comes in.
pub fn client_hello(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    let whole = client_hello::parse(bytes);
    let mut reader = HelloReader::default();
    let mut ends = (0..bytes.len()).step_by(usize::from(*piece).max(1)).chain([bytes.len()]);
    // The first verdict on a part is that on the whole.
    let verdict = ends.find_map(|end| reader.parse(&bytes[..end]).transpose());
    assert_eq!(verdict.transpose(), whole);
    match whole {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(None) => assert!(bytes.len() <= limits::CLIENT_HELLO_BYTES),
        Ok(Some(hello)) => {
            assert!(hello.server_name.is_none_or(|name| is_host(&name)));
            assert!(hello.alpn.len() <= limits::ALPN_COUNT && hello.alpn.iter().all(|name| !name.is_empty()));
        }
    }
}

fn is_host(name: &str) -> bool {
    let is_byte = |byte: u8| b"-._".contains(&byte) || byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_name = !name.is_empty() && !name.ends_with('.') && name.bytes().all(is_byte);
    is_name && name.len() <= limits::HOST_BYTES && name.parse::<IpAddr>().is_err()
}

/// A PROXY header: the first byte says where it is cut.
pub fn proxy_protocol(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let part = &bytes[..usize::from(*cut).min(bytes.len())];
    let whole = proxy::parse(bytes);
    // The verdict on a part is that on the whole, or that it is one.
    assert!([Ok(Parsed::Incomplete), whole].contains(&proxy::parse(part)));
    match whole {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(Parsed::Incomplete) => assert!(bytes.len() < limits::PROXY_V2_BYTES),
        Ok(Parsed::Absent) => {}
        Ok(Parsed::Header { consumed, header }) => {
            assert!(consumed <= bytes.len());
            assert_eq!(proxy::parse(&bytes[..consumed]), whole);
            header.addresses.iter().for_each(check_proxy_round_trip);
        }
    }
}

fn check_proxy_round_trip(addresses: &Addresses) {
    let (mut v1, mut v2) = (Vec::new(), Vec::new());
    proxy::write_v1(addresses.source, addresses.destination, &mut v1);
    proxy::write_v2(addresses.source, addresses.destination, &Tlvs::default(), &mut v2);
    assert!(v1.len() <= limits::PROXY_V1_BYTES);
    for wire in [v1, v2] {
        let Ok(Parsed::Header { consumed, header }) = proxy::parse(&wire) else { panic!("the gateway's own header") };
        assert_eq!((consumed, header.addresses), (wire.len(), Some(*addresses)));
    }
}

/// What a client claims: two bytes are `trusted_hops` and which fields are missing, then come `x-forwarded-for`, a line
/// feed and `forwarded`.
pub fn forwarded(input: &[u8]) {
    let [hops, missing, lines @ ..] = input else { return };
    let mut lines = lines.splitn(2, |&byte| byte == b'\n');
    let mut head = RequestHead { authority: b"a.test:8080".into(), ..RequestHead::default() };
    for (at, name) in [Known::XForwardedFor, Known::Forwarded].iter().enumerate() {
        let line = lines.next().unwrap_or_default();
        // As the parsers of HTTP let them through.
        if missing >> at & 1 == 0 && line.iter().all(|&byte| head::is_value_byte(byte)) {
            head.headers.append(name, line);
        }
    }
    let [stranger, proxy] = [[203, 0, 113, 1], [10, 0, 0, 1]].map(|ip| peer(ip.into()));
    let trusted = trusted("10.0.0.0/8", u32::from(*hops));
    let _ = trusted.client_ip(&proxy, &head.headers);
    assert_eq!(trusted.client_ip(&stranger, &head.headers), stranger.ip());
    trusted.prepare(&stranger, &mut head, [1, 2], &mut Vec::new());
    client::append_forwarded(&stranger, &mut head, &mut Vec::new());
    check_behind(&proxy, &stranger, &head.headers);
}

/// Nor is a stranger believed by an origin that trusts the gateway, whichever field it reads.
fn check_behind(gateway: &Peer, stranger: &Peer, headers: &Headers) {
    let trusted = trusted("10.0.0.1/32", 0);
    assert_eq!(trusted.client_ip(gateway, headers), stranger.ip());
    let mut only_forwarded = Headers::default();
    headers.get_all(&Known::Forwarded).for_each(|line| only_forwarded.append(&Known::Forwarded, line));
    assert_eq!(trusted.client_ip(gateway, &only_forwarded), stranger.ip());
}

fn trusted(network: &str, hops: u32) -> TrustedProxies {
    TrustedProxies::build(&[network.parse().expect("a network")], hops)
}

fn peer(ip: Ipv4Addr) -> Peer {
    Peer::new(SocketAddr::new(ip.into(), 1), true)
}

/// What an HTTP/2 client sends: the first byte is the length of the pieces it comes in, the second says whether the
/// preface is the first of it.
pub fn h2_meter(input: &[u8]) {
    let [piece, preface, bytes @ ..] = input else { return };
    let meter = || FrameMeter::new(preface & 1 == 1, 0);
    let mut cut = meter();
    let flood = bytes.chunks(usize::from(*piece).max(1)).find_map(|piece| cut.feed(piece, 0).err());
    assert_eq!(meter().feed(bytes, 0).err(), flood);
    // No frame is dearer than what its nine bytes earn at this pace.
    let mut slow = meter();
    assert!((0..).zip(bytes.chunks(1)).all(|(at, byte)| slow.feed(byte, 10 * at).is_ok()));
}
