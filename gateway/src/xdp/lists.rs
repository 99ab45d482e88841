//! The prefixes the program denies and allows, and what changes from one configuration to the next. Pure.

use ipnet::{IpNet, Ipv4Net};

use super::XdpError;
use crate::config::model::{AccessAction, AccessRule};
use gateway_ebpf::abi::PREFIXES_MAX;

/// Every prefix of a configuration, by what is done with it. Sorted, without repeats and without host bits, so equal
/// lists compare equal and a prefix is found by binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

/// One prefix in one list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub action: AccessAction,
    pub prefix: IpNet,
}

/// The way from one [`Lists`] to another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub add: Vec<Entry>,
    pub remove: Vec<Entry>,
}

impl Lists {
    /// The union of the rules; fails when the kernel's maps have no room for it.
    pub fn new(access: &[AccessRule]) -> Result<Lists, XdpError> {
        let lists = Lists { allow: union(access, AccessAction::Allow), deny: union(access, AccessAction::Deny) };
        for (action, prefixes) in [(AccessAction::Allow, &lists.allow), (AccessAction::Deny, &lists.deny)] {
            let v4 = prefixes.iter().filter(|prefix| prefix.addr().is_ipv4()).count();
            let largest = v4.max(prefixes.len() - v4);
            if largest > PREFIXES_MAX {
                return Err(XdpError::TooManyPrefixes { action, count: largest });
            }
        }
        Ok(lists)
    }

    /// What to add and what to remove. Done in this order no packet meets a deny without the allow that goes with it:
    /// allows come first and leave last.
    pub fn changes_to(&self, wanted: &Lists) -> Changes {
        let mut changes = Changes::default();
        missing(AccessAction::Allow, &wanted.allow, &self.allow, &mut changes.add);
        missing(AccessAction::Deny, &wanted.deny, &self.deny, &mut changes.add);
        missing(AccessAction::Deny, &self.deny, &wanted.deny, &mut changes.remove);
        missing(AccessAction::Allow, &self.allow, &wanted.allow, &mut changes.remove);
        changes
    }
}

fn union(access: &[AccessRule], action: AccessAction) -> Vec<IpNet> {
    let rules = access.iter().filter(|rule| rule.action == action);
    let mut prefixes: Vec<IpNet> = rules.flat_map(|rule| &rule.sources).map(as_on_the_wire).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

/// An IPv4-mapped prefix (`::ffff:192.0.2.0/120`, RFC 4291 §2.5.5.2) means IPv4 peers: such an address exists in
/// sockets, never in packets.
fn as_on_the_wire(prefix: &IpNet) -> IpNet {
    let mapped = match prefix {
        IpNet::V4(_) => None,
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
    };
    match mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok()) {
        Some(v4) => IpNet::V4(v4.trunc()),
        None => prefix.trunc(),
    }
}

/// Appends what `of` has and `in_these` has not.
fn missing(action: AccessAction, of: &[IpNet], in_these: &[IpNet], out: &mut Vec<Entry>) {
    let missing = of.iter().filter(|prefix| in_these.binary_search(prefix).is_err());
    out.extend(missing.map(|&prefix| Entry { action, prefix }));
}

#[cfg(test)]
mod tests {
    use super::*;

    use AccessAction::{Allow, Deny};

    #[test]
    fn only_what_differs_is_added_and_removed() {
        let a = &[(Deny, "192.0.2.0/24")][..];
        let b = &[(Deny, "192.0.2.0/24"), (Deny, "2001:db8::/32")][..];
        let c = &[(Deny, "198.51.100.0/24"), (Allow, "198.51.100.7/32")][..];
        let d = &[(Allow, "192.0.2.0/24")][..];
        let cases = [
            ("nothing to nothing", &[][..], &[][..], "", ""),
            ("the same", a, a, "", ""),
            ("first list", &[], b, "deny 192.0.2.0/24, deny 2001:db8::/32", ""),
            ("one more", a, b, "deny 2001:db8::/32", ""),
            ("one less", b, a, "", "deny 2001:db8::/32"),
            ("everything goes, allow last", c, &[], "", "deny 198.51.100.0/24, allow 198.51.100.7/32"),
            (
                "everything is new, allow first",
                a,
                c,
                "allow 198.51.100.7/32, deny 198.51.100.0/24",
                "deny 192.0.2.0/24",
            ),
            ("deny becomes allow", a, d, "allow 192.0.2.0/24", "deny 192.0.2.0/24"),
            ("a longer prefix of a listed one", a, &[(Deny, "192.0.2.0/25")], "deny 192.0.2.0/25", "deny 192.0.2.0/24"),
        ];
        for (name, from, to, add, remove) in cases {
            let changes = lists(from).changes_to(&lists(to));
            assert_eq!((text(&changes.add).as_str(), text(&changes.remove).as_str()), (add, remove), "{name}");
        }
    }

    #[test]
    fn rules_that_mean_the_same_make_the_same_lists() {
        let cases = [
            ("order and repeats", &["192.0.2.0/24", "10.0.0.0/8", "192.0.2.0/24"], &["10.0.0.0/8", "192.0.2.0/24"][..]),
            (
                "host bits",
                &["192.0.2.9/24", "10.1.0.0/8", "2001:db8::1/32"],
                &["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"],
            ),
            (
                "mapped",
                &["::ffff:192.0.2.0/120", "::ffff:10.0.0.1/128", "::/0"],
                &["10.0.0.1/32", "192.0.2.0/24", "::/0"],
            ),
        ];
        for (name, left, right) in cases {
            assert_eq!(lists(&left.map(|prefix| (Deny, prefix))), lists(&deny(right)), "{name}");
        }
    }

    #[test]
    fn more_prefixes_than_the_map_holds_are_refused_with_their_number() {
        let sources = (0..=PREFIXES_MAX as u32).map(|n| IpNet::V4(Ipv4Net::new(n.into(), 32).unwrap())).collect();
        let error = Lists::new(&[AccessRule { name: "huge".into(), action: Deny, sources }]).unwrap_err();
        assert!(error.to_string().contains("1048577"), "{error}");
    }

    fn deny<'a>(prefixes: &[&'a str]) -> Vec<(AccessAction, &'a str)> {
        prefixes.iter().map(|&prefix| (Deny, prefix)).collect()
    }

    /// One rule a prefix, which also tests that rules of the same action are united.
    fn lists(prefixes: &[(AccessAction, &str)]) -> Lists {
        let rule = |&(action, prefix): &(AccessAction, &str)| AccessRule {
            name: prefix.into(),
            action,
            sources: vec![prefix.parse().unwrap()],
        };
        Lists::new(&prefixes.iter().map(rule).collect::<Vec<_>>()).unwrap()
    }

    fn text(entries: &[Entry]) -> String {
        let entry = |entry: &Entry| match entry.action {
            Allow => format!("allow {}", entry.prefix),
            Deny => format!("deny {}", entry.prefix),
        };
        entries.iter().map(entry).collect::<Vec<_>>().join(", ")
    }
}
