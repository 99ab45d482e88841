//! `match` of a filter: which requests it is for.

use super::conditions::Conditions;
use super::table::Query;
use crate::config::model::{HostPattern, RouteMatch, When};

/// A `match` in the form in which requests are held against it.
pub struct Applies {
    hosts: Box<[HostPattern]>,
    conditions: Option<Conditions>,
}

impl Applies {
    /// That of a `match`.
    pub fn of(when: &When) -> Applies {
        let When { hosts, methods, headers, query, client_ip } = when.clone();
        let matcher = RouteMatch { methods, headers, query, client_ip, ..RouteMatch::default() };
        Applies { hosts: hosts.into(), conditions: Conditions::of(&matcher) }
    }

    /// Whether every part holds.
    pub fn to(&self, query: &Query<'_>) -> bool {
        (self.hosts.is_empty() || self.hosts.iter().any(|host| host_holds(host, query.host)))
            && self.conditions.as_ref().is_none_or(|conditions| conditions.hold(query))
    }
}

fn host_holds(pattern: &HostPattern, host: &[u8]) -> bool {
    match pattern {
        HostPattern::Exact(name) => name.as_bytes() == host,
        // One label or more before it.
        HostPattern::Suffix(end) => host.len() > end.len() && host.ends_with(end.as_bytes()),
        HostPattern::Any => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{HeaderMatch, QueryMatch, ValueMatch};
    use crate::proto::head::{HeaderName, Method, RequestHead};

    #[test]
    fn every_part_of_a_match_must_hold() {
        let when = || When {
            hosts: vec![HostPattern::Exact("a.test".into()), HostPattern::Suffix(".b.test".into())],
            methods: vec![Method::Post],
            headers: vec![HeaderMatch {
                name: HeaderName::new("x-plan").unwrap(),
                value: ValueMatch::Exact("free".into()),
            }],
            query: vec![QueryMatch { name: "debug".into(), value: ValueMatch::Present(true) }],
            client_ip: vec!["192.0.2.0/24".parse().unwrap()],
        };
        let holds = |when: When, host: &str, method: Method, target: &str, plan: &str, client: &str| {
            let mut head = RequestHead { method, target: target.into(), ..RequestHead::default() };
            head.headers.append_raw(b"x-plan", plan.as_bytes());
            let ip = client.parse().unwrap();
            let query = Query { host: host.as_bytes(), path: b"/", head: &head, peer_ip: ip, client_ip: ip };
            Applies::of(&when).to(&query)
        };
        let cases = [
            ("a.test", Method::Post, "/?debug", "free", "192.0.2.1", true),
            ("c.b.test", Method::Post, "/?x=1&debug=1", "free", "192.0.2.1", true),
            ("b.test", Method::Post, "/?debug", "free", "192.0.2.1", false),
            ("a.test", Method::Get, "/?debug", "free", "192.0.2.1", false),
            ("a.test", Method::Post, "/", "free", "192.0.2.1", false),
            ("a.test", Method::Post, "/?debug", "gold", "192.0.2.1", false),
            ("a.test", Method::Post, "/?debug", "free", "192.0.3.1", false),
        ];
        for (host, method, target, plan, client, expected) in cases {
            assert_eq!(holds(when(), host, method, target, plan, client), expected, "{host} {target} {plan} {client}");
        }
        assert!(holds(When::default(), "any.test", Method::Get, "/", "", "198.51.100.1"));
    }
}
