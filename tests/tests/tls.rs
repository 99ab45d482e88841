//! TLS: certificates by name, versions, ALPN, resumption, deadlines, and TLS to the origin.

use std::sync::Arc;
use std::time::Duration;

use gateway_tests::certs::{Authority, Store};
use gateway_tests::conn::Framing;
use gateway_tests::curl::curl;
use gateway_tests::nginx::Nginx;
use gateway_tests::prelude::*;
use gateway_tests::tls::TlsClient;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};

/// A TLS listener `web` with these certificates in front of `origin`; `lines` go into its `tls` table.
fn config(store: &Store, origin: &Origin, certificates: &[&str], lines: &str) -> Config {
    let config = certificates.iter().fold(Config::new(), |config, name| config.certificate(name, store.path()));
    let names = certificates.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    config
        .listener("web", &format!("tls = {{ certificates = [{names}] {lines} }}"))
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'")
}

#[test]
fn requests_over_tls_reach_the_origin_in_plain_text() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let client = TlsClient::new(&store.authority);
    let gateway = Gateway::start(&config(&store, &origin, &["site"], ""));
    let (mut conn, _) = client.connect(gateway.addr("web"), "test.example").expect("a handshake");
    let seen = conn.get("/headers").seen();
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    for (path, framing) in [("/bytes/5000000", None), ("/sink", Some(Framing::Chunked))] {
        match framing {
            None => {
                conn.send(gateway_tests::client::request("GET", path, ""));
                assert_eq!(conn.pattern_response().1, 5_000_000);
            }
            Some(framing) => {
                conn.send_pattern(path, 5_000_000, framing);
                assert_eq!(conn.response().text(), "5000000");
            }
        }
    }
}

#[test]
fn the_certificate_is_chosen_by_name_exact_before_wildcard_before_default() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    let default = store.issue("default", &["default.test"]);
    let exact = store.issue("exact", &["a.wild.test", "exact.test"]);
    let wildcard = store.issue("wildcard", &["*.wild.test"]);
    // Trusts whatever it gets, because it asks for names that the default certificate does not have.
    let shown = |gateway: &Gateway, name: &str| {
        let client = TlsClient::accepting_anything(&store.authority);
        client.connect(gateway.addr("web"), name).expect("a handshake").1.certificate
    };
    let gateway = Gateway::start(&config(&store, &origin, &["default", "exact", "wildcard"], ""));
    for (name, certificate, what) in [
        ("exact.test", &exact.der, "exact"),
        ("EXACT.test", &exact.der, "exact, whatever the case"),
        ("a.wild.test", &exact.der, "exact before wildcard"),
        ("b.wild.test", &wildcard.der, "wildcard"),
        ("wild.test", &default.der, "a wildcard does not cover the bare domain"),
        ("x.b.wild.test", &default.der, "a wildcard covers one label (RFC 9525 §6.3)"),
        ("default.test", &default.der, "the first one, by its name"),
        ("unknown.test", &default.der, "the first one, for want of a better one"),
        ("127.0.0.1", &default.der, "no SNI at all"),
    ] {
        assert!(shown(&gateway, name) == *certificate, "{name}: {what}");
    }
}

#[test]
fn strict_sni_refuses_unknown_names() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let client = TlsClient::accepting_anything(&store.authority);
    let gateway = Gateway::start(&config(&store, &origin, &["site"], ", strict_sni = true"));
    client.connect(gateway.addr("web"), "test.example").expect("a handshake with the right name");
    for name in ["other.test", "127.0.0.1"] {
        client.connect(gateway.addr("web"), name).expect_err(name);
    }
}

#[test]
fn a_request_for_a_host_that_the_certificate_does_not_cover_is_misdirected() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("one", &["one.test"]);
    store.issue("two", &["two.test"]);
    let client = TlsClient::new(&store.authority);
    let gateway = Gateway::start(&config(&store, &origin, &["one", "two"], ""));
    let (mut conn, _) = client.connect(gateway.addr("web"), "one.test").expect("a handshake");
    conn.send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n");
    assert_eq!(conn.response().status, 200);
    conn.send("GET / HTTP/1.1\r\nhost: two.test\r\n\r\n");
    assert_eq!(conn.response().status, 421, "RFC 9110 §15.5.20");
}

