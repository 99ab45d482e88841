//! The kernel's flow tables, for people who look at them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::Pod;
use aya::maps::Map;
use gateway_ebpf::abi::names;
use gateway_ebpf::abi::service::{Flow, FlowKey, Ip4, Ip6, TICK_SHIFT, Timeouts, mode, ticks_since};
use gateway_ebpf::packet::protocol;

use super::batch::Table;
use super::convert::{self, Address};
use super::{XdpError, tables};
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

/// How full a flow table is. A flow is two entries where the box sees its answers, else one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTableUse {
    /// Half-open or established flows.
    pub state: FlowState,
    /// Of IPv6, not IPv4.
    pub is_v6: bool,
    /// Entries whose flows go on. An estimate, from a sample.
    pub live: u64,
    /// Entries whose flows have been silent for too long. They stay until their place is needed. An estimate too.
    pub over: u64,
    /// Entries that it has room for.
    pub max: u64,
}

/// Buckets of a table that are looked at to see how full it is: at 4096 the standard error of the estimate is at most 1.6 %
/// of the table's room, and the four tables together take about a millisecond.
const SAMPLE: u32 = 4096;

/// The four tables.
pub(super) struct FlowTables {
    v4: [FlowTable<Ip4>; 2],
    v6: [FlowTable<Ip6>; 2],
}

struct FlowTable<A>(Table<FlowKey<A>, Flow<A>>);

impl<A: Address + 'static> FlowTable<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    fn open(map: Map) -> Result<FlowTable<A>, XdpError> {
        tables::table(&map).map(FlowTable)
    }

    fn usage(&self, state: FlowState, is_v6: bool, timeouts: &Timeouts) -> io::Result<FlowTableUse> {
        let (entries, part) = self.0.sample(SAMPLE)?;
        let now = tick();
        let over = entries.iter().filter(|(key, flow)| is_over(key, flow, state, timeouts, now)).count();
        let max = u64::from(self.0.entries_max());
        let of_all = |count: usize| if part > 0.0 { ((count as f64 / part).round() as u64).min(max) } else { 0 };
        Ok(FlowTableUse { state, is_v6, live: of_all(entries.len() - over), over: of_all(over), max })
    }

    fn collect(&self, state: FlowState, now: u32, of: Option<IpAddr>, into: &mut Vec<FlowInfo>) -> io::Result<()> {
        self.0.each(|key, flow| {
            if flow.reverse == 0 {
                let info = info(&key, &flow, state, now);
                if of.is_none_or(|of| info.client.ip() == of || info.backend.ip() == of) {
                    into.push(info);
                }
            }
        })
    }
}

/// As the program sees it.
fn is_over<A>(key: &FlowKey<A>, flow: &Flow<A>, state: FlowState, timeouts: &Timeouts, now: u32) -> bool {
    let timeout = match state {
        _ if key.protocol == protocol::UDP => timeouts.udp,
        FlowState::HalfOpen => timeouts.half_open,
        _ if is_closing(flow) => timeouts.closing,
        _ => timeouts.established,
    };
    let is_refused = state == FlowState::HalfOpen && flow.reset != 0;
    is_refused || ticks_since(flow.seen, now) > timeout
}

fn is_closing<A>(flow: &Flow<A>) -> bool {
    flow.reset | (flow.fin & flow.peer_fin) != 0
}

impl FlowTables {
    pub fn open(take: &mut impl FnMut(&'static str) -> Result<Map, XdpError>) -> Result<FlowTables, XdpError> {
        Ok(FlowTables {
            v4: [FlowTable::open(take(names::HALF_OPEN_V4)?)?, FlowTable::open(take(names::ESTABLISHED_V4)?)?],
            v6: [FlowTable::open(take(names::HALF_OPEN_V6)?)?, FlowTable::open(take(names::ESTABLISHED_V6)?)?],
        })
    }

    /// How full each table is.
    pub fn usage(&self, timeouts: &Timeouts) -> Result<Vec<FlowTableUse>, XdpError> {
        let states = [FlowState::HalfOpen, FlowState::Established].into_iter();
        let v4 = states.clone().zip(&self.v4).map(|(state, table)| table.usage(state, false, timeouts));
        let v6 = states.zip(&self.v6).map(|(state, table)| table.usage(state, true, timeouts));
        v4.chain(v6).collect::<io::Result<_>>().map_err(|error| XdpError::map("sample the flows", &error))
    }

    /// Flows whose client or backend is `of`; of everybody if it is `None`. Packets come meanwhile, so one that begins or
    /// ends now may be there or not.
    pub fn read(&self, of: Option<IpAddr>) -> Result<Vec<FlowInfo>, XdpError> {
        let failed = |error: io::Error| XdpError::map("read the flows", &error);
        let mut flows = Vec::new();
        let now = tick();
        for (v4, v6, state) in
            [(&self.v4[0], &self.v6[0], FlowState::HalfOpen), (&self.v4[1], &self.v6[1], FlowState::Established)]
        {
            v4.collect(state, now, of, &mut flows).map_err(failed)?;
            v6.collect(state, now, of, &mut flows).map_err(failed)?;
        }
        Ok(flows)
    }
}

fn info<A: Address>(key: &FlowKey<A>, flow: &Flow<A>, state: FlowState, now: u32) -> FlowInfo {
    let (client, vip) = convert::ends(key.source, key.destination, key.ports);
    let (source, backend) = convert::ends(flow.source, flow.destination, flow.ports);
    let since = |then: u32| convert::from_ticks(ticks_since(then, now));
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
        state: if is_closing(flow) { FlowState::Closing } else { state },
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
