//! Who gets a request: policies, keys, cookies, tiers and subsets, over all workers together.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use gateway_tests::every_pair;
use gateway_tests::prelude::*;
use gateway_tests::stream::Stream;

every_pair! {
    a_generated_cookie_brings_clients_back_over_all_workers_and_reloads
    a_header_is_a_key_and_without_one_the_next_rule_counts
    a_strict_cookie_names_an_endpoint_that_is_there_or_drains
    a_cookie_that_is_not_strict_names_another_endpoint_when_its_own_is_gone
}

/// `endpoints` and `cluster` are lines of the cluster's table, `route` of the route's.
fn config_of(pair: Pair, endpoints: &str, cluster: &str, route: &str) -> Config {
    let table = format!(
        "[[cluster]]\nname = 'origin'\nprotocol = '{}'\nendpoints = [{endpoints}]\n{cluster}",
        pair.origin.name()
    );
    Config::new().listener("web", "").tables(&table).route("all", &format!("cluster = 'origin'\n{route}"))
}

/// One request on a connection of its own, so that any worker may get it.
fn ask(pair: Pair, gateway: &Gateway, headers: &[(&str, &str)]) -> Response {
    AnyClient::connect(pair.client, gateway.addr("web")).ask("GET", "/", headers)
}

const PLAIN: Pair = Pair { client: Http::H1, origin: Http::H1 };

fn origins(count: usize) -> Vec<Origin> {
    (0..count).map(|number| Origin::start(&format!("o{number}"))).collect()
}

/// All of them, as a list of endpoints.
fn listed(origins: &[Origin]) -> String {
    origins.iter().map(|origin| format!("'{}', ", origin.addr())).collect()
}

fn name(response: &Response) -> String {
    response.header("x-origin").expect("an answer of an origin").to_owned()
}

/// The value of a cookie that is set, and its attributes.
fn cookie<'a>(response: &'a Response, name: &str) -> Option<(&'a str, &'a str)> {
    let pair = response.header("set-cookie")?.strip_prefix(name)?.strip_prefix("=\"")?;
    pair.split_once('"')
}

fn a_generated_cookie_brings_clients_back_over_all_workers_and_reloads(pair: Pair) {
    let origins = origins(5);
    let route = "hash_on = [{ cookie = { name = 'aff', ttl = '1h', path = '/' } }]";
    let config = |cluster: &str| config_of(pair, &listed(&origins), &format!("balance = 'maglev'\n{cluster}"), route);
    let mut gateway = Gateway::start(&config(""));
    let mut seen = Vec::new();
    for _ in 0..20 {
        let first = ask(pair, &gateway, &[]);
        let (value, attributes) = cookie(&first, "aff").expect("a cookie");
        assert!(value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit()), "{value}");
        assert_eq!(attributes, "; Max-Age=3600; Path=/; HttpOnly");
        seen.push((format!("aff=\"{value}\""), name(&first)));
    }
    assert!(seen.iter().any(|(_, origin)| *origin != seen[0].1), "different cookies, different origins: {seen:?}");
    let comes_back = |gateway: &Gateway| {
        for (cookie, origin) in seen.iter().cycle().take(60) {
            let answer = ask(pair, gateway, &[("cookie", cookie)]);
            assert_eq!(name(&answer), *origin, "{cookie}");
            assert_eq!(answer.header("set-cookie"), None);
        }
    };
    comes_back(&gateway);
    gateway.reload(&config("connect_timeout = '9s'"));
    comes_back(&gateway);
}

fn a_header_is_a_key_and_without_one_the_next_rule_counts(pair: Pair) {
    let origins = origins(5);
    let rules = "hash_on = [{ header = 'x-user', terminal = true }, { query = 'user' }]\nbalance = 'ring_hash'";
    let gateway = Gateway::start(&config_of(pair, &listed(&origins), rules, ""));
    let ask = |path: &str, headers: &[(&str, &str)]| {
        name(&AnyClient::connect(pair.client, gateway.addr("web")).ask("GET", path, headers))
    };
    let mut used = Vec::new();
    for user in 0..20 {
        let user = user.to_string();
        let by_header = ask("/", &[("x-user", &user)]);
        // The first rule is terminal, so the query does not count beside it.
        (0..5).for_each(|n| assert_eq!(ask(&format!("/?user={n}"), &[("x-user", &user)]), by_header));
        let by_query = ask(&format!("/?a=b&user={user}"), &[]);
        (0..5).for_each(|n| assert_eq!(ask(&format!("/{n}?user={user}"), &[]), by_query));
        used.extend([by_header, by_query]);
    }
    used.sort();
    used.dedup();
    assert!(used.len() >= 4, "{used:?}");
    // Nothing gives a key: anybody.
    let mut anybody: Vec<String> = (0..40).map(|_| ask("/", &[])).collect();
    anybody.sort();
    anybody.dedup();
    assert!(anybody.len() >= 4, "{anybody:?}");
}

