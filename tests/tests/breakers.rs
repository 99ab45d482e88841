//! Routes whose breaker answers in place of the endpoints for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use gateway_tests::conn::Framing;
use gateway_tests::every_pair;
use gateway_tests::h2::Options;
use gateway_tests::origin::{Served, serve};
use gateway_tests::prelude::*;

every_pair! {
    a_route_whose_requests_fail_answers_by_itself_until_its_break_is_over
    slow_requests_open_a_breaker_too
    calls_of_grpc_fail_by_their_status_and_are_told_unavailable
    what_clients_do_opens_nothing
}

/// An origin that is well or not, as the test says.
struct Fickle {
    script: Script,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_ill: AtomicBool,
    requests: AtomicU64,
}

impl Fickle {
    /// `ill` answers while it is not well.
    fn start(ill: impl Fn(&mut Served<'_>) + Send + Sync + 'static) -> Fickle {
        let state = Arc::new(State { is_ill: AtomicBool::new(true), requests: AtomicU64::new(0) });
        let shared = state.clone();
        let script = Script::start(move |conn| {
            serve(conn, &Options::default(), &|served| {
                shared.requests.fetch_add(1, SeqCst);
                if served.body(&mut |_| ()).is_err() {
                } else if shared.is_ill.load(SeqCst) {
                    ill(served);
                } else {
                    let _ = served.answer(200, &[], b"well");
                }
            });
        });
        Fickle { script, state }
    }

    fn get_well(&self) {
        self.state.is_ill.store(false, SeqCst);
    }

    fn requests(&self) -> u64 {
        self.state.requests.load(SeqCst)
    }
}

/// A gateway whose route `all` has these lines, and another one to the same cluster that has no breaker.
fn config(pair: Pair, origin: &Fickle, route: &str) -> Config {
    let cluster = format!("protocol = '{}'", pair.origin.name());
    Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.script.addr()], &cluster)
        .route("all", &format!("cluster = 'origin'\nretry = {{ attempts = 0 }}\n{route}"))
        .route("other", "match = { path_prefix = '/other' }\ncluster = 'origin'\nretry = { attempts = 0 }")
}

fn start(pair: Pair, origin: &Fickle, breaker: &str) -> Gateway {
    Gateway::start(&config(pair, origin, &format!("breaker = {{ {breaker} }}")))
}

/// How often the breaker opened, whether it is open, and what it answered.
fn counts(gateway: &Gateway) -> [f64; 3] {
    let metrics = gateway.metrics();
    let names =
        ["gateway_route_breaker_opened_total", "gateway_route_breaker_open", "gateway_route_breaker_answers_total"];
    names.map(|name| metrics.sum(name, &[("route", "all")]))
}

/// Waits until the breaker is open, or closed. A request counts when it has ended, a moment after its client has the answer.
fn wait_open(gateway: &Gateway, is_open: bool) {
    let what = if is_open { "the breaker to open" } else { "the break to be over" };
    wait::until_true(what, || counts(gateway)[1] == f64::from(u8::from(is_open)));
}

const BREAK: Duration = Duration::from_secs(3);

/// What the gateway's coarse clock may be behind when the break begins.
const TICK: Duration = Duration::from_millis(10);

fn a_route_whose_requests_fail_answers_by_itself_until_its_break_is_over(pair: Pair) {
    let origin = Fickle::start(|served| _ = served.answer(500, &[], b"ill"));
    let gateway = start(pair, &origin, "error_percent = 50, min_requests = 4, break_duration = '3s'");
    // Each worker has its connections: what they see counts together.
    let mut clients: Vec<AnyClient> = (0..4).map(|_| pair.connect(&gateway)).collect();
    let begun = Instant::now();
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "ill");
    }
    wait_open(&gateway, true);
    for client in &mut clients {
        let response = client.get("/");
        assert_eq!((response.status, response.text()), (503, "circuit breaker is open"));
        assert_eq!(response.header("x-circuit-breaker"), Some("open"));
        assert_eq!(client.get("/other").text(), "ill", "it is the route's, not the cluster's");
    }
    assert_eq!((origin.requests(), counts(&gateway)), (8, [1.0, 1.0, 4.0]));
    let flagged = || gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", "UO")]);
    wait::until_true("the flags", || flagged() == 4.0);
    origin.get_well();
    wait_open(&gateway, false);
    assert!(begun.elapsed() + TICK >= BREAK, "after {:?}", begun.elapsed());
    for _ in 0..10 {
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/").text(), "well"));
    }
    assert_eq!(counts(&gateway), [1.0, 0.0, 4.0]);
}

