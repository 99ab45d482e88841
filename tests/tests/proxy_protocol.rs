//! PROXY headers: believed from trusted peers only, and sent on as they must be.

use std::net::SocketAddr;

use gateway_tests::certs::Store;
use gateway_tests::client;
use gateway_tests::haproxy::Haproxy;
use gateway_tests::nginx::Nginx;
use gateway_tests::ports::loopback;
use gateway_tests::prelude::*;
use gateway_tests::proxy_header::{SIGNATURE, v1, v2, v2_local};
use gateway_tests::stream::Stream;
use gateway_tests::tls::TlsClient;

/// A client that is somewhere else.
const CLIENT: &str = "198.51.100.7:40000";
/// Where it connected to, as the proxy says.
const VIP: &str = "203.0.113.1:443";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A listener `web` that trusts the loopback, in front of an origin that shows what it gets.
fn web(mode: &str, origin: &Origin, more: &str) -> Config {
    Config::new()
        .listener("web", &format!("proxy_protocol = '{mode}'\ntrusted_proxies = ['{}']\n{more}", loopback()))
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'")
}

fn refused(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metrics().sum("gateway_listener_connections_refused_total", &[("reason", reason)])
}

/// Whom the origin is told the client is.
fn forwarded_for(conn: &mut Conn) -> String {
    conn.get("/headers").seen().header("x-forwarded-for").expect("a client").to_owned()
}

#[test]
fn a_trusted_proxys_header_says_who_the_client_is() {
    let origin = Origin::start("a");
    let v6 = (addr("[2001:db8::7]:40000"), addr("[2001:db8::1]:443"));
    let peer = loopback().to_string();
    let headers = [
        (v1(addr(CLIENT), addr(VIP)), "198.51.100.7"),
        (v2(addr(CLIENT), addr(VIP), &[(5, b"id"), (0xEA, b"\x01vpce")]), "198.51.100.7"),
        (v1(v6.0, v6.1), "2001:db8::7"),
        (v2(v6.0, v6.1, &[]), "2001:db8::7"),
        (v2_local(), peer.as_str()),
        (b"PROXY UNKNOWN\r\n".to_vec(), peer.as_str()),
    ];
    for mode in ["accept", "require"] {
        let gateway = Gateway::start(&web(mode, &origin, ""));
        for (header, client) in &headers {
            let mut conn = gateway.connect();
            conn.send(header);
            assert_eq!(forwarded_for(&mut conn), *client, "{mode} {}", header.escape_ascii());
            assert_eq!(forwarded_for(&mut conn), *client, "the second request of the connection");
            let mut conn = gateway.connect();
            conn.send_bytewise(header);
            assert_eq!(forwarded_for(&mut conn), *client, "byte by byte, {mode} {}", header.escape_ascii());
            let mut conn = gateway.connect();
            conn.send([header.as_slice(), client::request("GET", "/headers", "").as_bytes()].concat());
            let answer = conn.response();
            assert_eq!(answer.seen().header("x-forwarded-for"), Some(*client), "in one packet with the request");
        }
    }
}

#[test]
fn accept_takes_connections_without_a_header_and_require_resets_them() {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&web("accept", &origin, ""));
    assert_eq!(forwarded_for(&mut gateway.connect()), loopback().to_string());
    let mut post = gateway.connect();
    assert_eq!(post.request("POST", "/echo", "", b"PROXY").text(), "PROXY", "P is not yet PROXY");

    let gateway = Gateway::start(&web("require", &origin, ""));
    let mut conn = gateway.connect();
    conn.send(client::request("GET", "/", ""));
    assert_eq!(conn.end(), End::Reset);
    assert_eq!(refused(&gateway, "proxy_header"), 1.0);
}

