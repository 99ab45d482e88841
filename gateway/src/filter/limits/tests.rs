use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::config::model::{Limit, LimitDomain, LimitRule, LimitValue};
use crate::proto::rate_limit_service::{Entry as Pair, LimitOverride};

/// 2026-01-01 and 30 seconds: windows of a minute and more have begun.
const NOW: u64 = 1_767_225_630;

fn rule(key: &str, value: &str, limit: Option<Limit>, rules: Vec<LimitRule>) -> LimitRule {
    let value = match value.strip_suffix('*') {
        _ if value.is_empty() => LimitValue::Any,
        Some(prefix) => LimitValue::Prefix(prefix.into()),
        None => LimitValue::Exact(value.into()),
    };
    LimitRule { key: key.into(), value, limit, shadow_mode: false, shares_count: false, rules }
}

fn limit(requests: u32, unit: LimitUnit) -> Limit {
    Limit { quota: Some(LimitQuota { requests, unit }), name: String::new(), replaces: Vec::new() }
}

fn per_minute(requests: u32) -> Option<Limit> {
    Some(limit(requests, LimitUnit::Minute))
}

fn set(rules: Vec<LimitRule>) -> LimitSet {
    let domains = vec![LimitDomain { name: "edge".into(), rules }];
    LimitSet { name: "shared".into(), domains, max_counters: 1_000, shadow_mode: false, redis: None }
}

fn limits(rules: Vec<LimitRule>) -> Limits {
    Limits::build(&set(rules), None)
}

/// `a=b,c=d`
fn descriptor(text: &str) -> RateLimitDescriptor {
    let entries = text.split(',').filter(|text| !text.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap();
        Pair { key: key.into(), value: value.into() }
    });
    RateLimitDescriptor { entries: entries.collect(), ..RateLimitDescriptor::default() }
}

fn request(descriptors: &[&str]) -> RateLimitRequest {
    let descriptors = descriptors.iter().map(|text| descriptor(text)).collect();
    RateLimitRequest { domain: "edge".into(), descriptors, hits_addend: 0 }
}

fn judge_at(limits: &Limits, request: &RateLimitRequest, now_s: u64) -> RateLimitResponse {
    limits.judge(request, now_s, |_| {}).unwrap()
}

fn judge(limits: &Limits, descriptors: &[&str]) -> RateLimitResponse {
    judge_at(limits, &request(descriptors), NOW)
}

/// Requests per unit of the limit that a descriptor has.
fn quota_of(limits: &Limits, text: &str) -> Option<u32> {
    judge(limits, &[text]).statuses[0].current_limit.as_ref().map(|limit| limit.requests_per_unit)
}

#[test]
fn a_descriptor_has_the_limit_of_the_rule_where_it_ends() {
    let limits = limits(vec![
        rule("user", "", per_minute(1), vec![]),
        rule("user", "root", per_minute(2), vec![]),
        rule("user", "svc-*", per_minute(3), vec![]),
        rule("user", "svc-a*", per_minute(4), vec![]),
        rule("path", "/login", per_minute(5), vec![rule("user", "", per_minute(6), vec![])]),
        rule("path", "", None, vec![rule("method", "POST", per_minute(7), vec![])]),
        rule("plan_free", "", per_minute(8), vec![]),
        rule("empty", "", None, vec![]),
    ]);
    let cases = [
        ("user=jane", Some(1)),
        ("user=", Some(1)),
        ("user=root", Some(2)),
        // The first wildcard of the file, not the longest.
        ("user=svc-abc", Some(3)),
        ("user=svc-", Some(3)),
        ("user=svc", Some(1)),
        ("path=/login", Some(5)),
        ("path=/login,user=jane", Some(6)),
        // The rule for the value is taken, so that of the key alone is not looked into.
        ("path=/login,method=POST", None),
        ("path=/x,method=POST", Some(7)),
        ("path=/x,method=GET", None),
        ("path=/x", None),
        // There is more in the request than in the rules, and the other way round.
        ("user=jane,path=/", None),
        ("method=POST", None),
        // A key is not a key with a value.
        ("plan=free", None),
        ("plan_free=x", Some(8)),
        ("empty=x", None),
        ("other=x", None),
        ("", None),
    ];
    for (text, expected) in cases {
        assert_eq!(quota_of(&limits, text), expected, "{text}");
    }
}

