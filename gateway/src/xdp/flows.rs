//! The kernel's flow tables, for people who look at them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use gateway_ebpf::abi::names;
use gateway_ebpf::abi::service::{Flow, FlowKey, Ip4, Ip6, TICK_SHIFT, mode};

use super::XdpError;
use super::convert::{self, Address};
use super::services::typed;
use crate::config::model::{VipMode, VipProtocol};

/// A connection or UDP conversation that the program remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    /// The transport protocol.
    pub protocol: VipProtocol,
    /// Who began it.
    pub client: SocketAddr,
    /// The virtual address.
    pub vip: SocketAddr,
    /// The client as the backend sees it; in mode `ipip`, the outer packet's address with the client's port.
    pub source: SocketAddr,
    /// The backend; in the modes `dsr` and `ipip` with the service's port.
    pub backend: SocketAddr,
    /// How packets get there.
    pub mode: VipMode,
    /// Where in its life it is.
    pub state: FlowState,
    /// Since its first packet, to about a second.
    pub age: Duration,
    /// Since the client's last packet, to about a second.
    pub idle: Duration,
}

/// Where in its life a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// One side has not spoken yet.
    HalfOpen,
    /// Both have.
    Established,
    /// Both have said that they send no more, or one has refused.
    Closing,
}

/// The four tables.
pub(super) struct FlowTables {
    v4: [HashMap<MapData, FlowKey<Ip4>, Flow<Ip4>>; 2],
    v6: [HashMap<MapData, FlowKey<Ip6>, Flow<Ip6>>; 2],
}

impl FlowTables {
    pub fn open(take: &mut impl FnMut(&'static str) -> Result<Map, XdpError>) -> Result<FlowTables, XdpError> {
        Ok(FlowTables {
            v4: [typed(take(names::HALF_OPEN_V4)?)?, typed(take(names::ESTABLISHED_V4)?)?],
            v6: [typed(take(names::HALF_OPEN_V6)?)?, typed(take(names::ESTABLISHED_V6)?)?],
        })
    }

    /// Flows whose client or backend is `of`; of everybody if it is `None`. Packets come meanwhile, so one that begins or
    /// ends now may be there or not.
    pub fn read(&self, of: Option<IpAddr>) -> Result<Vec<FlowInfo>, XdpError> {
        let mut flows = Vec::new();
        let now = tick();
        for (v4, v6, state) in
            [(&self.v4[0], &self.v6[0], FlowState::HalfOpen), (&self.v4[1], &self.v6[1], FlowState::Established)]
        {
            collect(v4, state, now, of, &mut flows).map_err(|error| XdpError::map("read the flows", &error))?;
            collect(v6, state, now, of, &mut flows).map_err(|error| XdpError::map("read the flows", &error))?;
        }
        Ok(flows)
    }
}

fn collect<A: Address>(
    table: &HashMap<MapData, FlowKey<A>, Flow<A>>,
    state: FlowState,
    now: u32,
    of: Option<IpAddr>,
    into: &mut Vec<FlowInfo>,
) -> Result<(), MapError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    for key in table.keys() {
        let key = key?;
        // An entry may go between the two calls.
        let flow = match table.get(&key, 0) {
            Ok(flow) => flow,
            Err(MapError::KeyNotFound) => continue,
            Err(error) => return Err(error),
        };
        if flow.reverse == 0 {
            let info = info(&key, &flow, state, now);
            if of.is_none_or(|of| info.client.ip() == of || info.backend.ip() == of) {
                into.push(info);
            }
        }
    }
    Ok(())
}

fn info<A: Address>(key: &FlowKey<A>, flow: &Flow<A>, state: FlowState, now: u32) -> FlowInfo {
    let (client, vip) = convert::ends(key.source, key.destination, key.ports);
    let (source, backend) = convert::ends(flow.source, flow.destination, flow.ports);
    let is_closing = flow.reset | (flow.fin & flow.peer_fin) != 0;
    let since = |then: u32| convert::from_ticks(now.saturating_sub(then));
    FlowInfo {
        protocol: convert::vip_protocol(key.protocol),
        client,
        vip,
        source,
        backend,
        mode: match u32::from(flow.mode) {
            mode::DNAT => VipMode::Dnat,
            mode::DSR => VipMode::Dsr,
            mode::IPIP => VipMode::Ipip,
            _ => VipMode::Nat,
        },
        state: if is_closing { FlowState::Closing } else { state },
        age: since(flow.begun),
        idle: since(flow.seen),
    }
}

/// The program's clock, CLOCK_MONOTONIC in ticks.
fn tick() -> u32 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the time into `now`. It cannot fail for a clock that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    let nanoseconds = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    (nanoseconds >> TICK_SHIFT) as u32
}
