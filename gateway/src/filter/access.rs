//! Rules on the peer's address, for connections that no XDP program has looked at.

use std::net::IpAddr;

use crate::config::model::{AccessAction, AccessRule};
use crate::proto::ip_map::IpMap;

/// The access rules in the form in which an address is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList(IpMap<Effect>);

/// What the rules make of an address. The order is the precedence: allow wins, then the first rule of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    Allow,
    Deny(u32),
}

impl AccessList {
    /// The list of these rules.
    pub fn build(rules: &[AccessRule]) -> AccessList {
        AccessList(IpMap::build(rules.iter().zip(0..).flat_map(|(rule, index)| {
            let effect = match rule.action {
                AccessAction::Allow => Effect::Allow,
                AccessAction::Deny => Effect::Deny(index),
            };
            rule.sources.iter().map(move |network| (*network, effect))
        })))
    }

    /// The rule (an index into those the list was built of) that denies this address; `None` lets it pass.
    pub fn verdict(&self, ip: IpAddr) -> Option<usize> {
        match self.0.get(ip)? {
            Effect::Allow => None,
            Effect::Deny(index) => Some(index as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: AccessAction, sources: &[&str]) -> AccessRule {
        let sources = sources.iter().map(|network| network.parse().unwrap()).collect();
        AccessRule { name: "rule".into(), action, sources }
    }

    #[test]
    fn an_address_is_denied_unless_some_rule_allows_it() {
        let list = AccessList::build(&[
            rule(AccessAction::Deny, &["10.0.0.0/8", "2001:db8::/32"]),
            rule(AccessAction::Allow, &["10.1.0.0/16", "10.9.0.0/16", "192.0.2.1/32"]),
            rule(AccessAction::Deny, &["10.1.2.0/24", "10.2.0.0/16", "203.0.113.0/24"]),
        ]);
        let cases = [
            ("10.0.0.1", Some(0)),
            ("10.2.0.1", Some(0)),
            ("10.1.0.1", None),
            ("10.1.2.3", None),
            ("203.0.113.9", Some(2)),
            ("192.0.2.1", None),
            ("198.51.100.1", None),
            ("2001:db8::1", Some(0)),
            ("2001:db9::1", None),
            ("::ffff:10.0.0.1", Some(0)),
        ];
        for (ip, expected) in cases {
            assert_eq!(list.verdict(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn no_rules_deny_nobody() {
        assert_eq!(AccessList::build(&[]).verdict("10.0.0.1".parse().unwrap()), None);
    }
}
