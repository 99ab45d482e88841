//! Local rate limits on real traffic. Quotas are for an hour, so that no token comes while a test runs.

use gateway_tests::every_pair;
use gateway_tests::prelude::*;

/// A gateway in front of `origin` whose one route has these filters.
fn start(pair: Pair, origin: &Origin, filters: &str) -> Gateway {
    let cluster = format!("protocol = '{}'", pair.origin.name());
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], &cluster)
        .route("all", &format!("cluster = 'origin'\nfilters = [{filters}]"));
    Gateway::start(&config)
}

every_pair! {
    requests_above_the_quota_are_refused_as_envoy_refuses_them
    answers_say_how_the_limit_stands
    a_refusal_is_what_the_configuration_says
    grpc_calls_are_refused_with_their_status
    a_dry_run_refuses_nothing_and_counts
    a_body_of_a_refused_request_harms_nobody
}

fn requests_above_the_quota_are_refused_as_envoy_refuses_them(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, &origin, "{ rate_limit = { name = 'few', requests = 3, per = '1h' } }");
    let mut client = pair.connect(&gateway);
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!((response.status, response.text(), response.header("x-ratelimit-limit")), (200, "a", None));
    }
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.status, response.text()), (429, "local_rate_limited"));
        assert_eq!(response.header("content-type"), Some("text/plain"));
        for absent in ["x-ratelimit-limit", "x-envoy-ratelimited", "retry-after"] {
            assert_eq!(response.header(absent), None);
        }
        assert!(!response.closes(), "the connection serves on");
    }
    assert_eq!(origin.requests(), 3);
    wait::until_true("the last request to be counted", || {
        gateway.metrics().sum("gateway_listener_requests_total", &[]) == 5.0
    });
    let metrics = gateway.metrics();
    let of_limit = |result| metrics.sum("gateway_rate_limit_requests_total", &[("limit", "few"), ("result", result)]);
    assert_eq!((of_limit("allowed"), of_limit("refused"), of_limit("dry_run_refused")), (3.0, 2.0, 0.0));
    assert_eq!(metrics.sum("gateway_listener_response_flags_total", &[("flag", "RL")]), 2.0);
    assert_eq!(metrics.sum("gateway_route_requests_total", &[("route", "all"), ("code", "4xx")]), 2.0);
}

fn answers_say_how_the_limit_stands(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(
        pair,
        &origin,
        "{ rate_limit = { requests = 100, per = '1h', ratelimit_headers = true } },
         { rate_limit = { requests = 2, per = '1h', ratelimit_headers = true } },
         { rate_limit = { requests = 1, per = '1h', dry_run = true, ratelimit_headers = true } }",
    );
    let mut client = pair.connect(&gateway);
    for (status, remaining, reset) in [(200, "1", 0..1), (200, "0", 1790..1801), (429, "0", 1790..1801)] {
        let response = client.get("/");
        assert_eq!(response.status, status);
        assert_eq!(response.header("x-ratelimit-limit"), Some("2"), "of the limit that has least left");
        assert_eq!(response.header("x-ratelimit-remaining"), Some(remaining));
        let said: u64 = response.header("x-ratelimit-reset").unwrap().parse().unwrap();
        assert!(reset.contains(&said), "{said}");
    }
}

fn a_refusal_is_what_the_configuration_says(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(
        pair,
        &origin,
        "{ rate_limit = { requests = 1, per = '1h', status = 503, body = \"later\\n\", headers = { x-why = 'rate' } } }",
    );
    let mut client = pair.connect(&gateway);
    assert_eq!(client.get("/").header("x-why"), None);
    let response = client.get("/");
    assert_eq!((response.status, response.text(), response.header("x-why")), (503, "later\n", Some("rate")));
}

fn grpc_calls_are_refused_with_their_status(pair: Pair) {
    let origin = Origin::start("a");
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    for (option, status) in [("", "14"), (", grpc_resource_exhausted = true", "8")] {
        let limit = format!("{{ rate_limit = {{ requests = 1, per = '1h'{option} }} }}");
        let gateway = start(pair, &origin, &limit);
        let mut client = pair.connect(&gateway);
        assert_eq!(client.ask("GET", "/", &grpc).header("grpc-status"), None, "the origin's answer");
        let response = client.ask("GET", "/", &grpc);
        let said = ["content-type", "grpc-status", "grpc-message"].map(|name| response.header(name));
        assert_eq!(said, [Some("application/grpc"), Some(status), Some("local_rate_limited")]);
        assert_eq!((response.status, response.text()), (200, ""));
        assert_eq!(client.get("/").status, 429, "who does not speak gRPC gets HTTP");
    }
}