const STRICT: &str = "affinity_cookie = { name = 'server', strict = true, path = '/', secret = 'a secret' }";

fn a_strict_cookie_names_an_endpoint_that_is_there_or_drains(pair: Pair) {
    let origins = origins(3);
    let mut gateway = Gateway::start(&config_of(pair, &listed(&origins), STRICT, ""));
    let first = ask(pair, &gateway, &[]);
    let (value, attributes) = cookie(&first, "server").expect("a cookie");
    assert_eq!(attributes, "; Path=/; HttpOnly");
    assert!(!value.contains("127") && value.len() == 16, "an address in {value}");
    let header = format!("a=b; server={value}");
    let again = || [("cookie", header.as_str())];
    let comes_back = |gateway: &Gateway| {
        for _ in 0..20 {
            let answer = ask(pair, gateway, &again());
            assert_eq!(name(&answer), name(&first));
            assert_eq!(answer.header("set-cookie"), None);
        }
    };
    comes_back(&gateway);

    let others: Vec<&Origin> = origins.iter().filter(|origin| of(origin) != name(&first)).collect();
    let own = origins.iter().find(|origin| of(origin) == name(&first)).expect("the origin");
    let list = format!("'{}', '{}'", others[0].addr(), others[1].addr());
    gateway.reload(&config_of(pair, &format!("{{ address = '{}', drain = true }}, {list}", own.addr()), STRICT, ""));
    comes_back(&gateway);
    assert_ne!(name(&ask(pair, &gateway, &[])), name(&first), "it drains");

    gateway.reload(&config_of(pair, &list, STRICT, ""));
    let gone = ask(pair, &gateway, &again());
    assert_eq!((gone.status, gone.text()), (503, "no healthy upstream"));
    assert_eq!(gone.header("set-cookie"), None);
    if pair.client == Http::H2 {
        let grpc = ask(pair, &gateway, &[again()[0], ("content-type", "application/grpc")]);
        assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")));
    }
    // What is no name of ours is no name: no client can ask for an address.
    for forged in ["127.0.0.1:22", "MTI3LjAuMC4xOjIy", ""] {
        let answer = ask(pair, &gateway, &[("cookie", &format!("server={forged}"))]);
        assert_eq!(answer.status, 200, "{forged}");
        assert!(cookie(&answer, "server").is_some(), "{forged}");
    }
    assert_eq!(ask(pair, &gateway, &[("cookie", "server=0123456789abcdef")]).status, 503);
}

/// What it calls itself.
fn of(origin: &Origin) -> String {
    let mut conn = Conn::connect(origin.addr());
    name(&conn.get("/"))
}

fn a_cookie_that_is_not_strict_names_another_endpoint_when_its_own_is_gone(pair: Pair) {
    let origins = origins(3);
    let cluster = "affinity_cookie = { name = 'server', ttl = '1h', attributes = { SameSite = 'Lax', Secure = '' } }";
    let mut gateway = Gateway::start(&config_of(pair, &listed(&origins), cluster, ""));
    let first = ask(pair, &gateway, &[]);
    let (value, attributes) = cookie(&first, "server").expect("a cookie");
    assert_eq!(attributes, "; Max-Age=3600; SameSite=Lax; Secure; HttpOnly");
    let header = format!("server=\"{value}\"");
    let rest: Vec<&Origin> = origins.iter().filter(|origin| of(origin) != name(&first)).collect();
    let list = format!("'{}', '{}'", rest[0].addr(), rest[1].addr());
    gateway.reload(&config_of(pair, &list, cluster, ""));
    let moved = ask(pair, &gateway, &[("cookie", &header)]);
    let (new, _) = cookie(&moved, "server").expect("a new cookie");
    assert_ne!(new, value);
    for _ in 0..20 {
        assert_eq!(name(&ask(pair, &gateway, &[("cookie", &format!("server={new}"))])), name(&moved));
    }
}

