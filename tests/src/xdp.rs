//! The L4 balancer in a namespace, packet by packet: a frame in, a verdict and a frame out, through BPF_PROG_TEST_RUN. Each
//! checksum of each frame is verified.

mod clock;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gateway::config::model::{self, AccessRule, FlowLimits, VipAffinity, VipMode, VipProtocol, XdpMode};
use gateway::xdp::{self, Backend, FlowState, Reason, Service, Target, Xdp};
use gateway_ebpf::abi::VERSION;

use crate::lab::{self, BpfFileSystem, Namespace};
use crate::packet::flags::{ACK, SYN};
use crate::packet::{self, Build, Seen};

/// `XDP_DROP`
pub const DROP: u32 = 1;
/// `XDP_PASS`
pub const PASS: u32 = 2;
/// `XDP_REDIRECT`
pub const REDIRECT: u32 = 4;

/// Of all backends.
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xe];
/// Of the interface that leads to them.
pub const ETH0_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];

/// One IP version's addresses.
pub struct Addresses {
    /// With its port.
    pub client: &'static str,
    /// With its port.
    pub vip: &'static str,
    /// Of `eth0`, without a port.
    pub snat: &'static str,
    /// With their ports.
    pub backends: [&'static str; 2],
    /// One that sends errors, without a port.
    pub router: &'static str,
}

/// IPv4.
pub const V4: Addresses = Addresses {
    client: "198.51.100.7:40000",
    vip: "203.0.113.1:80",
    snat: "10.0.0.1",
    backends: ["10.0.0.11:8080", "10.0.0.12:8081"],
    router: "10.0.0.254",
};
/// IPv6.
pub const V6: Addresses = Addresses {
    client: "[2001:db8:c::7]:40000",
    vip: "[2001:db8:f::1]:80",
    snat: "fd00::1",
    backends: ["[fd00::11]:8080", "[fd00::12]:8081"],
    router: "fd00::fe",
};
/// Both versions.
pub const BOTH: [&Addresses; 2] = [&V4, &V6];

/// A namespace whose `eth0` has the backends as neighbours that never go.
pub struct Lab {
    /// Where it is.
    pub namespace: Namespace,
    /// The program.
    pub xdp: Xdp,
    config: model::Xdp,
    access: Vec<AccessRule>,
    _peer: Namespace,
    pins: BpfFileSystem,
}

impl Default for Lab {
    fn default() -> Lab {
        Lab::new()
    }
}

impl Lab {
    /// With small tables, which the kernel makes quickly.
    pub fn new() -> Lab {
        let flows = FlowLimits { established: 4_096, half_open: 4_096, ..FlowLimits::default() };
        Lab::with(model::Xdp { flows, ..model::Xdp::default() })
    }

    /// With this `[xdp]`, of which the lab sets interfaces, mode and pin.
    pub fn with(config: model::Xdp) -> Lab {
        Lab::with_access(config, &[])
    }

    /// With access rules too.
    pub fn with_access(config: model::Xdp, access: &[AccessRule]) -> Lab {
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
        let pins = BpfFileSystem::mount();
        let pin = Some(pins.root());
        let config = model::Xdp { interfaces: vec!["lo".into()], mode: XdpMode::Generic, pin, ..config };
        let xdp = namespace.enter(|| xdp::attach(&config, access).unwrap());
        Lab { namespace, xdp, config, access: access.to_vec(), _peer: peer, pins }
    }

    /// A reload with another `[xdp]`, and the access rules as they are.
    pub fn reload(&mut self, change: impl FnOnce(&mut model::Xdp)) {
        change(&mut self.config);
        self.namespace.enter(|| self.xdp.sync(&self.config, &self.access).unwrap());
    }

    /// Makes the program serve these and no others.
    pub fn serve(&mut self, services: &[Service]) {
        self.namespace.enter(|| self.xdp.sync_services(services).unwrap());
    }

