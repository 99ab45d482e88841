use proptest::prelude::*;

use super::*;

fn header(consumed: usize, source: &str, destination: &str) -> Result<Parsed, ProxyHeaderError> {
    let addresses = Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() };
    Ok(Parsed::Header { consumed, header: ProxyHeader { addresses: Some(addresses) } })
}

fn no_addresses(consumed: usize) -> Result<Parsed, ProxyHeaderError> {
    Ok(Parsed::Header { consumed, header: ProxyHeader { addresses: None } })
}

/// A version 2 header of these bytes.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    [V2_SIGNATURE, &[command, family], &(block.len() as u16).to_be_bytes(), block].concat()
}

const V4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 1, 0xbb];

#[test]
fn version_1_is_read() {
    let cases = [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n", header(45, "192.0.2.1:12345", "198.51.100.2:443")),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 65535\r\nGET", header(36, "0.0.0.0:0", "0.0.0.0:65535")),
        ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", header(32, "[2001:db8::1]:1", "[::1]:2")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", header(37, "192.0.2.1:1", "[::1]:2")),
        ("PROXY UNKNOWN\r\n\r\n", no_addresses(15)),
        ("PROXY UNKNOWN ffff:f...f:ffff 65535\r\n", no_addresses(37)),
    ];
    for (line, expected) in cases {
        assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
    }
}

#[test]
fn version_1_is_refused() {
    let cases = [
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443 1\r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 12345 443\r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.2 12345 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 012345 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 1 443\r\n",
        "PROXY TCP4 192.0.2 198.51.100.2 1 443\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 1 443\r\n",
        "PROXY TCP6 [2001:db8::1] ::1 1 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 443\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 1 443\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 1 443\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
        "PROXY TCP4 \u{e9} 198.51.100.2 1 443\r\n",
    ];
    for line in cases {
        assert_eq!(parse(line.as_bytes()), Err(ProxyHeaderError::Line), "{line:?}");
    }
}

#[test]
fn version_1_has_a_limit() {
    let line = |filler: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(filler));
    assert_eq!(parse(line(91).as_bytes()), no_addresses(107));
    assert_eq!(parse(line(92).as_bytes()), Err(ProxyHeaderError::TooLong));
    assert_eq!(parse(&line(92).as_bytes()[..106]), Ok(Parsed::Incomplete));
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n");
    assert!(matches!(parse(line.as_bytes()), Ok(Parsed::Header { consumed: 104, .. })));
}

#[test]
fn version_2_is_read() {
    let mut v6 = [0; 36];
    v6[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    v6[16..32].copy_from_slice(&"::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets());
    v6[32..].copy_from_slice(&[0, 1, 0, 2]);
    let aws = [V4, &[0xea, 0, 3, 1, b'v', b'p'], &[4, 0, 0]].concat();
    let cases = [
        ("TCP over IPv4", v2(V2_PROXY, 0x11, V4), header(28, "192.0.2.1:12345", "198.51.100.2:443")),
        ("UDP over IPv4", v2(V2_PROXY, 0x12, V4), header(28, "192.0.2.1:12345", "198.51.100.2:443")),
        ("TCP over IPv6", v2(V2_PROXY, 0x21, &v6), header(52, "[2001:db8::1]:1", "192.0.2.1:2")),
        ("with TLVs", v2(V2_PROXY, 0x11, &aws), header(37, "192.0.2.1:12345", "198.51.100.2:443")),
        ("an unspecified transport", v2(V2_PROXY, 0x10, V4), no_addresses(28)),
        ("an unspecified family", v2(V2_PROXY, 0x00, &[]), no_addresses(16)),
        ("an unspecified family and bytes", v2(V2_PROXY, 0x00, b"???"), no_addresses(19)),
        ("Unix", v2(V2_PROXY, 0x31, &[1; 216]), no_addresses(232)),
        ("Unix with a TLV", v2(V2_PROXY, 0x31, &[&[1; 216], &[4u8, 0, 0][..]].concat()), no_addresses(235)),
        ("local", v2(V2_LOCAL, 0x00, &[]), no_addresses(16)),
        ("local with anything", v2(V2_LOCAL, 0x77, V4), no_addresses(28)),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(parse(&bytes), expected, "{what}");
        assert_eq!(parse(&[&bytes[..], b"GET /"].concat()), expected, "{what} and a request");
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(Parsed::Incomplete), "{end} bytes of {what}");
        }
    }
}

