//! Finding one route among 100 000: at most 1 µs. Building their table: at most 1 s.
//!
//! `cargo bench -p gateway-bench --bench route_find`. Requests come in random order, so the tree is not in the first
//! level caches; the request itself is, as it is after parsing.

use std::net::{IpAddr, Ipv4Addr};

use divan::{Bencher, black_box};
use gateway::config::model::{
    Action, HeaderEdits, HeaderMatch, HostPattern, ListenerId, PathMatch, Priority, Respond, Retry, Route, RouteMatch,
    ValueMatch,
};
use gateway::proto::head::{HeaderName, RequestHead};
use gateway::route::{Query, Table};

const ROUTES: usize = 100_000;
/// Requests to different routes in one sample.
const REQUESTS: u32 = 16_384;
const LISTENER: ListenerId = ListenerId(0);

fn main() {
    divan::main();
}

/// 1 000 hosts of 100 routes, or one host of 100 000.
#[divan::bench(args = [1_000, 1], sample_size = REQUESTS)]
fn exact(bencher: Bencher<'_, '_>, hosts: usize) {
    let routes = routes(|n| (host(n % hosts), PathMatch::Exact(path(n))));
    bench_find(bencher, &routes, |n| (host(n % hosts), path(n)));
}

#[divan::bench(args = [1_000, 1], sample_size = REQUESTS)]
fn prefix(bencher: Bencher<'_, '_>, hosts: usize) {
    let routes = routes(|n| (host(n % hosts), PathMatch::Prefix(path(n))));
    bench_find(bencher, &routes, |n| (host(n % hosts), format!("{}/orders/17/lines", path(n))));
}

#[divan::bench(sample_size = REQUESTS)]
fn prefix_under_wildcard_hosts(bencher: Bencher<'_, '_>) {
    let mut routes = routes(|n| (host(n % 1_000), PathMatch::Prefix(path(n))));
    for route in &mut routes {
        let HostPattern::Exact(name) = &route.hosts[0] else { unreachable!() };
        route.hosts = vec![HostPattern::Suffix(format!(".{name}"))];
    }
    bench_find(bencher, &routes, |n| (format!("a.b.{}", host(n % 1_000)), format!("{}/x", path(n))));
}

/// No route: every kind of host is tried.
#[divan::bench(sample_size = REQUESTS)]
fn miss(bencher: Bencher<'_, '_>) {
    let routes = routes(|n| (host(n % 1_000), PathMatch::Exact(path(n))));
    bench_find(bencher, &routes, |n| (host(n % 1_000), format!("/api/v1/team-{}/nothing", n % 97)));
}

/// A path of 4 000 segments against a tree of `depth`.
#[divan::bench(args = [8, 64], sample_size = 1_000)]
fn long_path(bencher: Bencher<'_, '_>, depth: usize) {
    let mut routes = routes(|n| (host(n % 1_000), PathMatch::Prefix(path(n))));
    routes.push(route(host(0), PathMatch::Prefix("/a".repeat(depth))));
    bench_find(bencher, &routes, |_| (host(0), "/a".repeat(4_000)));
}

/// One path whose routes differ in a header only; the last of them matches.
#[divan::bench(args = [1, 10, 100])]
fn conditions(bencher: Bencher<'_, '_>, count: usize) {
    let with_header = |n: usize| {
        let name = HeaderName::new("x-tenant").expect("a token");
        let header = HeaderMatch { name, value: ValueMatch::Exact(format!("tenant-{n}")) };
        let matcher = RouteMatch { headers: vec![header], ..RouteMatch::default() };
        Route { matcher, ..route(host(0), PathMatch::default()) }
    };
    let routes: Vec<Route> = (0..count).map(with_header).collect();
    let table = Table::build(&routes, LISTENER);
    let mut head = RequestHead::default();
    for n in 0..15 {
        head.headers.append_raw(format!("x-other-{n}").as_bytes(), b"value");
    }
    head.headers.append_raw(b"x-tenant", format!("tenant-{}", count - 1).as_bytes());
    bencher.bench_local(|| table.find(black_box(&query("host-0.example.com", "/", &head))));
}

#[divan::bench(args = [1_000, 1], sample_count = 20)]
fn build(bencher: Bencher<'_, '_>, hosts: usize) {
    let routes = routes(|n| (host(n % hosts), PathMatch::Prefix(path(n))));
    bencher.bench_local(|| Table::build(black_box(&routes), LISTENER));
}

fn bench_find(bencher: Bencher<'_, '_>, routes: &[Route], request: impl Fn(usize) -> (String, String)) {
    let table = Table::build(routes, LISTENER);
    let head = RequestHead::default();
    // A step that is coprime to the number of routes visits all of them in no order a prefetcher knows.
    let requests: Vec<_> = (0..REQUESTS as usize).map(|n| request(n * 61_803 % ROUTES)).collect();
    let mut requests = requests.iter().cycle();
    bencher.bench_local(move || {
        let (host, path) = requests.next().expect("endless");
        table.find(black_box(&query(host, path, &head)))
    });
}

fn query<'a>(host: &'a str, path: &'a str, head: &'a RequestHead) -> Query<'a> {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Query { host: host.as_bytes(), path: path.as_bytes(), head, peer_ip: ip, client_ip: ip }
}

fn routes(shape: impl Fn(usize) -> (String, PathMatch)) -> Vec<Route> {
    (0..ROUTES)
        .map(|n| {
            let (host, path) = shape(n);
            route(host, path)
        })
        .collect()
}

fn route(host: String, path: PathMatch) -> Route {
    Route {
        name: "route".into(),
        listeners: vec![LISTENER],
        hosts: vec![HostPattern::Exact(host)],
        matcher: RouteMatch { path, ..RouteMatch::default() },
        action: Action::Respond(Respond { status: 200, body: String::new(), content_type: String::new() }),
        timeout: None,
        body_bytes: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        retry: Retry::unless_said(),
        websocket: None,
        filters: vec![],
        mirrors: None,
        breaker: None,
        priority: Priority::Normal,
    }
}

fn host(n: usize) -> String {
    format!("host-{n}.example.com")
}

fn path(n: usize) -> String {
    format!("/api/v1/team-{}/service-{n}", n % 97)
}
