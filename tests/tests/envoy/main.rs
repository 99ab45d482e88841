//! The same requests through Envoy and through a gateway with an equal configuration: what clients are told, and what the
//! access log says of it, is the same. Where it is not, [`DIFFERENCES`] says why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use gateway::proto::rate_limit_service::{
    Code, DescriptorStatus, Duration, RateLimit, RateLimitRequest, RateLimitResponse, Unit,
};
use gateway_tests::envoy::{self, Envoy, TYPES};
use gateway_tests::h2::Options;
use gateway_tests::limit_service::{LimitService, Says};
use gateway_tests::origin::{Served, serve};
use gateway_tests::ports::{HeldPort, StuckPort};
use gateway_tests::prelude::*;

/// A route of both, for requests whose `x-case` is its name, and what is asked of it.
struct Case {
    name: &'static str,
    /// The gateway's route, without `match`. Empty: there is none.
    gateway: &'static str,
    /// Envoy's route, without `match`.
    envoy: &'static str,
    path: &'static str,
    /// How many requests follow each other.
    requests: usize,
    /// Whether another request is with the origin meanwhile.
    beside_another: bool,
}

const fn case(name: &'static str, path: &'static str, gateway: &'static str, envoy: &'static str) -> Case {
    Case { name, gateway, envoy, path, requests: 1, beside_another: false }
}

/// `retry = { attempts = 0 }` where Envoy has no `retry_policy`: the gateway's default is Istio's. `non_idempotent`, because
/// Envoy repeats any method.
const CASES: &[Case] = &[
    case("served", "/", "cluster = 'origin'", "route: {cluster: origin}"),
    case("no route", "/", "", ""),
    case(
        "redirect",
        "/a?b=c",
        "redirect = { scheme = 'https', host = 'www.example.com', status = 308 }",
        "redirect: {https_redirect: true, host_redirect: www.example.com, response_code: PERMANENT_REDIRECT}",
    ),
    case(
        "direct response",
        "/",
        "respond = { status = 410, body = 'not here' }",
        "direct_response: {status: 410, body: {inline_string: not here}}",
    ),
    case("no endpoint", "/", "cluster = 'empty'", "route: {cluster: empty}"),
    case("connection refused", "/", "cluster = 'nobody'\nretry = { attempts = 0 }", "route: {cluster: nobody}"),
    case(
        "connection refused twice",
        "/",
        "cluster = 'nobody'\nretry = { on = ['connect-failure'], attempts = 1 }",
        "route: {cluster: nobody, retry_policy: {retry_on: connect-failure, num_retries: 1}}",
    ),
    case("connect timeout", "/", "cluster = 'stuck'\nretry = { attempts = 0 }", "route: {cluster: stuck}"),
    case("timeout", "/hang", "cluster = 'origin'\ntimeout = '200ms'", "route: {cluster: origin, timeout: 0.2s}"),
    case(
        "timeout of each try",
        "/hang",
        "cluster = 'origin'\nretry = { on = ['gateway-error'], non_idempotent = true, attempts = 1, \
         per_try_timeout = '200ms' }",
        "route: {cluster: origin, retry_policy: {retry_on: gateway-error, num_retries: 1, per_try_timeout: 0.2s}}",
    ),
    case("reset", "/cut", "cluster = 'origin'\nretry = { attempts = 0 }", "route: {cluster: origin}"),
    case("reset of a stream", "/cut", "cluster = 'h2'\nretry = { attempts = 0 }", "route: {cluster: h2}"),
    case(
        "error, then success",
        "/flaky",
        "cluster = 'origin'\nretry = { on = ['5xx'], non_idempotent = true, attempts = 1 }",
        "route: {cluster: origin, retry_policy: {retry_on: 5xx, num_retries: 1}}",
    ),
    case(
        "errors only",
        "/503",
        "cluster = 'origin'\nretry = { on = ['5xx'], non_idempotent = true, attempts = 1 }",
        "route: {cluster: origin, retry_policy: {retry_on: 5xx, num_retries: 1}}",
    ),
    Case {
        beside_another: true,
        ..case("overflow", "/", "cluster = 'one'\nretry = { attempts = 0 }", "route: {cluster: one}")
    },
    Case {
        requests: 2,
        ..case(
            "local limit",
            "/",
            "cluster = 'origin'\nfilters = [{ rate_limit = { requests = 1, per = '1h', ratelimit_headers = true } }]",
            "route: {cluster: origin}, typed_per_filter_config: {local: {'@type': TYPES.filters.http.local_ratelimit.v3.\
             LocalRateLimit, stat_prefix: local, enable_x_ratelimit_headers: DRAFT_VERSION_03, \
             token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 3600s}, \
             filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}}}",
        )
    },
    case(
        "global limit, within",
        "/",
        "cluster = 'origin'\nfilters = [{ global_rate_limit = { domain = 'edge', cluster = 'limits', timeout = '10s', \
         ratelimit_headers = true, descriptors = [[{ generic_key = { value = 'ok' } }]] } }]",
        "route: {cluster: origin, rate_limits: [{actions: [{generic_key: {descriptor_value: ok}}]}]}",
    ),
    case(
        "global limit, over",
        "/",
        "cluster = 'origin'\nfilters = [{ global_rate_limit = { domain = 'edge', cluster = 'limits', timeout = '10s', \
         ratelimit_headers = true, descriptors = [[{ generic_key = { value = 'over' } }]] } }]",
        "route: {cluster: origin, rate_limits: [{actions: [{generic_key: {descriptor_value: over}}]}]}",
    ),
    case(
        "global limit, error allowed",
        "/",
        "cluster = 'origin'\nfilters = [{ global_rate_limit = { domain = 'edge', cluster = 'limits', timeout = '10s', \
         ratelimit_headers = true, descriptors = [[{ generic_key = { value = 'error' } }]] } }]",
        "route: {cluster: origin, rate_limits: [{actions: [{generic_key: {descriptor_value: error}}]}]}",
    ),
    case(
        "global limit, error denied",
        "/",
        "cluster = 'origin'\nfilters = [{ global_rate_limit = { domain = 'edge', cluster = 'limits', timeout = '10s', \
         deny_on_error = true, descriptors = [[{ generic_key = { value = 'error' } }]] } }]",
        "route: {cluster: origin, rate_limits: [{stage: 1, actions: [{generic_key: {descriptor_value: error}}]}]}",
    ),
    case(
        "abort",
        "/",
        "cluster = 'origin'\nfilters = [{ fault = { abort = { percent = 100, status = 418 } } }]",
        "route: {cluster: origin}, typed_per_filter_config: {fault: {'@type': TYPES.filters.http.fault.v3.HTTPFault, \
         abort: {http_status: 418, percentage: {numerator: 100}}}}",
    ),
    case(
        "delay",
        "/",
        "cluster = 'origin'\nfilters = [{ fault = { delay = { percent = 100, for = '50ms' } } }]",
        "route: {cluster: origin}, typed_per_filter_config: {fault: {'@type': TYPES.filters.http.fault.v3.HTTPFault, \
         delay: {fixed_delay: 0.05s, percentage: {numerator: 100}}}}",
    ),
];

