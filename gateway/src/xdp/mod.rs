//! The kernel's side of the gateway: loads the XDP program, attaches it and keeps its lists equal to the
//! configuration. The only module that names aya.
//!
//! XDP is never a condition for the gateway to start unless the configuration says so: with `mode = "auto"` each
//! thing that is missing costs one line in the log.

mod bans;
mod batch;
mod clock;
mod convert;
mod counts;
mod drops;
mod error;
mod features;
mod flows;
mod front;
mod interface;
mod limits;
mod lists;
mod load;
mod log;
mod maglev;
mod pins;
mod plan;
mod ports;
mod probing;
mod service;
mod services;
mod slots;
mod stats;
mod tables;
mod view;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::model::{self, AccessRule, VipMode, XdpMode};
use drops::By;
use gateway_ebpf::abi::service::{BACKENDS_MAX, SERVICES_MAX};
use ipnet::IpNet;
use lists::{Lists, RuleNumbers};
use load::Loaded;
use pins::Pins;
use tables::Change;

pub use drops::{DropCounts, DropRing, Dropped};
pub use error::{Refusal, XdpError};
pub use features::{can_be_pinned_in, features, pinned_links};
pub use flows::{FlowInfo, FlowState, FlowTableUse};
pub use gateway_ebpf::Reason;
pub use interface::{Attached, Interface};
pub use load::object_is_embedded;
pub use log::DebugLog;
pub use pins::{Detached, detach};
pub use plan::{ListsPlan, NewLists};
pub use probing::ProbeWay;
pub use service::{Backend, Service, Target};
pub use services::{BackendStats, ServiceStats};
pub use stats::Counters;
pub use view::{FlowRoom, Pinned};

// What the configuration takes fits.
const _: () = assert!(model::VIPS_MAX <= SERVICES_MAX && model::VIP_ENDPOINTS_MAX <= BACKENDS_MAX);

/// Loads the program and attaches it as `config` says, dropping what `access` denies. Writes one line for each
/// interface to the log.
///
/// Fails only when `mode` is `native` or `generic` and cannot be had; with `auto` the result may be off.
pub fn attach(config: &model::Xdp, access: &[AccessRule]) -> Result<Xdp, XdpError> {
    attach_serving(config, access, &[])
}

/// [`attach`] with services that the program has from its first packet on. Those of a process before this one are kept in
/// their place, until [`sync_services`](Xdp::sync_services).
pub fn attach_serving(config: &model::Xdp, access: &[AccessRule], services: &[Service]) -> Result<Xdp, XdpError> {
    let running = match Running::start(config, access, services) {
        Ok(Some(running)) => {
            running.tell();
            Some(Box::new(running))
        }
        Ok(None) => {
            ::log::info!("xdp: off: [xdp] asks for no interface; name one in `interfaces` to turn it on");
            if let Some(pin) = config.pin.as_deref().filter(|pin| !pins::links_below(pin).is_empty()) {
                ::log::warn!(
                    "xdp: the program of another process is attached still; `gateway xdp detach --pin {}` removes it",
                    pin.display()
                );
            }
            None
        }
        Err(error) if config.mode == XdpMode::Auto => {
            ::log::warn!("xdp: off: {error}");
            None
        }
        Err(error) => return Err(error),
    };
    Ok(Xdp { running })
}

/// The XDP program of this process. Dropping it detaches the program and frees its lists, unless it is pinned: then the
/// kernel goes on without the process.
pub struct Xdp {
    /// `None` while XDP is off.
    running: Option<Box<Running>>,
}

/// What a [`sync`](Xdp::sync) changed in the kernel's lists. A prefix about which a shorter one says the same has no
/// entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Entries added.
    pub added: usize,
    /// Entries removed.
    pub removed: usize,
}

/// The entry that decides about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its prefix.
    pub prefix: IpNet,
    /// Packets that met it since it is there.
    pub packets: u64,
}

/// What the program does with a frame that nobody sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The kernel's number for the verdict: 1 is drop, 2 is pass, 4 is send.
    pub action: u32,
    /// What became of the frame.
    pub frame: Vec<u8>,
    /// Time per run.
    pub per_packet: Duration,
}

