//! Health checks by way of a virtual address: programs at the tc hooks of the interfaces, there while some check needs
//! them.
//!
//! They end with the process, however it ends: their links are not pinned, for nobody checks without it. That takes the
//! links of Linux 6.6 (tcx); a filter of tc would stay behind.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use aya::Ebpf;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use gateway_ebpf::abi::probe::{self, MARK, TARGETS_MAX, Target};
use gateway_ebpf::abi::service::mode;

use super::batch::Table;
use super::slots::{self, Slots};
use super::{XdpError, convert};
use crate::config::model::{VipMode, VipProtocol};

/// The programs' maps, and where they are attached.
pub(super) struct Probing {
    targets: Table<u32, Target>,
    probes: Arc<Table<u32, probe::Probe>>,
    /// Who has which place in `targets`. One that stays keeps it, so that its checks go on.
    numbers: Slots<(IpAddr, u32)>,
    loaded: bool,
    /// By the interface's name, with its number.
    links: Vec<(String, u32, [SchedClassifierLink; 2])>,
}

/// How a health check asks an endpoint for what it serves at a virtual address.
#[derive(Clone)]
pub struct ProbeWay {
    vip: IpAddr,
    number: u32,
    probes: Arc<Table<u32, probe::Probe>>,
}

impl ProbeWay {
    /// The virtual address.
    pub fn vip(&self) -> IpAddr {
        self.vip
    }

    /// The mark of a check's socket. It is connected to the endpoint's own address, and bound to a port that no other
    /// socket has.
    pub fn mark(&self) -> u32 {
        MARK | self.number
    }

    /// A socket with this port begins to ask: what an earlier one has sent does not count.
    pub fn begin(&self, protocol: VipProtocol, port: u16) {
        // There mostly is none.
        let _ = self.probes.remove(&[key(protocol, port)]);
    }

    /// Whether what the socket with this port has sent went to the virtual address, and not to the endpoint's own.
    pub fn was_taken(&self, protocol: VipProtocol, port: u16, endpoint: IpAddr) -> bool {
        let expected = (convert::wide(endpoint), convert::wide(self.vip));
        matches!(self.probes.get(&key(protocol, port)), Ok(Some(found)) if (found.endpoint, found.vip) == expected)
    }
}

impl PartialEq for ProbeWay {
    fn eq(&self, other: &ProbeWay) -> bool {
        (self.vip, self.number) == (other.vip, other.number) && Arc::ptr_eq(&self.probes, &other.probes)
    }
}

impl Eq for ProbeWay {}

impl fmt::Debug for ProbeWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by {} (mark {:#x})", self.vip, self.mark())
    }
}

impl Probing {
    pub fn new(ebpf: &Ebpf) -> Result<Probing, XdpError> {
        Ok(Probing {
            targets: super::tables::of_object(ebpf, probe::PROBE_TARGETS)?,
            probes: Arc::new(super::tables::of_object(ebpf, probe::PROBES)?),
            numbers: Slots::new(TARGETS_MAX),
            loaded: false,
            links: Vec::new(),
        })
    }

    /// Makes these ways and no others, on these interfaces.
    pub fn sync(
        &mut self,
        ebpf: &mut Ebpf,
        interfaces: &[(String, u32)],
        wanted: &[(IpAddr, VipMode)],
    ) -> Result<Vec<ProbeWay>, XdpError> {
        let numbers = numbers(&mut self.numbers, wanted)?;
        if wanted.is_empty() {
            self.links.clear();
            return Ok(Vec::new());
        }
        let targets: Vec<Target> = wanted.iter().map(|&(vip, mode)| target(vip, mode)).collect();
        let written = self.targets.update(&numbers, &targets);
        written.map_err(|error| XdpError::map("take the targets of health checks", &error))?;
        self.attach(ebpf, interfaces).map_err(|error| XdpError::load(&error))?;
        let ways = wanted.iter().zip(numbers);
        Ok(ways.map(|(&(vip, _), number)| ProbeWay { vip, number, probes: self.probes.clone() }).collect())
    }

    fn attach(&mut self, ebpf: &mut Ebpf, interfaces: &[(String, u32)]) -> Result<(), ProgramError> {
        if !self.loaded {
            for name in [probe::OUT, probe::IN] {
                program(ebpf, name)?.load()?;
            }
            self.loaded = true;
        }
        self.links.retain(|(name, index, _)| interfaces.iter().any(|(other, at)| (other, at) == (name, index)));
        for (name, index) in interfaces {
            if self.links.iter().any(|(other, ..)| other == name) {
                continue;
            }
            // The way in first: an answer must not come before.
            let way_in = attach(ebpf, probe::IN, name, TcAttachType::Ingress)?;
            let way_out = attach(ebpf, probe::OUT, name, TcAttachType::Egress)?;
            self.links.push((name.clone(), *index, [way_in, way_out]));
        }
        Ok(())
    }
}

fn numbers(slots: &mut Slots<(IpAddr, u32)>, wanted: &[(IpAddr, VipMode)]) -> Result<Vec<u32>, XdpError> {
    let keys: Vec<(IpAddr, u32)> = wanted.iter().map(|&(vip, how)| (vip, kernel_mode(how))).collect();
    slots.retain(|key| keys.contains(key));
    let places = keys.iter().map(|key| slots.place(key));
    let places: Result<_, slots::Full> = places.collect();
    places.map_err(|_| XdpError::TooMany { what: "[[vip]] addresses with health checks", limit: TARGETS_MAX })
}

fn kernel_mode(how: VipMode) -> u32 {
    if how == VipMode::Ipip { mode::IPIP } else { mode::DSR }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn attach(
    ebpf: &mut Ebpf,
    name: &str,
    interface: &str,
    hook: TcAttachType,
) -> Result<SchedClassifierLink, ProgramError> {
    let program = program(ebpf, name)?;
    let link = program.attach_with_options(interface, hook, TcAttachOptions::TcxOrder(LinkOrder::default()))?;
    program.take_link(link)
}

fn key(protocol: VipProtocol, port: u16) -> u32 {
    probe::key(convert::transport(protocol).into(), port.to_be())
}

fn target(vip: IpAddr, how: VipMode) -> Target {
    Target { vip: convert::wide(vip), mode: kernel_mode(how), version: if vip.is_ipv4() { 4 } else { 6 } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_number_when_others_come_and_go() {
        let way = |address: &str, mode| (address.parse().unwrap(), mode);
        let (a, b) = (way("192.0.2.1", VipMode::Dsr), way("192.0.2.2", VipMode::Dsr));
        let (tunnelled, c) = (way("192.0.2.1", VipMode::Ipip), way("192.0.2.3", VipMode::Dsr));
        let mut slots = Slots::new(3);
        let cases = [
            (vec![b], Ok(vec![0])),
            (vec![a, b], Ok(vec![1, 0])),
            (vec![a, tunnelled, b], Ok(vec![1, 2, 0])),
            (vec![a, tunnelled, b, c], Err(())),
            (vec![tunnelled, c], Ok(vec![2, 0])),
            (vec![], Ok(vec![])),
        ];
        for (wanted, expected) in cases {
            assert_eq!(numbers(&mut slots, &wanted).map_err(drop), expected, "{wanted:?}");
        }
    }
}
