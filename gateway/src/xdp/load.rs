//! From the embedded object to a program in the kernel, with typed maps.

use std::net::IpAddr;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp as Program};
use aya::{Ebpf, EbpfLoader};
use gateway_ebpf::abi::cookie::{self, Station};
use gateway_ebpf::abi::{self, limit, names};

use super::bans::BanTables;
use super::drops::Drops;
use super::flows::FlowTableUse;
use super::limits::Limiter;
use super::pins::Pins;
use super::probing::{ProbeWay, Probing};
use super::services::Services;
use super::tables::Tables;
use super::{Counters, DebugLog, FlowInfo, Probe, ServiceStats, XdpError, log};
use crate::config::model::{self, VipMode};

/// Whether this binary carries the XDP object. The build script puts an empty file there when it does not.
pub fn object_is_embedded() -> bool {
    !OBJECT.is_empty()
}

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gateway-xdp.o"));

/// The program in the kernel. It stays there as long as this value or a link lives.
pub(super) struct Loaded {
    ebpf: Ebpf,
    pub tables: Tables,
    pub bans: BanTables,
    pub limiter: Limiter,
    pub drops: Drops,
    probing: Probing,
    packets: PerCpuArray<MapData, u64>,
    stations: HashMap<MapData, u32, Station>,
    services: Services,
    log: Option<DebugLog>,
}

impl Loaded {
    /// Loads it. Maps that are pinned go on with what they have.
    pub fn new(config: &model::Xdp, pins: Option<&Pins>) -> Result<Loaded, XdpError> {
        if !object_is_embedded() {
            return Err(XdpError::NoObject);
        }
        let log_drops = log::wanted();
        let entries = entries(config);
        let mut loader = EbpfLoader::new();
        loader.override_global(names::LOG_DROPS, if log_drops { &1_u8 } else { &0 }, true);
        loader.override_global(cookie::SYN_COOKIES, if config.syn_cookies { &1_u8 } else { &0 }, true);
        for (name, entries) in entries {
            loader.map_max_entries(name, entries);
        }
        for (name, path) in pins.map_or_else(Vec::new, |pins| pins.maps(OBJECT, &entries)) {
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| XdpError::load(&error))?;
        program(&mut ebpf)?.load().map_err(refused)?;
        let mut services = Services::open(|name| ebpf.take_map(name).ok_or(XdpError::WrongObject))?;
        services.configure(config)?;
        Ok(Loaded {
            tables: Tables::new(&mut ebpf)?,
            bans: BanTables::new(&mut ebpf)?,
            limiter: Limiter::new(&mut ebpf, &config.limits)?,
            drops: Drops::new(&mut ebpf, config.drop_log)?,
            probing: Probing::new(&ebpf)?,
            packets: map(&mut ebpf, names::PACKETS)?,
            stations: map(&mut ebpf, cookie::STATIONS)?,
            services,
            log: log_drops.then(|| DebugLog::new(&mut ebpf)).transpose().map_err(|error| XdpError::load(&error))?,
            ebpf,
        })
    }

    /// Tells the program the MAC address of an interface, without which it answers no SYN there.
    pub fn set_station(&mut self, index: u32, mac: [u8; 6]) -> Result<(), XdpError> {
        let told = self.stations.insert(index, Station::new(mac), 0);
        told.map_err(|error| XdpError::map("take an interface's MAC address", &error))
    }

    /// The kernel's number of the program.
    pub fn id(&mut self) -> Result<u32, XdpError> {
        let info = program(&mut self.ebpf)?.info();
        info.map(|info| info.id()).map_err(|error| XdpError::map("tell the program's number", &error))
    }