#[test]
fn requests_above_the_quota_of_a_window_are_over_and_the_next_window_begins_anew() {
    let limits = limits(vec![rule("ip", "", per_minute(3), vec![])]);
    let request = request(&["ip=a"]);
    let status = |now| {
        let response = judge_at(&limits, &request, now);
        let status = &response.statuses[0];
        assert_eq!(response.overall_code, status.code);
        (status.code(), status.limit_remaining, status.duration_until_reset.unwrap().seconds)
    };
    let seen: Vec<_> = [NOW, NOW, NOW + 9, NOW + 10, NOW + 29, NOW + 30].into_iter().map(status).collect();
    let expected = [
        (Code::Ok, 2, 30),
        (Code::Ok, 1, 30),
        (Code::Ok, 0, 21),
        (Code::OverLimit, 0, 20),
        (Code::OverLimit, 0, 1),
        (Code::Ok, 2, 60),
    ];
    assert_eq!(seen, expected);
    assert_eq!(judge(&limits, &["ip=b"]).statuses[0].limit_remaining, 2, "each value counts by itself");
}

#[test]
fn windows_begin_at_whole_multiples_of_their_unit() {
    let cases = [
        (LimitUnit::Second, 1),
        (LimitUnit::Minute, 30),
        (LimitUnit::Hour, 3_570),
        (LimitUnit::Day, 86_370),
        (LimitUnit::Week, 604_800 - NOW as i64 % 604_800),
        (LimitUnit::Month, 2_592_000 - NOW as i64 % 2_592_000),
        (LimitUnit::Year, 31_536_000 - NOW as i64 % 31_536_000),
    ];
    for (unit, left) in cases {
        let limits = limits(vec![rule("k", "", Some(limit(1, unit)), vec![])]);
        let status = judge(&limits, &["k=v"]).statuses.remove(0);
        assert_eq!(status.duration_until_reset.unwrap().seconds, left, "{unit:?}");
        assert_eq!(status.current_limit.unwrap().unit(), unit_code(unit));
    }
}

#[test]
fn one_descriptor_over_its_limit_is_enough_and_each_has_its_status() {
    let limits = limits(vec![rule("a", "", per_minute(0), vec![]), rule("b", "", per_minute(5), vec![])]);
    let response = judge(&limits, &["b=1", "a=1", "c=1"]);
    assert_eq!(response.overall_code(), Code::OverLimit);
    let codes: Vec<_> = response.statuses.iter().map(|status| (status.code(), status.limit_remaining)).collect();
    assert_eq!(codes, [(Code::Ok, 4), (Code::OverLimit, 0), (Code::Ok, 0)]);
}

#[test]
fn a_limit_that_is_replaced_or_unlimited_does_not_count() {
    let named = |requests, name: &str, replaces: &[&str]| {
        let replaces = replaces.iter().map(|name| (*name).into()).collect();
        Some(Limit { name: name.into(), replaces, ..limit(requests, LimitUnit::Minute) })
    };
    let unlimited = Limit { quota: None, name: String::new(), replaces: vec!["all".into()] };
    let limits = limits(vec![
        rule("all", "", named(0, "all", &[]), vec![]),
        rule("user", "big", named(9, "big", &["all"]), vec![]),
        rule("user", "free", Some(unlimited), vec![]),
    ]);
    assert_eq!(judge(&limits, &["all=1"]).overall_code(), Code::OverLimit);
    let response = judge(&limits, &["all=1", "user=big"]);
    assert_eq!(response.overall_code(), Code::Ok);
    assert_eq!(response.statuses[0], ok(None, 0), "as if it had no limit");
    assert_eq!(response.statuses[1].current_limit.as_ref().unwrap().name, "big");
    let response = judge(&limits, &["user=free", "all=1"]);
    assert_eq!((response.overall_code(), &response.statuses[0]), (Code::Ok, &ok(None, u32::MAX)));
}

#[test]
fn what_is_in_shadow_mode_is_counted_and_never_over() {
    let shadowed = LimitRule { shadow_mode: true, ..rule("a", "", per_minute(1), vec![]) };
    let one = set(vec![shadowed, rule("b", "", per_minute(1), vec![])]);
    let all = LimitSet { shadow_mode: true, ..one.clone() };
    let verdicts = |set: &LimitSet, text: &str| {
        let limits = Limits::build(set, None);
        let mut verdicts = Vec::new();
        for _ in 0..2 {
            let response = limits.judge(&request(&[text]), NOW, |judged| verdicts.push(judged.verdict)).unwrap();
            verdicts.push(if response.overall_code() == Code::Ok { Within } else { Over });
        }
        verdicts
    };
    use Verdict::*;
    assert_eq!(verdicts(&one, "a=1"), [Within, Within, Shadowed, Within]);
    assert_eq!(verdicts(&one, "b=1"), [Within, Within, Over, Over]);
    assert_eq!(verdicts(&all, "b=1"), [Within, Within, Shadowed, Within]);
}