#[test]
fn version_2_is_refused() {
    let with = |tlvs: &[u8]| v2(V2_PROXY, 0x11, &[V4, tlvs].concat());
    let cases = [
        ("version 1 in binary", v2(0x11, 0x11, V4), ProxyHeaderError::Command),
        ("an unknown command", v2(0x22, 0x11, V4), ProxyHeaderError::Command),
        ("an unknown family", v2(V2_PROXY, 0x41, V4), ProxyHeaderError::Family),
        ("an unknown transport", v2(V2_PROXY, 0x13, V4), ProxyHeaderError::Family),
        ("an unknown transport of no family", v2(V2_PROXY, 0x03, V4), ProxyHeaderError::Family),
        ("short addresses", v2(V2_PROXY, 0x11, &V4[..11]), ProxyHeaderError::Length),
        ("short IPv6 addresses", v2(V2_PROXY, 0x21, &[0; 35]), ProxyHeaderError::Length),
        ("short Unix addresses", v2(V2_PROXY, 0x31, &[0; 215]), ProxyHeaderError::Length),
        ("a TLV cut in its header", with(&[4, 0]), ProxyHeaderError::Length),
        ("a TLV cut in its value", with(&[4, 0, 2, 0]), ProxyHeaderError::Length),
        ("a short checksum", with(&[3, 0, 3, 0, 0, 0]), ProxyHeaderError::Length),
        ("a wrong checksum", with(&[3, 0, 4, 0, 0, 0, 0]), ProxyHeaderError::Checksum),
        ("too many bytes", v2(V2_PROXY, 0x11, &[0; limits::PROXY_V2_BYTES - 15]), ProxyHeaderError::TooLong),
        ("too many local bytes", v2(V2_LOCAL, 0, &[0; limits::PROXY_V2_BYTES - 15]), ProxyHeaderError::TooLong),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(parse(&bytes), Err(expected), "{what}");
    }
    let longest = [V4, &[4, 0x1f, 0xe1], &[0; 8161]].concat();
    assert_eq!(v2(V2_PROXY, 0x11, &longest).len(), limits::PROXY_V2_BYTES);
    assert!(matches!(parse(&v2(V2_PROXY, 0x11, &longest)), Ok(Parsed::Header { .. })));
    assert_eq!(parse(&v2(0x31, 0x11, V4)[..13]), Err(ProxyHeaderError::Command), "as early as it is known");
}

#[test]
fn the_checksum_is_crc32c() {
    assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    for after in [&[][..], &[4, 0, 1, 9]] {
        let mut bytes = v2(V2_PROXY, 0x11, &[V4, &[TYPE_CRC32C, 0, 4, 0, 0, 0, 0], after].concat());
        let sum = !crc32c(!0, &bytes);
        bytes[31..35].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(parse(&bytes), header(bytes.len(), "192.0.2.1:12345", "198.51.100.2:443"));
        bytes[20] ^= 1;
        assert_eq!(parse(&bytes), Err(ProxyHeaderError::Checksum));
    }
}