    /// Attaches to the interface of this index. Dropping the link detaches.
    pub fn attach(&mut self, index: u32, mode: XdpMode) -> Result<XdpLink, ProgramError> {
        let program: &mut Program = self.ebpf.program_mut(abi::PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()?;
        let link = program.attach_to_if_index(index, mode)?;
        program.take_link(link)
    }

    /// Takes the place of the program of a pinned link, between two packets. The file stays.
    pub fn replace(&mut self, pin: &Path) -> Result<XdpLink, Box<dyn std::error::Error>> {
        let link = XdpLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
        let program: &mut Program = self.ebpf.program_mut(abi::PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()?;
        let link = program.attach_to_link(link)?;
        Ok(program.take_link(link)?)
    }

    /// How health checks reach these addresses, by these interfaces.
    pub fn probe_ways(
        &mut self,
        interfaces: &[(String, u32)],
        wanted: &[(IpAddr, VipMode)],
    ) -> Result<Vec<ProbeWay>, XdpError> {
        self.probing.sync(&mut self.ebpf, interfaces, wanted)
    }

    pub fn counters(&self) -> Result<Counters, XdpError> {
        Counters::read(&self.packets)
    }

    pub fn services(&mut self) -> &mut Services {
        &mut self.services
    }

    pub fn service_stats(&self) -> Result<Vec<ServiceStats>, XdpError> {
        self.services.stats()
    }

    pub fn flow_tables(&self) -> Result<Vec<FlowTableUse>, XdpError> {
        self.services.flow_tables()
    }

    pub fn lacks_route(&self) -> bool {
        self.services.lacks_route()
    }

    pub fn service_name(&self, id: u32) -> Option<&str> {
        self.services.name(id)
    }

    pub fn flows(&self, of: Option<IpAddr>) -> Result<Vec<FlowInfo>, XdpError> {
        self.services.flows(of)
    }

    pub fn take_log(&mut self) -> Option<DebugLog> {
        self.log.take()
    }

    pub fn probe(&self, frame: &[u8], repeat: u32) -> Result<Probe, XdpError> {
        // Room for an outer header.
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), repeat, ..Default::default() };
        let program: Result<&Program, ProgramError> =
            self.ebpf.program(abi::PROGRAM).ok_or(ProgramError::NotLoaded).and_then(TryInto::try_into);
        let run = program.and_then(|program| program.test_run(options));
        let run = run.map_err(|error| XdpError::map("run the program on a test frame", &error))?;
        let frame = out[..run.data_size_out as usize].to_vec();
        Ok(Probe { action: run.return_value, frame, per_packet: run.duration })
    }
}

/// The sizes of maps that the configuration decides.
fn entries(config: &model::Xdp) -> [(&'static str, u32); 6] {
    // A flow is two entries, one for each direction.
    let (established, half_open) =
        (config.flows.established.saturating_mul(2), config.flows.half_open.saturating_mul(2));
    [
        (names::ESTABLISHED_V4, established),
        (names::ESTABLISHED_V6, established),
        (names::HALF_OPEN_V4, half_open),
        (names::HALF_OPEN_V6, half_open),
        (limit::SOURCES_V4, config.limits.sources),
        (limit::SOURCES_V6, config.limits.sources),
    ]
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Program, XdpError> {
    let program = ebpf.program_mut(abi::PROGRAM).ok_or(XdpError::WrongObject)?;
    program.try_into().map_err(|_: ProgramError| XdpError::WrongObject)
}

/// The verifier's reason is one line in the middle of its log.
fn refused(error: ProgramError) -> XdpError {
    let ProgramError::LoadError { io_error, verifier_log } = &error else { return XdpError::load(&error) };
    ::log::debug!("xdp: the verifier's log: {verifier_log}");
    match io_error.raw_os_error() {
        Some(libc::EPERM) => XdpError::NotPermitted,
        Some(_) | None => XdpError::Load(format!("{io_error}: {}", verifier_reason(&verifier_log.to_string()))),
    }
}

/// The last line before the statistics.
fn verifier_reason(log: &str) -> &str {
    let statistics = ["verification time", "stack depth", "processed"];
    let mut lines = log.lines().rev().filter(|line| !statistics.iter().any(|start| line.starts_with(start)));
    lines.find(|line| !line.is_empty()).unwrap_or("it gives no reason")
}

/// Takes a map out of the object. aya compares the sizes of key and value with the types asked for.
pub(super) fn map<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M, XdpError> {
    let map = ebpf.take_map(name).ok_or(XdpError::WrongObject)?;
    map.try_into().map_err(|_| XdpError::WrongObject)
}

#[cfg(test)]
mod tests {
    use super::verifier_reason;

    #[test]
    fn the_verifiers_reason_is_found_before_its_statistics() {
        let log = "0: R1=ctx() R10=fp0\n0: (bf) r7 = r1\nR1 invalid mem access 'scalar'\nverification time 579 usec\n\
                   stack depth 0\nprocessed 43 insns (limit 1000000)\n";
        assert_eq!(verifier_reason(log), "R1 invalid mem access 'scalar'");
        assert_eq!(verifier_reason(""), "it gives no reason");
    }
}
