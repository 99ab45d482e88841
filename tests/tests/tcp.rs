//! TCP listeners: bytes go both ways as they are, and every end of a connection is passed on as what it was.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use gateway_tests::certs::Store;
use gateway_tests::conn::Framing;
use gateway_tests::pattern::{self, Checker};
use gateway_tests::ports::HeldPort;
use gateway_tests::prelude::*;
use gateway_tests::stream::Stream;
use gateway_tests::tls::{TlsClient, TlsServer};

/// Both loopback addresses, with a port that the kernel chooses.
const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

/// A listener `pg` whose connections all go to one cluster.
fn relay_to(endpoints: &[SocketAddr], route: &str) -> Config {
    relay_at(LOOPBACKS[0], endpoints, route)
}

fn relay_at(address: &str, endpoints: &[SocketAddr], route: &str) -> Config {
    Config::new()
        .listener_at("pg", address.parse().expect("an address"), "protocol = 'tcp'")
        .cluster("db", endpoints, "")
        .l4_route("db", &format!("listeners = ['pg']\ncluster = 'db'\n{route}"))
}

fn connect(gateway: &Gateway) -> Conn {
    Conn::connect(gateway.addr("pg"))
}

/// Whether a connection is reset; the reset may overtake the end of the connect.
fn is_reset(addr: SocketAddr) -> bool {
    Stream::connect(addr).map_or(true, |stream| Conn::new(stream, 0).end() == End::Reset)
}

/// Whether a connection reaches the origin that calls itself `name`.
fn reaches(addr: SocketAddr, name: &str) -> bool {
    Stream::connect(addr).is_ok_and(|stream| Conn::new(stream, 0).try_expect(name))
}

/// Sends back what comes, until the client says that it sends no more.
fn echo(mut conn: Conn) {
    let (bytes, received) = mpsc::channel::<Vec<u8>>();
    let mut out = conn.clone_writer();
    let writer = std::thread::spawn(move || received.into_iter().all(|bytes| out.try_send(bytes)));
    let _ = conn.body(Framing::UntilClose, &mut |chunk| _ = bytes.send(chunk.to_vec()));
    drop(bytes);
    let _ = writer.join();
}

/// An origin whose connections begin with its name, and then echo.
fn named(name: &'static str) -> Script {
    Script::start(move |mut conn| {
        conn.send(name);
        echo(conn);
    })
}

fn active(gateway: &Gateway, route: &str) -> f64 {
    gateway.metrics().sum("gateway_l4_route_connections_active", &[("route", route)])
}

#[test]
fn bytes_go_both_ways_on_both_loopbacks_at_once_and_in_any_amount() {
    const LENGTH: usize = 20 << 20;
    for address in LOOPBACKS {
        let origin = Script::start_at(address.parse().expect("an address"), echo);
        let gateway = Gateway::start(&relay_at(address, &[origin.addr()], ""));
        let mut client = connect(&gateway);
        client.send("hello");
        client.expect("hello");
        let mut out = client.clone_writer();
        let writer = std::thread::spawn(move || {
            out.send(pattern::bytes(LENGTH));
            out.half_close();
        });
        let mut checker = Checker::default();
        client.body(Framing::UntilClose, &mut |chunk| checker.push(chunk)).expect("the whole echo");
        writer.join().expect("the writer");
        assert_eq!(checker.len(), LENGTH as u64);
        wait::until_true("the connection to be counted", || active(&gateway, "db") == 0.0);
        let sum = |name: &str, labels| gateway.metrics().sum(name, labels);
        for side in ["received", "sent"] {
            let name = format!("gateway_l4_route_{side}_bytes_total");
            assert_eq!(sum(&name, &[("route", "db")]), (LENGTH + 5) as f64, "{name}");
        }
        assert_eq!(sum("gateway_listener_response_flags_total", &[("listener", "pg")]), 0.0);
    }
}

