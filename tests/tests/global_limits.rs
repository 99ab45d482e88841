//! Global rate limits on real traffic: what a service is asked, and what its answers do.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use gateway::proto::rate_limit_service::{
    Code, DescriptorStatus, HeaderValue, RateLimit, RateLimitDescriptor, RateLimitResponse, Unit,
};
use gateway_tests::every_pair;
use gateway_tests::limit_service::{LimitService, Says};
use gateway_tests::ports::{HeldPort, StuckPort};
use gateway_tests::prelude::*;

/// A gateway in front of `origin` whose one route asks the service about each request.
fn start(pair: Pair, origin: &Origin, service: SocketAddr, keys: &str) -> Gateway {
    Gateway::start(&config(pair, origin, service, &format!("descriptors = [[{{ remote_address = {{}} }}]], {keys}")))
}

fn config(pair: Pair, origin: &Origin, service: SocketAddr, keys: &str) -> Config {
    let limit = format!("{{ global_rate_limit = {{ name = 'g', domain = 'shop', cluster = 'limits', {keys} }} }}");
    Config::new()
        .listener("web", "trusted_proxies = ['127.0.0.1', '::1']")
        .cluster("origin", &[origin.addr()], &format!("protocol = '{}'", pair.origin.name()))
        .cluster("limits", &[service], "protocol = 'h2'")
        .route("all", &format!("cluster = 'origin'\nfilters = [{limit}]"))
}

every_pair! {
    a_request_under_its_limits_goes_on_with_what_the_service_adds
    a_request_over_a_limit_is_refused_as_envoy_refuses_it
    grpc_calls_are_refused_with_their_status
    a_service_that_hangs_is_waited_for_until_the_timeout
    a_service_that_fails_decides_nothing
    a_client_that_does_not_wait_is_not_waited_for
    a_body_waits_for_the_verdict
    several_limits_say_one_set_of_fields
    a_client_that_waits_for_a_100_is_refused_without_one
}

/// Longer than a busy machine needs to answer.
const PATIENT: &str = "timeout = '10s'";

fn field(key: &str, value: &str) -> HeaderValue {
    HeaderValue { key: key.into(), value: value.into(), ..HeaderValue::default() }
}

/// An answer with everything in it.
fn full(code: Code) -> Says {
    let limit = |requests_per_unit, unit: Unit, limit_remaining| DescriptorStatus {
        code: code.into(),
        current_limit: Some(RateLimit { name: String::new(), requests_per_unit, unit: unit.into() }),
        limit_remaining,
        duration_until_reset: Some(gateway::proto::rate_limit_service::Duration { seconds: 30, nanos: 0 }),
    };
    let response = RateLimitResponse {
        overall_code: code.into(),
        statuses: vec![limit(1_000, Unit::Hour, 900), limit(10, Unit::Minute, 4)],
        response_headers_to_add: vec![field("x-told", "client"), field("content-type", "application/json")],
        request_headers_to_add: vec![field("x-told", "origin"), field("connection", "x-told")],
        raw_body: "{\"slow\": \"down\"}".into(),
    };
    response.into()
}

/// Entries in the form `key=value,key=value`.
fn entries(descriptors: &[RateLimitDescriptor]) -> Vec<String> {
    let entry = |descriptor: &RateLimitDescriptor| {
        let entries = descriptor.entries.iter().map(|entry| format!("{}={}", entry.key, entry.value));
        entries.collect::<Vec<_>>().join(",")
    };
    descriptors.iter().map(entry).collect()
}

fn results(gateway: &Gateway) -> [f64; 4] {
    let metrics = gateway.metrics();
    let [ok, over, error] = ["ok", "over_limit", "error"]
        .map(|result| metrics.sum("gateway_global_rate_limit_requests_total", &[("limit", "g"), ("result", result)]));
    [ok, over, error, metrics.sum("gateway_global_rate_limit_failure_mode_allowed_total", &[("limit", "g")])]
}

fn flags(gateway: &Gateway, flag: &str) -> f64 {
    gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", flag)])
}

