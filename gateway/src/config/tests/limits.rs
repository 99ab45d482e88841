//! What `[[limits]]` and its files mean.

use std::path::Path;
use std::time::Duration;

use super::files::MapFiles;
use super::good::keys_with;
use crate::config::Loaded;
use crate::config::model::*;

/// Everything that envoyproxy/ratelimit's documentation has, as it writes it.
const FULL: &str = r#"
domain: edge  # whose limits
descriptors:
  - key: message_type
    value: marketing
    descriptors:
      - key: to_number
        rate_limit: {unit: DAY, requests_per_unit: 5}
  - key: remote_address
    rate_limit:
      name: per_ip
      unit: second
      requests_per_unit: 10
    shadow_mode: true
    detailed_metric: true
  - key: status
    value: 404
    rate_limit:
      unlimited: true
      replaces:
        - name: per_ip
  - key: path
    value: "/api/*"
    share_threshold: true
    value_to_metric: true
    rate_limit:
      unit: week
      requests_per_unit: 0
  - key: allowed
"#;

fn load(keys: &str, files: &[(&str, &str)]) -> Loaded {
    let mut all = MapFiles::default();
    all.add("gateway.toml", format!("[[limits]]\nname = \"shared\"\n{keys}\n"));
    files.iter().for_each(|(path, text)| all.add(path, *text));
    all.load().unwrap_or_else(|report| panic!("{report}"))
}

fn quota(requests: u32, unit: LimitUnit) -> Option<Limit> {
    Some(Limit { quota: Some(LimitQuota { requests, unit }), name: String::new(), replaces: vec![] })
}

fn rule(key: &str, value: LimitValue, limit: Option<Limit>) -> LimitRule {
    LimitRule { key: key.into(), value, limit, shadow_mode: false, shares_count: false, rules: vec![] }
}

#[test]
fn a_file_of_envoyproxy_ratelimit_is_read_in_full() {
    let loaded = load("files = [\"limits/*.yaml\"]", &[("limits/edge.yaml", FULL)]);
    let exact = |text: &str| LimitValue::Exact(text.into());
    let rules = vec![
        LimitRule {
            rules: vec![rule("to_number", LimitValue::Any, quota(5, LimitUnit::Day))],
            ..rule("message_type", exact("marketing"), None)
        },
        LimitRule {
            shadow_mode: true,
            limit: quota(10, LimitUnit::Second).map(|limit| Limit { name: "per_ip".into(), ..limit }),
            ..rule("remote_address", LimitValue::Any, None)
        },
        rule("status", exact("404"), Some(Limit { quota: None, name: String::new(), replaces: vec!["per_ip".into()] })),
        LimitRule { shares_count: true, ..rule("path", LimitValue::Prefix("/api/".into()), quota(0, LimitUnit::Week)) },
        rule("allowed", LimitValue::Any, None),
    ];
    let domains = vec![LimitDomain { name: "edge".into(), rules }];
    let set = LimitSet { name: "shared".into(), domains, max_counters: 65_536, shadow_mode: false, redis: None };
    assert_eq!(loaded.config.limits, [set]);
    // A file that comes later is seen, and so is a change of this one.
    for watched in ["limits", "limits/edge.yaml"] {
        assert!(loaded.files.iter().any(|path| path == Path::new(watched)), "{watched} of {:?}", loaded.files);
    }
}

#[test]
fn several_files_are_several_domains_and_a_file_may_be_named_twice() {
    let files = [("b.yaml", "domain: b\n"), ("a.yaml", "domain: a\ndescriptors:\n"), ("c.yml", "domain: c")];
    let loaded = load("files = [\"*.yaml\", \"b.yaml\", \"c.yml\"]", &files);
    let names: Vec<&str> = loaded.config.limits[0].domains.iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn a_store_is_read_in_full_and_the_defaults_and_examples_of_the_schema_are_good() {
    let password = [("redis.password", "hunter2\nnot this\n"), ("limits/a.yaml", "domain: a")];
    let loaded = load("files = []\nredis = { address = \"redis.internal:6379\" }", &[]);
    let plain = loaded.config.limits[0].redis.clone().unwrap();
    let defaults = super::good::inline(&keys_with("default", "RedisStore"));
    let keys = format!("files = []\nredis = {{ address = \"redis.internal:6379\", {defaults} }}");
    assert_eq!(load(&keys, &[]).config.limits[0].redis.as_ref(), Some(&plain));
    let store = RedisStore {
        address: EndpointAddress::Name("redis.internal".into(), 6379),
        username: None,
        password: None,
        database: 0,
        prefix: "gateway".into(),
        interval: Duration::from_millis(100),
    };
    assert_eq!(plain, store);
    let examples =
        super::good::inline(&keys_with("examples", "RedisStore").replace(" = [", " = ").replace("]\n", "\n"));
    let set = keys_with("examples", "LimitSet").replace(" = [", " = ").replace("]\n", "\n");
    let set: String = set.lines().filter(|line| !line.starts_with("name")).map(|line| format!("{line}\n")).collect();
    let loaded = load(&format!("{set}redis = {{ {examples} }}"), &password);
    let redis = loaded.config.limits[0].redis.clone().unwrap();
    let expected = RedisStore {
        username: Some("gateway".into()),
        password: Some("hunter2".into()),
        database: 1,
        prefix: "edge".into(),
        interval: Duration::from_millis(50),
        ..store
    };
    assert_eq!(redis, expected);
}

#[test]
fn descriptors_nest_sixteen_deep_and_no_deeper() {
    let nested = |depth: usize| {
        let mut text = String::from("domain: d\n");
        for at in 0..depth {
            let pad = "  ".repeat(at);
            text += &format!("{pad}descriptors:\n{pad}- key: k\n");
        }
        let mut files = MapFiles::default();
        files.add("gateway.toml", "[[limits]]\nname = \"a\"\nfiles = [\"a.yaml\"]\n");
        files.add("a.yaml", text);
        files.load().map(drop).map_err(|report| report.to_string())
    };
    assert_eq!(nested(16), Ok(()));
    assert!(nested(17).unwrap_err().contains("nest more than 16 deep"));
    assert!(nested(5_000).is_err());
}

#[test]
fn a_hundred_thousand_rules_are_read() {
    let mut text = String::from("domain: d\ndescriptors:\n");
    for at in 0..100_000 {
        text += &format!("- {{key: k, value: v{at}, rate_limit: {{unit: day, requests_per_unit: 5, name: n}}}}\n");
    }
    let loaded = load("files = [\"a.yaml\"]", &[("a.yaml", &text)]);
    assert_eq!(loaded.config.limits[0].domains[0].rules.len(), 100_000);
}