#[test]
fn both_versions_are_spoken_unless_the_listener_wants_more() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let any = config(&store, &origin, &["site"], "");
    let modern = config(&store, &origin, &["site"], ", min_version = '1.3'");
    let old = TlsClient::with(&store.authority, &[&TLS12], &[]);
    let new = TlsClient::with(&store.authority, &[&TLS13], &[]);

    let gateway = Gateway::start(&any);
    for (client, version) in [(&old, ProtocolVersion::TLSv1_2), (&new, ProtocolVersion::TLSv1_3)] {
        let (mut conn, handshake) = client.connect(gateway.addr("web"), "test.example").expect("a handshake");
        assert_eq!((handshake.version, conn.get("/").status), (version, 200));
    }
    let gateway = Gateway::start(&modern);
    new.connect(gateway.addr("web"), "test.example").expect("a handshake");
    let error = old.connect(gateway.addr("web"), "test.example").expect_err("too old").to_string();
    assert!(error.contains("ProtocolVersion"), "the client should learn why: {error}");
}

#[test]
fn alpn_picks_http_1_1() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let gateway = Gateway::start(&config(&store, &origin, &["site"], ""));
    for (offered, picked) in
        [(&["http/1.1"][..], Some("http/1.1")), (&["x", "http/1.1"], Some("http/1.1")), (&[], None)]
    {
        let client = TlsClient::with(&store.authority, rustls::ALL_VERSIONS, offered);
        let (mut conn, handshake) = client.connect(gateway.addr("web"), "test.example").expect("a handshake");
        assert_eq!((handshake.alpn.as_deref(), conn.get("/").status), (picked, 200), "{offered:?}");
    }
    let stranger = TlsClient::with(&store.authority, rustls::ALL_VERSIONS, &["smtp"]);
    let error = stranger.connect(gateway.addr("web"), "test.example").expect_err("nothing in common").to_string();
    assert!(error.contains("NoApplicationProtocol"), "RFC 7301 §3.2: {error}");
}

#[test]
fn sessions_are_resumed_whichever_worker_the_next_connection_gets() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let gateway = Gateway::start(&config(&store, &origin, &["site"], "").gateway("workers = 4"));
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::with(&store.authority, &[version], &[]);
        let connect = || {
            let (mut conn, handshake) = client.connect(gateway.addr("web"), "test.example").expect("a handshake");
            // In TLS 1.3 the tickets come after the handshake; an answer is behind them.
            assert_eq!(conn.get("/").status, 200);
            handshake.kind
        };
        assert_eq!(connect(), HandshakeKind::Full);
        for round in 0..30 {
            assert_eq!(connect(), HandshakeKind::Resumed, "{:?}, round {round}", version.version);
        }
    }
}

#[test]
fn a_handshake_that_does_not_come_to_its_end_is_cut() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let config = Config::new()
        .certificate("site", store.path())
        .listener("web", "tls = { certificates = ['site'] }\nlimits = { handshake_timeout = '300ms' }")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    for start in [&b""[..], &[0x16, 3, 1, 2, 0, 1, 0]] {
        let mut client = gateway.connect();
        client.send(start);
        client.patience(Duration::from_secs(5));
        client.end();
    }
}

#[test]
fn plain_http_on_a_tls_port_gets_no_answer_and_no_origin() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let client = TlsClient::new(&store.authority);
    let gateway = Gateway::start(&config(&store, &origin, &["site"], ""));
    let mut plain = gateway.connect();
    plain.send("GET / HTTP/1.1\r\nhost: test.example\r\n\r\n");
    // At most a TLS alert (0x15), no HTTP.
    let mut answer = Vec::new();
    let _ = plain.body(Framing::UntilClose, &mut |bytes| answer.extend_from_slice(bytes));
    assert!(answer.is_empty() || answer[0] == 0x15, "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(origin.connections(), 0);
    let failed = [("listener", "web"), ("result", "failed")];
    let handshakes = || gateway.metrics().sum("gateway_listener_tls_handshakes_total", &failed);
    wait::until_true("the handshake to be counted", || handshakes() == 1.0);
    client.connect(gateway.addr("web"), "test.example").expect("it does not harm others");
}