impl Xdp {
    /// Makes the kernel do what a new configuration says, touching only what differs: lists are changed by entry, and
    /// an interface that stays is not detached for a moment, except when `mode` changes under it.
    ///
    /// All or nothing: after an error the old configuration is in force. The report is empty when XDP was turned on
    /// or off.
    pub fn sync(&mut self, config: &model::Xdp, access: &[AccessRule]) -> Result<SyncReport, XdpError> {
        match self.plan_lists(config, access) {
            Some(plan) => self.sync_made(config, plan.make()?),
            None => {
                if let Some(running) = self.running.take() {
                    running.interfaces.into_iter().for_each(Interface::detach);
                }
                *self = attach(config, access)?;
                Ok(SyncReport::default())
            }
        }
    }

    /// The part of a [`sync`](Xdp::sync) that takes long, for whoever does not want to have this value busy with it;
    /// [`sync_made`](Xdp::sync_made) is the rest. `None` when it takes XDP on or off.
    pub fn plan_lists(&self, config: &model::Xdp, access: &[AccessRule]) -> Option<ListsPlan> {
        self.running.as_ref().filter(|_| wants_xdp(config)).map(|running| running.plan(access))
    }

    /// Whether there is a program.
    pub fn is_on(&self) -> bool {
        self.running.is_some()
    }

    /// [`sync`](Xdp::sync) with lists that were made before, of a plan for this configuration.
    pub fn sync_made(&mut self, config: &model::Xdp, new: NewLists) -> Result<SyncReport, XdpError> {
        match &mut self.running {
            Some(running) if wants_xdp(config) => running.sync(config, new),
            Some(_) | None => self.sync(config, &new.plan.access),
        }
    }

    /// Makes the kernel's lists forget what has ended meanwhile. `access` is that of the last [`sync`](Xdp::sync). The
    /// program minds the time by itself; this frees the entries, and is needed where a source has several ends.
    pub fn keep_time(&mut self, access: &[AccessRule]) -> Result<SyncReport, XdpError> {
        match &mut self.running {
            Some(running) if running.lists.next_change() <= lists::unix_s(SystemTime::now()) => {
                running.sync_lists(access)
            }
            Some(_) | None => Ok(SyncReport::default()),
        }
    }

    /// Each access rule with the packets it decided on; none while XDP is off.
    pub fn rules(&self) -> Result<Vec<(&str, u64)>, XdpError> {
        let Some(running) = &self.running else { return Ok(Vec::new()) };
        let tables = &running.program.tables;
        running.rules.iter().map(|(number, name)| Ok((name, tables.rule_packets(number)?))).collect()
    }

    /// Entries in the kernel's lists, of IPv4 and of IPv6.
    pub fn entries(&self) -> (usize, usize) {
        self.running.as_ref().map_or((0, 0), |running| (running.lists.v4.len(), running.lists.v6.len()))
    }

    /// The entry that decides about an address, if any rule has it.
    pub fn find(&self, address: IpAddr) -> Result<Option<Match>, XdpError> {
        let Some(running) = &self.running else { return Ok(None) };
        running.find(address.to_canonical()).map_err(|error| XdpError::map("read an entry's counter", &error))
    }

