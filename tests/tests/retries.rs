//! Requests that are sent again: to whom, when, how often, and which are not. For every pair of HTTP versions where it could
//! make a difference.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use gateway_tests::conn::Framing;
use gateway_tests::every_pair;
use gateway_tests::h2::Options;
use gateway_tests::origin::{Served, serve};
use gateway_tests::ports::HeldPort;
use gateway_tests::prelude::*;

/// A gateway in front of these endpoints, whose route has these lines.
fn start(pair: Pair, endpoints: &[SocketAddr], cluster: &str, route: &str) -> Gateway {
    let cluster = format!("protocol = '{}'\n{cluster}", pair.origin.name());
    let route = format!("cluster = 'origin'\n{route}");
    Gateway::start(&Config::new().listener("web", "").cluster("origin", endpoints, &cluster).route("all", &route))
}

every_pair! {
    an_endpoint_that_cannot_be_reached_costs_no_request
    what_may_be_repeated_is_asked_again_where_the_answer_is_an_error
    a_body_is_sent_again_as_it_was_unless_it_is_long
    an_answer_that_is_never_good_is_passed_on
    an_endpoint_that_takes_too_long_is_given_up_for_another
    calls_of_grpc_are_sent_again_by_their_status
    who_wants_to_know_is_told_how_often_a_request_was_sent
}

/// An origin whose requests are answered by `answer`, which is told how many came before.
struct Counting {
    script: Script,
    requests: Arc<AtomicUsize>,
}

impl Counting {
    fn start(answer: impl Fn(&mut Served<'_>, usize) + Send + Sync + 'static) -> Counting {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        let script = Script::start(move |conn| {
            serve(conn, &Options::default(), &|served| answer(served, count.fetch_add(1, SeqCst)));
        });
        Counting { script, requests }
    }

    /// One that answers with this status.
    fn answering(status: u16) -> Counting {
        Counting::start(move |served, _| {
            let _ = served.body(&mut |_| ()).is_ok() && served.answer(status, &[], b"what it says");
        })
    }

    fn addr(&self) -> SocketAddr {
        self.script.addr()
    }

    fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

fn count(gateway: &Gateway, metric: &str) -> f64 {
    gateway.metrics().sum(metric, &[("cluster", "origin")])
}

/// Waits until exactly `expected` requests have ended with this response flag.
fn flagged(gateway: &Gateway, flag: &str, expected: u32) {
    let flagged = || gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", flag)]);
    wait::until_true("requests to be counted under their flag", || flagged() >= f64::from(expected));
    assert_eq!(flagged(), f64::from(expected), "{flag}");
}

fn an_endpoint_that_cannot_be_reached_costs_no_request(pair: Pair) {
    let (nobody, origin) = (HeldPort::new(), Origin::start("a"));
    let gateway = start(pair, &[nobody.addr(), origin.addr()], "", "");
    let mut client = pair.connect(&gateway);
    for method in ["GET", "POST", "GET", "POST"] {
        assert_eq!(client.ask(method, "/", &[("content-length", "0")]).text(), "a");
    }
    assert!(count(&gateway, "gateway_cluster_retries_total") >= 2.0);
    assert_eq!(count(&gateway, "gateway_cluster_retries_exhausted_total"), 0.0);
}

fn what_may_be_repeated_is_asked_again_where_the_answer_is_an_error(pair: Pair) {
    for (on, status) in [("on = ['gateway-error']", 503), ("on = ['5xx']", 500), ("statuses = [429]", 429)] {
        let (bad, good) = (Counting::answering(status), Origin::start("good"));
        let gateway = start(pair, &[bad.addr(), good.addr()], "", &format!("retry = {{ {on} }}"));
        let mut client = pair.connect(&gateway);
        let answers: Vec<u16> = (0..4).map(|_| client.get("/").status).collect();
        assert_eq!(answers, [200; 4], "{on}");
        assert!(bad.requests() >= 1);
        // POST may have had an effect.
        let mut posts: Vec<u16> = (0..2).map(|_| client.ask("POST", "/", &[("content-length", "0")]).status).collect();
        posts.sort_unstable();
        assert_eq!(posts, [200, status], "{on}");
    }
}

fn a_body_is_sent_again_as_it_was_unless_it_is_long(pair: Pair) {
    let (bad, good) = (Counting::answering(503), Origin::start("good"));
    let retry = "retry = { on = ['gateway-error'], non_idempotent = true, body_bytes = '100KiB' }";
    let gateway = start(pair, &[bad.addr(), good.addr()], "", retry);
    let mut client = pair.connect(&gateway);
    for length in [0, 1, 65_536, 100 * 1024] {
        for framing in [Framing::Length(length), Framing::Chunked] {
            // One of the two begins at the bad endpoint.
            for _ in 0..2 {
                let response = client.post_pattern("/sink", length, framing);
                assert_eq!((response.status, response.text()), (200, &*length.to_string()), "{framing:?}");
            }
        }
    }
    let mut long: Vec<u16> =
        (0..2).map(|_| client.post_pattern("/sink", 100 * 1024 + 1, Framing::Chunked).status).collect();
    long.sort_unstable();
    assert_eq!(long, [200, 503]);
}

fn an_answer_that_is_never_good_is_passed_on(pair: Pair) {
    let origins = [Counting::answering(503), Counting::answering(503)];
    let retry = "retry = { on = ['gateway-error'], attempts = 2, backoff = '1ms' }";
    let gateway = start(pair, &origins.each_ref().map(Counting::addr), "", retry);
    let mut client = pair.connect(&gateway);
    let response = client.get("/");
    assert_eq!((response.status, response.text()), (503, "what it says"));
    let mut requests = origins.each_ref().map(Counting::requests);
    requests.sort_unstable();
    assert_eq!(requests, [1, 2], "each endpoint in turn, then any");
    flagged(&gateway, "URX", 1);
    assert_eq!(count(&gateway, "gateway_cluster_retries_exhausted_total"), 1.0);
}

fn an_endpoint_that_takes_too_long_is_given_up_for_another(pair: Pair) {
    let slow = Counting::start(|served, _| {
        let _ = served.body(&mut |_| ());
        served.wait_given_up();
    });
    let good = Origin::start("good");
    let retry = "retry = { on = ['reset'], per_try_timeout = '200ms', attempts = 1 }";
    let gateway = start(pair, &[slow.addr(), good.addr()], "", retry);
    let mut client = pair.connect(&gateway);
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "good");
    }
    let given_up = slow.requests();
    assert!(given_up >= 1, "one of the two requests began there");
    assert_eq!(count(&gateway, "gateway_cluster_try_timeouts_total"), given_up as f64);
    // Where there is no other.
    let gateway = start(pair, &[slow.addr()], "", retry);
    let mut client = pair.connect(&gateway);
    let response = client.get("/");
    assert_eq!((response.status, response.text()), (504, "upstream request timeout"));
    assert_eq!(slow.requests(), given_up + 2);
    flagged(&gateway, "URX", 1);
    flagged(&gateway, "UT", 1);
}

