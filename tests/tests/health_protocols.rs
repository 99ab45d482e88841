//! Health checks over TLS, HTTP/2 and gRPC: endpoints are asked in the way in which they are used.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use gateway_tests::certs::{Authority, Store};
use gateway_tests::conn::Framing;
use gateway_tests::ports::{any_port, loopback};
use gateway_tests::prelude::*;
use gateway_tests::process::Process;
use gateway_tests::tls::TlsServer;

/// Quick checks, of which one decides.
const QUICK: &str = "interval = '20ms', healthy = 1, unhealthy = 1";

fn config(endpoints: &[SocketAddr], cluster: &str, check: &str) -> Config {
    let lines = format!("{cluster}\nhealth_check = {{ {check}, {QUICK} }}\n");
    Config::new().listener("web", "").cluster("origin", endpoints, &lines).route("all", "cluster = 'origin'")
}

fn is_healthy(gateway: &Gateway, endpoint: SocketAddr) -> bool {
    gateway.metrics().sum("gateway_cluster_endpoint_healthy", &[("endpoint", &endpoint.to_string())]) == 1.0
}

/// What the gateway's log says about an endpoint that is unhealthy.
fn why_unhealthy(gateway: &Gateway, endpoint: SocketAddr) -> String {
    let begin = format!("endpoint {endpoint} is unhealthy: ");
    let why = wait::until("the log to say why", || {
        let log = gateway.process.stderr.text();
        log.lines().find_map(|line| line.split_once(&begin).map(|(_, why)| why.to_owned()))
    });
    let shown: serde_json::Value = serde_json::from_str(gateway.admin_get("/endpoints").text()).expect("JSON");
    let shown = shown.as_array().into_iter().flatten().find(|shown| shown["address"] == endpoint.to_string());
    assert_eq!(shown.expect("the endpoint")["unhealthy_because"], why.as_str());
    why
}

/// Who answers twenty requests; all of them have to be answered well.
fn answering(gateway: &Gateway) -> BTreeSet<String> {
    let answers = (0..20).map(|_| gateway.get("/"));
    answers
        .map(|answer| (answer.status, answer.text().to_owned()))
        .map(|(status, text)| match status {
            200 => text,
            _ => panic!("{status} {text}"),
        })
        .collect()
}

fn trusting(store: &Store) -> String {
    format!("tls = {{ server_name = 'api.test', ca = '{}' }}", store.path().join("ca.pem").display())
}

#[test]
fn endpoints_are_asked_in_the_version_and_with_the_tls_that_requests_have() {
    let store = Store::new();
    let leaf = store.issue("api", &["api.test"]);
    let tls = trusting(&store);
    let server = |alpn: &[&str]| Origin::start_tls("up", TlsServer::new(&leaf, alpn));
    let cases = [
        (Origin::start("up"), "protocol = 'h2'".to_owned()),
        (server(&["h2"]), format!("protocol = 'h2'\n{tls}")),
        (server(&["h2", "http/1.1"]), format!("protocol = 'auto'\n{tls}")),
        (server(&["http/1.1"]), format!("protocol = 'auto'\n{tls}")),
        (server(&["http/1.1"]), format!("protocol = 'h1'\n{tls}")),
    ];
    for (origin, cluster) in cases {
        let mut gateway =
            Gateway::start(&config(&[origin.addr()], &cluster, "protocol = 'http', path = '/status/200'"));
        wait::until_true("checks", || origin.requests() >= 3);
        assert!(is_healthy(&gateway, origin.addr()), "{cluster}: {}", gateway.process.stderr.text());
        assert_eq!(gateway.get("/").text(), "up", "{cluster}");
        gateway.reload(&config(&[origin.addr()], &cluster, "protocol = 'http', path = '/status/503'"));
        let expected = format!("{} answers /status/503 with 503", origin.addr());
        assert_eq!(why_unhealthy(&gateway, origin.addr()), expected, "{cluster}");
        assert!(!is_healthy(&gateway, origin.addr()), "{cluster}");
    }
}

#[test]
fn an_endpoint_with_a_certificate_that_is_not_trusted_gets_nothing() {
    let (store, stranger) = (Store::new(), Authority::new());
    let trusted = Origin::start_tls("trusted", TlsServer::new(&store.issue("api", &["api.test"]), &["http/1.1"]));
    let other = Origin::start_tls("other", TlsServer::new(&stranger.leaf(&["api.test"]), &["http/1.1"]));
    for check in ["protocol = 'tls'", "protocol = 'http'"] {
        let endpoints = [trusted.addr(), other.addr()];
        let gateway = Gateway::start(&config(&endpoints, &trusting(&store), check));
        let expected = format!("no TLS with {}: invalid peer certificate: ", other.addr());
        let why = why_unhealthy(&gateway, other.addr());
        assert!(why.starts_with(&expected), "{why}");
        assert_eq!(answering(&gateway), BTreeSet::from(["trusted".to_owned()]));
        assert_eq!(gateway.metrics().sum("gateway_cluster_connect_failures_total", &[]), 0.0, "nobody was sent there");
    }
    assert_eq!(other.requests(), 0);
}

/// Says nothing, whatever comes.
fn hear_out(mut conn: Conn) {
    let _ = conn.body(Framing::UntilClose, &mut |_| ());
}

