//! Between addresses, durations and ports here, and what the program has instead. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use gateway_ebpf::abi::service::{Ip4, Ip6, MAGLEV_SIZE, PORT_WORDS, Settings, TICK_SHIFT, Table, Timeouts};
use gateway_ebpf::packet::protocol;

use crate::config::model::{self, VipProtocol};

/// An address of the program's: either IP version.
pub(super) trait Address: Copy {
    fn ip(self) -> IpAddr;
}

impl Address for Ip4 {
    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self.to_ne_bytes()).into()
    }
}

impl Address for Ip6 {
    fn ip(self) -> IpAddr {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.0.to_ne_bytes());
        octets[8..].copy_from_slice(&self.1.to_ne_bytes());
        Ipv6Addr::from(octets).into()
    }
}

pub(super) fn ip4(address: Ipv4Addr) -> Ip4 {
    Ip4::from_ne_bytes(address.octets())
}

pub(super) fn ip6(address: Ipv6Addr) -> Ip6 {
    let octets = address.octets();
    let word = |from: usize| u64::from_ne_bytes(std::array::from_fn(|i| octets[from + i]));
    Ip6(word(0), word(8))
}

/// The form for both versions, in which the program keeps backends.
pub(super) fn wide(address: IpAddr) -> Ip6 {
    match address {
        IpAddr::V4(address) => Ip6(u64::from(ip4(address)), 0),
        IpAddr::V6(address) => ip6(address),
    }
}

/// Back from [`wide`], for a service of this IP version.
pub(super) fn narrow(address: Ip6, is_v6: bool) -> IpAddr {
    if is_v6 { address.ip() } else { (address.0 as u32).ip() }
}

/// The source and the destination of a flow's ports, with their addresses.
pub(super) fn ends<A: Address>(source: A, destination: A, ports: u32) -> (SocketAddr, SocketAddr) {
    let [a, b, c, d] = ports.to_ne_bytes();
    let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    (SocketAddr::new(source.ip(), from), SocketAddr::new(destination.ip(), to))
}

pub(super) fn transport(protocol: VipProtocol) -> u16 {
    match protocol {
        VipProtocol::Tcp => protocol::TCP as u16,
        VipProtocol::Udp => protocol::UDP as u16,
    }
}

pub(super) fn vip_protocol(transport: u32) -> VipProtocol {
    if transport == protocol::UDP { VipProtocol::Udp } else { VipProtocol::Tcp }
}

/// At least as many ticks as the duration has.
pub(super) fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1 << TICK_SHIFT)).unwrap_or(u32::MAX / 4).min(u32::MAX / 4)
}

pub(super) fn from_ticks(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) << TICK_SHIFT)
}

/// What the program is told of a configuration.
pub(super) fn settings(config: &model::Xdp) -> Settings {
    let count = |is_v6: bool| config.snat_addresses.iter().filter(|address| address.is_ipv6() == is_v6).count() as u32;
    let (first, last) = (u32::from(*config.snat_ports.start()), u32::from(*config.snat_ports.end()));
    let per_tick = (u64::from(config.flows.new_per_second) << TICK_SHIFT) / 1_000_000_000;
    Settings {
        timeouts: Timeouts {
            half_open: ticks(config.timeouts.half_open),
            established: ticks(config.timeouts.established),
            closing: ticks(config.timeouts.closing),
            udp: ticks(config.timeouts.udp),
        },
        new_per_tick: u32::try_from(per_tick).unwrap_or(u32::MAX),
        snat: [count(false), count(true)],
        port_first: first,
        port_count: (last + 1).saturating_sub(first),
    }
}

/// A Maglev table as the program has it.
pub(super) fn table(places: &[u16]) -> Table {
    let mut table = Table([gateway_ebpf::abi::service::NO_BACKEND; MAGLEV_SIZE + 1]);
    table.0[..places.len()].copy_from_slice(places);
    table
}

/// The ports of one protocol and direction in [`PortBits`](gateway_ebpf::abi::service::PortBits).
#[derive(Clone, Copy)]
pub(super) enum Ports {
    /// A packet's destination.
    To(VipProtocol),
    /// A packet's source.
    From(VipProtocol),
}

impl Ports {
    /// Sets the bit of a port.
    pub fn set(self, bits: &mut [u64; 4 * PORT_WORDS], port: u16) {
        let region = match self {
            Ports::To(VipProtocol::Tcp) => 0,
            Ports::To(VipProtocol::Udp) => 1,
            Ports::From(VipProtocol::Tcp) => 2,
            Ports::From(VipProtocol::Udp) => 3,
        };
        bits[region * PORT_WORDS + usize::from(port >> 6)] |= 1 << (port & 63);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_are_the_same_after_a_way_there_and_back() {
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.7".parse().unwrap(), "2001:db8::9".parse().unwrap());
        assert_eq!(narrow(wide(v4), false), v4);
        assert_eq!(narrow(wide(v6), true), v6);
        let ports = u32::from_ne_bytes([0x12, 0x34, 0, 80]);
        let (from, to) = ends(ip4("192.0.2.7".parse().unwrap()), ip4("192.0.2.8".parse().unwrap()), ports);
        assert_eq!((from.to_string(), to.to_string()), ("192.0.2.7:4660".into(), "192.0.2.8:80".into()));
    }

    #[test]
    fn a_timeout_is_never_shorter_than_asked() {
        for seconds in [0, 1, 10, 60, 3_600, 86_400] {
            let asked = Duration::from_secs(seconds);
            assert!(from_ticks(ticks(asked)) >= asked);
            assert!(from_ticks(ticks(asked)) <= asked + Duration::from_millis(1_100));
        }
        assert!(ticks(Duration::MAX) < u32::MAX / 2);
    }
}
