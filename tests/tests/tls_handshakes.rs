//! Handshakes that go wrong, and the alert each gets; versions, cipher suites and key exchanges.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use gateway_tests::certs::Store;
use gateway_tests::client::HOST;
use gateway_tests::prelude::*;
use gateway_tests::tls::TlsClient;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, CipherSuite, NamedGroup};

/// A gateway that answers by itself; `tls` goes into the listener's `tls` table, `lines` into the listener.
fn start(store: &Store, tls: &str, lines: &str) -> Gateway {
    store.issue("site", &[HOST, "modern.test"]);
    Gateway::start(
        &Config::new()
            .certificate("site", store.path())
            .listener("web", &format!("tls = {{ certificates = ['site'], {tls} }}\n{lines}"))
            .route("all", "respond = { status = 200 }"),
    )
}

fn wait_failure(gateway: &Gateway, reason: &str, count: f64) {
    let labels = [("listener", "web"), ("reason", reason)];
    let failures = || gateway.metrics().sum("gateway_listener_tls_handshake_failures_total", &labels);
    wait::until_true(&format!("{count} failures for {reason}"), || failures() == count);
}

/// The alert that the server ends the connection with when it gets these bytes.
fn alert_for(addr: SocketAddr, bytes: &[u8]) -> Option<u8> {
    let mut tcp = TcpStream::connect(addr).expect("a connection");
    tcp.set_read_timeout(Some(wait::DEADLINE)).expect("a timeout");
    tcp.write_all(bytes).expect("the bytes");
    let mut answer = Vec::new();
    // A reset may follow the alert where not all bytes were read.
    let _ = tcp.read_to_end(&mut answer);
    match answer[..] {
        [] => None,
        [21, 3, _, 0, 2, 2, alert] => Some(alert),
        _ => panic!("no alert: {answer:?}"),
    }
}

/// A record with a ClientHello of this `legacy_version`, with these cipher suites and extensions.
fn client_hello(version: [u8; 2], suites: &[u16], extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let short = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let extensions: Vec<u8> =
        extensions.iter().flat_map(|(kind, body)| [kind.to_be_bytes().to_vec(), short(body)].concat()).collect();
    let mut body = [&version[..], &[7; 32], &[0], &short(&suites), &[1, 0]].concat();
    if !extensions.is_empty() {
        body.extend(short(&extensions));
    }
    let message = [&[1, 0][..], &short(&body)].concat();
    [&[22, 3, 1][..], &short(&message)].concat()
}

/// What a client of TLS 1.2 says besides its suites: signatures, groups, point formats.
fn extensions_of_tls12() -> Vec<(u16, Vec<u8>)> {
    vec![(13, vec![0, 4, 4, 3, 8, 4]), (10, vec![0, 4, 0, 29, 0, 23]), (11, vec![1, 0])]
}

const ECDHE_ECDSA_AES128_GCM: u16 = 0xc02b;
const ECDHE_ECDSA_AES128_CBC: u16 = 0xc009;
const RSA_AES128_CBC: u16 = 0x002f;

#[test]
fn old_versions_get_protocol_version() {
    const PROTOCOL_VERSION: u8 = 70;
    let store = Store::new();
    let gateway = start(&store, "", "");
    let web = gateway.addr("web");
    let suites = [ECDHE_ECDSA_AES128_GCM, ECDHE_ECDSA_AES128_CBC, RSA_AES128_CBC];
    let mut failed = 0.0;
    for (version, name) in [([3, 0], "SSL 3.0"), ([3, 1], "TLS 1.0"), ([3, 2], "TLS 1.1")] {
        for extensions in [vec![], extensions_of_tls12()] {
            let hello = client_hello(version, &suites, &extensions);
            assert_eq!(alert_for(web, &hello), Some(PROTOCOL_VERSION), "{name} {extensions:?}");
            failed += 1.0;
        }
    }
    // What counts where it is there is the list in `supported_versions`.
    let old = [extensions_of_tls12(), vec![(43, vec![2, 3, 2])]].concat();
    assert_eq!(alert_for(web, &client_hello([3, 3], &suites, &old)), Some(PROTOCOL_VERSION));
    wait_failure(&gateway, "version", failed + 1.0);
    let modern = start(&store, "min_version = '1.3'", "");
    let tls12 = client_hello([3, 3], &suites, &extensions_of_tls12());
    assert_eq!(alert_for(modern.addr("web"), &tls12), Some(PROTOCOL_VERSION));
    wait_failure(&modern, "version", 1.0);
}

