//! How fast a listener takes new connections: the quota is the box's, however many workers there are.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use gateway_tests::client;
use gateway_tests::ports::{any_port, loopback};
use gateway_tests::prelude::*;
use gateway_tests::proxy_header::{v1, v2, v2_local};
use gateway_tests::stream::Stream;

/// So slow that no token comes while a test runs.
fn rate(key: &str, burst: u32) -> String {
    format!("{key} = {{ connections = 1, per = '24h', burst = {burst} }}")
}

/// A TCP listener `pg` with these lines in front of an origin that begins each connection with `up`.
fn relay(origin: &Script, lines: &str) -> Config {
    Config::new()
        .listener("pg", &format!("protocol = 'tcp'\n{lines}"))
        .cluster("db", &[origin.addr()], "")
        .l4_route("db", "cluster = 'db'")
}

fn up() -> Script {
    Script::start(|mut conn| {
        conn.send("up");
        conn.end();
    })
}

/// A connection that begins with `header`, if it is served; else it has been reset.
fn served(addr: SocketAddr, header: &[u8]) -> Option<Conn> {
    // The reset may overtake the end of the connect.
    let mut conn = Conn::new(Stream::connect(addr).ok()?, 0);
    (conn.try_send(header) && conn.try_expect("up")).then_some(conn)
}

fn count(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metrics().sum("gateway_listener_connections_refused_total", &[("reason", reason)])
}

#[test]
fn a_listener_takes_as_many_new_connections_as_its_bucket_has_over_all_workers() {
    let origin = up();
    let config = relay(&origin, &format!("limits = {{ {} }}", rate("new_connections", 20)));
    let mut gateway = Gateway::start(&config);
    let open: Vec<Conn> = (0..60).filter_map(|_| served(gateway.addr("pg"), b"")).collect();
    assert_eq!((open.len(), count(&gateway, "rate")), (20, 40.0));
    assert_eq!(origin.connections(), 20);
    drop(open);
    // It is about how fast they come, and not about how many there are.
    assert!(served(gateway.addr("pg"), b"").is_none());
    gateway.reload(&config.clone().gateway("drain_timeout = '29s'"));
    assert!(served(gateway.addr("pg"), b"").is_none(), "a reload does not fill the bucket");
    gateway.reload(&relay(&origin, ""));
    assert!(served(gateway.addr("pg"), b"").is_some());
}

#[test]
fn a_source_that_is_too_fast_is_refused_and_others_are_not() {
    let origin = up();
    let limits = rate("new_connections_per_source", 5);
    let gateway = Gateway::start(&relay(&origin, &format!("limits = {{ {limits} }}")));
    let count_served = || (0..20).filter(|_| served(gateway.addr("pg"), b"").is_some()).count();
    assert_eq!((count_served(), count(&gateway, "source_rate")), (5, 15.0));

    // Behind a trusted proxy, sources are those that its headers name.
    let proxy = format!("proxy_protocol = 'require'\ntrusted_proxies = ['{}']\nlimits = {{ {limits} }}", loopback());
    let gateway = Gateway::start(&relay(&origin, &proxy));
    let destination = SocketAddr::new(IpAddr::from([203, 0, 113, 1]), 443);
    for source in [[198, 51, 100, 1], [198, 51, 100, 2]] {
        let header = v1(SocketAddr::new(IpAddr::from(source), 40_000), destination);
        let served = (0..20).filter(|_| served(gateway.addr("pg"), &header).is_some()).count();
        assert_eq!(served, 5, "{source:?}");
    }
    assert_eq!(count(&gateway, "source_rate"), 30.0);
}

#[test]
fn clients_of_http_behind_a_trusted_proxy_are_counted_by_the_source_that_it_names() {
    let origin = Origin::start("up");
    let limits = rate("new_connections_per_source", 3);
    let trust = format!("trusted_proxies = ['{}']\nlimits = {{ {limits} }}", loopback());
    let gateway = Gateway::start(
        &Config::new()
            .listener("web", &format!("proxy_protocol = 'accept'\n{trust}"))
            .cluster("origin", &[origin.addr()], "")
            .route("all", "cluster = 'origin'"),
    );
    let destination = SocketAddr::new(IpAddr::from([203, 0, 113, 1]), 443);
    let named = |source: [u8; 4], port| SocketAddr::new(IpAddr::from(source), port);
    let count_served = |header: &dyn Fn(u16) -> Vec<u8>| {
        let is_served = |port: &u16| {
            let Ok(stream) = Stream::connect(gateway.addr("web")) else { return false };
            let mut conn = Conn::new(stream, 0);
            let request = [header(*port), client::request("GET", "/", "").into_bytes()].concat();
            conn.try_send(request) && conn.try_response_to("GET").is_ok_and(|answer| answer.status == 200)
        };
        (40_000..40_010).filter(is_served).count()
    };
    for source in [[198, 51, 100, 1], [198, 51, 100, 2]] {
        assert_eq!(count_served(&|port| v1(named(source, port), destination)), 3, "{source:?}");
    }
    assert_eq!(
        count_served(&|port| v2(named([198, 51, 100, 1], port), destination, &[])),
        0,
        "one source in both versions"
    );
    // Its own connections, by which it looks whether we are there, are of no source.
    assert_eq!(count_served(&|_| v2_local()), 10);
    assert_eq!(count(&gateway, "source_rate"), 24.0);
}

#[test]
fn requests_of_connections_that_were_let_in_are_not_counted() {
    let origin = Origin::start("up");
    let gateway = Gateway::start(
        &Config::new()
            .listener("web", &format!("limits = {{ {} }}", rate("new_connections", 1)))
            .cluster("origin", &[origin.addr()], "")
            .route("all", "cluster = 'origin'"),
    );
    let mut client = gateway.connect();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "up");
    }
    assert!(Stream::connect(gateway.addr("web")).map_or(true, |stream| Conn::new(stream, 0).end() == End::Reset));
    assert_eq!(client.get("/").text(), "up");
}

#[test]
fn sessions_of_datagrams_count_as_connections() {
    let origin = UdpSocket::bind(any_port()).expect("bind");
    origin.set_read_timeout(Some(wait::DEADLINE)).expect("a timeout");
    let gateway = Gateway::start(
        &Config::new()
            .listener("dns", &format!("protocol = 'udp'\nlimits = {{ {} }}", rate("new_connections", 2)))
            .cluster("dns", &[origin.local_addr().expect("an address")], "")
            .l4_route("dns", "cluster = 'dns'"),
    );
    let clients: Vec<UdpSocket> = (0..5).map(|_| UdpSocket::bind(any_port()).expect("bind")).collect();
    for client in &clients {
        client.send_to(b"question", gateway.addr("dns")).expect("send");
    }
    wait::until_true("the others to be refused", || count(&gateway, "rate") == 3.0);
    for _ in 0..2 {
        let (length, _) = origin.recv_from(&mut [0; 64]).expect("a datagram");
        assert_eq!(length, 8);
    }
    assert_eq!(gateway.metrics().sum("gateway_listener_connections_total", &[("listener", "dns")]), 2.0);
}
