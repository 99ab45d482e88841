//! The L4 balancer, packet by packet: a frame in, a verdict and a frame out, through BPF_PROG_TEST_RUN. Each checksum of
//! each frame is verified.
//!
//! Root only, and only with an object in the binary: `cargo xtask test` provides both. Elsewhere each test says that it
//! was skipped.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use gateway::config::model::{self, VipAffinity, VipMode, VipProtocol, XdpMode};
use gateway::xdp::{self, Backend, FlowState, Reason, Service, Target, Xdp};
use gateway_tests::lab::{self, Namespace};
use gateway_tests::packet::flags::{ACK, FIN, RST, SYN};
use gateway_tests::packet::{self, BOX_MAC, Build, CLIENT_MAC, Seen};

const PASS: u32 = 2;
const DROP: u32 = 1;
const REDIRECT: u32 = 4;

const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xe];
const ETH0_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];

/// One IP version's addresses.
struct Addresses {
    client: &'static str,
    vip: &'static str,
    snat: &'static str,
    backends: [&'static str; 2],
    router: &'static str,
}

const V4: Addresses = Addresses {
    client: "198.51.100.7:40000",
    vip: "203.0.113.1:80",
    snat: "10.0.0.1",
    backends: ["10.0.0.11:8080", "10.0.0.12:8081"],
    router: "10.0.0.254",
};
const V6: Addresses = Addresses {
    client: "[2001:db8:c::7]:40000",
    vip: "[2001:db8:f::1]:80",
    snat: "fd00::1",
    backends: ["[fd00::11]:8080", "[fd00::12]:8081"],
    router: "fd00::fe",
};
const BOTH: [&Addresses; 2] = [&V4, &V6];

macro_rules! root_or_skip {
    () => {
        if !lab::is_root() || !xdp::object_is_embedded() {
            // Not `eprintln!`, which the test runner shows only when a test fails.
            let line = format!(
                "\n=== SKIPPED, a test of {}: it needs root and `cargo xtask build-ebpf` ===\n",
                module_path!()
            );
            let _ = io::stderr().write_all(line.as_bytes());
            return;
        }
    };
}

#[test]
fn nat_rewrites_a_connection_both_ways() {
    root_or_skip!();
    for a in BOTH {
        for protocol in [VipProtocol::Tcp, VipProtocol::Udp] {
            let mut lab = Lab::new();
            lab.serve(&[service(a, protocol, VipMode::Nat, &a.backends[..1])]);
            let first = lab.sent(&lab.first(protocol, a.client, a.vip));
            assert_eq!(first.macs, (BACKEND_MAC, ETH0_MAC));
            assert_eq!(first.to, at(a.backends[0]));
            assert_eq!(first.from.ip(), ip(a.snat));
            assert!((61_000..=65_535).contains(&first.from.port()), "{}", first.from);
            assert_eq!(first.ttl, 63);

            let source = first.from.to_string();
            let answer = lab.sent(&lab.answer(protocol, a.backends[0], &source));
            assert_eq!((answer.from, answer.to), (at(a.vip), at(a.client)));
            assert_eq!(answer.macs, (CLIENT_MAC, BOX_MAC), "the way back to the client is the way it came");

            for _ in 0..3 {
                let next = lab.sent(&lab.next(protocol, a.client, a.vip));
                assert_eq!((next.from, next.to), (first.from, first.to));
                let answer = lab.sent(&lab.answer(protocol, a.backends[0], &source));
                assert_eq!((answer.from, answer.to), (at(a.vip), at(a.client)));
            }
            let flows = lab.xdp.flows(None).unwrap();
            assert_eq!(flows.len(), 1, "{flows:?}");
            assert_eq!(flows[0].state, FlowState::Established);
            assert_eq!((flows[0].client, flows[0].vip), (at(a.client), at(a.vip)));
            assert_eq!((flows[0].source, flows[0].backend), (first.from, first.to));

            let stats = &lab.xdp.service_stats().unwrap()[0];
            let counts = stats.backends[0].counts;
            assert_eq!((counts.flows, counts.packets, counts.answer_packets), (1, 4, 4));
        }
    }
}

/// A namespace whose `eth0` has the backends as neighbours that never go.
struct Lab {
    namespace: Namespace,
    _peer: Namespace,
    xdp: Xdp,
}

impl Lab {
    fn new() -> Lab {
        Lab::with(model::Xdp::default())
    }

