//! Connections to origins: names, limits, times.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gateway_tests::client;
use gateway_tests::ports::StuckPort;
use gateway_tests::prelude::*;

#[test]
fn an_endpoint_can_be_a_name() {
    // On some hosts the name stands for [::1] too, on none for that only.
    let origin = Origin::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), "a");
    let config = Config::new()
        .listener("web", "")
        .tables(&format!("[[cluster]]\nname = 'named'\nendpoints = ['localhost:{}']", origin.addr().port()))
        .route("all", "cluster = 'named'");
    let gateway = Gateway::start(&config);
    // The name may stand for [::1] too, where nobody listens: every other request may fail, not all.
    wait::until("an answer", || Some(gateway.get("/")).filter(|response| response.status == 200));
}

#[test]
fn a_name_that_does_not_resolve_harms_its_own_cluster_only() {
    let origin = Origin::start("a");
    // RFC 6761 §6.4: never resolves.
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .tables("[[cluster]]\nname = 'lost'\nendpoints = ['nowhere.invalid:80']")
        .route("all", "cluster = 'origin'")
        .route("lost", "match = { path_prefix = '/lost' }\ncluster = 'lost'");
    let gateway = Gateway::start(&config);
    let response = gateway.get("/lost");
    assert_eq!((response.status, response.text()), (503, "no healthy upstream"));
    assert_eq!(gateway.get("/").text(), "a");
}

#[test]
fn a_connection_that_cannot_be_made_in_time_is_503_and_others_do_not_wait_for_it() {
    let (origin, stuck) = (Origin::start("a"), StuckPort::new());
    let config = Config::new()
        .gateway("workers = 1")
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .cluster("stuck", &[stuck.addr()], "connect_timeout = '700ms'")
        .route("all", "cluster = 'origin'")
        .route("stuck", "match = { path_prefix = '/stuck' }\ncluster = 'stuck'\nretry = { attempts = 0 }");
    let gateway = Gateway::start(&config);
    let mut waiting = gateway.connect();
    let begun = Instant::now();
    waiting.send(client::request("GET", "/stuck", ""));
    let mut other = gateway.connect();
    for _ in 0..20 {
        assert_eq!(other.get("/").text(), "a");
    }
    assert!(waiting.is_idle(), "answered after {:?}", begun.elapsed());
    let response = waiting.response();
    assert_eq!(
        (response.status, response.text()),
        (503, "upstream connect error or disconnect/reset before headers. reset reason: connection timeout")
    );
    assert!(begun.elapsed() >= Duration::from_millis(600), "after {:?}", begun.elapsed());
}

#[test]
fn requests_over_the_connection_limit_are_503_overflow_where_none_may_wait() {
    let origin = Origin::start("a");
    let config = Config::new()
        .gateway("workers = 1")
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "max_connections = 2\nmax_pending_requests = 0")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    let mut held = [gateway.connect(), gateway.connect()];
    for client in &mut held {
        client.send(client::request("GET", "/hold", ""));
    }
    origin.wait_held(2);
    let response = gateway.get("/");
    assert_eq!(
        (response.status, response.text()),
        (503, "upstream connect error or disconnect/reset before headers. reset reason: overflow")
    );
    assert_eq!(response.header("x-envoy-overloaded"), Some("true"));
    origin.release();
    for client in &mut held {
        assert_eq!(client.response().text(), "released");
    }
    assert_eq!(gateway.get("/").text(), "a");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn idle_connections_to_an_origin_are_closed_after_their_time() {
    let origin = Origin::start("a");
    let config = Config::new()
        .gateway("workers = 1")
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "idle_timeout = '300ms'")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    assert_eq!(gateway.get("/").status, 200);
    wait::until_true("the idle connection to be closed", || origin.open() == 0);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(origin.connections(), 2);
}