#[test]
fn a_server_may_speak_first_and_each_side_may_end_its_direction_alone() {
    let origin = Script::start(|mut conn| {
        conn.send("ready\n");
        conn.expect("question");
        assert_eq!(conn.end(), End::Closed);
        conn.send("answer");
    });
    let gateway = Gateway::start(&relay_to(&[origin.addr()], ""));
    let mut client = connect(&gateway);
    client.expect("ready\n");
    client.send("question");
    client.half_close();
    client.expect("answer");
    assert_eq!(client.end(), End::Closed);

    let origin = Script::start(|mut conn| {
        conn.send("that is all");
        conn.half_close();
        conn.expect("but I go on");
        assert_eq!(conn.end(), End::Closed);
    });
    let gateway = Gateway::start(&relay_to(&[origin.addr()], ""));
    let mut client = connect(&gateway);
    client.expect("that is all");
    assert_eq!(client.end(), End::Closed);
    client.send("but I go on");
    client.half_close();
    origin.wait_finished(1);
}

#[test]
fn a_cut_is_passed_on_as_a_cut() {
    let origin = Script::start(|mut conn| {
        conn.send("half a str");
        conn.expect("go");
        conn.reset();
    });
    let gateway = Gateway::start(&relay_to(&[origin.addr()], ""));
    let mut client = connect(&gateway);
    client.expect("half a str");
    client.send("go");
    assert_eq!(client.end(), End::Reset);
    let flags = |flag| gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", flag)]);
    wait::until_true("the origin's reset to be counted", || flags("UC") == 1.0);

    let origin = Script::start(|mut conn| {
        conn.expect("half a str");
        assert_eq!(conn.end(), End::Reset);
    });
    let gateway = Gateway::start(&relay_to(&[origin.addr()], ""));
    let mut client = connect(&gateway);
    client.send("half a str");
    wait::until_true("the origin to be connected", || origin.connections() == 1);
    client.reset();
    origin.wait_finished(1);
    let flags = |flag| gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", flag)]);
    wait::until_true("the client's reset to be counted", || flags("DC") == 1.0);
}

#[test]
fn connections_are_shared_out_by_weight_and_a_reload_moves_new_ones_only() {
    const CONNECTIONS: u32 = 1000;
    let (a, b) = (named("a"), named("b"));
    let config = |a_weight: u32, b_weight: u32| {
        Config::new()
            .listener("pg", "protocol = 'tcp'\nlimits = { connections_per_source = 5000 }")
            .cluster("a", &[a.addr()], "")
            .cluster("b", &[b.addr()], "")
            .l4_route(
                "shift",
                &format!("clusters = [{{ name = 'a', weight = {a_weight} }}, {{ name = 'b', weight = {b_weight} }}]"),
            )
    };
    let mut gateway = Gateway::start(&config(80, 20));
    let mut kept: Vec<(Conn, String)> = Vec::new();
    let mut counts: HashMap<String, u32> = HashMap::new();
    for at in 0..CONNECTIONS {
        let mut client = connect(&gateway);
        let name = client.read_some(1);
        *counts.entry(name.clone()).or_default() += 1;
        if at % 50 == 0 {
            kept.push((client, name));
        }
    }
    // Five standard deviations of a binomial distribution: once in two million runs it is outside.
    let deviation = (f64::from(CONNECTIONS) * 0.8 * 0.2).sqrt();
    assert!((f64::from(counts["a"]) - 800.0).abs() < 5.0 * deviation, "{counts:?}");

    gateway.reload(&config(0, 100));
    for _ in 0..100 {
        assert_eq!(connect(&gateway).read_some(1), "b");
    }
    for (client, name) in &mut kept {
        client.send("still there?");
        client.expect("still there?");
        assert!(name == "a" || name == "b");
    }
    assert!(kept.iter().any(|(_, name)| name == "a"));
}