#[test]
fn a_request_may_be_several_hits_none_or_give_some_back() {
    let limits = limits(vec![rule("ip", "", per_minute(10), vec![])]);
    let left = |hits: u32, own: Option<u64>, back: bool| {
        let mut request = request(&["ip=a"]);
        request.hits_addend = hits;
        request.descriptors[0].hits_addend = own;
        request.descriptors[0].is_negative_hits = back;
        let status = judge_at(&limits, &request, NOW).statuses.remove(0);
        (status.code(), status.limit_remaining)
    };
    assert_eq!(left(4, None, false), (Code::Ok, 6));
    assert_eq!(left(4, Some(1), false), (Code::Ok, 5));
    assert_eq!(left(4, Some(0), false), (Code::Ok, 5));
    assert_eq!(left(0, None, false), (Code::Ok, 4));
    assert_eq!(left(5, None, false), (Code::OverLimit, 0));
    assert_eq!(left(3, None, true), (Code::Ok, 2));
    assert_eq!(left(u32::MAX, None, true), (Code::Ok, 10));
    assert_eq!(left(0, Some(u64::MAX), false), (Code::OverLimit, 0));
}

#[test]
fn a_descriptor_may_bring_its_own_limit() {
    let limits = limits(vec![rule("ip", "", per_minute(1), vec![])]);
    let mut request = request(&["ip=a"]);
    request.descriptors[0].limit = Some(LimitOverride { requests_per_unit: 2, unit: Unit::Hour.into() });
    let status = judge_at(&limits, &request, NOW).statuses.remove(0);
    let expected = RateLimit { name: String::new(), requests_per_unit: 2, unit: Unit::Hour.into() };
    assert_eq!((status.limit_remaining, status.current_limit), (1, Some(expected)));
    request.domain = "other".into();
    assert_eq!(judge_at(&limits, &request, NOW).statuses[0], ok(None, 0), "only in a domain that is known");
}

#[test]
fn a_request_without_domain_or_descriptors_or_with_too_many_is_not_judged() {
    let limits = limits(vec![]);
    let request = request(&[]);
    assert_eq!(limits.judge(&request, NOW, |_| {}), Err(Unjudged::NoDescriptors));
    let request = RateLimitRequest { domain: String::new(), ..request };
    assert_eq!(limits.judge(&request, NOW, |_| {}), Err(Unjudged::NoDomain));
    let of = |count| self::request(&vec!["ip=a"; count]);
    assert!(limits.judge(&of(DESCRIPTORS_MAX), NOW, |_| {}).is_ok());
    assert_eq!(limits.judge(&of(DESCRIPTORS_MAX + 1), NOW, |_| {}), Err(Unjudged::TooManyDescriptors));
}

#[test]
fn values_of_a_wildcard_count_by_themselves_or_together() {
    let together = LimitRule { shares_count: true, ..rule("path", "/api/*", per_minute(2), vec![]) };
    for (first, expected) in [(rule("path", "/api/*", per_minute(2), vec![]), 1), (together, 0)] {
        let limits = limits(vec![first]);
        judge(&limits, &["path=/api/a"]);
        assert_eq!(judge(&limits, &["path=/api/b"]).statuses[0].limit_remaining, expected);
    }
}

#[test]
fn a_reload_keeps_what_was_counted_under_another_quota() {
    let old_set = set(vec![rule("ip", "", per_minute(3), vec![])]);
    let old = Limits::build(&old_set, None);
    (0..3).for_each(|_| _ = judge(&old, &["ip=a"]));
    let new_set = set(vec![rule("ip", "", per_minute(5), vec![])]);
    let new = Limits::build(&new_set, Some((&old_set, &old)));
    assert_eq!(judge(&new, &["ip=a"]).statuses[0].limit_remaining, 1);
    let resized = LimitSet { max_counters: 2_000, ..new_set.clone() };
    let new = Limits::build(&resized, Some((&new_set, &new)));
    assert_eq!(judge(&new, &["ip=a"]).statuses[0].limit_remaining, 4, "another table begins anew");
}

