use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

fn vec8(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

fn vec16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vec16(value)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &vec16(&[&[0], &vec16(name)[..]].concat()))
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    extension(ALPN, &vec16(&names.iter().flat_map(|name| vec8(name)).collect::<Vec<_>>()))
}

/// A message with these extensions, without records.
fn message_of(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [&[3, 3], &[7; 32][..], &vec8(&[9; 32]), &vec16(&[0x13, 1]), &vec8(&[0])].concat();
    framed([body, vec16(&extensions.concat())].concat())
}

fn framed(body: Vec<u8>) -> Vec<u8> {
    [&[CLIENT_HELLO], &(body.len() as u32).to_be_bytes()[1..], &body].concat()
}

/// In records of at most `fragment` bytes.
fn records(message: &[u8], fragment: usize) -> Vec<u8> {
    message.chunks(fragment).flat_map(|piece| [&[HANDSHAKE, 3, 1], &vec16(piece)[..]].concat()).collect()
}

fn stream(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&message_of(extensions), FRAGMENT_MAX)
}

fn real_hello(name: &'static str) -> Vec<u8> {
    let mut config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    wire
}

#[test]
fn a_real_hello_is_read() {
    let wire = real_hello("Db.Example.com");
    let hello = parse(&wire).unwrap().unwrap();
    let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    assert_eq!(hello, ClientHello { server_name: Some("db.example.com".into()), alpn, encrypted: false });
    assert_eq!(parse(&real_hello("192.0.2.1")).unwrap().unwrap().server_name, None);
}

#[test]
fn a_hello_may_come_byte_by_byte_and_in_any_records() {
    let wire = real_hello("db.example.com");
    let message = wire[RECORD_HEADER..].to_vec();
    let expected = parse(&wire).unwrap();
    for fragment in [1, 2, 3, 5, 100, 1000] {
        let wire = records(&message, fragment);
        let mut reader = HelloReader::default();
        for end in 0..wire.len() {
            assert_eq!(reader.parse(&wire[..end]), Ok(None), "records of {fragment}, {end} bytes");
        }
        assert_eq!(reader.parse(&wire), Ok(expected.clone()), "records of {fragment}");
    }
}

#[test]
fn what_follows_the_hello_does_not_matter() {
    let mut wire = stream(&[sni(b"a.test")]);
    let expected = parse(&wire);
    wire.extend_from_slice(b"anything");
    assert_eq!(parse(&wire), expected);
    let mut message = message_of(&[sni(b"a.test")]);
    message.extend_from_slice(&[1; 100]);
    assert_eq!(parse(&records(&message, FRAGMENT_MAX)), expected);
    assert_eq!(parse(&records(&message, 7)), expected);
}

#[test]
fn only_dns_names_are_names() {
    let cases: &[(&[u8], Option<&str>)] = &[
        (b"A.Test", Some("a.test")),
        (b"a.test.", Some("a.test")),
        (b"localhost", Some("localhost")),
        (b"_sip.a-b.test", Some("_sip.a-b.test")),
        (b"xn--bcher-kva.example", Some("xn--bcher-kva.example")),
        (b"192.0.2.1", None),
        (b"2001:db8::1", None),
        (b"[::1]", None),
        (b".", None),
        (b"a..test", None),
        (b"a.test..", None),
        (b"a test", None),
        (b"a.test\0", None),
        (b"b\xc3\xbccher.example", None),
        (&[b'a'; 300], None),
    ];
    for (name, expected) in cases {
        let hello = parse(&stream(&[sni(name)])).unwrap().unwrap();
        assert_eq!(hello.server_name.as_deref(), *expected, "{}", name.escape_ascii());
    }
}

#[test]
fn extensions_may_be_missing_unknown_or_encrypted() {
    let without = framed([&[3, 3], &[7; 32][..], &vec8(&[]), &vec16(&[0x13, 1]), &vec8(&[0])].concat());
    assert_eq!(parse(&records(&without, FRAGMENT_MAX)), Ok(Some(ClientHello::default())));
    let grease = || extension(0x0a0a, b"");
    assert_eq!(parse(&stream(&[grease(), grease()])), Ok(Some(ClientHello::default())));
    let outer = parse(&stream(&[sni(b"outer.test"), extension(ENCRYPTED_CLIENT_HELLO, &[0; 300])])).unwrap().unwrap();
    assert!(outer.encrypted && outer.server_name.as_deref() == Some("outer.test"));
}