fn slow_requests_open_a_breaker_too(pair: Pair) {
    let origin = Fickle::start(|served| {
        std::thread::sleep(Duration::from_millis(150));
        let _ = served.answer(200, &[], b"slow");
    });
    let breaker = "slow_request_time = '100ms', max_slow_requests = 1, min_requests = 1, break_duration = '60s'";
    let gateway = start(pair, &origin, breaker);
    let mut client = pair.connect(&gateway);
    assert_eq!([client.get("/").status, client.get("/").status], [200, 200]);
    wait_open(&gateway, true);
    assert_eq!((client.get("/").status, counts(&gateway)), (503, [1.0, 1.0, 1.0]));
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

fn calls_of_grpc_fail_by_their_status_and_are_told_unavailable(pair: Pair) {
    // In the head of an answer without messages, and in the trailers of one with some.
    for in_trailers in [false, true] {
        let origin = Fickle::start(move |served| {
            if in_trailers {
                served.start(200, &[GRPC], Framing::Chunked);
                served.send(b"\0\0\0\0\0");
                served.finish(&[("grpc-status", "13")]);
            } else {
                served.answer(200, &[GRPC, ("grpc-status", "13")], b"");
            }
        });
        let gateway = start(pair, &origin, "error_percent = 100, min_requests = 3");
        let mut client = pair.connect(&gateway);
        for _ in 0..3 {
            assert_eq!(client.ask("POST", "/a.B/C", &[GRPC, ("content-length", "0")]).status, 200);
        }
        wait_open(&gateway, true);
        let response = client.ask("POST", "/a.B/C", &[GRPC, ("content-length", "0")]);
        assert_eq!((response.status, response.header("grpc-status")), (200, Some("14")), "in trailers: {in_trailers}");
        assert_eq!(response.header("grpc-message"), Some("circuit breaker is open"));
        assert_eq!((response.body.len(), response.trailers.len()), (0, 0), "its head is all there is");
        assert_eq!((client.get("/").status, origin.requests()), (503, 3));
    }
}

fn what_clients_do_opens_nothing(pair: Pair) {
    let origin = Fickle::start(|served| {
        let status = served.path().trim_start_matches('/').to_owned();
        if served.head.header("grpc-timeout").is_some() || served.path() == "/hang" {
            served.wait_given_up();
        } else {
            served.answer(status.parse().unwrap_or(200), &[GRPC, ("grpc-status", "12")], b"");
        }
    });
    let gateway = start(pair, &origin, "error_percent = 1, min_requests = 1");
    let mut client = pair.connect(&gateway);
    for path in ["/404", "/429", "/200"] {
        client.get(path);
    }
    let response = client.ask("POST", "/a.B/C", &[GRPC, ("grpc-timeout", "50m"), ("content-length", "0")]);
    assert_eq!(response.header("grpc-status"), Some("4"));
    // One that does not wait.
    match pair.connect(&gateway) {
        AnyClient::H1(mut client) => {
            client.send(gateway_tests::client::request("GET", "/hang", ""));
            wait::until_true("the request at the origin", || origin.requests() == 5);
            client.reset();
        }
        AnyClient::H2(client) => {
            let _stream = client.start("GET", "/hang", &[], true);
            wait::until_true("the request at the origin", || origin.requests() == 5);
        }
    }
    let left = || gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", "DC")]);
    wait::until_true("the client's leaving to be seen", || left() == 1.0);
    assert_eq!(counts(&gateway), [0.0; 3]);
}

const H1: Pair = Pair { client: Http::H1, origin: Http::H1 };

#[test]
fn an_origin_that_cannot_be_reached_opens_it_and_the_answer_is_the_configured_one() {
    let nobody = gateway_tests::ports::HeldPort::new();
    let route = "cluster = 'origin'\nretry = { attempts = 0 }
        breaker = { error_percent = 100, min_requests = 2, status = 499, body = 'later', \
                    headers = { x-envoy-circuitbreak = 'true' }, grpc_status = 8 }";
    let config = Config::new().listener("web", "").cluster("origin", &[nobody.addr()], "").route("all", route);
    let gateway = Gateway::start(&config);
    let mut client = H1.connect(&gateway);
    assert_eq!([client.get("/").status, client.get("/").status], [503, 503]);
    let response = client.get("/");
    assert_eq!((response.status, response.text()), (499, "later"));
    assert_eq!(response.header("x-envoy-circuitbreak"), Some("true"));
    let call = client.ask("POST", "/", &[GRPC, ("content-length", "0")]);
    assert_eq!((call.status, call.header("grpc-status")), (200, Some("8")));
}

#[test]
fn a_reload_keeps_a_breaker_open_until_one_takes_it_away() {
    let origin = Fickle::start(|served| _ = served.answer(503, &[], b"ill"));
    let config = |more: &str| {
        let breaker = format!("error_percent = 100, min_requests = 2, break_duration = '60s'{more}");
        config(H1, &origin, &format!("breaker = {{ {breaker} }}"))
    };
    let mut gateway = Gateway::start(&config(""));
    let mut client = H1.connect(&gateway);
    assert_eq!([client.get("/").text(), client.get("/").text()], ["ill", "ill"]);
    gateway.reload(&config(", status = 429"));
    assert_eq!((client.get("/").status, counts(&gateway)), (429, [1.0, 1.0, 1.0]));
    gateway.reload(&config(", window = '20s'"));
    assert_eq!((client.get("/").text(), counts(&gateway)), ("circuit breaker is open", [1.0, 1.0, 2.0]));
    gateway.reload(&self::config(H1, &origin, ""));
    assert_eq!(client.get("/").text(), "ill");
}

#[test]
fn a_request_for_a_websocket_counts_by_the_answer_to_its_handshake() {
    let origin = Fickle::start(|served| _ = served.answer(502, &[], b"no"));
    let route = "websocket = true\nbreaker = { error_percent = 100, min_requests = 2 }";
    let gateway = Gateway::start(&config(H1, &origin, route));
    let mut client = H1.connect(&gateway);
    let handshake = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!([(); 3].map(|()| client.ask("GET", "/", &handshake).status), [502, 502, 503]);
}
