//! The key of a request: those with the same one meet the same endpoint.

use std::net::IpAddr;

use super::hash::{Digest, mix};
use crate::config::model::{HashOn, HashRule};
use crate::proto::cookie::{self, Cookie};
use crate::proto::head::{HeaderName, Known, Name as _, RequestHead};

/// What the rules find in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found<'a> {
    /// The key; `None` when no rule finds anything.
    pub key: Option<u64>,
    /// The cookie that the client has to be given, and its value.
    pub new_cookie: Option<(&'a Cookie, u64)>,
}

/// Applies the rules in turn, as Envoy does: what each finds is mixed into what was found before it. `random` is the value
/// of a cookie that the client does not have yet.
pub fn find<'a>(rules: &'a [HashRule], head: &RequestHead, client: IpAddr, random: u64) -> Found<'a> {
    let mut found = Found::default();
    for rule in rules {
        let part = match &rule.on {
            HashOn::Header(name) => of_header(name, head),
            HashOn::Query(name) => head.param(name.as_bytes()).map(super::hash::of),
            HashOn::SourceIp => Some(of_address(client)),
            HashOn::Cookie { cookie, generate } => match cookie::find(&head.headers, &cookie.name) {
                Some(value) => Some(super::hash::of(value)),
                None if *generate && found.new_cookie.is_none() => {
                    found.new_cookie = Some((cookie, random));
                    Some(super::hash::of(&cookie::number(random)))
                }
                None => None,
            },
        };
        found.key = match (found.key, part) {
            (Some(before), Some(part)) => Some(mix(before.rotate_left(1) ^ part)),
            (before, part) => before.or(part),
        };
        if rule.terminal && found.key.is_some() {
            break;
        }
    }
    found
}

/// The key of a client's address: all that a relay knows.
pub fn of_address(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(ip) => super::hash::of(&ip.octets()),
        IpAddr::V6(ip) => super::hash::of(&ip.octets()),
    }
}

/// All values of the field: their order is the client's, and part of the key.
fn of_header(name: &HeaderName, head: &RequestHead) -> Option<u64> {
    // The `host` field is not among the fields (`RequestHead::authority`).
    if name.known() == Known::Host {
        return (!head.authority.is_empty()).then(|| super::hash::of(&head.authority));
    }
    let mut values = head.headers.get_all(name);
    let first = Digest::default().eat(values.next()?);
    Some(values.fold(first, |digest, value| digest.eat(b",").eat(value)).end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::head::Headers;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn rule(text: &str) -> HashRule {
        let (text, terminal) = text.strip_suffix('!').map_or((text, false), |text| (text, true));
        let cookie = |name: &str| Cookie { name: name.into(), ttl: None, path: None, attributes: vec![] };
        let on = match text.split_once(':') {
            Some(("header", name)) => HashOn::Header(HeaderName::new(name).unwrap()),
            Some(("query", name)) => HashOn::Query(name.into()),
            Some(("cookie", name)) => HashOn::Cookie { cookie: cookie(name), generate: false },
            Some(("new", name)) => HashOn::Cookie { cookie: cookie(name), generate: true },
            _ => HashOn::SourceIp,
        };
        HashRule { on, terminal }
    }

    fn rules(text: &str) -> Vec<HashRule> {
        text.split_whitespace().map(rule).collect()
    }

    fn head(target: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut headers = Headers::default();
        fields.iter().for_each(|(name, value)| headers.append_raw(name.as_bytes(), value.as_bytes()));
        RequestHead {
            authority: b"a.test".to_vec(),
            target: target.as_bytes().to_vec(),
            headers,
            ..RequestHead::default()
        }
    }

    #[test]
    fn equal_parts_of_requests_make_equal_keys_and_only_they() {
        let one = head("/?user=1&x=2", &[("x-user", "1"), ("cookie", "id=1")]);
        let other = head("/other?x=3&user=1", &[("x-other", "2"), ("cookie", "b=c; id=1"), ("x-user", "1")]);
        let third = head("/?user=2", &[("x-user", "2"), ("cookie", "id=2")]);
        for text in ["header:x-user", "query:user", "cookie:id", "header:x-user query:user cookie:id"] {
            let rules = rules(text);
            let key = |head: &RequestHead| find(&rules, head, CLIENT, 0).key;
            assert!(key(&one).is_some(), "{text}");
            assert_eq!(key(&one), key(&other), "{text}");
            assert_ne!(key(&one), key(&third), "{text}");
        }
        let rules = rules("source");
        let of = |ip: &str| find(&rules, &one, ip.parse().unwrap(), 0).key;
        assert_eq!(of("192.0.2.1"), Some(of_address(CLIENT)));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn a_terminal_rule_that_finds_something_is_the_last() {
        let with = head("/", &[("x-user", "1")]);
        let without = head("/", &[]);
        let key = |text: &str, head: &RequestHead| find(&rules(text), head, CLIENT, 0).key;
        assert_eq!(key("header:x-user! source", &with), key("header:x-user", &with));
        assert_ne!(key("header:x-user source", &with), key("header:x-user", &with));
        assert_eq!(key("header:x-user! source", &without), key("source", &without));
        assert_eq!(key("header:x-user query:user cookie:id", &without), None);
        assert_eq!(key("header:host", &without), Some(super::super::hash::of(b"a.test")));
    }

    #[test]
    fn a_cookie_that_is_not_there_is_made_and_has_the_key_it_will_have_when_it_comes_back() {
        let rules = rules("new:aff");
        let request = head("/", &[]);
        let found = find(&rules, &request, CLIENT, 0x1234);
        let (cookie, value) = found.new_cookie.unwrap();
        assert_eq!((cookie.name.as_str(), value), ("aff", 0x1234));
        let again = head("/", &[("cookie", "aff=\"0000000000001234\"")]);
        assert_eq!(find(&rules, &again, CLIENT, 99), Found { key: found.key, new_cookie: None });
    }

    #[test]
    fn several_values_of_a_field_are_all_part_of_the_key() {
        let rules = rules("header:x-user");
        let key = |fields: &[(&str, &str)]| find(&rules, &head("/", fields), CLIENT, 0).key;
        assert_ne!(key(&[("x-user", "1")]), key(&[("x-user", "1"), ("x-user", "2")]));
    }
}