fn a_request_under_its_limits_goes_on_with_what_the_service_adds(pair: Pair) {
    let (origin, service) = (Origin::start("a"), LimitService::saying(full(Code::Ok)));
    let gateway = start(pair, &origin, service.addr(), &format!("ratelimit_headers = true, {PATIENT}"));
    let mut client = pair.connect(&gateway);
    for _ in 0..2 {
        let response = client.ask("GET", "/headers", &[("x-forwarded-for", "192.0.2.7")]);
        let said = ["x-told", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
        let said = said.map(|name| response.header(name).map(str::to_owned));
        let expected = ["client", "10, 1000;w=3600, 10;w=60", "4", "30"].map(|value| Some(value.to_owned()));
        assert_eq!((response.status, said), (200, expected));
        assert_eq!(response.header("x-envoy-ratelimited"), None);
        let seen = response.seen();
        assert_eq!(seen.header("x-told"), Some("origin"));
        let asked = service.asked();
        assert_eq!((asked.request.domain.as_str(), asked.request.hits_addend), ("shop", 0));
        assert_eq!(entries(&asked.request.descriptors), ["remote_address=192.0.2.7"]);
        for (name, value) in [
            (":authority", "limits"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "10000m"),
            ("content-length", "none"),
        ] {
            assert_eq!(asked.head.header(name).unwrap_or("none"), value, "{name}");
        }
    }
    assert_eq!((service.connections(), results(&gateway)), (1, [2.0, 0.0, 0.0, 0.0]));
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("gateway_cluster_requests_total", &[("cluster", "limits"), ("code", "2xx")]), 2.0);
}

fn a_request_over_a_limit_is_refused_as_envoy_refuses_it(pair: Pair) {
    let (origin, service) = (Origin::start("a"), LimitService::saying(full(Code::OverLimit)));
    let gateway = start(pair, &origin, service.addr(), PATIENT);
    let mut client = pair.connect(&gateway);
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.status, response.text()), (429, "{\"slow\": \"down\"}"));
        let said = ["content-type", "x-told", "x-envoy-ratelimited", "x-ratelimit-limit"];
        let said = said.map(|name| response.header(name));
        assert_eq!(said, [Some("application/json"), Some("client"), Some("true"), None]);
        assert!(!response.closes(), "the connection serves on");
    }
    assert_eq!((origin.requests(), results(&gateway)), (0, [0.0, 2.0, 0.0, 0.0]));
    wait::until_true("the flags", || flags(&gateway, "RL") == 2.0);

    let keys = "status = 503, headers = { x-why = 'limit' }, ratelimited_header = false, ratelimit_headers = true";
    let gateway = start(pair, &origin, service.addr(), &format!("{keys}, {PATIENT}"));
    let response = pair.connect(&gateway).get("/");
    let said = ["x-why", "x-told", "x-envoy-ratelimited", "x-ratelimit-remaining"].map(|name| response.header(name));
    assert_eq!((response.status, said), (503, [Some("limit"), Some("client"), None, Some("4")]));
}

fn grpc_calls_are_refused_with_their_status(pair: Pair) {
    let (origin, service) = (Origin::start("a"), LimitService::saying(full(Code::OverLimit)));
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    for (option, status) in [(PATIENT, "14"), ("timeout = '10s', grpc_resource_exhausted = true", "8")] {
        let gateway = start(pair, &origin, service.addr(), option);
        let mut client = pair.connect(&gateway);
        let response = client.ask("GET", "/", &grpc);
        let said = ["content-type", "grpc-status", "grpc-message", "x-envoy-ratelimited"];
        let said = said.map(|name| response.header(name));
        assert_eq!(said, [Some("application/grpc"), Some(status), Some("{\"slow\": \"down\"}"), Some("true")]);
        assert_eq!((response.status, response.text()), (200, ""));
        assert_eq!(client.get("/").status, 429, "who does not speak gRPC gets HTTP");
    }
    assert_eq!(origin.requests(), 0);
}

fn a_service_that_hangs_is_waited_for_until_the_timeout(pair: Pair) {
    let (origin, service) = (Origin::start("a"), LimitService::saying(Says::Nothing));
    let gateway = start(pair, &origin, service.addr(), "timeout = '300ms'");
    let mut client = pair.connect(&gateway);
    for _ in 0..2 {
        let begun = Instant::now();
        assert_eq!(client.get("/").text(), "a");
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(270) && took < Duration::from_secs(10), "{took:?}");
        service.wait_given_up();
    }
    assert_eq!(results(&gateway), [0.0, 0.0, 2.0, 2.0]);
    let stuck = StuckPort::new();
    let gateway_of_none = start(pair, &origin, stuck.addr(), "timeout = '100ms'");
    assert_eq!(pair.connect(&gateway_of_none).get("/").text(), "a", "who does not let us connect hangs too");
    let gateway = start(pair, &origin, service.addr(), "timeout = '100ms', deny_on_error = true");
    let response = pair.connect(&gateway).get("/");
    assert_eq!((response.status, response.text()), (500, ""));
    service.wait_given_up();
    assert_eq!(results(&gateway), [0.0, 0.0, 1.0, 0.0]);
    wait::until_true("the flags", || flags(&gateway, "RLSE") == 1.0);
    assert_eq!((origin.requests(), flags(&gateway, "RL")), (3, 0.0));
}