#[test]
fn an_endpoint_that_refuses_is_passed_over_for_another() {
    let (closed, origin) = (HeldPort::new(), named("up"));
    let gateway = Gateway::start(&relay_to(&[closed.addr(), origin.addr()], ""));
    for _ in 0..10 {
        assert_eq!(connect(&gateway).read_some(2), "up");
    }
    let failures = gateway.metrics().sum("gateway_cluster_connect_failures_total", &[("cluster", "db")]);
    assert!(failures >= 4.0, "half of the connections tried the closed port first: {failures}");

    let gateway = Gateway::start(&relay_to(&[closed.addr(), origin.addr()], "connect_attempts = 1"));
    let outcomes: Vec<bool> = (0..10).map(|_| reaches(gateway.addr("pg"), "up")).collect();
    assert!(outcomes.contains(&true) && outcomes.contains(&false), "one attempt is one attempt: {outcomes:?}");
}

#[test]
fn without_an_endpoint_or_a_route_a_connection_is_reset_and_says_why_in_the_log() {
    let (dir, closed) = (tempfile::tempdir().expect("a directory"), HeldPort::new());
    let log = dir.path().join("log");
    let config = Config::new()
        .tables(&format!("[access_log]\npath = '{}'\nformat = 'json'", log.display()))
        .listener("pg", "protocol = 'tcp'")
        .listener("nobody", "protocol = 'tcp'")
        .listener("stray", "protocol = 'tcp'")
        .cluster("db", &[closed.addr()], "")
        .cluster("empty", &[], "")
        .l4_route("db", "listeners = ['pg']\ncluster = 'db'")
        .l4_route("nobody", "listeners = ['nobody']\ncluster = 'empty'");
    let gateway = Gateway::start(&config);
    for (listener, flags, details) in [
        ("pg", "UF", "upstream_reset_before_response_started{remote_connection_failure}"),
        ("nobody", "UH", "no_healthy_upstream"),
        ("stray", "NR", "route_not_found"),
    ] {
        assert!(is_reset(gateway.addr(listener)), "{listener}");
        let line = wait::until("the log line", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            lines.into_iter().find(|line| line["listener"] == listener)
        });
        assert_eq!((&line["response_flags"], &line["response_code_details"]), (&flags.into(), &details.into()));
        assert_eq!(line["response_code"], 0);
    }
}

#[test]
fn a_log_line_has_the_bytes_the_route_and_both_ends() {
    let (dir, origin) = (tempfile::tempdir().expect("a directory"), named("up"));
    let log = dir.path().join("log");
    let config =
        relay_to(&[origin.addr()], "").tables(&format!("[access_log]\npath = '{}'\nformat = 'json'", log.display()));
    let gateway = Gateway::start(&config);
    let mut client = connect(&gateway);
    client.send("12345");
    client.expect("up12345");
    let peer = client.local_addr();
    client.half_close();
    assert_eq!(client.end(), End::Closed);
    let line = wait::until("the log line", || {
        serde_json::from_str::<serde_json::Value>(&std::fs::read_to_string(&log).unwrap_or_default()).ok()
    });
    for (member, value) in [
        ("method", serde_json::Value::Null),
        ("bytes_received", 5.into()),
        ("bytes_sent", 7.into()),
        ("response_flags", "-".into()),
        ("route_name", "db".into()),
        ("upstream_cluster", "db".into()),
        ("upstream_host", origin.addr().to_string().into()),
        ("downstream_remote_address", peer.to_string().into()),
        ("downstream_local_address", gateway.addr("pg").to_string().into()),
        ("listener", "pg".into()),
    ] {
        assert_eq!(line[member], value, "{member} of {line}");
    }
}

#[test]
fn silence_ends_at_the_idle_time_and_bytes_either_way_renew_it() {
    let origin = Script::start(|mut conn| {
        for _ in 0..4 {
            conn.send(".");
            conn.expect("!");
        }
        assert_eq!(conn.end(), End::Reset);
    });
    let gateway = Gateway::start(&relay_to(&[origin.addr()], "idle_timeout = '1s'"));
    let (mut client, begun) = (connect(&gateway), std::time::Instant::now());
    for _ in 0..4 {
        client.expect(".");
        // The silence that the idle time allows is what this test is about.
        std::thread::sleep(Duration::from_millis(400));
        client.send("!");
    }
    assert!(begun.elapsed() > Duration::from_millis(1500));
    assert_eq!(client.end(), End::Reset);
    // A client has its end before the gateway has finished its books.
    let flags = || gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", "SI")]);
    wait::until_true("the connection to be counted under its flag", || flags() == 1.0);
}

