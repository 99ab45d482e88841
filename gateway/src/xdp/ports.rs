//! The ports of packets that the L4 balancer looks at: bits that spare all others a look-up.

use std::ops::RangeInclusive;

use aya::maps::{Array, Map, MapData};
use gateway_ebpf::abi::service::{PORT_WORDS, PortBits};

use super::XdpError;
use super::convert::Ports;
use super::services::{failed, typed};
use crate::config::model::VipProtocol;

/// The program's bits.
pub(super) struct KnownPorts {
    map: Array<MapData, PortBits>,
    /// Those that matter whoever is served: what a map that was taken over has, and each range of source ports since. A
    /// flow goes on with the port it has when a reload takes the range away; a bit too many costs a look-up.
    kept: Box<PortBits>,
}

impl KnownPorts {
    pub fn open(map: Map) -> Result<KnownPorts, XdpError> {
        let map: Array<MapData, PortBits> = typed(map)?;
        let kept = Box::new(now(&map)?);
        Ok(KnownPorts { map, kept })
    }

    /// Adds the source ports of mode `nat`, for good.
    pub fn keep(&mut self, protocol: VipProtocol, pool: RangeInclusive<u16>) -> Result<(), XdpError> {
        let mut bits = now(&self.map)?;
        for port in pool {
            Ports::To(protocol).set(&mut self.kept.0, port);
        }
        self.write(&mut bits)
    }

    /// Makes it these, and those that are kept.
    pub fn set(&mut self, ports: impl Iterator<Item = (Ports, u16)>) -> Result<(), XdpError> {
        let mut bits = PortBits([0; 4 * PORT_WORDS]);
        ports.for_each(|(ports, port)| ports.set(&mut bits.0, port));
        self.write(&mut bits)
    }

    fn write(&mut self, bits: &mut PortBits) -> Result<(), XdpError> {
        bits.0.iter_mut().zip(&self.kept.0).for_each(|(word, kept)| *word |= kept);
        self.map.set(0, *bits, 0).map_err(failed("take the ports of [[vip]]s"))
    }
}

fn now(map: &Array<MapData, PortBits>) -> Result<PortBits, XdpError> {
    map.get(&0, 0).map_err(failed("read the ports of [[vip]]s"))
}