    /// Drops the packets of one IPv4 address, or of an IPv6 network of 64 bits, until that moment. Nothing
    /// happens while XDP is off.
    pub fn ban(&mut self, network: IpNet, until: SystemTime) -> Result<(), XdpError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.program.bans.add(network, lists::unix_s(until))?;
        running.program.tables.set_bans(true)
    }

    /// Ends a ban. `any` says whether others are left: while there are none, packets do not pay for them.
    pub fn unban(&mut self, network: IpNet, any: bool) -> Result<(), XdpError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.program.bans.remove(network)?;
        running.program.tables.set_bans(any)
    }

    /// Packets that a ban dropped; 0 while XDP is off.
    pub fn banned_packets(&self, network: IpNet) -> Result<u64, XdpError> {
        let packets = self.running.as_ref().map_or(Ok(0), |running| running.program.bans.packets(network));
        packets.map_err(|error| XdpError::map("read a ban's counter", &error))
    }

    /// Makes the program serve these virtual addresses and no others, touching only what differs. Flows of a backend that
    /// stays go on; those of one that is gone or dead choose another.
    ///
    /// In mode `nat` without `snat_addresses`, and in mode `ipip`, the source address towards a backend is the one that the
    /// kernel would use in the calling thread's network namespace.
    ///
    /// Does nothing while XDP is off: call it again after [`sync`](Xdp::sync) has turned it on.
    pub fn sync_services(&mut self, services: &[Service]) -> Result<(), XdpError> {
        match &mut self.running {
            Some(running) => running.program.services().sync(services),
            None => Ok(()),
        }
    }

    /// Whether a living endpoint has no flows because the kernel knew no route to it at the last
    /// [`sync_services`](Xdp::sync_services).
    pub fn lacks_route(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.program.lacks_route())
    }

    /// How health checks ask endpoints for what they serve at these virtual addresses, in the modes `dsr` and `ipip`, in
    /// their order; each address and mode once. Endpoints have to be reached by the interfaces of the configuration.
    ///
    /// Empty where that cannot be had, which is said in the log, and while XDP is off.
    pub fn probe_ways(&mut self, vips: &[(IpAddr, VipMode)]) -> Vec<ProbeWay> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let alive = running.interfaces.iter().filter(|interface| interface.is_alive());
        let interfaces: Vec<_> = alive.map(|interface| (interface.name().to_owned(), interface.index())).collect();
        running.program.probe_ways(&interfaces, vips).unwrap_or_else(|error| {
            ::log::warn!("xdp: health checks of modes dsr and ipip go to the endpoints' own addresses: {error}");
            Vec::new()
        })
    }

    /// The counters of the services of the last [`sync_services`](Xdp::sync_services), in their order.
    pub fn service_stats(&self) -> Result<Vec<ServiceStats>, XdpError> {
        match &self.running {
            Some(running) => running.program.service_stats(),
            None => Ok(Vec::new()),
        }
    }

    /// The flows whose client or backend is `of`; all of them if it is `None`.
    pub fn flows(&self, of: Option<IpAddr>) -> Result<Vec<FlowInfo>, XdpError> {
        match &self.running {
            Some(running) => running.program.flows(of),
            None => Ok(Vec::new()),
        }
    }

    /// How full the flow tables are; none while XDP is off.
    pub fn flow_tables(&self) -> Result<Vec<FlowTableUse>, XdpError> {
        match &self.running {
            Some(running) => running.program.flow_tables(),
            None => Ok(Vec::new()),
        }
    }

    /// Packets by reason; all zero while XDP is off.
    pub fn counters(&self) -> Result<Counters, XdpError> {
        match &self.running {
            Some(running) => running.program.counters(),
            None => Ok(Counters::default()),
        }
    }

    /// The interfaces of the configuration and how they came out; none while XDP is off.
    pub fn interfaces(&self) -> &[Interface] {
        match &self.running {
            Some(running) => &running.interfaces,
            None => &[],
        }
    }

    /// The program's log records, if the log level asks for them (`RUST_LOG=gateway::xdp=debug`) and they were not
    /// taken yet.
    pub fn take_log(&mut self) -> Option<DebugLog> {
        match &mut self.running {
            Some(running) => running.program.take_log(),
            None => None,
        }
    }

    /// The drops that the program tells about, if they were not taken yet. They are those of this program: take them
    /// again after a [`sync`](Xdp::sync) that has turned XDP on.
    pub fn take_drops(&mut self) -> Option<DropRing> {
        self.running.as_mut().and_then(|running| running.program.drops.take_ring())
    }

    /// The line of the log for a drop; `None` when it is one too many for this second.
    pub fn drop_line(&mut self, dropped: &Dropped) -> Option<String> {
        self.running.as_mut().and_then(|running| running.drop_line(dropped))
    }

    /// What became of dropped packets while there was a `drop_log`; `None` while XDP is off.
    pub fn drop_counts(&self) -> Result<Option<DropCounts>, XdpError> {
        self.running.as_ref().map(|running| running.program.drops.counts()).transpose()
    }

    /// Runs the program `repeat` times on an Ethernet frame that nobody sent (BPF_PROG_TEST_RUN). It is counted like
    /// any other packet. `None` while XDP is off.
    pub fn probe(&self, frame: &[u8], repeat: u32) -> Result<Option<Probe>, XdpError> {
        match &self.running {
            Some(running) => running.program.probe(frame, repeat).map(Some),
            None => Ok(None),
        }
    }
}

/// The interfaces are dropped first: a detached program with lists is harmless, an attached one without is not there.
struct Running {
    interfaces: Vec<Interface>,
    program: Loaded,
    lists: Arc<Lists>,
    rules: RuleNumbers,
    pins: Option<Pins>,
    config: model::Xdp,
}

