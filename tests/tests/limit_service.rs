//! Limits that the box judges itself: for its own requests, and as a service for other proxies.

use std::net::SocketAddr;

use gateway::proto::grpc;
use gateway::proto::rate_limit_service::{Code, RateLimit, SHOULD_RATE_LIMIT, Unit};
use gateway_tests::envoy::{self, Envoy, TYPES};
use gateway_tests::every_pair;
use gateway_tests::h2::Client;
use gateway_tests::limit_client::{LimitClient, question};
use gateway_tests::prelude::*;
use gateway_tests::redis::Redis;

/// Windows of a month: none ends while a test runs, but once in a month.
const RULES: &str = "
domain: edge
descriptors:
  - key: user
    rate_limit: {unit: month, requests_per_unit: 3}
  - key: user
    value: root
    rate_limit: {unlimited: true}
  - key: path
    value: /admin*
    shadow_mode: true
    rate_limit: {unit: month, requests_per_unit: 0}
";

/// A gateway that answers the service on `limits`, by these rules. `keys` are more of its `[[limits]]`.
fn service(rules: &str, keys: &str) -> (Gateway, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("edge.yaml"), rules).unwrap();
    (Gateway::start(&config(&dir, keys)), dir)
}

fn config(dir: &tempfile::TempDir, keys: &str) -> Config {
    let files = dir.path().join("*.yaml");
    Config::new()
        .listener("limits", "http = ['h2']")
        .tables(&format!("[[limits]]\nname = 'shared'\nfiles = ['{}']\n{keys}", files.display()))
        .route("service", "listeners = ['limits']\nrate_limit_service = 'shared'")
}

fn client(gateway: &Gateway) -> LimitClient {
    LimitClient::connect(gateway.addr("limits"))
}

/// How many of `count` questions are within the limit.
fn within(client: &LimitClient, descriptor: &str, count: usize) -> usize {
    (0..count).filter(|_| client.is_within(descriptor)).count()
}

#[test]
fn descriptors_are_judged_by_the_rules_of_the_file() {
    let (gateway, _dir) = service(RULES, "");
    let client = client(&gateway);
    let first = client.ask(&["user=jane", "user=root", "path=/admin/x", "other=1"]);
    assert_eq!(first.overall_code(), Code::Ok);
    let limit = RateLimit { name: String::new(), requests_per_unit: 3, unit: Unit::Month.into() };
    let status = &first.statuses[0];
    assert_eq!((status.code(), status.limit_remaining, status.current_limit.as_ref()), (Code::Ok, 2, Some(&limit)));
    assert!((1..=30 * 86_400).contains(&status.duration_until_reset.unwrap().seconds));
    let left: Vec<_> = first.statuses[1..].iter().map(|status| (status.code(), status.limit_remaining)).collect();
    assert_eq!(left, [(Code::Ok, u32::MAX), (Code::Ok, 0), (Code::Ok, 0)]);
    assert_eq!(within(&client, "user=jane", 4), 2);
    let over = client.ask(&["user=root", "user=jane"]);
    assert_eq!(over.overall_code(), Code::OverLimit);
    assert_eq!(over.statuses.iter().map(|status| status.code()).collect::<Vec<_>>(), [Code::Ok, Code::OverLimit]);
    let metrics = gateway.metrics();
    let judged = |rule: &str, result: &str| {
        let rule = format!("shared/edge.{rule}");
        metrics.sum("gateway_limits_descriptors_total", &[("rule", &rule), ("result", result)])
    };
    assert_eq!([judged("user", "within"), judged("user", "over")], [3.0, 3.0]);
    assert_eq!([judged("user_root", "within"), judged("path_/admin*", "shadowed")], [2.0, 1.0]);
    assert_eq!(metrics.sum("gateway_limits_counters", &[("limits", "shared")]), 2.0);
}

