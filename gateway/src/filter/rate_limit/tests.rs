use std::time::Duration;

use super::*;
use crate::config::model::{HeaderMatch, Quota, RateOverride, ValueMatch, When};
use crate::proto::head::HeaderName;

const SECOND: u64 = 1_000_000_000;

fn limit(requests: u32, key: Option<RateKey>) -> RateLimit {
    RateLimit {
        name: "limit".into(),
        when: When::default(),
        key,
        max_keys: 1_000,
        quota: Quota { requests, per: Duration::from_secs(1), burst: requests },
        overrides: vec![],
        status: 429,
        body: String::new(),
        headers: vec![],
        grpc_resource_exhausted: false,
        ratelimit_headers: false,
        dry_run: false,
    }
}

fn head(target: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead { target: target.into(), ..RequestHead::default() };
    fields.iter().for_each(|(name, value)| head.headers.append_raw(name.as_bytes(), value.as_bytes()));
    head
}

fn asker<'a>(client: &str, host: &'a str, connection: u64, head: &'a RequestHead) -> Asker<'a> {
    let client_ip = client.parse().unwrap();
    Asker { client_ip, peer_ip: client_ip, host: host.as_bytes(), connection, head }
}

const WHOLE: Prefixes = Prefixes { ipv4: 32, ipv6: 64 };

#[test]
fn whoever_has_the_same_key_has_the_same_bucket() {
    let name = |text: &str| HeaderName::new(text).unwrap();
    let [key_a, key_b, none] = [
        head("/?user=a", &[("x-api-key", "a"), ("cookie", "x=1; session=a"), ("cookie", "session=z")]),
        head("/?user=b&user=a", &[("x-api-key", "b"), ("cookie", "xsession=a;session=b")]),
        head("/", &[]),
    ];
    let one = asker("192.0.2.1", "a.test", 1, &key_a);
    // Key, another request, whether it has the same bucket as `one`.
    let cases = [
        (RateKey::ClientIp(WHOLE), asker("192.0.2.1", "b.test", 2, &key_b), true),
        (RateKey::ClientIp(WHOLE), asker("::ffff:192.0.2.1", "b.test", 2, &key_b), true),
        (RateKey::ClientIp(WHOLE), asker("192.0.2.2", "a.test", 1, &key_a), false),
        (RateKey::PeerIp(Prefixes { ipv4: 24, ipv6: 64 }), asker("192.0.2.200", "b.test", 2, &key_b), true),
        (RateKey::PeerIp(Prefixes { ipv4: 24, ipv6: 64 }), asker("192.0.3.1", "b.test", 2, &key_b), false),
        (RateKey::Host, asker("192.0.2.9", "a.test", 2, &key_b), true),
        (RateKey::Host, asker("192.0.2.1", "b.test", 1, &key_a), false),
        (RateKey::Connection, asker("192.0.2.9", "b.test", 1, &key_b), true),
        (RateKey::Connection, asker("192.0.2.1", "a.test", 2, &key_a), false),
        (RateKey::Header(name("X-Api-Key")), asker("192.0.2.9", "b.test", 2, &key_a), true),
        (RateKey::Header(name("x-api-key")), asker("192.0.2.1", "a.test", 1, &key_b), false),
        (RateKey::Header(name("x-api-key")), asker("192.0.2.1", "a.test", 1, &none), false),
        (RateKey::Query("user".into()), asker("192.0.2.9", "b.test", 2, &key_a), true),
        (RateKey::Query("user".into()), asker("192.0.2.1", "a.test", 1, &key_b), false),
        (RateKey::Cookie("session".into()), asker("192.0.2.9", "b.test", 2, &key_a), true),
        (RateKey::Cookie("session".into()), asker("192.0.2.1", "a.test", 1, &key_b), false),
    ];
    for (key, other, same) in cases {
        let limiter = RateLimiter::build(&limit(1, Some(key.clone())), None);
        assert!(limiter.take(0, Some(&key), &one, SECOND).is_allowed);
        assert!(!limiter.take(0, Some(&key), &one, SECOND).is_allowed, "{key:?}");
        assert_eq!(!limiter.take(0, Some(&key), &other, SECOND).is_allowed, same, "{key:?} {other:?}");
    }
}

#[test]
fn an_ipv6_client_is_its_network() {
    let (key, none) = (RateKey::ClientIp(WHOLE), head("/", &[]));
    let limiter = RateLimiter::build(&limit(1, Some(key.clone())), None);
    let is_allowed = |client: &str| limiter.take(0, Some(&key), &asker(client, "a.test", 1, &none), SECOND).is_allowed;
    assert!(is_allowed("2001:db8:0:1::1"));
    assert!(!is_allowed("2001:db8:0:1:ffff::9"));
    assert!(is_allowed("2001:db8:0:2::1"));
}

