//! What a rate limit service is told of a request: Envoy's descriptors.

use std::net::IpAddr;

use ipnet::IpNet;

use super::conditions::header_holds;
use super::table::Query;
use crate::config::model::{DescriptorAction, FieldSource, Prefixes};
use crate::proto::head::RequestHead;
use crate::proto::rate_limit_service::{Entry, RateLimitDescriptor};

/// The descriptors that have all their entries. `destination`: the cluster that the request goes to, if any.
pub fn descriptors(
    wanted: &[Vec<DescriptorAction>],
    query: &Query<'_>,
    destination: Option<&str>,
) -> Vec<RateLimitDescriptor> {
    wanted.iter().filter_map(|actions| descriptor(actions, query, destination)).collect()
}

/// One descriptor. `None` when an entry has no value, or when there is no entry: a service refuses one without.
fn descriptor(
    actions: &[DescriptorAction],
    query: &Query<'_>,
    destination: Option<&str>,
) -> Option<RateLimitDescriptor> {
    let mut entries = Vec::with_capacity(actions.len());
    for action in actions {
        match entry(action, query, destination) {
            Found::Entry(key, value) => entries.push(Entry { key: key.to_owned(), value }),
            Found::Skip => {}
            Found::Nothing => return None,
        }
    }
    (!entries.is_empty()).then(|| RateLimitDescriptor { entries, ..RateLimitDescriptor::default() })
}

/// What an action finds.
enum Found<'a> {
    Entry(&'a str, String),
    /// No entry, and the descriptor does without.
    Skip,
    /// No entry, and therefore no descriptor.
    Nothing,
}

fn entry<'a>(action: &'a DescriptorAction, query: &Query<'_>, destination: Option<&str>) -> Found<'a> {
    let may_lack = |key: &'a str, value: Option<String>, skip_if_absent: bool| match value {
        Some(value) => Found::Entry(key, value),
        None if skip_if_absent => Found::Skip,
        None => Found::Nothing,
    };
    match action {
        DescriptorAction::SourceCluster(name) => Found::Entry("source_cluster", name.clone()),
        DescriptorAction::DestinationCluster => may_lack("destination_cluster", destination.map(str::to_owned), false),
        DescriptorAction::RequestHeader { from, key, skip_if_absent } => {
            may_lack(key, field(from, query.head).map(text), *skip_if_absent)
        }
        DescriptorAction::QueryParameter { name, key, skip_if_absent } => {
            let value = query.head.param(name.as_bytes()).map(|value| text(&percent_decoded(value)));
            may_lack(key, value, *skip_if_absent)
        }
        DescriptorAction::RemoteAddress => Found::Entry("remote_address", query.client_ip.to_canonical().to_string()),
        DescriptorAction::MaskedRemoteAddress(prefixes) => {
            Found::Entry("masked_remote_address", masked(query.client_ip, *prefixes))
        }
        DescriptorAction::GenericKey { key, value } => Found::Entry(key, value.clone()),
        DescriptorAction::HeaderValueMatch { headers, key, value, expect_match } => {
            let matches = headers.iter().all(|header| header_holds(header, query.head));
            may_lack(key, (matches == *expect_match).then(|| value.clone()), false)
        }
    }
}

fn field<'a>(from: &FieldSource, head: &'a RequestHead) -> Option<&'a [u8]> {
    match from {
        FieldSource::Method => Some(head.method.as_str().as_bytes()),
        FieldSource::Path => Some(&head.target),
        FieldSource::Authority => (!head.authority.is_empty()).then_some(&head.authority),
        FieldSource::Header(name) => head.headers.get(name),
    }
}

/// The service is told texts.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// A network, as in `198.51.100.0/24`.
fn masked(ip: IpAddr, Prefixes { ipv4, ipv6 }: Prefixes) -> String {
    let ip = ip.to_canonical();
    let prefix = if ip.is_ipv4() { ipv4 } else { ipv6 };
    // `config::check` has seen that the prefix is not longer than an address.
    IpNet::new_assert(ip, prefix).trunc().to_string()
}