#[test]
fn every_policy_shares_out_by_weight_over_all_workers() {
    const REQUESTS: u64 = 800;
    for balance in ["round_robin", "least_request", "random", "ring_hash", "maglev"] {
        let origins = origins(3);
        let [a, b, c] = &origins[..] else { unreachable!() };
        let endpoints = format!("'{}', '{}', {{ address = '{}', weight = 2 }}", a.addr(), b.addr(), c.addr());
        // A key that no request has: each goes anywhere.
        let keys = if ["ring_hash", "maglev"].contains(&balance) { "hash_on = [{ header = 'x-none' }]" } else { "" };
        let gateway = Gateway::start(&config_of(PLAIN, &endpoints, &format!("balance = '{balance}'\n{keys}"), ""));
        for _ in 0..REQUESTS {
            assert_eq!(gateway.get("/").status, 200);
        }
        // Five standard deviations of a binomial are 61 and 71; the arcs of a ring are up to 30 % off as well.
        let slack = if balance == "ring_hash" { 130 } else { 72 };
        let got: Vec<u64> = origins.iter().map(Origin::requests).collect();
        for (got, fair) in got.iter().zip([200, 200, 400]) {
            assert!(got.abs_diff(fair) <= slack, "{balance}: {got} of {fair}");
        }
        if balance == "round_robin" {
            assert!(got.iter().zip([200, 200, 400]).all(|(got, fair)| got.abs_diff(fair) <= 4), "{got:?}");
        }
    }
}

fn active(gateway: &Gateway) -> f64 {
    gateway.metrics().sum("gateway_cluster_endpoint_requests_active", &[])
}

#[test]
fn least_request_counts_the_requests_of_all_workers_and_those_that_are_given_up() {
    for http in [Http::H1, Http::H2] {
        let pair = Pair { client: http, origin: http };
        let origins = origins(2);
        let gateway = Gateway::start(&config_of(pair, &listed(&origins), "balance = 'least_request'", ""));
        let mut clients: Vec<AnyClient> = Vec::new();
        for held in 1..=10 {
            let mut client = AnyClient::connect(http, gateway.addr("web"));
            drop(client.start_empty("GET", "/hold", &[]));
            clients.push(client);
            wait::until_true("the request", || origins.iter().map(Origin::held).sum::<usize>() == held);
        }
        assert_eq!(origins.iter().map(Origin::held).collect::<Vec<_>>(), [5, 5], "{http:?}");
        assert_eq!(active(&gateway), 10.0);
        clients.into_iter().for_each(give_up);
        wait::until_true("what was given up to be given back", || active(&gateway) == 0.0);
        origins.iter().for_each(Origin::release);
        assert_eq!(gateway.get("/").status, 200);
        wait::until_true("what is over to be given back", || active(&gateway) == 0.0);
    }
}

/// Leaves without waiting for the answer. Over HTTP/1 a FIN alone says no more than that the request is whole.
fn give_up(client: AnyClient) {
    match client {
        AnyClient::H1(conn) => conn.reset(),
        AnyClient::H2(client) => drop(client),
    }
}

/// An origin of a relay that says its name, and stays until the client has gone.
fn named(name: &'static str) -> Script {
    Script::start(move |mut conn| {
        conn.send(name);
        let _ = conn.end();
    })
}

/// Of IPv4 whatever the other tests use: of IPv6 the loopback network has one address only.
fn v4() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn relay(endpoints: &str, cluster: &str, route: &str) -> Config {
    Config::new()
        .listener_at("pg", v4(), "protocol = 'tcp'")
        .tables(&format!("[[cluster]]\nname = 'db'\nendpoints = [{endpoints}]\n{cluster}"))
        .l4_route("db", &format!("cluster = 'db'\n{route}"))
}

/// Who answers a connection from this address of the loopback network, and the connection.
fn connect_from(gateway: &Gateway, last: u8) -> (String, Conn) {
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    let stream = Stream::connect_from(source, gateway.addr("pg")).expect("connect");
    let mut conn = Conn::new(stream, 0);
    (conn.read_some(2), conn)
}

