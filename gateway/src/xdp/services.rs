//! The kernel's tables of services and backends, kept equal to what the control thread wants.
//!
//! What the kernel has is the truth: a process that takes over a running program learns the numbers of services and
//! backends from its maps, so flows go on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use gateway_ebpf::abi::service::{self as abi, BACKENDS_MAX, Ip4, Ip6, SERVICES_MAX};
use gateway_ebpf::abi::{names, service::mode};

use super::batch::Table;
use super::convert::{self, Address, Ports};
use super::counts;
use super::flows::{FlowInfo, FlowTableUse, FlowTables};
use super::maglev::{self, Shares};
use super::ports::KnownPorts;
use super::slots::Slots;
use super::tables::table;
use super::{Backend, Service, Target, XdpError};
use crate::balance::maglev::Share;
use crate::config::model::{self, VipAffinity, VipMode, VipProtocol};

/// The maps of the L4 balancer, and who has which number in them.
pub(super) struct Services {
    maps: Maps,
    config: Pool,
    services: Slots<ServiceKey>,
    backends: Slots<BackendKey>,
    /// What each slot was last given.
    written: BTreeMap<u32, abi::Backend>,
    /// What each service's Maglev table was made of.
    tables: BTreeMap<u32, Shares>,
    entries: BTreeMap<ServiceKey, abi::Service>,
    /// Living backends to which the kernel has no route.
    unreachable: BTreeSet<SocketAddr>,
    wanted: Vec<Service>,
}

type ServiceKey = (SocketAddr, VipProtocolKey);
/// A service's number and the backend's address.
type BackendKey = (u32, SocketAddr);
/// `IPPROTO_…`, which can be ordered.
type VipProtocolKey = u16;

/// What a configuration says about the addresses that mode `nat` uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pool {
    addresses: Vec<IpAddr>,
    first_port: u16,
    last_port: u16,
}

struct Maps {
    settings: Array<MapData, abi::Settings>,
    ports: KnownPorts,
    v4: Family<Ip4>,
    v6: Family<Ip6>,
    maglev: Table<u32, u32>,
    backends: Table<u32, abi::Backend>,
    snat: Array<MapData, Ip6>,
    backend_counts: PerCpuArray<MapData, abi::BackendCounts>,
    service_counts: PerCpuArray<MapData, abi::ServiceCounts>,
    flows: FlowTables,
}

struct Family<A: 'static>
where
    abi::ServiceKey<A>: Pod,
    A: Pod,
{
    services: HashMap<MapData, abi::ServiceKey<A>, abi::Service>,
    vips: HashMap<MapData, A, u32>,
}

/// A service's counters since it is served, by whatever process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceStats {
    /// The vip's name.
    pub name: String,
    /// The virtual address and port.
    pub address: SocketAddr,
    /// The transport protocol.
    pub protocol: VipProtocol,
    /// Packets passed to a listener of this box.
    pub local_packets: u64,
    /// Their IP bytes.
    pub local_bytes: u64,
    /// First packets of flows that were dropped: no backend, draining, too many flows, no source port.
    pub dropped: u64,
    /// Those it has now, in the service's order.
    pub backends: Vec<BackendStats>,
}

/// A backend's counters since it got its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendStats {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it may have flows.
    pub alive: bool,
    /// Its share of new flows.
    pub weight: u32,
    /// What it was sent and what it answered.
    pub counts: abi::BackendCounts,
}