#[test]
fn requests_without_the_key_share_one_bucket() {
    let (key, none) = (RateKey::Header(HeaderName::new("x-api-key").unwrap()), head("/", &[]));
    let limiter = RateLimiter::build(&limit(1, Some(key.clone())), None);
    assert!(limiter.take(0, Some(&key), &asker("192.0.2.1", "a.test", 1, &none), SECOND).is_allowed);
    assert!(!limiter.take(0, Some(&key), &asker("192.0.2.2", "b.test", 2, &none), SECOND).is_allowed);
    assert_eq!(limiter.keys(SECOND), Some(1));
    assert_eq!(limiter.keys(3 * SECOND), Some(0));
}

fn with_override(requests: u32, key: Option<RateKey>, value: &str) -> RateLimit {
    let header = HeaderMatch { name: HeaderName::new("x-plan").unwrap(), value: ValueMatch::Exact(value.to_owned()) };
    let quota = Quota { requests: 3, per: Duration::from_secs(1), burst: 3 };
    let tier = RateOverride { when: When { headers: vec![header], ..When::default() }, quota };
    RateLimit { overrides: vec![tier], ..limit(requests, key) }
}

#[test]
fn an_override_has_buckets_and_a_quota_of_its_own() {
    let none = head("/", &[]);
    let asker = asker("192.0.2.1", "a.test", 1, &none);
    for key in [None, Some(RateKey::ClientIp(WHOLE))] {
        let limiter = RateLimiter::build(&with_override(1, key.clone(), "gold"), None);
        let count =
            |tier: usize| (0..9).filter(|_| limiter.take(tier, key.as_ref(), &asker, SECOND).is_allowed).count();
        assert_eq!((count(0), count(1), count(0)), (1, 3, 0), "{key:?}");
    }
}

#[test]
fn buckets_outlive_a_reload_unless_they_mean_something_else() {
    let none = head("/", &[]);
    let asker = asker("192.0.2.1", "a.test", 1, &none);
    let (client, peer) = (Some(RateKey::ClientIp(WHOLE)), Some(RateKey::PeerIp(WHOLE)));
    let cases = [
        (limit(1, None), limit(1, None), true),
        (limit(1, client.clone()), RateLimit { body: "other".into(), dry_run: true, ..limit(1, client.clone()) }, true),
        (limit(1, client.clone()), limit(1, peer), false),
        (limit(1, client.clone()), limit(1, None), false),
        (limit(1, client.clone()), RateLimit { max_keys: 2_000, ..limit(1, client.clone()) }, false),
        (with_override(1, None, "gold"), with_override(1, None, "gold"), true),
        (with_override(1, None, "gold"), with_override(1, None, "silver"), false),
    ];
    for (old, new, kept) in cases {
        let before = RateLimiter::build(&old, None);
        assert!(before.take(0, old.key.as_ref(), &asker, SECOND).is_allowed);
        let after = RateLimiter::build(&new, Some((&old, &before)));
        assert_eq!(!after.take(0, new.key.as_ref(), &asker, SECOND).is_allowed, kept, "{old:?} {new:?}");
    }
}

#[test]
fn answers_say_how_things_stand() {
    let none = head("/", &[]);
    let asker = asker("192.0.2.1", "a.test", 1, &none);
    let slow = RateLimit { quota: Quota { requests: 2, per: Duration::from_secs(5), burst: 2 }, ..limit(2, None) };
    let limiter = RateLimiter::build(&slow, None);
    let expected = [(true, 1, 0), (true, 0, 3), (false, 0, 3)];
    for (is_allowed, remaining, reset_s) in expected {
        let decision = limiter.take(0, None, &asker, SECOND);
        let allowance = Allowance { limit: 2, remaining, reset_s };
        assert_eq!((decision.is_allowed, decision.allowance), (is_allowed, allowance));
    }
    let mut headers = Headers::default();
    headers.append_raw(b"x-ratelimit-limit", b"999");
    headers.append_raw(b"x-kept", b"1");
    Allowance { limit: 2, remaining: 0, reset_s: 3 }.write(&mut headers);
    let lines: Vec<_> = headers.iter().map(|(_, name, value)| [name, value].concat()).collect();
    let expected = ["x-kept1", "x-ratelimit-limit2", "x-ratelimit-remaining0", "x-ratelimit-reset3"];
    assert_eq!(lines, expected.map(|line| line.as_bytes().to_vec()));
}

#[test]
fn of_two_limits_a_response_tells_of_the_one_with_the_least_left() {
    let fields = |remaining: Option<u32>, more: &[u8]| {
        let mut headers = Headers::default();
        headers.append_raw(b"x-more", more);
        if let Some(remaining) = remaining {
            Allowance { limit: 9, remaining, reset_s: 1 }.write(&mut headers);
        }
        headers
    };
    let cases =
        [(Some(3), Some(2), (1, 4)), (Some(2), Some(3), (4, 1)), (Some(2), Some(2), (4, 1)), (Some(2), None, (4, 1))];
    for (one, other, left) in cases {
        let (mut first, mut second) = (fields(one, b"1"), fields(other, b"2"));
        keep_least(&mut first, &mut second);
        assert_eq!((first.len(), second.len()), left, "{one:?} {other:?}");
    }
}
