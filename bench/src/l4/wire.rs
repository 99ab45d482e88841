//! Packets a second over veth: dropped, and forwarded to a backend, by the XDP program and by nftables.
//!
//! ```text
//! client ──cl0── gw0 ── gateway ── gw1 ──be0── backend
//! ```
//!
//! The gateway's interfaces have NAPI threads of their own (`threaded`), which are put on the proxy's core; the sender has
//! the other one. So what the gateway does is not paid for by the sender, and its processor time is that of these threads.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gateway::config::model::{self, AccessAction, AccessRule, VipAffinity, VipMode, VipProtocol, XdpMode};
use gateway::xdp::{self, Backend, Reason, Service, Target, Xdp};
use gateway_tests::lab::{self, Namespace};
use gateway_tests::packet::Build;
use ipnet::IpNet;

use super::{L4, flood};
use crate::core;
use crate::figure::{Figure, Sample};
use crate::run::Entry;
use crate::server;

const CLIENT: &str = "10.98.0.2";
const GATEWAY: [&str; 2] = ["10.98.0.1", "10.99.0.1"];
const BACKEND: &str = "10.99.0.2:8080";
const VIP: &str = "10.97.0.1:80";
/// What the sender's frames are addressed to.
const GATEWAY_MAC: &str = "02:00:00:00:00:0b";
const BACKEND_MAC: &str = "02:00:00:00:00:0e";
/// Conversations that are forwarded, by the client's port.
const PORTS: std::ops::Range<u16> = 20_000..20_064;
/// Denied sources beside the one that sends.
const DENIED: u32 = 1_000;

/// Who does it.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Gateway,
    Nftables,
}

pub fn run(what: L4, time: Duration, rounds: usize) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for _ in 0..rounds {
        for (who, name) in [(Who::Gateway, "gateway"), (Who::Nftables, "nftables")] {
            let sample = if what == L4::Drop { dropped(who, time)? } else { forwarded(who, time)? };
            Entry::note_in(&mut entries, name, sample);
        }
    }
    Ok(entries)
}

/// A list of denied sources, of which one sends.
fn dropped(who: Who, time: Duration) -> Result<Sample> {
    let net = Network::new()?;
    let sources = (0..DENIED).map(|n| IpNet::from(std::net::IpAddr::from((0xc612_0000 + n * 4).to_be_bytes())));
    let sources: Vec<IpNet> = sources.chain([format!("{CLIENT}/32").parse()?]).collect();
    let xdp = match who {
        Who::Gateway => Some(net.attach(&[rule(sources)])?),
        Who::Nftables => {
            let list: Vec<String> = sources.iter().map(IpNet::to_string).collect();
            net.gateway.nft(&format!(
                "table netdev t {{ set bad {{ type ipv4_addr; flags interval; elements = {{ {} }}; }}
                 chain c {{ type filter hook ingress device gw0 priority 0; ip saddr @bad counter drop; }}\n}}",
                list.join(", ")
            ))?;
            None
        }
    };
    let frames = [Build { payload: vec![0; 18], ..Build::udp(&format!("{CLIENT}:40000"), "192.0.2.1:9") }.frame()];
    let count = || match &xdp {
        Some(xdp) => Ok(xdp.counters()?.packets(Reason::DeniedV4)),
        None => net.gateway.nft_packets(),
    };
    net.measure(&frames, time, count)
}

/// UDP conversations that both sides have begun, with both addresses translated.
fn forwarded(who: Who, time: Duration) -> Result<Sample> {
    let net = Network::new()?;
    let _xdp = match who {
        Who::Gateway => {
            let mut xdp = net.attach(&[])?;
            net.gateway.space.enter(|| xdp.sync_services(&[service()?]).context("services"))?;
            Some(xdp)
        }
        Who::Nftables => {
            // Not every kernel has flowtables.
            if net.gateway.nft(&translation(true)?).is_err() {
                net.gateway.nft(&translation(false)?)?;
            }
            None
        }
    };
    net.converse()?;
    // The backend counts what comes, and does nothing more with it.
    net.backend.nft("table netdev t { chain c { type filter hook ingress device be0 priority 0; counter drop; }\n}")?;
    let frames: Vec<Vec<u8>> = PORTS
        .map(|port| Build { payload: vec![0; 18], ..Build::udp(&format!("{CLIENT}:{port}"), VIP) }.frame())
        .collect();
    net.measure(&frames, time, || net.backend.nft_packets())
}

/// What nftables is told for [`forwarded`].
fn translation(flowtable: bool) -> Result<String> {
    let (address, port) = VIP.split_once(':').context("a port")?;
    let short_way = if flowtable {
        "flowtable f { hook ingress priority 0; devices = { gw0, gw1 }; }
         chain f { type filter hook forward priority 0; ct state established flow add @f; }"
    } else {
        ""
    };
    Ok(format!(
        "table ip t {{\n{short_way}
         chain p {{ type nat hook prerouting priority -100; ip daddr {address} udp dport {port} dnat to {BACKEND}; }}
         chain s {{ type nat hook postrouting priority 100; oifname gw1 masquerade; }}\n}}"
    ))
}

fn rule(sources: Vec<IpNet>) -> AccessRule {
    AccessRule {
        name: "bad".into(),
        action: AccessAction::Deny,
        protocol: None,
        ports: Vec::new(),
        sources,
        expiring: Vec::new(),
    }
}