#[test]
fn an_open_connection_outlives_its_route_its_listener_and_is_drained_last() {
    let origin = named("up");
    let config = relay_to(&[origin.addr()], "").gateway("drain_timeout = '20s'");
    let mut gateway = Gateway::start(&config);
    let mut client = connect(&gateway);
    client.expect("up");
    let alive = |client: &mut Conn| {
        client.send("ping");
        client.expect("ping");
    };
    gateway.reload(
        &Config::new().gateway("drain_timeout = '20s'").listener("web", "").route("r", "respond = { status = 204 }"),
    );
    alive(&mut client);
    gateway.terminate();
    gateway.process.stderr.find("the drain to begin", |line| line.contains("drain"));
    alive(&mut client);
    client.half_close();
    assert_eq!(client.end(), End::Closed);
    assert!(gateway.wait_exit(wait::DEADLINE).success());
}

#[test]
fn the_clusters_limit_of_connections_counts_tunnels() {
    let origin = named("up");
    let config = Config::new()
        .gateway("workers = 1")
        .listener("pg", "protocol = 'tcp'")
        .cluster("db", &[origin.addr()], "max_connections = 1")
        .l4_route("db", "cluster = 'db'");
    let gateway = Gateway::start(&config);
    let mut first = connect(&gateway);
    first.expect("up");
    assert!(is_reset(gateway.addr("pg")));
    assert_eq!(gateway.metrics().sum("gateway_cluster_pool_overflow_total", &[("cluster", "db")]), 1.0);
    first.half_close();
    assert_eq!(first.end(), End::Closed);
    wait::until_true("the place to be free again", || reaches(gateway.addr("pg"), "up"));
}

#[test]
fn tls_is_terminated_and_the_plaintext_relayed_with_both_ends_intact() {
    let store = Store::new();
    let leaf = store.issue("site", &["a.test", "b.test"]);
    let (a, b) = (named("a"), named("b"));
    let config = Config::new()
        .certificate("site", store.path())
        .listener("pg", "protocol = 'tcp'\ntls = { certificates = ['site'] }")
        .cluster("a", &[a.addr()], "")
        .cluster("b", &[b.addr()], "")
        .l4_route("a", "listeners = ['pg']\nserver_names = ['a.test']\ncluster = 'a'")
        .l4_route("rest", "listeners = ['pg']\ncluster = 'b'");
    let gateway = Gateway::start(&config);
    let tls = Arc::new(TlsClient::new(&store.authority));
    for (name, expected) in [("a.test", "a"), ("b.test", "b")] {
        let (mut client, handshake) = tls.connect(gateway.addr("pg"), name).expect("a handshake");
        assert!(handshake.certificate == leaf.der);
        client.expect(expected);
        client.send("over TLS");
        client.expect("over TLS");
        client.half_close();
        assert_eq!(client.end(), End::Closed);
    }
}

#[test]
fn endpoints_with_tls_get_it_and_no_protocol_of_http_is_offered() {
    let store = Store::new();
    // This server ends a handshake that offers protocols and not this one.
    let server = TlsServer::new(&store.issue("db", &["db.test"]), &["postgresql"]);
    let origin = Script::start_tls(server, |mut conn| {
        conn.send("ready");
        conn.expect("query");
        assert_eq!(conn.end(), End::Closed);
        conn.send("rows");
        conn.half_close();
    });
    let tls = format!("tls = {{ server_name = 'db.test', ca = '{}/ca.pem' }}", store.path().display());
    let config = Config::new()
        .listener("pg", "protocol = 'tcp'")
        .cluster("db", &[origin.addr()], &tls)
        .l4_route("db", "cluster = 'db'");
    let gateway = Gateway::start(&config);
    let mut client = connect(&gateway);
    client.expect("ready");
    client.send("query");
    client.half_close();
    client.expect("rows");
    assert_eq!(client.end(), End::Closed);
}