#[test]
fn a_client_hello_in_many_small_pieces_is_understood() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let client = TlsClient::new(&store.authority);
    let gateway = Gateway::start(&config(&store, &origin, &["site"], ""));
    let (mut conn, _) = client.connect_bytewise(gateway.addr("web"), "test.example").expect("a handshake");
    assert_eq!(conn.get("/").status, 200);
}

#[test]
fn half_close_over_tls_still_gets_its_answer() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let client = TlsClient::new(&store.authority);
    let gateway = Gateway::start(&config(&store, &origin, &["site"], ""));
    let (mut conn, _) = client.connect(gateway.addr("web"), "test.example").expect("a handshake");
    conn.send(gateway_tests::client::request("GET", "/hold", ""));
    origin.wait_held(1);
    conn.half_close();
    origin.release();
    assert_eq!(conn.response().text(), "released");
}

#[test]
fn curl_verifies_our_certificate() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let gateway = Gateway::start(&config(&store, &origin, &["site"], ""));
    let connect_to = format!("::{}", gateway.addr("web"));
    let ca = store.path().join("ca.pem").display().to_string();
    for version in ["1.2", "1.3"] {
        let url = "https://test.example/";
        assert_eq!(curl(&["--tls-max", version, "--cacert", &ca, "--connect-to", &connect_to, url]), "a");
    }
}

#[test]
fn an_origin_behind_tls_is_verified() {
    let store = Store::new();
    store.issue("origin", &["origin.test", "127.0.0.1", "::1"]);
    let other = Authority::new();
    std::fs::write(store.path().join("other.pem"), other.pem()).expect("write");
    let server = format!(
        "ssl_certificate {0}/origin.pem; ssl_certificate_key {0}/origin.key; location / {{ return 200 $ssl_server_name; }}",
        store.path().display()
    );
    let nginx = Nginx::start_with("ssl", &server);
    let trust = |file: &str| format!("ca = '{}'", store.path().join(file).display());
    let ask = |tls: &str| {
        let config = Config::new()
            .listener("web", "")
            .cluster("origin", &[nginx.addr()], &format!("tls = {{ {tls} }}"))
            .route("all", "cluster = 'origin'");
        let gateway = Gateway::start(&config);
        let response = gateway.get("/");
        (response.status, response.text().to_owned())
    };
    let (ours, other) = (trust("ca.pem"), trust("other.pem"));
    assert_eq!(ask(&format!("server_name = 'origin.test', {ours}")), (200, "origin.test".into()));
    assert_eq!(ask(&ours), (200, String::new()), "an address is no SNI, but it is verified");
    assert_eq!(ask(&format!("server_name = 'wrong.test', {ours}")).0, 503, "the wrong name");
    assert_eq!(ask(&format!("server_name = 'origin.test', {other}")).0, 503, "the wrong authority");
    assert_eq!(ask("server_name = 'origin.test'").0, 503, "an authority that the system does not know");
    assert_eq!(ask("server_name = 'wrong.test', verify = false").0, 200, "verification is off");
}

#[test]
fn concurrent_clients_each_get_their_own_bytes() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let gateway = Gateway::start(&config(&store, &origin, &["site"], ""));
    let (client, addr) = (Arc::new(TlsClient::new(&store.authority)), gateway.addr("web"));
    let threads = (0..8).map(|i| {
        let client = client.clone();
        std::thread::spawn(move || {
            let (mut conn, _) = client.connect(addr, "test.example").expect("a handshake");
            for round in 0..20 {
                let body = format!("{i}-{round}").repeat(1 + 100 * round);
                assert_eq!(conn.request("POST", "/echo", "", body.as_bytes()).text(), body);
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("a client"));
}