#[test]
fn connections_of_a_source_meet_the_same_endpoint_over_all_workers_and_reloads() {
    let scripts = ["s0", "s1", "s2", "s3"].map(named);
    let list: String = scripts.iter().map(|script| format!("'{}', ", script.addr())).collect();
    for balance in ["maglev", "ring_hash"] {
        let config = |more: &str| relay(&list, &format!("balance = '{balance}'\n{more}"), "");
        let mut gateway = Gateway::start(&config(""));
        let first: Vec<String> = (1..=20).map(|last| connect_from(&gateway, last).0).collect();
        assert!(first.iter().any(|name| *name != first[0]), "{first:?}");
        for round in 0..4 {
            let again: Vec<String> = (1..=20).map(|last| connect_from(&gateway, last).0).collect();
            assert_eq!(again, first, "{balance}");
            if round == 1 {
                gateway.reload(&config("connect_timeout = '9s'"));
            }
        }
    }
}

#[test]
fn least_request_counts_connections_until_they_end() {
    let scripts = ["s0", "s1"].map(named);
    let list: String = scripts.iter().map(|script| format!("'{}', ", script.addr())).collect();
    let gateway = Gateway::start(&relay(&list, "balance = 'least_request'", ""));
    let open: Vec<(String, Conn)> = (0..8).map(|_| connect_from(&gateway, 1)).collect();
    assert_eq!(open.iter().filter(|(name, _)| name == "s0").count(), 4);
    assert_eq!(active(&gateway), 8.0);
    drop(open);
    wait::until_true("the connections to be given back", || active(&gateway) == 0.0);
}

#[test]
fn datagrams_of_a_source_meet_the_same_endpoint() {
    let sockets: Vec<UdpSocket> = (0..4).map(|_| UdpSocket::bind("127.0.0.1:0").expect("bind")).collect();
    let addrs: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().expect("an address")).collect();
    let list: String = addrs.iter().map(|addr| format!("'{addr}', ")).collect();
    for (number, socket) in sockets.into_iter().enumerate() {
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        // Ends with the test's process, or when nobody has come for a minute.
        std::thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&[number as u8], from);
            }
        });
    }
    let config = Config::new()
        .listener_at("dns", v4(), "protocol = 'udp'")
        .tables(&format!("[[cluster]]\nname = 'dns'\nendpoints = [{list}]\nbalance = 'maglev'"))
        .l4_route("dns", "cluster = 'dns'");
    let gateway = Gateway::start(&config);
    let ask = |last: u8| {
        let client = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).expect("bind");
        client.set_read_timeout(Some(wait::DEADLINE)).expect("a timeout");
        client.connect(gateway.addr("dns")).expect("connect");
        client.send(b"who").expect("send");
        let mut answer = [0; 1];
        client.recv(&mut answer).expect("an answer");
        answer[0]
    };
    let first: Vec<u8> = (1..=20).map(ask).collect();
    assert!(first.iter().any(|name| *name != first[0]), "{first:?}");
    assert_eq!((1..=20).map(ask).collect::<Vec<_>>(), first);
}

