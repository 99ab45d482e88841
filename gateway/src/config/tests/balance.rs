//! How endpoints are chosen, read in full.

use std::time::Duration;

use super::certificates;
use crate::config::model::{Action, AffinityCookie, Balance, Config, HashOn, HashRule, Labels, Subset, SubsetFallback};
use crate::proto::cookie::Cookie;
use crate::proto::head::HeaderName;

fn config(text: &str) -> Config {
    let mut files = certificates::files();
    files.add("gateway.toml", text);
    files.load().unwrap_or_else(|report| panic!("{report}")).config
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

#[test]
fn balancing_is_read_in_full() {
    let config = config(
        r#"
        [[cluster]]
        name = "a"
        balance = "ring_hash"
        endpoints = [{ address = "10.0.0.1:80", priority = 2, labels = { zone = "b", version = "v2" } }]
        hash_on = [
          { header = "X-User", terminal = true },
          { cookie = "id" },
          { cookie = { name = "aff", ttl = "0s", path = "/", attributes = { SameSite = "Lax" } } },
          { query = "user" },
          { source_ip = true },
        ]
        panic_threshold = 0
        prefer = { zone = "b" }
        [[cluster]]
        name = "b"
        balance = "maglev"
        endpoints = [{ address = "10.0.0.1:80", labels = { role = "primary" } }]
        affinity_cookie = { name = "server", ttl = "1h", strict = true, secret = "s" }
        [[route]]
        name = "r"
        cluster = "a"
        hash_on = [{ query = "q" }]
        subset = { zone = "b", version = "v2" }
        subset_fallback = "any"
        [[l4_route]]
        name = "l"
        cluster = "b"
        subset = { role = "primary" }
        "#,
    );
    let [a, b] = &config.clusters[..] else { panic!() };
    let cookie = |name: &str| Cookie { name: name.into(), ttl: None, path: None, attributes: vec![] };
    let made = Cookie { path: Some("/".into()), attributes: labels(&[("SameSite", "Lax")]), ..cookie("aff") };
    let rules = [
        (HashOn::Header(HeaderName::new("x-user").unwrap()), true),
        (HashOn::Cookie { cookie: cookie("id"), generate: false }, false),
        (HashOn::Cookie { cookie: made, generate: true }, false),
        (HashOn::Query("user".into()), false),
        (HashOn::SourceIp, false),
    ];
    assert_eq!(a.balance, Balance::RingHash);
    assert_eq!(a.hash_on, rules.map(|(on, terminal)| HashRule { on, terminal }));
    assert_eq!((a.panic_threshold, &a.prefer, &a.affinity_cookie), (0, &labels(&[("zone", "b")]), &None));
    assert_eq!((a.endpoints[0].priority, &a.endpoints[0].labels), (2, &labels(&[("version", "v2"), ("zone", "b")])));
    assert_eq!((b.balance, b.panic_threshold, b.prefer.len()), (Balance::Maglev, 50, 0));
    assert_eq!(b.hash_on, [HashRule { on: HashOn::SourceIp, terminal: false }], "what a client is known by");
    let cookie = Cookie { ttl: Some(Duration::from_secs(3600)), ..cookie("server") };
    assert_eq!(b.affinity_cookie, Some(AffinityCookie { cookie, strict: true, secret: Some("s".into()) }));
    let Action::Forward(forward) = &config.routes[0].action else { panic!() };
    assert_eq!(forward.hash_on, [HashRule { on: HashOn::Query("q".into()), terminal: false }]);
    let subset = Subset { labels: labels(&[("version", "v2"), ("zone", "b")]), fallback: SubsetFallback::Any };
    assert_eq!(forward.subset, Some(subset));
    let subset = Subset { labels: labels(&[("role", "primary")]), fallback: SubsetFallback::None };
    assert_eq!(config.l4_routes[0].subset, Some(subset));
}
