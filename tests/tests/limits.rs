//! What one client may take: time, bytes, connections.

use std::time::{Duration, Instant};

use gateway_tests::client;
use gateway_tests::conn::Framing;
use gateway_tests::prelude::*;
use gateway_tests::stream::Stream;

/// A timeout under test. Short, to be quick; the tests want its effect not before it, and well before the default.
const SHORT: Duration = Duration::from_millis(400);

/// Any other timeout of the gateway is at least this long: what happens before it is the short timeout's doing.
const DEFAULTS: Duration = Duration::from_secs(9);

fn limited(origin: &Origin, limits: &str) -> Gateway {
    Gateway::start(
        &Config::new()
            .listener("web", &format!("limits = {{ {limits} }}"))
            .cluster("origin", &[origin.addr()], "")
            .route("all", "cluster = 'origin'"),
    )
}

/// Runs `wait`, which must take about [`SHORT`].
fn takes_short<T>(wait: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = wait();
    let took = start.elapsed();
    // Timers may be coarse, but not so coarse.
    assert!(took >= SHORT * 3 / 4 && took < DEFAULTS, "took {took:?}");
    result
}

#[test]
fn a_head_that_does_not_come_to_its_end_is_answered_408() {
    let origin = Origin::start("a");
    let gateway = limited(&origin, "header_timeout = '400ms'");
    for part in ["G", "GET / HTTP/1.1\r\nhost: a\r\nx-slow: "] {
        let mut client = gateway.connect();
        client.send(part);
        let response = takes_short(|| client.response());
        assert_eq!(response.status, 408);
        assert!(response.closes());
        client.end();
    }
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_head_that_drips_does_not_outlast_its_time() {
    let origin = Origin::start("a");
    let gateway = limited(&origin, "header_timeout = '400ms'");
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-slow: ");
    client.patience(Duration::from_millis(20));
    let response = takes_short(|| {
        wait::until("the gateway to lose its patience", || {
            client.try_send("x");
            match client.try_response_to("GET") {
                Err(ReadError::TimedOut) => None,
                other => Some(other.expect("a response")),
            }
        })
    });
    assert_eq!(response.status, 408);
}

#[test]
fn the_second_head_of_a_connection_is_timed_too() {
    let origin = Origin::start("a");
    let gateway = limited(&origin, "header_timeout = '400ms'");
    let mut client = gateway.connect();
    assert_eq!(client.get("/").status, 200);
    client.send("GET / HT");
    assert_eq!(takes_short(|| client.response()).status, 408);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let origin = Origin::start("a");
    let gateway = limited(&origin, "idle_timeout = '400ms'");
    let mut fresh = gateway.connect();
    assert_eq!(takes_short(|| fresh.end()), End::Closed, "a connection that never sent anything");
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/").status, 200);
    assert_eq!(takes_short(|| kept.end()), End::Closed, "a connection that has been answered");
}

#[test]
fn a_body_that_stops_coming_ends_the_request() {
    let origin = Origin::start("a");
    let gateway = limited(&origin, "idle_timeout = '400ms'");
    let mut client = gateway.connect();
    client.send(client::request("POST", "/echo", "content-length: 10\r\n") + "hello");
    assert_eq!(takes_short(|| client.response()).status, 408);
    client.end();
    wait::until_true("the origin's connection to be closed", || origin.open() == 0);
    assert_eq!(origin.requests(), 0, "the origin must not take half a body for a request");
}

#[test]
fn a_body_over_its_limit_is_refused_before_an_origin_is_asked() {
    let origin = Origin::start("a");
    let gateway = limited(&origin, "body_bytes = '1KiB'");
    let mut client = gateway.connect();
    client.send(client::request("POST", "/echo", "content-length: 1025\r\n"));
    let response = client.response();
    assert_eq!(response.status, 413);
    assert!(response.closes());
    client.end();
    assert_eq!(origin.connections(), 0);
    assert_eq!(gateway.connect().request("POST", "/sink", "", &gateway_tests::pattern::bytes(1024)).text(), "1024");
}

#[test]
fn a_chunked_body_is_cut_at_its_limit() {
    let origin = Origin::start("a");
    let gateway = limited(&origin, "body_bytes = '64KiB'");
    let mut client = gateway.connect();
    client.send(client::request("POST", "/echo", "transfer-encoding: chunked\r\n"));
    client.try_send_pattern_body(1_000_000, true);
    assert_eq!(client.response().status, 413);
    client.end();
    wait::until_true("the origin's connection to be closed", || origin.open() == 0);
    assert_eq!(origin.requests(), 0);
    let mut client = gateway.connect();
    client.send_pattern("/sink", 64 * 1024, Framing::Chunked);
    assert_eq!(client.response().text(), "65536");
}

#[test]
fn a_route_can_allow_longer_bodies_than_its_listener() {
    let origin = Origin::start("a");
    let config = Config::new()
        .listener("web", "limits = { body_bytes = '1KiB' }")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'")
        .route("upload", "match = { path_prefix = '/sink' }\ncluster = 'origin'\nbody_bytes = '1MiB'");
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    client.send_pattern("/sink", 1 << 20, Framing::Length(0));
    assert_eq!(client.response().text(), "1048576");
    client.send(client::request("POST", "/echo", "content-length: 2000\r\n"));
    assert_eq!(client.response().status, 413);
}

#[test]
fn a_listener_takes_no_more_connections_than_its_limit() {
    connection_limit("connections = 5");
}

#[test]
fn one_source_gets_no_more_connections_than_its_limit() {
    connection_limit("connections_per_source = 5");
}

/// With a limit of 5, shared by all workers, the sixth connection is closed at once; when one ends, another may come.
fn connection_limit(limit: &str) {
    let origin = Origin::start("a");
    let gateway = limited(&origin, limit);
    let mut held: Vec<Conn> = (0..5).map(|_| gateway.connect()).collect();
    for client in &mut held {
        assert_eq!(client.get("/").status, 200);
    }
    for _ in 0..10 {
        // The reset may come before the connection is ready for use.
        if let Ok(refused) = Stream::connect(gateway.addr("web")) {
            Conn::new(refused, 0).end();
        }
    }
    for client in &mut held {
        assert_eq!(client.get("/").status, 200, "those within the limit are not touched");
    }
    drop(held.pop());
    wait::until("room for another connection", || {
        let mut client = Conn::new(Stream::connect(gateway.addr("web")).ok()?, 0);
        client.try_send(client::request("GET", "/", ""));
        client.try_response_to("GET").ok()
    });
}