/// With `%XX` undone; what is no such triple stays as it is.
fn percent_decoded(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = match (byte, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        out.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &after[2..] } else { after };
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{HeaderMatch, ValueMatch};
    use crate::proto::head::{HeaderName, Method};

    fn header(name: &str) -> FieldSource {
        FieldSource::Header(HeaderName::new(name).unwrap())
    }

    fn from(from: FieldSource, skip_if_absent: bool) -> DescriptorAction {
        DescriptorAction::RequestHeader { from, key: "k".into(), skip_if_absent }
    }

    fn param(name: &str, skip_if_absent: bool) -> DescriptorAction {
        DescriptorAction::QueryParameter { name: name.into(), key: "q".into(), skip_if_absent }
    }

    fn generic(value: &str) -> DescriptorAction {
        DescriptorAction::GenericKey { key: "generic_key".into(), value: value.into() }
    }

    fn plan(value: ValueMatch, expect_match: bool) -> DescriptorAction {
        let headers = vec![HeaderMatch { name: HeaderName::new("x-plan").unwrap(), value }];
        DescriptorAction::HeaderValueMatch { headers, key: "header_match".into(), value: "v".into(), expect_match }
    }

    /// What a POST for `/a?user=J%c3%b6rg%20%zz&empty` gives, in the form `key=value,key=value`.
    fn told(wanted: &[Vec<DescriptorAction>], client: &str, destination: Option<&str>) -> Vec<String> {
        let mut head = RequestHead {
            method: Method::Post,
            authority: b"shop.test:81".to_vec(),
            target: b"/a?user=J%c3%b6rg+%20%zz%&empty".to_vec(),
            ..RequestHead::default()
        };
        for (name, value) in [("x-user", &b"ann"[..]), ("x-user", b"bob"), ("x-plan", b"free"), ("x-raw", b"\xffx")] {
            head.headers.append_raw(name.as_bytes(), value);
        }
        let ip = client.parse().unwrap();
        let query = Query { host: b"shop.test", path: b"/a", head: &head, peer_ip: ip, client_ip: ip };
        let told = descriptors(wanted, &query, destination);
        let line = |entries: Vec<Entry>| entries.into_iter().map(|entry| format!("{}={}", entry.key, entry.value));
        told.into_iter().map(|descriptor| line(descriptor.entries).collect::<Vec<_>>().join(",")).collect()
    }

    #[test]
    fn an_action_gives_an_entry() {
        let exact = |value: &str| ValueMatch::Exact(value.into());
        let cases = [
            (DescriptorAction::SourceCluster("edge".into()), Some("source_cluster=edge")),
            (DescriptorAction::DestinationCluster, Some("destination_cluster=shop")),
            (from(header("x-user"), false), Some("k=ann")),
            (from(header("x-raw"), false), Some("k=\u{fffd}x")),
            (from(header("x-none"), false), None),
            (from(FieldSource::Method, false), Some("k=POST")),
            (from(FieldSource::Path, false), Some("k=/a?user=J%c3%b6rg+%20%zz%&empty")),
            (from(FieldSource::Authority, false), Some("k=shop.test:81")),
            (param("user", false), Some("q=J\u{f6}rg+ %zz%")),
            (param("empty", false), Some("q=")),
            (param("none", false), None),
            (DescriptorAction::RemoteAddress, Some("remote_address=192.0.2.77")),
            (generic("login"), Some("generic_key=login")),
            (plan(exact("free"), true), Some("header_match=v")),
            (plan(exact("gold"), true), None),
            (plan(exact("gold"), false), Some("header_match=v")),
            (plan(ValueMatch::Present(true), false), None),
        ];
        for (action, expected) in cases {
            let told = told(&[vec![action.clone()]], "192.0.2.77", Some("shop"));
            assert_eq!(told, Vec::from_iter(expected), "{action:?}");
        }
    }

    #[test]
    fn addresses_are_masked_as_envoy_writes_them() {
        let cases = [
            ("192.0.2.77", 32, 128, "192.0.2.77/32"),
            ("192.0.2.77", 24, 128, "192.0.2.0/24"),
            ("::ffff:192.0.2.77", 24, 128, "192.0.2.0/24"),
            ("192.0.2.77", 0, 128, "0.0.0.0/0"),
            ("2001:db8:1:2:3::4", 32, 128, "2001:db8:1:2:3::4/128"),
            ("2001:db8:1:2:3::4", 32, 64, "2001:db8:1:2::/64"),
        ];
        for (client, ipv4, ipv6, expected) in cases {
            let action = DescriptorAction::MaskedRemoteAddress(Prefixes { ipv4, ipv6 });
            assert_eq!(told(&[vec![action]], client, None), [format!("masked_remote_address={expected}")]);
        }
    }

    #[test]
    fn a_descriptor_without_one_of_its_entries_is_not_sent() {
        let wanted = [
            vec![generic("a"), from(header("x-user"), false)],
            vec![generic("b"), from(header("x-none"), false)],
            vec![generic("c"), from(header("x-none"), true), param("none", true), generic("d")],
            vec![from(header("x-none"), true)],
            vec![generic("e"), DescriptorAction::DestinationCluster],
        ];
        let expected = ["generic_key=a,k=ann", "generic_key=c,generic_key=d"];
        assert_eq!(told(&wanted, "192.0.2.1", None), expected);
    }
}