#[test]
fn texts_of_keys_tell_all_keys_apart_and_are_short() {
    let text = |text: &str| {
        let limits = limits(vec![]);
        let descriptor =
            RateLimitDescriptor { limit: Some(LimitOverride { requests_per_unit: 1, unit: 1 }), ..descriptor(text) };
        limits.rules.find("edge", &descriptor).unwrap().key("edge", &descriptor, LimitUnit::Second).text()
    };
    assert_eq!(text("ip=::1,path=/a"), "edge|ip=::1|path=/a|second");
    assert_eq!(text("ip=a|b c%"), "edge|ip=a%7Cb%20c%25|second");
    assert_ne!(text("a=x|b=y"), text("a=x,b=y"));
    let long = text(&format!("a={}", "é".repeat(10_000)));
    assert!(long.len() < 256 && long.starts_with("edge|a=é") && long != text(&format!("a={}", "é".repeat(10_001))));
}

/// Redis, for boxes in a test: a field for each box.
#[derive(Default)]
struct Store(HashMap<(String, u32), HashMap<usize, u32>>);

impl Store {
    fn exchange(&mut self, boxes: &[&Limits], at: usize, now_s: u64) -> usize {
        let counters = boxes[at].counters();
        let mut ledger = counters.ledger().unwrap().lock().unwrap();
        let due = ledger.due(counters, now_s);
        let told = due.len();
        for entry in due {
            let fields = self.0.entry((entry.key.clone(), entry.ends_s)).or_default();
            fields.insert(at, entry.own);
            let total = fields.values().map(|own| u64::from(*own)).sum();
            ledger.learn(counters, entry, Learnt { total });
        }
        told
    }
}

fn shared(rules: Vec<LimitRule>, max_counters: u32) -> Limits {
    let mut set = LimitSet { max_counters, ..set(rules) };
    set.redis = Some(crate::config::model::RedisStore {
        address: crate::config::model::EndpointAddress::Name("redis".into(), 6379),
        username: None,
        password: None,
        database: 0,
        prefix: "gateway".into(),
        interval: std::time::Duration::from_millis(100),
    });
    Limits::build(&set, None)
}

fn left(limits: &Limits, text: &str, hits: u64, now_s: u64) -> u32 {
    let mut request = request(&[text]);
    request.descriptors[0].hits_addend = Some(hits);
    judge_at(limits, &request, now_s).statuses[0].limit_remaining
}

#[test]
fn boxes_add_up_what_they_count() {
    let rules = || vec![rule("ip", "", per_minute(100), vec![])];
    let (a, b) = (shared(rules(), 100), shared(rules(), 100));
    let (boxes, mut store) = ([&a, &b], Store::default());
    assert_eq!((left(&a, "ip=x", 30, NOW), left(&b, "ip=x", 20, NOW)), (70, 80));
    assert_eq!((store.exchange(&boxes, 0, NOW), store.exchange(&boxes, 1, NOW)), (1, 1));
    assert_eq!(left(&b, "ip=x", 0, NOW), 50, "the second to tell knows of the first");
    assert_eq!(left(&a, "ip=x", 1, NOW), 69, "the first does not know yet");
    store.exchange(&boxes, 0, NOW);
    assert_eq!(left(&a, "ip=x", 0, NOW), 49);
    assert_eq!(store.exchange(&boxes, 0, NOW), 0, "nothing new, nothing said");
    left(&b, "ip=x", 9, NOW);
    store.exchange(&boxes, 1, NOW);
    let asked: usize = (0..9).map(|_| store.exchange(&boxes, 0, NOW)).sum();
    assert_eq!((asked, left(&a, "ip=x", 0, NOW)), (1, 40), "now and then it asks all the same");
    assert_eq!(left(&a, "ip=x", 1, NOW + 60), 99, "the next window is another number");
    store.exchange(&boxes, 0, NOW + 60);
    assert_eq!(store.0.len(), 2);
}

