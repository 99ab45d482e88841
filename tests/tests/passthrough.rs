//! TLS that passes through: the name in the ClientHello chooses where to, and not a byte is changed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use gateway_tests::certs::{Leaf, Store};
use gateway_tests::ports::loopback;
use gateway_tests::prelude::*;
use gateway_tests::proxy_header::v1;
use gateway_tests::tls::{TlsClient, TlsServer};
use rustls::ALL_VERSIONS;

/// A backend that terminates TLS itself: it says its name, and then `pong` for a `ping`.
fn backend(name: &'static str, leaf: &Leaf) -> Script {
    Script::start_tls(TlsServer::new(leaf, &["h2", "http/1.1", "special"]), move |mut conn| {
        conn.send(name);
        while conn.try_expect("ping") {
            conn.send("pong");
        }
    })
}

fn expect_backend(conn: &mut Conn, name: &str) {
    conn.expect(name);
    conn.send("ping");
    conn.expect("pong");
}

/// What the host answers.
fn get(conn: &mut Conn, host: &str) -> String {
    conn.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    conn.response().text().to_owned()
}

/// A ClientHello for `server_name` that offers `alpn`, in one record.
fn hello(server_name: &str, alpn: &[&str]) -> Vec<u8> {
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(ALL_VERSIONS)
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = server_name.to_owned().try_into().expect("a server name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory");
    bytes
}

/// The same handshake message in records of `size` bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let records = hello[5..].chunks(size);
    records.flat_map(|part| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat()).collect()
}

#[test]
fn hosts_pass_through_beside_terminated_ones_on_one_port() {
    let store = Store::new();
    let ours = store.issue("site", &["web.test", "*.web.test"]);
    let theirs = store.issue("theirs", &["db.test", "x.db.test"]);
    let (plain, tls) = (Origin::start("terminated"), backend("passed", &theirs));
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let config = Config::new()
            .certificate("site", store.path())
            .listener_at("web", loopback.parse().expect("an address"), "tls = { certificates = ['site'] }")
            .cluster("plain", &[plain.addr()], "")
            .cluster("tls", &[tls.addr()], "")
            .route("all", "cluster = 'plain'")
            .l4_route("db", "server_names = ['db.test', '*.db.test']\ncluster = 'tls'");
        let gateway = Gateway::start(&config);
        let client = TlsClient::new(&store.authority);
        for name in ["db.test", "x.db.test", "DB.test"] {
            let (mut conn, handshake) = client.connect(gateway.addr("web"), name).expect("a handshake");
            assert!(handshake.certificate == theirs.der, "{name}: the backend's certificate");
            expect_backend(&mut conn, "passed");
        }
        let (mut conn, handshake) = client.connect_bytewise(gateway.addr("web"), "db.test").expect("a handshake");
        assert!(handshake.certificate == theirs.der);
        expect_backend(&mut conn, "passed");
        for name in ["web.test", "a.web.test"] {
            let (mut conn, handshake) = client.connect(gateway.addr("web"), name).expect("a handshake");
            assert!(handshake.certificate == ours.der, "{name}: our certificate");
            assert_eq!(get(&mut conn, name), "terminated");
        }
        let (mut conn, _) = client.connect_bytewise(gateway.addr("web"), "web.test").expect("a handshake");
        assert_eq!(get(&mut conn, "web.test"), "terminated", "what was looked at is still read by the handshake");
    }
}

#[test]
fn the_backend_gets_the_very_bytes_however_they_came() {
    let seen = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let origin = Script::start({
        let seen = seen.clone();
        move |mut conn| {
            let length = conn.read_bytes(2);
            let bytes = conn.read_bytes(usize::from(u16::from_be_bytes([length[0], length[1]])));
            seen.lock().expect("seen").push([length, bytes].concat());
            conn.send("got it");
        }
    });
    // The script finds the length in the first two bytes: those of a TLS record are 22 and 3.
    let length = usize::from(u16::from_be_bytes([22, 3]));
    let config = Config::new()
        .listener("tls", "protocol = 'tls_passthrough'")
        .cluster("db", &[origin.addr()], "")
        .l4_route("db", "server_names = ['db.test']\ncluster = 'db'");
    let gateway = Gateway::start(&config);
    let whole = hello("db.test", &[]);
    let mut ways = vec![whole.clone()];
    ways.extend([1, 7, 100].map(|size| in_records(&whole, size)));
    for (at, mut bytes) in ways.into_iter().enumerate() {
        bytes.resize(length + 2, b'x');
        for bytewise in [false, true] {
            let mut conn = Conn::connect(gateway.addr("tls"));
            match bytewise {
                true => conn.send_bytewise(&bytes),
                false => conn.send(&bytes),
            }
            conn.expect("got it");
            assert!(seen.lock().expect("seen").pop().as_ref() == Some(&bytes), "way {at}, bytewise {bytewise}");
        }
    }
}