#[test]
fn a_quota_is_that_of_the_box_however_many_connections_and_workers_ask() {
    let rules = RULES.replace("requests_per_unit: 3", "requests_per_unit: 100");
    let (gateway, _dir) = service(&rules, "");
    let within: usize = std::thread::scope(|scope| {
        let ask = || within(&client(&gateway), "user=jane", 50);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(within, 100);
}

#[test]
fn calls_that_make_no_sense_get_the_status_that_says_so() {
    let (gateway, _dir) = service(RULES, "");
    let client = client(&gateway);
    let message = grpc::encode_frame(&question(&["user=jane"]));
    let nameless = grpc::encode_frame(&gateway::proto::rate_limit_service::RateLimitRequest {
        domain: String::new(),
        ..question(&["user=jane"])
    });
    let long = vec![0; 65 * 1024];
    let cases: [(&str, &[u8], &str); 6] = [
        ("/envoy.service.ratelimit.v3.RateLimitService/Other", &message, "12"),
        (SHOULD_RATE_LIMIT, b"garbage", "13"),
        (SHOULD_RATE_LIMIT, &message[..message.len() - 1], "13"),
        (SHOULD_RATE_LIMIT, &nameless, "3"),
        (SHOULD_RATE_LIMIT, &grpc::encode_frame(&question(&[])), "3"),
        (SHOULD_RATE_LIMIT, &long, "2"),
    ];
    for (path, body, status) in cases {
        let response = client.call(path, body);
        assert_eq!((response.status, response.header("grpc-status")), (200, Some(status)), "{path} {response:?}");
    }
    let plain = Client::connect(gateway.addr("limits")).get(SHOULD_RATE_LIMIT);
    assert_eq!(plain.status, 415);
    assert!(client.is_within("user=jane"), "the connection is as good as before");
}

#[test]
fn a_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing() {
    let (gateway, dir) = service(RULES, "");
    let client = client(&gateway);
    let replace = |rules: &str| {
        std::fs::write(dir.path().join("new"), rules).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("edge.yaml")).unwrap();
    };
    assert_eq!(within(&client, "user=jane", 5), 3);
    replace(&RULES.replace("month, requests_per_unit: 3", "fortnight, requests_per_unit: 3"));
    let refused = gateway.admin_post("/reload");
    assert_eq!(refused.status, 400, "{}", refused.text());
    for part in ["\"fortnight\" is no unit of time", "edge.yaml:5:24", "one of `second`"] {
        assert!(refused.text().contains(part), "{part} in {}", refused.text());
    }
    assert!(!client.is_within("user=jane"));
    replace(&RULES.replace("requests_per_unit: 3", "requests_per_unit: 9"));
    // Nobody asks for it: the file is watched. What was counted before still counts.
    wait::until_true("the new rules to be in force", || left(&client) == 3);
    // A new file is a new domain.
    std::fs::write(dir.path().join("other.yaml"), "domain: other").unwrap();
    wait::until_true("the new file to be read", || gateway.admin_get("/config").text().contains("\"other\""));
}

// === The filter that judges by these rules ===

every_pair! {
    requests_over_a_limit_of_this_box_are_refused
}

fn requests_over_a_limit_of_this_box_are_refused(pair: Pair) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("edge.yaml"), RULES).unwrap();
    let origin = Origin::start("origin");
    let limit = "{ global_rate_limit = { domain = 'edge', limits = 'shared', ratelimit_headers = true, \
                 descriptors = [[{ request_headers = { header = 'x-user', key = 'user' } }]] } }";
    let config = config(&dir, "")
        .listener("web", "")
        .cluster("origin", &[origin.addr()], &format!("protocol = '{}'", pair.origin.name()))
        .route("all", &format!("listeners = ['web']\ncluster = 'origin'\nfilters = [{limit}]"));
    let gateway = Gateway::start(&config);
    let mut client = AnyClient::connect(pair.client, gateway.addr("web"));
    for left in ["2", "1", "0"] {
        let response = client.ask("GET", "/", &[("x-user", "jane")]);
        assert_eq!((response.status, response.header("x-ratelimit-remaining")), (200, Some(left)));
    }
    let refused = client.ask("GET", "/", &[("x-user", "jane")]);
    assert_eq!((refused.status, refused.header("x-envoy-ratelimited")), (429, Some("true")));
    assert_eq!(refused.header("x-ratelimit-limit").map(|text| text.split(',').next().unwrap()), Some("3"));
    let call = client.ask("POST", "/", &[("x-user", "jane"), ("content-type", "application/grpc")]);
    assert_eq!((call.status, call.header("grpc-status")), (200, Some("14")));
    for free in [&[("x-user", "root")][..], &[("x-user", "joe")], &[]] {
        assert_eq!(client.ask("GET", "/", free).status, 200, "{free:?}");
    }
    // The service and the filter count together.
    assert!(!LimitClient::connect(gateway.addr("limits")).is_within("user=jane"));
}

// === Several boxes ===

fn sharing(redis: SocketAddr, keys: &str) -> (Gateway, tempfile::TempDir) {
    let rules = RULES.replace("requests_per_unit: 3", "requests_per_unit: 10");
    service(&rules, &format!("redis = {{ address = '{redis}', interval = '50ms', {keys} }}"))
}

fn is_redis_up(gateway: &Gateway) -> bool {
    gateway.metrics().sum("gateway_limits_redis_up", &[("limits", "shared")]) == 1.0
}

/// Requests left to `user=jane`, asked about without counting.
fn left(client: &LimitClient) -> u32 {
    let mut asked = question(&["user=jane"]);
    asked.descriptors[0].hits_addend = Some(0);
    let response = client.call(SHOULD_RATE_LIMIT, &grpc::encode_frame(&asked));
    let answer: gateway::proto::rate_limit_service::RateLimitResponse = grpc::decode_frame(&response.body).unwrap();
    answer.statuses[0].limit_remaining
}