impl Running {
    /// Fills the tables before the first packet can meet them. `None` when `config` asks for no XDP.
    fn start(config: &model::Xdp, access: &[AccessRule], services: &[Service]) -> Result<Option<Running>, XdpError> {
        if !wants_xdp(config) {
            return Ok(None);
        }
        let pins = open_pins(config.pin.as_deref());
        let program = Loaded::new(config, pins.as_ref())?;
        let (lists, rules) = (Arc::default(), RuleNumbers::default());
        let mut running = Running { interfaces: Vec::new(), program, lists, rules, pins, config: config.clone() };
        running.sync_lists(access)?;
        if running.program.services().stats_of_kernel()?.is_empty() {
            // What is wrong with them is for `sync_services` to say, which follows.
            let _ = running.program.services().sync(services);
        }
        running.interfaces = attach_all(&mut running.program, &config.interfaces, config.mode, running.pins.as_ref())?;
        if let Some(pins) = &running.pins {
            remove_strays(pins, &running.interfaces);
            pins.remove_other_versions();
        }
        Ok(Some(running))
    }

    fn sync(&mut self, config: &model::Xdp, new: NewLists) -> Result<SyncReport, XdpError> {
        let old = (self.lists.clone(), self.rules.clone());
        let report = self.put(new)?;
        let synced = self.tell_program(config).and_then(|()| self.sync_interfaces(config));
        if let Err(error) = synced {
            self.go_back(old)
                .unwrap_or_else(|error| ::log::error!("xdp: a refused reload is partly in force: {error}"));
            return Err(error);
        }
        Ok(report)
    }

    /// Takes a reload back whose interfaces could not be had: what the program was told, and then the lists.
    fn go_back(&mut self, (lists, rules): (Arc<Lists>, RuleNumbers)) -> Result<(), XdpError> {
        let config = self.config.clone();
        self.tell_program(&config)?;
        self.program.services().configure(&config)?;
        let back = Change::between(&self.lists, &lists)?;
        self.program.tables.change(&self.lists, &lists, back)?;
        (self.lists, self.rules) = (lists, rules);
        Ok(())
    }

    /// What the program reads anew for each packet.
    fn tell_program(&mut self, config: &model::Xdp) -> Result<(), XdpError> {
        self.program.limiter.set(&config.limits)?;
        self.program.drops.set(config.drop_log)
    }

    /// Compiles the rules anew, for this moment, and puts what is different into the kernel.
    fn sync_lists(&mut self, access: &[AccessRule]) -> Result<SyncReport, XdpError> {
        self.put(self.plan(access).make()?)
    }

    fn plan(&self, access: &[AccessRule]) -> ListsPlan {
        ListsPlan { access: access.to_vec(), old: self.lists.clone(), rules: self.rules.clone() }
    }

    /// Puts new lists into force.
    fn put(&mut self, new: NewLists) -> Result<SyncReport, XdpError> {
        // Others were put into force meanwhile.
        if !Arc::ptr_eq(&new.plan.old, &self.lists) {
            return self.sync_lists(&new.plan.access);
        }
        let NewLists { plan, lists, mut rules, begun, change } = new;
        for rule in begun {
            self.program.tables.reset_rule(rule)?;
        }
        let (added, removed) = self.program.tables.change(&self.lists, &lists, change)?;
        let names: Vec<&str> = plan.access.iter().map(|rule| rule.name.as_str()).collect();
        rules.keep_only(&names);
        (self.lists, self.rules) = (Arc::new(lists), rules);
        Ok(SyncReport { added, removed })
    }

    fn drop_line(&mut self, dropped: &Dropped) -> Option<String> {
        let omitted = self.program.drops.admit(dropped, Instant::now())?;
        let limits = &self.config.limits;
        let of_limit = |rate: Option<model::PacketRate>| rate.map(|rate| By::Limit(rate.per_second));
        let number = dropped.by.checked_sub(1);
        let by = match dropped.reason {
            Reason::DeniedV4 | Reason::DeniedV6 => number.and_then(|rule| self.rules.name(rule)).map(By::Rule),
            Reason::SynLimit => of_limit(limits.syn),
            Reason::PacketLimit => of_limit(limits.packets),
            _ => number.and_then(|id| self.program.service_name(id)).map(By::Vip),
        };
        let interface = self.interfaces.iter().find(|interface| interface.index() == dropped.interface);
        Some(drops::line(dropped, by, interface.map(Interface::name), omitted))
    }

    fn find(&self, address: IpAddr) -> std::io::Result<Option<Match>> {
        let (lists, tables) = (&self.lists, &self.program.tables);
        let found = match address {
            IpAddr::V4(address) => match lists::find(&lists.v4, address.to_bits()) {
                Some(row) => Some((IpAddr::V4(row.first.into()), row.length, tables.packets_v4(row)?)),
                None => None,
            },
            IpAddr::V6(address) => match lists::find(&lists.v6, address.to_bits()) {
                Some(row) => Some((IpAddr::V6(row.first.into()), row.length, tables.packets_v6(row)?)),
                None => None,
            },
        };
        let found = found.and_then(|(first, length, packets)| {
            let prefix = IpNet::new(first, length).ok()?;
            Some(Match { prefix, packets })
        });
        Ok(found)
    }

