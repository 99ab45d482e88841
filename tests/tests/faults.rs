//! Injected faults on real traffic.

use std::time::{Duration, Instant};

use gateway_tests::every_pair;
use gateway_tests::prelude::*;

/// A gateway in front of `origin` whose one route has this fault.
fn start(pair: Pair, origin: &Origin, fault: &str) -> Gateway {
    let cluster = format!("protocol = '{}'", pair.origin.name());
    let config = Config::new()
        .listener("web", "trusted_proxies = ['127.0.0.1', '::1']")
        .cluster("origin", &[origin.addr()], &cluster)
        .route("all", &format!("cluster = 'origin'\nfilters = [{{ fault = {{ name = 'f', {fault} }} }}]"));
    Gateway::start(&config)
}

every_pair! {
    a_request_is_aborted_as_envoy_aborts_it
    a_request_is_delayed_and_then_served
    a_delayed_body_arrives_whole
    a_request_says_itself_what_happens_to_it
    grpc_calls_are_aborted_with_their_status
    a_client_that_does_not_wait_is_not_waited_for
}

const DELAY: Duration = Duration::from_millis(300);

/// Takes at least the delay; timers may be coarse.
fn is_delayed<T>(ask: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = ask();
    let took = start.elapsed();
    assert!(took >= DELAY * 9 / 10 && took < Duration::from_secs(10), "{took:?}");
    result
}

fn results(gateway: &Gateway) -> [f64; 3] {
    let metrics = gateway.metrics();
    ["delayed", "aborted", "overflow"]
        .map(|result| metrics.sum("gateway_fault_requests_total", &[("fault", "f"), ("result", result)]))
}

fn flags(gateway: &Gateway, flag: &str) -> f64 {
    gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", flag)])
}

fn a_request_is_aborted_as_envoy_aborts_it(pair: Pair) {
    let origin = Origin::start("a");
    let gateway =
        start(pair, &origin, "abort = { percent = 100, status = 418 }, match = { headers = { x-test = '1' } }");
    let mut client = pair.connect(&gateway);
    for _ in 0..2 {
        let response = client.ask("GET", "/", &[("x-test", "1")]);
        assert_eq!((response.status, response.text()), (418, "fault filter abort"));
        assert_eq!(client.get("/").text(), "a", "it is not for this one");
    }
    assert_eq!((origin.requests(), results(&gateway)), (2, [0.0, 2.0, 0.0]));
    wait::until_true("the flags", || flags(&gateway, "FI") == 2.0);
    assert_eq!(flags(&gateway, "DI"), 0.0);
}

fn a_request_is_delayed_and_then_served(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, &origin, "delay = { percent = 100, for = '300ms' }");
    let mut client = pair.connect(&gateway);
    assert_eq!(is_delayed(|| client.get("/")).text(), "a");
    assert_eq!(is_delayed(|| client.get("/")).text(), "a", "the connection serves on");
    assert_eq!(results(&gateway), [2.0, 0.0, 0.0]);
    wait::until_true("the flags", || flags(&gateway, "DI") == 2.0);
    assert_eq!(gateway.metrics().sum("gateway_fault_requests_active", &[("fault", "f")]), 0.0);
}

fn a_delayed_body_arrives_whole(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, &origin, "delay = { percent = 100, for = '300ms' }");
    let mut client = pair.connect(&gateway);
    let framing = gateway_tests::conn::Framing::Chunked;
    assert_eq!(is_delayed(|| client.post_pattern("/sink", 1_000_000, framing)).text(), "1000000");
}