/// Who answers forty requests, sorted.
fn answering(gateway: &Gateway, path: &str) -> Vec<String> {
    let mut names: Vec<String> = (0..40).map(|_| name(&gateway.get(path))).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn a_route_uses_the_subset_it_asks_for_and_falls_back_when_it_may() {
    let origins = origins(4);
    let [a, b, c, d] = &origins[..] else { unreachable!() };
    let config = |drain: bool| {
        let endpoints = format!(
            "{{ address = '{}', labels = {{ version = 'v1', zone = 'a' }} }}, \
             {{ address = '{}', labels = {{ version = 'v2', zone = 'a' }}, drain = {drain} }}, \
             {{ address = '{}', labels = {{ version = 'v2', zone = 'b' }}, drain = {drain} }}, '{}'",
            a.addr(),
            b.addr(),
            c.addr(),
            d.addr()
        );
        let route = |name: &str, lines: &str| {
            format!("[[route]]\nname = '{name}'\nmatch = {{ path = '/{name}' }}\ncluster = 'origin'\n{lines}\n")
        };
        config_of(PLAIN, &endpoints, "balance = 'random'", "")
            .tables(&route("v2", "subset = { version = 'v2' }"))
            .tables(&route("v2b", "subset = { version = 'v2', zone = 'b' }"))
            .tables(&route("none", "subset = { version = 'v3' }"))
            .tables(&route("any", "subset = { version = 'v2' }\nsubset_fallback = 'any'"))
    };
    let mut gateway = Gateway::start(&config(false));
    assert_eq!(answering(&gateway, "/"), ["o0", "o1", "o2", "o3"]);
    assert_eq!(answering(&gateway, "/v2"), ["o1", "o2"]);
    assert_eq!(answering(&gateway, "/v2b"), ["o2"]);
    assert_eq!(answering(&gateway, "/any"), ["o1", "o2"]);
    let none = gateway.get("/none");
    assert_eq!((none.status, none.text()), (503, "no healthy upstream"));
    gateway.reload(&config(true));
    assert_eq!(gateway.get("/v2").status, 503);
    assert_eq!(answering(&gateway, "/any"), ["o0", "o3"]);
}

#[test]
fn connections_use_the_subset_of_their_route() {
    let scripts = ["s0", "s1"].map(named);
    let list =
        format!("'{}', {{ address = '{}', labels = {{ role = 'primary' }} }}", scripts[0].addr(), scripts[1].addr());
    let gateway = Gateway::start(&relay(&list, "", "subset = { role = 'primary' }"));
    (0..20).for_each(|_| assert_eq!(connect_from(&gateway, 1).0, "s1"));
}

#[test]
fn preferred_endpoints_and_lower_priorities_come_first() {
    let origins = origins(3);
    let [a, b, c] = &origins[..] else { unreachable!() };
    let config = |zone: &str, drain: [bool; 2]| {
        let endpoints = format!(
            "{{ address = '{}', labels = {{ zone = 'a' }}, drain = {} }}, \
             {{ address = '{}', labels = {{ zone = 'b' }}, drain = {} }}, {{ address = '{}', priority = 1 }}",
            a.addr(),
            drain[0],
            b.addr(),
            drain[1],
            c.addr()
        );
        config_of(PLAIN, &endpoints, zone, "")
    };
    let mut gateway = Gateway::start(&config("", [false, false]));
    assert_eq!(answering(&gateway, "/"), ["o0", "o1"]);
    gateway.reload(&config("prefer = { zone = 'b' }", [false, false]));
    assert_eq!(answering(&gateway, "/"), ["o1"]);
    gateway.reload(&config("prefer = { zone = 'b' }", [false, true]));
    assert_eq!(answering(&gateway, "/"), ["o0"]);
    gateway.reload(&config("prefer = { zone = 'b' }", [true, true]));
    assert_eq!(answering(&gateway, "/"), ["o2"]);
}

#[test]
fn an_endpoint_that_is_new_begins_with_a_tenth_of_its_share() {
    let origins = origins(2);
    let cluster = "balance = 'random'\nslow_start = '1h'";
    let mut gateway = Gateway::start(&config_of(PLAIN, &listed(&origins[..1]), cluster, ""));
    gateway.reload(&config_of(PLAIN, &listed(&origins), cluster, ""));
    (0..550).for_each(|_| assert_eq!(gateway.get("/").status, 200));
    // A tenth against a whole is one of eleven: 50, and five standard deviations are 34.
    assert!(origins[1].requests().abs_diff(50) <= 34, "{}", origins[1].requests());
}

#[test]
fn who_comes_back_to_an_endpoint_comes_back_to_its_cluster() {
    let origins = origins(2);
    let cookie_line = "affinity_cookie = { name = 'server', strict = true }";
    let clusters = "clusters = [{ name = 'a', weight = 1 }, { name = 'b', weight = 1 }]";
    let config = Config::new()
        .listener("web", "")
        .cluster("a", &[origins[0].addr()], cookie_line)
        .cluster("b", &[origins[1].addr()], cookie_line)
        .route("cookie", clusters)
        .route("key", &format!("{clusters}\nmatch = {{ path = '/key' }}\nhash_on = [{{ header = 'x-user' }}]"));
    let gateway = Gateway::start(&config);
    let mut used = Vec::new();
    for user in 0..20 {
        let first = ask(PLAIN, &gateway, &[]);
        let header = format!("server={}", cookie(&first, "server").expect("a cookie").0);
        (0..5).for_each(|_| assert_eq!(name(&ask(PLAIN, &gateway, &[("cookie", &header)])), name(&first)));
        let user = user.to_string();
        let of_user = || AnyClient::connect(Http::H1, gateway.addr("web")).ask("GET", "/key", &[("x-user", &user)]);
        let by_key = name(&of_user());
        (0..5).for_each(|_| assert_eq!(name(&of_user()), by_key));
        used.extend([name(&first), by_key]);
    }
    assert!(used.iter().any(|name| name == "o0") && used.iter().any(|name| name == "o1"), "{used:?}");
}
