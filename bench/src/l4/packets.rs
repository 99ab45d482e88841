//! What a packet costs by what happens to it, through BPF_PROG_TEST_RUN.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use gateway::config::model::{self, VipAffinity, VipMode, VipProtocol, XdpMode};
use gateway::xdp::{self, Backend, Service, Target, Xdp};
use gateway_tests::empty_xdp::EmptyXdp;
use gateway_tests::lab::{self, Namespace};
use gateway_tests::packet::Build;
use gateway_tests::packet::flags::{ACK, SYN};

use super::{median, nanoseconds};
use crate::run::Entry;

/// Runs of the same frame in one measurement.
const REPEAT: u32 = 200;
const REDIRECT: u32 = 4;

/// One IP version's addresses. The backend has the virtual address, and the client's is the source of mode `nat`: so a
/// packet becomes what it was, except for its TTL, and the next run of the same frame takes the same way.
struct Addresses {
    version: &'static str,
    client: &'static str,
    vip: &'static str,
    other: &'static str,
}

const V4: Addresses =
    Addresses { version: "IPv4", client: "198.51.100.7:61000", vip: "203.0.113.1:80", other: "203.0.113.1:81" };
const V6: Addresses = Addresses {
    version: "IPv6",
    client: "[2001:db8:c::7]:61000",
    vip: "[2001:db8:f::1]:80",
    other: "[2001:db8:f::1]:81",
};
const MODES: [VipMode; 4] = [VipMode::Nat, VipMode::Dnat, VipMode::Dsr, VipMode::Ipip];

pub fn run(rounds: usize) -> Result<Vec<Entry>> {
    let empty = EmptyXdp::load()?;
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..rounds {
        for a in [&V4, &V6] {
            for mode in MODES {
                for (label, cost) in costs(&empty, a, mode)? {
                    Entry::note_in(&mut entries, &label, nanoseconds(cost));
                }
            }
        }
    }
    Ok(entries)
}

/// What each kind of packet costs in one mode.
fn costs(empty: &EmptyXdp, a: &Addresses, mode: VipMode) -> Result<Vec<(String, f64)>> {
    let lab = Lab::new(a, mode)?;
    let mut costs = Vec::new();
    let label = |what: &str| format!("{}, {what}", a.version);
    let moded = |what: &str| format!("{}, {}, {what}", a.version, format!("{mode:?}").to_lowercase());
    let net = |frame: &[u8], repeat: u32| -> Result<f64> {
        let ours = lab.inside(|| median(|| lab.nanoseconds(frame, repeat)))?;
        Ok(ours - median(|| Ok(empty.nanoseconds(frame, repeat)?))?)
    };
    if mode == MODES[0] {
        let nothing = Build { ttl: 255, ..Build::tcp(ACK, a.client, a.other) }.frame();
        costs.push((label("no service"), net(&nothing, REPEAT)?));
    }
    for (name, flags, protocol) in [("TCP", ACK, VipProtocol::Tcp), ("UDP", 0, VipProtocol::Udp)] {
        let frame = build(protocol, flags, a.client, a.vip).frame();
        lab.begin(protocol, a)?;
        // A packet inside another one is a longer packet each time: one run of many frames, not many of one.
        let repeat = if mode == VipMode::Ipip { 1 } else { REPEAT };
        costs.push((moded(&format!("established {name}")), net(&frame, repeat)?));
    }
    costs.push((moded("new flow"), new_flow(&lab, empty, a)?));
    Ok(costs)
}

/// Each run has a client port of its own, so each begins a flow.
fn new_flow(lab: &Lab, empty: &EmptyXdp, a: &Addresses) -> Result<f64> {
    let mut port = 10_000;
    let mut next = || {
        port += 1;
        let client = SocketAddr::new(at(a.client).ip(), port).to_string();
        build(VipProtocol::Tcp, SYN, &client, a.vip).frame()
    };
    let ours = lab.inside(|| median(|| lab.nanoseconds(&next(), 1)))?;
    Ok(ours - median(|| Ok(empty.nanoseconds(&next(), 1)?))?)
}

/// A namespace with the program, and with one backend that never goes.
struct Lab {
    namespace: Namespace,
    _peer: Namespace,
    xdp: Xdp,
}

impl Lab {
    fn new(a: &Addresses, mode: VipMode) -> Result<Lab> {
        let (namespace, peer) = (Namespace::new("gateway"), Namespace::new("peer"));
        lab::connect((&namespace, "eth0"), (&peer, "eth0"));
        for (address, length) in [("10.0.0.1", 24), ("fd00::1", 64)] {
            namespace.add_address("eth0", address.parse()?, length);
        }
        let vip = at(a.vip).ip();
        namespace.run(&["ip", "route", "add", &vip.to_string(), "dev", "eth0"]);
        namespace.run(&["ip", "neigh", "add", &vip.to_string(), "lladdr", "02:00:00:00:00:0e", "dev", "eth0"]);
        let config = model::Xdp {
            interfaces: vec!["lo".into()],
            mode: XdpMode::Generic,
            pin: None,
            snat_addresses: vec![at(a.client).ip()],
            ..model::Xdp::default()
        };
        let services = [VipProtocol::Tcp, VipProtocol::Udp].map(|protocol| service(a, protocol, mode));
        let xdp = namespace.enter(|| -> Result<Xdp> {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1")?;
            }
            let mut xdp = xdp::attach(&config, &[])?;
            xdp.sync_services(&services)?;
            Ok(xdp)
        })?;
        Ok(Lab { namespace, _peer: peer, xdp })
    }

    /// Has both sides of the flow speak.
    fn begin(&self, protocol: VipProtocol, a: &Addresses) -> Result<()> {
        self.inside(|| {
            self.send(&build(protocol, SYN, a.client, a.vip).frame())?;
            // Where answers do not come through the box, this one is of no flow.
            self.probe(&build(protocol, SYN | ACK, a.vip, a.client).frame(), 1)?;
            self.send(&build(protocol, ACK, a.client, a.vip).frame())
        })
    }

    /// Where the interfaces are that frames go to.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.enter(work)
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        let action = self.probe(frame, 1)?.action;
        anyhow::ensure!(action == REDIRECT, "a packet of the flow is not sent on: action {action}");
        Ok(())
    }

    fn nanoseconds(&self, frame: &[u8], repeat: u32) -> Result<u128> {
        Ok(self.probe(frame, repeat)?.per_packet.as_nanos())
    }

    fn probe(&self, frame: &[u8], repeat: u32) -> Result<xdp::Probe> {
        self.xdp.probe(frame, repeat)?.context("XDP is off")
    }
}

fn build(protocol: VipProtocol, flags: u8, from: &str, to: &str) -> Build {
    match protocol {
        VipProtocol::Tcp => Build { ttl: 255, ..Build::tcp(flags, from, to) },
        VipProtocol::Udp => Build { ttl: 255, ..Build::udp(from, to) },
    }
}

fn service(a: &Addresses, protocol: VipProtocol, mode: VipMode) -> Service {
    let backends = vec![Backend { address: at(a.vip), weight: 1, alive: true }];
    let target = Target::Backends { mode, affinity: VipAffinity::Flow, backends };
    Service { name: "service".into(), address: at(a.vip), protocol, target, drain: false }
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap_or_else(|_| SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0))
}
