//! Rules on the peer's address, for connections that no XDP program has looked at.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::SystemTime;

use crate::config::model::{AccessAction, AccessRule, VipProtocol};
use crate::proto::ip_map::{IpMap, IpSet};

/// The access rules in the form in which an address is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList {
    /// Rules that say the same of every connection for all time, whose number does not matter.
    plain: IpMap<Effect>,
    /// The others, in the order of the file.
    special: Vec<Special>,
}

/// What is asked about besides the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knock {
    /// The transport protocol.
    pub protocol: VipProtocol,
    /// The port it came to.
    pub port: u16,
    /// When.
    pub now: SystemTime,
}

/// What the rules make of an address. The order is the precedence: allow wins, then the first rule of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    Allow,
    Deny(u32),
}

/// A rule with conditions, or with sources that end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Special {
    effect: Effect,
    protocol: Option<VipProtocol>,
    ports: Vec<RangeInclusive<u16>>,
    /// Those that never end, where the rule has conditions.
    forever: IpSet,
    /// The latest end of the networks an address is in.
    ends: IpMap<Reverse<SystemTime>>,
}

impl AccessList {
    /// The list of these rules.
    pub fn build(rules: &[AccessRule]) -> AccessList {
        let rules = || rules.iter().zip(0..).map(|(rule, index)| (rule, effect(rule, index)));
        let plain = rules().filter(|(rule, _)| is_unconditional(rule));
        let plain = plain.flat_map(|(rule, effect)| rule.sources.iter().map(move |network| (*network, effect)));
        let special = rules().filter(|(rule, _)| !is_unconditional(rule) || !rule.expiring.is_empty());
        AccessList {
            plain: IpMap::build(plain),
            special: special.map(|(rule, effect)| special_of(rule, effect)).collect(),
        }
    }

    /// The rule (an index into those the list was built of) that denies this address; `None` lets it pass.
    pub fn verdict(&self, ip: IpAddr, knock: Knock) -> Option<usize> {
        let special = self.special.iter().filter(|rule| rule.has(ip, knock)).map(|rule| rule.effect);
        match special.chain(self.plain.get(ip)).min()? {
            Effect::Allow => None,
            Effect::Deny(index) => Some(index as usize),
        }
    }
}

fn effect(rule: &AccessRule, index: u32) -> Effect {
    match rule.action {
        AccessAction::Allow => Effect::Allow,
        AccessAction::Deny => Effect::Deny(index),
    }
}

fn is_unconditional(rule: &AccessRule) -> bool {
    rule.protocol.is_none() && rule.ports.is_empty()
}

fn special_of(rule: &AccessRule, effect: Effect) -> Special {
    let forever = if is_unconditional(rule) { &[][..] } else { &rule.sources };
    Special {
        effect,
        protocol: rule.protocol,
        ports: rule.ports.clone(),
        forever: IpSet::of(forever),
        ends: IpMap::build(rule.expiring.iter().map(|&(network, until)| (network, Reverse(until)))),
    }
}

impl Special {
    fn has(&self, ip: IpAddr, knock: Knock) -> bool {
        let protocol = self.protocol.is_none_or(|protocol| protocol == knock.protocol);
        let port = self.ports.is_empty() || self.ports.iter().any(|ports| ports.contains(&knock.port));
        protocol
            && port
            && (self.forever.contains(ip) || self.ends.get(ip).is_some_and(|Reverse(until)| until > knock.now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rule(action: AccessAction, sources: &[&str]) -> AccessRule {
        let sources = sources.iter().map(|network| network.parse().unwrap()).collect();
        AccessRule { name: "rule".into(), action, protocol: None, ports: vec![], sources, expiring: vec![] }
    }

    const NOON: SystemTime = SystemTime::UNIX_EPOCH;

    fn verdict(list: &AccessList, ip: &str, protocol: VipProtocol, port: u16, now: SystemTime) -> Option<usize> {
        list.verdict(ip.parse().unwrap(), Knock { protocol, port, now })
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
            assert_eq!(verdict(&list, ip, VipProtocol::Tcp, 80, NOON), expected, "{ip}");
        }
    }

    #[test]
    fn no_rules_deny_nobody() {
        assert_eq!(verdict(&AccessList::build(&[]), "10.0.0.1", VipProtocol::Tcp, 80, NOON), None);
    }

    #[test]
    fn conditions_and_ends_are_obeyed() {
        use VipProtocol::{Tcp, Udp};
        let (earlier, later) = (NOON - Duration::from_secs(1), NOON + Duration::from_secs(1));
        let net = |text: &str| text.parse().unwrap();
        let list = AccessList::build(&[
            AccessRule {
                protocol: Some(Tcp),
                ports: vec![22..=22, 8000..=8100],
                ..rule(AccessAction::Deny, &["10.0.0.0/8"])
            },
            AccessRule { ports: vec![8050..=8050], ..rule(AccessAction::Allow, &["10.1.0.0/16"]) },
            AccessRule {
                expiring: vec![
                    (net("10.2.0.0/16"), later),
                    (net("10.2.0.0/15"), earlier),
                    (net("10.1.9.0/24"), earlier),
                ],
                ..rule(AccessAction::Deny, &["192.0.2.0/24"])
            },
            AccessRule { expiring: vec![(net("192.0.2.7/32"), later)], ..rule(AccessAction::Allow, &[]) },
        ]);
        let cases = [
            ("10.9.0.1", Tcp, 22, Some(0)),
            ("10.9.0.1", Tcp, 8100, Some(0)),
            ("10.9.0.1", Tcp, 8101, None),
            ("10.9.0.1", Udp, 22, None),
            ("10.1.0.1", Tcp, 22, Some(0)),
            ("10.1.0.1", Tcp, 8050, None),
            ("10.2.0.1", Udp, 53, Some(2)),
            ("10.3.0.1", Udp, 53, None),
            ("10.1.9.1", Udp, 53, None),
            ("192.0.2.1", Udp, 53, Some(2)),
            ("192.0.2.7", Udp, 53, None),
        ];
        for (ip, protocol, port, expected) in cases {
            assert_eq!(verdict(&list, ip, protocol, port, NOON), expected, "{ip} {protocol:?} {port}");
        }
        assert_eq!(verdict(&list, "10.2.0.1", Udp, 53, later), None, "it has ended");
        assert_eq!(verdict(&list, "192.0.2.7", Udp, 53, later), Some(2), "the exception has ended");
    }
}
