//! The same requests through Envoy and through a gateway with an equal configuration: what clients are told, and what the
//! access log says of it, is the same. Where it is not, [`DIFFERENCES`] says why.

mod cases;
mod differences;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use gateway::proto::rate_limit_service::{
    self, Code, DescriptorStatus, RateLimit, RateLimitRequest, RateLimitResponse, Unit,
};
use gateway_tests::envoy::{self, Envoy, TYPES};
use gateway_tests::h2::Options;
use gateway_tests::limit_service::{LimitService, Says};
use gateway_tests::origin::{Served, serve};
use gateway_tests::ports::{HeldPort, StuckPort};
use gateway_tests::prelude::*;

use cases::{CASES, Case};
use differences::{DIFFERENCES, Difference};

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
        "/later" if flaky.fetch_add(1, SeqCst).is_multiple_of(2) => {
            served.answer(503, &[("retry-after", "1")], b"ill");
        }
        "/much-later" => _ = served.answer(503, &[("retry-after", "60")], b"ill"),
        "/attempt" => match served.head.header("x-envoy-attempt-count") {
            Some("1") => _ = served.answer(503, &[], b"ill"),
            count => {
                let told = format!("well after {count:?}");
                served.answer(200, &[], told.as_bytes());
            }
        },
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
        duration_until_reset: Some(rate_limit_service::Duration { seconds: 30, nanos: 0 }),
    };
    RateLimitResponse { overall_code: code.into(), statuses: vec![status], ..RateLimitResponse::default() }.into()
}

/// One line for each request, which begins with the case and its path.
const LOG_FORMAT: &str = "%REQ(X-CASE)% %REQ(:PATH)%: %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%";

/// The route, where every answer says how often its request was sent, as every answer of Envoy's virtual host.
fn counting(route: &str) -> String {
    const COUNTS: &str = "attempt_count_in_request = true, attempt_count_in_response = true";
    match route.contains("retry = { ") {
        true => route.replace("retry = { ", &format!("retry = {{ {COUNTS}, ")),
        false if route.starts_with("cluster") => format!("{route}\nretry = {{ {COUNTS} }}"),
        false => route.to_owned(),
    }
}

fn gateway_config(behind: &Behind, log: &Path) -> Config {
    let origin = [behind.origin.addr()];
    let config = Config::new()
        .gateway("workers = 1")
        .tables(&format!("[access_log]\npath = '{}'\nformat = '{LOG_FORMAT}'", log.display()))
        .listener("web", "")
        .cluster("origin", &origin, "")
        .cluster("h2", &origin, "protocol = 'h2'")
        .cluster("one", &origin, "max_requests = 1")
        .cluster("narrow", &origin, "max_connections = 1\nmax_pending_requests = 1")
        .cluster("empty", &[], "")
        .cluster("nobody", &[behind.nobody.addr()], "")
        .cluster("stuck", &[behind.stuck.addr()], "connect_timeout = '200ms'")
        .cluster("limits", &[behind.limits.addr()], "protocol = 'h2'");
    CASES.iter().filter(|case| !case.gateway.is_empty()).fold(config, |config, case| {
        let name = case.name.replace([' ', ','], "-");
        config.route(
            &name,
            &format!("match = {{ headers = {{ x-case = '{}' }} }}\n{}", case.name, counting(case.gateway)),
        )
    })
}

fn envoy_config(behind: &Behind, log: &Path, listen: SocketAddr) -> String {
    let origin = [behind.origin.addr()];
    let clusters = [
        envoy::cluster("origin", &origin, Http::H1, ""),
        envoy::cluster("h2", &origin, Http::H2, ""),
        envoy::cluster("one", &origin, Http::H1, "circuit_breakers: {thresholds: [{max_requests: 1}]},"),
        envoy::cluster(
            "narrow",
            &origin,
            Http::H1,
            "circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 1}]},",
        ),
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
    ];
    let manager = format!("use_remote_address: true, {}", envoy::access_log(log, LOG_FORMAT));
    let routes = format!(
        "{{virtual_hosts: [{{name: all, domains: ['*'], include_request_attempt_count: true, \
         include_attempt_count_in_response: true, routes: [{}]}}]}}",
        routes.join(", ")
    );
    envoy::config(listen, &manager, &filters, &routes, &clusters)
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
    let connect = || AnyClient::connect(client.http, proxy);
    let (mut connection, mut others) = (connect(), Vec::from_iter((0..case.others).map(|_| connect())));
    let mut waiting = Vec::new();
    if case.others > 0 {
        // What comes on connections that were served before is read in the order in which it was sent.
        others.iter_mut().chain([&mut connection]).for_each(|connection| _ = connection.get("/"));
    }
    for other in &mut others {
        waiting.push(other.start_empty("GET", "/hang", &fields));
        wait::until_true("the first of the others at the origin", || behind.hanging.load(SeqCst) == 1);
    }
    let mut said = Said::new();
    for _ in 0..case.requests {
        let method = if client.fields.is_empty() { "GET" } else { "POST" };
        let begun = Instant::now();
        let response = connection.ask(method, case.path, &fields);
        assert!(begun.elapsed() >= Duration::from_secs(case.at_least_s), "{}: after {:?}", case.name, begun.elapsed());
        note(&mut said, &response);
    }
    drop(waiting);
    // A FIN alone ends an HTTP/1.1 client's request in Envoy; the gateway still answers it. Those that came last leave first.
    for other in others.into_iter().rev() {
        match other {
            AnyClient::H1(other) => other.reset(),
            AnyClient::H2(other) => drop(other),
        }
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
