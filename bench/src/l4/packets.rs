//! What a packet costs by what happens to it, through BPF_PROG_TEST_RUN.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use gateway::config::model::{self, VipAffinity, VipMode, VipProtocol};
use gateway::xdp::{Backend, Service, Target};
use gateway_tests::empty_xdp::EmptyXdp;
use gateway_tests::packet::Build;
use gateway_tests::packet::flags::{ACK, SYN};
use gateway_tests::xdp::{Lab, REDIRECT};

use super::{median, nanoseconds};
use crate::run::Entry;

/// Runs of the same frame in one measurement.
const REPEAT: u32 = 200;

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
    let lab = lab(a, mode);
    let mut costs = Vec::new();
    let label = |what: &str| format!("{}, {what}", a.version);
    let moded = |what: &str| format!("{}, {}, {what}", a.version, format!("{mode:?}").to_lowercase());
    let net = |frame: &[u8], repeat: u32| -> Result<f64> {
        let ours = lab.namespace.enter(|| median(|| nanoseconds_of(&lab, frame, repeat)))?;
        Ok(ours - median(|| Ok(empty.nanoseconds(frame, repeat)?))?)
    };
    if mode == MODES[0] {
        let nothing = Build { ttl: 255, ..Build::tcp(ACK, a.client, a.other) }.frame();
        costs.push((label("no service"), net(&nothing, REPEAT)?));
    }
    for (name, flags, protocol) in [("TCP", ACK, VipProtocol::Tcp), ("UDP", 0, VipProtocol::Udp)] {
        let frame = build(protocol, flags, a.client, a.vip).frame();
        begin(&lab, protocol, a)?;
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
    let ours = lab.namespace.enter(|| median(|| nanoseconds_of(lab, &next(), 1)))?;
    Ok(ours - median(|| Ok(empty.nanoseconds(&next(), 1)?))?)
}

/// A lab whose backend has the virtual address and never goes.
fn lab(a: &Addresses, mode: VipMode) -> Lab {
    let mut lab = Lab::with(model::Xdp { snat_addresses: vec![at(a.client).ip()], ..model::Xdp::default() });
    let vip = at(a.vip).ip().to_string();
    lab.namespace.run(&["ip", "route", "add", &vip, "dev", "eth0"]);
    lab.namespace.run(&["ip", "neigh", "add", &vip, "lladdr", "02:00:00:00:00:0e", "dev", "eth0"]);
    lab.serve(&[VipProtocol::Tcp, VipProtocol::Udp].map(|protocol| service(a, protocol, mode)));
    lab
}

/// Has both sides of the flow speak.
fn begin(lab: &Lab, protocol: VipProtocol, a: &Addresses) -> Result<()> {
    let (first, last) = (build(protocol, SYN, a.client, a.vip), build(protocol, ACK, a.client, a.vip));
    // Where answers do not come through the box, this one is of no flow.
    let answer = build(protocol, SYN | ACK, a.vip, a.client);
    let actions = [first, answer, last].map(|packet| lab.run(&packet.frame()).0);
    ensure!(actions[0] == REDIRECT && actions[2] == REDIRECT, "the packets of a flow are not sent on: {actions:?}");
    Ok(())
}

fn nanoseconds_of(lab: &Lab, frame: &[u8], repeat: u32) -> Result<u128> {
    Ok(lab.xdp.probe(frame, repeat)?.context("XDP is off")?.per_packet.as_nanos())
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