impl Services {
    /// `take` gives a map by its name: from an object that was just loaded, or from a pin.
    pub fn open(mut take: impl FnMut(&'static str) -> Result<Map, XdpError>) -> Result<Services, XdpError> {
        let maps = Maps::open(&mut take)?;
        let mut services = Services {
            maps,
            config: Pool::default(),
            services: Slots::new(SERVICES_MAX),
            backends: Slots::new(BACKENDS_MAX),
            written: BTreeMap::new(),
            tables: BTreeMap::new(),
            entries: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            wanted: Vec::new(),
        };
        services.restore()?;
        Ok(services)
    }

    /// Tells the program a configuration's timeouts, limits and source addresses.
    pub fn configure(&mut self, config: &model::Xdp) -> Result<(), XdpError> {
        let pool = Pool {
            addresses: config.snat_addresses.clone(),
            first_port: *config.snat_ports.start(),
            last_port: *config.snat_ports.end(),
        };
        for (is_v6, base) in [(false, 0), (true, abi::SNAT_MAX)] {
            let addresses = pool.addresses.iter().filter(|address| address.is_ipv6() == is_v6);
            if addresses.clone().count() > abi::SNAT_MAX {
                return Err(XdpError::TooMany { what: "snat_addresses of one IP version", limit: abi::SNAT_MAX });
            }
            for (index, address) in addresses.enumerate() {
                let at = (base + index) as u32;
                self.maps.snat.set(at, convert::wide(*address), 0).map_err(failed("take a source address"))?;
            }
        }
        self.config = pool;
        // Before the first flow has a port of a new range.
        self.keep_pool()?;
        self.maps.settings.set(0, convert::settings(config), 0).map_err(failed("take the settings of [xdp]"))
    }

    /// Makes the program serve these and no others.
    ///
    /// Whatever a packet meets meanwhile is whole: a service is entered after its backends and its table, and backends go
    /// after the tables that name them.
    pub fn sync(&mut self, wanted: &[Service]) -> Result<(), XdpError> {
        self.check(wanted)?;
        let numbered = self.number(wanted)?;
        let unreachable_before = std::mem::take(&mut self.unreachable);
        for service in &numbered {
            for (slot, backend) in &service.backends {
                let epoch = self.epoch(*slot, service, backend);
                self.write_backend(*slot, service, backend, epoch)?;
            }
        }
        self.tell_of_routes(&unreachable_before);
        self.swap_tables(&numbered)?;
        let entries = numbered.iter().map(|service| (service.key, service.entry)).collect();
        self.write_services(entries)?;
        self.free(&numbered)?;
        self.keep_pool()?;
        self.maps.ports.set(numbered.iter().flat_map(Numbered::ports))?;
        self.wanted = wanted.to_vec();
        Ok(())
    }

    /// Whether a living backend has no flows for want of a route. Nobody tells of new routes: ask by another
    /// [`sync`](Services::sync).
    pub fn lacks_route(&self) -> bool {
        !self.unreachable.is_empty()
    }

    pub fn stats(&self) -> Result<Vec<ServiceStats>, XdpError> {
        self.wanted.iter().map(|service| self.stats_of(service)).collect()
    }

    /// The vip of the service of this number.
    pub fn name(&self, id: u32) -> Option<&str> {
        let service = self.wanted.iter().find(|service| self.services.get(&key(service)) == Some(id));
        service.map(|service| service.name.as_str())
    }

    /// Flows whose client or backend is `of`; of everybody if it is `None`.
    pub fn flows(&self, of: Option<IpAddr>) -> Result<Vec<FlowInfo>, XdpError> {
        self.maps.flows.read(of)
    }

    /// How full the flow tables are.
    pub fn flow_tables(&self) -> Result<Vec<FlowTableUse>, XdpError> {
        let settings = self.maps.settings.get(&0, 0).map_err(failed("read the settings of [xdp]"))?;
        self.maps.flows.usage(&settings.timeouts)
    }

    /// The same for what the kernel has, whoever told it. It knows no names and weights.
    pub fn stats_of_kernel(&self) -> Result<Vec<ServiceStats>, XdpError> {
        let services = self.entries.iter().map(|(key, entry)| {
            let of_service = self.backends.iter().filter(|((id, _), _)| *id == entry.id);
            let backends = of_service.map(|(&(_, address), slot)| {
                let alive = self.written.get(&slot).is_some_and(|backend| backend.dead == 0);
                Backend { address, weight: 0, alive }
            });
            let service = Service {
                name: String::new(),
                address: key.0,
                protocol: convert::vip_protocol(key.1.into()),
                target: Target::Backends {
                    mode: VipMode::default(),
                    affinity: VipAffinity::default(),
                    backends: backends.collect(),
                },
                drain: entry.drain != 0,
            };
            self.stats_of(&service)
        });
        services.collect()
    }

    fn stats_of(&self, service: &Service) -> Result<ServiceStats, XdpError> {
        let id = self.services.get(&key(service)).unwrap_or(u32::MAX);
        let of_service = counts::sum(&self.maps.service_counts, id, |sum: &mut abi::ServiceCounts, one| {
            sum.local_packets += one.local_packets;
            sum.local_bytes += one.local_bytes;
            sum.dropped += one.dropped;
        })?;
        let backends = backends(service).iter().map(|backend| {
            let slot = self.backends.get(&(id, backend.address)).unwrap_or(u32::MAX);
            let counts = counts::sum(&self.maps.backend_counts, slot, |sum: &mut abi::BackendCounts, one| {
                sum.packets += one.packets;
                sum.bytes += one.bytes;
                sum.answer_packets += one.answer_packets;
                sum.answer_bytes += one.answer_bytes;
                sum.flows += one.flows;
            })?;
            Ok(BackendStats { address: backend.address, alive: backend.alive, weight: backend.weight, counts })
        });
        Ok(ServiceStats {
            name: service.name.clone(),
            address: service.address,
            protocol: service.protocol,
            local_packets: of_service.local_packets,
            local_bytes: of_service.local_bytes,
            dropped: of_service.dropped,
            backends: backends.collect::<Result<_, XdpError>>()?,
        })
    }

    /// Learns the numbers in use from the kernel.
    fn restore(&mut self) -> Result<(), XdpError> {
        self.maps.v4.restore(&mut self.services, &mut self.entries)?;
        self.maps.v6.restore(&mut self.services, &mut self.entries)?;
        let versions: BTreeMap<u32, bool> =
            self.entries.iter().map(|(key, entry)| (entry.id, key.0.is_ipv6())).collect();
        let backends = self.maps.backends.array(BACKENDS_MAX);
        let backends = backends.map_err(|error| XdpError::map("read the backends", &error))?;
        for (slot, backend) in (0..).zip(backends) {
            if backend.epoch == 0 {
                continue;
            }
            self.written.insert(slot, backend);
            if let Some(is_v6) = versions.get(&backend.service)
                && backend.dead < GONE
            {
                let ip = convert::narrow(backend.address, *is_v6);
                self.backends.restore((backend.service, SocketAddr::new(ip, u16::from_be(backend.port))), slot);
            }
        }
        Ok(())
    }

    /// Refuses what does not fit before anything is changed.
    fn check(&self, wanted: &[Service]) -> Result<(), XdpError> {
        let backends: usize = wanted.iter().map(|service| backends(service).len()).sum();
        for (what, count, limit) in
            [("[[vip]] services", wanted.len(), SERVICES_MAX), ("endpoints of all [[vip]]s", backends, BACKENDS_MAX)]
        {
            if count > limit {
                return Err(XdpError::TooMany { what, limit });
            }
        }
        Ok(())
    }

    /// Gives each service and backend its number. A new one counts from zero. Backends that are gone keep their slots until
    /// no table names them.
    fn number(&mut self, wanted: &[Service]) -> Result<Vec<Numbered>, XdpError> {
        let keys: BTreeSet<ServiceKey> = wanted.iter().map(key).collect();
        for (key, _) in self.services.retain(|key| keys.contains(key)) {
            self.remove_entry(key)?;
        }
        let served: BTreeSet<u32> = self.services.iter().map(|(_, id)| id).collect();
        self.bury(|(id, _)| served.contains(id))?;
        let mut numbered = Vec::new();
        for service in wanted {
            let full = |what, limit| move |_| XdpError::TooMany { what, limit };
            let is_new = self.services.get(&key(service)).is_none();
            let id = self.services.place(&key(service)).map_err(full("[[vip]] services", SERVICES_MAX))?;
            if is_new {
                counts::reset(&mut self.maps.service_counts, id)?;
            }
            let backends = backends(service).iter().map(|backend| {
                let slot = self.backends.place(&(id, backend.address)).map_err(full(
                    "endpoints of all [[vip]]s, those of the configuration before included,",
                    BACKENDS_MAX,
                ))?;
                if self.written.get(&slot).is_some_and(|old| old.dead == GONE) {
                    counts::reset(&mut self.maps.backend_counts, slot)?;
                }
                Ok((slot, *backend))
            });
            let backends = backends.collect::<Result<_, XdpError>>()?;
            numbered.push(Numbered {
                key: key(service),
                entry: entry(service, id),
                protocol: service.protocol,
                backends,
            });
        }
        Ok(numbered)
    }

    /// The slot's epoch, a new one if it had another backend before.
    fn epoch(&self, slot: u32, service: &Numbered, backend: &Backend) -> u32 {
        match self.written.get(&slot) {
            None => 1,
            Some(old) if old.dead < GONE && is_same(old, service, backend) => old.epoch,
            Some(old) => old.epoch.checked_add(1).unwrap_or(1),
        }
    }

    fn write_backend(&mut self, slot: u32, service: &Numbered, backend: &Backend, epoch: u32) -> Result<(), XdpError> {
        let source = match service.entry.mode {
            mode::NAT | mode::IPIP => self.source_towards(backend.address),
            _ => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        };
        if source.is_none() && backend.alive {
            self.unreachable.insert(backend.address);
        }
        let value = abi::Backend {
            address: convert::wide(backend.address.ip()),
            snat: source.map_or(Ip6::default(), convert::wide),
            service: service.entry.id,
            port: backend.address.port().to_be(),
            protocol: service.key.1,
            epoch,
            dead: u32::from(!backend.alive || source.is_none()),
        };
        self.set_backend(slot, value)
    }

    /// Says once that a route is missing, and that it is there again.
    fn tell_of_routes(&self, unreachable_before: &BTreeSet<SocketAddr>) {
        for backend in self.unreachable.difference(unreachable_before) {
            ::log::warn!("xdp: no route to {backend}, which gets no flows until there is one");
        }
        for backend in unreachable_before.difference(&self.unreachable) {
            ::log::info!("xdp: {backend} lacks no route any more");
        }
    }

    fn set_backend(&mut self, slot: u32, value: abi::Backend) -> Result<(), XdpError> {
        if self.written.get(&slot) != Some(&value) {
            let written = self.maps.backends.update(&[slot], &[value]);
            written.map_err(|error| XdpError::map("take a backend", &error))?;
            self.written.insert(slot, value);
        }
        Ok(())
    }

    /// The address that mode `nat` has as its source where the pool has none: the one the kernel would use.
    fn source_towards(&self, backend: SocketAddr) -> Option<IpAddr> {
        let of_the_pool = self.config.addresses.iter().find(|address| address.is_ipv6() == backend.is_ipv6());
        of_the_pool.copied().or_else(|| local_address(backend).ok())
    }

    /// All tables that changed, in one system call: the kernel waits for running programs once per call.
    fn swap_tables(&mut self, numbered: &[Numbered]) -> Result<(), XdpError> {
        let contents = numbered.iter().map(|service| (service.entry.id, service.shares()));
        let changed: Vec<(u32, Shares)> = contents.filter(|(id, shares)| self.tables.get(id) != Some(shares)).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let made = maglev::tables(&changed).map_err(|error| XdpError::map("take a Maglev table", &error))?;
        let ids: Vec<u32> = changed.iter().map(|(id, _)| *id).collect();
        let descriptors: Vec<u32> = made.iter().map(Table::descriptor).collect();
        let swapped = self.maps.maglev.update(&ids, &descriptors);
        swapped.map_err(|error| XdpError::map("swap the Maglev tables", &error))?;
        self.tables.extend(changed);
        Ok(())
    }

    fn write_services(&mut self, entries: BTreeMap<ServiceKey, abi::Service>) -> Result<(), XdpError> {
        for (key, entry) in &entries {
            if self.entries.get(key) == Some(entry) {
                continue;
            }
            match key.0 {
                SocketAddr::V4(address) => self.maps.v4.set(convert::ip4(*address.ip()), *key, *entry),
                SocketAddr::V6(address) => self.maps.v6.set(convert::ip6(*address.ip()), *key, *entry),
            }
            .map_err(failed("take a [[vip]]"))?;
        }
        self.entries = entries;
        Ok(())
    }

    fn remove_entry(&mut self, key: ServiceKey) -> Result<(), XdpError> {
        let Some(entry) = self.entries.remove(&key) else { return Ok(()) };
        self.tables.remove(&entry.id);
        let is_last = !self.entries.keys().any(|other| other.0.ip() == key.0.ip());
        match key.0 {
            SocketAddr::V4(address) => self.maps.v4.remove(convert::ip4(*address.ip()), key, is_last),
            SocketAddr::V6(address) => self.maps.v6.remove(convert::ip6(*address.ip()), key, is_last),
        }
        .map_err(failed("give up a [[vip]]"))
    }

    /// Ends the flows of backends that are not kept, and of slots that nobody has: a process before this one may have been
    /// killed before it did so.
    fn bury(&mut self, keep: impl Fn(&BackendKey) -> bool) -> Result<(), XdpError> {
        let kept: BTreeSet<u32> = self.backends.iter().filter(|(key, _)| keep(key)).map(|(_, slot)| slot).collect();
        let gone = self.written.iter().filter(|(slot, backend)| backend.dead < GONE && !kept.contains(slot));
        let gone: Vec<_> = gone.map(|(slot, backend)| (*slot, abi::Backend { dead: GONE, ..*backend })).collect();
        gone.into_iter().try_for_each(|(slot, backend)| self.set_backend(slot, backend))
    }

    /// Gives up the slots of backends that are gone.
    fn free(&mut self, numbered: &[Numbered]) -> Result<(), XdpError> {
        let kept: BTreeSet<BackendKey> =
            numbered.iter().flat_map(|s| s.backends.iter().map(|(_, b)| (s.entry.id, b.address))).collect();
        self.bury(|key| kept.contains(key))?;
        self.backends.retain(|key| kept.contains(key));
        Ok(())
    }

    /// Mode `nat` may give these ports to flows.
    fn keep_pool(&mut self) -> Result<(), XdpError> {
        for protocol in [VipProtocol::Tcp, VipProtocol::Udp] {
            let transport = convert::transport(protocol);
            if self.entries.iter().any(|(key, entry)| key.1 == transport && entry.mode == mode::NAT) {
                self.maps.ports.keep(protocol, self.config.first_port..=self.config.last_port)?;
            }
        }
        Ok(())
    }
}

/// [`abi::Backend::dead`] of a slot that nobody has: 1 is a backend that may come back.
const GONE: u32 = 2;

/// A service with the numbers of itself and its backends.
struct Numbered {
    key: ServiceKey,
    entry: abi::Service,
    protocol: VipProtocol,
    backends: Vec<(u32, Backend)>,
}

impl Numbered {
    /// Who gets new flows.
    fn shares(&self) -> Shares {
        let weight = |backend: &Backend| if backend.alive { backend.weight } else { 0 };
        let share = |backend: &Backend| Share { address: backend.address, weight: weight(backend) };
        self.backends.iter().map(|(slot, backend)| (share(backend), *slot)).collect()
    }

