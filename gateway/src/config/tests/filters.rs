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
    }
}

#[test]
fn the_defaults_that_the_schema_shows_are_the_defaults() {
    let plain = "requests = 1, per = \"1s\", key = \"client_ip\"";
    let defaults = inline(&keys_with("default", "RateLimit"));
    assert_eq!(rate_limit(&format!("{plain}, {defaults}")), rate_limit(plain));
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
    let file = format!(
        "[[listener]]\nname = \"web\"\naddress = \"0.0.0.0:1\"\nfilters = [{limit}]\n\
         [[route]]\nname = \"r\"\nrespond = {{ status = 200 }}\nfilters = [{limit}, {limit}]\n"
    );
    let config = config(&file);
    let names = |filters: &[Filter]| -> Vec<String> {
        filters.iter().map(|Filter::RateLimit(limit)| limit.name.clone()).collect()
    };
    assert_eq!(names(&config.listeners[0].filters), ["listener/web/0"]);
    assert_eq!(names(&config.routes[0].filters), ["route/r/0", "route/r/1"]);
}
