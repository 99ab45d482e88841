//! What `filters` mean.

use std::time::Duration;

use super::good::{config, inline, keys_with};
use crate::config::model::*;

fn filters(text: &str) -> Vec<Filter> {
    let file = format!("[[route]]\nname = \"r\"\nrespond = {{ status = 200 }}\nfilters = [{text}]\n");
    config(&file).routes.remove(0).filters
}

fn rate_limit(keys: &str) -> RateLimit {
    match filters(&format!("{{ rate_limit = {{ {keys} }} }}")).remove(0) {
        Filter::RateLimit(limit) => limit,
        other => panic!("{other:?}"),
    }
}

fn fault(keys: &str) -> Fault {
    match filters(&format!("{{ fault = {{ {keys} }} }}")).remove(0) {
        Filter::Fault(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_defaults_that_the_schema_shows_are_the_defaults() {
    let plain = "requests = 1, per = \"1s\", key = \"client_ip\"";
    let defaults = inline(&keys_with("default", "RateLimit"));
    assert_eq!(rate_limit(&format!("{plain}, {defaults}")), rate_limit(plain));
    let plain = "delay = { percent = 1, for = \"1s\" }";
    let defaults = inline(&keys_with("default", "Fault"));
    assert_eq!(fault(&format!("{plain}, {defaults}")), fault(plain));
}

#[test]
fn every_example_in_the_schema_is_accepted() {
    let limit = inline(&keys_with("examples", "RateLimit").replace(" = [", " = ").replace("]\n", "\n"));
    let limit = limit.replace("key = \"client_ip\", { header = \"x-api-key\" }", "key = \"client_ip\"");
    let over = inline(&keys_with("examples", "RateOverride").replace(" = [", " = ").replace("]\n", "\n"));
    let when = inline(&keys_with("examples", "When").replace(" = [", " = ").replace("]\n", "\n"));
    let limit = rate_limit(&format!("{limit}, match = {{ {when} }}, overrides = [{{ match = {{ {when} }}, {over} }}]"));
    assert_eq!((limit.name.as_str(), limit.overrides.len(), limit.when.hosts.len()), ("logins", 1, 1));
    for part in ["header", "query", "cookie"] {
        let key = keys_with("examples", "KeyTable").replace(" = [", " = ").replace("]\n", "\n");
        let key = key.lines().find(|line| line.starts_with(part)).unwrap();
        rate_limit(&format!("requests = 1, per = \"1s\", key = {{ {key} }}"));
    }
}

#[test]
fn a_rate_limit_is_read_in_full() {
    let limit = rate_limit(
        r#"name = "logins", requests = 100, per = "1m", burst = 20, key = "peer_ip", ipv4_prefix = 24, ipv6_prefix = 56,
           max_keys = 100, match = { hosts = ["*.a.test"], methods = ["POST"], client_ip = ["10.0.0.0/8"] },
           overrides = [{ match = { headers = { x-plan = "gold" } }, requests = 7, per = "2s" }],
           status = 503, body = "no", headers = { x-why = "rate" }, grpc_resource_exhausted = true,
           ratelimit_headers = true, dry_run = true"#,
    );
    let when = &limit.when;
    assert_eq!((when.hosts.len(), when.methods.len(), when.client_ip.len()), (1, 1, 1));
    assert_eq!(limit.overrides[0].quota, Quota { requests: 7, per: Duration::from_secs(2), burst: 7 });
    assert_eq!(limit.overrides[0].when.headers.len(), 1);
    let shown = RateLimit { when: When::default(), overrides: vec![], headers: vec![], ..limit.clone() };
    let expected = RateLimit {
        name: "logins".into(),
        when: When::default(),
        key: Some(RateKey::PeerIp(Prefixes { ipv4: 24, ipv6: 56 })),
        max_keys: 100,
        quota: Quota { requests: 100, per: Duration::from_secs(60), burst: 20 },
        overrides: vec![],
        status: 503,
        body: "no".into(),
        headers: vec![],
        grpc_resource_exhausted: true,
        ratelimit_headers: true,
        dry_run: true,
    };
    assert_eq!(shown, expected);
    assert_eq!(limit.headers[0].1, "rate");
}

#[test]
fn filters_without_a_name_are_called_by_their_place() {
    let limit = "{ rate_limit = { requests = 1, per = \"1s\" } }";
    let fault = "{ fault = { abort = { percent = 1, status = 503 } } }";
    let file = format!(
        "[[listener]]\nname = \"web\"\naddress = \"0.0.0.0:1\"\nfilters = [{limit}]\n\
         [[route]]\nname = \"r\"\nrespond = {{ status = 200 }}\nfilters = [{limit}, {fault}, {limit}]\n"
    );
    let config = config(&file);
    let names = |filters: &[Filter]| -> Vec<String> {
        let name = |filter: &Filter| match filter {
            Filter::RateLimit(limit) => limit.name.clone(),
            Filter::GlobalRateLimit(limit) => limit.name.clone(),
            Filter::Fault(fault) => fault.name.clone(),
        };
        filters.iter().map(name).collect()
    };
    assert_eq!(names(&config.listeners[0].filters), ["listener/web/0"]);
    assert_eq!(names(&config.routes[0].filters), ["route/r/0", "route/r/1", "route/r/2"]);
}

#[test]
fn a_fault_is_read_in_full() {
    let read = fault(
        r#"name = "slow", match = { headers = { x-test = { present = true } } }, delay = { percent = 0.0001, for = "2s" },
           abort = { percent = 12.5, grpc_status = 14 }, headers = true, max_active = 7"#,
    );
    assert_eq!(read.when.headers.len(), 1);
    let expected = Fault {
        name: "slow".into(),
        when: read.when.clone(),
        delay: Some(FaultDelay { share: Share(1), time: Some(Duration::from_secs(2)) }),
        abort: Some(FaultAbort { share: Share(125_000), with: Some(AbortStatus::Grpc(14)) }),
        headers: true,
        max_active: 7,
    };
    assert_eq!(read, expected);
    let asked = fault("delay = { percent = 100 }, abort = { percent = 100 }, headers = true");
    assert_eq!((asked.delay.unwrap().time, asked.abort.unwrap().with), (None, None));
    let http = fault("abort = { percent = 5, status = 503 }").abort.unwrap();
    assert_eq!(http, FaultAbort { share: Share(50_000), with: Some(AbortStatus::Http(503)) });
}

#[test]
fn mirrors_are_read_in_full() {
    let clusters = "[[cluster]]\nname = \"a\"\nendpoints = []\n[[cluster]]\nname = \"b\"\nendpoints = []\n";
    let mirrors = |lines: &str| {
        let file = format!("{clusters}[[route]]\nname = \"r\"\ncluster = \"a\"\n{lines}\n");
        config(&file).routes.remove(0).mirrors
    };
    assert_eq!(mirrors(""), None);
    let plain = Mirror { cluster: ClusterId(1), share: Share::ALL, shadow_host: true, max_active: 256 };
    let defaults = inline(&keys_with("default", "Mirror"));
    for keys in [String::new(), format!(", {defaults}")] {
        let read = mirrors(&format!("mirror = [{{ cluster = \"b\"{keys} }}]"));
        assert_eq!(read, Some(Mirrors { targets: vec![plain], body_bytes: 64 << 10 }));
    }
    let read = mirrors(
        "mirror = [{ cluster = \"a\", percent = 2.5, shadow_host = false, max_active = 3 }, { cluster = \"b\" }]\n\
         mirror_body_bytes = \"1MiB\"",
    );
    let first = Mirror { cluster: ClusterId(0), share: Share(25_000), shadow_host: false, max_active: 3 };
    assert_eq!(read, Some(Mirrors { targets: vec![first, plain], body_bytes: 1 << 20 }));
}

#[test]
fn rates_of_new_connections_are_none_unless_said_and_hold_as_many_tokens_as_come() {
    let limits = |text: &str| {
        let config =
            config(&format!("[[listener]]\nname = \"a\"\naddress = \"0.0.0.0:1\"\nprotocol = \"tcp\"\n{text}"));
        config.listeners[0].limits.clone()
    };
    assert_eq!(limits(""), ListenerLimits::default());
    let given = limits(
        "[listener.limits]\nnew_connections = { connections = 9, per = \"1s\" }\n\
         new_connections_per_source = { connections = 2, per = \"1m\", burst = 5 }",
    );
    let quota = |requests, seconds, burst| Some(Quota { requests, per: Duration::from_secs(seconds), burst });
    assert_eq!((given.new_connections, given.new_connections_per_source), (quota(9, 1, 9), quota(2, 60, 5)));
}
