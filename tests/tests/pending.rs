//! Requests that find every connection to their endpoint busy: who waits, for how long, and who is refused.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gateway_tests::asked::Asked;
use gateway_tests::every_pair;
use gateway_tests::h2::Options;
use gateway_tests::origin::{Served, serve};
use gateway_tests::prelude::*;

every_pair! {
    a_request_that_finds_the_connection_busy_waits_and_the_first_to_come_is_the_first_to_go
    what_is_more_than_may_wait_is_refused_as_by_envoy
    a_client_that_leaves_gives_its_place_up_at_once
    a_wait_ends_with_connect_timeout_and_with_the_timeout_of_the_route
    nobody_is_left_waiting_while_clients_come_and_go
}

/// An origin that answers when the test says so, and remembers in which order it was asked.
struct Turnstile {
    script: Script,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// The paths of requests, and how many of them may be answered.
    seen: Mutex<(Vec<String>, usize)>,
    changed: Condvar,
}

impl State {
    /// A request for this path has come; returns when it may be answered.
    fn pass(&self, path: &str) {
        let mut seen = self.seen.lock().unwrap();
        let place = seen.0.len();
        seen.0.push(path.to_owned());
        // The limit only keeps a failed test's threads from waiting for ever.
        drop(self.changed.wait_timeout_while(seen, Duration::from_secs(60), |seen| seen.1 <= place));
    }

    fn serve(&self, served: &mut Served<'_>) {
        self.pass(served.path());
        let _ = served.body(&mut |_| ()).is_ok() && served.answer(200, &[], b"served");
    }
}

impl Turnstile {
    fn start() -> Turnstile {
        let state = Arc::<State>::default();
        let shared = state.clone();
        let options = Options { patience: Duration::from_secs(60), ..Options::default() };
        let script = Script::start(move |conn| serve(conn, &options, &|served| shared.serve(served)));
        Turnstile { script, state }
    }

    fn seen(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().0.clone()
    }

    fn wait_seen(&self, count: usize) {
        wait::until_true("requests at the origin", || self.seen().len() >= count);
    }

    /// Lets every request be answered.
    fn open(&self) {
        self.state.seen.lock().unwrap().1 = usize::MAX;
        self.state.changed.notify_all();
    }
}

impl Drop for Turnstile {
    fn drop(&mut self) {
        self.open();
    }
}

/// One connection to the endpoint, with one stream; the rest of the cluster's lines, and the route's.
fn config(pair: Pair, endpoint: SocketAddr, cluster: &str, route: &str) -> Config {
    let cluster = format!("protocol = '{}'\nmax_streams = 1\nmax_connections = 1\n{cluster}", pair.origin.name());
    Config::new()
        .gateway("workers = 1")
        .listener("web", "")
        .cluster("origin", &[endpoint], &cluster)
        .route("all", &format!("cluster = 'origin'\n{route}"))
}

fn start(pair: Pair, endpoint: SocketAddr, cluster: &str, route: &str) -> Gateway {
    Gateway::start(&config(pair, endpoint, cluster, route))
}

fn count(gateway: &Gateway, metric: &str) -> f64 {
    gateway.metrics().sum(metric, &[("cluster", "origin")])
}

fn pending(gateway: &Gateway, requests: usize) {
    let what = format!("{requests} requests to wait");
    wait::until_true(&what, || count(gateway, "gateway_cluster_requests_pending") == requests as f64);
}

fn flagged(gateway: &Gateway, flag: &str) -> f64 {
    gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", flag)])
}

fn a_request_that_finds_the_connection_busy_waits_and_the_first_to_come_is_the_first_to_go(pair: Pair) {
    let origin = Turnstile::start();
    let gateway = start(pair, origin.script.addr(), "", "");
    let mut clients: Vec<AnyClient> = (0..5).map(|_| pair.connect(&gateway)).collect();
    let mut asked = Vec::new();
    for (at, client) in clients.iter_mut().enumerate() {
        asked.push(client.start_empty("GET", &format!("/{at}"), &[]));
        match at {
            0 => origin.wait_seen(1),
            waiting => pending(&gateway, waiting),
        }
    }
    assert_eq!(origin.seen(), ["/0"]);
    origin.open();
    for mut asked in asked {
        assert_eq!(asked.response().text(), "served");
    }
    assert_eq!(origin.seen(), ["/0", "/1", "/2", "/3", "/4"]);
    assert_eq!(origin.script.connections(), 1);
    pending(&gateway, 0);
    assert_eq!((flagged(&gateway, "UO"), count(&gateway, "gateway_cluster_pool_overflow_total")), (0.0, 0.0));
}