#[test]
fn what_two_readers_could_take_differently_is_refused() {
    let (a, b) = (sni(b"a.test"), sni(b"b.test"));
    let two_names = [&[0], &vec16(b"a.test")[..], &[0], &vec16(b"b.test")].concat();
    let other_kind = [&[1], &vec16(b"a.test")[..]].concat();
    let many: Vec<&[u8]> = vec![b"h2"; limits::ALPN_COUNT + 1];
    let cases = [
        ("two server_name extensions", vec![a.clone(), b]),
        ("two ALPN extensions", vec![alpn(&[b"h2"]), alpn(&[b"h2"])]),
        ("two names", vec![extension(SERVER_NAME, &vec16(&two_names))]),
        ("a name of another kind", vec![extension(SERVER_NAME, &vec16(&other_kind))]),
        ("no name in the list", vec![extension(SERVER_NAME, &vec16(&[]))]),
        ("an empty name", vec![sni(b"")]),
        ("an empty server_name, which only servers send", vec![extension(SERVER_NAME, b"")]),
        ("bytes after the names", vec![extension(SERVER_NAME, &[vec16(&[0, 0, 1, b'a']), vec![0]].concat())]),
        ("an empty ALPN list", vec![alpn(&[])]),
        ("an empty protocol", vec![alpn(&[b"h2", b""])]),
        ("too many protocols", vec![alpn(&many)]),
        ("an extension cut short", vec![a, vec![0, 1, 0]]),
    ];
    for (what, extensions) in cases {
        assert_eq!(parse(&stream(&extensions)), Err(HelloError::Broken), "{what}");
    }
    let mut longer = message_of(&[]);
    longer.push(0);
    assert_eq!(parse(&records(&framed(longer[MESSAGE_HEADER..].to_vec()), 100)), Err(HelloError::Broken));
}

#[test]
fn what_is_not_tls_is_told_by_the_first_bytes() {
    let cases: &[(&[u8], HelloError)] = &[
        (b"G", HelloError::NotTls),
        (b"\x16G", HelloError::NotTls),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HelloError::NotTls),
        // SSLv2: length with its high bit set, client-hello, version 3.1.
        (b"\x80\x2e\x01\x03\x01", HelloError::NotTls),
        // An alert.
        (b"\x15\x03\x01\x00\x02\x01\x00", HelloError::NotTls),
        (b"\x16\x03\x01\x00\x00", HelloError::Broken),
        (b"\x16\x03\x01\x40\x01", HelloError::Broken),
        // A ServerHello.
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x10", HelloError::Broken),
        // An alert within the hello.
        (b"\x16\x03\x01\x00\x02\x01\x00\x15\x03\x03\x00\x02\x01\x00", HelloError::Broken),
    ];
    for (bytes, expected) in cases {
        assert_eq!(parse(bytes), Err(*expected), "{}", bytes.escape_ascii());
    }
    assert_eq!(parse(b""), Ok(None));
    assert_eq!(parse(b"\x16\x03"), Ok(None));
}

#[test]
fn length_has_a_limit() {
    let padding = |bytes: usize| vec![extension(21, &vec![0; bytes])];
    let overhead = stream(&padding(0)).len() + 3 * RECORD_HEADER;
    let longest = stream(&padding(limits::CLIENT_HELLO_BYTES - overhead));
    assert_eq!(longest.len(), limits::CLIENT_HELLO_BYTES);
    assert_eq!(parse(&longest), Ok(Some(ClientHello::default())));
    // Known by the header of the message.
    assert_eq!(parse(b"\x16\x03\x01\x00\x10\x01\x01\x00\x00"), Err(HelloError::TooLong));
    // Known by the records, whose headers count too.
    let endless = records(&message_of(&padding(30_000)), 1);
    assert_eq!(parse(&endless[..limits::CLIENT_HELLO_BYTES]), Ok(None));
    assert_eq!(parse(&endless[..limits::CLIENT_HELLO_BYTES + 1]), Err(HelloError::TooLong));
}

proptest! {
    #[test]
    fn what_is_encoded_is_read_again(
        name in proptest::option::of("[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z]{1,8}){0,3}"),
        protocols in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..8),
        encrypted: bool,
        fragment in 1..300usize,
        cut in 0..100usize,
    ) {
        let mut extensions = vec![extension(10, &[0, 2, 0, 29])];
        extensions.extend(name.as_ref().map(|name| sni(name.as_bytes())));
        if !protocols.is_empty() {
            extensions.push(alpn(&protocols.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        }
        if encrypted {
            extensions.push(extension(ENCRYPTED_CLIENT_HELLO, b"outer"));
        }
        let wire = records(&message_of(&extensions), fragment);
        let mut reader = HelloReader::default();
        prop_assert_eq!(reader.parse(&wire[..wire.len() * cut / 100]), Ok(None));
        prop_assert_eq!(reader.parse(&wire), Ok(Some(ClientHello { server_name: name, alpn: protocols, encrypted })));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
        let _ = parse(&stream(std::slice::from_ref(&bytes)));
        let _ = parse(&stream(&[extension(SERVER_NAME, &bytes), extension(ALPN, &bytes)]));
    }
}