fn service() -> Result<Service> {
    let backends = vec![Backend { address: BACKEND.parse()?, weight: 1, alive: true }];
    let target = Target::Backends { mode: VipMode::Nat, affinity: VipAffinity::Flow, backends };
    Ok(Service { name: "vip".into(), address: VIP.parse()?, protocol: VipProtocol::Udp, target, drain: false })
}

/// A namespace in which nftables can be asked.
struct Host {
    space: Namespace,
}

impl Host {
    fn nft(&self, ruleset: &str) -> Result<String> {
        let output = Command::new("ip").args(["netns", "exec", self.space.name(), "nft", ruleset]).output()?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What its only counter has seen.
    fn nft_packets(&self) -> Result<u64> {
        let ruleset = self.nft("list ruleset")?;
        let count = ruleset.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.context("no counter")?.parse().context("a count")
    }
}

struct Network {
    client: Host,
    gateway: Host,
    backend: Host,
}

impl Network {
    fn new() -> Result<Network> {
        let host = |role: &str| Host { space: Namespace::new(role) };
        let net = Network { client: host("client"), gateway: host("gateway"), backend: host("backend") };
        let Network { client, gateway, backend } = &net;
        lab::connect((&client.space, "cl0"), (&gateway.space, "gw0"));
        lab::connect((&gateway.space, "gw1"), (&backend.space, "be0"));
        client.space.add_address("cl0", CLIENT.parse()?, 24);
        gateway.space.add_address("gw0", GATEWAY[0].parse()?, 24);
        gateway.space.add_address("gw1", GATEWAY[1].parse()?, 24);
        backend.space.add_address("be0", at(BACKEND)?.ip(), 24);
        let run = |host: &Host, line: &str| host.space.run(&line.split(' ').collect::<Vec<_>>());
        run(gateway, &format!("ip link set gw0 address {GATEWAY_MAC}"));
        run(backend, &format!("ip link set be0 address {BACKEND_MAC}"));
        run(gateway, &format!("ip neigh replace {} lladdr {BACKEND_MAC} dev gw1 nud permanent", at(BACKEND)?.ip()));
        run(client, &format!("ip route add default via {}", GATEWAY[0]));
        run(backend, &format!("ip route add default via {}", GATEWAY[1]));
        for (host, interface) in [(gateway, "gw0"), (gateway, "gw1"), (backend, "be0")] {
            let command = format!("echo 1 > /sys/class/net/{interface}/threaded");
            host.space.run(&["sh", "-c", &command]);
        }
        gateway.space.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?;
        for (interface, core) in [("gw0", core::PROXY), ("gw1", core::PROXY), ("be0", core::LOAD)] {
            for thread in napi_threads(interface)? {
                core::pin_process(thread, core).with_context(|| format!("the thread of {interface}"))?;
            }
        }
        Ok(net)
    }

    fn attach(&self, access: &[AccessRule]) -> Result<Xdp> {
        let config = model::Xdp {
            interfaces: vec!["gw0".into(), "gw1".into()],
            mode: XdpMode::Native,
            pin: None,
            ..model::Xdp::default()
        };
        Ok(self.gateway.space.enter(|| xdp::attach(&config, access))?)
    }

    /// Has each conversation begin: a datagram there, and its answer.
    fn converse(&self) -> Result<()> {
        let answering = self.backend.space.enter(|| UdpSocket::bind(BACKEND))?;
        answering.set_read_timeout(Some(Duration::from_secs(2)))?;
        thread::spawn(move || {
            let mut room = [0; 64];
            // Until nothing has come for a while.
            while let Ok((length, from)) = answering.recv_from(&mut room) {
                let _client_sees = answering.send_to(&room[..length], from);
            }
        });
        for port in PORTS {
            let socket = self.client.space.enter(|| UdpSocket::bind((CLIENT, port)))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.send_to(b"begin", VIP)?;
            socket.recv(&mut [0; 64]).with_context(|| format!("no answer from {VIP} to port {port}"))?;
            // A second one, after the answer: now both sides have spoken.
            socket.send_to(b"again", VIP)?;
        }
        Ok(())
    }

    /// Sends for a while, and says how many packets a second `count` has seen and what each has cost.
    fn measure(&self, frames: &[Vec<u8>], time: Duration, count: impl Fn() -> Result<u64>) -> Result<Sample> {
        let threads: Vec<u32> = ["gw0", "gw1"].into_iter().map(napi_threads).collect::<Result<Vec<_>>>()?.concat();
        let cpu = || threads.iter().map(|pid| server::process_clock(*pid).unwrap_or_default()).sum::<Duration>();
        let (packets, used, started) = (count()?, cpu(), Instant::now());
        self.client.space.enter(|| {
            core::pin(core::LOAD)?;
            flood::send("cl0", frames, time)
        })?;
        let took = started.elapsed().as_secs_f64();
        let (packets, used) = (count()? - packets, cpu() - used);
        if packets == 0 {
            bail!("not one packet was counted");
        }
        Ok(Sample::from([
            (Figure::Packets, packets as f64 / took),
            (Figure::Nanoseconds, used.as_nanos() as f64 / packets as f64),
            (Figure::Busy, used.as_secs_f64() / took),
        ]))
    }
}

/// The threads that receive for an interface; its name must be one that no other namespace has.
fn napi_threads(interface: &str) -> Result<Vec<u32>> {
    let wanted = format!("napi/{interface}-");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(&wanted) {
            found.push(pid);
        }
    }
    ensure!(!found.is_empty(), "{interface} has no thread; Linux 5.12 is needed");
    Ok(found)
}

fn at(address: &str) -> Result<SocketAddr> {
    address.parse().context("an address")
}
