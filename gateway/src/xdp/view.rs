//! The kernel's tables as some process has pinned them: readable while no gateway runs.

use std::net::IpAddr;
use std::path::Path;

use aya::maps::{Map, MapData};
use gateway_ebpf::abi::{VERSION, names};

use super::services::{Services, typed};
use super::{Counters, FlowInfo, ServiceStats, XdpError};

/// Pinned tables.
pub struct Pinned {
    services: Services,
    counters: Counters,
}

impl Pinned {
    /// Opens what is pinned in `root`, the `pin` of the configuration.
    pub fn open(root: &Path) -> Result<Pinned, XdpError> {
        let directory = root.join(format!("v{VERSION}"));
        if !directory.exists() {
            return Err(XdpError::NothingPinned(root.into()));
        }
        let open = |name: &'static str| {
            let map =
                MapData::from_pin(directory.join(name)).map_err(|error| XdpError::map("open a pinned map", &error))?;
            Map::from_map_data(map).map_err(|error| XdpError::map("open a pinned map", &error))
        };
        let counters = Counters::read(&typed(open(names::PACKETS)?)?)?;
        Ok(Pinned { services: Services::open(open)?, counters })
    }

    /// The virtual addresses and their counters. The kernel does not know their names and weights: a name is empty, and a
    /// weight 0.
    pub fn services(&self) -> Result<Vec<ServiceStats>, XdpError> {
        self.services.stats_of_kernel()
    }

    /// The flows whose client or backend is `of`; all of them if it is `None`.
    pub fn flows(&self, of: Option<IpAddr>) -> Result<Vec<FlowInfo>, XdpError> {
        self.services.flows(of)
    }

    /// Packets by reason.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
