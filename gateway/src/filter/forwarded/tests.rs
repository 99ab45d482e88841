use proptest::prelude::*;

use super::*;

const RANDOM: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const ID: &str = "01234567-89ab-4def-bedc-ba9876543210";

fn trusted() -> TrustedProxies {
    trusted_with_hops(0)
}

fn trusted_with_hops(hops: u32) -> TrustedProxies {
    TrustedProxies::build(&["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()], hops)
}

fn peer(ip: &str, is_tls: bool) -> Peer {
    Peer::new(SocketAddr::new(ip.parse().unwrap(), 5000), is_tls)
}

fn headers(lines: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in lines {
        headers.append_raw(name.as_bytes(), value.as_bytes());
    }
    headers
}

#[test]
fn the_client_is_the_last_hop_that_is_not_trusted() {
    let cases: &[(&str, &[&str], &str)] = &[
        // An untrusted peer is the client, whatever it says.
        ("203.0.113.1", &[], "203.0.113.1"),
        ("203.0.113.1", &["9.9.9.9"], "203.0.113.1"),
        ("::ffff:203.0.113.1", &["9.9.9.9"], "203.0.113.1"),
        // A trusted one is believed.
        ("10.0.0.1", &[], "10.0.0.1"),
        ("10.0.0.1", &["9.9.9.9"], "9.9.9.9"),
        ("::ffff:10.0.0.1", &["9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", &["1.1.1.1, 9.9.9.9 ,10.0.0.2"], "9.9.9.9"),
        ("10.0.0.1", &["1.1.1.1", "9.9.9.9", "10.0.0.2,, "], "9.9.9.9"),
        ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("2001:db8::1", &["[2001:db9::7]:443"], "2001:db9::7"),
        ("10.0.0.1", &["[2001:db9::7]"], "2001:db9::7"),
        ("10.0.0.1", &["9.9.9.9:1234"], "9.9.9.9"),
        ("10.0.0.1", &["::ffff:9.9.9.9"], "9.9.9.9"),
        // Up to what is no address.
        ("10.0.0.1", &["9.9.9.9, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", &["\u{ff}"], "10.0.0.1"),
    ];
    for (peer_ip, lines, expected) in cases {
        let lines: Vec<_> = lines.iter().map(|value| ("x-forwarded-for", *value)).collect();
        let client = trusted().client_ip(&peer(peer_ip, false), &headers(&lines));
        assert_eq!(client.to_string(), *expected, "{peer_ip} {lines:?}");
    }
}

#[test]
fn forwarded_names_the_client_where_there_is_no_x_forwarded_for() {
    let cases: &[(&[&str], &str)] = &[
        (&["for=9.9.9.9"], "9.9.9.9"),
        (&["For=9.9.9.9;proto=https;by=10.0.0.1"], "9.9.9.9"),
        (&["proto=https ; for=9.9.9.9 ;;"], "9.9.9.9"),
        (&["for=\"9.9.9.9:80\""], "9.9.9.9"),
        (&["for=9.9.9.9:_port"], "9.9.9.9"),
        (&["for=\"[2001:db9::1]:80\""], "2001:db9::1"),
        (&["for=\"[2001:db9::1]:_x\""], "2001:db9::1"),
        (&["for=\"[2001:db9::1]\""], "2001:db9::1"),
        (&["for=\"[::ffff:9.9.9.9]\""], "9.9.9.9"),
        (&["for=1.1.1.1, for=9.9.9.9,for=10.0.0.2"], "9.9.9.9"),
        (&["for=1.1.1.1", "for=9.9.9.9", "for=10.0.0.2,, "], "9.9.9.9"),
        (&["for=10.0.0.3, for=10.0.0.2"], "10.0.0.3"),
        // Separators in quoted strings separate nothing.
        (&["for=9.9.9.9;host=\"a,for=1.1.1.1\""], "9.9.9.9"),
        (&["for=9.9.9.9;host=\"a;for=1.1.1.1\""], "9.9.9.9"),
        (&["for=9.9.9.9;host=\"\\\";for=1.1.1.1\""], "9.9.9.9"),
        // What is no address ends the search.
        (&["for=9.9.9.9, for=unknown, for=10.0.0.2"], "10.0.0.2"),
        (&["for=9.9.9.9, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
        (&["for=9.9.9.9, proto=http, for=10.0.0.2"], "10.0.0.2"),
        (&["for=9.9.9.9, nonsense, for=10.0.0.2"], "10.0.0.2"),
        (&["for=9.9.9.9;for=8.8.8.8"], "10.0.0.1"),
        (&["for=\"\\9.9.9.9\""], "10.0.0.1"),
        (&["for="], "10.0.0.1"),
        (&["for=\""], "10.0.0.1"),
        (&[""], "10.0.0.1"),
        // A quote left open by the client swallows nothing that a trusted proxy wrote.
        (&["for=\"1.1.1.1, for=9.9.9.9, for=10.0.0.2"], "9.9.9.9"),
        (&["for=\"1.1.1.1\\", "for=9.9.9.9"], "9.9.9.9"),
    ];
    for (lines, expected) in cases {
        let mut lines: Vec<_> = lines.iter().map(|value| ("forwarded", *value)).collect();
        let client = trusted().client_ip(&peer("10.0.0.1", false), &headers(&lines));
        assert_eq!(client.to_string(), *expected, "{lines:?}");
        let forged = trusted().client_ip(&peer("203.0.113.1", false), &headers(&lines));
        assert_eq!(forged.to_string(), "203.0.113.1", "{lines:?}");
        lines.push(("x-forwarded-for", "8.8.8.8"));
        let other = trusted().client_ip(&peer("10.0.0.1", false), &headers(&lines));
        assert_eq!(other.to_string(), "8.8.8.8", "{lines:?}");
    }
}

#[test]
fn with_trusted_hops_the_client_is_an_entry_counted_from_the_right() {
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(&str, u32, Fields<'_>, &str)] = &[
        ("10.0.0.1", 1, &[("x-forwarded-for", "1.1.1.1, 2.2.2.2")], "2.2.2.2"),
        ("10.0.0.1", 2, &[("x-forwarded-for", "1.1.1.1, 2.2.2.2")], "1.1.1.1"),
        ("10.0.0.1", 2, &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2,")], "1.1.1.1"),
        ("10.0.0.1", 1, &[("x-forwarded-for", "1.1.1.1, 10.0.0.2")], "10.0.0.2"),
        ("10.0.0.1", 3, &[("x-forwarded-for", "1.1.1.1, 2.2.2.2")], "10.0.0.1"),
        ("10.0.0.1", 2, &[("x-forwarded-for", "1.1.1.1, unknown, 2.2.2.2")], "10.0.0.1"),
        ("10.0.0.1", 1, &[], "10.0.0.1"),
        ("10.0.0.1", u32::MAX, &[("x-forwarded-for", "1.1.1.1")], "10.0.0.1"),
        ("10.0.0.1", 2, &[("forwarded", "for=1.1.1.1, for=2.2.2.2")], "1.1.1.1"),
        ("203.0.113.1", 1, &[("x-forwarded-for", "1.1.1.1")], "203.0.113.1"),
    ];
    for (peer_ip, hops, lines, expected) in cases {
        let client = trusted_with_hops(*hops).client_ip(&peer(peer_ip, false), &headers(lines));
        assert_eq!(client.to_string(), *expected, "{hops} hops from {peer_ip} with {lines:?}");
    }
}

#[test]
fn an_element_of_forwarded_says_who_asked_for_what_and_how() {
    let cases: &[(&str, bool, &str, &[&str], &str)] = &[
        ("203.0.113.1", true, "a.test", &[], "for=203.0.113.1;host=a.test;proto=https"),
        ("203.0.113.1", false, "a.test:8080", &[], "for=203.0.113.1;host=\"a.test:8080\";proto=http"),
        ("2001:db9::1", true, "[::1]", &[], "for=\"[2001:db9::1]\";host=\"[::1]\";proto=https"),
        ("::ffff:203.0.113.1", true, "", &[], "for=203.0.113.1;proto=https"),
        // What an untrusted peer claims is dropped, what a trusted one says is kept.
        ("203.0.113.1", true, "", &["for=9.9.9.9"], "for=203.0.113.1;proto=https"),
        ("10.0.0.1", true, "", &["for=9.9.9.9", "for=8.8.8.8"], "for=9.9.9.9,for=8.8.8.8,for=10.0.0.1;proto=https"),
    ];
    for (ip, is_tls, authority, lines, expected) in cases {
        let lines: Vec<_> = lines.iter().map(|value| ("forwarded", *value)).collect();
        let (peer, mut scratch) = (peer(ip, *is_tls), Vec::new());
        let mut head =
            RequestHead { authority: authority.as_bytes().into(), headers: headers(&lines), ..RequestHead::default() };
        trusted().prepare(&peer, &mut head, RANDOM, &mut scratch);
        append_forwarded(&peer, &mut head, &mut scratch);
        let written: Vec<_> = head.headers.get_all(&Known::Forwarded).map(String::from_utf8_lossy).collect();
        assert_eq!(written, [*expected]);
    }
}

proptest! {
    #[test]
    fn what_trusted_proxies_wrote_is_read_whatever_is_at_its_left(
        forged in "[ -~]{0,40}",
        client: IpAddr,
        proxies in prop::collection::vec(any::<[u8; 3]>(), 0..3),
        host in "[a-z.:,;=]{0,10}",
    ) {
        let client = client.to_canonical();
        prop_assume!(!trusted().contains(client));
        let mut line = forged.into_bytes();
        let hops = std::iter::once(client).chain(proxies.iter().map(|&[b, c, d]| IpAddr::from([10, b, c, d])));
        for hop in hops {
            line.push(b',');
            element::write(&Peer::new(SocketAddr::new(hop, 1), false), host.as_bytes(), &mut line);
        }
        let mut headers = Headers::default();
        headers.append(&Known::Forwarded, &line);
        prop_assert_eq!(trusted().client_ip(&peer("10.0.0.1", false), &headers), client);
    }
}

fn prepared(peer: Peer, authority: &str, lines: &[(&str, &str)]) -> Vec<String> {
    let mut head = RequestHead { authority: authority.into(), headers: headers(lines), ..RequestHead::default() };
    trusted().prepare(&peer, &mut head, RANDOM, &mut Vec::new());
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    head.headers.iter().map(|(_, name, value)| format!("{}: {}", text(name), text(value))).collect()
}

const CLAIMS: &[(&str, &str)] = &[
    ("accept", "*/*"),
    ("X-Forwarded-For", "9.9.9.9"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.test"),
    ("X-Forwarded-Port", "1"),
    ("Forwarded", "for=9.9.9.9"),
    ("X-Request-Id", "chosen"),
    ("X-Envoy-Original-Path", "/admin"),
    ("X-Envoy-Upstream-Rq-Timeout-Ms", "1"),
];

#[test]
fn an_untrusted_peer_may_claim_nothing_but_earlier_hops() {
    let expected = [
        "accept: */*",
        "x-forwarded-for: 9.9.9.9,203.0.113.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: a.test:8080",
        &format!("x-request-id: {ID}"),
    ];
    assert_eq!(prepared(peer("203.0.113.1", false), "a.test:8080", CLAIMS), expected);
}

#[test]
fn a_trusted_proxys_word_is_kept() {
    let mut expected: Vec<String> =
        CLAIMS.iter().map(|(name, value)| format!("{}: {value}", name.to_lowercase())).collect();
    expected.remove(1);
    expected.push("x-forwarded-for: 9.9.9.9,10.0.0.1".into());
    assert_eq!(prepared(peer("10.0.0.1", false), "a.test", CLAIMS), expected);
}

#[test]
fn what_a_trusted_proxy_does_not_say_is_filled_in() {
    let expected = ["x-forwarded-for: 10.0.0.1", "x-forwarded-proto: https", &format!("x-request-id: {ID}")];
    assert_eq!(prepared(peer("10.0.0.1", true), "", &[]), expected);
}

#[test]
fn several_lines_of_hops_become_one() {
    let lines = [("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-for", ""), ("x-forwarded-for", "3.3.3.3")];
    let lines = prepared(peer("203.0.113.1", false), "", &lines);
    assert_eq!(lines[0], "x-forwarded-for: 1.1.1.1, 2.2.2.2,3.3.3.3,203.0.113.1");
}

#[test]
fn the_clients_scheme_is_that_of_the_first_proxy() {
    let cases = [("https", "https"), ("HTTPS , http", "https"), ("http,https", "http"), ("", "http"), ("wss", "http")];
    for (proto, expected) in cases {
        assert_eq!(client_scheme(&headers(&[("x-forwarded-proto", proto)])), expected, "{proto}");
    }
    assert_eq!(client_scheme(&headers(&[])), "http");
}

#[test]
fn a_uuid_has_version_4_and_the_rfc_variant_whatever_the_bits() {
    assert_eq!(uuid4(0, 0), *b"00000000-0000-4000-8000-000000000000");
    assert_eq!(uuid4(u64::MAX, u64::MAX), *b"ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(uuid4(RANDOM[0], RANDOM[1]), ID.as_bytes());
}

#[test]
fn the_longest_address_has_room() {
    for ip in ["0.0.0.0", "255.255.255.255", "1111:2222:3333:4444:5555:6666:7777:8888", "::ffff:255.255.255.255"] {
        assert_eq!(IpText::new(ip.parse().unwrap()).as_bytes(), ip.as_bytes());
    }
}