    /// The verdict, and the frame that came out.
    pub fn run(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        let probe = self.namespace.enter(|| self.xdp.probe(frame, 1).unwrap().expect("XDP is on"));
        (probe.action, probe.frame)
    }

    /// What leaves for this frame.
    #[track_caller]
    pub fn sent(&self, frame: &[u8]) -> Seen {
        let before = self.xdp.counters().unwrap();
        let (action, out) = self.run(frame);
        let after = self.xdp.counters().unwrap();
        let why: Vec<_> = after.iter().filter(|(reason, packets)| *packets > before.packets(*reason)).collect();
        assert_eq!(action, REDIRECT, "{why:?}");
        packet::see(&out).unwrap()
    }

    /// Why the frame does not leave.
    #[track_caller]
    pub fn refused(&self, frame: &[u8]) -> Reason {
        let before = self.xdp.counters().unwrap();
        let (action, _) = self.run(frame);
        let after = self.xdp.counters().unwrap();
        let mut why = after.iter().filter(|(reason, packets)| *packets > before.packets(*reason));
        let reason = why.next().expect("the packet was counted").0;
        assert_eq!(why.next(), None);
        assert_eq!(action, if reason.drops() { DROP } else { PASS }, "{reason:?}");
        reason
    }

    /// A TCP handshake; gives the client's last packet of it as the backend sees it.
    #[track_caller]
    pub fn connect(&self, a: &Addresses, client: &str) -> Seen {
        let syn = self.sent(&self.first(VipProtocol::Tcp, client, a.vip));
        self.sent(&self.answer(VipProtocol::Tcp, &syn.to.to_string(), &syn.from.to_string()));
        self.sent(&self.next(VipProtocol::Tcp, client, a.vip))
    }

    /// Makes the flows as they are when nobody says anything for this long.
    pub fn wait(&self, time: Duration) {
        clock::advance(&self.pins.root().join(format!("v{VERSION}")), time);
    }

    /// Takes the answers' entries of half-open flows away.
    pub fn evict_answers(&self) {
        clock::evict_answers(&self.pins.root().join(format!("v{VERSION}")));
    }

    /// How many flows the first service's backends have had.
    pub fn flows_begun(&self) -> u64 {
        self.xdp.service_stats().unwrap()[0].backends.iter().map(|backend| backend.counts.flows).sum()
    }

    /// The states of all flows.
    pub fn states(&self) -> Vec<FlowState> {
        self.xdp.flows(None).unwrap().iter().map(|flow| flow.state).collect()
    }

    /// A client's first packet.
    pub fn first(&self, protocol: VipProtocol, from: &str, to: &str) -> Vec<u8> {
        build(protocol, SYN, from, to).frame()
    }

    /// A backend's first packet.
    pub fn answer(&self, protocol: VipProtocol, from: &str, to: &str) -> Vec<u8> {
        build(protocol, SYN | ACK, from, to).frame()
    }

    /// A packet in the middle of a flow.
    pub fn next(&self, protocol: VipProtocol, from: &str, to: &str) -> Vec<u8> {
        build(protocol, ACK, from, to).frame()
    }
}

/// A packet of a flow.
pub fn build(protocol: VipProtocol, flags: u8, from: &str, to: &str) -> Build {
    match protocol {
        VipProtocol::Tcp => Build { payload: b"odd".to_vec(), ..Build::tcp(flags, from, to) },
        VipProtocol::Udp => Build::udp(from, to),
    }
}

/// A service at the virtual address.
pub fn service(a: &Addresses, protocol: VipProtocol, mode: VipMode, backends: &[&str]) -> Service {
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

/// The service with other backends.
pub fn with_backends(service: &Service, change: impl Fn(&mut Backend)) -> Service {
    let mut service = service.clone();
    if let Target::Backends { backends, .. } = &mut service.target {
        backends.iter_mut().for_each(change);
    }
    service
}

/// An address as it stands before a colon and a port.
pub fn bracketed(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// An address with a port.
pub fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// An address.
pub fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}
