//! Metrics add up to what clients and origins counted.

use gateway_tests::client;
use gateway_tests::load::{Load, Mode};
use gateway_tests::ports::HeldPort;
use gateway_tests::prelude::*;

#[test]
fn sums_over_all_workers_equal_what_the_clients_counted() {
    let (origin, nobody) = (Origin::start("a"), HeldPort::new());
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .cluster("nobody", &[nobody.addr()], "")
        .route("all", "cluster = 'origin'")
        .route("nobody", "match = { path_prefix = '/nobody' }\ncluster = 'nobody'\nretry = { attempts = 0 }");
    let gateway = Gateway::start(&config);
    let load = |mode, path: &str| {
        Load { addr: gateway.addr("web"), clients: 8, requests: 50, mode, path: path.into() }.start().finish()
    };
    assert_eq!(load(Mode::KeepAlive, "/bytes/1000").answered, 400);
    assert_eq!(load(Mode::NewConnections, "/bytes/10").answered, 400);
    load(Mode::KeepAlive, "/status/404");
    load(Mode::KeepAlive, "/nobody");

    // The client has its answer before the gateway has finished its books.
    wait::until_true("the last request to be counted", || {
        gateway.metrics().sum("gateway_listener_requests_total", &[]) == 1600.0
    });
    let metrics = gateway.metrics();
    let requests =
        |name: &str, label: &str, value: &str, code: &str| metrics.sum(name, &[(label, value), ("code", code)]);
    for (name, label, value, code, count) in [
        ("gateway_listener_requests_total", "listener", "web", "2xx", 800.0),
        ("gateway_listener_requests_total", "listener", "web", "4xx", 400.0),
        ("gateway_listener_requests_total", "listener", "web", "5xx", 400.0),
        ("gateway_route_requests_total", "route", "all", "2xx", 800.0),
        ("gateway_route_requests_total", "route", "all", "4xx", 400.0),
        ("gateway_route_requests_total", "route", "nobody", "5xx", 400.0),
        ("gateway_cluster_requests_total", "cluster", "origin", "2xx", 800.0),
    ] {
        assert_eq!(requests(name, label, value, code), count, "{name} {value} {code}");
    }
    assert_eq!(metrics.sum("gateway_cluster_requests_total", &[("cluster", "origin")]), origin.requests() as f64);
    // 8 kept + 400 new + 8 kept + 8 kept.
    assert_eq!(metrics.sum("gateway_listener_connections_total", &[("listener", "web")]), 424.0);
    let local_reply =
        "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
    let sent = 400 * (1000 + 10 + local_reply.len());
    assert_eq!(metrics.sum("gateway_listener_sent_bytes_total", &[("listener", "web")]), sent as f64);
    assert_eq!(metrics.sum("gateway_cluster_connections_total", &[("cluster", "origin")]), origin.connections() as f64);
    assert_eq!(metrics.sum("gateway_cluster_connect_failures_total", &[("cluster", "nobody")]), 400.0);
    assert_eq!(metrics.sum("gateway_listener_local_replies_total", &[("listener", "web")]), 400.0);
    assert_eq!(metrics.sum("gateway_route_request_duration_seconds_count", &[("route", "all")]), 1200.0);
}

#[test]
fn body_bytes_are_counted_both_ways() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let mut client = gateway.connect();
    client.send_pattern("/sink", 123_456, gateway_tests::conn::Framing::Chunked);
    assert_eq!(client.response().text(), "123456");
    client.send(client::request("GET", "/chunked/54321", ""));
    assert_eq!(client.pattern_response().1, 54_321);
    let total = |name: &str| gateway.metrics().sum(name, &[("listener", "web")]);
    wait::until_true("the bytes to be counted", || total("gateway_listener_sent_bytes_total") == 54_321.0 + 6.0);
    assert_eq!(total("gateway_listener_received_bytes_total"), 123_456.0);
}

#[test]
fn gauges_return_to_zero() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    let gauge = |name: &str| gateway.metrics().sum(name, &[("listener", "web")]);
    let mut clients: Vec<Conn> = (0..10).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send(client::request("GET", "/hold", ""));
    }
    origin.wait_held(10);
    assert_eq!(gauge("gateway_listener_requests_active"), 10.0);
    assert_eq!(gauge("gateway_listener_connections_active"), 10.0);
    origin.release();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    wait::until_true("requests to be over", || gauge("gateway_listener_requests_active") == 0.0);
    drop(clients);
    wait::until_true("connections to be over", || gauge("gateway_listener_connections_active") == 0.0);
}

#[test]
fn counters_survive_a_reload() {
    let origin = Origin::start("a");
    let config = Config::proxy_to(origin.addr());
    let mut gateway = Gateway::start(&config);
    assert_eq!(gateway.get("/").status, 200);
    gateway.reload(&config.route("more", "match = { path = '/more' }\nrespond = { status = 204 }"));
    assert_eq!(gateway.get("/").status, 200);
    let total = || gateway.metrics().sum("gateway_listener_requests_total", &[("listener", "web"), ("code", "2xx")]);
    wait::until_true("both requests to be counted", || total() == 2.0);
    assert_eq!(gateway.metrics().sum("gateway_config_reloads_total", &[("result", "ok")]), 1.0);
}

#[test]
fn the_text_is_well_formed() {
    let origin = Origin::start("a");
    let gateway = Gateway::in_front_of(origin.addr());
    assert_eq!(gateway.get("/").status, 200);
    let response = gateway.admin_get("/metrics");
    assert!(response.header("content-type").is_some_and(|value| value.starts_with("text/plain; version=0.0.4")));
    let (mut helps, mut types) = (0, 0);
    for line in response.text().lines() {
        helps += usize::from(line.starts_with("# HELP gateway_"));
        types += usize::from(line.starts_with("# TYPE gateway_"));
    }
    assert!(helps > 10 && helps == types, "{helps} HELP lines, {types} TYPE lines");
    assert_eq!(gateway.metrics().sum("gateway_build_info", &[]), 1.0);
}