#[test]
fn garbage_and_slowness_are_reset_and_counted() {
    let origin = Origin::start("a");
    let gateway = Gateway::start(&web("accept", &origin, "limits = { handshake_timeout = '500ms' }"));
    let broken: [&[u8]; 5] = [
        b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        &[SIGNATURE, &[0x31, 0x11, 0, 12]].concat(),
        &[SIGNATURE, &[0x21, 0x11, 0, 4, 1, 2, 3, 4]].concat(),
        &[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(),
    ];
    for (count, bytes) in broken.into_iter().enumerate() {
        let mut conn = gateway.connect();
        conn.send(bytes);
        assert_eq!(conn.end(), End::Reset, "{}", bytes.escape_ascii());
        assert_eq!(refused(&gateway, "proxy_header"), count as f64 + 1.0);
    }
    let mut slow = gateway.connect();
    slow.send("PROXY TCP4 198.51");
    assert_eq!(slow.end(), End::Reset);
    let mut silent = gateway.connect();
    assert_eq!(silent.end(), End::Reset);
    assert_eq!(refused(&gateway, "proxy_header"), broken.len() as f64 + 2.0);
    let mut gone = gateway.connect();
    gone.half_close();
    assert_eq!(gone.end(), End::Closed, "a health check is not counted");
    assert_eq!(refused(&gateway, "proxy_header"), broken.len() as f64 + 2.0);
}

#[test]
fn a_header_of_somebody_who_is_not_trusted_is_not_believed() {
    let origin = Origin::start("a");
    for mode in ["accept", "require"] {
        let config = Config::new()
            .gateway("trusted_proxies = ['192.0.2.0/24']")
            .listener("web", &format!("proxy_protocol = '{mode}'"))
            .cluster("origin", &[origin.addr()], "")
            .route("all", "cluster = 'origin'");
        let gateway = Gateway::start(&config);
        for header in [v1(addr("192.0.2.1:1"), addr(VIP)), v2(addr("192.0.2.1:1"), addr(VIP), &[])] {
            let request = [header.as_slice(), client::request("GET", "/headers", "").as_bytes()].concat();
            // The reset may overtake the end of the connect.
            let Ok(stream) = Stream::connect(gateway.addr("web")) else {
                assert_eq!(mode, "require");
                continue;
            };
            let mut conn = Conn::new(stream, 0);
            let _ = conn.try_send(request);
            match mode {
                "require" => assert_eq!(conn.end(), End::Reset),
                // To HTTP it is a request line that is none.
                _ => assert_eq!(conn.response().status, 400),
            }
        }
        if mode == "accept" {
            assert_eq!(forwarded_for(&mut gateway.connect()), loopback().to_string());
        }
    }
    assert_eq!(origin.requests(), 1);
}

#[test]
fn rules_and_limits_hold_for_the_source_that_the_header_names() {
    let origin = Origin::start("a");
    let limits = "limits = { connections_per_source = 2 }";
    let rules = "[[access]]\nname = 'bad'\naction = 'deny'\nsources = ['198.51.100.66/32']";
    let gateway = Gateway::start(&web("accept", &origin, limits).tables(rules));
    for header in [v1(addr("198.51.100.66:1"), addr(VIP)), v1(addr("[::ffff:198.51.100.66]:1"), addr("[::1]:1"))] {
        let mut denied = gateway.connect();
        denied.send(header);
        assert_eq!(denied.end(), End::Reset);
    }
    assert_eq!(refused(&gateway, "access_denied"), 2.0);

    let from = |client: &str| {
        let mut conn = gateway.connect();
        conn.send(v1(addr(client), addr(VIP)));
        conn
    };
    let mut open: Vec<Conn> = ["198.51.100.1:1", "198.51.100.1:2", "198.51.100.2:1", "198.51.100.3:1"].map(from).into();
    assert!(open.iter_mut().all(|conn| conn.get("/").status == 200), "the proxy itself has no limit");
    assert_eq!(from("198.51.100.1:3").end(), End::Reset);
    assert_eq!(refused(&gateway, "source_limit"), 1.0);
    drop(open);
    wait::until_true("the source to have room again", || {
        let mut conn = from("198.51.100.1:4");
        let _ = conn.try_send(client::request("GET", "/", ""));
        conn.try_response_to("GET").is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn the_header_comes_before_tls() {
    let (store, origin) = (Store::new(), Origin::start("a"));
    store.issue("site", &["test.example"]);
    let config = web("require", &origin, "tls = { certificates = ['site'] }").certificate("site", store.path());
    let gateway = Gateway::start(&config);
    let proxy = Haproxy::in_front_of(gateway.addr("web"), "send-proxy-v2");
    let (mut conn, _) = TlsClient::new(&store.authority).connect(proxy.addr(), "test.example").expect("a handshake");
    let seen = conn.get("/headers").seen();
    assert_eq!(seen.header("x-forwarded-for"), Some(conn.local_addr().ip().to_string().as_str()));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
}

#[test]
fn haproxy_in_front_is_understood_in_both_versions() {
    let origin = Script::start(|mut conn| {
        conn.send("hello");
        // Whoever waits for HAProxy to listen says nothing.
        if conn.try_expect("bye") {
            conn.send("done");
        }
    });
    let config = Config::new()
        .listener("pg", &format!("protocol = 'tcp'\nproxy_protocol = 'require'\ntrusted_proxies = ['{}']", loopback()))
        .cluster("db", &[origin.addr()], "")
        .l4_route("db", "cluster = 'db'");
    let gateway = Gateway::start(&config);
    for option in ["send-proxy", "send-proxy-v2"] {
        let proxy = Haproxy::in_front_of(gateway.addr("pg"), option);
        let mut conn = Conn::connect(proxy.addr());
        conn.expect("hello");
        conn.send("bye");
        conn.expect("done");
    }
}

/// The TLVs of a version 2 header that `conn` begins with, after its addresses.
fn read_v2(conn: &mut Conn, source: SocketAddr, destination: SocketAddr) -> Vec<(u8, Vec<u8>)> {
    let start = v2(source, destination, &[]);
    conn.expect(&start[..14]);
    let length = conn.read_bytes(2);
    let mut rest = conn.read_bytes(usize::from(u16::from_be_bytes([length[0], length[1]])));
    let mut tlvs = rest.split_off(start.len() - 16);
    assert_eq!(rest, start[16..], "source and destination");
    let mut out = Vec::new();
    while !tlvs.is_empty() {
        let value = tlvs.split_off(3);
        let (value, after) = value.split_at(usize::from(u16::from_be_bytes([tlvs[1], tlvs[2]])));
        out.push((tlvs[0], value.to_vec()));
        tlvs = after.to_vec();
    }
    out
}

#[test]
fn endpoints_are_told_who_the_client_is_in_version_1() {
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let (told, ends) = std::sync::mpsc::channel::<(SocketAddr, SocketAddr)>();
        let ends = std::sync::Mutex::new(ends);
        let origin = Script::start_at(addr(loopback), move |mut conn| {
            let (source, destination) = ends.lock().expect("ends").recv().expect("both ends");
            conn.expect(v1(source, destination));
            conn.expect("query");
            conn.send("rows");
        });
        let config = Config::new()
            .listener_at("pg", addr(loopback), "protocol = 'tcp'")
            .cluster("db", &[origin.addr()], "proxy_protocol = 'v1'")
            .l4_route("db", "cluster = 'db'");
        let gateway = Gateway::start(&config);
        let mut conn = Conn::connect(gateway.addr("pg"));
        told.send((conn.local_addr(), gateway.addr("pg"))).expect("the origin listens");
        conn.send("query");
        conn.expect("rows");
    }
}

#[test]
fn a_chain_of_proxies_keeps_the_clients_ends_in_version_2() {
    let store = Store::new();
    store.issue("site", &["db.test"]);
    let origin = Script::start(|mut conn| {
        let tlvs = read_v2(&mut conn, addr(CLIENT), addr(VIP));
        let value = |kind| tlvs.iter().find(|(found, _)| *found == kind).map(|(_, value)| value.as_slice());
        assert_eq!(value(0x02), Some(b"db.test".as_slice()), "authority");
        let ssl = value(0x20).expect("PP2_TYPE_SSL");
        assert_eq!(ssl[0] & 1, 1, "PP2_CLIENT_SSL");
        assert!(ssl.ends_with(b"TLSv1.3"), "{}", ssl.escape_ascii());
        assert!(value(0x05).is_some_and(|id| !id.is_empty()), "a unique id");
        conn.expect("query");
        conn.send("rows");
    });
    let config = Config::new()
        .certificate("site", store.path())
        .listener(
            "pg",
            &format!(
                "protocol = 'tcp'\ntls = {{ certificates = ['site'] }}\nproxy_protocol = 'require'\n\
                 trusted_proxies = ['{}']",
                loopback()
            ),
        )
        .cluster("db", &[origin.addr()], "proxy_protocol = 'v2'")
        .l4_route("db", "cluster = 'db'");
    let gateway = Gateway::start(&config);
    let client = TlsClient::new(&store.authority);
    let (mut conn, _) = client
        .connect_after(&v1(addr(CLIENT), addr(VIP)), gateway.addr("pg"), "db.test")
        .expect("a handshake after the header");
    conn.send("query");
    conn.expect("rows");
    origin.wait_finished(1);
}

#[test]
fn nginx_understands_what_endpoints_are_told() {
    let nginx =
        Nginx::start_with("proxy_protocol", "location / { return 200 \"$proxy_protocol_addr $proxy_protocol_port\"; }");
    for version in ["v1", "v2"] {
        let config = Config::new()
            .listener("relay", "protocol = 'tcp'")
            .cluster("nginx", &[nginx.addr()], &format!("proxy_protocol = '{version}'"))
            .l4_route("nginx", "listeners = ['relay']\ncluster = 'nginx'");
        let gateway = Gateway::start(&config);
        let mut conn = Conn::connect(gateway.addr("relay"));
        let client = conn.local_addr();
        assert_eq!(conn.get("/").text(), format!("{} {}", client.ip(), client.port()), "{version}");
    }
}

/// An origin of HTTP whose connections begin with the client's header.
fn told_origin() -> Script {
    Script::start(|mut conn| {
        read_v2(&mut conn, addr(CLIENT), addr(VIP));
        while conn.head().is_ok() {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na");
        }
    })
}

/// A gateway in front of it, and a client that has sent two requests over it.
fn to_told_origin(origin: &Script, cluster: &str) -> (Gateway, Conn) {
    let config = Config::new()
        .gateway("workers = 1")
        .listener("web", &format!("proxy_protocol = 'require'\ntrusted_proxies = ['{}']", loopback()))
        .cluster("origin", &[origin.addr()], &format!("proxy_protocol = 'v2'\n{cluster}"))
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    let mut conn = gateway.connect();
    conn.send(v1(addr(CLIENT), addr(VIP)));
    for _ in 0..2 {
        assert_eq!(conn.get("/").text(), "a");
    }
    assert_eq!(origin.connections(), 1, "a client's requests share its connection");
    (gateway, conn)
}

#[test]
fn a_connection_that_tells_of_a_client_is_closed_when_it_is_idle_for_too_long() {
    let origin = told_origin();
    let (_gateway, mut conn) = to_told_origin(&origin, "idle_timeout = '300ms'");
    origin.wait_finished(1);
    assert_eq!(conn.get("/").text(), "a");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_connection_that_tells_of_a_client_is_closed_when_its_endpoint_is_gone() {
    let origin = told_origin();
    let (mut gateway, mut conn) = to_told_origin(&origin, "");
    let listener = format!("proxy_protocol = 'require'\ntrusted_proxies = ['{}']", loopback());
    gateway.reload(&Config::new().listener("web", &listener).route("all", "respond = { status = 200, body = 'new' }"));
    origin.wait_finished(1);
    assert_eq!(conn.get("/").text(), "new");
}
