use proptest::prelude::*;

use super::*;
use crate::config::model::{EndpointAddress, HostPattern};

fn reads<T: FromText>(text: &str) -> bool {
    T::from_text(text).is_ok()
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("0", Some(0)),
        ("1500", Some(1500)),
        ("1500B", Some(1500)),
        ("64KiB", Some(65_536)),
        ("64 KiB", Some(65_536)),
        ("10MB", Some(10_000_000)),
        ("1kB", Some(1000)),
        ("2GiB", Some(2 << 30)),
        ("3TB", Some(3_000_000_000_000)),
        ("16777215TiB", Some(16_777_215 << 40)),
        ("16777216TiB", None),
        ("99999999999999999999", None),
        ("", None),
        ("KiB", None),
        ("1kib", None),
        ("-1", None),
        ("1.5MB", None),
        ("1 2", None),
    ] {
        assert_eq!(parse_size(text), bytes, "{text:?}");
    }
}

#[test]
fn durations() {
    for (text, millis) in [
        ("0s", Some(0)),
        ("500ms", Some(500)),
        ("5s", Some(5000)),
        ("1m30s", Some(90_000)),
        ("1h 1m", Some(3_660_000)),
        ("366days", Some(366 * 86_400_000)),
        ("367days", None),
        ("1.5s", Some(1500)),
        ("5", None),
        ("", None),
        ("-1s", None),
        ("18446744073709551615years", None),
    ] {
        let got = Duration::from_text(text).ok().map(|duration| duration.0.as_millis());
        assert_eq!(got, millis, "{text:?}");
    }
    assert!(!reads::<PositiveDuration>("0s") && reads::<PositiveDuration>("1ns"));
}

#[test]
fn endpoints() {
    let read = |text| Upstream::from_text(text).ok().map(|upstream| upstream.0);
    assert_eq!(read("10.0.0.1:80"), Some(EndpointAddress::Socket(([10, 0, 0, 1], 80).into())));
    assert_eq!(read("[::1]:80"), Some(EndpointAddress::Socket("[::1]:80".parse().unwrap())));
    assert_eq!(read("API.internal:80"), Some(EndpointAddress::Name("api.internal".into(), 80)));
    assert_eq!(read("my_service:65535"), Some(EndpointAddress::Name("my_service".into(), 65535)));
    assert_eq!(read("a.b.:80"), Some(EndpointAddress::Name("a.b.".into(), 80)));
    for text in ["", ":", ":80", "a", "a:", "a:0", "a:65536", "a b:1", "10.0.0.1", "10.0.0.300:80", "::1:80", "-a:1"] {
        assert_eq!(read(text), None, "{text:?}");
    }
}

#[test]
fn hosts() {
    let read = |text| Host::from_text(text).ok().map(|host| host.0);
    assert_eq!(read("*"), Some(HostPattern::Any));
    assert_eq!(read("*.Example.com"), Some(HostPattern::Suffix(".example.com".into())));
    assert_eq!(read("Example.com"), Some(HostPattern::Exact("example.com".into())));
    assert_eq!(read("[::1]"), Some(HostPattern::Exact("[::1]".into())));
    assert_eq!(read("10.0.0.1"), Some(HostPattern::Exact("10.0.0.1".into())));
    assert!(reads::<Authority>("example.com:80") && reads::<Authority>("[::1]:80") && reads::<Authority>("[::1]"));
    assert!(!reads::<Authority>("::1") && !reads::<Authority>("a b") && !reads::<Authority>("a:80:80"));
    assert!(reads::<HostName>("a.example") && !reads::<HostName>("*.example") && !reads::<HostName>("a:80"));
}

#[test]
fn a_label_is_at_most_63_bytes_and_a_name_253() {
    let label = "a".repeat(63);
    assert!(is_dns_name(&label) && !is_dns_name(&format!("{label}a")));
    let name = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert!(is_dns_name(&name) && !is_dns_name(&format!("{name}a")));
}

proptest! {
    #[test]
    fn what_humantime_writes_is_read(millis in 0u64..30_000_000_000) {
        let duration = time::Duration::from_millis(millis);
        let text = humantime::format_duration(duration).to_string();
        prop_assert_eq!(Duration::from_text(&text).unwrap().0, duration);
    }

    #[test]
    fn no_header_value_splits_a_message(text in "\\PC{0,8}[\r\n\0]?\\PC{0,8}") {
        if let Ok(HeaderValue(value)) = HeaderValue::from_text(&text) {
            prop_assert!(!value.contains(['\r', '\n', '\0']));
        }
    }
}

#[test]
fn alternative_names_are_of_the_kind_they_look_like() {
    use crate::config::model::SanMatch;
    let read = |text: &str| San::from_text(text).map(|san| san.0).ok();
    let cases = [
        ("Client.example.com", Some(SanMatch::Dns("client.example.com".into()))),
        ("*.example.com", Some(SanMatch::DnsLabel(".example.com".into()))),
        (".Example.com", Some(SanMatch::DnsBelow(".example.com".into()))),
        ("spiffe://example.org", Some(SanMatch::TrustDomain("spiffe://example.org/".into()))),
        ("spiffe://example.org/", Some(SanMatch::TrustDomain("spiffe://example.org/".into()))),
        ("spiffe://example.org/*", Some(SanMatch::UriPrefix("spiffe://example.org/".into()))),
        ("spiffe://example.org/a", Some(SanMatch::Uri("spiffe://example.org/a".into()))),
        ("https://example.org/a?b=c", Some(SanMatch::Uri("https://example.org/a?b=c".into()))),
        ("urn:uuid:*", Some(SanMatch::UriPrefix("urn:uuid:".into()))),
        ("192.0.2.1", Some(SanMatch::Ip([192, 0, 2, 1].into()))),
        ("2001:db8::1", Some(SanMatch::Ip("2001:db8::1".parse().unwrap()))),
        ("", None),
        ("*", None),
        ("*.*.example.com", None),
        ("a*.example.com", None),
        ("a b", None),
        ("spiffe://", None),
        ("spiffe://*", None),
        ("spiffe://Example.org", None),
        ("spiffe://example.org*", None),
        ("https://example.org*", None),
        ("https://*/a", None),
        ("https://example.org/ä", None),
    ];
    for (text, wanted) in cases {
        assert_eq!(read(text), wanted, "{text:?}");
    }
    for text in ["client.example.com", "*.example.com", ".example.com", "spiffe://example.org", "urn:uuid:*", "::1"] {
        assert_eq!(read(text).map(|rule| rule.to_string()).as_deref(), Some(text), "is shown as it is written");
    }
}

#[test]
fn a_key_pin_is_base64_or_hexadecimal() {
    let read = |text: &str| KeyPin::from_text(text).map(|pin| pin.0).ok();
    let pin = [0xab; 32];
    assert_eq!(read("q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="), Some(pin));
    assert_eq!(read(&"ab".repeat(32)), Some(pin));
    assert_eq!(read(&["AB"; 32].join(":")), Some(pin));
    for text in ["", "q6ur", &"ab".repeat(31), &"zz".repeat(32), "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s"] {
        assert_eq!(read(text), None, "{text:?}");
    }
}
