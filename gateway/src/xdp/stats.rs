//! The program's counters.

use aya::maps::{MapData, PerCpuArray};
use gateway_ebpf::Reason;

use super::XdpError;

/// Packets since the program was loaded, by reason, over all CPUs and interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters([u64; Reason::ALL.len()]);

impl Counters {
    /// Packets passed or dropped for this reason.
    pub fn packets(&self, reason: Reason) -> u64 {
        self.0[reason.index() as usize]
    }

    /// Every reason with its packets.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().map(|reason| (reason, self.packets(reason)))
    }

    pub(super) fn read(map: &PerCpuArray<MapData, u64>) -> Result<Counters, XdpError> {
        let mut counters = Counters::default();
        for reason in Reason::ALL {
            let of_each_cpu =
                map.get(&reason.index(), 0).map_err(|error| XdpError::map("read the counters", &error))?;
            counters.0[reason.index() as usize] = of_each_cpu.iter().sum();
        }
        Ok(counters)
    }
}
