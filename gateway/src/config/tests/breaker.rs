//! What `breaker` of a route means.

use std::time::Duration;

use super::good::{config, inline, keys_with};
use crate::config::model::*;

fn breaker(keys: &str) -> Breaker {
    let file = format!(
        "[[cluster]]\nname = \"a\"\nendpoints = [\"10.0.0.1:80\"]\n\
         [[route]]\nname = \"r\"\ncluster = \"a\"\nbreaker = {{ {keys} }}\n"
    );
    config(&file).routes.remove(0).breaker.expect("a breaker")
}

#[test]
fn the_defaults_that_the_schema_shows_are_the_defaults() {
    let plain = "slow_request_time = \"1s\"";
    let defaults = inline(&keys_with("default", "Breaker"));
    assert_eq!(breaker(&format!("{plain}, {defaults}")), breaker(plain));
}

#[test]
fn every_example_in_the_schema_is_accepted() {
    let examples = inline(&keys_with("examples", "Breaker").replace(" = [", " = ").replace("]\n", "\n"));
    assert_eq!(breaker(&examples).error_percent, Some(50));
}

#[test]
fn a_breaker_is_read_in_full() {
    let read = breaker(
        r#"window = "1m", min_requests = 5, error_percent = 60, slow_request_time = "500ms", max_slow_requests = 3,
           break_duration = "90s", status = 499, body = "later", headers = { x-a = "b" }, grpc_status = 8"#,
    );
    let [(name, value)] = &read.headers[..] else { panic!("{:?}", read.headers) };
    assert_eq!((name.as_str(), value.as_str()), ("x-a", "b"));
    let expected = Breaker {
        window: Duration::from_secs(60),
        min_requests: 5,
        error_percent: Some(60),
        slow: Some(SlowRequests { time: Duration::from_millis(500), max_requests: 3 }),
        break_duration: Duration::from_secs(90),
        status: 499,
        body: "later".into(),
        headers: read.headers.clone(),
        grpc_status: 8,
    };
    assert_eq!(read, expected);
}