fn a_service_that_fails_decides_nothing(pair: Pair) {
    let origin = Origin::start("a");
    let nobody = HeldPort::released();
    let failures = [Says::Garbage, Says::Grpc("14"), Says::Http(503), Says::Reset];
    let services: Vec<LimitService> = failures.into_iter().map(LimitService::saying).collect();
    for service in services.iter().map(LimitService::addr).chain([nobody]) {
        let gateway = start(pair, &origin, service, PATIENT);
        assert_eq!(pair.connect(&gateway).get("/").text(), "a");
        assert_eq!(results(&gateway), [0.0, 0.0, 1.0, 1.0]);
        let deny = format!("deny_on_error = true, status_on_error = 503, {PATIENT}");
        let gateway = start(pair, &origin, service, &deny);
        let mut client = pair.connect(&gateway);
        assert_eq!(client.get("/").status, 503);
        let grpc = client.ask("GET", "/", &[("content-type", "application/grpc")]);
        assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")));
        assert_eq!(results(&gateway), [0.0, 0.0, 2.0, 0.0]);
        wait::until_true("the flags", || flags(&gateway, "RLSE") == 2.0);
    }
}

fn a_client_that_does_not_wait_is_not_waited_for(pair: Pair) {
    let (origin, service) = (Origin::start("a"), LimitService::saying(Says::Nothing));
    let gateway = start(pair, &origin, service.addr(), "timeout = '1h'");
    match pair.connect(&gateway) {
        AnyClient::H1(mut client) => {
            client.send(gateway_tests::client::request("GET", "/", ""));
            service.asked();
            client.reset();
        }
        AnyClient::H2(client) => {
            let stream = client.start("GET", "/", &[], true);
            service.asked();
            stream.reset(gateway_tests::h2::frame::code::CANCEL);
            client.connection.round_trip();
        }
    }
    service.wait_given_up();
    wait::until_true("the flags", || flags(&gateway, "DC") == 1.0);
    assert_eq!((origin.requests(), results(&gateway)), (0, [0.0; 4]));
}

fn a_body_waits_for_the_verdict(pair: Pair) {
    const LENGTH: u64 = 300_000;
    let origin = Origin::start("a");
    let (decide, decided) = channel::<()>();
    let decided = Mutex::new(decided);
    let service = LimitService::start(move |_| {
        let _ = decided.lock().unwrap().recv_timeout(wait::DEADLINE);
        Says::ok()
    });
    let gateway = start(pair, &origin, service.addr(), PATIENT);
    let mut client = pair.connect(&gateway);
    std::thread::scope(|scope| {
        let posted = scope
            .spawn(|| client.post_pattern("/sink", LENGTH, gateway_tests::conn::Framing::Chunked).text().to_owned());
        wait::until_true("the request", || {
            gateway.metrics().sum("gateway_cluster_requests_active", &[("cluster", "limits")]) == 1.0
        });
        assert_eq!(origin.requests(), 0);
        decide.send(()).unwrap();
        assert_eq!(posted.join().unwrap(), LENGTH.to_string());
    });
}

