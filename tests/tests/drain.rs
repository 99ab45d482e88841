//! SIGTERM: what was accepted is answered, nothing new is, and the process ends in time with status 0.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use gateway_tests::client;
use gateway_tests::load::{Failure, Load, Mode, Report};
use gateway_tests::prelude::*;
use gateway_tests::stream::Stream;

/// Drains in the middle of a load, and accounts for what the origin saw and the clients got.
fn drain_under_load(mode: Mode) -> Report {
    let origin = Origin::start("a");
    let mut gateway = Gateway::in_front_of(origin.addr());
    let load = Load { addr: gateway.addr("web"), clients: 6, requests: 1_000_000, mode, path: "/bytes/3000".into() };
    let running = load.start();
    running.wait_answered(1000);
    gateway.terminate();
    let status = gateway.wait_exit(Duration::from_secs(10));
    assert!(status.success(), "{status}");
    let report = running.finish();
    assert_eq!(report.answered, origin.requests(), "a request that an origin served was not answered: {report:?}");
    assert_eq!(report.failed(&Failure::Refused), 6, "each client ends by being refused a connection: {report:?}");
    report
}

/// Failures of requests that the gateway cannot have read: at most one for each client, whose request crossed the
/// closing of an idle connection on its way.
fn only_crossings(report: &Report) {
    let crossings = [Failure::Unanswered, Failure::NoConnection(ErrorKind::ConnectionReset)];
    let crossed: u64 = crossings.iter().map(|failure| report.failed(failure)).sum();
    assert_eq!(report.sent, report.answered + crossed + report.failed(&Failure::Refused), "{report:?}");
    assert!(crossed <= 6, "{report:?}");
}

#[test]
fn kept_connections_are_told_to_end_and_lose_no_request() {
    let report = drain_under_load(Mode::KeepAlive);
    only_crossings(&report);
    assert!(report.closed_politely > 0, "busy connections should have ended with `connection: close`: {report:?}");
}

#[test]
fn new_connections_are_answered_or_refused() {
    let report = drain_under_load(Mode::NewConnections);
    only_crossings(&report);
    // A closing listener is deaf to new connections before it closes, so none is left in its queue.
    assert_eq!(report.failed(&Failure::NoConnection(ErrorKind::ConnectionReset)), 0, "{report:?}");
}

#[test]
fn requests_in_flight_are_finished() {
    let origin = Origin::start("a");
    let mut gateway = Gateway::in_front_of(origin.addr());
    let addr = gateway.addr("web");
    let mut idle = gateway.connect();
    assert_eq!(idle.get("/").status, 200);
    let mut waiting: Vec<Conn> = (0..20).map(|_| gateway.connect()).collect();
    for client in &mut waiting {
        client.send(client::request("GET", "/hold", ""));
    }
    let mut uploading = gateway.connect();
    uploading.send(client::request("POST", "/echo", "content-length: 10\r\n") + "hello");
    origin.wait_held(20);
    wait::until_true("the upload to reach the origin", || origin.open() == 22 || origin.connections() >= 21);

    gateway.terminate();
    wait::until_true("new connections to be refused", || Stream::connect(addr).is_err());
    assert_eq!(idle.end(), End::Closed, "an idle connection is closed at once");
    assert!(gateway.process.exited().is_none(), "it must wait for requests in flight");
    origin.release();
    for client in &mut waiting {
        let response = client.response();
        assert_eq!(response.text(), "released");
        assert!(response.closes());
        assert_eq!(client.end(), End::Closed);
    }
    uploading.send("world");
    let response = uploading.response();
    assert_eq!((response.text(), response.closes()), ("helloworld", true));
    assert!(gateway.wait_exit(Duration::from_secs(5)).success());
}

#[test]
fn a_request_that_outlasts_the_drain_is_cut_and_the_status_is_still_0() {
    let origin = Origin::start("a");
    let mut gateway = Gateway::start(&Config::proxy_to(origin.addr()).gateway("drain_timeout = '500ms'"));
    let mut client = gateway.connect();
    client.send(client::request("GET", "/hold", ""));
    origin.wait_held(1);
    let start = Instant::now();
    gateway.terminate();
    assert!(gateway.wait_exit(Duration::from_secs(10)).success());
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(450) && took < Duration::from_secs(5), "took {took:?}");
    client.end();
}

#[test]
fn an_idle_gateway_ends_at_once() {
    let origin = Origin::start("a");
    let mut gateway = Gateway::in_front_of(origin.addr());
    assert_eq!(gateway.get("/").status, 200);
    let start = Instant::now();
    gateway.terminate();
    assert!(gateway.wait_exit(Duration::from_secs(10)).success());
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
}

#[test]
fn readiness_fails_while_draining_and_health_does_not() {
    let origin = Origin::start("a");
    let mut gateway = Gateway::in_front_of(origin.addr());
    assert_eq!((gateway.admin_get("/ready").status, gateway.admin_get("/healthz").status), (200, 200));
    let mut client = gateway.connect();
    client.send(client::request("GET", "/hold", ""));
    origin.wait_held(1);
    gateway.terminate();
    wait::until_true("/ready to fail", || gateway.admin_get("/ready").status == 503);
    assert_eq!(gateway.admin_get("/healthz").status, 200);
    origin.release();
    assert_eq!(client.response().text(), "released");
    assert!(gateway.wait_exit(Duration::from_secs(5)).success());
}
