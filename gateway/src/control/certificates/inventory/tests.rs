use super::*;
use crate::config::model::KeyKind;

/// A certificate that ends at `until`; two with another `id` are not the same.
pub fn item(name: &str, id: u8, until: i64) -> Item {
    let info = CertificateInfo {
        names: vec![format!("{name}.test"), format!("www.{name}.test")],
        issuer: "CN=Test authority".into(),
        serial: "0a1b".into(),
        key_kind: KeyKind::Ecdsa(256),
        not_before: until.saturating_sub(90 * DAY_S),
        not_after: until,
        sha256: [id; 32],
    };
    Item {
        kind: Kind::Certificate,
        name: name.into(),
        end: Some(Dated { info, until }),
        hosts: Vec::new(),
        bound: vec![Binding::Listener { name: "web".into(), default: true }],
        source: format!("certs/{name}.pem"),
        refused: None,
        failed: None,
    }
}

pub fn authority(until: i64) -> Item {
    Item { kind: Kind::Authority, bound: vec![Binding::Cluster("api".into())], ..item("authority", 0, until) }
}

pub fn not_obtained(name: &str) -> Item {
    Item { end: None, ..item(name, 0, 0) }
}

#[test]
fn a_certificate_is_shown_with_all_there_is_to_know() {
    let item = Item { hosts: vec!["a.test".into()], ..item("a", 0xab, 20 * DAY_S) };
    let expected = json!({
        "name": "a",
        "kind": "certificate",
        "state": "ok",
        "days_left": 20,
        "not_before": "1970-01-01T00:00:00Z",
        "not_after": "1970-01-21T00:00:00Z",
        "chain_not_after": "1970-01-21T00:00:00Z",
        "key_type": "ECDSA P-256",
        "dns_names": ["a.test", "www.a.test"],
        "hosts": ["a.test"],
        "bound": [{ "listener": "web", "default": true }],
        "source": "certs/a.pem",
        "issuer": "CN=Test authority",
        "serial": "0a1b",
        "fingerprint_sha256": "ab".repeat(32),
        "refused": null,
        "renewal_failed": null,
    });
    assert_eq!(view_item(&item, 0), expected);
}

#[test]
fn a_state_is_what_has_to_be_known_first() {
    let early = {
        let mut item = item("a", 1, 90 * DAY_S);
        item.end.as_mut().unwrap().info.not_before = DAY_S;
        item
    };
    let refused = |item| Item { refused: Some("its key is another's".into()), ..item };
    let cases = [
        (item("a", 1, 0), State::Ok),
        (item("a", 1, -1), State::Expired),
        (early, State::NotYetValid),
        (not_obtained("a"), State::NotObtained),
        (refused(not_obtained("a")), State::Refused),
        (refused(item("a", 1, 0)), State::Ok),
    ];
    for (item, state) in cases {
        assert_eq!(item.state(0), state, "{item:?}");
    }
}

#[test]
fn metrics_have_one_series_for_each_name() {
    let named = |name: &str, until| Item { name: name.into(), ..authority(until) };
    let items = [item("b", 1, -5), item("a", 2, 7), named("CN=old", 1), named("CN=old", 9), not_obtained("c")];
    let counts = counts(&items, 0, [3, 4]);
    let ends: Vec<_> = counts.ends.iter().map(|end| (end.kind, &*end.name, &*end.domain, end.not_after_s)).collect();
    let expected = [
        ("authority", "CN=old", "authority.test", 9),
        ("certificate", "a", "a.test", 7),
        ("certificate", "b", "b.test", -5),
    ];
    assert_eq!(ends, expected);
    let states = [("ok", 1), ("expired", 1), ("not_yet_valid", 0), ("not_obtained", 1), ("refused", 0)];
    assert_eq!(counts.states, states);
}

#[test]
fn moments_that_no_calendar_has_are_its_ends() {
    for (unix_s, text) in [
        (i64::MIN, "1970-01-01T00:00:00Z"),
        (0, "1970-01-01T00:00:00Z"),
        (LAST_S, "9999-12-31T23:59:59Z"),
        (i64::MAX, "9999-12-31T23:59:59Z"),
    ] {
        assert_eq!(date_time(unix_s), text);
    }
}