#[test]
fn two_boxes_share_a_quota_by_redis() {
    let redis = Redis::start(&["--requirepass", "hunter2"]);
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "hunter2\n").unwrap();
    let keys = format!("database = 3, password_file = '{}'", password.path().display());
    let ((a, _a), (b, _b)) = (sharing(redis.addr(), &keys), sharing(redis.addr(), &keys));
    let (on_a, on_b) = (client(&a), client(&b));
    assert_eq!((within(&on_a, "user=jane", 4), within(&on_b, "user=jane", 3)), (4, 3));
    wait::until_true("both boxes to know of all seven", || (left(&on_a), left(&on_b)) == (3, 3));
    assert_eq!(within(&on_a, "user=jane", 5), 3);
    wait::until_true("the other box to know", || left(&on_b) == 0);
    assert!(!on_b.is_within("user=jane"));
    assert!(on_b.is_within("user=joe"));
    let metrics = a.metrics();
    let shared = &[("limits", "shared")][..];
    assert!(metrics.sum("gateway_limits_redis_counters_told_total", shared) >= 2.0);
    assert_eq!(metrics.sum("gateway_limits_redis_counters_unshared_total", shared), 0.0);
    assert!(a.admin_get("/config").text().contains("[redacted]") && !a.admin_get("/config").text().contains("hunter2"));
}

#[test]
fn without_redis_each_box_goes_on_and_tells_it_everything_when_it_is_back() {
    let redis = Redis::start(&[]);
    let addr = redis.addr();
    let ((a, _a), (b, _b)) = (sharing(addr, ""), sharing(addr, ""));
    let (on_a, on_b) = (client(&a), client(&b));
    assert_eq!(within(&on_a, "user=jane", 4), 4);
    on_b.is_within("user=jane");
    wait::until_true("one box to know of all five", || left(&on_b) == 5);
    redis.kill();
    wait::until_true("both to see that it is away", || !is_redis_up(&a) && !is_redis_up(&b));
    assert_eq!((within(&on_b, "user=jane", 2), left(&on_b)), (2, 3), "what was known still counts");
    // It has forgotten everything, and whatever it knew it is told again.
    let _redis = Redis::start_at(addr, &[]);
    wait::until_true("both to see that it is back", || is_redis_up(&a) && is_redis_up(&b));
    wait::until_true("both boxes to know of all seven", || (left(&on_a), left(&on_b)) == (3, 3));
    let lines = |what: &str| a.process.stderr.lines().iter().filter(|line| line.contains(what)).count();
    assert_eq!((lines("this box goes on with what it knows"), lines("is back")), (1, 1));
}

// === Envoy as the client ===

#[test]
#[ignore = "needs Envoy 1.40: `cargo xtask test --with-envoy`, or set GATEWAY_TEST_ENVOY to its path"]
fn envoy_limits_by_the_service_of_the_box() {
    let (gateway, _dir) = service(RULES, "");
    let origin = Origin::start("origin");
    let envoy = Envoy::start(|listen| envoy_config(listen, gateway.addr("limits"), origin.addr()));
    let mut conn = Conn::connect(envoy.addr());
    let mut ask = |user: &str| conn.request("GET", "/", &format!("x-user: {user}\r\n"), b"");
    for left in ["2", "1", "0"] {
        let response = ask("jane");
        assert_eq!((response.status, response.header("x-ratelimit-remaining")), (200, Some(left)), "{response:?}");
    }
    let refused = ask("jane");
    assert_eq!((refused.status, refused.header("x-envoy-ratelimited")), (429, Some("true")), "{refused:?}");
    assert_eq!(refused.header("x-ratelimit-limit"), Some("3, 3;w=2592000"));
    assert_eq!(ask("root").status, 200);
    // With `failure_mode_deny` a service that Envoy does not understand would be a 500.
    assert!(!client(&gateway).is_within("user=jane"), "the box counted for Envoy");
}

fn envoy_config(listen: SocketAddr, service: SocketAddr, origin: SocketAddr) -> String {
    let clusters =
        [envoy::cluster("origin", &[origin], Http::H1, ""), envoy::cluster("limits", &[service], Http::H2, "")];
    let limit = format!(
        "{{name: limit, typed_config: {{'@type': {TYPES}.filters.http.ratelimit.v3.RateLimit, domain: edge, timeout: 10s, \
         failure_mode_deny: true, enable_x_ratelimit_headers: DRAFT_VERSION_03, \
         rate_limit_service: {{transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: limits}}}}}}}}}}"
    );
    let routes = "{virtual_hosts: [{name: all, domains: ['*'], \
                  rate_limits: [{actions: [{request_headers: {header_name: x-user, descriptor_key: user}}]}], \
                  routes: [{match: {prefix: /}, route: {cluster: origin}}]}]}";
    envoy::config(listen, "", &[limit], routes, &clusters)
}