fn calls_of_grpc_are_sent_again_by_their_status(pair: Pair) {
    let origin = Counting::start(|served, before| {
        let status = if before == 0 { "14" } else { "0" };
        let fields = [("content-type", "application/grpc"), ("grpc-status", status)];
        let _ = served.body(&mut |_| ()).is_ok() && served.answer(200, &fields, b"");
    });
    let gateway = start(pair, &[origin.addr()], "", "");
    let mut client = pair.connect(&gateway);
    let call = [("content-type", "application/grpc"), ("te", "trailers"), ("content-length", "0")];
    let response = client.ask("POST", "/a.B/C", &call);
    assert_eq!((response.header("grpc-status"), origin.requests()), (Some("0"), 2));
}

fn who_wants_to_know_is_told_how_often_a_request_was_sent(pair: Pair) {
    const COUNT: &str = "x-envoy-attempt-count";
    let origin = Counting::start(|served, before| {
        served.body(&mut |_| ()).expect("a request");
        let told = served.head.header(COUNT).unwrap_or("none").to_owned();
        // What an origin says of it is not believed.
        served.answer(if before.is_multiple_of(2) { 503 } else { 200 }, &[(COUNT, "7")], told.as_bytes());
    });
    // The route's lines; what endpoint and client are told.
    let cases =
        [("true", "true", "2", Some("2")), ("true", "false", "2", Some("7")), ("false", "true", "none", Some("2"))];
    for (in_request, in_response, seen, told) in cases {
        let counts = format!("attempt_count_in_request = {in_request}, attempt_count_in_response = {in_response}");
        let gateway = start(pair, &[origin.addr()], "", &format!("retry = {{ on = ['5xx'], attempts = 1, {counts} }}"));
        let response = pair.connect(&gateway).ask("GET", "/", &[(COUNT, "99")]);
        assert_eq!((response.status, response.text(), response.header(COUNT)), (200, seen, told), "{counts}");
    }
    let nobody = HeldPort::new();
    let route = "retry = { on = ['connect-failure'], attempts = 2, attempt_count_in_response = true }";
    let gateway = start(pair, &[nobody.addr()], "", route);
    let response = pair.connect(&gateway).get("/");
    assert_eq!((response.status, response.header(COUNT)), (503, Some("3")), "an answer of our own says it too");
}