fn several_limits_say_one_set_of_fields(pair: Pair) {
    let origin = Origin::start("a");
    const OF_SERVICE: &str = "10, 1000;w=3600, 10;w=60";
    // How many requests the local limit has, what the service says, how many requests; of the last answer: status, limit, left.
    let cases = [
        (100, Code::Ok, 1, 200, OF_SERVICE, "4"),
        (2, Code::Ok, 1, 200, "2", "1"),
        (1, Code::Ok, 2, 429, "1", "0"),
        (100, Code::OverLimit, 1, 429, OF_SERVICE, "4"),
        (1, Code::OverLimit, 1, 429, "1", "0"),
    ];
    for (local, code, requests, status, limit, left) in cases {
        let service = LimitService::saying(full(code));
        let global = format!(
            "{{ global_rate_limit = {{ domain = 'shop', cluster = 'limits', ratelimit_headers = true, {PATIENT}, \
             descriptors = [[{{ remote_address = {{}} }}]] }} }}"
        );
        let of =
            |quota: u32| format!("{{ rate_limit = {{ requests = {quota}, per = '1h', ratelimit_headers = true }} }}");
        let filters = [of(1_000), of(local), global.clone(), global];
        let config = Config::new()
            .listener("web", "")
            .cluster("origin", &[origin.addr()], &format!("protocol = '{}'", pair.origin.name()))
            .cluster("limits", &[service.addr()], "protocol = 'h2'")
            .route("all", &format!("cluster = 'origin'\nfilters = [{}]", filters.join(", ")));
        let gateway = Gateway::start(&config);
        let mut client = pair.connect(&gateway);
        (1..requests).for_each(|_| assert_eq!(client.get("/").status, 200));
        let response = client.get("/");
        let values = |name: &str| {
            let fields = response.head.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
            fields.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        };
        let case = format!("{local} {code:?}");
        assert_eq!((response.status, values("x-ratelimit-limit")), (status, vec![limit]), "{case}");
        assert_eq!((values("x-ratelimit-remaining"), values("x-ratelimit-reset").len()), (vec![left], 1), "{case}");
    }
}

fn a_client_that_waits_for_a_100_is_refused_without_one(pair: Pair) {
    let (origin, service) = (Origin::start("a"), LimitService::saying(Says::over_limit()));
    let gateway = start(pair, &origin, service.addr(), PATIENT);
    let mut client = pair.connect(&gateway);
    let mut asked = client.start("POST", "/echo", &[("content-length", "5"), ("expect", "100-continue")]);
    let refused = asked.response();
    assert_eq!((refused.status, refused.interim.len()), (429, 0));
    // The body may or may not follow, so what comes next on a connection of HTTP/1.1 is in doubt.
    assert_eq!(refused.closes(), pair.client == Http::H1);
    if pair.client == Http::H2 {
        // The stream may have been ended by then.
        let _ = asked.send(b"hello") && asked.finish(&[]);
        assert_eq!(client.get("/").status, 429, "the connection goes on");
    }
    assert_eq!(origin.requests(), 0);
}

const PLAIN: Pair = Pair { client: Http::H1, origin: Http::H1 };

#[test]
fn only_descriptors_that_have_all_their_entries_are_sent() {
    let (origin, service) = (Origin::start("a"), LimitService::saying(Says::ok()));
    let descriptors = "descriptors = [
        [{ source_cluster = 'edge' }, { destination_cluster = {} }],
        [{ generic_key = { value = 'login' } }, { request_headers = { header = 'x-user', key = 'user' } }],
        [{ query_parameters = { parameter = 'plan', key = 'plan' } }, { request_headers = { header = ':path', key = 'path' } }],
        [{ header_value_match = { headers = { x-plan = 'free' }, value = 'free' } }],
        [{ masked_remote_address = { ipv4_prefix = 8, ipv6_prefix = 16 } }, { request_headers = { header = 'x-net', key = 'net' } }],
    ]";
    let gateway = Gateway::start(&config(PLAIN, &origin, service.addr(), &format!("{descriptors}, {PATIENT}")));
    let mut client = PLAIN.connect(&gateway);
    let mut asked = |path: &str, fields: &[(&str, &str)]| {
        assert_eq!(client.ask("GET", path, fields).status, 200);
        entries(&service.asked().request.descriptors)
    };
    let always = "source_cluster=edge,destination_cluster=origin";
    assert_eq!(asked("/", &[]), [always]);
    assert_eq!(asked("/", &[("x-user", "ann")]), [always, "generic_key=login,user=ann"]);
    assert_eq!(
        asked("/?plan=a%20b", &[("x-plan", "free")]),
        [always, "plan=a b,path=/?plan=a%20b", "header_match=free"]
    );
    let network = [("x-net", "1"), ("x-forwarded-for", "198.51.100.7")];
    assert_eq!(asked("/", &network), [always, "masked_remote_address=198.0.0.0/8,net=1"]);
}