/// Where the two differ.
struct Difference {
    /// Names of [`CLIENTS`].
    clients: &'static [&'static str],
    case: &'static str,
    field: &'static str,
    gateway: &'static str,
    envoy: &'static str,
    #[expect(dead_code, reason = "for the reader")]
    why: &'static str,
}

impl Difference {
    fn for_each_client(&self) -> impl Iterator<Item = [String; 5]> {
        self.clients.iter().map(|client| [client, self.case, self.field, self.gateway, self.envoy].map(str::to_owned))
    }
}

const NO_SYSTEM_TEXT: &str = "details are a closed set of texts, without what the operating system says";
const REDIRECTS_STAY: &str =
    "a redirect is the same for all; Envoy's grpc-status 2 without a message hides the location";

const DIFFERENCES: &[Difference] = &[
    Difference {
        clients: &["h1", "h2"],
        case: "connection refused",
        field: "log",
        gateway: "503 UF upstream_reset_before_response_started{remote_connection_failure}",
        envoy: "503 UF upstream_reset_before_response_started{remote_connection_failure|\
                delayed_connect_error:_Connection_refused}",
        why: NO_SYSTEM_TEXT,
    },
    Difference {
        clients: &["h1", "h2"],
        case: "connection refused twice",
        field: "log",
        gateway: "503 URX,UF upstream_reset_before_response_started{remote_connection_failure}",
        envoy: "503 URX,UF upstream_reset_before_response_started{remote_connection_failure|\
                delayed_connect_error:_Connection_refused}",
        why: NO_SYSTEM_TEXT,
    },
    Difference {
        clients: &["grpc"],
        case: "connection refused",
        field: "log",
        gateway: "200 UF upstream_reset_before_response_started{remote_connection_failure}",
        envoy: "200 UF upstream_reset_before_response_started{remote_connection_failure|\
                delayed_connect_error:_Connection_refused}",
        why: NO_SYSTEM_TEXT,
    },
    Difference {
        clients: &["grpc"],
        case: "connection refused twice",
        field: "log",
        gateway: "200 URX,UF upstream_reset_before_response_started{remote_connection_failure}",
        envoy: "200 URX,UF upstream_reset_before_response_started{remote_connection_failure|\
                delayed_connect_error:_Connection_refused}",
        why: NO_SYSTEM_TEXT,
    },
    Difference {
        clients: &["grpc"],
        case: "redirect",
        field: "status",
        gateway: "308",
        envoy: "200",
        why: REDIRECTS_STAY,
    },
    Difference {
        clients: &["grpc"],
        case: "redirect",
        field: "content-type",
        gateway: "-",
        envoy: "application/grpc",
        why: REDIRECTS_STAY,
    },
    Difference {
        clients: &["grpc"],
        case: "redirect",
        field: "grpc-status",
        gateway: "-",
        envoy: "2",
        why: REDIRECTS_STAY,
    },
    Difference {
        clients: &["grpc"],
        case: "redirect",
        field: "log",
        gateway: "308 - direct_response",
        envoy: "200 - direct_response",
        why: REDIRECTS_STAY,
    },
];