fn what_is_more_than_may_wait_is_refused_as_by_envoy(pair: Pair) {
    let origin = Turnstile::start();
    let gateway = start(pair, origin.script.addr(), "max_pending_requests = 1", "");
    let [mut held, mut waiting, mut refused] = [(); 3].map(|()| pair.connect(&gateway));
    let mut held = held.start_empty("GET", "/", &[]);
    origin.wait_seen(1);
    let mut waiting = waiting.start_empty("GET", "/", &[]);
    pending(&gateway, 1);
    let response = refused.get("/");
    let text = "upstream connect error or disconnect/reset before headers. reset reason: overflow";
    assert_eq!((response.status, response.text()), (503, text));
    assert_eq!(response.header("x-envoy-overloaded"), Some("true"));
    let response = refused.ask("POST", "/", &[("content-type", "application/grpc"), ("content-length", "0")]);
    assert_eq!((response.status, response.header("grpc-status")), (200, Some("14")));
    wait::until_true("the flags", || flagged(&gateway, "UO") == 2.0);
    assert_eq!(count(&gateway, "gateway_cluster_pool_overflow_total"), 2.0);
    origin.open();
    assert_eq!((held.response().status, waiting.response().status), (200, 200));
}

fn a_client_that_leaves_gives_its_place_up_at_once(pair: Pair) {
    let origin = Turnstile::start();
    let gateway = start(pair, origin.script.addr(), "", "");
    let [mut held, mut leaving, mut staying] = [(); 3].map(|()| pair.connect(&gateway));
    let mut held = held.start_empty("GET", "/held", &[]);
    origin.wait_seen(1);
    let _ = leaving.start_empty("GET", "/left", &[]);
    pending(&gateway, 1);
    let mut stayed = staying.start_empty("GET", "/stayed", &[]);
    pending(&gateway, 2);
    match leaving {
        AnyClient::H1(client) => client.reset(),
        // With the connection goes the request.
        AnyClient::H2(client) => drop(client),
    }
    pending(&gateway, 1);
    wait::until_true("the flag", || flagged(&gateway, "DC") == 1.0);
    origin.open();
    assert_eq!((held.response().status, stayed.response().status), (200, 200));
    assert_eq!(origin.seen(), ["/held", "/stayed"]);
}

fn a_wait_ends_with_connect_timeout_and_with_the_timeout_of_the_route(pair: Pair) {
    let cases = [("connect_timeout = '300ms'", "", 503, "UO"), ("", "timeout = '300ms'", 504, "UT")];
    for (cluster, route, status, flag) in cases {
        let origin = Turnstile::start();
        // The route of the request that holds the connection has all the time it wants.
        let slow = "match = { path = '/held' }\ncluster = 'origin'\ntimeout = '0s'";
        let gateway = Gateway::start(&config(pair, origin.script.addr(), cluster, route).route("held", slow));
        let [mut held, mut waiting] = [(); 2].map(|()| pair.connect(&gateway));
        let mut held = held.start_empty("GET", "/held", &[]);
        origin.wait_seen(1);
        let begun = Instant::now();
        let response = waiting.get("/");
        let took = begun.elapsed();
        assert_eq!(response.status, status, "{flag} after {took:?}");
        assert!((Duration::from_millis(270)..Duration::from_secs(10)).contains(&took), "{flag} after {took:?}");
        wait::until_true("the flag", || flagged(&gateway, flag) == 1.0);
        pending(&gateway, 0);
        origin.open();
        assert_eq!(held.response().status, 200);
    }
}