#[test]
fn what_is_no_header_is_told_by_its_first_byte_that_differs() {
    for bytes in ["GET / HTTP/1.1", "PRI * HTTP/2.0", "POST", "PROXY", "PROXYX", "\r\n\r\nGET", "\u{16}\u{3}\u{1}"] {
        let same = |prefix: &[u8]| bytes.bytes().zip(prefix).take_while(|(a, b)| a == *b).count();
        let same = same(V1_PREFIX).max(same(V2_SIGNATURE));
        for end in 0..=bytes.len() {
            let expected = if end <= same { Parsed::Incomplete } else { Parsed::Absent };
            assert_eq!(parse(&bytes.as_bytes()[..end]), Ok(expected), "{:?}", &bytes[..end]);
        }
    }
}

#[test]
fn one_header_has_one_family() {
    let cases = [
        ("192.0.2.1:1", "198.51.100.2:2", "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n", 0x11),
        ("[::ffff:192.0.2.1]:1", "198.51.100.2:2", "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n", 0x11),
        ("[2001:db8::1]:1", "[::1]:2", "PROXY TCP6 2001:db8::1 ::1 1 2\r\n", 0x21),
        ("192.0.2.1:1", "[::1]:2", "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", 0x21),
        ("[::1]:1", "192.0.2.1:2", "PROXY TCP6 ::1 ::ffff:192.0.2.1 1 2\r\n", 0x21),
    ];
    for (source, destination, line, family) in cases {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let (mut v1, mut v2) = (Vec::new(), Vec::new());
        write_v1(source, destination, &mut v1);
        write_v2(source, destination, &Tlvs::default(), &mut v2);
        assert_eq!(String::from_utf8_lossy(&v1), line);
        assert_eq!(v2[13], family, "{source} {destination}");
    }
}

#[test]
fn fields_are_written_as_the_specification_has_them() {
    let tlvs =
        Tlvs { alpn: Some(b"h2"), authority: Some(b"a.test"), tls_version: Some(b"TLSv1.3"), unique_id: Some(b"id") };
    let mut out = b"before".to_vec();
    write_v2("192.0.2.1:12345".parse().unwrap(), "198.51.100.2:443".parse().unwrap(), &tlvs, &mut out);
    let ssl = [&[0x20, 0, 15, 1, 0, 0, 0, 1, 0x21, 0, 7][..], b"TLSv1.3"].concat();
    let fields = [&[1, 0, 2][..], b"h2", &[2, 0, 6], b"a.test", &[5, 0, 2], b"id", &ssl].concat();
    let expected = [b"before", &v2(V2_PROXY, 0x11, &[V4, &fields].concat())[..]].concat();
    assert_eq!(out, expected);

    let long = [0; 300];
    let tlvs = Tlvs { alpn: Some(&long), authority: Some(&long), tls_version: None, unique_id: Some(&long[..129]) };
    let mut out = Vec::new();
    write_v2("192.0.2.1:12345".parse().unwrap(), "198.51.100.2:443".parse().unwrap(), &tlvs, &mut out);
    assert_eq!(out, v2(V2_PROXY, 0x11, V4));
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        source: (IpAddr, u16),
        destination: (IpAddr, u16),
        alpn in proptest::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        tls_version in proptest::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let (source, destination) = (SocketAddr::from(source), SocketAddr::from(destination));
        let tlvs = Tlvs { alpn: alpn.as_deref(), tls_version: tls_version.as_deref(), ..Tlvs::default() };
        let (mut v1, mut v2) = (Vec::new(), Vec::new());
        write_v1(source, destination, &mut v1);
        write_v2(source, destination, &tlvs, &mut v2);
        let addresses = Some(Addresses { source: canonical(source), destination: canonical(destination) });
        for mut wire in [v1, v2] {
            let consumed = wire.len();
            prop_assert_eq!(parse(&wire[..consumed - 1]), Ok(Parsed::Incomplete));
            wire.extend_from_slice(&rest);
            prop_assert_eq!(parse(&wire), Ok(Parsed::Header { consumed, header: ProxyHeader { addresses } }));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), family: u8) {
        let _ = parse(&bytes);
        let _ = parse(&v2(V2_PROXY, family, &bytes));
    }
}