/// What is no answer's meaning: another each time (`date`, `x-request-id`, `x-envoy-upstream-service-time`), the program's name
/// (`server`), or what follows from the body, which is compared (`content-length`: Envoy leaves out 0 over HTTP/2).
const NOT_COMPARED: [&str; 5] = ["date", "server", "x-request-id", "x-envoy-upstream-service-time", "content-length"];

/// What a proxy is in front of.
struct Behind {
    origin: Script,
    /// Requests that the origin leaves without an answer now.
    hanging: Arc<AtomicUsize>,
    limits: LimitService,
    nobody: HeldPort,
    stuck: StuckPort,
}

impl Behind {
    fn start() -> Behind {
        let (hanging, asked) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let count = hanging.clone();
        let origin = Script::start(move |conn| {
            serve(conn, &Options::default(), &|served| answer(served, &count, &asked));
        });
        let limits = LimitService::start(verdict);
        Behind { origin, hanging, limits, nobody: HeldPort::new(), stuck: StuckPort::new() }
    }
}

fn answer(served: &mut Served<'_>, hanging: &AtomicUsize, flaky: &AtomicUsize) {
    if served.body(&mut |_| ()).is_err() {
        return;
    }
    match served.path() {
        "/hang" => {
            hanging.fetch_add(1, SeqCst);
            served.wait_given_up();
            hanging.fetch_sub(1, SeqCst);
        }
        "/cut" => served.cut(),
        "/503" => _ = served.answer(503, &[], b"ill"),
        "/flaky" if flaky.fetch_add(1, SeqCst).is_multiple_of(2) => _ = served.answer(503, &[], b"ill"),
        _ => _ = served.answer(200, &[], b"well"),
    }
}

/// What the service says of a descriptor's value.
fn verdict(asked: &RateLimitRequest) -> Says {
    let code = match asked.descriptors[0].entries[0].value.as_str() {
        "ok" => Code::Ok,
        "over" => Code::OverLimit,
        _ => return Says::Grpc("14"),
    };
    let limit = RateLimit { name: String::new(), requests_per_unit: 10, unit: Unit::Minute.into() };
    let status = DescriptorStatus {
        code: code.into(),
        current_limit: Some(limit),
        limit_remaining: 4,
        duration_until_reset: Some(Duration { seconds: 30, nanos: 0 }),
    };
    RateLimitResponse { overall_code: code.into(), statuses: vec![status], ..RateLimitResponse::default() }.into()
}

/// One line for each request, which begins with the case and its path.
const LOG_FORMAT: &str = "%REQ(X-CASE)% %REQ(:PATH)%: %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%";