fn nobody_is_left_waiting_while_clients_come_and_go(pair: Pair) {
    const CLIENTS: usize = 24;
    const REQUESTS: usize = 40;
    let origin = Origin::start("a");
    let cluster = format!("protocol = '{}'\nmax_streams = 1\nmax_connections = 1", pair.origin.name());
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], &cluster)
        .route("all", "cluster = 'origin'\nretry = { attempts = 0 }");
    let gateway = Gateway::start(&config);
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut client = pair.connect(gateway);
                for at in 0..REQUESTS {
                    // Some leave while they wait, and some while they are served.
                    if (number + at) % 7 == 0 {
                        let _ = client.start_empty("GET", "/bytes/100", &[]);
                        let left = std::mem::replace(&mut client, pair.connect(gateway));
                        match left {
                            AnyClient::H1(client) => client.reset(),
                            AnyClient::H2(client) => drop(client),
                        }
                    }
                    assert_eq!(client.get("/").status, 200, "client {number}, request {at}");
                }
            });
        }
    });
    pending(&gateway, 0);
    wait::until_true("requests to end", || count(&gateway, "gateway_cluster_requests_active") == 0.0);
    assert_eq!(count(&gateway, "gateway_cluster_pool_overflow_total"), 0.0);
    assert!(count(&gateway, "gateway_cluster_connections_active") <= 2.0, "one for each worker");
}

#[test]
fn as_many_wait_as_may_over_all_workers() {
    let origin = Turnstile::start();
    let config = Config::new()
        .gateway("workers = 2")
        .listener("web", "")
        .cluster("origin", &[origin.script.addr()], "max_connections = 1\nmax_pending_requests = 2")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    let mut clients: Vec<AnyClient> = (0..8).map(|_| AnyClient::connect(Http::H1, gateway.addr("web"))).collect();
    let settled = || {
        let waiting = count(&gateway, "gateway_cluster_requests_pending");
        let refused = count(&gateway, "gateway_cluster_pool_overflow_total");
        (waiting + refused) as usize + origin.seen().len()
    };
    let mut asked = Vec::new();
    for (at, client) in clients.iter_mut().enumerate() {
        asked.push(client.start_empty("GET", "/", &[]));
        wait::until_true("the request to come somewhere", || settled() == at + 1);
    }
    let workers = origin.seen().len();
    assert!((1..=2).contains(&workers), "each has one connection");
    pending(&gateway, 2);
    origin.open();
    let refused = asked.iter_mut().map(Asked::response).filter(|response| response.status == 503).count();
    assert_eq!(refused, 8 - workers - 2);
}

#[test]
fn a_reload_that_takes_the_endpoint_away_leaves_nobody_waiting() {
    let pair = Pair { client: Http::H1, origin: Http::H1 };
    let (origin, other) = (Turnstile::start(), Origin::start("other"));
    let mut gateway = start(pair, origin.script.addr(), "connect_timeout = '60s'", "");
    let [mut held, mut waiting] = [(); 2].map(|()| pair.connect(&gateway));
    let mut held = held.start_empty("GET", "/held", &[]);
    origin.wait_seen(1);
    let mut waiting = waiting.start_empty("GET", "/waiting", &[]);
    pending(&gateway, 1);
    gateway.reload(&config(pair, other.addr(), "", ""));
    assert_eq!(origin.seen().len(), 1, "the endpoint has as many connections as it may");
    origin.open();
    assert_eq!((held.response().text(), waiting.response().text()), ("served", "served"));
}

#[test]
fn a_connection_that_carries_one_clients_address_makes_room_for_another_client() {
    let origin = Turnstile::start();
    let state = origin.state.clone();
    let behind = Script::start(move |mut conn| {
        while conn.read_bytes(1) != b"\n" {}
        while let Ok(head) = conn.head() {
            state.pass(head.target());
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let pair = Pair { client: Http::H1, origin: Http::H1 };
    let gateway = start(pair, behind.addr(), "proxy_protocol = 'v1'", "");
    let [mut first, mut second] = [(); 2].map(|()| pair.connect(&gateway));
    let mut held = first.start_empty("GET", "/first", &[]);
    origin.wait_seen(1);
    let mut waiting = second.start_empty("GET", "/second", &[]);
    pending(&gateway, 1);
    origin.open();
    assert_eq!((held.response().status, waiting.response().status), (200, 200));
    assert_eq!(behind.connections(), 2, "each has its own");
}