    fn with(config: model::Xdp) -> Lab {
        let namespace = Namespace::new("gateway");
        // The other end of the wire, where nobody is.
        let run = |words: &str| namespace.run(&words.split(' ').collect::<Vec<_>>());
        let peer = Namespace::new("peer");
        lab::connect((&namespace, "eth0"), (&peer, "eth0"));
        run("ip link set eth0 address 02:00:00:00:00:0a");
        for (a, length) in [(&V4, 24), (&V6, 64)] {
            namespace.add_address("eth0", ip(a.snat), length);
            for backend in a.backends {
                run(&format!("ip neigh add {} lladdr 02:00:00:00:00:0e dev eth0 nud permanent", at(backend).ip()));
            }
        }
        namespace.enter(|| {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
            }
        });
        let config = model::Xdp { interfaces: vec!["lo".into()], mode: XdpMode::Generic, pin: None, ..config };
        let xdp = namespace.enter(|| xdp::attach(&config, &[]).unwrap());
        Lab { namespace, _peer: peer, xdp }
    }

    fn serve(&mut self, services: &[Service]) {
        self.namespace.enter(|| self.xdp.sync_services(services).unwrap());
    }

    /// The verdict, and the frame that came out.
    fn run(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        let probe = self.namespace.enter(|| self.xdp.probe(frame, 1).unwrap().expect("XDP is on"));
        (probe.action, probe.frame)
    }

    /// What leaves for this frame.
    #[track_caller]
    fn sent(&self, frame: &[u8]) -> Seen {
        let before = self.xdp.counters().unwrap();
        let (action, out) = self.run(frame);
        let after = self.xdp.counters().unwrap();
        let why: Vec<_> = after.iter().filter(|(reason, packets)| *packets > before.packets(*reason)).collect();
        assert_eq!(action, REDIRECT, "{why:?}");
        packet::see(&out).unwrap()
    }

    /// Why the frame does not leave.
    #[track_caller]
    fn refused(&self, frame: &[u8]) -> Reason {
        let before = self.xdp.counters().unwrap();
        let (action, _) = self.run(frame);
        let after = self.xdp.counters().unwrap();
        let mut why = after.iter().filter(|(reason, packets)| *packets > before.packets(*reason));
        let reason = why.next().expect("the packet was counted").0;
        assert_eq!(why.next(), None);
        assert_eq!(action, if reason.drops() { DROP } else { PASS }, "{reason:?}");
        reason
    }

    fn first(&self, protocol: VipProtocol, from: &str, to: &str) -> Vec<u8> {
        build(protocol, SYN, from, to).frame()
    }

    fn answer(&self, protocol: VipProtocol, from: &str, to: &str) -> Vec<u8> {
        build(protocol, SYN | ACK, from, to).frame()
    }

    fn next(&self, protocol: VipProtocol, from: &str, to: &str) -> Vec<u8> {
        build(protocol, ACK, from, to).frame()
    }
}

fn build(protocol: VipProtocol, flags: u8, from: &str, to: &str) -> Build {
    match protocol {
        VipProtocol::Tcp => Build { payload: b"odd".to_vec(), ..Build::tcp(flags, from, to) },
        VipProtocol::Udp => Build::udp(from, to),
    }
}

fn service(a: &Addresses, protocol: VipProtocol, mode: VipMode, backends: &[&str]) -> Service {
    let backend = |address: &&str| Backend { address: at(address), weight: 1, alive: true };
    let backends = backends.iter().map(backend).collect();
    Service {
        name: "service".into(),
        address: at(a.vip),
        protocol,
        target: Target::Backends { mode, affinity: VipAffinity::Flow, backends },
        drain: false,
    }
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}