#[test]
fn alpn_unknown_names_and_no_name_go_where_the_routes_say() {
    let store = Store::new();
    let leaf = store.issue("any", &["a.test", "b.test", "other.test", "127.0.0.1"]);
    let [special, named, any, none] = ["special", "named", "any", "none"].map(|name| backend(name, &leaf));
    let config = Config::new()
        .listener("tls", "protocol = 'tls_passthrough'")
        .cluster("special", &[special.addr()], "")
        .cluster("named", &[named.addr()], "")
        .cluster("any", &[any.addr()], "")
        .cluster("none", &[none.addr()], "");
    let routed = config
        .clone()
        .l4_route("special", "alpn = ['special']\nserver_names = ['a.test']\ncluster = 'special'")
        .l4_route("named", "server_names = ['a.test', 'b.test']\ncluster = 'named'")
        .l4_route("any", "server_names = ['*']\ncluster = 'any'")
        .l4_route("none", "without_server_name = true\ncluster = 'none'");
    let gateway = Gateway::start(&routed);
    let connect = |name: &str, alpn: &[&str]| {
        TlsClient::with(&store.authority, ALL_VERSIONS, alpn).connect(gateway.addr("tls"), name)
    };
    for (name, alpn, expected) in [
        ("a.test", &["h2", "special"][..], "special"),
        ("a.test", &["h2"], "named"),
        ("b.test", &["special"], "named"),
        ("other.test", &[], "any"),
        // rustls sends no name for an address.
        ("127.0.0.1", &[], "none"),
    ] {
        let (mut conn, _) = connect(name, alpn).unwrap_or_else(|error| panic!("{name} {alpn:?}: {error}"));
        expect_backend(&mut conn, expected);
    }

    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let strict = config
        .l4_route("named", "server_names = ['a.test']\ncluster = 'named'")
        .tables(&format!("[access_log]\npath = '{}'\nformat = 'json'", log.display()));
    let gateway = Gateway::start(&strict);
    for (what, bytes) in [
        ("an unknown name", hello("unknown.test", &[])),
        ("no name", hello("127.0.0.1", &[])),
        ("what is not TLS", b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec()),
    ] {
        let mut conn = Conn::connect(gateway.addr("tls"));
        conn.send(bytes);
        assert_eq!(conn.end(), End::Reset, "{what}");
    }
    let flags = gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", "NR")]);
    assert_eq!(flags, 3.0);
    let line = wait::until("a log line with the name", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().find(|line| line.contains("unknown.test")).map(str::to_owned)
    });
    assert!(line.contains("\"requested_server_name\":\"unknown.test\""), "{line}");
}

#[test]
fn a_hello_that_is_too_slow_ends() {
    let store = Store::new();
    store.issue("site", &["web.test"]);
    let origin = Origin::start("a");
    let config = Config::new()
        .certificate("site", store.path())
        .listener("web", "tls = { certificates = ['site'] }\nlimits = { handshake_timeout = '300ms' }")
        .cluster("a", &[origin.addr()], "")
        .route("all", "cluster = 'a'")
        .l4_route("db", "server_names = ['db.test']\ncluster = 'a'");
    let gateway = Gateway::start(&config);
    let mut conn = Conn::connect(gateway.addr("web"));
    conn.send(&hello("db.test", &[])[..40]);
    assert_eq!(conn.end(), End::Closed);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn the_client_behind_a_proxy_is_told_to_the_backend_ahead_of_its_hello() {
    let (client, vip): (SocketAddr, SocketAddr) =
        ("198.51.100.7:40000".parse().expect("an address"), "203.0.113.1:443".parse().expect("an address"));
    let message = hello("db.test", &["h2"]);
    let origin = Script::start({
        let message = message.clone();
        move |mut conn| {
            conn.expect(v1(client, vip));
            assert!(conn.read_bytes(message.len()) == message);
            conn.send("ok");
        }
    });
    let config = Config::new()
        .listener(
            "tls",
            &format!("protocol = 'tls_passthrough'\nproxy_protocol = 'require'\ntrusted_proxies = ['{}']", loopback()),
        )
        .cluster("db", &[origin.addr()], "proxy_protocol = 'v1'")
        .l4_route("db", "server_names = ['db.test']\ncluster = 'db'");
    let gateway = Gateway::start(&config);
    let mut conn = Conn::connect(gateway.addr("tls"));
    conn.send(v1(client, vip));
    conn.send_bytewise(&message);
    conn.expect("ok");
}