fn a_dry_run_refuses_nothing_and_counts(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(
        pair,
        &origin,
        "{ rate_limit = { name = 'try', requests = 1, per = '1h', dry_run = true, ratelimit_headers = true } }",
    );
    let mut client = pair.connect(&gateway);
    for _ in 0..4 {
        let response = client.get("/");
        assert_eq!((response.status, response.header("x-ratelimit-limit")), (200, None));
    }
    let metrics = gateway.metrics();
    let of_limit = |result| metrics.sum("gateway_rate_limit_requests_total", &[("limit", "try"), ("result", result)]);
    assert_eq!((of_limit("allowed"), of_limit("refused"), of_limit("dry_run_refused")), (1.0, 0.0, 3.0));
    assert_eq!(metrics.sum("gateway_listener_response_flags_total", &[("flag", "RL")]), 0.0);
}

fn a_body_of_a_refused_request_harms_nobody(pair: Pair) {
    let origin = Origin::start("a");
    let gateway = start(pair, &origin, "{ rate_limit = { requests = 1, per = '1h', match = { methods = ['POST'] } } }");
    assert_eq!(pair.connect(&gateway).post("/echo", &[], b"hello").text(), "hello");
    let mut client = pair.connect(&gateway);
    assert_eq!(client.post("/echo", &[], b"GET / HTTP/1.1\r\nhost: smuggled\r\n\r\n").status, 429);
    // What was not read of a body must not pass for the next request: HTTP/1 closes, HTTP/2 goes on.
    if pair.client == Http::H2 {
        assert_eq!(client.get("/").text(), "a");
    }
    assert_eq!(origin.requests(), if pair.client == Http::H2 { 2 } else { 1 });
}

/// A gateway of four workers whose listener trusts `x-forwarded-for`, with these filters.
fn filtered(listener: &str, routes: &[(&str, &str)], origin: &Origin) -> Config {
    let config = Config::new()
        .gateway("workers = 4")
        .listener("web", &format!("trusted_proxies = ['127.0.0.0/8', '::1']\nfilters = [{listener}]"))
        .cluster("origin", &[origin.addr()], "");
    routes.iter().fold(config, |config, (name, lines)| config.route(name, &format!("cluster = 'origin'\n{lines}")))
}

/// How many of `count` requests with these header lines were let through, each on a connection of its own.
fn let_through(gateway: &Gateway, path: &str, headers: &str, count: usize) -> usize {
    let ask = |_: &usize| {
        let mut client = gateway.connect();
        client.send(gateway_tests::client::request("GET", path, headers));
        match client.response().status {
            200 => true,
            429 => false,
            other => panic!("status {other}"),
        }
    };
    (0..count).filter(ask).count()
}

#[test]
fn the_quota_is_that_of_the_box_however_many_workers_there_are() {
    let origin = Origin::start("a");
    for key in ["", ", key = 'client_ip'"] {
        let limit = format!("{{ rate_limit = {{ requests = 100, per = '1h'{key} }} }}");
        let gateway = Gateway::start(&filtered("", &[("all", &format!("filters = [{limit}]"))], &origin));
        let sum: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| let_through(&gateway, "/", "", 50))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(sum, 100, "{key}");
    }
}

#[test]
fn each_client_has_a_quota_of_its_own_by_whatever_tells_clients_apart() {
    let origin = Origin::start("a");
    // Key, header lines and path of one client, those of another.
    let cases = [
        ("'client_ip'", ("x-forwarded-for: 192.0.2.1\r\n", "/"), ("x-forwarded-for: 192.0.2.2\r\n", "/")),
        ("{ header = 'x-api-key' }", ("x-api-key: a\r\n", "/"), ("x-api-key: b\r\n", "/")),
        ("{ cookie = 'session' }", ("cookie: x=1; session=a\r\n", "/"), ("cookie: session=b\r\n", "/")),
        ("{ query = 'user' }", ("", "/?user=a"), ("", "/?user=b")),
    ];
    for (key, (one, one_path), (other, other_path)) in cases {
        let limit = format!("{{ rate_limit = {{ name = 'each', requests = 2, per = '1h', key = {key} }} }}");
        let gateway = Gateway::start(&filtered(&limit, &[("all", "")], &origin));
        assert_eq!(let_through(&gateway, one_path, one, 5), 2, "{key}");
        assert_eq!(let_through(&gateway, other_path, other, 5), 2, "{key}");
        assert_eq!(gateway.metrics().sum("gateway_rate_limit_keys", &[("limit", "each")]), 2.0, "{key}");
    }
}

#[test]
fn clients_of_one_network_share_a_quota_where_a_prefix_says_so() {
    let origin = Origin::start("a");
    let limit = "{ rate_limit = { requests = 2, per = '1h', key = 'client_ip', ipv4_prefix = 24 } }";
    let gateway = Gateway::start(&filtered(limit, &[("all", "")], &origin));
    let from = |client: &str| let_through(&gateway, "/", &format!("x-forwarded-for: {client}\r\n"), 2);
    assert_eq!([from("192.0.2.1"), from("192.0.2.99"), from("192.0.3.1")], [2, 0, 2]);
    assert_eq!([from("2001:db8::1"), from("2001:db8::ffff"), from("2001:db8:0:1::1")], [2, 0, 2]);
}