#[test]
fn an_endpoint_that_says_something_else_or_nothing_gets_no_requests() {
    let good = Origin::start("good");
    let garbage = Script::start(|mut conn| {
        conn.try_send("220 mail.test ESMTP ready, and in no hurry at all to say more\r\n");
        hear_out(conn);
    });
    let silent = Script::start(hear_out);
    let endpoints = [good.addr(), garbage.addr(), silent.addr()];
    for check in ["protocol = 'http'", "protocol = 'http', http = 'h2'"] {
        let check = format!("{check}, timeout = '300ms'");
        let gateway = Gateway::start(&config(&endpoints, "panic_threshold = 0", &check));
        let why = why_unhealthy(&gateway, garbage.addr());
        assert!(why.starts_with(&format!("no answer of HTTP from {}: ", garbage.addr())), "{why}");
        assert_eq!(why_unhealthy(&gateway, silent.addr()), "no answer within 300ms");
        assert_eq!(answering(&gateway), BTreeSet::from(["good".to_owned()]), "{check}");
        assert!(silent.open() <= 1, "one check at a time: {} open", silent.open());
    }
    let tls = Gateway::start(&config(&endpoints, "", "protocol = 'tls', tls = { verify = false }, timeout = '300ms'"));
    for (endpoint, expected) in [(garbage.addr(), "no TLS with "), (silent.addr(), "no answer within 300ms")] {
        let why = why_unhealthy(&tls, endpoint);
        assert!(why.starts_with(expected), "{why}");
    }
}

/// gRPC's own stack with its health service: it is well while the file is there.
const GRPC: &str = r#"
import grpc, os, sys, threading
from concurrent import futures

flag, address, directory = sys.argv[1].split(",")

def check(request, context):
    # grpc.health.v1.HealthCheckRequest { service = 1 }, HealthCheckResponse { status = 1 }
    if request not in (b"", b"\x0a\x09test.Echo"):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return b"\x08\x01" if os.path.exists(flag) else b"\x08\x02"

handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
server = grpc.server(futures.ThreadPoolExecutor(4))
if directory:
    read = lambda name: open(os.path.join(directory, name), "rb").read()
    credentials = grpc.ssl_server_credentials([(read("api.key"), read("api.pem"))])
    port = server.add_secure_port(address, credentials)
else:
    port = server.add_insecure_port(address)
if os.path.exists(flag + ".service"):
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
server.start()
print("PORT", port, flush=True)
threading.Event().wait()
"#;

/// A server of which the file `flag` says whether it is well, within TLS where `certs` has a certificate `api`.
fn start_grpc(flag: &Path, certs: Option<&Path>) -> (Process, SocketAddr) {
    let certs = certs.map_or_else(String::new, |directory| directory.display().to_string());
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", GRPC, &format!("{},{},{certs}", flag.display(), any_port())]);
    let server = Process::start(command);
    let line = server.stdout.find("the server's port", |line| line.starts_with("PORT "));
    let line = line.unwrap_or_else(|| panic!("no server: {}", server.stderr.text()));
    let port = line["PORT ".len()..].parse().expect("a port");
    (server, SocketAddr::new(loopback(), port))
}

#[test]
fn a_grpc_server_that_stops_serving_and_serves_again_is_seen() {
    let store = Store::new();
    store.issue("api", &["api.test"]);
    let flag = store.path().join("well");
    std::fs::write(&flag, "").expect("write a file");
    std::fs::write(store.path().join("well.service"), "").expect("write a file");
    let tls = format!("protocol = 'h2'\n{}", trusting(&store));
    for (certs, cluster) in [(None, "protocol = 'h2'"), (Some(store.path()), tls.as_str())] {
        let (mut server, addr) = start_grpc(&flag, certs);
        let serving = config(&[addr], cluster, "protocol = 'grpc', service = 'test.Echo'");
        let mut gateway = Gateway::start(&serving);
        assert!(is_healthy(&gateway, addr), "{}", gateway.process.stderr.text());

        std::fs::remove_file(&flag).expect("remove a file");
        let expected = format!("{addr} answers the gRPC health check with NOT_SERVING");
        assert_eq!(why_unhealthy(&gateway, addr), expected);
        assert!(!is_healthy(&gateway, addr));

        std::fs::write(&flag, "").expect("write a file");
        wait::until_true("the server to be well again", || is_healthy(&gateway, addr));

        gateway.reload(&config(&[addr], cluster, "protocol = 'grpc', service = 'test.Other'"));
        let why = "grpc-status 5 (NOT_FOUND): it does not know this service, \"unknown service\"";
        gateway.process.stderr.find("the reason", |line| line.ends_with(why));
        assert!(!is_healthy(&gateway, addr));
        gateway.reload(&config(&[addr], cluster, "protocol = 'grpc'"));
        wait::until_true("the server as a whole to be well", || is_healthy(&gateway, addr));
        server.signal(libc::SIGKILL);
        server.wait_exit(wait::DEADLINE);
    }
}

#[test]
fn a_grpc_server_without_a_health_service_is_unhealthy_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut server, addr) = start_grpc(&directory.path().join("well"), None);
    let gateway = Gateway::start(&config(&[addr], "protocol = 'h2'", "protocol = 'grpc'"));
    let why = why_unhealthy(&gateway, addr);
    let expected = "with grpc-status 12 (UNIMPLEMENTED): it has no grpc.health.v1.Health";
    assert!(why.contains(expected), "{why}");
    server.signal(libc::SIGKILL);
    server.wait_exit(wait::DEADLINE);
}
