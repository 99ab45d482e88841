//! Sources that the gateway refuses for a while, in the kernel's tables.

use std::io;
use std::net::IpAddr;

use aya::Ebpf;
use gateway_ebpf::abi::V4;
use gateway_ebpf::abi::ban::{self, Ban, Network64};
use ipnet::IpNet;

use super::XdpError;
use super::batch::Table;
use super::{clock, tables};

/// The kernel's tables of bans.
pub(super) struct BanTables {
    v4: Table<V4, Ban>,
    v6: Table<Network64, Ban>,
}

impl BanTables {
    pub fn new(ebpf: &mut Ebpf) -> Result<BanTables, XdpError> {
        Ok(BanTables { v4: tables::of_object(ebpf, ban::BANS_V4)?, v6: tables::of_object(ebpf, ban::BANS_V6)? })
    }

    /// Drops the packets of this network until that second since 1970. A ban that is there goes on counting.
    pub fn add(&self, network: IpNet, until: u64) -> Result<(), XdpError> {
        let packets = self.packets(network).unwrap_or(0);
        let ban = Ban { packets, expires_s: clock::boot_s(until), unused: 0 };
        let added = match network.addr() {
            IpAddr::V4(address) => self.v4.update(&[address.octets()], &[ban]),
            IpAddr::V6(address) => self.v6.update(&[upper_half(address.octets())], &[ban]),
        };
        added.map_err(|error| XdpError::map("take a ban", &error))
    }

    /// Lets them pass again.
    pub fn remove(&self, network: IpNet) -> Result<(), XdpError> {
        let removed = match network.addr() {
            IpAddr::V4(address) => self.v4.remove(&[address.octets()]),
            IpAddr::V6(address) => self.v6.remove(&[upper_half(address.octets())]),
        };
        removed.map_err(|error| XdpError::map("end a ban", &error))
    }

    /// Packets that were dropped.
    pub fn packets(&self, network: IpNet) -> io::Result<u64> {
        let ban = match network.addr() {
            IpAddr::V4(address) => self.v4.get(&address.octets()),
            IpAddr::V6(address) => self.v6.get(&upper_half(address.octets())),
        };
        Ok(ban?.map_or(0, |ban| ban.packets))
    }
}

fn upper_half(octets: [u8; 16]) -> Network64 {
    let [a, b, c, d, e, f, g, h, ..] = octets;
    [a, b, c, d, e, f, g, h]
}