    /// Those that its packets have, without the source ports of mode `nat`.
    fn ports(&self) -> impl Iterator<Item = (Ports, u16)> {
        let answers = if self.entry.mode == mode::DNAT { &self.backends[..] } else { &[] };
        let answers = answers.iter().map(|(_, backend)| (Ports::From(self.protocol), backend.address.port()));
        std::iter::once((Ports::To(self.protocol), self.key.0.port())).chain(answers)
    }
}

impl Maps {
    fn open(take: &mut impl FnMut(&'static str) -> Result<Map, XdpError>) -> Result<Maps, XdpError> {
        Ok(Maps {
            settings: typed(take(names::SETTINGS)?)?,
            ports: KnownPorts::open(take(names::PORTS)?)?,
            v4: Family { services: typed(take(names::SERVICES_V4)?)?, vips: typed(take(names::VIPS_V4)?)? },
            v6: Family { services: typed(take(names::SERVICES_V6)?)?, vips: typed(take(names::VIPS_V6)?)? },
            maglev: table(&take(names::MAGLEV)?)?,
            backends: table(&take(names::BACKENDS)?)?,
            snat: typed(take(names::SNAT)?)?,
            backend_counts: typed(take(names::BACKEND_COUNTS)?)?,
            service_counts: typed(take(names::SERVICE_COUNTS)?)?,
            flows: FlowTables::open(take)?,
        })
    }
}

impl<A: Pod + Address> Family<A>
where
    abi::ServiceKey<A>: Pod,
{
    fn set(&mut self, address: A, key: ServiceKey, entry: abi::Service) -> Result<(), MapError> {
        self.services.insert(kernel_key(address, key), entry, 0)?;
        self.vips.insert(address, 1, 0)
    }

    /// `is_last` service of its address.
    fn remove(&mut self, address: A, key: ServiceKey, is_last: bool) -> Result<(), MapError> {
        self.services.remove(&kernel_key(address, key))?;
        if is_last { self.vips.remove(&address) } else { Ok(()) }
    }

    fn restore(
        &self,
        slots: &mut Slots<ServiceKey>,
        entries: &mut BTreeMap<ServiceKey, abi::Service>,
    ) -> Result<(), XdpError> {
        for item in self.services.iter() {
            let (key, entry) = item.map_err(failed("read the [[vip]]s"))?;
            let address = SocketAddr::new(key.address.ip(), u16::from_be(key.port));
            slots.restore((address, key.protocol), entry.id);
            entries.insert((address, key.protocol), entry);
        }
        Ok(())
    }
}

fn kernel_key<A>(address: A, key: ServiceKey) -> abi::ServiceKey<A> {
    abi::ServiceKey { address, port: key.0.port().to_be(), protocol: key.1, zero: 0 }
}

fn key(service: &Service) -> ServiceKey {
    (service.address, convert::transport(service.protocol))
}

fn backends(service: &Service) -> &[Backend] {
    match &service.target {
        Target::Local => &[],
        Target::Backends { backends, .. } => backends,
    }
}

fn entry(service: &Service, id: u32) -> abi::Service {
    let (how, by_source) = match &service.target {
        Target::Local => (mode::LOCAL, false),
        Target::Backends { mode, affinity, .. } => (kernel_mode(*mode), *affinity == VipAffinity::Source),
    };
    abi::Service { id, mode: how, by_source: u32::from(by_source), drain: u32::from(service.drain) }
}

fn kernel_mode(mode: VipMode) -> u32 {
    match mode {
        VipMode::Nat => mode::NAT,
        VipMode::Dnat => mode::DNAT,
        VipMode::Dsr => mode::DSR,
        VipMode::Ipip => mode::IPIP,
    }
}

fn is_same(old: &abi::Backend, service: &Numbered, backend: &Backend) -> bool {
    old.service == service.entry.id
        && old.address == convert::wide(backend.address.ip())
        && u16::from_be(old.port) == backend.address.port()
        && old.protocol == service.key.1
}

/// The address from which the kernel would reach a backend, in the calling thread's network namespace. Sends nothing.
fn local_address(backend: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if backend.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(backend)?;
    Ok(socket.local_addr()?.ip())
}

/// aya compares the sizes of key and value with the types asked for.
pub(super) fn typed<M: TryFrom<Map, Error = MapError>>(map: Map) -> Result<M, XdpError> {
    map.try_into().map_err(|_| XdpError::WrongObject)
}

pub(super) fn failed(operation: &'static str) -> impl Fn(MapError) -> XdpError {
    move |error| XdpError::map(operation, &error)
}