#[test]
fn a_store_that_forgets_or_was_not_heard_is_told_again_and_nothing_counts_twice() {
    let rules = || vec![rule("ip", "", per_minute(100), vec![])];
    let (a, b) = (shared(rules(), 100), shared(rules(), 100));
    let (boxes, mut store) = ([&a, &b], Store::default());
    left(&a, "ip=x", 30, NOW);
    left(&b, "ip=x", 20, NOW);
    for _ in 0..3 {
        for at in 0..2 {
            boxes[at].counters().ledger().unwrap().lock().unwrap().tell_all();
            store.exchange(&boxes, at, NOW);
        }
    }
    assert_eq!(left(&a, "ip=x", 0, NOW), 50);
    store.0.clear();
    for limits in boxes {
        limits.counters().ledger().unwrap().lock().unwrap().tell_all();
    }
    (0..2).for_each(|at| _ = store.exchange(&boxes, at, NOW));
    left(&a, "ip=x", 1, NOW);
    store.exchange(&boxes, 0, NOW);
    assert_eq!((left(&a, "ip=x", 0, NOW), left(&b, "ip=x", 0, NOW)), (49, 50));
}

#[test]
fn a_counter_that_gave_way_and_comes_back_is_told_in_full() {
    let limits = shared(vec![rule("ip", "", per_minute(1_000), vec![])], 16);
    let (boxes, mut store) = ([&limits], Store::default());
    left(&limits, "ip=x", 5, NOW);
    store.exchange(&boxes, 0, NOW);
    // More keys than places, each with more hits.
    (0..200).for_each(|n| _ = left(&limits, &format!("ip={n}"), 100, NOW));
    assert_eq!(left(&limits, "ip=x", 1, NOW), 999, "it has been forgotten here");
    store.exchange(&boxes, 0, NOW);
    let (_, fields) = store.0.iter().find(|((key, _), _)| key.contains("ip=x")).unwrap();
    assert_eq!(fields[&0], 6);
    assert_eq!(left(&limits, "ip=x", 0, NOW), 994, "and is remembered by the book");
}

#[test]
fn what_a_box_tells_of_a_key_never_goes_back_while_workers_fight_for_places() {
    // Has no divisor in common with the steps of the workers, so each of them counts every key as often as any other.
    const KEYS: u32 = 119;
    // Eight sets of fifteen places, of which some have more keys than places.
    let limits = shared(vec![rule("ip", "", per_minute(u32::MAX), vec![])], 60);
    let counters = limits.counters();
    assert_eq!(counters.places(), 120);
    let requests: Vec<RateLimitRequest> = (0..KEYS).map(|n| request(&[&format!("ip={n}")])).collect();
    let (evictions, working, rounds) = (AtomicUsize::new(0), AtomicUsize::new(3), 40_000);
    std::thread::scope(|scope| {
        for worker in 1..=3 {
            let (requests, limits, evictions, working) = (&requests, &limits, &evictions, &working);
            scope.spawn(move || {
                for n in 0..rounds {
                    let request = &requests[(n * (worker + 1)) % requests.len()];
                    let note = |judged: Judged<'_>| _ = evictions.fetch_add(judged.evicted.into(), Relaxed);
                    limits.judge(request, NOW, note).unwrap();
                }
                working.fetch_sub(1, Relaxed);
            });
        }
        let mut ledger = counters.ledger().unwrap().lock().unwrap();
        let mut told: HashMap<String, u32> = HashMap::new();
        let mut is_last = false;
        while !is_last {
            is_last = working.load(Relaxed) == 0;
            for entry in ledger.due(counters, NOW) {
                let before = told.insert(entry.key.clone(), entry.own).unwrap_or(0);
                assert!(before <= entry.own, "{}: {before}, then {}", entry.key, entry.own);
                ledger.learn(counters, entry.clone(), Learnt { total: entry.own.into() });
            }
            std::thread::yield_now();
        }
        assert!(evictions.load(Relaxed) > 0);
        let most = 3 * (rounds / KEYS as usize + 1);
        assert!(told.values().all(|own| *own as usize <= most), "{told:?}");
    });
}

#[test]
fn of_too_many_windows_those_that_have_counted_least_are_not_shared() {
    let limits = shared(vec![rule("ip", "", per_minute(1_000), vec![])], 1 << 17);
    let (boxes, mut store) = ([&limits], Store::default());
    let count = |from: u32, to: u32, hits| (from..to).for_each(|n| _ = left(&limits, &format!("ip={n}"), hits, NOW));
    count(0, 40_000, 3);
    store.exchange(&boxes, 0, NOW);
    count(40_000, 80_000, 2);
    store.exchange(&boxes, 0, NOW);
    let given_up = || limits.counters().ledger().unwrap().lock().unwrap().take_given_up();
    assert_eq!((store.0.len(), given_up(), given_up()), (1 << 16, 80_000 - (1 << 16), 0));
    count(0, 100, 1);
    assert_eq!(store.exchange(&boxes, 0, NOW), 100, "the first ones still are");
}