#[test]
fn nothing_in_common_gets_handshake_failure() {
    const HANDSHAKE_FAILURE: u8 = 40;
    let store = Store::new();
    let gateway = start(&store, "", "");
    let web = gateway.addr("web");
    let ask = |suites: &[u16], extensions: &[(u16, Vec<u8>)]| alert_for(web, &client_hello([3, 3], suites, extensions));
    let all = extensions_of_tls12();
    assert_eq!(ask(&[ECDHE_ECDSA_AES128_CBC, RSA_AES128_CBC], &all), Some(HANDSHAKE_FAILURE), "old suites");
    let finite_fields = [all[0].clone(), (10, vec![0, 2, 1, 0]), all[2].clone()];
    assert_eq!(ask(&[ECDHE_ECDSA_AES128_GCM], &finite_fields), Some(HANDSHAKE_FAILURE), "no group");
    let sha1 = [(13, vec![0, 2, 2, 3]), all[1].clone(), all[2].clone()];
    assert_eq!(ask(&[ECDHE_ECDSA_AES128_GCM], &sha1), Some(HANDSHAKE_FAILURE), "no signature");
    assert_eq!(ask(&[ECDHE_ECDSA_AES128_GCM], &all[1..]), Some(HANDSHAKE_FAILURE), "no list of signatures");
    wait_failure(&gateway, "nothing_in_common", 4.0);
}

#[test]
fn garbage_gets_decode_error() {
    const DECODE_ERROR: u8 = 50;
    let store = Store::new();
    let gateway = start(&store, "", "");
    let mut garbled = client_hello([3, 3], &[ECDHE_ECDSA_AES128_GCM], &extensions_of_tls12());
    let at = garbled.len() - 3;
    garbled[at] = 0xff;
    let cases: [(&str, &[u8]); 5] = [
        ("HTTP", b"GET / HTTP/1.1\r\nhost: test.example\r\n\r\n"),
        ("bytes that are no record", &[0x80, 0x2e, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0]),
        ("a hello that ends too early", &[22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3]),
        ("a hello with a length that is wrong", &garbled),
        ("a record that is too long", &[22, 3, 1, 0xff, 0xff, 1, 0, 0, 0, 0, 0]),
    ];
    for (what, bytes) in cases {
        assert_eq!(alert_for(gateway.addr("web"), bytes), Some(DECODE_ERROR), "{what}");
    }
    wait_failure(&gateway, "protocol", cases.len() as f64);
}

#[test]
fn a_slow_handshake_is_cut_and_counted() {
    let store = Store::new();
    let gateway = start(&store, "", "limits = { handshake_timeout = '300ms' }");
    let hello = client_hello([3, 3], &[ECDHE_ECDSA_AES128_GCM], &extensions_of_tls12());
    for start in [&b""[..], &hello[..20], &hello[..]] {
        let mut client = gateway.connect();
        client.send(start);
        client.patience(Duration::from_secs(5));
        // The whole hello has its answer first.
        let mut seen = Vec::new();
        let _ = client.body(gateway_tests::conn::Framing::UntilClose, &mut |bytes| seen.extend_from_slice(bytes));
        assert_eq!(seen.is_empty(), start.len() < hello.len());
    }
    wait_failure(&gateway, "timeout", 3.0);
    drop(TcpStream::connect(gateway.addr("web")).expect("a connection"));
    wait_failure(&gateway, "closed", 1.0);
}