    fn sync_interfaces(&mut self, config: &model::Xdp) -> Result<(), XdpError> {
        let changed = *config != self.config;
        if fixed_at_start(config) != fixed_at_start(&self.config) {
            ::log::warn!(
                "xdp: `pin`, `syn_cookies` and the sizes of `flows` change with the next start, not with a reload"
            );
        }
        self.program.services().configure(config)?;
        if self.interfaces.iter().any(|interface| interface.contradicts(config.mode)) {
            self.replace_interfaces(config)?;
        } else {
            self.add_and_remove_interfaces(config)?;
        }
        self.config = config.clone();
        if changed {
            self.tell();
        }
        Ok(())
    }

    /// Attaches what is new, then detaches what is gone.
    fn add_and_remove_interfaces(&mut self, config: &model::Xdp) -> Result<(), XdpError> {
        let (kept, new): (Vec<_>, Vec<_>) =
            config.interfaces.iter().cloned().partition(|name| {
                self.interfaces.iter().any(|interface| interface.name() == name && interface.is_alive())
            });
        let new = attach_all(&mut self.program, &new, config.mode, self.pins.as_ref())?;
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.interfaces)
            .into_iter()
            .partition(|interface: &Interface| kept.iter().any(|name| name == interface.name()));
        gone.into_iter().for_each(Interface::detach);
        self.interfaces = kept;
        self.interfaces.extend(new);
        Ok(())
    }

    /// An interface takes one program in one mode, so another mode means to detach first; packets pass unfiltered for
    /// that moment.
    fn replace_interfaces(&mut self, config: &model::Xdp) -> Result<(), XdpError> {
        self.interfaces.drain(..).for_each(Interface::detach);
        match attach_all(&mut self.program, &config.interfaces, config.mode, self.pins.as_ref()) {
            Ok(interfaces) => {
                self.interfaces = interfaces;
                Ok(())
            }
            Err(error) => {
                let Running { program, pins, config, .. } = self;
                self.interfaces = attach_all(program, &config.interfaces, config.mode, pins.as_ref())?;
                Err(error)
            }
        }
    }

    fn tell(&self) {
        for interface in &self.interfaces {
            match interface.attached() {
                Some(_) => ::log::info!("{interface}"),
                None => ::log::warn!("{interface}"),
            }
        }
    }
}

/// What a reload does not change.
fn fixed_at_start(config: &model::Xdp) -> (Option<&Path>, u32, u32, bool) {
    (config.pin.as_deref(), config.flows.established, config.flows.half_open, config.syn_cookies)
}

fn wants_xdp(config: &model::Xdp) -> bool {
    config.mode != XdpMode::Off && !config.interfaces.is_empty()
}

/// Warns when nothing can be pinned; the program works without.
fn open_pins(directory: Option<&Path>) -> Option<Pins> {
    let opened = Pins::open(directory?);
    opened.inspect_err(|why| ::log::warn!("xdp: not pinned, so it ends with the process: {why}")).ok()
}

/// All of them, or none: those attached before an error are detached again by being dropped. Links of a process before
/// this one are taken over, and stay whatever happens.
fn attach_all(
    program: &mut Loaded,
    names: &[String],
    mode: XdpMode,
    pins: Option<&Pins>,
) -> Result<Vec<Interface>, XdpError> {
    let pinned = pins.map_or_else(Vec::new, Pins::links);
    let interfaces = names.iter().map(|name| Interface::attach(program, name, mode, &pinned));
    let mut interfaces = interfaces.collect::<Result<Vec<_>, _>>()?;
    if let Some(pins) = pins {
        interfaces.iter_mut().for_each(|interface| interface.pin(pins));
    }
    Ok(interfaces)
}

/// Detaches what a process before this one left on interfaces that are not in the configuration any more.
fn remove_strays(pins: &Pins, interfaces: &[Interface]) {
    let is_ours = |pin: &pins::LinkPin| interfaces.iter().any(|interface| interface.index() == pin.index);
    for stray in pins.links().into_iter().filter(|pin| !is_ours(pin)) {
        match pins::detach_link(&stray.path) {
            Ok(()) => ::log::info!("xdp: detached from interface number {}, which is not in use any more", stray.index),
            Err(error) => ::log::warn!("xdp: cannot remove {}: {error}", stray.path.display()),
        }
    }
}