#[test]
fn a_service_is_not_asked_in_vain() {
    let (origin, service) = (Origin::start("a"), LimitService::saying(Says::over_limit()));
    let keys =
        "descriptors = [[{ request_headers = { header = 'x-user', key = 'user' } }]], match = { methods = ['POST'] }";
    let gateway = Gateway::start(&config(PLAIN, &origin, service.addr(), &format!("{keys}, {PATIENT}")));
    let mut client = PLAIN.connect(&gateway);
    assert_eq!(client.ask("GET", "/", &[("x-user", "ann")]).status, 200, "the filter is not for it");
    assert_eq!(client.ask("POST", "/", &[]).status, 200, "there is nothing to say about it");
    assert!(!service.has_been_asked() && service.connections() == 0);
    assert_eq!((client.ask("POST", "/", &[("x-user", "ann")]).status, results(&gateway)), (429, [0.0, 1.0, 0.0, 0.0]));
}

#[test]
fn the_destination_that_a_service_is_told_is_where_the_request_goes() {
    let (one, two, service) = (Origin::start("one"), Origin::start("two"), LimitService::saying(Says::ok()));
    let limit = format!(
        "{{ global_rate_limit = {{ domain = 'd', cluster = 'limits', descriptors = [[{{ destination_cluster = {{}} }}]], {PATIENT} }} }}"
    );
    let config = Config::new()
        .listener("web", &format!("filters = [{limit}]"))
        .cluster("one", &[one.addr()], "")
        .cluster("two", &[two.addr()], "")
        .cluster("limits", &[service.addr()], "protocol = 'h2'")
        .route("all", "match = { path = '/' }\nclusters = [{ name = 'one', weight = 1 }, { name = 'two', weight = 1 }]")
        .route("here", "match = { path = '/here' }\nrespond = { status = 200, body = 'here' }");
    let gateway = Gateway::start(&config);
    let mut client = PLAIN.connect(&gateway);
    for _ in 0..30 {
        let went = client.get("/").text().to_owned();
        assert_eq!(entries(&service.asked().request.descriptors), [format!("destination_cluster={went}")]);
    }
    assert!(one.requests() > 0 && two.requests() > 0);
    assert_eq!(client.get("/here").text(), "here");
    assert_eq!(client.get("/nowhere").status, 404);
    assert!(!service.has_been_asked());
}

#[test]
fn requests_of_many_clients_share_a_connection_to_the_service() {
    let (origin, service) = (Origin::start("a"), LimitService::saying(Says::ok()));
    let keys = format!("descriptors = [[{{ generic_key = {{ value = 'all' }} }}]], {PATIENT}");
    let gateway = Gateway::start(&config(PLAIN, &origin, service.addr(), &keys).gateway("workers = 1"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = PLAIN.connect(&gateway);
                (0..20).for_each(|_| assert_eq!(client.get("/").text(), "a"));
            });
        }
    });
    assert_eq!((service.connections(), results(&gateway)), (1, [160.0, 0.0, 0.0, 0.0]));
}

#[test]
fn a_service_that_comes_back_is_asked_again() {
    let origin = Origin::start("a");
    let service = LimitService::saying(Says::over_limit());
    let gateway = start(PLAIN, &origin, service.addr(), PATIENT);
    let mut client = PLAIN.connect(&gateway);
    assert_eq!(client.get("/").status, 429);
    let addr = service.addr();
    drop(service);
    wait::until_true("requests to pass", || client.get("/").status == 200);
    let _service = LimitService::start_at(addr, |_| Says::over_limit());
    wait::until_true("requests to be refused", || client.get("/").status == 429);
}

#[test]
fn the_access_log_says_why_a_request_was_refused() {
    let (dir, origin) = (tempfile::tempdir().expect("a temporary directory"), Origin::start("a"));
    for (says, line) in
        [(Says::over_limit(), "429 RL request_rate_limited\n"), (Says::Garbage, "500 RLSE rate_limiter_error\n")]
    {
        let service = LimitService::saying(says);
        let path = dir.path().join(line.split(' ').next().unwrap_or_default());
        let format = r"%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n";
        let log = format!("[access_log]\npath = '{}'\nformat = \"{format}\"", path.display());
        let keys = format!("descriptors = [[{{ remote_address = {{}} }}]], deny_on_error = true, {PATIENT}");
        let gateway = Gateway::start(&config(PLAIN, &origin, service.addr(), &keys).tables(&log));
        PLAIN.connect(&gateway).get("/");
        wait::until_true("the line", || std::fs::read_to_string(&path).is_ok_and(|text| text == line));
    }
}