#[test]
fn an_unknown_name_and_a_client_that_does_not_trust_us_are_told_apart() {
    let store = Store::new();
    let gateway = start(&store, "strict_sni = true", "");
    let anything = TlsClient::accepting_anything(&store.authority);
    assert_eq!(anything.alert(gateway.addr("web"), "other.test"), AlertDescription::UnrecognisedName);
    wait_failure(&gateway, "unknown_name", 1.0);
    let stranger = TlsClient::new(&gateway_tests::certs::Authority::new());
    stranger.connect(gateway.addr("web"), HOST).expect_err("it does not trust the certificate");
    wait_failure(&gateway, "alert", 1.0);
}

#[test]
fn a_host_may_have_a_floor_of_its_own() {
    let store = Store::new();
    let gateway = start(&store, "hosts = [{ hosts = ['modern.test'], min_version = '1.3' }]", "");
    let web = gateway.addr("web");
    let (old, new) =
        (TlsClient::with(&store.authority, &[&TLS12], &[]), TlsClient::with(&store.authority, &[&TLS13], &[]));
    assert_eq!(old.alert(web, "modern.test"), AlertDescription::ProtocolVersion);
    let ask = |client: &TlsClient, name: &str, host: &str| {
        let (mut conn, _) = client.connect(web, name).expect("a handshake");
        conn.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        conn.response().status
    };
    assert_eq!(ask(&old, HOST, HOST), 200);
    assert_eq!(ask(&old, HOST, "modern.test"), 421, "TLS 1.2 is not enough for this host");
    assert_eq!(ask(&new, HOST, "modern.test"), 200);
    assert_eq!(ask(&new, "modern.test", HOST), 200);
}

#[test]
fn the_listener_chooses_suites_and_their_order() {
    let store = Store::new();
    let chosen = "cipher_suites = ['TLS_CHACHA20_POLY1305_SHA256', 'TLS_AES_128_GCM_SHA256', \
                  'TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384']";
    let gateway = start(&store, chosen, "");
    for (version, suite) in [
        (&TLS13, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ] {
        let client = TlsClient::with(&store.authority, &[version], &[]);
        assert_eq!(client.connect(gateway.addr("web"), HOST).expect("a handshake").1.suite, suite);
    }
    let aes128 = client_hello([3, 3], &[ECDHE_ECDSA_AES128_GCM], &extensions_of_tls12());
    assert_eq!(alert_for(gateway.addr("web"), &aes128), Some(40));
}

#[test]
fn keys_are_agreed_on_so_that_a_quantum_computer_does_not_help_unless_the_listener_wants_less() {
    let store = Store::new();
    let agreed = |gateway: &Gateway, client: &TlsClient| {
        client.connect(gateway.addr("web"), HOST).expect("a handshake").1.group.expect("a group")
    };
    let modern = TlsClient::agreeing_by(&store.authority, &[X25519MLKEM768, X25519, SECP256R1]);
    let old = TlsClient::agreeing_by(&store.authority, &[SECP256R1]);
    let gateway = start(&store, "", "");
    assert_eq!(agreed(&gateway, &modern), NamedGroup::X25519MLKEM768);
    assert_eq!(agreed(&gateway, &old), NamedGroup::secp256r1);
    let gateway = start(&store, "key_exchange = ['x25519']", "");
    assert_eq!(agreed(&gateway, &modern), NamedGroup::X25519);
    assert_eq!(old.alert(gateway.addr("web"), HOST), AlertDescription::HandshakeFailure);
    let gateway = start(&store, "key_exchange = ['x25519mlkem768']", "");
    assert_eq!(agreed(&gateway, &modern), NamedGroup::X25519MLKEM768);
}