fn gateway_config(behind: &Behind, log: &Path) -> Config {
    let origin = [behind.origin.addr()];
    let config = Config::new()
        .tables(&format!("[access_log]\npath = '{}'\nformat = '{LOG_FORMAT}'", log.display()))
        .listener("web", "")
        .cluster("origin", &origin, "")
        .cluster("h2", &origin, "protocol = 'h2'")
        .cluster("one", &origin, "max_requests = 1")
        .cluster("empty", &[], "")
        .cluster("nobody", &[behind.nobody.addr()], "")
        .cluster("stuck", &[behind.stuck.addr()], "connect_timeout = '200ms'")
        .cluster("limits", &[behind.limits.addr()], "protocol = 'h2'");
    CASES.iter().filter(|case| !case.gateway.is_empty()).fold(config, |config, case| {
        let name = case.name.replace([' ', ','], "-");
        config.route(&name, &format!("match = {{ headers = {{ x-case = '{}' }} }}\n{}", case.name, case.gateway))
    })
}

fn envoy_config(behind: &Behind, log: &Path, listen: SocketAddr) -> String {
    let origin = [behind.origin.addr()];
    let clusters = [
        envoy::cluster("origin", &origin, Http::H1, ""),
        envoy::cluster("h2", &origin, Http::H2, ""),
        envoy::cluster("one", &origin, Http::H1, "circuit_breakers: {thresholds: [{max_requests: 1}]},"),
        envoy::cluster("empty", &[], Http::H1, ""),
        envoy::cluster("nobody", &[behind.nobody.addr()], Http::H1, ""),
        envoy::cluster("stuck", &[behind.stuck.addr()], Http::H1, "connect_timeout: 0.2s,"),
        envoy::cluster("limits", &[behind.limits.addr()], Http::H2, ""),
    ];
    let routes: Vec<String> = CASES
        .iter()
        .filter(|case| !case.envoy.is_empty())
        .map(|case| {
            let action = case.envoy.replace("TYPES", TYPES);
            let header = format!("{{name: x-case, string_match: {{exact: '{}'}}}}", case.name);
            format!("{{match: {{prefix: /, headers: [{header}]}}, {action}}}")
        })
        .collect();
    // The two stages differ in what becomes of a request when the service fails.
    let global = |stage: u32, keys: &str| {
        format!(
            "{{name: global{stage}, typed_config: {{'@type': {TYPES}.filters.http.ratelimit.v3.RateLimit, domain: edge, \
             timeout: 10s, stage: {stage}, {keys}, rate_limit_service: {{transport_api_version: V3, \
             grpc_service: {{envoy_grpc: {{cluster_name: limits}}}}}}}}}}"
        )
    };
    let filters = [
        format!("{{name: fault, typed_config: {{'@type': {TYPES}.filters.http.fault.v3.HTTPFault}}}}"),
        format!(
            "{{name: local, typed_config: {{'@type': {TYPES}.filters.http.local_ratelimit.v3.LocalRateLimit, \
             stat_prefix: local}}}}"
        ),
        global(0, "enable_x_ratelimit_headers: DRAFT_VERSION_03"),
        global(1, "failure_mode_deny: true"),
        envoy::router(),
    ];
    format!(
        "static_resources:
  listeners:
  - name: web
    address: {listen}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': {TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          use_remote_address: true
          access_log: [{{name: file, typed_config: {{'@type': {TYPES}.access_loggers.file.v3.FileAccessLog, path: '{log}', \
                       log_format: {{text_format_source: {{inline_string: \"{LOG_FORMAT}\\n\"}}}}}}}}]
          http_filters: [{filters}]
          route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{routes}]}}]}}
  clusters: [{clusters}]
",
        listen = envoy::at(listen),
        log = log.display(),
        filters = filters.join(", "),
        routes = routes.join(", "),
        clusters = clusters.join(", "),
    )
}

/// Who asks.
#[derive(Clone, Copy)]
struct Asks {
    name: &'static str,
    http: Http,
    fields: &'static [(&'static str, &'static str)],
}

const CLIENTS: [Asks; 3] = [
    Asks { name: "h1", http: Http::H1, fields: &[] },
    Asks { name: "h2", http: Http::H2, fields: &[] },
    Asks { name: "grpc", http: Http::H2, fields: &[("content-type", "application/grpc"), ("te", "trailers")] },
];

/// What a proxy said to a case's requests, by field; one value for each request.
type Said = BTreeMap<String, Vec<String>>;

fn ask(client: Asks, case: &Case, proxy: SocketAddr, behind: &Behind) -> Said {
    let fields = [client.fields, &[("x-case", case.name)]].concat();
    let mut other = case.beside_another.then(|| AnyClient::connect(client.http, proxy));
    let others = other.as_mut().map(|other| other.start_empty("GET", "/hang", &fields));
    if others.is_some() {
        wait::until_true("the other request at the origin", || behind.hanging.load(SeqCst) == 1);
    }
    let mut connection = AnyClient::connect(client.http, proxy);
    let mut said = Said::new();
    for _ in 0..case.requests {
        let method = if client.fields.is_empty() { "GET" } else { "POST" };
        let response = connection.ask(method, case.path, &fields);
        note(&mut said, &response);
    }
    drop(others);
    // A FIN alone ends an HTTP/1.1 client's request in Envoy; the gateway still answers it.
    match other {
        Some(AnyClient::H1(other)) => other.reset(),
        other => drop(other),
    }
    wait::until_true("the origin to have nothing left", || behind.hanging.load(SeqCst) == 0);
    said
}

/// Asks for every case, and adds what the log says of it. The lines are read at the end: they are written each second.
fn ask_all(client: Asks, proxy: SocketAddr, log: &Path, behind: &Behind) -> Vec<Said> {
    let mut all: Vec<Said> = CASES.iter().map(|case| ask(client, case, proxy, behind)).collect();
    for (case, said) in CASES.iter().zip(&mut all) {
        let lines = wait::until("lines of the access log", || {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let of_case = |line: &str| {
                line.strip_prefix(case.name)?
                    .strip_prefix(' ')?
                    .strip_prefix(case.path)?
                    .strip_prefix(": ")
                    .map(str::to_owned)
            };
            let lines: Vec<String> = text.lines().filter_map(of_case).take(case.requests).collect();
            (lines.len() == case.requests && text.ends_with('\n')).then_some(lines)
        });
        said.insert("log".into(), lines);
    }
    all
}

fn note(said: &mut Said, response: &Response) {
    let mut add = |name: String, value: String| said.entry(name).or_default().push(value);
    add("status".into(), response.status.to_string());
    add("body".into(), response.text().to_owned());
    for (name, value) in response.head.headers.iter().chain(&response.trailers) {
        let name = name.to_ascii_lowercase();
        // Of an hour, some seconds have passed.
        let hour = name == "x-ratelimit-reset" && value.parse().is_ok_and(|seconds: u32| seconds > 3500);
        if !name.starts_with(':') && !NOT_COMPARED.contains(&name.as_str()) {
            add(name, if hour { "an hour".into() } else { value.clone() });
        }
    }
}

#[test]
#[ignore = "needs Envoy 1.40: `cargo xtask test --with-envoy`, or set GATEWAY_TEST_ENVOY to its path"]
fn answers_are_those_of_envoy_but_for_named_differences() {
    let mut found = BTreeSet::new();
    for client in CLIENTS {
        let (behind, dir) = (Behind::start(), tempfile::tempdir().expect("a temporary directory"));
        let [our_log, their_log] = ["gateway.log", "envoy.log"].map(|name| dir.path().join(name));
        let gateway = Gateway::start(&gateway_config(&behind, &our_log));
        let envoy = Envoy::start(|listen| envoy_config(&behind, &their_log, listen));
        let ours = ask_all(client, gateway.addr("web"), &our_log, &behind);
        let theirs = ask_all(client, envoy.addr(), &their_log, &behind);
        for (case, (ours, theirs)) in CASES.iter().zip(ours.iter().zip(&theirs)) {
            let fields: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            let show = |said: &Said, field: &str| said.get(field).map_or("-".into(), |values| values.join(" | "));
            for field in fields {
                let (our, their) = (show(ours, field), show(theirs, field));
                if our != their {
                    found.insert([client.name, case.name, field, &our, &their].map(str::to_owned));
                }
            }
        }
    }
    let known: BTreeSet<[String; 5]> = DIFFERENCES.iter().flat_map(Difference::for_each_client).collect();
    let (new, gone): (Vec<_>, Vec<_>) = (found.difference(&known).collect(), known.difference(&found).collect());
    assert!(new.is_empty() && gone.is_empty(), "not in DIFFERENCES: {new:#?}\nin it, but not found: {gone:#?}");
}