#[test]
fn a_request_that_nobody_takes_is_answered_in_envoys_words() {
    let nobody = [HeldPort::new(), HeldPort::new()];
    let pair = Pair { client: Http::H1, origin: Http::H1 };
    let gateway = start(pair, &nobody.each_ref().map(HeldPort::addr), "", "");
    let response = gateway.get("/");
    let words = "upstream connect error or disconnect/reset before headers. \
                 retried and the latest reset reason: remote connection failure";
    assert_eq!((response.status, response.text()), (503, words));
    flagged(&gateway, "URX", 1);
    flagged(&gateway, "UF", 1);
    assert_eq!(count(&gateway, "gateway_cluster_connect_failures_total"), 3.0, "one try, two retries");
}

#[test]
fn an_origin_that_asks_for_a_second_gets_it_and_one_that_asks_for_more_is_not_asked_again() {
    let pair = Pair { client: Http::H1, origin: Http::H1 };
    for (asked, answers) in [("1", 200), ("30", 503)] {
        let origin = Counting::start(move |served, before| {
            served.answer(if before == 0 { 503 } else { 200 }, &[("retry-after", asked)], b"");
        });
        let gateway = start(pair, &[origin.addr()], "", "retry = { on = ['5xx'], max_backoff = '2s' }");
        let begun = Instant::now();
        assert_eq!(gateway.get("/").status, answers, "{asked}");
        assert_eq!(begun.elapsed() >= Duration::from_millis(900), answers == 200, "{asked}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_cluster_in_trouble_gets_no_more_retries_than_its_budget() {
    let origin = Counting::answering(503);
    let pair = Pair { client: Http::H1, origin: Http::H1 };
    let budget = "retry_budget = { percent = 0, min_retries = 0 }";
    let gateway = start(pair, &[origin.addr()], budget, "retry = { on = ['5xx'] }");
    assert_eq!(gateway.get("/").text(), "what it says");
    assert_eq!(origin.requests(), 1);
    flagged(&gateway, "UO", 1);
    assert_eq!(count(&gateway, "gateway_cluster_retry_overflow_total"), 1.0);
}

#[test]
fn a_client_that_leaves_while_a_retry_is_waited_for_ends_it() {
    let origin = Counting::answering(503);
    let pair = Pair { client: Http::H1, origin: Http::H1 };
    let gateway = start(pair, &[origin.addr()], "", "retry = { on = ['5xx'], backoff = '60s', attempts = 10 }");
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n");
    let waiting = || count(&gateway, "gateway_cluster_retries_active");
    wait::until_true("the retry to wait", || waiting() == 1.0);
    client.reset();
    wait::until_true("the retry to be given up", || waiting() == 0.0);
    flagged(&gateway, "DC", 1);
}

#[test]
fn more_requests_than_a_cluster_takes_are_refused() {
    let origin = Origin::start("a");
    let pair = Pair { client: Http::H2, origin: Http::H1 };
    let gateway = start(pair, &[origin.addr()], "max_requests = 2", "");
    let mut held: Vec<Conn> = (0..2).map(|_| gateway.connect()).collect();
    for client in &mut held {
        client.send("GET /hold HTTP/1.1\r\nhost: a.test\r\n\r\n");
    }
    origin.wait_held(2);
    let response = gateway.get("/");
    assert_eq!((response.status, response.header("x-envoy-overloaded")), (503, Some("true")));
    flagged(&gateway, "UO", 1);
    assert_eq!(count(&gateway, "gateway_cluster_requests_overflow_total"), 1.0);
    origin.release();
    wait::until_true("requests to end", || count(&gateway, "gateway_cluster_requests_active") == 0.0);
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn a_trusted_proxy_may_ask_for_other_timeouts_and_nobody_else() {
    let origin = Origin::start("a");
    let config = |trusted: &str| {
        Config::new()
            .gateway(&format!("trusted_proxies = [{trusted}]"))
            .listener("web", "")
            .cluster("origin", &[origin.addr()], "")
            .route("all", "cluster = 'origin'\ntimeout = '60s'")
    };
    let headers = "x-envoy-upstream-rq-timeout-ms: 200\r\n";
    let gateway = Gateway::start(&config("'127.0.0.0/8', '::1'"));
    assert_eq!(gateway.connect().request("GET", "/hold", headers, b"").status, 504);
    let seen = gateway.connect().request("GET", "/headers", headers, b"").seen();
    assert_eq!(seen.header("x-envoy-expected-rq-timeout-ms"), Some("200"));
    assert_eq!(seen.header("x-envoy-upstream-rq-timeout-ms"), None);
    let gateway = Gateway::start(&config(""));
    let seen = gateway.connect().request("GET", "/headers", headers, b"").seen();
    assert_eq!(seen.header("x-envoy-expected-rq-timeout-ms"), Some("60000"));
}