#[test]
fn a_connection_has_a_quota_of_its_own() {
    let origin = Origin::start("a");
    for http in [Http::H1, Http::H2] {
        let limit = "{ rate_limit = { requests = 2, per = '1h', key = 'connection' } }";
        let gateway = Gateway::start(&filtered(limit, &[("all", "")], &origin));
        for _ in 0..2 {
            let mut client = AnyClient::connect(http, gateway.addr("web"));
            assert_eq!([(); 3].map(|()| client.get("/").status), [200, 200, 429]);
        }
    }
}

#[test]
fn overrides_replace_the_quota_of_the_requests_they_match() {
    let origin = Origin::start("a");
    let limit = "{ rate_limit = { requests = 1, per = '1h', overrides = [
        { match = { headers = { x-plan = 'gold' } }, requests = 3, per = '1h' },
        { match = { query = { trial = { present = true } } }, requests = 2, per = '1h' },
    ] } }";
    let gateway =
        Gateway::start(&filtered("", &[("all", &format!("filters = [{}]", limit.replace('\n', " ")))], &origin));
    assert_eq!(let_through(&gateway, "/", "x-plan: gold\r\n", 5), 3);
    assert_eq!(let_through(&gateway, "/?trial", "", 5), 2);
    assert_eq!(let_through(&gateway, "/", "", 5), 1);
    assert_eq!(let_through(&gateway, "/?trial", "x-plan: gold\r\n", 5), 0, "the first that matches");
}

#[test]
fn limits_hold_for_a_listener_a_host_and_a_route() {
    let origin = Origin::start("a");
    let listener = "{ rate_limit = { requests = 9, per = '1h' } },
                    { rate_limit = { requests = 4, per = '1h', match = { hosts = ['*.a.test'] } } }";
    let routes = [
        ("all", ""),
        ("a", "hosts = ['x.a.test', 'y.a.test']"),
        ("b", "hosts = ['b.test']\nfilters = [{ rate_limit = { requests = 2, per = '1h' } }]"),
    ];
    let gateway = Gateway::start(&filtered(listener, &routes, &origin));
    let to = |host: &str, count: usize| {
        let ask = |_: &usize| {
            let mut client = gateway.connect();
            client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            client.response().status == 200
        };
        (0..count).filter(ask).count()
    };
    assert_eq!(to("x.a.test", 3), 3);
    assert_eq!(to("y.a.test:80", 2), 1, "both hosts of a.test have one quota");
    assert_eq!(to("b.test", 3), 2, "the route's own");
    // Nine less the eight requests that came so far: the listener's filters see those that later ones refuse.
    assert_eq!(to("c.test", 2), 1);
}

#[test]
fn the_filters_of_a_listener_see_requests_without_a_route() {
    let origin = Origin::start("a");
    let limit = "{ rate_limit = { requests = 2, per = '1h' } }";
    let gateway = Gateway::start(&filtered(limit, &[("a", "hosts = ['a.test']")], &origin));
    assert_eq!([(); 3].map(|()| gateway.get("/").status), [404, 404, 429]);
}

#[test]
fn a_reload_does_not_fill_the_buckets() {
    let origin = Origin::start("a");
    let config = |name: &str, burst: u32, body: &str| {
        let limit = format!(
            "{{ rate_limit = {{ name = '{name}', requests = 2, per = '1h', burst = {burst}, key = 'client_ip', body = '{body}' }} }}"
        );
        filtered("", &[("all", &format!("filters = [{limit}]"))], &origin)
    };
    let mut gateway = Gateway::start(&config("one", 2, "x"));
    assert_eq!(let_through(&gateway, "/", "", 3), 2);
    gateway.reload(&config("one", 2, "y"));
    assert_eq!(gateway.get("/").text(), "y", "the new configuration, and the old bucket");
    assert_eq!(gateway.metrics().sum("gateway_rate_limit_requests_total", &[("limit", "one")]), 4.0);
    gateway.reload(&config("one", 4, "y"));
    assert_eq!(let_through(&gateway, "/", "", 5), 2, "the larger bucket lacks the two that were taken");
    gateway.reload(&config("two", 2, "y"));
    assert_eq!(let_through(&gateway, "/", "", 3), 2, "another limit");
}

#[test]
fn more_keys_than_there_is_room_for_are_counted_and_harm_nobody_for_long() {
    let origin = Origin::start("a");
    let limit = "{ rate_limit = { name = 'small', requests = 1, per = '1h', key = 'client_ip', max_keys = 16 } }";
    let gateway = Gateway::start(&filtered(limit, &[("all", "")], &origin));
    let mut client = gateway.connect();
    for n in 0..200 {
        client.send(gateway_tests::client::request("GET", "/", &format!("x-forwarded-for: 10.0.0.{n}\r\n")));
        assert_eq!(client.response().status, 200);
    }
    let metrics = gateway.metrics();
    // Three sets of fifteen places.
    assert_eq!(metrics.sum("gateway_rate_limit_keys", &[("limit", "small")]), 45.0);
    assert_eq!(metrics.sum("gateway_rate_limit_evictions_total", &[("limit", "small")]), 155.0);
}
