//! Networks to values, looked up by address.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// A map from networks to values. An address in several networks gets the least of their values.
///
/// Kept as the sorted borders at which the value changes, one list per family, so that a lookup is one binary search
/// however the networks overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpMap<V> {
    v4: Borders<V>,
    v6: Borders<V>,
}

/// Networks without values.
pub type IpSet = IpMap<()>;

/// From each address on (up to the next one), this value.
type Borders<V> = Vec<(u128, Option<V>)>;

impl<V: Copy + Ord> IpMap<V> {
    /// The map of these networks. One of IPv4-mapped IPv6 addresses (`::ffff:0:0/96` and below) is one of IPv4.
    pub fn build(networks: impl IntoIterator<Item = (IpNet, V)>) -> IpMap<V> {
        let (v4, v6): (Vec<_>, Vec<_>) = networks
            .into_iter()
            .map(|(network, value)| (canonical(network), value))
            .partition(|(network, _)| matches!(network, IpNet::V4(_)));
        IpMap { v4: borders(v4), v6: borders(v6) }
    }

    /// The least value of the networks that have this address. An IPv4-mapped IPv6 address is looked up as IPv4, so
    /// that a dual-stack socket does not let a client around a rule.
    pub fn get(&self, ip: IpAddr) -> Option<V> {
        let ip = ip.to_canonical();
        let borders = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
        let after = borders.partition_point(|&(start, _)| start <= bits(ip));
        borders[..after].last().and_then(|&(_, value)| value)
    }
}

impl IpSet {
    /// The set of these networks.
    pub fn of(networks: &[IpNet]) -> IpSet {
        IpMap::build(networks.iter().map(|network| (*network, ())))
    }

    /// Whether the address is in one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.get(ip).is_some()
    }

    /// Whether any address of the network is in one of them.
    pub fn overlaps(&self, network: IpNet) -> bool {
        let network = canonical(network);
        let (first, last) = (bits(network.network()), bits(network.broadcast()));
        let borders = if network.addr().is_ipv4() { &self.v4 } else { &self.v6 };
        let (after, end) = (
            borders.partition_point(|&(start, _)| start <= first),
            borders.partition_point(|&(start, _)| start <= last),
        );
        // The last border before it says what its first address has.
        borders[after.saturating_sub(1)..end].iter().any(|(_, value)| value.is_some())
    }
}

fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6.network().to_ipv4_mapped().map(|ip| (ip, v6.prefix_len() - 96)),
        _ => None,
    };
    mapped.and_then(|(ip, prefix_len)| Ipv4Net::new(ip, prefix_len).ok()).map_or(network, IpNet::V4)
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// Networks nest or are apart, so a sweep over them by their first address keeps those it is inside of on a stack.
fn borders<V: Copy + Ord>(mut networks: Vec<(IpNet, V)>) -> Borders<V> {
    networks.sort_unstable_by_key(|(network, value)| (bits(network.network()), network.prefix_len(), *value));
    let mut borders = Vec::new();
    let mut open: Vec<(u128, V)> = Vec::new();
    for (network, value) in networks {
        let (first, last) = (bits(network.network()), bits(network.broadcast()));
        close_before(first, &mut open, &mut borders);
        let value = open.last().map_or(value, |&(_, outer)| outer.min(value));
        push_border(&mut borders, first, Some(value));
        open.push((last, value));
    }
    close_before(u128::MAX, &mut open, &mut borders);
    borders.shrink_to_fit();
    borders
}

/// Ends the open networks whose last address is before `first`.
fn close_before<V: Copy + Ord>(first: u128, open: &mut Vec<(u128, V)>, borders: &mut Borders<V>) {
    while let Some((last, _)) = open.pop_if(|(last, _)| *last < first) {
        push_border(borders, last + 1, open.last().map(|&(_, value)| value));
    }
}

fn push_border<V: Copy + Ord>(borders: &mut Borders<V>, start: u128, value: Option<V>) {
    borders.pop_if(|border| border.0 == start);
    if borders.last().and_then(|border| border.1) != value {
        borders.push((start, value));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(networks: &[(&str, u32)]) -> IpMap<u32> {
        IpMap::build(networks.iter().map(|(network, value)| (network.parse().unwrap(), *value)))
    }

    #[test]
    fn an_address_gets_the_least_value_of_its_networks() {
        let map = map(&[
            ("10.0.0.0/8", 5),
            ("10.1.0.0/16", 7),
            ("10.2.0.0/16", 1),
            ("10.2.3.4/32", 3),
            ("255.255.255.255/32", 9),
            ("2001:db8::/32", 2),
            ("::ffff:192.0.2.0/120", 4),
        ]);
        let cases = [
            ("9.255.255.255", None),
            ("10.0.0.0", Some(5)),
            ("10.1.2.3", Some(5)),
            ("10.2.3.4", Some(1)),
            ("10.3.0.0", Some(5)),
            ("11.0.0.0", None),
            ("255.255.255.254", None),
            ("255.255.255.255", Some(9)),
            ("::ffff:10.2.0.0", Some(1)),
            ("192.0.2.255", Some(4)),
            ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Some(2)),
            ("2001:db9::", None),
        ];
        for (ip, expected) in cases {
            assert_eq!(map.get(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn the_whole_of_one_family_is_not_the_other() {
        let map = map(&[("::/0", 1)]);
        assert_eq!(map.get("::".parse().unwrap()), Some(1));
        assert_eq!(map.get("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()), Some(1));
        assert_eq!(map.get("10.0.0.1".parse().unwrap()), None);
        assert_eq!(map.get("::ffff:10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn a_network_overlaps_with_those_inside_of_it_and_around_it() {
        let set =
            IpSet::of(&["2001:db8::1/128", "10.1.0.0/16", "::ffff:192.0.2.1/128"].map(|net| net.parse().unwrap()));
        let cases = [
            ("2001:db8::/64", true),
            ("2001:db8::1/128", true),
            ("2001:db8::/128", false),
            ("2001:db8::2/127", false),
            ("2001:db8:0:1::/64", false),
            ("2001:db7:ffff:ffff::/64", false),
            ("::/0", true),
            ("10.1.2.3/32", true),
            ("10.0.0.0/8", true),
            ("10.0.0.0/16", false),
            ("10.2.0.0/16", false),
            ("192.0.2.0/24", true),
            ("::ffff:10.1.0.0/112", true),
        ];
        for (network, expected) in cases {
            assert_eq!(set.overlaps(network.parse().unwrap()), expected, "{network}");
        }
        assert!(!IpSet::of(&[]).overlaps("::/0".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn a_lookup_finds_what_trying_every_network_finds(
            networks in prop::collection::vec((0u32..1024, 22u8..=32, 0u32..4), 0..24),
            ips in prop::collection::vec(0u32..1024, 16),
        ) {
            let networks: Vec<(IpNet, u32)> = networks
                .into_iter()
                .map(|(ip, prefix_len, value)| (Ipv4Net::new(ip.into(), prefix_len).unwrap().trunc().into(), value))
                .collect();
            let map = IpMap::build(networks.iter().copied());
            for ip in ips.into_iter().map(|ip| IpAddr::V4(ip.into())) {
                let expected = networks.iter().filter(|(network, _)| network.contains(&ip)).map(|(_, value)| *value).min();
                prop_assert_eq!(map.get(ip), expected, "{}", ip);
            }
        }
    }
}