fn a_request_says_itself_what_happens_to_it(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, &origin, "delay = { percent = 100 }, abort = { percent = 100 }, headers = true");
    let mut client = pair.connect(&gateway);
    assert_eq!(client.get("/").text(), "a");
    assert_eq!(is_delayed(|| client.ask("GET", "/", &[("x-envoy-fault-delay-request", "300")])).text(), "a");
    assert_eq!(client.ask("GET", "/", &[("x-envoy-fault-abort-request", "503")]).status, 503);
    let both = [("x-envoy-fault-delay-request", "300"), ("x-envoy-fault-abort-request", "404")];
    assert_eq!(is_delayed(|| client.ask("GET", "/", &both)).status, 404);
    let none = [("x-envoy-fault-abort-request", "503"), ("x-envoy-fault-abort-request-percentage", "0")];
    assert_eq!(client.ask("GET", "/", &none).status, 200);
    assert_eq!(results(&gateway), [2.0, 2.0, 0.0]);
    let gateway = start(pair, &origin, "abort = { percent = 0, status = 503 }");
    let response = pair.connect(&gateway).ask("GET", "/", &[("x-envoy-fault-abort-request", "503")]);
    assert_eq!(response.status, 200, "nobody is asked");
}

fn grpc_calls_are_aborted_with_their_status(pair: Pair) {
    let origin = Origin::start("a");
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    for (abort, status, http) in [("status = 503", "14", 503), ("grpc_status = 8", "8", 429)] {
        let gateway = start(pair, &origin, &format!("abort = {{ percent = 100, {abort} }}"));
        let mut client = pair.connect(&gateway);
        let response = client.ask("GET", "/", &grpc);
        let said = ["content-type", "grpc-status", "grpc-message"].map(|name| response.header(name));
        assert_eq!(said, [Some("application/grpc"), Some(status), Some("fault filter abort")]);
        assert_eq!(response.status, 200);
        assert_eq!(client.get("/").status, http, "who does not speak gRPC gets HTTP");
    }
}

fn a_client_that_does_not_wait_is_not_waited_for(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, &origin, "delay = { percent = 100, for = '1h' }");
    let active = || gateway.metrics().sum("gateway_fault_requests_active", &[("fault", "f")]);
    let is_delayed = || wait::until_true("the request to be delayed", || active() == 1.0);
    match pair.connect(&gateway) {
        AnyClient::H1(mut client) => {
            client.send(gateway_tests::client::request("GET", "/", ""));
            is_delayed();
            client.reset();
        }
        AnyClient::H2(client) => {
            let stream = client.start("GET", "/", &[], true);
            is_delayed();
            stream.reset(gateway_tests::h2::frame::code::CANCEL);
            client.connection.round_trip();
        }
    }
    wait::until_true("the request to be given up", || active() == 0.0);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn no_more_requests_are_delayed_at_once_than_allowed_over_all_workers() {
    let origin = Origin::start("a");
    let fault = "filters = [{ fault = { name = 'f', max_active = 3, delay = { percent = 100, for = '1h' } } }]";
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .route("all", &format!("cluster = 'origin'\n{fault}"));
    let mut gateway = Gateway::start(&config);
    let mut held: Vec<Conn> = (0..3).map(|_| gateway.connect()).collect();
    held.iter_mut().for_each(|client| client.send(gateway_tests::client::request("GET", "/", "")));
    wait::until_true("three requests to wait", || results(&gateway)[0] == 3.0);
    for _ in 0..5 {
        assert_eq!(gateway.get("/").text(), "a", "left in peace");
    }
    assert_eq!(results(&gateway), [3.0, 0.0, 5.0]);
    gateway.reload(&config.tables("# a comment changes nothing").route("other", "cluster = 'origin'\nhosts = ['b']"));
    assert_eq!(gateway.get("/").text(), "a", "requests of the generation before count too");
    drop(held);
}

#[test]
fn a_share_of_the_requests_is_aborted() {
    let origin = Origin::start("a");
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'\nfilters = [{ fault = { abort = { percent = 12.5, status = 503 } } }]");
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    let aborted = (0..2_000).filter(|_| client.get("/").status == 503).count();
    // 250 expected, standard deviation 15: six of them is one chance in five hundred million.
    assert!((160..340).contains(&aborted), "{aborted}");
}
